"""The Flight server: `DoGet` with a ticket gives the rows of a query, batch by batch. It listens on a socket of its own that
only this process's user reaches; `walmill.http.door` brings connections to it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from walmill.asking import ask_rows
from walmill.auth.rules import Identity
from walmill.engine import Engine
from walmill.errors import Forbidden, InvalidRequest, Unauthorized, Unavailable, WalmillError
from walmill.flight.ticket import DATABASE_HEADERS, Ticket, parse_ticket
from walmill.observe.log import get_logger
from walmill.query.desk import Asked
from walmill.query.engine import ResultStream
from walmill.query.errors import QueryStopped, QueryTimeout

WATCH_SECONDS = 0.1
"""How often is looked whether a caller has gone."""
log = get_logger("walmill.flight")

Authorize = Callable[[str | None], Identity | None]
"""Says who calls, from the `authorization` header; raises `Unauthorized` or `InvalidRequest`."""


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """A Flight server over an engine. Calls run in threads of gRPC, any number at once; the engine's desk gives them turns.

    Args:
        engine: Gives the engine; it may not be open yet, and says so.
        authorize: Says who calls.
    """

    def __init__(self, engine: Callable[[], Engine], authorize: Authorize) -> None:
        self._engine = engine
        self._home = Path(tempfile.mkdtemp(prefix="walmill-flight-"))
        self._calls = _Calls()
        self.path = str(self._home / "socket")
        try:
            super().__init__(f"grpc+unix://{self.path}", middleware={"who": _Callers(authorize)})
        except BaseException:
            self._calls.close()
            shutil.rmtree(self._home, ignore_errors=True)
            raise

    def close(self) -> None:
        """Stops running queries, and ends."""
        self._calls.close()
        self.shutdown()
        shutil.rmtree(self._home, ignore_errors=True)

    # ---- the calls

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Rows of a query.

        Raises:
            FlightError: As the ticket, the query or the engine's state has it.
        """
        caller: _Caller = context.get_middleware("who")
        try:
            asked = parse_ticket(ticket.ticket, caller.database())
            return self._rows(context, caller, asked)
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None

    def _rows(self, context: Any, caller: _Caller, ticket: Ticket) -> Any:
        engine = self._engine()
        if ticket.kind == "influxql":
            with self._calls.cancelling(context) as stopping:
                table = ask_rows(
                    engine, ticket.database, ticket.text, ticket.params, origin=caller.name, stopping=stopping
                )
            return flight.RecordBatchStream(table)
        query = engine.ask(ticket.database, ticket.text, kind="flight", origin=caller.name)
        call = self._calls.begin(context, query)
        try:
            stream = engine.stream(ticket.text, ticket.params, database=ticket.database, asked=query)
        except BaseException:
            self._calls.end(call)
            raise
        schema = plain(stream.schema)
        return flight.GeneratorStream(schema, self._batches(stream, schema, call))

    def _batches(self, stream: ResultStream, schema: pa.Schema, call: _Call) -> Iterator[pa.RecordBatch]:
        try:
            for batch in stream:
                yield batch if batch.schema == schema else batch.cast(schema)
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None
        finally:
            stream.close()
            self._calls.end(call)


def plain(schema: pa.Schema) -> pa.Schema:
    """A schema without dictionaries, which Flight clients in other languages may not know how to replace in a stream."""
    return pa.schema(
        [one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in schema]
    )


def flight_error(error: BaseException) -> Any:
    """An error as Flight knows it. One that nobody expected is logged, and says nothing of itself."""
    if isinstance(error, flight.FlightError):
        return error
    if isinstance(error, QueryTimeout):
        return flight.FlightTimedOutError(error.message)
    if isinstance(error, QueryStopped):
        return flight.FlightCancelledError(error.message)
    if isinstance(error, Unauthorized):
        return flight.FlightUnauthenticatedError(error.message)
    if isinstance(error, Forbidden):
        return flight.FlightUnauthorizedError(error.message)
    if isinstance(error, Unavailable):
        return flight.FlightUnavailableError(error.message)
    if isinstance(error, WalmillError):
        # pyarrow could say INVALID_ARGUMENT and NOT_FOUND, but only with a traceback behind the message
        return flight.FlightServerError(error.message)
    if isinstance(error, MemoryError):
        return flight.FlightUnavailableError("there is not enough memory for this request now; send it again")
    log.error("a Flight call failed", exc_info=error)
    return flight.FlightInternalError("internal error; the server's log says more")


# ---- who calls


class _Caller(flight.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, name: str, headers: dict[str, list[Any]]) -> None:
        super().__init__()
        self.name = name
        self._headers = headers

    def database(self) -> str | None:
        """The database that a header names.

        Raises:
            InvalidRequest: If several do.
        """
        found = [str(value) for name in DATABASE_HEADERS for value in self._headers.get(name, ())]
        if len(found) > 1:
            raise InvalidRequest(f"{len(found)} headers name a database ({', '.join(found)[:80]}); send one of them")
        return found[0] if found else None


class _Callers(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, authorize: Authorize) -> None:
        super().__init__()
        self._authorize = authorize

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> _Caller:
        """Lets a call in, or ends it."""
        del info
        given = headers.get("authorization") or [None]
        try:
            identity = self._authorize(given[0])
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None
        return _Caller("" if identity is None else identity.name, headers)


# ---- callers who go away


class _Call:
    def __init__(self, context: Any, queries: list[Asked]) -> None:
        self.context = context
        self.queries = queries


class _Calls:
    """The calls that run; one thread looks whether their callers are still there, and stops the queries of those who left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[_Call] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="walmill-flight", daemon=True)
        self._thread.start()

    def begin(self, context: Any, *queries: Asked) -> _Call:
        call = _Call(context, list(queries))
        with self._lock:
            self._running.add(call)
        return call

    def end(self, call: _Call) -> None:
        with self._lock:  # behind it, the thread does not touch the context, which ends with the call
            self._running.discard(call)

    def cancelling(self, context: Any) -> _Cancelling:
        return _Cancelling(self, context)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        with self._lock:
            running = list(self._running)
        for call in running:
            for query in list(call.queries):
                query.cancel()

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            with self._lock:
                gone = [call for call in self._running if call.context.is_cancelled()]
                self._running.difference_update(gone)
            for call in gone:
                for query in list(call.queries):
                    query.cancel()


class _Cancelling:
    """Queries that come one after another within one call."""

    def __init__(self, calls: _Calls, context: Any) -> None:
        self._calls = calls
        self._call = calls.begin(context)

    def __enter__(self) -> list[Asked]:
        return self._call.queries

    def __exit__(self, *_: object) -> None:
        self._calls.end(self._call)
