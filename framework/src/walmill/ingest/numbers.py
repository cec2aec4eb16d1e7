"""Decimal integers in bytes, many at a time: eight digits in one 64-bit word (SWAR)."""

from __future__ import annotations

import numpy as np

from walmill.ingest.block import Block, Bools, Ints, Words
from walmill.ingest.precision import INT64_MAX, NANOS, Precision

MASKS: Words = np.array([*((1 << (8 * count)) - 1 for count in range(8)), 2**64 - 1], np.uint64)
"""The lowest so many bytes of a word."""
_HIGH = np.uint64(0xF0F0F0F0F0F0F0F0)
_ZEROS = np.uint64(0x3030303030303030)
_SIX = np.uint64(0x0606060606060606)
_THREES = np.uint64(0x3333333333333333)
_STEPS = np.array([5_000_000_000, 5_000_000_000_000, 5_000_000_000_000_000])
_UNITS = np.array([10**9, 10**6, 10**3, 1])


def _eight_digits(word: Words) -> Words:
    """The number that eight ASCII digits are, the first one in the lowest byte."""
    word = word - _ZEROS
    word = word * np.uint64(10) + (word >> np.uint64(8))
    low = (word & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
    high = ((word >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(0x0000271000000001)
    found: Words = (low + high) >> np.uint64(32)
    return found


def read_integers(block: Block, starts: Ints, ends: Ints) -> tuple[Ints, Bools]:
    """Integers of at most 19 digits with an optional minus, and which of them are such and fit int64."""
    negative = block.bytes[starts] == 45
    signed = bool(negative.any())
    if signed:
        starts = starts + negative
    lengths = ends - starts
    good = (lengths > 0) & (lengths <= 19)
    total = np.zeros(len(starts), np.uint64)
    longest = min(19, int(lengths.max(initial=0)))
    scale = 1
    for done in range(0, longest, 8):
        begin = ends - done - 8
        words = block.words[np.maximum(begin, 0)]
        if len(begin) and begin.min() < 0:  # near the start of the body: move the digits to where they belong
            words = np.where(begin < 0, block.words[0] << (8 * -np.minimum(begin, 0)).astype(np.uint64), words)
        keep = ~MASKS[8 - np.clip(lengths - done, 0, 8)]
        words = (words & keep) | (_ZEROS & ~keep)
        good &= ((words & _HIGH) | (((words + _SIX) & _HIGH) >> np.uint64(4))) == _THREES
        total += _eight_digits(words) * np.uint64(scale)
        scale *= 10**8
    values = total.view(np.int64)
    good &= values >= 0
    return (np.where(negative, -values, values) if signed else values), good


def scale_times(numbers: Ints, precision: Precision) -> tuple[Ints, Bools]:
    """Timestamps as nanoseconds, and which of them 64-bit nanoseconds can hold."""
    if precision is Precision.AUTO:
        units = _UNITS[np.searchsorted(_STEPS, np.abs(numbers), side="right")]
        return numbers * units, np.abs(numbers) <= INT64_MAX // units
    unit = NANOS[precision]
    if unit == 1:
        return numbers, np.ones(len(numbers), np.bool_)
    return numbers * unit, np.abs(numbers) <= INT64_MAX // unit
