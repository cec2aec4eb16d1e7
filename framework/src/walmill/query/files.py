"""A table that lies partly in files and partly in memory, as a plan of DataFusion.

Where no identity can come twice, rows are read as they are. Only in the ranges of time in which one may, they go through the
merging plan: an aggregate by identity that keeps the last value of each field that is not null. All that it reads is declared
as sorted by identity, so it works as a stream: what it holds does not grow with the number of rows. For that, rows in memory
which may repeat rows of files are written to a sorted file of their own, for the time of the query.

The files of a plan are links in a folder that lives as long as the query: DataFusion reads a folder as one table, a few files
at a time, however many there are.

Importing this module imports DataFusion.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen
from datafusion import DataFrame, Expr, SessionContext, col, functions, lit
from datafusion.catalog import Table

from walmill.buffer.ranges import Ranges
from walmill.buffer.source import TableSource
from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema, arrow_schema
from walmill.query.opened import Folder, OpenFiles
from walmill.query.provider import TableCache, not_before, quoted
from walmill.units import format_time

_GROUP_ROWS = 131_072
_MOST_TOLD = 3  # ranges of time that EXPLAIN shows
_MOST_RANGES = 64  # so many are told apart; what lies between those that are joined is merged for nothing


@frozen(eq=False)
class TablePlan:
    """How the rows of a table are read.

    Attributes:
        table: The rows, one for each identity.
        plain: Number of files that are read as they are.
        merged: Number of files with rows that go through the merging plan.
        ranges: The times at which rows are merged.
        buffer: Whether rows in memory are among them.
    """

    table: Table
    plain: int = 0
    merged: int = 0
    ranges: Ranges = ()
    buffer: bool = False

    def told(self, name: str, files: int) -> str:
        """What EXPLAIN says of it.

        Args:
            name: Name of the table.
            files: Number of its files.
        """
        lines = [f"{name}: {self.plain + self.merged} of {_counted(files)} read", f"  plain: {_counted(self.plain)}"]
        if self.merged:
            times = [f"from {format_time(low)} to {format_time(high)}" for low, high in self.ranges[:_MOST_TOLD]]
            if more := len(self.ranges) - len(times):
                times.append(f"{more} ranges more")
            memory = " and rows in memory" if self.buffer else ""
            lines.append(f"  merged: {_counted(self.merged)}{memory}, {', '.join(times)}")
        return "\n".join(lines)


def plan_table(
    context: SessionContext,
    cache: TableCache,
    source: TableSource,
    files: Sequence[DataFile],
    opened: OpenFiles,
    check: Callable[[], None],
) -> TablePlan:
    """The rows of some files and of the buffer of a table, one for each identity.

    Args:
        context: The session of the query.
        cache: Tables over buffers.
        source: The table.
        files: Those of its files that the query needs, in the order of the table.
        opened: Takes in the files.
        check: Called before each file is fetched; raises if there is no time left.

    Raises:
        DataCorruption: If a file is missing or has another size.
        Unavailable: If a file for the time of the query cannot be made.
    """
    if not files:
        return TablePlan(cache.fresh(source))
    paths = opened.locate(source, files, check)
    parts = _Parts(context, arrow_schema(source.schema), source.schema, opened.folder)
    ranges = repeats(source, files)
    apart = [file for file in files if not _met(file, ranges)]
    mixed = [file for file in files if _met(file, ranges)]
    frames = []
    if apart:
        frames.append(parts.read("plain", [paths[file] for file in apart]))
    around = [file for file in mixed if not any(low <= file.min_time and file.max_time <= high for low, high in ranges)]
    if around:
        frames.append(parts.read("outside", [paths[file] for file in around]).filter(~parts.inside(ranges)))
    ordered = [(paths[file], _met(file, ranges)) for file in mixed]
    if source.buffer.num_rows:
        rest = context.read_table(cache.table(source.buffer))
        late = cache.rows_inside(source.buffer, ranges) if mixed else None
        if late is None or late.num_rows == 0:
            frames.append(rest)
        else:
            frames.append(rest.filter(~parts.inside(ranges)))
            ordered.append((parts.write("buffer", late), ranges))
    if mixed:
        frames.append(parts.merged(ordered))
    rows = parts.union(frames)
    if source.cut_off is not None:
        rows = rows.filter(not_before(source.cut_off))
    return TablePlan(
        Table(rows),
        len(apart),
        len(mixed),
        ranges if mixed else (),
        buffer=len(ordered) > len(mixed),
    )


def repeats(source: TableSource, files: Sequence[DataFile]) -> Ranges:
    """The ranges of time in which an identity may come twice in some files and the buffer, apart from twice in the buffer."""
    found = [late for file in files for late in file.late if late[0] <= file.max_time and late[1] >= file.min_time]
    for low, high in source.buffer.overlaps:
        met = [file for file in files if file.min_time <= high and file.max_time >= low]
        if met:
            found.append((max(low, min(file.min_time for file in met)), min(high, max(file.max_time for file in met))))
    return _join(found)


def _join(ranges: Iterable[tuple[int, int]], most: int = _MOST_RANGES) -> Ranges:
    """The union of ranges; if it has too many parts, the narrowest gaps are closed."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    if len(joined) <= most:
        return tuple(joined)
    gaps = range(1, len(joined))
    cuts = sorted(heapq.nlargest(most - 1, gaps, key=lambda place: joined[place][0] - joined[place - 1][1]))
    starts, ends = [0, *cuts], [*cuts, len(joined)]
    return tuple((joined[start][0], joined[end - 1][1]) for start, end in zip(starts, ends, strict=True))


def _met(file: DataFile, ranges: Ranges) -> Ranges:
    """The ranges in which a file may have rows."""
    return tuple((low, high) for low, high in ranges if file.min_time <= high and file.max_time >= low)


@frozen(eq=False)
class _Parts:
    """Makes the parts of one table's plan."""

    context: SessionContext
    columns: pa.Schema
    schema: TableSchema
    folder: Folder

    def read(self, name: str, paths: Sequence[Path], *, in_order: bool = False) -> DataFrame:
        """The rows of files as they are, in the types of the table. With `in_order`, the planner takes each as sorted."""
        place = self.folder.links(name, paths)
        keys = [column(name).sort(ascending=True, nulls_first=True) for name in self._identity]
        return self.context.read_parquet(place, schema=self.columns, file_sort_order=[keys] if in_order else None)

    def inside(self, ranges: Ranges) -> Expr:
        """Whether the time of a row is in one of the ranges."""
        time = column(TIME)
        found = lit(False)
        for low, high in ranges:
            found = found | (time >= _instant(low)) & (time <= _instant(high))
        return found

    def write(self, name: str, rows: pa.Table) -> Path:
        """A file with rows of the buffer, sorted as files of a table are."""
        order = pc.sort_indices(rows, sort_keys=[(key, "ascending", "at_start") for key in self._identity])
        return self.folder.write(
            name,
            rows.take(order),
            compression="none",
            use_dictionary=list(self.schema.tags) or False,
            row_group_size=_GROUP_ROWS,
        )

    def merged(self, parts: Sequence[tuple[Path, Ranges]]) -> DataFrame:
        """One row for each identity in the ranges of the files. They are sorted, and each is newer than those before it."""
        number = "_number"
        while number in self.columns.names:
            number += "_"
        read = [
            self.read(f"merged-{place:05}", [path], in_order=True)
            .filter(self.inside(ranges))
            .with_column(number, lit(place))
            for place, (path, ranges) in enumerate(parts)
        ]
        newest = [
            functions.last_value(
                column(name), filter=column(name).is_not_null(), order_by=[column(number).sort(ascending=True)]
            ).alias(name)
            for name in self.schema.fields
        ]
        merged = self.union(read).aggregate([column(name) for name in self._identity], newest)
        return merged.select(*[column(name) for name in self.columns.names])

    @property
    def _identity(self) -> list[str]:
        return [*self.schema.tags, TIME]

    def union(self, frames: Sequence[DataFrame]) -> DataFrame:
        """A tree of unions; the planner makes one of it, and a tree is less deep than a chain."""
        level = list(frames)
        while len(level) > 1:
            pairs = [level[place].union(level[place + 1]) for place in range(0, len(level) - 1, 2)]
            level = [*pairs, *level[len(level) // 2 * 2 :]]
        return level[0]


def column(name: str) -> Expr:
    """A column by exactly this name."""
    return col(quoted(name))


def _instant(time: int) -> Expr:
    return lit(pa.scalar(time, pa.timestamp("ns")))


def _counted(files: int) -> str:
    return f"{files} file" if files == 1 else f"{files} files"
