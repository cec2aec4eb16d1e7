"""Which files a query needs, known from what it asks for, before any of them is opened.

A query is planned once with a data set in the place of each table that has files. DataFusion hands a data set the filter of
each of its scans; a file is needed if its range of time can match the filter of one of them. Identity holds the time, so rows
that are to be merged are either all in the files that match, or the filter drops what is made of them.

DataFusion asks a data set for `schema`, `get_fragments` and `scanner` only; that is not documented, so a test pins it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pa_dataset
from pyarrow.fs import LocalFileSystem

from walmill.buffer.series import Ints
from walmill.model.files import DataFile
from walmill.model.schema import TIME

_FAN = 16  # so many parts of a range of files are looked at together
_NS = pa.timestamp("ns")


class Probe(pa_dataset.Dataset):  # type: ignore[misc]  # pyarrow has no types
    """A data set without rows that remembers the filters of its scans.

    Attributes:
        filters: For each scan that was planned its filter; None is one that takes all rows.
    """

    def __init__(self, schema: pa.Schema) -> None:
        # the base class is not initialised: there is no data set behind it
        self._columns = schema
        self.filters: list[pc.Expression | None] = []

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._columns

    def get_fragments(self, filter: pc.Expression | None = None) -> list[Any]:
        """Called by DataFusion for each scan."""
        if isinstance(filter, pa.Scalar):  # a condition that is known without any row is given as a plain value
            filter = None if filter.as_py() else pc.scalar(False)
        self.filters.append(filter)
        # one part, of a file that nobody opens: the planner cannot sort or join what has none
        return [pa_dataset.ParquetFileFormat().make_fragment("probe", LocalFileSystem())]

    def scanner(self, columns: list[str] | None = None, **_: Any) -> Any:
        """Called by DataFusion for each scan, for the columns only."""
        empty = pa.RecordBatch.from_pylist([], schema=self._columns)
        return pa_dataset.InMemoryDataset(empty).scanner(columns=columns)


def may_match(span: tuple[int, int], filters: Sequence[pc.Expression | None], schema: pa.Schema) -> bool:
    """Whether rows with times in a span can match one of the filters.

    Args:
        span: The lowest and the highest time, ns.
        filters: What `Probe` remembers.
        schema: The columns that they may name.
    """
    if any(one is None for one in filters):
        return True
    time, (low, high) = pc.field(TIME), span
    within = (time >= pa.scalar(low, _NS)) & (time <= pa.scalar(high, _NS))
    form, disk = pa_dataset.ParquetFileFormat(), LocalFileSystem()
    one = form.make_fragment("memory", disk, partition_expression=within)  # nobody opens it
    rows = pa_dataset.FileSystemDataset([one], schema, form, disk)
    return any(True for filter in filters for _ in rows.get_fragments(filter))


class FileIndex:
    """The files of a table by time. For all threads."""

    def __init__(self, files: tuple[DataFile, ...]) -> None:
        self._files = files
        lows = np.array([file.min_time for file in files], np.int64)
        order = np.argsort(lows, kind="stable")
        self._order = order
        self._lows = lows[order]
        self._highs = np.array([file.max_time for file in files], np.int64)[order]
        self._format = pa_dataset.ParquetFileFormat()
        self._disk = LocalFileSystem()

    def between(self, low: int, high: int) -> tuple[DataFile, ...]:
        """The files that may have rows with times from `low` to `high`, ns, in the order of the table."""
        found = self._order[(self._lows <= high) & (self._highs >= low)]
        return tuple(self._files[place] for place in np.sort(found))

    def matching(self, filters: Sequence[pc.Expression | None], schema: pa.Schema) -> tuple[DataFile, ...]:
        """The files with a time that can match one of the filters, in the order of the table.

        Args:
            filters: What `Probe` remembers.
            schema: The columns that they may name.
        """
        if any(one is None for one in filters):
            return self._files
        found = np.zeros(len(self._files), np.bool_)
        for one in filters:
            self._search(one, schema, 0, len(self._files), found)
        return tuple(self._files[place] for place in np.sort(self._order[found]))

    def _search(self, filter: pc.Expression, schema: pa.Schema, start: int, end: int, found: Ints) -> None:
        """Marks the files from `start` to `end` that match: first whole runs of files, then those in the runs that can."""
        step = max(1, -(-(end - start) // _FAN))
        runs = [
            # files that nobody opens: only the ranges are compared
            self._format.make_fragment(str(place), self._disk, partition_expression=self._range(place, place + step))
            for place in range(start, min(end, len(self._files)), step)
        ]
        for run in pa_dataset.FileSystemDataset(runs, schema, self._format, self._disk).get_fragments(filter):
            place = int(run.path)
            if step == 1:
                found[place] = True
            else:
                self._search(filter, schema, place, min(place + step, end), found)

    def _range(self, start: int, end: int) -> pc.Expression:
        """The times of a run of files, of which the first has the lowest."""
        time = pc.field(TIME)
        low = pa.scalar(int(self._lows[start]), _NS)
        return (time >= low) & (time <= pa.scalar(int(self._highs[start:end].max()), _NS))
