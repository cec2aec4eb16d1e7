"""Rows without repetitions: what SQL sees of a table.

Row identity is (tags, time); of rows with the same identity the newest value of each column wins that is not null. A table
buffer says which time ranges can hold repetitions, so only rows whose time is in there are compared, everything else is
handed on as it lies in the log. The result grows with the table: each step takes in the rows that are new since the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from walmill.buffer.ranges import Ranges, inside
from walmill.buffer.series import Ints, encode_column, group_codes, times_of
from walmill.buffer.table import BIG, TableBuffer
from walmill.model.schema import arrow_schema

STEP = 131_072
"""So many new rows are merged at once, which bounds the memory and the time of one sort."""

_MOST_SMALL = 16  # small parts beyond this number are folded


@frozen(eq=False)
class UniqueRows:
    """The rows of a table without repetitions, as of some row of its log.

    Attributes:
        schema: Columns of all parts: those of the table, in its order.
        rows: Rows of the log that are in it, counted before merging.
        parts: Batches, in no particular order. A part of one value is the same object in the next if it did not change.
        rest: The last rows, fewer than a big batch has; None if there are none.
    """

    schema: pa.Schema
    rows: int = 0
    parts: tuple[pa.RecordBatch, ...] = ()
    rest: pa.RecordBatch | None = None

    def batches(self) -> list[pa.RecordBatch]:
        """All parts and the rest."""
        return [*self.parts, *([] if self.rest is None else [self.rest])]


def advance(unique: UniqueRows | None, buffer: TableBuffer) -> UniqueRows:
    """The rows of a snapshot, made from those of an earlier one.

    Args:
        unique: What this function gave for an earlier snapshot of the same log; None starts from nothing.
        buffer: The snapshot.

    Returns:
        Exactly one row for each identity in the snapshot.
    """
    schema = arrow_schema(buffer.schema)
    if unique is None or unique.rows > buffer.num_rows:
        unique = UniqueRows(schema)
    elif not unique.schema.equals(schema):
        parts = tuple(align(part, schema) for part in unique.parts)
        unique = UniqueRows(schema, unique.rows, parts, None if unique.rest is None else align(unique.rest, schema))
    new = [align(batch, schema) for batch in buffer.batches_since(unique.rows)]
    ranges = buffer.overlaps_since(unique.rows)
    tags = buffer.schema.tags
    if not ranges:
        return _extend(unique, new, sum(batch.num_rows for batch in new))
    while new:
        step: list[pa.RecordBatch] = []
        rows = 0
        while new and rows < STEP:
            take = new[0].slice(0, STEP)
            new[0:1] = [new[0].slice(STEP)] if new[0].num_rows > STEP else []
            step.append(take)
            rows += take.num_rows
        unique = _merge_step(unique, step, ranges, tags)
    return unique


def align(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the columns of a schema, in its order; a column that it lacks is null."""
    if batch.schema.equals(schema):
        return batch
    places = {name: place for place, name in enumerate(batch.schema.names)}
    columns = batch.columns
    arrays = [
        columns[places[column.name]] if column.name in places else pa.nulls(batch.num_rows, column.type)
        for column in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def merge_rows(batch: pa.RecordBatch, tags: tuple[str, ...]) -> pa.RecordBatch:
    """One row for each identity: of each field the last value that is not null.

    Args:
        batch: Rows in log order.
        tags: The tags of the table, all of them columns of the batch.

    Returns:
        The merged rows; the same batch if no identity comes twice.
    """
    rows = batch.num_rows
    encoded = [encode_column(batch.column(tag)) for tag in tags]
    series = group_codes([codes for codes, _ in encoded], [len(values) + 1 for _, values in encoded], rows)
    times = times_of(batch)
    order = np.lexsort((times, series))  # stable, so the log order stays within an identity
    series, times = series[order], times[order]
    starts = np.flatnonzero(np.concatenate(([True], (series[1:] != series[:-1]) | (times[1:] != times[:-1]))))
    if len(starts) == rows:
        return batch
    columns = [newest_values(column, order, starts) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def newest_values(column: pa.Array, order: Ints, starts: Ints) -> pa.Array:
    """The value that each identity has in one column: the last that is not null, or null.

    Args:
        column: Values in log order.
        order: Numbers of rows, by identity and within one in log order.
        starts: Places in `order` at which an identity begins, the first one 0.
    """
    if column.null_count == 0:
        return column.take(pa.array(order[np.append(starts[1:], len(order)) - 1]))
    filled = pc.is_valid(column).to_numpy(zero_copy_only=False)[order]
    newest = np.maximum.reduceat(np.where(filled, np.arange(len(order)), -1), starts)
    return column.take(pa.array(order[newest], mask=newest < 0))


def _merge_step(unique: UniqueRows, new: list[pa.RecordBatch], ranges: Ranges, tags: tuple[str, ...]) -> UniqueRows:
    """Takes in rows of which some, all of them with times in the ranges, may repeat others."""
    hot: list[pa.RecordBatch] = []
    cold: list[pa.RecordBatch] = []
    for batch in new:
        first, other = _split(batch, inside(times_of(batch), ranges))
        hot += first
        cold += other
    parts: list[pa.RecordBatch] = []
    rest = unique.rest
    if hot:
        wanted = np.unique(np.concatenate([times_of(batch) for batch in hot]))
        stored: list[pa.RecordBatch] = []
        for part in unique.parts:
            out, kept = _split(part, _among(times_of(part), wanted))
            stored += out
            parts += kept
        if rest is not None:
            out, kept = _split(rest, _among(times_of(rest), wanted))
            stored += out
            rest = kept[0] if kept else None
        cold.append(merge_rows(pa.concat_batches(stored + hot), tags))
        unique = UniqueRows(unique.schema, unique.rows, tuple(parts), rest)
    return _extend(unique, cold, sum(batch.num_rows for batch in new))


def _extend(unique: UniqueRows, new: list[pa.RecordBatch], rows: int) -> UniqueRows:
    """Adds batches that repeat nothing and stand for so many rows of the log."""
    parts = [*unique.parts, *(batch for batch in new if batch.num_rows >= BIG)]
    small = [batch for batch in new if batch.num_rows < BIG]
    rest = unique.rest
    if small:
        rest = pa.concat_batches(small if rest is None else [rest, *small])
        if rest.num_rows >= BIG:
            parts.append(rest)
            rest = None
    shrunk = [part for part in parts if part.num_rows < BIG // 4]
    if len(shrunk) > _MOST_SMALL:
        parts = [*(part for part in parts if part.num_rows >= BIG // 4), pa.concat_batches(shrunk)]
    return UniqueRows(unique.schema, unique.rows + rows, tuple(parts), rest)


def _among(times: Ints, wanted: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which times are among the wanted ones, which are sorted and without repetitions."""
    found = np.zeros(len(times), np.bool_)
    near = np.flatnonzero((times >= wanted[0]) & (times <= wanted[-1]))
    if len(near):
        places = np.searchsorted(wanted, times[near])
        found[near] = wanted[places] == times[near]
    return found


def _split(
    batch: pa.RecordBatch, chosen: np.ndarray[Any, np.dtype[np.bool_]]
) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """The chosen rows and the others: no batch where there are none, and the same object where it is all of them."""
    count = int(np.count_nonzero(chosen))
    if count == 0:
        return [], [batch]
    if count == batch.num_rows:
        return [batch], []
    mask = pa.array(chosen)
    return [batch.filter(mask)], [batch.filter(pc.invert(mask))]
