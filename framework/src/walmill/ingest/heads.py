"""Heads: measurement and tags of a line. Each is read once, and known by its bytes from then on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from walmill.ingest.block import Ints
from walmill.ingest.lineprotocol import parse_head

SERIES = 200_000
"""When more series are known, all are forgotten: the next bodies bring back those that are alive."""
HEAD_BYTES = 48 * 2**20


class Shape:
    """A table and the names of the tags that a line has, in the order of the line; and the values of its series.

    Args:
        table: Name of the table.
        tags: Names of the tags.
    """

    __slots__ = ("_codes", "_columns", "_fresh", "_numbers", "count", "table", "tags", "taken")

    def __init__(self, table: str, tags: tuple[str, ...]) -> None:
        self.table = table
        self.tags = tags
        self.taken = frozenset((*tags, "time"))
        self.count = 0
        self._codes = np.empty((64, len(tags)), np.int32)
        self._numbers: list[dict[str, int]] = [{} for _ in tags]
        self._fresh: list[list[str]] = [[] for _ in tags]
        self._columns: list[pa.Array] = [pa.array([], pa.string()) for _ in tags]

    def add(self, values: tuple[str, ...]) -> int:
        """Takes in a series; its number among those of this shape."""
        number = self.count
        if number == len(self._codes):
            self._codes = np.concatenate((self._codes, np.empty_like(self._codes)))
        row = self._codes[number]
        for place, value in enumerate(values):
            known = self._numbers[place]
            code = known.get(value)
            if code is None:
                code = known[value] = len(known)
                self._fresh[place].append(value)
            row[place] = code
        self.count += 1
        return number

    def columns(self, series: Ints) -> list[pa.Array]:
        """The tag columns of rows, by the numbers of their series."""
        codes = self._codes[series]
        found = []
        for place, fresh in enumerate(self._fresh):
            if fresh:
                self._columns[place] = pa.concat_arrays([self._columns[place], pa.array(fresh, pa.string())])
                self._fresh[place] = []
            found.append(self._columns[place].take(pa.array(np.ascontiguousarray(codes[:, place]))))
        return found


class HeadCache:
    """The series of the bodies so far, by their bytes. Bounded. Belongs to one thread."""

    def __init__(self, series: int = SERIES, size: int = HEAD_BYTES) -> None:
        self._most = series
        self._most_bytes = size
        self._clear()

    def _clear(self) -> None:
        self._known: dict[bytes, int] = {}
        self._size = 0
        self._by_name: dict[tuple[str, tuple[str, ...]], int] = {}
        self.shapes: list[Shape] = []
        self._shape: Ints = np.empty(256, np.int64)
        self._local: Ints = np.empty(256, np.int64)

    def __len__(self) -> int:
        """Number of series known."""
        return len(self._known)

    def find(self, heads: list[bytes]) -> tuple[Ints, Ints]:
        """Which shape and which of its series each head is; -1 for what is no valid head.

        Args:
            heads: Measurement and tags as they came.
        """
        if len(self._known) > self._most or self._size > self._most_bytes:
            self._clear()
        found: list[Any] = list(map(self._known.get, heads))
        if None in found:
            known = self._known
            for place in [place for place, number in enumerate(found) if number is None]:
                head = heads[place]
                number = known.get(head)  # the same head may have come earlier in this body
                found[place] = self._learn(head) if number is None else number
        numbers = np.array(found, np.int64)
        if len(numbers) and numbers.min() < 0:
            unknown = numbers < 0
            return np.where(unknown, -1, self._shape[numbers]), np.where(unknown, -1, self._local[numbers])
        return self._shape[numbers], self._local[numbers]

    def _learn(self, head: bytes) -> int:
        parsed = parse_head(head.decode())
        if parsed is None:
            return -1
        table, tags = parsed
        names = tuple([name for name, _ in tags])
        shape = self._by_name.get((table, names))
        if shape is None:
            shape = self._by_name[table, names] = len(self.shapes)
            self.shapes.append(Shape(table, names))
        number = len(self._known)
        if number == len(self._shape):
            self._shape = np.concatenate((self._shape, np.empty_like(self._shape)))
            self._local = np.concatenate((self._local, np.empty_like(self._local)))
        self._shape[number] = shape
        self._local[number] = self.shapes[shape].add(tuple([value for _, value in tags]))
        self._known[head] = number
        self._size += len(head) + 64
        return number
