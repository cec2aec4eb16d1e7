"""What is kept of Parquet files between queries: their footers, and columns of row groups that were read lately."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from attrs import frozen

from walmill.buffer.series import Ints
from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema
from walmill.query.asked import Asked
from walmill.units import INT64_MAX, INT64_MIN

COLUMN_BYTES = 64 * 2**20
"""Columns of so many bytes are kept: those of the last hours of some hundred series, or of what a dashboard shows."""
_MOST_FOOTERS = 1024


@frozen(eq=False)
class Footer:
    """What a file says of its row groups.

    Attributes:
        metadata: As pyarrow has it.
        names: Of the columns.
        rows: Number of rows of each.
        lows: The earliest time of each, ns.
        highs: The latest.
        sizes: For each column its bytes in each, uncompressed.
        texts: The columns that hold text.
        tags: For each tag the least and the greatest value in each; None where that is not known.
    """

    metadata: Any
    names: frozenset[str]
    rows: Ints
    lows: Ints
    highs: Ints
    sizes: Mapping[str, Ints]
    texts: tuple[str, ...]
    tags: Mapping[str, Sequence[tuple[str, str] | None]]

    def matching(self, asked: Asked) -> list[int]:
        """The row groups that may have rows that are asked for."""
        found = np.flatnonzero((self.lows <= asked.high) & (self.highs >= asked.low))
        return [int(place) for place in found if self._may(int(place), asked)]

    def _may(self, place: int, asked: Asked) -> bool:
        for tag, values in asked.tags.items():
            if tag not in self.tags:  # it came later: it is null in all of them
                return False
            span = self.tags[tag][place]
            if span is not None and not any(span[0] <= value <= span[1] for value in values):
                return False
        return True


class Footers:
    """The footers of files that were read lately. For all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], Footer] = {}

    def of(self, file: DataFile, path: Path, schema: TableSchema) -> Footer:
        """The footer of a file.

        Args:
            file: The file, which is never another one under its name.
            path: Where it is.
            schema: The columns of its table.

        Raises:
            OSError: If it cannot be read.
            ArrowException: If it is damaged.
        """
        key = (file.path, file.checksum)
        with self._lock:
            found = self._known.pop(key, None)
            if found is not None:
                self._known[key] = found
        if found is None:
            found = _read_footer(path, schema)
            with self._lock:
                self._known[key] = found
                while len(self._known) > _MOST_FOOTERS:
                    del self._known[next(iter(self._known))]
        return found


def _read_footer(path: Path, schema: TableSchema) -> Footer:
    metadata = pq.read_metadata(path)
    places = {metadata.schema.column(place).name: place for place in range(metadata.num_columns)}
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]

    def spans(name: str, *, raw: bool) -> list[Any]:
        found: list[Any] = []
        for group in groups:
            statistics = group.column(places[name]).statistics
            known = statistics is not None and statistics.has_min_max
            if not known:
                found.append(None)
            else:
                found.append(
                    (statistics.min_raw, statistics.max_raw) if raw else (str(statistics.min), str(statistics.max))
                )
        return found

    times = [one or (INT64_MIN, INT64_MAX) for one in spans(TIME, raw=True)]
    return Footer(
        metadata,
        frozenset(places),
        np.array([group.num_rows for group in groups], np.int64),
        np.array([low for low, _ in times], np.int64),
        np.array([high for _, high in times], np.int64),
        {
            name: np.array([group.column(place).total_uncompressed_size for group in groups], np.int64)
            for name, place in places.items()
        },
        tuple(name for name, place in places.items() if metadata.schema.column(place).physical_type == "BYTE_ARRAY"),
        {tag: spans(tag, raw=False) for tag in schema.tags if tag in places},
    )


class Columns:
    """Columns of row groups that were read lately. For all threads.

    Args:
        limit: Bytes that are kept at most.
    """

    def __init__(self, limit: int = COLUMN_BYTES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int, int, str], pa.Array] = {}
        self.bytes = 0

    def of(self, file: DataFile, path: Path, footer: Footer, group: int, names: Sequence[str]) -> dict[str, pa.Array]:
        """Columns of a row group; text as dictionaries.

        Args:
            file: The file, which is never another one under its name.
            path: Where it is.
            footer: Its footer.
            group: Which row group.
            names: Of the columns.

        Raises:
            OSError: If it cannot be read.
            ArrowException: If it is damaged.
        """
        found: dict[str, pa.Array] = {}
        with self._lock:
            for name in names:
                array = self._known.pop((file.path, file.checksum, group, name), None)
                if array is not None:
                    found[name] = self._known[file.path, file.checksum, group, name] = array
        missing = [name for name in names if name not in found]
        if missing:
            # text stays a dictionary: one that repeats a long value would be as long as all of its rows otherwise
            texts = [name for name in missing if name in footer.texts]
            with pq.ParquetFile(path, metadata=footer.metadata, read_dictionary=texts) as source:
                read = source.read_row_group(group, columns=missing, use_threads=False)
            made = {name: _whole(read.column(name)) for name in missing}
            found |= made
            with self._lock:
                for name, array in made.items():
                    self._keep((file.path, file.checksum, group, name), array)
        return found

    def _keep(self, key: tuple[str, int, int, str], array: pa.Array) -> None:
        if array.nbytes > self._limit:
            return
        before = self._known.pop(key, None)
        self.bytes += array.nbytes - (0 if before is None else before.nbytes)
        self._known[key] = array
        while self.bytes > self._limit:
            self.bytes -= self._known.pop(next(iter(self._known))).nbytes


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
