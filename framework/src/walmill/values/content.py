"""What a cache of values holds after some rows, given what it held before. Pure; vectorised over the rows.

The newest rows of a key are those with the highest times, whatever order they came in; rows with the same identity are one row,
as everywhere. Rows without a value in a column of the key have no key and are left out (`last`); in combinations a missing value
is a value of its own (`distinct`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from walmill.buffer.merge import merge_rows
from walmill.buffer.series import Ints, encode_column, group_codes, times_of
from walmill.model.schema import TIME, TableSchema, arrow_schema
from walmill.model.valuecache import ValueCache

ARRIVED = "__arrived"
"""When a row was written, ns: a column of what `last` holds."""


def key_of(cache: ValueCache, schema: TableSchema) -> tuple[str, ...]:
    """The columns of the key of a `last` cache: without any named, the tags of the table."""
    return cache.columns or schema.tags


def places_of(held: pa.RecordBatch, keys: tuple[str, ...]) -> dict[tuple[Any, ...], list[int]]:
    """In which rows of what a `last` cache holds each key is."""
    found: dict[tuple[Any, ...], list[int]] = {}
    columns = [held.column(held.schema.get_field_index(name)).to_pylist() for name in keys]
    for place, key in enumerate(zip(*columns, strict=True)):
        found.setdefault(key, []).append(place)
    return found


def held_schema(schema: TableSchema) -> pa.Schema:
    """The columns of what a `last` cache holds: all of the table, and when the row was written."""
    columns = arrow_schema(schema)
    return columns.append(pa.field(ARRIVED, pa.int64()))


def fold_last(
    held: pa.RecordBatch | None, new: pa.RecordBatch, arrived: int, cache: ValueCache, schema: TableSchema
) -> pa.RecordBatch:
    """The newest rows of each key.

    Args:
        held: What there was; None for nothing.
        new: Rows in log order, with some of the columns of the table.
        arrived: When they were written, ns.
        cache: The definition.
        schema: The columns of the table.
    """
    columns = held_schema(schema)
    fresh = _aligned(new, columns, arrived)
    rows = fresh if held is None else pa.concat_batches([_aligned(held, columns, None), fresh])
    keys = key_of(cache, schema)
    for name in keys:
        column = rows.column(rows.schema.get_field_index(name))
        if column.null_count:
            rows = rows.filter(pc.is_valid(column))
    if not rows.num_rows:
        return rows
    rows = merge_rows(rows, schema.tags)
    codes = codes_of(rows, keys)
    order = np.lexsort((times_of(rows), codes))
    grouped = codes[order]
    ends = np.append(np.flatnonzero(grouped[1:] != grouped[:-1]), len(grouped) - 1)
    starts = np.append(0, ends[:-1] + 1)
    behind = np.repeat(ends, ends - starts + 1) - np.arange(len(grouped))  # how many newer rows its key has
    return rows.take(pa.array(order[behind < cache.count]))


def _aligned(rows: pa.RecordBatch, columns: pa.Schema, arrived: int | None) -> pa.RecordBatch:
    places = {name: place for place, name in enumerate(rows.schema.names)}
    made = []
    for column in columns:
        if column.name in places:
            made.append(rows.column(places[column.name]))
        elif column.name == ARRIVED:
            made.append(pa.array(np.full(rows.num_rows, arrived or 0, np.int64)))
        else:
            made.append(pa.nulls(rows.num_rows, column.type))
    return pa.RecordBatch.from_arrays(made, schema=columns)


def codes_of(rows: pa.RecordBatch, names: tuple[str, ...]) -> Ints:
    """One number for each row, equal for rows that are equal in these columns."""
    columns: list[Any] = []
    sizes: list[int] = []
    for name in names:
        codes, values = encode_column(rows.column(rows.schema.get_field_index(name)))
        columns.append(codes)
        sizes.append(len(values) + 1)
    return group_codes(columns, sizes, rows.num_rows)


def fold_distinct(
    held: pa.RecordBatch | None, new: pa.RecordBatch, cache: ValueCache, schema: TableSchema
) -> pa.RecordBatch:
    """The combinations of values, each with the newest time at which it was seen; the newest ones, at most `most`.

    Args:
        held: What there was; None for nothing.
        new: Rows with some of the columns of the table.
        cache: The definition.
        schema: The columns of the table.
    """
    kinds = {name: pa.string() for name in cache.columns}
    columns = pa.schema([*kinds.items(), (TIME, pa.timestamp("ns"))])
    fresh = _aligned(new, columns, None)
    rows = fresh if held is None else pa.concat_batches([held, fresh])
    if not rows.num_rows:
        return rows
    codes, times = codes_of(rows, cache.columns), times_of(rows)
    order = np.lexsort((times, codes))
    grouped = codes[order]
    ends = np.append(np.flatnonzero(grouped[1:] != grouped[:-1]), len(grouped) - 1)
    chosen = order[ends]
    if len(chosen) > cache.most:
        newest = np.argsort(times[chosen], kind="stable")[-cache.most :]
        chosen = np.sort(chosen[newest])
    return rows.take(pa.array(chosen))


def within(held: pa.RecordBatch, most: int) -> pa.RecordBatch:
    """The newest rows of what a cache holds, so that they need no more than about so many bytes.

    Args:
        held: What the cache holds.
        most: Bytes.
    """
    if held.nbytes <= most:
        return held
    count = int(held.num_rows * most / held.nbytes * 0.9)  # some room, or each flush would cut it again
    newest = np.argsort(times_of(held), kind="stable")[held.num_rows - count :]
    return held.take(pa.array(np.sort(newest)))


def shown_last(
    held: pa.RecordBatch, cache: ValueCache, schema: TableSchema, now: int, cut_off: int | None
) -> pa.RecordBatch:
    """What a query sees of a `last` cache: the key, the other columns, the time; without what has expired.

    Args:
        held: What the cache holds.
        cache: The definition.
        schema: The columns of the table.
        now: Wall-clock time, ns.
        cut_off: Rows before this time are kept no more in the table, ns; None if there is no such time.
    """
    rows = held
    if cache.ttl is not None:
        rows = rows.filter(pc.greater_equal(rows.column(rows.schema.get_field_index(ARRIVED)), now - cache.ttl))
    if cut_off is not None:
        time = rows.column(rows.schema.get_field_index(TIME))
        rows = rows.filter(pc.greater_equal(time, pa.scalar(cut_off, pa.timestamp("ns"))))
    return rows.select(columns_of(cache, schema))


def columns_of(cache: ValueCache, schema: TableSchema) -> list[str]:
    """The columns that a query sees: of `last` the key, the others in the order of the table, and the time at the end."""
    if cache.kind == "distinct":
        return list(cache.columns)
    keys = key_of(cache, schema)
    others = [name for name in schema.column_names() if name not in keys and name != TIME]
    if cache.values is not None:
        others = [name for name in others if name in cache.values]
    return [*keys, *others, TIME]


def shown_schema(cache: ValueCache, schema: TableSchema) -> pa.Schema:
    """The types of these columns."""
    kinds = arrow_schema(schema)
    return pa.schema([kinds.field(name).with_nullable(True) for name in columns_of(cache, schema)])


def shown_distinct(held: pa.RecordBatch, cache: ValueCache, now: int, cut_off: int | None) -> pa.RecordBatch:
    """What a query sees of a `distinct` cache: the combinations that are not too old, sorted."""
    rows = held
    limits = [*([] if cache.ttl is None else [now - cache.ttl]), *([] if cut_off is None else [cut_off])]
    if limits:
        time = rows.column(rows.schema.get_field_index(TIME))
        rows = rows.filter(pc.greater_equal(time, pa.scalar(max(limits), pa.timestamp("ns"))))
    rows = rows.select(list(cache.columns))
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending", "at_start") for name in cache.columns])
    return rows.take(order)
