r"""Cutting line protocol into pieces of about a megabyte, at line ends only. Pure.

A newline inside a quoted string, or after a backslash in a name, ends no line: the rule is that of
`walmill.ingest.lineprotocol`, on bytes, and a property test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import frozen

from walmill.errors import InvalidRequest

PIECE_BYTES = 2**20
"""About how large a piece gets; a server takes 10 MiB by default."""
LINE_BYTES = 8 * 2**20
"""No line is longer; a quote that is never closed would make one."""

_LINE = rb"""
    (?: [^\\ \n]++ | \\.? )*+
    (?: [ ]
        (?: [^\\\n=]++
          | = (?: " (?: [^"\\]++ | \\.? )*+ "? )?
          | \\.?
        )*+
    )?
"""
_ONE = re.compile(rb"[ \t]*+ (?: \#[^\n]*+ | (" + _LINE + rb") ) (?: (\n) | \Z )", re.VERBOSE | re.DOTALL)
"""One line: its text, which is missing for a comment, and its end, which may be missing for the last one."""
_FILLED = re.compile(rb"^[ \t]*+(?!#|\r?$)", re.MULTILINE)
_UNTIMED = re.compile(rb"^[ \t]*+[^ \n#][^ \n]*+ ++[^ \n=]++=[^ \n]*+ *+$", re.MULTILINE)
_ODD_STARTS = (b"#", b"\n\n", b"\n\r", b"\n ", b"\n\t")


@frozen(order=True)
class Place:
    """Where a line begins.

    Attributes:
        offset: Bytes before it.
        line: Its number among the physical lines, from 1.
    """

    offset: int = 0
    line: int = 1


@frozen
class Piece:
    """Whole lines.

    Attributes:
        data: The lines, with their ends.
        start: Where it begins.
        lines: How many lines of data it holds: no blanks, no comments.
        untimed: How many of them have no timestamp, as far as that can be seen without reading them as a server does.
        refusal: Why it is not to be sent, if it is not.
    """

    data: bytes
    start: Place
    lines: int
    untimed: int = 0
    refusal: str | None = None

    @property
    def end(self) -> Place:
        """Where the line behind it begins."""
        return after(self.start, self.data)


@frozen
class Whole:
    """What the whole lines at the start of a text are: where they end, and as in `Piece`."""

    end: int
    lines: int
    untimed: int


def after(start: Place, data: bytes) -> Place:
    """The place behind a text that begins at a place."""
    return Place(start.offset + len(data), start.line + data.count(b"\n"))


def pieces(
    chunks: Iterable[bytes],
    *,
    start: Place = Place(),
    piece_bytes: int = PIECE_BYTES,
    line_bytes: int = LINE_BYTES,
) -> Iterator[Piece]:
    """Cuts a stream into pieces.

    Args:
        chunks: The stream, in parts of any size.
        start: Where it begins.
        piece_bytes: From which size on a piece is cut off; it is larger by less than a chunk, or than a line.
        line_bytes: The longest line. Of a longer one, the first physical line is a piece with a `refusal`: a quote that
            is not closed makes all that follows one line, and so costs only the line that it stands in.

    Yields:
        Pieces which, joined, are the stream.

    Raises:
        InvalidRequest: A physical line is too long; the message names it.
    """
    rest = b""
    for chunk in chunks:
        rest += chunk
        while len(rest) >= piece_bytes:
            whole = whole_lines(rest)
            piece = Piece(rest[: whole.end], start, whole.lines, whole.untimed)
            if not whole.end:
                if len(rest) <= line_bytes:
                    break
                piece = _overlong(rest, start, line_bytes)
            yield piece
            start, rest = piece.end, rest[len(piece.data) :]
    if rest:
        # What follows the last line end is a line as well: there is no more to come.
        whole = whole_lines(rest, to_the_end=True)
        yield Piece(rest, start, whole.lines, whole.untimed)


def _overlong(rest: bytes, start: Place, line_bytes: int) -> Piece:
    end = rest.find(b"\n") + 1
    if not end:
        raise InvalidRequest(
            f"line {start.line:,} is longer than {line_bytes:,} bytes: no server takes it; is it line protocol at all?"
        )
    return Piece(
        rest[:end],
        start,
        1,
        refusal=f"the line does not end within {line_bytes:,} bytes: the closing quote of a string is missing, or a backslash "
        "stands before the line end",
    )


def whole_lines(data: bytes, *, to_the_end: bool = False) -> Whole:
    """How much of a text is whole lines.

    Args:
        data: Starts with the start of a line.
        to_the_end: Whether what follows the last line end is a line as well.
    """
    if b'"' not in data and b"\\" not in data:
        end = len(data) if to_the_end else data.rfind(b"\n") + 1
        return _count_plain(data[:end])
    end, count, untimed = 0, 0, 0
    while end < len(data):
        match = _ONE.match(data, end)
        assert match is not None  # it consumes a line up to its end, or everything
        text, closed = match.groups()
        if not closed and not to_the_end:
            break
        end = match.end()
        if text and text != b"\r":
            count += 1
            untimed += not text.rstrip(b"\r ").rpartition(b" ")[2].lstrip(b"-").isdigit()
    return Whole(end, count, untimed)


def _count_plain(data: bytes) -> Whole:
    """Counts lines of which none has a quote or a backslash."""
    count = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    if any(odd in data for odd in _ODD_STARTS) or data[:1] in (b"\n", b"\r", b" ", b"\t"):
        count = len(_FILLED.findall(data))
    # Most texts have two blanks in each line, which is a hundred times faster to see than each timestamp.
    timed = data.count(b" ") == 2 * count and b"  " not in data and b" \n" not in data
    return Whole(len(data), count, 0 if timed else len(_UNTIMED.findall(data)))


@frozen
class Line:
    """One line of a text.

    Attributes:
        number: Of the physical line in which it starts, from 1.
        start: Where it starts.
        end: Behind its line end.
        filled: Whether it is neither blank nor a comment.
    """

    number: int
    start: int
    end: int
    filled: bool


def lines(data: bytes) -> Iterator[Line]:
    """The lines of a text, one after the other; the last one may lack its end."""
    number, start = 1, 0
    while start < len(data):
        match = _ONE.match(data, start)
        assert match is not None
        end = match.end()
        yield Line(number, start, end, match[1] not in (None, b"", b"\r"))
        number += data.count(b"\n", start, end)
        start = end


def halves(piece: Piece) -> tuple[Piece, Piece] | None:
    """A piece cut in two at a line end near its middle; None if it is one line."""
    middle = len(piece.data) // 2
    cut = 0
    for line in lines(piece.data):
        if line.start > middle and cut:
            break
        cut = line.start
        if cut >= middle:
            break
    if not cut:
        return None
    parts = []
    start = piece.start
    for data in (piece.data[:cut], piece.data[cut:]):
        whole = whole_lines(data, to_the_end=True)
        parts.append(Piece(data, start, whole.lines, whole.untimed))
        start = parts[-1].end
    return parts[0], parts[1]
