"""A consumer: how one on_write trigger goes through the log. Pure: events in, instructions out; time and chance are given.

It is offered the commits that hold rows for it, hands out batches of whole commits of one origin and chain, and learns what
became of each. It never holds more than a bounded backlog: what does not fit is read back from the log later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, evolve, field, frozen

from walmill.model.cursor import Cursor
from walmill_hookspecs.types import BatchKind

BACKLOG_COMMITS = 1024
"""So many commits are kept at hand for a trigger; the rest is read back from the log when its turn comes."""
BATCH_COMMITS = 4096
"""A batch holds at most so many commits."""


@frozen
class Item:
    """A commit that concerns the trigger.

    Attributes:
        sequence: Its sequence.
        origin: Id of the trigger whose run made it; 0 for clients and the engine.
        chain: Ids of the triggers through which it came.
        rows: Rows for this trigger.
        kind: Why it gets them.
        payload: What the caller needs to build the batch.
    """

    sequence: int
    origin: int = 0
    chain: tuple[int, ...] = ()
    rows: int = 1
    kind: BatchKind = "live"
    payload: Any = field(default=None, eq=False, repr=False)


@frozen
class Batch:
    """Commits for one run.

    Attributes:
        number: Unique in this consumer.
        items: The commits, at least one, all of one origin, chain and kind.
        attempt: 1 for the first.
        first: Where the range begins; moves on with a checkpoint.
    """

    number: int
    items: tuple[Item, ...]
    attempt: int = 1
    first: int = 0

    @property
    def last(self) -> int:
        """Sequence of the last commit."""
        return self.items[-1].sequence

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(item.rows for item in self.items)


@frozen
class Start:
    """Run the hook on this batch."""

    batch: Batch


@frozen
class Ready:
    """This batch will be started as soon as the cursor is saved: what it takes can be made ready."""

    batch: Batch


@frozen
class Fetch:
    """Read commits from the log, from this sequence on, and give them to `fetched`."""

    sequence: int


@frozen
class Move:
    """The cursor moved without a commit; have it written some time soon."""

    cursor: Cursor


@frozen
class Save:
    """The cursor has to be durable before the next batch starts, so that its key is known: have it written now."""

    cursor: Cursor


@frozen
class DeadLetter:
    """The batch is given up: copy its rows to the dead letters and move the cursor, in one commit; then `settled`."""

    batch: Batch
    error: str
    consumed: tuple[int, int]
    through: int


@frozen
class Disable:
    """Disable the trigger; its cursor stays before the batch."""

    reason: str
    batch: Batch


@frozen
class Pause:
    """Pause the trigger: too many different batches failed one after the other; its cursor stays before the last of them."""

    reason: str
    batch: Batch


Instruction = Start | Ready | Fetch | Move | Save | DeadLetter | Disable | Pause


def backoff(attempt: int, chance: float) -> float:
    """Seconds before the attempt after this one: 1.5, 4.5, 13.5, 40.5, then a minute; give or take a tenth.

    Args:
        attempt: The attempt that failed, from 1.
        chance: From 0 to 1.
    """
    return float(min(60.0, 1.5 * 3.0 ** (attempt - 1)) * (0.9 + 0.2 * chance))


@define(eq=False)
class Consumer:
    """The state of one trigger's way through the log.

    Attributes:
        cursor: What is done, in memory.
        saved: What the log knows to be done.
        policy: `retry`, `skip` or `disable`.
        attempts: How many attempts `retry` makes.
        max_concurrency: Batches under way at a time.
        max_batch_rows: About how many rows a batch holds.
        max_batch_wait: Seconds that a batch with fewer rows waits for more.
        breaker: After so many failures of different batches in a row the trigger is paused; 0 for never.
        chance: Gives numbers from 0 to 1.
        jump: The last sequence of a replay, and after which one it goes on then; None if there is none.
        behind: From which sequence the log has to be read; None if everything is at hand.
        behind_rows: Rows for the trigger from there on; None if they were not counted.
    """

    cursor: Cursor
    policy: str = "retry"
    attempts: int = 5
    max_concurrency: int = 1
    max_batch_rows: int = 100_000
    max_batch_wait: float = 0.0
    breaker: int = 0
    chance: Callable[[], float] = lambda: 0.5
    backlog: deque[Item] = field(factory=deque)
    backlog_rows: int = 0
    jump: tuple[int, int] | None = None
    behind: int | None = None
    behind_rows: int | None = None
    fetching: bool = False
    running: dict[int, Batch] = field(factory=dict)
    waiting: list[tuple[float, Batch]] = field(factory=list)
    giving_up: dict[int, Batch] = field(factory=dict)
    taken: Batch | None = None
    halves: deque[Batch] = field(factory=deque)
    failures: int = 0
    since: float | None = None
    handed: int = 0
    stopped: bool = False
    unsaved: bool = False
    saving: bool = False
    _numbers: int = 0
    _left: list[int] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.handed = max(self.handed, self.cursor.through, *(last for _, last in self.cursor.done), 0)

    def offer(self, item: Item) -> None:
        """A commit that holds rows for the trigger is durable. Commits come in the order of the log."""
        if self.behind is not None:
            if self.behind_rows is not None:
                self.behind_rows += item.rows
            return
        if self.cursor.covers(item.sequence, item.sequence):
            return
        if self.jump is not None and self.jump[0] < item.sequence <= self.jump[1]:
            return
        if len(self.backlog) >= BACKLOG_COMMITS or self.backlog_rows > 4 * self.max_batch_rows:
            self.behind, self.behind_rows = item.sequence, item.rows
            return
        self.backlog.append(item)
        self.backlog_rows += item.rows

    @property
    def lag_rows(self) -> int | None:
        """Rows that it has not finished; None if nobody has counted what is to be read back from the log."""
        if self.behind is not None and self.behind_rows is None:
            return None
        batches = self.open_batches
        behind = self.behind_rows if self.behind is not None else 0
        return self.backlog_rows + sum(batch.rows for batch in batches) + (behind or 0)

    @property
    def open_batches(self) -> list[Batch]:
        """The batches that were taken and are not finished."""
        found = [*self.running.values(), *self.giving_up.values(), *self.halves, *(one for _, one in self.waiting)]
        return found if self.taken is None else [*found, self.taken]

    @property
    def busy(self) -> bool:
        """Whether anything is under way or waits for its turn."""
        waits = self.backlog or self.waiting or self.halves or self.taken
        return bool(waits or self.running or self.giving_up or self.cursor.done)

    def pass_by(self, sequence: int) -> Cursor | None:
        """Notes that nothing up to a sequence concerns the trigger, when it has nothing to do.

        Args:
            sequence: All commits up to it were offered.

        Returns:
            The cursor, if it moved.
        """
        if self.busy or self.stopped or self.behind is not None or sequence <= self.cursor.through:
            return None
        self.cursor = self.cursor.move(sequence, ())
        return self.cursor

    def ahead(self, item: Item, saved: Cursor | None = None) -> Batch | None:
        """The batch that this commit will be once it is durable, if it could start at once then. Changes nothing.

        Args:
            item: The commit.
            saved: The cursor of this trigger that becomes durable with it.
        """
        if self.busy or self.stopped or self.behind is not None or item.sequence <= self.cursor.through:
            return None
        if self.jump is not None:
            return None
        if self.max_batch_wait and item.rows < self.max_batch_rows:
            return None
        if self.unsaved and saved != self.cursor:
            return None
        return Batch(self._numbers + 1, (item,), 1, item.sequence)

    def adopt(self, batch: Batch, saved: Cursor | None = None) -> bool:
        """The commit of a batch that `ahead` gave is durable: the batch is started. False if that is not right any more."""
        if self.ahead(batch.items[0], saved) != batch:
            return False
        self.unsaved = False
        self._numbers = batch.number
        self.handed = batch.last
        self.running[batch.number] = batch
        return True

    def fetched(self, items: Sequence[Item], next_sequence: int | None, now: float) -> list[Instruction]:
        """What `Fetch` found.

        Args:
            items: Commits that concern the trigger, in order.
            next_sequence: Where to go on reading; None if the newest commit was reached.
            now: Seconds.
        """
        self.fetching = False
        self.behind = None
        for item in items:
            if not self.cursor.covers(item.sequence, item.sequence):
                self.backlog.append(item)
                self.backlog_rows += item.rows
                if self.behind_rows is not None:
                    self.behind_rows -= item.rows
        self.behind = next_sequence
        if next_sequence is None:
            self.behind_rows = None
        return self.step(now)

    def step(self, now: float) -> list[Instruction]:
        """What can be started now."""
        found: list[Instruction] = []
        while not self.stopped and len(self.running) + len(self.giving_up) < self.max_concurrency:
            due = next((pair for pair in self.waiting if pair[0] <= now), None)
            if due is not None:
                self.waiting.remove(due)
                found.append(self._start(due[1]))
                continue
            if len(self.running) + len(self.giving_up) + len(self.waiting) >= self.max_concurrency:
                break  # a batch that waits for its next attempt keeps its place: order
            if len(self.cursor.done) >= self.max_concurrency and (self.running or self.giving_up or self.waiting):
                break  # the oldest one is slow: the cursor stays small
            if self.halves:
                found.append(self._start(self.halves.popleft()))
                continue
            if self.taken is None and self._jumps():
                found.append(Move(self.cursor))
                continue
            if not self.backlog and self.taken is None:
                if self.behind is not None and not self.fetching:
                    self.fetching = True
                    found.append(Fetch(self.behind))
                break
            if self.taken is None and self._gathers(now):
                break
            if self.unsaved:
                if not self.saving:
                    self.saving = True
                    found.append(Save(self.cursor))
                if self.taken is None:
                    self.taken = self._take()
                    found.append(Ready(self.taken))
                break
            batch, self.taken = self.taken, None
            found.append(self._start(self._take() if batch is None else batch))
        return found

    def _jumps(self) -> bool:
        """Goes on where the trigger was before a replay, once the last batch of that is done."""
        if self.jump is None or not self.backlog or self.backlog[0].sequence <= self.jump[0]:
            return False
        if self.running or self.waiting or self.giving_up:
            return False
        _, resume = self.jump
        self.jump = None
        while self.backlog and self.backlog[0].sequence <= resume:
            self.backlog_rows -= self.backlog.popleft().rows
        if self.behind is not None and self.behind <= resume:
            self.behind, self.behind_rows = resume + 1, None
        self.handed = max(self.handed, resume)
        self.cursor = self.cursor.move(resume, ())
        self.unsaved = True
        return True

    def wake_at(self) -> float | None:
        """When `step` should be called again, seconds; None if nothing waits for time."""
        times = [when for when, _ in self.waiting]
        if self.since is not None and not self.stopped:
            times.append(self.since + self.max_batch_wait)
        return min(times, default=None)

    def _gathers(self, now: float) -> bool:
        """Whether the next batch still waits for more rows. What is read back from the log has waited long enough."""
        if not self.max_batch_wait or self.behind is not None or self.backlog_rows >= self.max_batch_rows:
            self.since = None
            return False
        if self.since is None:
            self.since = now
        if now - self.since < self.max_batch_wait:
            return True
        self.since = None
        return False

    def _take(self) -> Batch:
        first = self.backlog.popleft()
        items = [first]
        rows = first.rows
        while self.backlog and len(items) < BATCH_COMMITS:
            item = self.backlog[0]
            of_one = (item.origin, item.chain, item.kind) == (first.origin, first.chain, first.kind)
            if not of_one or rows + item.rows > self.max_batch_rows:
                break
            if self.jump is not None and first.sequence <= self.jump[0] < item.sequence:
                break
            if self.cursor.covers(first.sequence, item.sequence):
                break  # between the two something is done already: a batch that spans it would be refused as done
            items.append(self.backlog.popleft())
            rows += item.rows
        self.backlog_rows -= rows
        self._numbers += 1
        self.handed = items[-1].sequence
        return Batch(self._numbers, tuple(items), 1, first.sequence)

    def _start(self, batch: Batch) -> Start:
        self.running[batch.number] = batch
        return Start(batch)

    def through_if_done(self, number: int) -> int:
        """Up to where all is done once this batch is, as far as this consumer knows."""
        open_firsts = [batch.first for key, batch in self.running.items() if key != number]
        open_firsts += [batch.first for key, batch in self.giving_up.items() if key != number]
        open_firsts += [batch.first for _, batch in self.waiting if batch.number != number]
        open_firsts += [batch.first for batch in self.halves]
        open_firsts += self._left
        if self.taken is not None:
            open_firsts.append(self.taken.first)
        return min(open_firsts) - 1 if open_firsts else self.handed

    def committed(self, number: int, cursor: Cursor, now: float) -> list[Instruction]:
        """The run succeeded and its effect is in the log, with this cursor."""
        if self.running.pop(number, None) is not None:
            self.failures = 0
        self.giving_up.pop(number, None)
        self.cursor = self.cursor.move(cursor.through, cursor.done)
        return self._tidy(now)

    def without_effect(self, number: int, now: float) -> list[Instruction]:
        """The run is done with (success, skipped) and there was nothing to commit."""
        self.failures = 0
        return self._without_effect(number, now)

    def _without_effect(self, number: int, now: float) -> list[Instruction]:
        batch = self.running.pop(number)
        through = self.through_if_done(number)
        self.cursor = self.cursor.finish(batch.first, batch.last, through)
        self.unsaved = True
        return [Move(self.cursor), *self.step(now)]

    def saved(self, cursor: Cursor, now: float) -> list[Instruction]:
        """A cursor that moved without a commit is durable."""
        self.saving = False
        if cursor == self.cursor:
            self.unsaved = False
        return self.step(now)

    def checkpointed(self, number: int, first: int) -> None:
        """The run committed a part of its batch; the rest begins at `first`."""
        batch = self.running.get(number)
        if batch is not None and first <= batch.last:
            left = tuple(item for item in batch.items if item.sequence >= first)
            self.running[number] = evolve(batch, items=left, first=left[0].sequence)

    def failed(self, number: int, error: str, now: float) -> list[Instruction]:
        """The run failed: the policy decides."""
        batch = self.running.pop(number)
        if self.policy == "disable":
            self.stopped = True
            return [Disable(error, batch)]
        if self.policy != "skip" and batch.attempt < self.attempts:
            self._wait(batch, now + backoff(batch.attempt, self.chance()))
            return self.step(now)
        if len(batch.items) > 1:
            self._halve(batch)
            return self.step(now)
        self.failures += 1
        if self.breaker and self.failures >= self.breaker:
            self.stopped = True
            return [Pause(f"{self.failures} batches in a row failed, the last one with: {error}", batch)]
        if self.policy == "skip":
            self.running[number] = batch
            return self._without_effect(number, now)
        self.giving_up[number] = batch
        return [DeadLetter(batch, error, (batch.first, batch.last), self.through_if_done(number))]

    def again(self, number: int, after: float, now: float, *, counts: bool) -> list[Instruction]:
        """The run is repeated after so many seconds: `RetryLater`, or a commit that could not be made for now."""
        batch = self.running.pop(number, None) or self.giving_up.pop(number)
        if not counts:
            batch = evolve(batch, attempt=batch.attempt - 1)
        self._wait(batch, now + after)
        return self.step(now)

    def is_open(self, number: int) -> bool:
        """Whether a batch is running, or being given up."""
        return number in self.running or number in self.giving_up

    def dropped(self, number: int, now: float) -> list[Instruction]:
        """The run does not count any more: the trigger was changed under it. What it was given is still to be done."""
        for batches in (self.running, self.giving_up):
            batch = batches.pop(number, None)
            if batch is not None:
                self._left.append(batch.first)
        return self.step(now)

    def postponed(self, number: int) -> None:
        """The run could not even begin: its plugin is not there. Nothing more starts, and what waits is still behind."""
        rows = self.lag_rows
        batch = self.running.pop(number)
        self.stopped = True
        self.backlog.clear()
        # runs that go on must not pass them by
        self._left += [batch.first, *(half.first for half in self.halves)]
        if self.taken is not None:
            self._left.append(self.taken.first)
        self.halves.clear()
        self.taken = None
        self.backlog_rows = 0
        self.behind = batch.first if self.behind is None else min(batch.first, self.behind)
        self.behind_rows = None if rows is None else rows - sum(one.rows for one in self.open_batches)

    def stop(self) -> None:
        """Starts nothing more."""
        self.stopped = True

    def _halve(self, batch: Batch) -> None:
        """Cuts a batch that failed for good in two, each to be tried once: so that what fails stands alone in the end."""
        middle = len(batch.items) // 2
        parts = (batch.items[:middle], batch.items[middle:])
        for first, items in zip((parts[1][0].sequence, batch.first), reversed(parts), strict=True):
            self._numbers += 1
            self.halves.appendleft(Batch(self._numbers, items, batch.attempt, first))

    def _wait(self, batch: Batch, when: float) -> None:
        self.waiting.append((when, evolve(batch, attempt=batch.attempt + 1)))
        self.waiting.sort(key=lambda pair: pair[0])

    def _tidy(self, now: float) -> list[Instruction]:
        """After a commit: others may have been waiting for this one, so that the prefix reaches further now."""
        found: list[Instruction] = []
        through = self.through_if_done(0)
        if through > self.cursor.through and self.cursor.done:
            moved = self.cursor.move(through, ())
            if moved != self.cursor:
                self.cursor = moved
                found.append(Move(moved))
        return [*found, *self.step(now)]
