"""Sources: what they are is told by their bytes, and what is damaged is said."""

from __future__ import annotations

import gzip
import io
import random

import pyarrow as pa
import pytest

from walmill.cli.source import Stream
from walmill.errors import InvalidRequest

DATA = random.Random(7).randbytes(3_000_000).hex().encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return bytes(sink.getvalue().to_pybytes())


SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0walm"
PACKED = {
    "plain": DATA,
    "gzip": gzip.compress(DATA, 1, mtime=0),
    "gzip in members": gzip.compress(DATA[:9], 1) + gzip.compress(b"") + gzip.compress(DATA[9:], 1) + b"\0" * 20,
    "zstd": zstd(DATA),
    "zstd in frames": SKIPPABLE + zstd(DATA[:5]) + zstd(b"") + zstd(DATA[5:]) + SKIPPABLE,
}


class Pipe(io.RawIOBase):
    """What cannot seek, and gives a few bytes at first."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._first = True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, 3) if self._first else size)
        self._first = False
        return data


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("opened", [io.BytesIO, Pipe])
def test_a_source_is_read_whole_in_bounded_parts(packed: bytes, opened: type) -> None:
    stream = Stream("s", opened(packed))
    parts = list(stream.until(None))
    assert b"".join(parts) == DATA
    assert max(map(len, parts)) <= 2**20
    assert stream.offset == len(DATA)
    again = Stream("s", opened(packed))
    assert again.skip_to(2_500_000)
    assert b"".join(again.until(5_000_000)) == DATA[2_500_000:5_000_000]
    assert not again.skip_to(len(DATA) + 1)


@pytest.mark.parametrize("kind", ["gzip", "gzip in members", "zstd", "zstd in frames"])
def test_a_source_that_is_cut_off_is_read_so_far(kind: str) -> None:
    packed = PACKED[kind]
    stream = Stream("s", io.BytesIO(packed[: len(packed) // 2]))
    read: list[bytes] = []
    with pytest.raises(InvalidRequest, match=f"s is cut off: its {kind[:4]} data has no end"):
        read.extend(stream.until(None))
    assert len(read) > 1
    assert DATA.startswith(b"".join(read))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PACKED["gzip"][:9] + b"garbage" * 99, "s is damaged"),
        (PACKED["zstd"][:200_000] + b"\xff" * 200_000, "s is damaged"),
        (gzip.compress(b"cpu v=1 1\n", mtime=0) + b"garbage", "s is damaged"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"PAR1rest", "Parquet"),
        (b"BZh91AY", "bunzip2"),
        ("cpu v=1\n".encode("utf-16"), "iconv"),
        (b"\x7fELF\x02\0\0\xff\xfe" + bytes(99), "is binary, not line protocol"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        b"".join(Stream("s", io.BytesIO(data)).until(None))


@pytest.mark.parametrize("data", [b"", b"\n", b"cpu v=1", b'log m="a\0b" 1\n', "é v=1\n".encode() * 3000])
def test_text_is_left_as_it_is(data: bytes) -> None:
    for packed in (data, gzip.compress(data), zstd(data)):
        assert b"".join(Stream("s", io.BytesIO(packed)).until(None)) == data
        assert b"".join(Stream("s", Pipe(packed)).until(None)) == data
