r"""Cutting line protocol into pieces of a few megabytes, at line ends only. Pure.

A newline inside a quoted string, or after a backslash in a name, ends no line: the rule is that of
`walmill.ingest.lineprotocol`, on bytes, and a property test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from attrs import frozen

from walmill.errors import InvalidRequest

PIECE_BYTES = 4 * 2**20
"""About how large a piece gets; a server takes 10 MiB by default."""
LINE_BYTES = 8 * 2**20
"""No line is longer; a quote that is never closed would make one."""

_LINE = re.compile(
    rb"""
    (?: [^\\ \n]++ | \\.? )*+
    (?: [ ]
        (?: [^\\\n=]++
          | = (?: " (?: [^"\\]++ | \\.? )*+ "? )?
          | \\.?
        )*+
    )?
    """,
    re.VERBOSE | re.DOTALL,
)
_FILLED = re.compile(rb"^[ \t\r]*+[^ \t\r\n#]", re.MULTILINE)
_BLANK = b" \t"


@frozen
class Piece:
    """Whole lines.

    Attributes:
        data: The lines, with their ends.
        first_line: Number of the physical line with which it starts, from 1.
        lines: How many lines of data it holds: no blanks, no comments.
    """

    data: bytes
    first_line: int
    lines: int


def pieces(chunks: Iterable[bytes], *, piece_bytes: int = PIECE_BYTES, line_bytes: int = LINE_BYTES) -> Iterator[Piece]:
    """Cuts a stream into pieces.

    Args:
        chunks: The stream, in parts of any size.
        piece_bytes: From which size on a piece is cut off.
        line_bytes: The longest line.

    Yields:
        Pieces which, joined, are the stream.

    Raises:
        InvalidRequest: A line is too long; the message names where it starts.
    """
    rest = b""
    first_line = 1
    for chunk in chunks:
        rest += chunk
        if len(rest) < piece_bytes:
            continue
        end, lines = whole_lines(rest)
        if end:
            yield Piece(rest[:end], first_line, lines)
            first_line += rest.count(b"\n", 0, end)
            rest = rest[end:]
        if len(rest) > line_bytes:
            raise InvalidRequest(
                f"line {first_line:,} is longer than {line_bytes:,} bytes: it probably lacks the closing quote of a string"
            )
    if rest:
        end, lines = whole_lines(rest)
        # What follows the last line end is a line as well: there is no more to come.
        last = rest[end:].lstrip(_BLANK + b"\r\n")
        yield Piece(rest, first_line, lines + (1 if last and not last.startswith(b"#") else 0))


def whole_lines(data: bytes) -> tuple[int, int]:
    """How much of a text is whole lines.

    Args:
        data: Starts with the start of a line.

    Returns:
        The end of the last whole line, and how many of the whole lines are neither blank nor comments.
    """
    if b'"' not in data and b"\\" not in data:
        end = data.rfind(b"\n") + 1
        return end, len(_FILLED.findall(data, 0, end))
    start, lines = 0, 0
    while True:
        end = data.find(b"\n", start)
        if end < 0:
            return start, lines
        line = data[start:end]
        stripped = line.lstrip(_BLANK)
        comment = stripped.startswith(b"#")
        if not comment and (b'"' in stripped or b"\\" in stripped):
            match = _LINE.match(data, start + len(line) - len(stripped))
            assert match is not None  # the pattern matches the empty string
            end = match.end()
            if end >= len(data):
                return start, lines
        if not comment and stripped.strip(b"\r"):
            lines += 1
        start = end + 1
