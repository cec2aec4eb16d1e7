"""Going on after a break: whatever was acknowledged in whatever order, each line is sent once."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walmill.cli.checkpoint import Done, Journal, State, Tail, entry, joined, read, what_is_left
from walmill.cli.pieces import Piece, Place, pieces
from walmill.cli.source import Source, Stream
from walmill.errors import Conflict, InvalidRequest

TARGET = {"server": "http://127.0.0.1:8181", "database": "d", "precision": "auto"}
TEXT = st.lists(
    st.sampled_from(["cpu v=1 1\n", 'log m="a\nb" 3\n', "# c\n", "\n", 'log m="c\\"\nd" 4\n', "a\\\nb v=1 4\n"]),
    max_size=20,
).flatmap(
    lambda found: st.sampled_from(["", "cpu v=9 9", 'log m="open']).map(lambda last: ("".join(found) + last).encode())
)


def done(piece: Piece) -> Done:
    return Done(piece.start, piece.end, Tail.of(piece.data), piece.lines)


def stream(data: bytes) -> Stream:
    return Stream("s", io.BytesIO(data))


@given(TEXT, st.integers(1, 30), st.integers(1, 30), st.randoms(use_true_random=False), st.booleans())
@example(b'log m="a\nb" 3\ncpu v=9 9', 1, 30, random.Random(1), True)
def test_acknowledged_and_left_are_all(data: bytes, size: int, other: int, luck: random.Random, torn: bool) -> None:
    merged = list(pieces([data[i : i + size] for i in range(0, len(data), size)], piece_bytes=size))
    acknowledged = [piece for piece in merged if luck.random() < 0.5]
    luck.shuffle(acknowledged)
    journal = b'{"format": "walmill write 1"}\n' + b"".join(entry("k", done(piece)) for piece in acknowledged)
    if torn:
        journal += entry("k", Done(Place(), Place(5, 2), Tail.of(b"x")))[:-9]
    state = read(journal)
    assert state is not None
    parts = state.done.get("k", ())
    left = list(what_is_left("s", stream(data), parts, piece_bytes=other))
    everything = sorted([*acknowledged, *left], key=lambda piece: piece.start)
    place = Place()
    for piece in everything:
        assert piece.start == place
        place = piece.end
    assert b"".join(piece.data for piece in everything) == data
    again = joined([*parts, *map(done, left)])
    assert len(again) <= 1
    assert sum(part.written for part in again) == sum(piece.lines for piece in merged)
    assert list(what_is_left("s", stream(data), again)) == []


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("pack", [bytes, gzip.compress, _zstd], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "marked"])
def test_a_file_goes_on_behind_what_was_acknowledged(tmp_path: Path, pack: object, mark: bytes) -> None:
    assert callable(pack)
    data = b"".join(b"cpu,host=%d v=%d %d\n" % (i % 7, i, i) for i in range(150_000))
    path = tmp_path / "a.lp"
    path.write_bytes(pack(mark + data))
    source = Source.of(path)
    everything = list(what_is_left("a", source.open(), ()))
    assert b"".join(piece.data for piece in everything) == data
    first = [done(everything[0])]
    left = list(what_is_left("a", source.open(), first))
    assert everything[0].data + b"".join(piece.data for piece in left) == data
    assert left[0].start == everything[0].end
    changed = bytearray(data)
    changed[len(everything[0].data) - 3] ^= 1
    path.write_bytes(pack(mark + bytes(changed)))
    with pytest.raises(InvalidRequest, match="not what it was"):
        list(what_is_left("a", source.open(), first))
    path.write_bytes(pack(mark + data[:1000]))
    with pytest.raises(InvalidRequest, match="not what it was"):
        list(what_is_left("a", source.open(), first))


def test_a_file_that_grew_goes_on_unless_its_last_line_had_no_end() -> None:
    whole = [done(piece) for piece in pieces([b"cpu v=1 1\n"])]
    assert [piece.data for piece in what_is_left("s", stream(b"cpu v=1 1\ncpu v=2 2\n"), whole)] == [b"cpu v=2 2\n"]
    cut = [done(piece) for piece in pieces([b"cpu v=1 1"])]
    assert list(what_is_left("s", stream(b"cpu v=1 1"), cut)) == []
    with pytest.raises(InvalidRequest, match="not what it was"):
        list(what_is_left("s", stream(b"cpu v=1 1000\n"), cut))


def test_a_journal_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "c"
    source = Source("a.lp", "/a.lp", None, 7)
    part = done(next(pieces([b"cpu v=1 1\n"])))
    journal = Journal(path, TARGET)
    assert journal.state == State(TARGET)
    journal.record(source, part)
    with pytest.raises(Conflict, match="in use"):
        Journal(path, TARGET)
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"source": "/a.lp", "fr')
    second = Journal(path, TARGET)
    assert second.state.done == {"/a.lp": (part,)}
    second.record_whole(source)
    second.close()
    third = Journal(path, TARGET)
    assert third.state.whole == {"/a.lp": 7}
    third.remove()
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cpu v=1 1\n", "is no checkpoint"),
        (b"cpu v=1 1", "is no checkpoint"),
        (b'{"format": "walmill write 1"}\n{"source": 1\n{}\n', "its line 2 is damaged"),
        (
            b'{"format": "walmill write 1", "server": "http://x", "database": "d", "precision": "auto"}\n',
            "about the server",
        ),
    ],
)
def test_what_is_no_checkpoint_of_this_command_stays_as_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=message):
        Journal(path, TARGET)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"format": "wal'])
def test_a_journal_that_was_only_begun_begins_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    Journal(path, TARGET).close()
    assert read(path.read_bytes()) == State(TARGET, valid=len(path.read_bytes()))
