"""Rows in the order of a file: by (tags, time), one for each identity.

Tags are compared as UTF-8 bytes, in the order of the schema, a missing one first. Everything works on whole columns, so the
interpreter's lock is given back within a few milliseconds at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from walmill.buffer.merge import newest_values
from walmill.buffer.series import Ints
from walmill.model.schema import TIME, TableSchema, arrow_type

TAG = pa.dictionary(pa.int32(), pa.string())
"""How a tag is in a file."""

_TABLE = 2**20  # codes up to so many are made dense by a table, which stays in the processor's cache
_MOST_CODES = 2**62
_COMPARED = 256  # pieces of at least so many rows are compared
_RECENT = 4  # with so many of the distinct ones before
_BYTES_OF_TEXT = 2**30  # a string column with more than this is joined with 64-bit offsets


@frozen(eq=False)
class SortedRows:
    """Rows in order, and where each group of them begins.

    Attributes:
        table: Tags as dictionaries with sorted values, then fields, then `time`; a string column that is very large may be
            `large_string`.
        times: The times, as numbers.
        bounds: Place of the first row of each group, and the number of rows at the end.
    """

    table: pa.Table
    times: Ints
    bounds: list[int]


def sort_rows(batches: Sequence[pa.RecordBatch], schema: TableSchema, groups: Ints | None = None) -> SortedRows:
    """Sorts rows by (group, tags, time) and merges those with the same identity: of each field the newest value counts.

    Args:
        batches: Rows in log order, at least one; they may lack columns, and tags may be strings or dictionaries.
        schema: The columns wanted.
        groups: For each row the number of its group, without gaps from 0; a row's time must decide on its group. None for one.
    """
    times = np.concatenate([batch.column(TIME).view(pa.int64()).to_numpy() for batch in batches])
    rows = len(times)
    codes: list[Ints] = []
    sizes: list[int] = []
    number_of_groups = 1
    if groups is not None:
        number_of_groups = int(groups.max()) + 1
        codes.append(groups)
        sizes.append(number_of_groups)
    tags: list[tuple[Ints, pa.Array]] = []
    for tag in schema.tags:
        ranks, values = _encode(_column(batches, tag, pa.string()))
        tags.append((ranks, values))
        codes.append(ranks)
        sizes.append(len(values) + 1)
    series, count = dense_codes(codes, sizes, rows)
    order = sort_order(series, count, times)
    ordered, ordered_times = _at(series, order), _at(times, order)
    fresh = np.empty(rows, np.bool_)
    fresh[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    fresh[1:] |= ordered_times[1:] != ordered_times[:-1]
    starts = np.flatnonzero(fresh)
    merged = len(starts) < rows
    first = _at(order, starts) if merged else order
    taken = pa.array(first)
    columns: dict[str, Any] = {}
    for tag, (ranks, values) in zip(schema.tags, tags, strict=True):
        columns[tag] = _decode(_at(ranks, first), values)
    for name, kind in schema.fields.items():
        column = _joined(_column(batches, name, arrow_type(kind)))
        columns[name] = newest_values(column, order, starts) if merged else column.take(taken)
    final = _at(times, first)
    columns[TIME] = pa.array(final).view(pa.timestamp("ns"))
    table = pa.table(columns)
    if groups is None:
        return SortedRows(table, final, [0, len(final)])
    # groups are the leading key, so they are in order
    bounds = np.searchsorted(_at(groups, first), np.arange(number_of_groups + 1)).tolist()
    return SortedRows(table, final, bounds)


def dense_codes(columns: Sequence[Ints], sizes: Sequence[int], rows: int) -> tuple[Ints, int]:
    """One number for each row, in the order of the columns' codes, without gaps from 0.

    Args:
        columns: Codes of the rows, the leading column first, each code from 0 to its size - 1.
        sizes: Number of different codes of each column.
        rows: Number of rows.

    Returns:
        The numbers, and how many different ones there are.
    """
    codes: Ints = np.zeros(rows, np.int32)
    size = 1
    for column, column_size in zip(columns, sizes, strict=True):
        if column_size == 1:
            continue
        if size * column_size >= _MOST_CODES:
            codes, size = _dense(codes, size)
        if size * column_size > 2**31 - 1 and codes.dtype != np.int64:
            codes = codes.astype(np.int64)
        codes = codes * column_size + column
        size *= column_size
        if size > _TABLE:
            codes, size = _dense(codes, size)
    return _dense(codes, size)


def _dense(codes: Ints, size: int) -> tuple[Ints, int]:
    """The codes without gaps, in the same order."""
    if size <= max(_TABLE, min(16 * _TABLE, 4 * len(codes))):
        present = np.zeros(size, np.bool_)
        present[codes] = True
        ranks = np.cumsum(present, dtype=np.int32)
        return _at(ranks, codes) - 1, int(ranks[-1])
    # Arrow's hash table costs less than sorting all of them
    encoded = pa.array(codes).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    ranks = np.empty(len(distinct), np.int32)
    ranks[np.argsort(distinct)] = np.arange(len(distinct), dtype=np.int32)
    return _at(ranks, encoded.indices.to_numpy()), len(distinct)


def sort_order(codes: Ints, count: int, times: Ints) -> Ints:
    """The numbers of the rows by (code, time), and in their order within both.

    Args:
        codes: From 0 to `count` - 1.
        count: How many codes there are.
        times: The times.
    """
    order: Ints | None = None
    if len(times) > 1 and not bool((times[1:] >= times[:-1]).all()):
        order = np.argsort(times, kind="stable")
    # from the least to the most significant part; numpy sorts 16 bits by counting, which is many times faster than comparing
    for shift in range(0, max(1, (count - 1).bit_length()), 16):
        part = (codes >> shift).astype(np.uint16)
        order = (
            np.argsort(part, kind="stable")
            if order is None
            else _at(order, np.argsort(_at(part, order), kind="stable"))
        )
    assert order is not None
    return order


def _at(values: Ints, places: Ints) -> Ints:
    """The values at places, all of which there are. Faster than an index in brackets, and others may run meanwhile."""
    return np.take(values, places, mode="clip")


def _column(batches: Sequence[pa.RecordBatch], name: str, kind: pa.DataType) -> list[pa.Array]:
    """The pieces of a column; null where a batch lacks it."""
    pieces: list[pa.Array] = []
    for batch in batches:
        place = batch.schema.get_field_index(name)
        pieces.append(pa.nulls(batch.num_rows, kind) if place < 0 else batch.column(place))
    return pieces


def _joined(pieces: list[pa.Array]) -> pa.Array:
    if len(pieces) == 1:
        return pieces[0]
    if pieces[0].type == pa.string() and sum(piece.nbytes for piece in pieces) > _BYTES_OF_TEXT:
        pieces = [piece.cast(pa.large_string()) for piece in pieces]
    return pa.concat_arrays(pieces)


def _encode(pieces: list[pa.Array]) -> tuple[Ints, pa.Array]:
    """The codes of a tag, 0 for null, else 1 + the rank of its value; and the values in order."""
    distinct, places = _distinct(pieces)
    if any(pa.types.is_dictionary(piece.type) for piece in distinct):
        encoded = pa.chunked_array([piece.cast(TAG) for piece in distinct], TAG).unify_dictionaries()
    else:
        encoded = pa.chunked_array(distinct, pa.string()).dictionary_encode()
    values = encoded.chunk(0).dictionary
    order = pc.array_sort_indices(values).to_numpy()
    ranks = np.zeros(len(values) + 1, np.int32)
    ranks[order] = np.arange(1, len(values) + 1, dtype=np.int32)
    codes = []
    for chunk in encoded.chunks:
        indices = chunk.indices
        if indices.null_count:
            indices = indices.fill_null(len(values))  # the last rank is 0
        codes.append(_at(ranks, indices.to_numpy()))
    return np.concatenate([codes[place] for place in places]), values.take(pa.array(order))


def _distinct(pieces: list[pa.Array]) -> tuple[list[pa.Array], list[int]]:
    """Pieces without those that are the same as one shortly before, and for each piece which one it is.

    Who writes for many series at a time mostly names them in the same order each time: to see that costs a tenth of encoding.
    """
    distinct: list[pa.Array] = []
    places: list[int] = []
    for piece in pieces:
        same = None
        if len(piece) >= _COMPARED:
            for place in range(len(distinct) - 1, max(-1, len(distinct) - 1 - _RECENT), -1):
                if len(distinct[place]) == len(piece) and distinct[place].equals(piece):
                    same = place
                    break
        if same is None:
            same = len(distinct)
            distinct.append(piece)
        places.append(same)
    return distinct, places


def _decode(ranks: Ints, values: pa.Array) -> pa.Array:
    """The tag that `_encode` made ranks of; they are changed."""
    ranks -= 1
    missing = ranks < 0
    return pa.DictionaryArray.from_arrays(pa.array(ranks, mask=missing if missing.any() else None), values)
