"""A body as numpy sees it: padded memory that is used again, and where its lines, sections and delimiters are.

A body is *regular* if its lines can be found without reading it character by character: every quote opens or closes the
string value of a field, and no newline is escaped. What is not regular is sorted out line by line first (`sort_out`).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from walmill.ingest.lineprotocol import split_lines

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Words: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Bools: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

PADDING = 128
"""Bytes beyond the body that may be read: keys are compared eight bytes at a time."""
LINE_BYTES = 256 * 1024
"""A longer line may hold a name or a value that is too long: it is read character by character."""
FIELDS = 1000
_NEWLINE, _SPACE, _HASH, _QUOTE, _COMMA, _EQUALS, _BACKSLASH = b'\n #",=\\'
_ODD = (b"\t", b"\0", b"\r")

# The same question for one line of text: is it regular?
_REGULAR = re.compile(
    r"""
    (?![#\ ])
    (?: [^\\"\n\r\t\0\udc80-\udcff\ ]++ | \\[^\n\r\t\0\udc80-\udcff"] )*+
    (?: \ (?: [^\\"\n\r\t\0\udc80-\udcff=]++ | \\[^\n\r\t\0\udc80-\udcff"=]
            | = (?: "(?: [^"\\\r\udc80-\udcff]++ | \\[^\r\udc80-\udcff] )*+" (?= [,\ ] | \Z ) )?
        )*+ )?
    """,
    re.VERBOSE | re.DOTALL,
)


class Scratch:
    """Memory for one body at a time, kept for the next one. One thread uses it."""

    def __init__(self) -> None:
        self._bytes: Bytes = np.empty(0, np.uint8)
        self._marks: Bools = np.empty(0, np.bool_)
        self._more: Bools = np.empty(0, np.bool_)

    def take(self, size: int) -> tuple[Bytes, Bools, Bools]:
        """Memory for a body of so many bytes, and two masks of its length."""
        if len(self._bytes) < size + PADDING:
            room = max(64 * 1024, int(size * 1.25)) + PADDING
            self._bytes = np.empty(room, np.uint8)
            self._marks = np.empty(room, np.bool_)
            self._more = np.empty(room, np.bool_)
        return self._bytes[: size + PADDING], self._marks[:size], self._more[:size]


class Block(NamedTuple):
    """A regular body and its structure.

    Attributes:
        body: The body; its last byte is a newline.
        bytes: The same, with padding.
        words: Eight bytes from each place on, as a number with the first byte lowest.
        buffer: The same memory for Arrow.
        places: Where the delimiters (newline, space, comma, equals sign) are that are neither escaped nor in a string.
        delimiters: Which byte each of them is.
        starts: Where each line starts.
        ends: Where its newline is.
        rows: Numbers of the lines that may be read fast; the arrays below are about these.
        first: Index in `places` of the space behind measurement and tags.
        second: Index of the space before the timestamp, or of the newline.
        slow: Numbers of the lines that have to be read character by character.
        quoted: Whether there are strings.
    """

    body: bytes
    bytes: Bytes
    words: Words
    buffer: pa.Buffer
    places: Ints
    delimiters: Bytes
    starts: Ints
    ends: Ints
    rows: Ints
    first: Ints
    second: Ints
    slow: Ints
    quoted: bool


def read_block(body: bytes, scratch: Scratch) -> Block | None:
    """The structure of a body of valid UTF-8; None if it is not regular.

    Args:
        body: At least one byte; its last one is a newline.
        scratch: What the result lives in; it is valid until the next call.
    """
    quoted, escaped = b'"' in body, b"\\" in body
    if (quoted or escaped) and (b"\\\n" in body or b"\r" in body):
        return None
    size = len(body)
    memory, marks, more = scratch.take(size)
    data = memory[:size]
    data[:] = np.frombuffer(body, np.uint8)
    memory[size:] = 0
    np.equal(data, _NEWLINE, out=marks)
    for delimiter in (_SPACE, _COMMA, _EQUALS):
        np.equal(data, delimiter, out=more)
        np.logical_or(marks, more, out=marks)
    quotes = np.flatnonzero(np.equal(data, _QUOTE, out=more)) if quoted else None
    slashes = np.flatnonzero(np.equal(data, _BACKSLASH, out=more)) if escaped else None
    if slashes is not None:
        behind = _escaped(slashes)
        marks[behind[behind < size]] = False
        if quotes is not None:
            quotes = quotes[~np.isin(quotes, behind)]
    places = np.flatnonzero(marks)
    if quotes is not None and len(quotes):
        if len(quotes) % 2:
            return None
        openers, closers = quotes[0::2], quotes[1::2]
        following = memory[closers + 1]
        if (
            openers[0] == 0
            or not (marks[openers - 1] & (data[openers - 1] == _EQUALS)).all()
            or not ((following == _COMMA) | (following == _SPACE) | (following == _NEWLINE)).all()
        ):
            return None
        places = _outside(places, openers, closers)
    else:
        openers = None
    delimiters = data[places]
    newlines = np.flatnonzero(delimiters == _NEWLINE)
    ends = places[newlines]
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    spaces = np.flatnonzero(delimiters == _SPACE)
    good: Bools | None = None
    if len(spaces) == 2 * len(ends) and (spaces[1::2] < newlines).all() and (spaces[2::2] > newlines[:-1]).all():
        first, second = spaces[0::2], spaces[1::2]
    else:
        reached = np.searchsorted(spaces, newlines)
        counts = np.diff(reached, prepend=0)
        good = (counts == 1) | (counts == 2)
        if not len(spaces):
            first = second = newlines
        else:
            place = np.minimum(reached - counts, len(spaces) - 1)
            first = np.where(counts > 0, spaces[place], newlines)
            second = np.where(counts == 2, spaces[np.minimum(place + 1, len(spaces) - 1)], newlines)
    heads = data[starts]
    comments = heads == _HASH
    if quoted or escaped:
        if ((heads == _SPACE) | (heads == 9)).any():
            return None
        if openers is not None and (places[first[np.searchsorted(ends, openers)]] >= openers).any():
            return None  # a quote among the tags is an ordinary character
        if comments.any() and _holds(np.flatnonzero((data == _QUOTE) | (data == _BACKSLASH)), starts, ends, comments):
            return None
    between = second - first
    wrong = ((between & 1) == 1) | (between == 0) | (between > 2 * FIELDS) | (ends - starts > LINE_BYTES)
    if wrong.any():
        good = ~wrong if good is None else good & ~wrong
    for odd in _ODD:
        if odd in body:
            lines = np.searchsorted(ends, np.flatnonzero(data == odd[0]))
            good = np.ones(len(ends), np.bool_) if good is None else good
            good[lines] = False
    empty = np.zeros(0, np.int64)
    if good is not None or comments.any():
        good = ~comments if good is None else good & ~comments
        rows = np.flatnonzero(good)
        first, second = first[rows], second[rows]
        slow = np.flatnonzero(~good & ~comments & (ends > starts))
    else:
        rows, slow = np.arange(len(ends)), empty
    words: Words = np.ndarray((size + PADDING - 8,), np.uint64, memory.data, 0, (1,))
    return Block(
        body,
        memory,
        words,
        pa.py_buffer(memory),
        places,
        delimiters,
        starts,
        ends,
        rows,
        first,
        second,
        slow,
        openers is not None,
    )


def line_numbers(block: Block) -> Ints:
    """The physical line, from 1, in which each line starts: newlines inside of strings count too."""
    if not block.quoted:
        return np.arange(1, len(block.starts) + 1)
    size = len(block.body)
    newlines = np.flatnonzero(block.bytes[:size] == _NEWLINE)
    if len(newlines) == len(block.starts):
        return np.arange(1, len(block.starts) + 1)
    return np.searchsorted(newlines, block.starts) + 1


def sort_out(body: bytes) -> tuple[bytes, Ints, list[tuple[int, str]]]:
    """Takes a body apart that is not regular.

    Args:
        body: Any bytes.

    Returns:
        The regular lines as a body of their own (empty if there are none), their physical lines, and number and text of
        the others; bytes that are not UTF-8 are surrogates there.
    """
    regular: list[str] = []
    numbers: list[int] = []
    others: list[tuple[int, str]] = []
    for number, line in split_lines(body.decode(errors="surrogateescape")):
        if not line or line[0] == "#":
            continue
        if "\\\n" in line or line[-1] == "\\" or _REGULAR.fullmatch(line) is None:
            others.append((number, line))
        else:
            regular.append(line)
            numbers.append(number)
    joined = ("\n".join(regular) + "\n").encode() if regular else b""
    return joined, np.array(numbers, np.int64), others


def _escaped(slashes: Ints) -> Ints:
    """The places behind an odd number of backslashes."""
    ends = np.append(slashes[1:] != slashes[:-1] + 1, True)
    last = np.flatnonzero(ends)
    lengths = np.diff(last, prepend=-1)
    found: Ints = slashes[last[lengths % 2 == 1]] + 1
    return found


def _outside(places: Ints, openers: Ints, closers: Ints) -> Ints:
    """The places that lie in no string."""
    begin, end = np.searchsorted(places, openers), np.searchsorted(places, closers)
    if (begin == end).all():
        return places
    steps = np.bincount(begin, minlength=len(places) + 1) - np.bincount(end, minlength=len(places) + 1)
    found: Ints = places[np.cumsum(steps[:-1]) == 0]
    return found


def _holds(places: Ints, starts: Ints, ends: Ints, lines: Bools) -> bool:
    """Whether one of these lines holds one of these places."""
    counts = np.searchsorted(places, ends[lines]) - np.searchsorted(places, starts[lines])
    return bool(counts.any())
