"""The values of fields: from places in a body to typed columns, checked by the rules of line protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from walmill.ingest.block import Block, Bools, Ints

NONE, FLOAT, INT, UINT, BOOL, STRING = range(6)
KINDS = ("", "float64", "int64", "uint64", "bool", "string")
_TYPES = (None, pa.float64(), pa.int64(), pa.uint64(), pa.bool_(), pa.string())
_TRUE = pa.array(["true", "True", "TRUE", "t", "T"])
_FALSE = pa.array(["false", "False", "FALSE", "f", "F"])
MOST_BAD = 64
"""More bad values than this in a body are not searched for one by one."""

CLASSES = np.zeros(256, np.uint8)
"""What a value is, by its last byte."""
CLASSES[list(b"0123456789")] = FLOAT
CLASSES[ord("i")] = INT
CLASSES[ord("u")] = UINT
CLASSES[list(b"tTfFeE")] = BOOL
CLASSES[ord('"')] = STRING


class Column(NamedTuple):
    """Values of one kind that belong together.

    Attributes:
        kind: Their class.
        start: The first of them among the tokens.
        stop: The one after the last.
    """

    kind: int
    start: int
    stop: int


def plausible(block: Block, starts: Ints, ends: Ints, classes: np.ndarray[Any, np.dtype[np.uint8]]) -> Bools:
    """Which values can be what their last byte says: all but what Arrow would read and line protocol forbids.

    Arrow takes `.5`, `1.`, `nan`, `inf` and hexadecimal integers.
    """
    data = block.bytes
    first = data[starts]
    lengths = ends - starts
    good: Bools = classes != NONE
    digit = (first >= 48) & (first <= 57)
    minus = first == 45
    if minus.any():
        second = data[starts + 1]
        digit |= minus & (second >= 48) & (second <= 57) & (lengths > 1) & (classes != UINT)
    good &= digit | (classes == BOOL) | (classes == STRING)
    whole = (classes == INT) | (classes == UINT)
    if whole.any():
        zero = data[starts + minus] == 48
        good &= ~whole | ((lengths > 1) & (~zero | (lengths <= 2 + minus)))
    text = classes == STRING
    if text.any():
        good &= ~text | ((first == 34) & (lengths > 1))
    return good


def cast(block: Block, starts: Ints, ends: Ints, columns: Sequence[Column]) -> tuple[list[pa.Array], Ints | None]:
    """Values as Arrow arrays.

    Args:
        block: The body.
        starts: Where each value starts, column after column.
        ends: Where it ends.
        columns: What belongs together; of plausible values.

    Returns:
        An array for each column, and which tokens are no values after all: something stands in their place.
    """
    found: list[pa.Array | None] = [None] * len(columns)
    bad: list[Ints] = []
    dotted = b".e" in block.body or b".E" in block.body
    for kind in (FLOAT, INT, UINT, BOOL, STRING):
        mine = [(place, column) for place, column in enumerate(columns) if column.kind == kind]
        if not mine:
            continue
        if len(mine) == len(columns):
            index, begin, end = None, starts, ends
        else:
            index = np.concatenate([np.arange(column.start, column.stop) for _, column in mine])
            begin, end = starts[index], ends[index]
        if kind == STRING:
            begin, end = begin + 1, end - 1
        elif kind in (INT, UINT):
            end = end - 1
        texts = _texts(block, begin, end)
        if kind == BOOL:
            values = pc.is_in(texts, _TRUE)
            wrong = ~(values.to_numpy(zero_copy_only=False) | pc.is_in(texts, _FALSE).to_numpy(zero_copy_only=False))
        elif kind == STRING:
            wrong = None
            values = _unescaped(texts) if b"\\" in block.body else texts
        else:
            values, wrong = _numbers(texts, _TYPES[kind], dotted and kind == FLOAT)
        if wrong is not None and wrong.any():
            bad.append(np.flatnonzero(wrong) if index is None else index[np.flatnonzero(wrong)])
        offset = 0
        for place, column in mine:
            size = column.stop - column.start
            found[place] = values.slice(offset, size)
            offset += size
    return found, np.concatenate(bad) if bad else None


def _texts(block: Block, begin: Ints, end: Ints) -> pa.StringArray:
    """The texts as one array: a copy of nothing but these bytes."""
    count = len(begin)
    offsets = np.empty(2 * count + 2, np.int32)
    offsets[0], offsets[-1] = 0, len(block.body)
    offsets[1:-1:2] = begin
    offsets[2:-1:2] = end
    # every second string of this array is a text; those between them have senseless lengths and are never looked at
    spread = pa.StringArray.from_buffers(2 * count + 1, pa.py_buffer(offsets), block.buffer)
    return spread.take(pa.array(np.arange(1, 2 * count + 1, 2)))


def _unescaped(texts: pa.StringArray) -> pa.StringArray:
    if not pc.any(pc.match_substring(texts, "\\")).as_py():
        return texts
    return pc.replace_substring_regex(texts, r'\\(["\\])', r"\1")


def _numbers(texts: pa.StringArray, kind: pa.DataType, dotted: bool) -> tuple[pa.Array, Bools | None]:
    """Numbers of texts; what is none is zero and marked."""
    wrong: Bools | None = None
    if dotted:  # `1.e5`: Arrow takes it
        wrong = pc.match_substring_regex(texts, r"\.[eE]").to_numpy(zero_copy_only=False)
    try:
        values = texts.cast(kind)
    except pa.ArrowInvalid:
        unreadable = np.zeros(len(texts), np.bool_)
        parts: list[pa.Array] = []
        _search(texts, kind, 0, parts, unreadable)
        values = pa.concat_arrays(parts)
        wrong = unreadable if wrong is None else wrong | unreadable
    if pa.types.is_floating(kind):
        infinite = np.isinf(values.to_numpy())
        if infinite.any():
            wrong = infinite if wrong is None else wrong | infinite
    return values, wrong


def _search(texts: pa.StringArray, kind: pa.DataType, at: int, parts: list[pa.Array], wrong: Bools) -> None:
    """Casts what can be cast, halving: a single bad value costs about as much as two casts."""
    if len(texts) == 1 or wrong.sum() > MOST_BAD:
        try:
            parts.append(texts.cast(kind))
        except pa.ArrowInvalid:
            wrong[at : at + len(texts)] = True
            parts.append(pa.array(np.zeros(len(texts)), kind) if len(texts) else pa.array([], kind))
        return
    half = len(texts) // 2
    for begin, part in ((0, texts.slice(0, half)), (half, texts.slice(half))):
        try:
            parts.append(part.cast(kind))
        except pa.ArrowInvalid:
            _search(part, kind, at + begin, parts, wrong)
