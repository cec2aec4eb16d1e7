"""Answers that are compressed for callers who take gzip."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain

from starlette.types import Scope

from walmill.http.body import header

LEAST = 1000
"""Answers of fewer bytes are sent as they are."""
LEVEL = 3
"""Rows repeat themselves: higher levels take twice the time for a few percent."""
_GZIP = 31  # zlib's way to say: with gzip's header


def takes_gzip(scope: Scope) -> bool:
    """Whether a caller takes gzip."""
    for part in (header(scope, b"accept-encoding") or "").lower().split(","):
        name, *parameters = (one.strip() for one in part.split(";"))
        if name in ("gzip", "*"):
            return not any(one.replace(" ", "").rstrip("0.") == "q=" for one in parameters)
    return False


def packed(pieces: Iterator[bytes], headers: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The pieces of an answer, compressed if they are worth it; each can be read when it comes.

    Args:
        pieces: The answer.
        headers: Of the answer; `content-encoding` is there before the first piece.
    """
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= LEAST:
            break
    else:
        yield from held
        return
    headers.append((b"content-encoding", b"gzip"))
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    for piece in chain([b"".join(held)], pieces):
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()
