"""Which rows go into which file: by month (UTC), and a large month by days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import frozen

from walmill.buffer.series import Ints, times_of
from walmill.snapshot.names import DAY, month_of

ROWS = 1_000_000
"""A month with more rows is split between days, so that each piece has about so many, or is one day."""

_FIRST = -(2**63)
_LAST = 2**63 - 1


@frozen
class Piece:
    """What goes into one file.

    Attributes:
        month: As in the path, `2026-11`.
        first_day: First day, counted from 1970-01-01.
        last_day: Last day.
        rows: Rows in the log; the file has fewer if some of them repeat others.
    """

    month: str
    first_day: int
    last_day: int
    rows: int

    @property
    def low(self) -> int:
        """The first nanosecond of it."""
        return max(_FIRST, self.first_day * DAY)

    @property
    def high(self) -> int:
        """The last nanosecond of it."""
        return min(_LAST, self.last_day * DAY + DAY - 1)


@frozen
class Extent:
    """A batch with the times of its earliest and its latest row."""

    batch: pa.RecordBatch
    low: int
    high: int


def extents(batches: Iterable[pa.RecordBatch]) -> list[Extent]:
    """The batches that have rows, with their times."""
    found = []
    for batch in batches:
        if batch.num_rows:
            times = times_of(batch)
            found.append(Extent(batch, int(times.min()), int(times.max())))
    return found


def count_days(extents: Iterable[Extent]) -> dict[int, int]:
    """How many rows each day has."""
    counts: Counter[int] = Counter()
    for extent in extents:
        first, last = extent.low // DAY, extent.high // DAY
        if first == last:
            counts[first] += extent.batch.num_rows
            continue
        days = np.floor_divide(times_of(extent.batch), DAY)
        if last - first < len(days):
            numbers = np.bincount(days - first)
            present = np.flatnonzero(numbers)
            counts.update(dict(zip((present + first).tolist(), numbers[present].tolist(), strict=True)))
        else:
            distinct, numbers = np.unique(days, return_counts=True)
            counts.update(dict(zip(distinct.tolist(), numbers.tolist(), strict=True)))
    return dict(counts)


def plan_pieces(days: Mapping[int, int], rows: int = ROWS) -> list[Piece]:
    """The pieces of a table, in order of time.

    Args:
        days: Number of rows of each day.
        rows: About how many rows a piece has at most.
    """
    months: dict[str, list[int]] = {}
    for day in sorted(days):
        months.setdefault(month_of(day), []).append(day)
    pieces: list[Piece] = []
    for month, present in months.items():
        if sum(days[day] for day in present) <= rows:
            pieces.append(Piece(month, present[0], present[-1], sum(days[day] for day in present)))
            continue
        start, count = present[0], 0
        end = start
        for day in present:
            if count and count + days[day] > rows:
                pieces.append(Piece(month, start, end, count))
                start, count = day, 0
            count += days[day]
            end = day
        pieces.append(Piece(month, start, end, count))
    return pieces


def group_pieces(pieces: Iterable[Piece], rows: int = ROWS) -> list[list[Piece]]:
    """Neighbouring pieces that are taken out of the batches and sorted together: few passes over the rows, and bounded memory."""
    groups: list[list[Piece]] = []
    count = 0
    for piece in pieces:
        if groups and count + piece.rows <= rows:
            groups[-1].append(piece)
            count += piece.rows
        else:
            groups.append([piece])
            count = piece.rows
    return groups


def extract(extents: Iterable[Extent], low: int, high: int) -> list[pa.RecordBatch]:
    """The rows with times in a closed range, in the order of the log."""
    found: list[pa.RecordBatch] = []
    for extent in extents:
        if extent.high < low or extent.low > high:
            continue
        if extent.low >= low and extent.high <= high:
            found.append(extent.batch)
            continue
        times = times_of(extent.batch)
        chosen = np.flatnonzero((times >= low) & (times <= high))
        if len(chosen):
            found.append(extent.batch.take(pa.array(chosen)))
    return found


def number_pieces(times: Ints, pieces: Sequence[Piece]) -> Ints:
    """For each time the place of its piece."""
    lows = np.array([piece.low for piece in pieces], np.int64)
    places: Ints = np.searchsorted(lows, times, side="right") - 1
    return places
