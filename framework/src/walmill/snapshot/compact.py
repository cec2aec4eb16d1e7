"""Compaction: which files of a table are worth joining, and the files that they become.

Of two rows with the same identity the one in the file with the higher sequences is newer. So files may be joined only if no
file that stays lies between them in sequence and has times in common with the result: it would have to be both older and newer
than that. The planner proposes nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from attrs import evolve, frozen

from walmill.buffer import ranges
from walmill.model.files import DataFile
from walmill.model.schema import TableSchema
from walmill.snapshot.build import NewFile, Rows, build_files
from walmill.snapshot.names import Attempt, Place, month_of_path

_STRING = 4  # values that a string counts as
_LOOK_AHEAD = 32  # so many later files are considered for each join


@frozen
class Bounds:
    """How files are joined.

    Attributes:
        rows: Most rows of a result; twice as many if files repeat each other's rows, and the result is split again.
        bytes: Most bytes of a result, likewise.
        files: So many small files are joined at least.
        growth: Files that repeat each other's rows are joined if the largest is at most so many times the others.
        values: Most values of a result (8 bytes each in memory; a string counts as four), which bounds the rows of wide tables.
    """

    rows: int = 5_000_000
    bytes: int = 128 * 2**20
    files: int = 4
    growth: int = 8
    values: int = 32_000_000

    def of(self, schema: TableSchema) -> Bounds:
        """The bounds for a table with some columns."""
        width = 1 + len(schema.tags) + sum(_STRING if kind == "string" else 1 for kind in schema.fields.values())
        return evolve(self, rows=min(self.rows, max(1, self.values // width)))


@frozen
class Join:
    """Files that are worth joining, in order of sequence, and why."""

    files: tuple[DataFile, ...]
    cause: Literal["small", "overlapping"]

    @property
    def bytes(self) -> int:
        """What has to be read, and about what is written."""
        return sum(file.bytes for file in self.files)


def may_join(chosen: Iterable[DataFile], staying: Iterable[DataFile]) -> bool:
    """Whether joining files keeps the order between rows: no file that stays lies between them where times overlap."""
    hull = _hull(tuple(chosen))
    return not any(
        file.min_time <= hull[1]
        and file.max_time >= hull[0]
        and file.first_sequence <= hull[3]
        and file.last_sequence >= hull[2]
        for file in staying
    )


def _hull(files: Sequence[DataFile]) -> tuple[int, int, int, int]:
    return (
        min(file.min_time for file in files),
        max(file.max_time for file in files),
        min(file.first_sequence for file in files),
        max(file.last_sequence for file in files),
    )


def plan_joins(files: Iterable[DataFile], bounds: Bounds = Bounds()) -> list[Join]:
    """What is worth joining now, the cheapest first. Any of them may be done, in any order, or not at all.

    Small files are joined when the result is at least twice as large as the largest of them: so a row is written again only
    about as often as its file doubles. Joined files lie in one month.

    Args:
        files: The files of one table.
        bounds: How they are joined.
    """
    months: dict[str, list[DataFile]] = {}
    for file in files:
        months.setdefault(month_of_path(file.path), []).append(file)
    joins = [join for month in months.values() if len(month) > 1 for join in _plan_month(month, bounds)]
    return sorted(joins, key=lambda join: (join.bytes, join.files[0].path))


class _Month:
    """The files of a month as columns; those of a planned join count as the file that they will be."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        self.hulls = np.array([_hull((file,)) for file in files], np.int64).T
        self.free = np.ones(len(files), np.bool_)

    def complete(self, chosen: Sequence[int]) -> list[int] | None:
        """The chosen files and all that lie between them; None if one of those is part of another join."""
        low, high, first, last = self.hulls
        members = sorted(chosen)
        while True:
            a, b = low[members].min(), high[members].max()
            c, d = first[members].min(), last[members].max()
            between = (low <= b) & (high >= a) & (first <= d) & (last >= c)
            if not self.free[between].all():
                return None
            between[members] = True
            found: list[int] = np.flatnonzero(between).tolist()
            if len(found) == len(members):
                return members
            members = found

    def take(self, chosen: Sequence[int]) -> None:
        """Notes a join: each of its files now counts with the times and the sequences of the result."""
        members = list(chosen)
        self.free[members] = False
        low, high, first, last = self.hulls
        low[members], high[members] = low[members].min(), high[members].max()
        first[members], last[members] = first[members].min(), last[members].max()


def _plan_month(unordered: Iterable[DataFile], bounds: Bounds) -> Iterator[Join]:
    files = sorted(unordered, key=lambda file: (file.last_sequence, file.min_time, file.path))
    month = _Month(files)
    for start in range(len(files)):
        if not month.free[start]:
            continue
        chosen: list[int] = [start]
        best: list[int] = []
        cause = ""
        overlapping = False
        for place in range(start + 1, min(len(files), start + 1 + _LOOK_AHEAD)):
            if place in chosen or not month.free[place]:
                continue
            more = month.complete([*chosen, place])
            if more is None:
                continue
            members = [files[one] for one in more]
            repeats = overlapping or _overlapping(members, [files[one] for one in more if one not in chosen])
            most = 2 if repeats else 1
            if (
                sum(one.rows for one in members) > most * bounds.rows
                or sum(one.bytes for one in members) > most * bounds.bytes
            ):
                continue
            chosen, overlapping = more, repeats
            found = _cause(members, overlapping, bounds)
            if found:
                best, cause = chosen, found
        if best:
            month.take(best)
            yield Join(tuple(files[one] for one in best), "small" if cause == "small" else "overlapping")


def _overlapping(files: Sequence[DataFile], fresh: Sequence[DataFile]) -> bool:
    """Whether one of some files may hold rows that an earlier one holds as well; one of the two has to be among the fresh."""
    added = {file.path for file in fresh}
    return any(
        low <= older.max_time and high >= older.min_time
        for newer in files
        for low, high in newer.late
        for older in (files if newer.path in added else fresh)
        if older.last_sequence < newer.first_sequence
    )


def _cause(files: Sequence[DataFile], overlapping: bool, bounds: Bounds) -> str:
    """Why files are worth joining; empty if they are not."""
    largest = max(file.bytes for file in files)
    others = sum(file.bytes for file in files) - largest
    if overlapping and others * bounds.growth >= largest:
        return "overlapping"
    return "small" if len(files) >= bounds.files and others >= largest else ""


def join_files(
    files: Sequence[DataFile],
    staying: Iterable[DataFile],
    read: Callable[[DataFile], Iterable[pa.RecordBatch]],
    place: Place,
    schema: TableSchema,
    attempt: Attempt,
    *,
    rows_per_file: int = Bounds().rows,
    first_number: int = 0,
) -> Iterator[NewFile]:
    """The files that some files become: their rows merged in the order of sequences.

    All their rows are in memory at once, tags as dictionaries if `read` gives them so; the plan's bounds say how much that is.

    Args:
        files: What a plan proposed.
        staying: All other files of the table.
        read: The rows of a file.
        place: The table.
        schema: Its columns, at least those of the files.
        attempt: For whose manifest it is.
        rows_per_file: A result with more rows is split between days.
        first_number: Number of the first file in its name.

    Raises:
        ValueError: If a file that stays lies between them.
    """
    others = tuple(staying)
    if not may_join(files, others):
        raise ValueError("a file that stays lies between those that are to be joined")
    ordered = sorted(files, key=lambda file: (file.last_sequence, file.min_time))
    _, _, first, last = _hull(ordered)
    rows = Rows(
        place,
        schema,
        [batch for file in ordered for batch in read(file)],
        first,
        last,
        ranges.join(late for file in ordered for late in file.late),
    )
    earlier = [file for file in others if file.last_sequence < first]
    return build_files(rows, earlier, attempt, rows_per_file=rows_per_file, first_number=first_number)
