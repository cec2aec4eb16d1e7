"""The newest time of each series, and which rows of a batch are not newer than it.

A series is the set of (tag, value) pairs that a row has. Each tag value gets a number, tag by tag; the key of a series is the
numbers of its tags, four bytes each, in the order of the schema, without the zero bytes at the end. A missing tag is zero, so
a tag that is added to the table later changes no key, and no two series share one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from walmill.buffer.ranges import Ranges, cover_times
from walmill.model.schema import TIME

Ints = np.ndarray[Any, np.dtype[Any]]

_NONE = bytes(4)
_BEFORE_ALL = -(2**63)
_FEW_ROWS = 4  # below this, Python objects are faster than arrays


def times_of(batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The times of a batch as nanoseconds, without a copy."""
    times: np.ndarray[Any, np.dtype[np.int64]] = batch.column(TIME).view(pa.int64()).to_numpy()
    return times


def group_codes(columns: list[Ints], sizes: list[int], rows: int) -> Ints:
    """One number for each row, equal for rows that are equal in all columns.

    Args:
        columns: Codes of the rows, one array of length `rows` for each column, each code from 0 to its size - 1.
        sizes: Number of different codes of each column.
        rows: Number of rows.

    Returns:
        Codes in the smallest unsigned type that holds them (small types sort faster).
    """
    codes: Ints = np.zeros(rows, np.int64)
    size = 1
    for column, column_size in zip(columns, sizes, strict=True):
        if size * column_size >= 2**62:
            distinct, codes = np.unique(codes, return_inverse=True)
            size = len(distinct)
        codes = codes * column_size + column
        size *= column_size
    if size <= 2**16:
        return codes.astype(np.uint16)
    return codes.astype(np.uint32) if size <= 2**32 else codes


def encode_column(column: pa.Array) -> tuple[Ints, pa.Array]:
    """The codes of a string column: 0 for null, else 1 + the place in the returned array of distinct values."""
    encoded = column.dictionary_encode()
    indices = encoded.indices
    if indices.null_count:
        indices = indices.fill_null(-1)
    return indices.to_numpy() + 1, encoded.dictionary


class SeriesTimes:
    """The newest time of each series of one table. One thread at a time.

    Args:
        floor: What counts as the newest time of a series that was not seen yet: the newest time of all rows that were there
            before; None if there were none.
    """

    __slots__ = ("_floor", "_newest", "_numbers")

    def __init__(self, floor: int | None = None) -> None:
        self._floor = floor
        self._newest: dict[bytes, int] = {}
        self._numbers: dict[str, dict[str | None, bytes]] = {}

    def __len__(self) -> int:
        """Number of series seen so far."""
        return len(self._newest)

    def add(self, batch: pa.RecordBatch, tags: tuple[str, ...]) -> Ranges:
        """Takes in a batch that comes after all those before.

        Args:
            batch: Rows in log order.
            tags: The tags of the table in the order of its schema; later calls may append to them, never reorder.

        Returns:
            Ranges that hold the time of every row that is not newer than the rows of its series before it, in this batch or
            an earlier one. A row outside of them repeats no row.
        """
        if batch.num_rows < _FEW_ROWS:
            return self._add_few(batch, tags)
        present = set(batch.schema.names)
        rows = batch.num_rows
        columns: list[Ints] = []
        sizes: list[int] = []
        tables: list[Ints | None] = []  # for each tag of the schema: numbers by code
        for tag in tags:
            if tag not in present:
                tables.append(None)
                continue
            codes, values = encode_column(batch.column(tag))
            columns.append(codes)
            sizes.append(len(values) + 1)
            tables.append(self._number(tag, values.to_pylist()))
        groups = group_codes(columns, sizes, rows)
        order = np.argsort(groups, kind="stable")
        ordered = groups[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        first_rows = order[starts]
        matrix = np.zeros((len(starts), max(len(tags), 1)), "<u4")
        taken = iter(columns)
        for place, numbers in enumerate(tables):
            if numbers is not None:
                matrix[:, place] = numbers[next(taken)[first_rows]]
        # numpy drops the zero bytes at the end of such strings by itself
        keys: list[bytes] = matrix.view(f"S{matrix.shape[1] * 4}").ravel().tolist()
        return self._compare(keys, times_of(batch)[order], starts)

    def _compare(self, keys: list[bytes], times: Ints, starts: Ints) -> Ranges:
        """Compares times, grouped by series and in log order within each, and moves the newest times on."""
        newest = self._newest
        found = list(map(newest.get, keys))
        fresh: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        if self._floor is not None:
            found = [self._floor if time is None else time for time in found]
        if None in found:
            fresh = np.array([time is None for time in found], np.bool_)
            found = [_BEFORE_ALL if time is None else time for time in found]
        known = np.array(found, np.int64)
        first_late = times[starts] <= known
        if fresh is not None:
            first_late &= ~fresh
        falls = np.zeros(len(times), np.bool_)
        falls[1:] = times[1:] <= times[:-1]
        falls[starts] = False
        if not first_late.any() and not falls.any():
            ends = np.append(starts[1:], len(times)) - 1
            newest.update(zip(keys, times[ends].tolist(), strict=True))
            return ()
        # the running maximum within each group: ranks keep the order of times and leave room for the group before them
        ranks = np.unique(times, return_inverse=True)[1].astype(np.int64)
        lengths = np.diff(np.append(starts, len(times)))
        offsets = np.repeat(np.arange(len(starts), dtype=np.int64) * (len(times) + 1), lengths)
        running = np.maximum.accumulate(ranks + offsets) - offsets
        late = np.zeros(len(times), np.bool_)
        late[1:] = ranks[1:] <= running[:-1]
        late[starts] = False
        late |= times <= np.repeat(np.where(first_late, known, _BEFORE_ALL), lengths)
        if fresh is not None:
            late[starts[fresh]] = False
        highest = np.maximum(np.maximum.reduceat(times, starts), known)
        newest.update(zip(keys, highest.tolist(), strict=True))
        return cover_times(times[late])

    def _add_few(self, batch: pa.RecordBatch, tags: tuple[str, ...]) -> Ranges:
        names = batch.schema.names
        places = {name: place for place, name in enumerate(names)}
        columns: list[list[bytes]] = []
        for tag in tags:
            place = places.get(tag)
            if place is None:
                columns.append([_NONE] * batch.num_rows)
                continue
            values = batch.column(place).to_pylist()
            known = self._numbers.get(tag, {})
            try:
                columns.append([known[value] for value in values])
            except KeyError:
                self._number(tag, values)
                columns.append([self._numbers[tag][value] for value in values])
        late: list[int] = []
        newest = self._newest
        times = batch.column(places[TIME])
        for row in range(batch.num_rows):
            key = b"".join([column[row] for column in columns]).rstrip(b"\0")
            time = times[row].value
            before = newest.get(key, self._floor)
            if before is None or time > before:
                newest[key] = time
            else:
                late.append(time)
        return cover_times(np.array(late, np.int64)) if late else ()

    def _number(self, tag: str, values: list[str | None]) -> Ints:
        """The numbers of tag values, 0 first; values that are new get one."""
        known = self._numbers.setdefault(tag, {None: _NONE})
        try:
            numbers = [known[value] for value in values]
        except KeyError:
            for value in values:
                if value not in known:
                    known[value] = len(known).to_bytes(4, "little")
            numbers = [known[value] for value in values]
        return np.frombuffer(b"".join([_NONE, *numbers]), "<u4")
