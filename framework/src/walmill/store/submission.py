"""What can be submitted to the committer, and how it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from attrs import define, field, frozen

from walmill.cache.state import Wish, trigger_space
from walmill.errors import Conflict
from walmill.ingest.assemble import TableRows
from walmill.ingest.errors import LineError
from walmill.model.cursor import Cursor
from walmill.store.commit import Source
from walmill.store.draft import Draft

CLOCK_JUMP = 600_000_000_000
"""A due time that is earlier than the last one by more than this, ns, is one after the clock was set back: not a late one."""


class Stale(Conflict):
    """A run's commit came too late: its trigger was changed, or what it consumed is done already."""


class Submission(Protocol):
    """Something that becomes at most one commit.

    Attributes:
        size: About how many bytes it will be.
        no_sync: Whether it is answered when it is written, before it is synced.
        lazy: Seconds that it waits, so that it gathers what others add meanwhile; 0 asks for a frame at once.
    """

    @property
    def size(self) -> int: ...
    @property
    def no_sync(self) -> bool: ...
    @property
    def lazy(self) -> float: ...

    def prepare(self, draft: Draft) -> Any:
        """Decides on the commit, in the committer's thread. What it returns is part of the answer; raising refuses it."""


@frozen
class Outcome:
    """The answer to a submission.

    Attributes:
        sequence: Of its commit; None if it came to nothing that needs one.
        value: What `prepare` returned.
        error: Why it was refused.
    """

    sequence: int | None = None
    value: Any = None
    error: Exception | None = None


class Ticket:
    """Waits for an outcome: in a thread, or on an event loop.

    Args:
        loop: The loop on which it is awaited; None for a thread.
    """

    __slots__ = ("_future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop
        self._future: Any = Future() if loop is None else loop.create_future()

    def result(self, timeout: float | None = None) -> Outcome:
        """The outcome, for a thread.

        Raises:
            WalmillError: Why it was refused.
            TimeoutError: If it takes longer than `timeout` seconds.
        """
        return _raised(self._future.result(timeout))

    def __await__(self) -> Any:
        outcome = yield from self._future.__await__()
        return _raised(outcome)

    def settle(self, outcome: Outcome) -> None:
        """Answers. For a ticket with a loop only on that loop."""
        if not self._future.done():
            self._future.set_result(outcome)


def _raised(outcome: Outcome) -> Outcome:
    if outcome.error is not None:
        raise outcome.error
    return outcome


def settle_all(answers: Sequence[tuple[Ticket, Outcome]]) -> None:
    """Answers many, waking each loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Outcome]]] = {}
    for ticket, outcome in answers:
        if ticket.loop is None:
            ticket.settle(outcome)
        else:
            loops.setdefault(ticket.loop, []).append((ticket, outcome))
    for loop, mine in loops.items():
        try:
            loop.call_soon_threadsafe(_settle_here, mine)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _settle_here(answers: Sequence[tuple[Ticket, Outcome]]) -> None:
    for ticket, outcome in answers:
        ticket.settle(outcome)


@frozen
class Written:
    """What became of a body of line protocol.

    Attributes:
        rows: Rows accepted.
        errors: Lines refused.
    """

    rows: int
    errors: Sequence[LineError] = ()


@define
class RowsWrite:
    """Rows in columns: from Python, from `ctx.write_now`, from the engine itself.

    Attributes:
        rows: Database and rows, in order.
        source: Who writes.
        origin: Id of the trigger whose run writes; 0 for others.
        chain: Ids of the triggers through which it came.
        run: Id of the run.
        guard: Raises if it must not be written any more.
    """

    rows: Sequence[tuple[str, TableRows]]
    source: Source = "client"
    origin: int = 0
    chain: tuple[int, ...] = ()
    run: str | None = None
    no_sync: bool = False
    lazy: float = 0.0
    guard: Callable[[Draft], None] | None = None

    @property
    def size(self) -> int:
        """About how many bytes it will be."""
        return sum(rows.batch.nbytes for _, rows in self.rows)

    def prepare(self, draft: Draft) -> Written:
        """Adds the rows."""
        if self.guard is not None:
            self.guard(draft)
        draft.source, draft.origin, draft.chain, draft.run = self.source, self.origin, self.chain, self.run
        for database, rows in self.rows:
            draft.add_rows(database, rows)
        return Written(sum(rows.batch.num_rows for _, rows in self.rows))


@define(kw_only=True)
class RunEffect:
    """The whole effect of a run: rows, state, cursor. All of it, or nothing.

    Attributes:
        trigger: Id of the trigger.
        generation: The trigger's generation when the run began; another one by now refuses it.
        consumed: The range of sequences that it finished (`on_write`), or None.
        through: Up to where all is done with it.
        fired: The due time that it finished (`on_schedule`), ns, or None.
        rows: Database and rows, in order.
        wishes: Changes of the state, by space.
        source: The kind of run.
        chain: The chain of what it consumed.
        run: Id of the run.
        definitions: What becomes of the trigger with it (a policy that disables it).
    """

    trigger: int
    generation: int
    consumed: tuple[int, int] | None = None
    through: int = 0
    fired: int | None = None
    rows: Sequence[tuple[str, TableRows]] = ()
    wishes: Mapping[str, Sequence[Wish]] = field(factory=dict)
    source: Source = "write"
    chain: tuple[int, ...] = ()
    run: str | None = None
    no_sync: bool = False
    lazy: float = 0.0
    derived_origin: bool = True
    on_draft: Callable[[Draft], None] | None = None

    @property
    def size(self) -> int:
        """About how many bytes it will be."""
        return sum(rows.batch.nbytes for _, rows in self.rows)

    def prepare(self, draft: Draft) -> Written:
        """Refuses what came too late; else adds everything."""
        check_generation(draft, self.trigger, self.generation)
        if self.derived_origin:
            draft.source, draft.origin, draft.chain = self.source, self.trigger, (*self.chain, self.trigger)
        else:
            draft.source = "engine"
        draft.run = self.run
        cursor = draft.view.cursors.get(self.trigger) or Cursor()
        if self.consumed is not None:
            if cursor.covers(*self.consumed):
                raise Stale(
                    f"the commits {self.consumed[0]} to {self.consumed[1]} are done already; the run is dropped"
                )
            draft.move(self.trigger, cursor.finish(*self.consumed, self.through))
        elif self.fired is not None:
            if cursor.fired is not None and 0 <= cursor.fired - self.fired <= CLOCK_JUMP:
                raise Stale("the due time is done already; the run is dropped")
            draft.move(self.trigger, Cursor(cursor.through, cursor.done, self.fired))
        for database, rows in self.rows:
            draft.add_rows(database, rows)
        for space, wishes in self.wishes.items():
            draft.change_state(space, wishes)
        if self.on_draft is not None:
            self.on_draft(draft)
        return Written(sum(rows.batch.num_rows for _, rows in self.rows))


def check_generation(draft: Draft, trigger: int, generation: int) -> None:
    """Refuses a run whose trigger was changed or deleted since it began.

    Raises:
        Stale: Saying so.
    """
    current = draft.catalog.triggers.get(trigger)
    if current is None:
        raise Stale("the trigger was deleted while the run went on; the run is dropped")
    if current.generation != generation:
        raise Stale(f"the trigger {current.name!r} was changed while the run went on; the run is dropped")


@define
class Define:
    """A change of definitions, decided against the catalog as it is when its turn comes.

    Attributes:
        decide: Adds definitions (and cursors) to the draft; what it returns is the answer.
    """

    decide: Callable[[Draft], Any]
    size: int = 256
    no_sync: bool = False
    lazy: float = 0.0

    def prepare(self, draft: Draft) -> Any:
        """Decides."""
        draft.source = "engine"
        return self.decide(draft)


@define
class Flush:
    """Asks for a frame, so that cursors that moved are durable; adds nothing."""

    size: int = 0
    no_sync: bool = False
    lazy: float = 0.0

    def prepare(self, draft: Draft) -> None:
        """Nothing to decide."""


@define
class Exchange:
    """Makes a view of what lies where, of the same sequence: rows went from memory to files, or files were replaced.

    It is no commit and needs none: a manifest says it already.

    Attributes:
        change: Gives the new view; called in the committer's thread, between two frames.
    """

    change: Callable[[Any], Any]
    size: int = 0
    no_sync: bool = False
    lazy: float = 0.0

    def prepare(self, draft: Draft) -> None:
        """Nothing to decide."""


__all__ = [
    "Define",
    "Exchange",
    "Flush",
    "Outcome",
    "RowsWrite",
    "RunEffect",
    "Stale",
    "Submission",
    "Ticket",
    "Written",
    "settle_all",
    "trigger_space",
]
