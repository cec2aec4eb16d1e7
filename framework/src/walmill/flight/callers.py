"""Who makes calls of Flight, and what happens when they go away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pyarrow import flight

from walmill.auth.rules import Identity, parse_authorization
from walmill.errors import InvalidRequest, Unavailable
from walmill.flight.problems import flight_error
from walmill.flight.ticket import DATABASE_HEADERS
from walmill.query.desk import Asked

WATCH_SECONDS = 0.1
"""How often is looked whether a caller has gone."""
Authorize = Callable[[str | None], Identity | None]
"""Says who calls, from the `authorization` header; raises `Unauthorized` or `InvalidRequest`."""


class Caller(flight.ServerMiddleware):  # type: ignore[misc]
    """Who makes a call.

    Attributes:
        name: Name of the token; nothing if everyone is let in.
    """

    def __init__(self, name: str, headers: dict[str, list[Any]], answer: dict[str, str] | None = None) -> None:
        super().__init__()
        self.name = name
        self._headers = headers
        self._answer = answer or {}
        self._ends: list[Callable[[], None]] = []

    def at_end(self, end: Callable[[], None]) -> None:
        """Has something done when the call ends, however it does. A generator that was never asked cannot do it itself."""
        self._ends.append(end)

    def call_completed(self, exception: BaseException | None) -> None:
        """pyarrow: the call ends; its context is still there."""
        del exception
        for end in self._ends:
            end()

    def sending_headers(self) -> dict[str, str]:
        """pyarrow: what is sent before the answer."""
        return self._answer

    def database(self) -> str | None:
        """The database that a header names.

        Raises:
            InvalidRequest: If several do.
        """
        found = [str(value) for name in DATABASE_HEADERS for value in self._headers.get(name, ())]
        if len(found) > 1:
            raise InvalidRequest(f"{len(found)} headers name a database ({', '.join(found)[:80]}); send one of them")
        return found[0] if found else None


class Callers(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Lets calls in.

    Args:
        authorize: Says who calls.
    """

    def __init__(self, authorize: Authorize) -> None:
        super().__init__()
        self._authorize = authorize

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> Caller:
        """Lets a call in, or ends it.

        A handshake with a user name and the token as password is answered with the header that further calls are to send:
        so do drivers that know no other way, such as those of JDBC.
        """
        given = headers.get("authorization") or [None]
        try:
            identity = self._authorize(given[0])
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None
        answer = {}
        if info.method == flight.FlightMethod.HANDSHAKE and given[0] is not None:
            # `parse_authorization` was there before us: what is wrong with the header was told
            answer["authorization"] = f"Bearer {parse_authorization(given[0])}" if identity is not None else given[0]
        return Caller("" if identity is None else identity.name, headers, answer)


class Open(flight.ServerAuthHandler):  # type: ignore[misc]
    """Lets handshakes through: `Callers` has looked at them."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """pyarrow: a handshake."""

    def is_valid(self, token: bytes) -> bytes:
        """pyarrow: a call; who makes it is in its headers."""
        del token
        return b""


class Call:
    """A call that runs.

    Attributes:
        context: pyarrow's, which says whether the caller is there.
        queries: What is stopped when the caller is not.
    """

    def __init__(self, context: Any, queries: list[Asked]) -> None:
        self.context = context
        self.queries = queries


class Calls:
    """The calls that run; one thread looks whether their callers are still there, and stops the queries of those who left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Call] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="walmill-flight", daemon=True)
        self._thread.start()

    def begin(self, context: Any, queries: list[Asked]) -> Call:
        """Notes a call, and the queries that it runs now and later.

        Raises:
            Unavailable: If the server is stopping: nobody would stop them.
        """
        call = Call(context, queries)
        with self._lock:
            if self._closed.is_set():
                raise Unavailable("the server is stopping; send it again", retry_after=1)
            self._running.add(call)
        return call

    def end(self, call: Call) -> None:
        """A call ends."""
        with self._lock:  # behind it, the thread does not touch the context, which ends with the call
            self._running.discard(call)

    def close(self) -> None:
        """Stops what runs."""
        with self._lock:
            self._closed.set()
            running = list(self._running)
        self._thread.join()
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
