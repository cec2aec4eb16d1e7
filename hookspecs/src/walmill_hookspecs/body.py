"""The body of a request as a hook reads it that names the parameter `body`: piece by piece, while it still comes."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

Body: TypeAlias = io.BufferedReader
"""What a `def` hook gets: a binary file that is read once, from its beginning to its end."""

BUFFER_BYTES = 64 * 1024


class _Pieces(io.RawIOBase):
    def __init__(self, piece: Callable[[], bytes]) -> None:
        self._piece = piece
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._left:
            self._left = memoryview(self._piece())
        taken = memoryview(buffer).cast("B")
        size = min(len(taken), len(self._left))
        taken[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def body_file(piece: Callable[[], bytes]) -> Body:
    """A file made of pieces.

    Args:
        piece: Gives the next piece, and waits for it; b"" at the end and ever after.
    """
    return io.BufferedReader(_Pieces(piece), BUFFER_BYTES)


def body_of(data: bytes, size: int = BUFFER_BYTES) -> Body:
    """What a `def` hook gets: a body that is there, in pieces of at most `size` bytes."""
    pieces = _cut(data, size)
    return body_file(lambda: next(pieces, b""))


def async_body_of(data: bytes, size: int = BUFFER_BYTES) -> AsyncBody:
    """What an `async def` hook gets: a body that is there, in pieces of at most `size` bytes."""
    pieces = _cut(data, size)

    async def piece() -> bytes:
        return next(pieces, b"")

    return AsyncBody(piece)


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


class AsyncBody:
    """What an `async def` hook gets: its pieces, as they come.

    Args:
        piece: Gives the next piece; b"" at the end and ever after.
    """

    def __init__(self, piece: Callable[[], Awaitable[bytes]]) -> None:
        self._piece = piece
        self._left = b""

    def __aiter__(self) -> AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        piece, self._left = self._left, b""
        piece = piece or await self._piece()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer only at the end; all that is left if `size` is negative.

        Raises:
            HTTPError: 400 if the body is compressed, and is damaged or cut off.
            RunCancelled: If the caller went away.
        """
        if size == 0:
            return b""
        pieces: list[bytes] = []
        found = 0
        async for piece in self:
            if 0 < size < found + len(piece):
                pieces.append(piece[: size - found])
                self._left = piece[size - found :]
                break
            pieces.append(piece)
            found += len(piece)
            if found == size:
                break
        return b"".join(pieces)
