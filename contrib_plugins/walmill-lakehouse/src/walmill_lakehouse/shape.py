"""Rows of Walmill's files as rows of a Delta table. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from walmill_lakehouse.settings import Partition

TIME, EXACT = "time", "time_ns"
"""Delta's timestamps are of microseconds; the other column has the nanoseconds, and is what tells rows apart."""
PARTITIONS: Mapping[Partition, tuple[str, str]] = {"month": ("month", "%Y-%m"), "day": ("day", "%Y-%m-%d")}
ALWAYS = ((-(2**63), 2**63 - 1),)
"""All of time."""
UNSIGNED = pa.decimal128(20, 0)
"""Delta knows no unsigned numbers."""
_NOT_TAKEN = re.compile(r"[ ,;{}()\n\t=]")
T = TypeVar("T")


def lake_names(columns: Iterable[str], partition: Partition) -> tuple[dict[str, str], str | None]:
    """What columns are called in the lake, and the one by which rows lie together.

    Spark takes none of the characters ` ,;{}()=`, tabs and line ends, and does not tell upper from lower case. What is taken gets
    a number, in the order of the columns; new ones come at the end, so a name never changes.

    Args:
        columns: Names of tags and fields, those that were there first before others.
        partition: How rows lie together.
    """
    together = None if partition == "none" else f"_{PARTITIONS[partition][0]}"
    taken = {TIME, EXACT, *([together] if together else [])}
    found: dict[str, str] = {}
    for column in columns:
        plain = name = _NOT_TAKEN.sub("_", column)
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.lower())
        found[column] = name
    return found, together


def merged(parts: Sequence[pa.Table], tags: Sequence[str], fields: Mapping[str, str]) -> pa.Table:
    """The rows of several files, each identity once: column by column the newest value that is one.

    Args:
        parts: The rows of each file, the oldest first; each is free of repetitions in itself.
        tags: Names of the tags.
        fields: Types of the fields by name.
    """
    # by place, for a field may be called as a column of ours is
    shaped = [_plain(part, tags, fields) for part in parts]
    whole = pa.concat_tables(shaped)
    if len(shaped) == 1:
        return whole
    keys = [str(place) for place in range(len(tags) + 1)]
    values = [str(place) for place in range(len(tags) + 1, whole.num_columns)]
    # in one thread, so that the order of the rows counts; `last` passes over nulls
    found = whole.group_by(keys, use_threads=False).aggregate([(name, "last") for name in values])
    return found.select([*keys, *(f"{name}_last" for name in values)]).rename_columns([*keys, *values])


def apart(rows: pa.Table, tags: int, late: Sequence[tuple[int, int]]) -> Iterator[tuple[pa.Table, bool]]:
    """Rows of `merged` that the lake cannot have, and those that it may have, each with whether it may.

    Args:
        rows: The rows.
        tags: Number of tags.
        late: Closed ranges of time, ns, in which it may have them.
    """
    times = rows.column(tags)
    mask = None
    for low, high in late:
        within = pc.and_(pc.greater_equal(times, low), pc.less_equal(times, high))
        mask = within if mask is None else pc.or_(mask, within)
    new, old = (rows, rows.slice(0, 0)) if mask is None else (rows.filter(pc.invert(mask)), rows.filter(mask))
    if new.num_rows:
        yield new, False
    if old.num_rows:
        yield old, True


def _plain(part: pa.Table, tags: Sequence[str], fields: Mapping[str, str]) -> pa.Table:
    """Columns of a file as Delta has them: tags, exact time, time, fields; those that it lacks are null."""
    times = part.column("time")
    rough = pc.floor_temporal(times, unit="microsecond").cast(pa.timestamp("us", "UTC"))
    columns = [
        *(_column(part, tag, pa.string()) for tag in tags),
        times.cast(pa.int64()),
        rough,
        *(_column(part, name, _TYPES[kind]) for name, kind in fields.items()),
    ]
    return pa.table(columns, names=[str(place) for place in range(len(columns))])


def named(
    rows: pa.Table, tags: Sequence[str], fields: Sequence[str], partition: Partition, together: str | None
) -> pa.Table:
    """Rows of `merged` under the names that they have in the lake.

    Args:
        rows: The rows.
        tags: Names of the tags.
        fields: Names of the fields.
        partition: How rows lie together.
        together: Name of the column for that.
    """
    kinds = [UNSIGNED if field.type == pa.uint64() else field.type for field in rows.schema]
    whole = rows.cast(pa.schema(list(zip(rows.column_names, kinds, strict=True))))
    whole = whole.rename_columns([*tags, EXACT, TIME, *fields])
    if together is None or partition == "none":
        return whole
    return whole.append_column(together, pc.strftime(whole.column(TIME), format=PARTITIONS[partition][1]))


def _column(part: pa.Table, name: str, kind: pa.DataType) -> Any:
    if name not in part.column_names:
        return pa.nulls(part.num_rows, kind)
    return part.column(name).cast(kind)


_TYPES = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}


def batches(items: Iterable[T], most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Things in their order, so many at a time that they have about so many rows; each at least one.

    Args:
        items: Files, or pieces of one.
        most: About so many rows.
        size: Says how many rows one has.
    """
    found: list[T] = []
    rows = 0
    for item in items:
        if found and rows + size(item) > most:
            yield found
            found, rows = [], 0
        found.append(item)
        rows += size(item)
    if found:
        yield found


def with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each thing, and whether it is the last one."""
    rest = iter(items)
    for item in rest:
        before = item
        break
    else:
        return
    for item in rest:
        yield before, False
        before = item
    yield before, True
