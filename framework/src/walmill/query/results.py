"""The rows of a query that runs: read batch by batch, counted, and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from attrs import frozen

from walmill.query.bounds import Bounds
from walmill.query.driver import Driver, wait
from walmill.query.errors import QueryStopped, QueryTooLarge, out_of_time
from walmill.query.plan import Plan, Ready

if TYPE_CHECKING:
    from datafusion import RecordBatch, RecordBatchStream


class Watch(Protocol):
    """Who follows a query."""

    rows: int

    def planned(self, files: int) -> None:
        """It is planned and reads so many files; raises to end it here."""

    def started(self, stop: Callable[[], None]) -> None:
        """It runs, and this stops it; from any thread."""

    def end(self, error: BaseException | None = None) -> None:
        """It has ended. Maybe called more than once."""


class Nobody:
    """Follows nothing."""

    rows = 0

    def planned(self, files: int) -> None:
        """Nothing."""

    def started(self, stop: Callable[[], None]) -> None:
        """Nothing."""

    def end(self, error: BaseException | None = None) -> None:
        """Nothing."""


@frozen
class Running:
    """A query whose batches are being read."""

    plan: Plan | Ready
    stream: RecordBatchStream | Iterator[pa.RecordBatch]
    driver: Driver
    bounds: Bounds
    meaning: Callable[[BaseException], BaseException]
    watch: Watch
    used: Callable[[], None]


class ResultStream(Iterator[pa.RecordBatch]):
    """The rows of a running query. Made by `QueryEngine.stream`; one thread reads, any thread may close.

    `to_reader()` gives a `pyarrow.RecordBatchReader` for libraries that want one; that class cannot stop a query when it is
    closed, so it is not what the engine hands out.

    Attributes:
        schema: Columns of all batches.
        quick: Whether all of it is there in some milliseconds.
    """

    def __init__(self, running: Running) -> None:
        self._lock = threading.Lock()
        self._running: Running | None = running
        self._future: Future[pa.RecordBatch | None] | None = None
        self._last = running.plan.last()
        self._stopped = False
        self.quick = running.plan.quick
        running.watch.started(self.stop)
        self._first = self._read()
        self.schema: pa.Schema = running.plan.columns if self._first is None else self._first.schema

    def __iter__(self) -> ResultStream:
        return self

    def __next__(self) -> pa.RecordBatch:
        batch, self._first = self._first, None
        if batch is None:
            batch = self._read()
        if batch is None:
            running = self._running
            self.close()
            if running is not None:
                running.used()
            raise StopIteration
        self._count(batch)
        return batch

    def _count(self, batch: pa.RecordBatch) -> None:
        running = self._running
        if running is None:
            return
        running.watch.rows += batch.num_rows
        try:
            running.bounds.check_rows(running.watch.rows)
        except QueryTooLarge as error:
            raise self._failed(error) from None

    def read_all(self) -> pa.Table:
        """All rows that were not read yet."""
        return pa.Table.from_batches(self, self.schema)

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows that were not read yet as a pyarrow reader. When it is dropped, this stream is closed."""
        return pa.RecordBatchReader.from_batches(self.schema, _closing(self))

    def stop(self) -> None:
        """Stops the query: whoever reads on gets `QueryStopped`, so that what was read does not pass for the whole answer."""
        self._stopped = self._running is not None
        self.close()

    def close(self) -> None:
        """Stops the query if it still runs. A thread that waits for a batch gets `QueryStopped`. May be called often."""
        self._end(None)

    def _failed(self, error: BaseException) -> BaseException:
        self._end(error)
        return error

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            future, self._future = self._future, None
            running, self._running, self._first = self._running, None, None
        if future is not None:
            future.cancel()
        if running is not None:
            running.plan.close()
            running.watch.end(error)

    def __enter__(self) -> ResultStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> pa.RecordBatch | None:
        """The next batch that has rows; None at the end."""
        with self._lock:
            running = self._running
            if running is None:
                if self._stopped:
                    raise QueryStopped("the query was stopped before it was done")
                return None
            quick = running.plan.quick
            if not quick:
                self._future = running.driver.submit(_next_batch(running.stream))
            future = self._future
        try:
            if future is None:
                running.driver.check()
                batch = _next_here(running.stream)
                if running.bounds.is_late():
                    raise out_of_time(running.bounds.timeout)
                if self._running is None:
                    raise QueryStopped("the query was stopped before it was done")
            else:
                batch = wait(future, running.bounds.deadline, running.bounds.timeout)
        except BaseException as error:  # noqa: BLE001 - a panic of DataFusion is no Exception
            if self._running is None and not isinstance(error, QueryStopped | KeyboardInterrupt | SystemExit):
                # it was closed while it was read here: what went wrong then is not the query's
                raise QueryStopped("the query was stopped before it was done") from None
            # the error stays in no variable of a frame that it holds: the query would go on until such a ring is found
            raise self._failed(running.meaning(error)) from None
        return self._last.pop() if batch is None and self._last else batch


def _closing(stream: ResultStream) -> Iterator[pa.RecordBatch]:
    with stream:
        yield from stream


async def _next_batch(stream: Any) -> pa.RecordBatch | None:
    async for batch in stream:
        rows = batch.to_pyarrow()
        if rows.num_rows:
            return rows
    return None


def _next_here(stream: RecordBatchStream | Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    for batch in stream:
        rows = _arrow(batch)
        if rows.num_rows:
            return rows
    return None


def _arrow(batch: RecordBatch | pa.RecordBatch) -> pa.RecordBatch:
    return batch if isinstance(batch, pa.RecordBatch) else batch.to_pyarrow()


def read_here(
    stream: RecordBatchStream | Iterator[pa.RecordBatch], watch: Watch, bounds: Bounds
) -> list[pa.RecordBatch]:
    """All batches, read by whoever asks."""
    found: list[pa.RecordBatch] = []
    for batch in stream:
        found.append(_arrow(batch))
        watch.rows += found[-1].num_rows
        bounds.check_rows(watch.rows)
    return found


async def drain(stream: RecordBatchStream, watch: Watch, bounds: Bounds) -> list[pa.RecordBatch]:
    found: list[pa.RecordBatch] = []
    async for batch in stream:
        found.append(batch.to_pyarrow())
        watch.rows += found[-1].num_rows
        bounds.check_rows(watch.rows)
    return found


def cancel(future: Future[Any]) -> None:
    """Stops what a driver does."""
    future.cancel()
