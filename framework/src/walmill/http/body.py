"""The body of a request: read to its end, limited, decompressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import anyio.to_thread
from starlette.types import Receive, Scope

from walmill.errors import InvalidRequest, TooLarge

GZIP = 16 + zlib.MAX_WBITS
DRAINED = 8
"""A body over the limit is read and thrown away up to so many times the limit, so that the sender gets to see the answer."""
IN_THREAD = 16 * 1024
"""Compressed bodies over this many bytes are decompressed in a thread."""


class ClientGone(Exception):
    """The caller went away before its request was read."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a header, or None.

    Args:
        scope: Of the request.
        name: Lower-case.
    """
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def path_of(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


def encoding_of(scope: Scope) -> str:
    """How the body is encoded: `identity` or `gzip`.

    Raises:
        InvalidRequest: In another way.
    """
    encoding = (header(scope, b"content-encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise InvalidRequest(f"the Content-Encoding {encoding[:40]!r} is unknown; send gzip, or identity")
    return encoding.removeprefix("x-")


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body of a request, decompressed.

    Args:
        scope: Of the request.
        receive: Of the request.
        limit: Most bytes, before and after decompression.

    Raises:
        TooLarge: Over the limit.
        InvalidRequest: The encoding is unknown, or what came is not in it.
        ClientGone: The caller went away.
    """
    encoding = encoding_of(scope)
    length = header(scope, b"content-length")
    declared = int(length) if length is not None and length.isascii() and length.isdigit() else 0
    if declared > limit and (header(scope, b"expect") is not None or declared > DRAINED * limit):
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        pieces, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            size += len(piece)
            if size <= limit:
                pieces.append(piece)
            else:
                pieces.clear()
                if size > DRAINED * limit:
                    break
        if size > limit:
            raise _too_large(limit)
        body = b"".join(pieces)
    elif len(body) > limit:
        raise _too_large(limit)
    if encoding == "identity":
        return body
    if len(body) <= IN_THREAD and limit <= IN_THREAD:
        return gunzip(body, limit)
    return await anyio.to_thread.run_sync(gunzip, body, limit)


def gunzip(data: bytes, limit: int) -> bytes:
    """What gzip compressed: one member or several, empty ones as well.

    Args:
        data: The members, one behind the other; zeros may follow the last one.
        limit: Most bytes of the result.

    Raises:
        TooLarge: It would be larger.
        InvalidRequest: It is no gzip, or it is cut off.
    """
    unpack = Gunzip()
    pieces: list[bytes] = []
    left = limit
    for piece in unpack.pieces(data, limit + 1):
        left -= len(piece)
        if left < 0:
            raise _too_large(limit)
        pieces.append(piece)
    unpack.finish()
    return b"".join(pieces)


class Gunzip:
    """Undoes gzip piece by piece: one member or several, empty ones as well; zeros may follow the last one."""

    def __init__(self) -> None:
        self._member: Any = None
        self._begins = 0
        self._taken = 0
        self._zeros = False

    def pieces(self, data: bytes, size: int) -> Iterator[bytes]:
        """What the next bytes hold.

        Args:
            data: The bytes.
            size: Most bytes of a piece.

        Raises:
            InvalidRequest: It is no gzip.
        """
        rest: Any = data
        more = False
        while rest or more:
            if self._member is None:
                self._begins = self._taken + len(data) - len(rest)
                if rest[:1] == b"\0" and self._begins:
                    self._zeros = True
                if self._zeros:
                    if rest.strip(b"\0"):
                        raise self._damaged()
                    break
                self._member = zlib.decompressobj(GZIP)
            member = self._member
            try:
                piece = member.decompress(rest, size)
            except zlib.error:
                raise self._damaged() from None
            if piece:
                yield piece
            if member.eof:
                self._member, rest, more = None, member.unused_data, False
            else:
                rest, more = member.unconsumed_tail, len(piece) == size  # it may hold more than it gave
        self._taken += len(data)

    def finish(self) -> None:
        """Says that nothing more comes.

        Raises:
            InvalidRequest: The last member has no end.
        """
        if self._member is not None:
            raise InvalidRequest("the gzip body is cut off: its last member has no end; send the whole body")

    def _damaged(self) -> InvalidRequest:
        return InvalidRequest(
            f"the body is not gzip, although its Content-Encoding says so: byte {self._begins} begins no member, or the "
            "member is damaged"
        )


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body is over the limit of {limit} bytes (before or after decompression); send it in several requests, or raise "
        "max_http_request_size"
    )


def text_headers(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
