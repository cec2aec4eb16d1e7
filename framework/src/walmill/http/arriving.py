"""The body of a request while it comes: taken from the connection as fast as a hook reads it, and no faster."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from starlette.types import Receive, Scope

from walmill.errors import InvalidRequest
from walmill.http.body import Gunzip, encoding_of
from walmill.http.streams import wait_gone
from walmill_hookspecs import HTTPError, RunCancelled

BUFFER_BYTES = 256 * 1024
"""As much waits for the hook; then nothing more is taken from the connection until it reads."""


class ArrivingBody:
    """The body of one request, decompressed; made on the server's loop.

    Args:
        scope: Of the request.

    Raises:
        InvalidRequest: The Content-Encoding is unknown.
    """

    def __init__(self, scope: Scope) -> None:
        self.begun = False
        self._unpack = Gunzip() if encoding_of(scope) == "gzip" else None
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._over = False
        self._wrong: BaseException | None = None
        self._changed = asyncio.Event()

    async def take_in(self, receive: Receive) -> None:
        """Takes the body from the connection; returns when the caller went away. On the server's loop."""
        try:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                more = message.get("more_body", False)
                for piece in self._unpacked(message.get("body", b""), last=not more):
                    while self._size >= BUFFER_BYTES:
                        self._changed.clear()
                        await self._changed.wait()
                    self._pieces.append(piece)
                    self._size += len(piece)
                    self._changed.set()
            self._end(None)
        except InvalidRequest as error:
            self._end(HTTPError(400, error.message))
        await wait_gone(receive)

    def _unpacked(self, data: bytes, *, last: bool) -> Iterator[bytes]:
        if self._unpack is None:
            if data:
                yield data
            return
        yield from self._unpack.pieces(data, BUFFER_BYTES)
        if last:
            self._unpack.finish()

    def _end(self, wrong: BaseException | None) -> None:
        if not self._over:
            self._over, self._wrong = True, wrong
            self._changed.set()

    def cut(self, reason: str) -> None:
        """The rest will not come; on the server's loop. Does nothing to a body that is there to its end."""
        self._end(RunCancelled(reason))

    async def _take(self) -> bytes:
        while not self._pieces and not self._over:
            self._changed.clear()
            await self._changed.wait()
        if not self._pieces:
            if self._wrong is not None:
                raise self._wrong
            return b""
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._changed.set()
        return data

    async def next(self) -> bytes:
        """See `walmill.isolation.arriving.Arriving`."""
        self.begun = True
        if self._loop.is_closed():
            raise RunCancelled("the server has stopped")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._take(), self._loop))
