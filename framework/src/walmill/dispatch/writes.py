"""on_write: one consumer and its station, and what carries the consumer's instructions out."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from walmill.dispatch.consumer import (
    Batch,
    Consumer,
    DeadLetter,
    Disable,
    Fetch,
    Instruction,
    Item,
    Move,
    Pause,
    Ready,
    Save,
    Start,
    backoff,
)
from walmill.dispatch.history import DEAD_LETTERS, table_rows
from walmill.dispatch.station import Ended, Event, Station, StationHost
from walmill.dispatch.subscriptions import CHAIN_LIMIT
from walmill.errors import Unavailable, WalmillError, described
from walmill.ingest.assemble import TableRows
from walmill.ingest.render import render_row
from walmill.isolation.base import Gate
from walmill.isolation.batch import BatchSource
from walmill.model.catalog import INTERNAL, Catalog
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.scarcity import RETRY_SECONDS, scarce
from walmill.store.commit import Commit
from walmill.store.draft import Draft
from walmill.store.submission import RowsWrite, RunEffect, Stale, Submission, Ticket, check_generation
from walmill.store.view import View
from walmill_hookspecs import WriteBatch
from walmill_hookspecs.types import BatchKind

PIECE_CHARACTERS = 4 * 2**20
"""Dead letters with more text than this go in several commits: as UTF-8 it may be four times as many bytes."""
LETTER_CHARACTERS = 512
"""What a dead letter counts beside its line and its error."""
ERROR_CHARACTERS = 4096
"""The error is in each letter; the run's row has more of it."""
UNBURIED_SECONDS = 60.0
"""A batch whose letters the log does not take is run again after so long."""

log = get_logger("walmill.dispatch")


class WriteHost(StationHost, Protocol):
    """What the way through the log needs of the engine."""

    def fetch(self, trigger: Trigger, sequence: int) -> tuple[list[Item], int | None]:
        """Commits for a trigger from the log: some of them, and where to go on (None: the newest was reached)."""

    def tables_of(self, trigger: Trigger, tables: Sequence[int]) -> frozenset[int]:
        """Which of these tables concern a trigger."""

    def save(self, failed: Callable[[], None]) -> None:
        """Has the cursors that moved written now; calls `failed` after a while if that could not be done."""

    def disable(self, trigger: Trigger, reason: str, traceback: str) -> None:
        """Has the trigger disabled, with a commit."""

    def pause(self, trigger: Trigger, reason: str) -> None:
        """Has the trigger paused, with a commit."""

    def batch_memo(self) -> dict[Any, BatchSource]:
        """Batches built for this round, so that many triggers on one commit share one."""


class WriteLine:
    """The way of one on_write trigger through the log. Everything happens on the mill's loop.

    Args:
        station: The trigger.
        cursor: Where it is.
        host: The engine.
    """

    def __init__(self, station: Station, cursor: Cursor, host: WriteHost) -> None:
        self.station = station
        self._host = host
        trigger = station.trigger
        self.consumer = Consumer(
            cursor=cursor,
            policy=trigger.policy,
            attempts=trigger.attempts,
            max_concurrency=trigger.max_concurrency,
            max_batch_rows=trigger.max_batch_rows,
            max_batch_wait=trigger.max_batch_wait / 1e9,
            breaker=trigger.breaker,
            chance=random.random,
        )
        replay = trigger.replay
        if replay is not None and cursor.through < replay[1] < replay[2]:
            self.consumer.jump = replay[1:]
        self._timer: asyncio.TimerHandle | None = None
        self._refetch: asyncio.TimerHandle | None = None
        self._last_at = 0
        self._ahead: tuple[Batch, Gate] | None = None
        self._readied: tuple[Batch, Gate] | None = None
        self.settled_rows = 0

    @property
    def prepared(self) -> bool:
        """Whether a run is held by a gate."""
        return self._ahead is not None

    def prepare(self, item: Item, view: View, saved: Cursor | None) -> Gate | None:
        """A commit for this trigger is being synced: its run is made ready, if it could begin at once, and held by a gate."""
        self.unprepare()
        batch = self.consumer.ahead(item, saved) if self.station.ready else None
        if batch is not None:
            gate = Gate(asyncio.get_running_loop())
            self._ahead = (batch, gate)
            self._spawn(self._run(batch, gate, view), batch)
            return gate
        return None

    def unprepare(self) -> None:
        """What was made ready does not begin."""
        if self._ahead is not None:
            self._ahead[1].settle(None)
            self._ahead = None

    def offer(self, item: Item, at: int, saved: Cursor | None) -> bool:
        """A commit for this trigger is durable since `at` (`time.perf_counter_ns()`).

        Returns:
            Whether `step` has to look whether something can be started.
        """
        self._last_at = at
        if self._ahead is not None:
            batch, gate = self._ahead
            if (
                batch.items[0].sequence == item.sequence
                and not self.station.retired
                and self.consumer.adopt(batch, saved)
            ):
                self._ahead = None
                gate.settle(at)
                return False
            self.unprepare()
        self.consumer.offer(item)
        return True

    def step(self) -> None:
        """Starts what can be started."""
        self._act(self.consumer.step(time.monotonic()))

    def saved(self, cursor: Cursor) -> None:
        """A cursor of this trigger is durable that no commit moved."""
        self._act(self.consumer.saved(cursor, time.monotonic()))

    def _act(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Start(batch) if self._readied is not None and self._readied[0] is batch:
                    gate, self._readied = self._readied[1], None
                    gate.settle(time.perf_counter_ns())
                case Start(batch):
                    self._spawn(self._run(batch), batch)
                case Ready(batch):
                    if self.station.ready:
                        gate = Gate(asyncio.get_running_loop())
                        self._readied = (batch, gate)
                        self._spawn(self._run(batch, gate), batch)
                case Move(cursor):
                    self._host.move(self.station.trigger, cursor)
                case Save(cursor):
                    self._host.move(self.station.trigger, cursor)
                    self._host.save(self._not_saved)
                case Fetch(sequence):
                    asyncio.get_running_loop().call_soon(self._fetch, sequence)
                case DeadLetter():
                    self._spawn(self._bury(instruction), instruction.batch)
                case Pause(reason, _):
                    self._host.pause(self.station.trigger, reason)
                case Disable(reason, _):
                    self._host.disable(self.station.trigger, reason, self._traceback)
        if self.consumer.waiting or self.consumer.since is not None or self._timer is not None:
            self._arm()

    _traceback = ""

    def _spawn(self, coroutine: Any, batch: Batch) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.station.tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, batch))

    def _ended(self, task: asyncio.Task[Any], batch: Batch) -> None:
        self.station.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        log.error(
            "the dispatcher met an error of its own; the batch is tried again",
            database=self.station.database,
            trigger=self.station.trigger.name,
            first_sequence=batch.first,
            exc_info=error,
        )
        # nobody would begin what was made ready
        if self._ahead is not None and self._ahead[0] is batch:
            self._ahead = None
        if self._readied is not None and self._readied[0] is batch:
            self._readied = None
        if not self.station.retired and self.consumer.is_open(batch.number):
            self._act(self.consumer.again(batch.number, RETRY_SECONDS, time.monotonic(), counts=False))

    def _arm(self) -> None:
        wake = self.consumer.wake_at()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake is not None and not self.consumer.stopped:
            delay = max(0.0, wake - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.step)

    def _not_saved(self) -> None:
        """The cursor could not be written for now; asks again."""
        self.consumer.saving = False
        if not self.station.retired:
            self.step()

    def _fetch(self, sequence: int) -> None:
        if self.station.retired:
            return
        try:
            items, following = self._host.fetch(self.station.trigger, sequence)
        except Exception as error:
            short = scarce(error)
            log.error(
                "the log could not be read for a trigger that is behind; it is tried again",
                database=self.station.database,
                trigger=self.station.trigger.name,
                sequence=sequence,
                error=described(short or error),
                exc_info=None if short or isinstance(error, WalmillError | OSError) else error,
            )
            self._refetch = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._fetch, sequence)
            return
        self._act(self.consumer.fetched(items, following, time.monotonic()))

    def _batch(self, batch: Batch, catalog: Catalog) -> BatchSource:
        trigger = self.station.trigger
        commits: list[Commit] = [item.payload for item in batch.items]
        given = 0 if batch.items[0].kind == "live" else trigger.id
        present = {part.table for commit in commits for part in (commit.given if given else commit.rows)}
        tables = self._host.tables_of(trigger, sorted(present))
        memo = self._host.batch_memo()
        key = (batch.first, batch.last, len(batch.items), tables, self._kind(batch), given)
        found = memo.get(key)
        if found is None:
            found = memo[key] = BatchSource(
                commits=commits,
                tables=tables,
                catalog=catalog,
                database=self.station.database,
                first=batch.first,
                kind=self._kind(batch),
                given_to=given,
            )
        return found

    def _kind(self, batch: Batch) -> BatchKind:
        """Why a batch is given to the trigger."""
        if batch.items[0].kind != "live":
            return batch.items[0].kind
        replay = self.station.trigger.replay
        return "replay" if replay is not None and batch.last <= replay[1] else "live"

    async def _run(self, batch: Batch, gate: Gate | None = None, view: View | None = None) -> None:
        station, consumer = self.station, self.consumer
        chain = batch.items[0].chain
        if len(chain) >= CHAIN_LIMIT:
            self._act(
                consumer.failed(
                    batch.number,
                    f"these rows came through {len(chain)} triggers, the limit is {CHAIN_LIMIT}; "
                    "triggers that write each other's tables go on for ever",
                    time.monotonic(),
                )
            )
            return
        if view is None:
            view = self._host.view()
        event = Event(
            hook="on_write",
            values={"batch": self._batch(batch, view.catalog)},
            key=station.key(f"{batch.first}-{batch.last}"),
            attempt=batch.attempt,
            at=self._last_at,
            source="write",
            why=self._kind(batch),
            consumed=(batch.first, batch.last),
            through=lambda: consumer.through_if_done(batch.number),
            chain=chain,
            rows_in=batch.rows,
        )
        ended = await station.perform(event, gate, view)
        # one that could not even be made ready has failed only if it would have begun
        if gate is None or await gate.passed():
            self._settle(batch, ended)

    def _settle(self, batch: Batch, ended: Ended) -> None:
        consumer, now = self.consumer, time.monotonic()
        if ended.first is not None:
            consumer.checkpointed(batch.number, ended.first)
        self._traceback = ended.traceback
        if self.station.retired and ended.end != "ok":
            consumer.dropped(batch.number, now)
            return
        if self.station.blocked is not None:
            consumer.postponed(batch.number)
            return
        match ended.end:
            case "ok" if ended.committed and ended.cursor is not None:
                self._act(consumer.committed(batch.number, ended.cursor, now))
            case "ok" | "skip" | "answered":
                self._act(consumer.without_effect(batch.number, now))
            case "retry_later":
                after = backoff(batch.attempt, random.random()) if ended.after is None else ended.after  # noqa: S311 - jitter
                self._act(consumer.again(batch.number, after, now, counts=True))
            case "conflict":
                self._act(consumer.again(batch.number, 0.01 * random.random(), now, counts=False))  # noqa: S311 - jitter
            case "unavailable":
                self._act(consumer.again(batch.number, 1.0 if ended.after is None else ended.after, now, counts=False))
            case "disable":
                consumer.stop()
                self._host.disable(self.station.trigger, ended.error or "the plugin asked for it", "")
            case "failed":
                self._act(consumer.failed(batch.number, ended.error or "failed", now))
            case "stale" if (done := self._done(batch)) is not None:
                self._act(consumer.committed(batch.number, done, now))
            case _:  # stale, cancelled
                self._act(consumer.dropped(batch.number, now))

    def _done(self, batch: Batch) -> Cursor | None:
        """The cursor, if the log says that a batch is done: an earlier attempt was committed after all."""
        cursor = self._host.view().cursors.get(self.station.trigger.id)
        if cursor is None:
            return None
        whole = any(first <= batch.first and batch.last <= last for first, last in cursor.done)
        return cursor if whole or batch.last <= cursor.through else None

    async def _bury(self, letter: DeadLetter) -> None:
        """Copies the rows of a batch that is given up, and moves the cursor.

        That is one commit, unless the letters are too large for one: then the last of several moves the cursor.
        """
        trigger, station = self.station.trigger, self.station
        view = self._host.view()
        key = station.key(f"{letter.batch.first}-{letter.batch.last}")
        batch = self._batch(letter.batch, view.catalog).made
        pieces = dead_rows(letter, key, station, batch, self._host.now_ns())
        log.error(
            "a batch was given up; its rows are in _internal.dead_letters",
            database=station.database,
            trigger=trigger.name,
            first_sequence=letter.batch.first,
            last_sequence=letter.batch.last,
            attempts=letter.batch.attempt,
            error=letter.error,
        )
        number, loop = letter.batch.number, asyncio.get_running_loop()
        try:
            # made by the pool, not here: many rows take a while, and other triggers must not wait for that
            rows = await loop.run_in_executor(self._host.pool, next, pieces)
            while (following := await loop.run_in_executor(self._host.pool, next, pieces, None)) is not None:
                await self._keep(RowsWrite([(INTERNAL, rows)], source="engine", guard=self._guard))
                rows = following
            await self._keep(
                RunEffect(
                    trigger=trigger.id,
                    generation=trigger.generation,
                    consumed=letter.consumed,
                    through=self.consumer.through_if_done(number),
                    rows=[(INTERNAL, rows)],
                    derived_origin=False,
                )
            )
        except Stale:
            self._act(self.consumer.dropped(number, time.monotonic()))
        except WalmillError as error:
            log.error("a batch could not be given up, and is tried again", trigger=trigger.name, error=error.message)
            self._act(self.consumer.again(number, UNBURIED_SECONDS, time.monotonic(), counts=False))
        else:
            cursor = self._host.view().cursors.get(trigger.id) or Cursor()
            self._act(self.consumer.committed(number, cursor, time.monotonic()))

    def _guard(self, draft: Draft) -> None:
        check_generation(draft, self.station.trigger.id, self.station.trigger.generation)

    async def _keep(self, submission: Submission) -> None:
        """Commits something, as soon as that is possible; a full disk is waited for."""
        while True:
            try:
                await self._host.submit(submission, Ticket(asyncio.get_running_loop()))
            except Unavailable as error:
                if self.station.retired:
                    raise
                await asyncio.sleep(min(float(error.retry_after), 1.0))
            else:
                return

    def stop(self) -> None:
        """Starts nothing more."""
        self.unprepare()
        if self._readied is not None:
            self._readied[1].settle(None)
            self._readied = None
        self.consumer.stop()
        for timer in (self._timer, self._refetch):
            if timer is not None:
                timer.cancel()
        self._timer = self._refetch = None

    def oldest(self) -> int | None:
        """Commit time of the oldest commit at hand that it has not finished, ns; None if there is none at hand."""
        consumer = self.consumer
        items = [batch.items[0] for batch in consumer.open_batches] + list(itertools.islice(consumer.backlog, 1))
        return min((item.payload.time for item in items if item.payload is not None), default=None)

    def lag(self, newest: int) -> int:
        """Commits for this trigger that it has not finished, as far as they are at hand; at least 1 if there are any."""
        count = len(self.consumer.backlog) + sum(len(batch.items) for batch in self.consumer.open_batches)
        behind = self.consumer.behind
        return count + (max(1, newest - behind + 1) if behind is not None else 0)


def dead_rows(letter: DeadLetter, key: str, station: Station, batch: WriteBatch, now: int) -> Iterator[TableRows]:
    """The rows of a batch as rows of `_internal.dead_letters`, each as a line of line protocol, in pieces for one commit each.

    There is at least one piece, and none is much larger than `PIECE_CHARACTERS`.
    """
    found: list[dict[str, Any]] = []
    size = number = 0
    error = letter.error[:ERROR_CHARACTERS]
    for table in batch.tables.values():
        for row in table.rows():
            if size > PIECE_CHARACTERS:
                yield table_rows(DEAD_LETTERS, found)
                found, size = [], 0
            line = render_row(table.name, table.tags, table.fields, row)[: 2**20]
            found.append(
                {
                    "database": station.database,
                    "trigger": station.trigger.name,
                    "table": table.name,
                    "line": line,
                    "error": error,
                    "run_key": key,
                    "attempts": letter.batch.attempt,
                    "first_sequence": letter.batch.first,
                    "last_sequence": letter.batch.last,
                    "time": now + number,
                }
            )
            number += 1
            size += len(line) + len(error) + LETTER_CHARACTERS
    yield table_rows(DEAD_LETTERS, found)
