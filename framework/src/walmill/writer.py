"""What clients write, on its way to the committer: line protocol is read, here or there, other forms become rows.

A body that would hold up the committer, for which all writers wait, is read ahead by a thread of this module's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from attrs import frozen

from walmill.clock import Clock
from walmill.collector import let_go
from walmill.context.effects import Effects
from walmill.errors import InvalidRequest, Unavailable, WalmillError
from walmill.ingest.errors import LineError, SlowBody
from walmill.ingest.names import check_database_name
from walmill.ingest.precision import Precision, parse_precision
from walmill.reading.process import SLOTS, Asked, ReaderProcess, Slot, possible
from walmill.scarcity import scarce
from walmill.store.committer import Committer
from walmill.store.lines import EMPTY, LARGE_BYTES, SLOW_LINES, SMALL_BYTES, Ahead, LineWrite
from walmill.store.submission import Outcome, RowsWrite, Submission, Ticket, settle_all
from walmill.store.view import View
from walmill_hookspecs import ContextError
from walmill_hookspecs.context import WriteData

_PATIENCE = 30.0  # seconds that a slow body waits for the process that reads such; then a thread reads it

READERS = 3
"""So many large bodies are parsed at a time; one that takes seconds leaves the others to the next writers."""


@frozen
class WriteResult:
    """What became of a write.

    Attributes:
        sequence: Sequence of its commit; None if nothing was accepted.
        rows: Rows accepted.
        errors: Lines refused.
    """

    sequence: int | None
    rows: int
    errors: Sequence[LineError] = ()


@frozen
class _Way:
    """How a body is read beside the committer.

    Attributes:
        pool: Where.
        read: Reads it.
        drop: Called instead of `read`.
    """

    pool: ThreadPoolExecutor
    read: Callable[[], Any]
    drop: Callable[[], None] = lambda: None


class Writer:
    """Takes writes from any thread and any event loop.

    Args:
        committer: Decides on them.
        clock: The time for lines without one.
        processes: Whether bodies above a size are read in processes of their own, if this machine can do that: one for those
            that take milliseconds, another one for those that take longer. Otherwise by the committer, and by threads.
        check_room: Called before each write; raises if there is no room for it.
        most_waiting: Bytes of bodies and rows that may be on their way at a time; one alone may be larger.
    """

    def __init__(
        self,
        committer: Committer,
        clock: Clock,
        *,
        processes: bool = False,
        check_room: Callable[[], None] = lambda: None,
        most_waiting: int = 512 * 2**20,
    ) -> None:
        self._check_room = check_room
        self._most = most_waiting
        self._waiting = 0
        self._guard = threading.Lock()
        self._committer = committer
        self._clock = clock
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="walmill-read")
        self._beside = ThreadPoolExecutor(SLOTS, thread_name_prefix="walmill-beside")
        beside = processes and possible()
        self._quick = ReaderProcess("reader") if beside else None
        self._slow = ReaderProcess("slow-reader", slots=1) if beside else None

    def submit(self, submission: Submission, ticket: Ticket | None = None) -> Ticket:
        """Queues something for the committer.

        Raises:
            Unavailable: If this was closed.
        """
        if self._closed:
            raise _shutting_down()
        return self._committer.submit(submission, ticket)

    def write(self, submission: Submission) -> WriteResult:
        """Waits until a write is durable and visible; for a thread."""
        with self.entering(submission):
            for attempt in count():
                ticket = Ticket()
                way = self._way(submission, attempt)
                if way is None:
                    self.submit(submission, ticket)
                else:
                    self._read_and_submit(way.read, submission, ticket)
                with contextlib.suppress(SlowBody):
                    return _result(ticket.result())
        raise AssertionError  # a body that was read here is never slow again

    async def write_async(self, submission: Submission) -> WriteResult:
        """As `write`, for an event loop."""
        loop = asyncio.get_running_loop()
        with self.entering(submission):
            for attempt in count():
                ticket = Ticket(loop)
                way = self._way(submission, attempt)
                if way is None:
                    self.submit(submission, ticket)
                else:
                    try:
                        way.pool.submit(self._read_and_submit, way.read, submission, ticket)
                    except RuntimeError:  # the pool takes nothing any more
                        way.drop()
                        raise _shutting_down() from None
                with contextlib.suppress(SlowBody):
                    result = _result(await ticket)
                    self._let_go(submission)
                    return result
        raise AssertionError

    @contextlib.contextmanager
    def entering(self, submission: Submission) -> Iterator[None]:
        """Counts the bytes of what is on its way.

        Raises:
            Unavailable: If there is no room for it.
        """
        self._check_room()
        size = submission.size
        with self._guard:
            if self._waiting and self._waiting + size > self._most:
                raise Unavailable(
                    f"writes of {self._waiting:,} bytes are on their way, and {self._most:,} may be (write_queue_size); nothing "
                    "of this write was kept, send it again later",
                    retry_after=1,
                )
            self._waiting += size
        try:
            yield
        finally:
            with self._guard:
                self._waiting -= size

    def _way(self, submission: Submission, attempt: int) -> _Way | None:
        """How a body is read before the committer comes to it; None leaves it to the committer."""
        if not isinstance(submission, LineWrite):
            return None
        slow_from = 0 if submission.size > LARGE_BYTES else 1
        if attempt >= slow_from:
            process = self._slow if attempt == slow_from else None
            return _Way(self._readers, lambda: self._read_ahead(submission, process))
        quick = self._quick
        slot = quick.take() if quick is not None and submission.size > SMALL_BYTES else None
        if quick is None or slot is None:
            return None
        return _Way(
            self._beside,
            lambda: self._read_beside(quick, slot, submission, SLOW_LINES),
            lambda: quick.give_back(slot),
        )

    def _read_and_submit(self, read: Callable[[], None], submission: Submission, ticket: Ticket) -> None:
        """Reads in this thread, or has it read by a process, and submits; the ticket hears of any error."""
        try:
            read()
            self.submit(submission, ticket)
        except Exception as error:  # noqa: BLE001 - it is the answer
            settle_all([(ticket, Outcome(error=scarce(error) or error))])

    def _read_ahead(self, submission: LineWrite, process: ReaderProcess | None) -> None:
        slot = None if process is None else process.take(wait=_PATIENCE)
        if process is None or slot is None or not self._read_beside(process, slot, submission, None):
            submission.read_ahead(_schemas(self._committer.view, submission.database))

    def _read_beside(self, process: ReaderProcess, slot: Slot, submission: LineWrite, slow_limit: int | None) -> bool:
        view = self._committer.view
        database = view.catalog.find_database(submission.database)
        answered = process.read(
            slot,
            Asked(
                0 if database is None else database.id,
                submission.body,
                submission.precision,
                submission.received,
                submission.accept_partial,
                slow_limit,
            ),
            _schemas(view, submission.database),
        )
        if answered is None:
            return False
        if answered.made is None:
            raise InvalidRequest(EMPTY)
        submission.ahead = Ahead(None, answered.made, answered.schemas)
        return True

    def _let_go(self, submission: Submission) -> None:
        """Frees what a body held in small steps, in a thread."""
        if isinstance(submission, LineWrite) and submission.ahead is not None and submission.ahead.scanned is not None:
            with contextlib.suppress(RuntimeError):  # the pool takes nothing any more: then they are freed at once
                self._readers.submit(let_go, submission.ahead.scanned.points)

    def submission(
        self,
        data: WriteData | bytes,
        database: str,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        precision: str | Precision = "nanosecond",
        accept_partial: bool = True,
        no_sync: bool = False,
    ) -> Submission:
        """A write in any of its forms as something to submit; `Engine.write` says what the arguments mean.

        Raises:
            InvalidRequest: For what can never be accepted.
        """
        check_database_name(database)
        now = self._clock.now_ns()
        if isinstance(data, str | bytes):
            if table is not None:
                raise InvalidRequest(f"table={table!r} was given with line protocol, which names its table itself")
            body = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
            unit = precision if isinstance(precision, Precision) else parse_precision(precision)
            return LineWrite(database, body, unit, now, accept_partial, no_sync)
        schema_of = _schemas(self._committer.view, database)
        effects = Effects(lambda _, name: schema_of(name), start=now, max_rows=2**62)
        try:
            rows = effects.convert(database, data, table, tags, not_before=now)
        except WalmillError:
            raise
        except (ContextError, TypeError, ValueError) as error:
            raise InvalidRequest(str(error)) from None
        return RowsWrite([(database, one) for one in rows], no_sync=no_sync)

    def stop(self) -> None:
        """Takes nothing any more."""
        self._closed = True

    def close(self) -> None:
        """Ends the readers; a thread that still reads ends by itself."""
        self.stop()
        for process in (self._quick, self._slow):
            if process is not None:
                process.close()
        self._readers.shutdown(wait=False)
        self._beside.shutdown(wait=False)


def _result(outcome: Outcome) -> WriteResult:
    return WriteResult(outcome.sequence, outcome.value.rows, outcome.value.errors)


def _shutting_down() -> Unavailable:
    return Unavailable("the engine is shutting down; send it again when it is back", retry_after=5)


def _schemas(view: View, database: str) -> Callable[[str], Any]:
    """The schema of each table of a database, by name, as it is now; None for one that is not there."""
    known = view.catalog.find_database(database)

    def schema_of(name: str) -> Any:
        found = view.catalog.find_table(known, name)
        return None if found is None else found.schema

    return schema_of
