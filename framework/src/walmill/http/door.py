"""One port for HTTP and Flight: the first bytes of a connection decide.

HTTP/2 with prior knowledge, as gRPC speaks it, begins with `PRI`; no method of HTTP/1.1 does. Such a connection's bytes are
passed on to the Flight server, which is started by the first of them. HTTP/1.1 goes to uvicorn and costs nothing more.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from walmill.observe.log import get_logger

if TYPE_CHECKING:
    from walmill.flight.server import FlightServer

PREFACE = b"PRI"
log = get_logger("walmill.flight")


class FlightRoom:
    """The Flight server, from its first connection on.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], FlightServer]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._server: FlightServer | None = None
        self._closed = False
        self.stopping = False
        """Whether nothing new comes in: uvicorn has told the connections that it knew, and would wait for others."""

    def path(self) -> str:
        """Where it listens. Call it in a thread: the first call starts it.

        Raises:
            ConnectionError: If the room is closed.
        """
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the server is stopping")
            if self._server is None:
                self._server = self._make()
            return self._server.path

    def close(self) -> None:
        """Ends the server, if there is one."""
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
        if server is not None:
            server.close()


def protocol_of(room: FlightRoom) -> type[asyncio.Protocol]:
    """The class that uvicorn makes for each connection."""

    class Door(_Door):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(room, cast("Any", AutoHTTPProtocol(*args, **more)))

    return Door


class _Door(asyncio.Protocol):
    """A connection of which nothing was read yet."""

    def __init__(self, room: FlightRoom, http: Any) -> None:
        self._room = room
        self._http = http
        self._transport: asyncio.Transport
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._room.stopping:
            self._transport.abort()
            return
        self._http.connection_made(transport)  # it counts there, and a stop closes it

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not self._seen.startswith(PREFACE) and not PREFACE.startswith(self._seen):
            self._transport.set_protocol(self._http)
            self._http.data_received(self._seen)
        elif self._room.stopping:
            self._transport.close()
        elif len(self._seen) >= len(PREFACE):
            self._http.connections.discard(self._http)
            pump = _Pump(self._transport, self._http)
            self._transport.set_protocol(pump)
            pump.start(self._room, self._seen)

    def eof_received(self) -> bool | None:
        return cast("bool | None", self._http.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._http.transport is not None:
            self._http.connection_lost(exc)


class _Pump(asyncio.Protocol):
    """One end of a connection whose bytes are passed on to the other end, no faster than that takes them."""

    def __init__(self, transport: asyncio.Transport, http: Any = None) -> None:
        self._transport = transport
        self._other: asyncio.Transport | None = None
        self._http = http
        self._task: asyncio.Task[None] | None = None
        if http is not None:
            http.connections.add(self)  # uvicorn's stop waits for it, and closes it

    # ---- the client's end

    def start(self, room: FlightRoom, seen: bytes) -> None:
        """Connects to the Flight server."""
        self._transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._connect(room, seen))

    async def _connect(self, room: FlightRoom, seen: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            path = await asyncio.to_thread(room.path)
            other, _ = await loop.create_unix_connection(lambda: _Inner(self._transport), path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client sees a connection that ends
            log.error("a Flight connection is refused", reason=str(error))
            self._transport.close()
            return
        finally:
            self._task = None
        if self._transport.is_closing():
            other.close()
            return
        self._other = other
        other.write(seen)
        self._transport.resume_reading()

    def shutdown(self) -> None:
        """uvicorn stops: what runs ends with the Flight server."""
        self._transport.close()

    # ---- both ends

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)

    def pause_writing(self) -> None:
        if self._other is not None and not self._other.is_closing():
            self._other.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and not self._other.is_closing():
            self._other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._http is not None:
            self._http.connections.discard(self)
        if self._other is not None:
            self._other.close()


class _Inner(_Pump):
    """The Flight server's end."""

    def __init__(self, client: asyncio.Transport) -> None:
        super().__init__(client)
        self._other = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
