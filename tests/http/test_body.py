from __future__ import annotations

import asyncio
import contextlib
import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.errors import InvalidRequest, TooLarge
from walmill.http.body import ClientGone, gunzip, read_body

PIECES = st.lists(st.binary(max_size=200), max_size=5)


@given(members=PIECES, zeros=st.integers(0, 5))
def test_gunzip_gives_what_was_compressed(members: list[bytes], zeros: int) -> None:
    packed = b"".join(gzip.compress(member, mtime=0) for member in members) + bytes(zeros if members else 0)
    whole = b"".join(members)
    assert gunzip(packed, len(whole)) == whole
    if whole:
        with pytest.raises(TooLarge):
            gunzip(packed, len(whole) - 1)


@given(member=st.binary(min_size=1, max_size=200), data=st.data())
def test_a_gzip_that_is_cut_is_never_taken(member: bytes, data: st.DataObject) -> None:
    packed = gzip.compress(member, mtime=0)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(InvalidRequest):
        gunzip(packed[:cut], 1000)


@given(garbage=st.binary(min_size=1, max_size=300))
def test_anything_is_read_or_refused_with_a_sentence(garbage: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert len(gunzip(garbage, 1000)) <= 1000


def _read(pieces: list[bytes], limit: int, headers: dict[bytes, bytes], *, gone: bool = False) -> tuple[bytes, int]:
    """The body, and how many messages were read."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if gone:
        messages.append({"type": "http.disconnect"})
    elif messages:
        messages[-1]["more_body"] = False
    else:
        messages.append({"type": "http.request"})
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return messages[read - 1]

    scope = {"type": "http", "headers": list(headers.items())}
    return asyncio.run(read_body(scope, receive, limit)), read


@given(pieces=PIECES, packed=st.booleans())
def test_a_body_comes_whole_however_it_is_cut(pieces: list[bytes], packed: bool) -> None:
    whole = b"".join(pieces)
    if packed:
        data = gzip.compress(whole, mtime=0)
        pieces = [data[:7], data[7:]]
    headers = {b"content-encoding": b"gzip"} if packed else {}
    assert _read(pieces, 1000, headers)[0] == whole


@given(pieces=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5), short=st.integers(1, 50))
def test_a_body_over_the_limit_is_refused(pieces: list[bytes], short: int) -> None:
    size = sum(map(len, pieces))
    with pytest.raises(TooLarge):
        _read(pieces, max(0, size - short), {})


@pytest.mark.parametrize(
    "headers", [{b"content-length": b"801"}, {b"content-length": b"101", b"expect": b"100-continue"}]
)
def test_a_length_that_is_far_too_large_is_refused_unread(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(TooLarge):
        _read([], 100, headers, gone=True)


@pytest.mark.parametrize("pieces", [[], [b"x"]])
def test_a_caller_who_goes_away(pieces: list[bytes]) -> None:
    with pytest.raises(ClientGone):
        _read(pieces, 100, {}, gone=True)
