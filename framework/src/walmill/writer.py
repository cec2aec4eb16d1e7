"""What clients write, on its way to the committer: line protocol is read, here or there, other forms become rows.

A body that would hold up the committer, for which all writers wait, is read ahead by a thread of this module's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attrs import frozen

from walmill.clock import Clock
from walmill.collector import let_go
from walmill.context.effects import Effects
from walmill.errors import InvalidRequest, Unavailable, WalmillError
from walmill.ingest.errors import LineError, SlowBody
from walmill.ingest.names import check_database_name
from walmill.ingest.precision import Precision, parse_precision
from walmill.store.committer import Committer, no_memory
from walmill.store.lines import LARGE_BYTES, LineWrite
from walmill.store.submission import Outcome, RowsWrite, Submission, Ticket
from walmill.store.view import View
from walmill_hookspecs import ContextError
from walmill_hookspecs.context import WriteData

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


class Writer:
    """Takes writes from any thread and any event loop.

    Args:
        committer: Decides on them.
        clock: The time for lines without one.
    """

    def __init__(self, committer: Committer, clock: Clock) -> None:
        self._committer = committer
        self._clock = clock
        self._closed = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="walmill-read")

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
        if not _is_large(submission):
            try:
                return _result(self.submit(submission).result())
            except SlowBody:
                pass
        self._read_ahead(submission)
        return _result(self.submit(submission).result())

    async def write_async(self, submission: Submission) -> WriteResult:
        """As `write`, for an event loop."""
        loop = asyncio.get_running_loop()
        if not _is_large(submission):
            try:
                return _result(await self.submit(submission, Ticket(loop)))
            except SlowBody:
                pass
        try:
            reading = loop.run_in_executor(self._readers, self._read_ahead, submission)
        except RuntimeError:  # the pool takes nothing any more
            raise _shutting_down() from None
        await reading
        result = _result(await self.submit(submission, Ticket(loop)))
        if isinstance(submission, LineWrite) and submission.ahead is not None:
            with contextlib.suppress(RuntimeError):  # the pool takes nothing any more: then they are freed at once
                self._readers.submit(let_go, submission.ahead.scanned.points)
        return result

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
            rows = effects.convert(database, data, table, tags)
        except WalmillError:
            raise
        except (ContextError, TypeError, ValueError) as error:
            raise InvalidRequest(str(error)) from None
        return RowsWrite([(database, one) for one in rows], no_sync=no_sync)

    def stop(self) -> None:
        """Takes nothing any more."""
        self._closed = True

    def close(self) -> None:
        """Ends the readers; one that still reads ends by itself."""
        self.stop()
        self._readers.shutdown(wait=False)

    def _read_ahead(self, submission: Submission) -> None:
        """Reads a body in this thread, so that the committer need not."""
        if not isinstance(submission, LineWrite):
            return
        try:
            submission.read_ahead(_schemas(self._committer.view, submission.database))
        except MemoryError:
            raise no_memory() from None


def _result(outcome: Outcome) -> WriteResult:
    return WriteResult(outcome.sequence, outcome.value.rows, outcome.value.errors)


def _shutting_down() -> Unavailable:
    return Unavailable("the engine is shutting down; send it again when it is back", retry_after=5)


def _is_large(submission: Submission) -> bool:
    return isinstance(submission, LineWrite) and submission.size > LARGE_BYTES


def _schemas(view: View, database: str) -> Callable[[str], Any]:
    """The schema of each table of a database, by name, as it is now; None for one that is not there."""
    known = view.catalog.find_database(database)

    def schema_of(name: str) -> Any:
        found = view.catalog.find_table(known, name)
        return None if found is None else found.schema

    return schema_of
