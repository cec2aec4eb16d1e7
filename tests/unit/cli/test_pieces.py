"""Pieces of line protocol: joined they are the input, and they are cut exactly where the parser ends a line."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walmill.cli.pieces import Piece, Place, halves, lines, pieces, whole_lines
from walmill.errors import InvalidRequest
from walmill.ingest.lineprotocol import split_lines

# What decides where a line ends, and little else; and lines as they come.
BYTES = st.text('a,= \t"\\\n\r#1', max_size=60).map(str.encode) | st.binary(max_size=40)
LINES = st.lists(
    st.sampled_from(
        [
            "cpu v=1 1",
            "cpu v=1",
            'log m="a b" 2',
            'log m="a\nb" 3',
            'log m="\\"\n\\\\" 3',
            "a\\\nb v=1 4",
            "# it's \"",
            "",
            " \t",
            "\r",
        ]
    ),
    max_size=12,
).map(lambda found: "\n".join(found).encode())


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def starts(data: bytes) -> dict[int, int]:
    """Where each line starts, and its number, as the parser has them."""
    found, offset = {}, 0
    text = data.decode("latin-1")
    for number, line in split_lines(text):
        if offset < len(text):  # for some texts the parser sees an empty line behind the last line end
            found[offset] = number
        offset += len(line)
        offset += 2 if text.startswith("\r\n", offset) else 1
    return found


@given(BYTES | LINES, st.lists(st.integers(0, 1000), max_size=8), st.integers(1, 40))
@example(b'a m="x\ny" 1\nb v=1', [3], 1)
@example(b'a m="never closed\n', [], 1)
def test_pieces_are_the_input_cut_where_lines_end(data: bytes, cuts: list[int], size: int) -> None:
    known = starts(data)
    offset = 0
    for piece in pieces(chunked(data, cuts), piece_bytes=size):
        assert piece.start.offset == offset
        assert known[offset] == piece.start.line
        assert piece.refusal is None
        offset += len(piece.data)
        assert data[:offset].endswith(piece.data)
        assert piece.data
    assert offset == len(data)


@given(BYTES | LINES)
def test_lines_are_those_of_the_parser(data: bytes) -> None:
    found = list(lines(data))
    assert {one.start: one.number for one in found} == starts(data)
    assert b"".join(data[one.start : one.end] for one in found) == data
    for one, (_, text) in zip(found, split_lines(data.decode("latin-1")), strict=False):
        kept = text.lstrip(" \t")
        assert one.filled == bool(kept and not kept.startswith("#"))
    whole = whole_lines(data, to_the_end=True)
    assert (whole.end, whole.lines) == (len(data), sum(one.filled for one in found))


@given(LINES, st.integers(0, 5))
def test_halves_are_the_piece(data: bytes, before: int) -> None:
    piece = Piece(data, Place(7, before + 1), whole_lines(data, to_the_end=True).lines)
    cut = halves(piece)
    if cut is None:
        assert len(list(lines(data))) <= 1
        return
    first, second = cut
    assert first.data + second.data == data
    assert first.data
    assert second.data
    assert first.end == second.start
    assert second.end == piece.end
    assert len(first.data) in starts(data)
    assert first.lines + second.lines == piece.lines


@pytest.mark.parametrize(
    ("data", "untimed"),
    [
        (b"cpu v=1 1\ncpu v=2 2\n", 0),
        (b"cpu v=1\ncpu v=2 2\n", 1),
        (b"cpu v=1 \ncpu  v=2  -2 \n", 1),
        (b"cpu v=1\r\ncpu v=2 2\r\n", 1),
        (b"# a=1 b\n\ncpu v=1", 1),
        (b'log m="at 12" 1\nlog m="at 12"\n', 1),
        (b'log m="a\n12" 1\nlog m="a\n 12"\n', 1),
        (b"one\\ host v=1 5\none\\ host v=1", 1),
    ],
)
def test_lines_without_timestamps_are_counted(data: bytes, untimed: int) -> None:
    assert whole_lines(data, to_the_end=True).untimed == untimed


def test_a_quote_that_is_never_closed_costs_its_line_only() -> None:
    good = b"cpu v=1 1\n" * 50
    data = b'cpu v=0 0\nlog m="open 1\n' + good
    found = list(pieces(chunked(data, list(range(0, 600, 10))), piece_bytes=10, line_bytes=100))
    refused = [one for one in found if one.refusal]
    assert [(one.data, one.start.line) for one in refused] == [(b'log m="open 1\n', 2)]
    assert b"".join(one.data for one in found) == data
    assert sum(one.lines for one in found) == 52


def test_a_line_without_end_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="line 2 is longer than 100 bytes"):
        list(pieces([b"cpu v=1 1\n", b"x" * 101], piece_bytes=10, line_bytes=100))
