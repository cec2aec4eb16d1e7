"""Sorted rows as the bytes of a Parquet file.

zstd, row groups of about 128k rows, statistics, page index, sorting columns. Tags are dictionaries. A field gets a dictionary
if its values repeat enough; else floats are split by bytes and integers stored as differences, which every current reader knows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from walmill.model.schema import TIME, TableSchema, arrow_schema
from walmill.snapshot.sort import TAG

GROUP_ROWS = 131_072
_GROUP_BYTES = 256 * 2**20  # a row group with long strings has fewer rows
_BATCH_ROWS = (
    8192  # so many are encoded in one step: with 1,024, as is usual, statistics of tags cost a fifth of the time
)
_SAMPLE = 65_536
_REPEATED = 3  # a dictionary pays if a value comes so often on average
_SMALL_DICTIONARY = 1024  # a tag with more values gets a dictionary of its own in each row group


def file_schema(schema: TableSchema) -> pa.Schema:
    """The Arrow schema of a table's files."""
    columns = arrow_schema(schema)
    for place in range(len(schema.tags)):
        columns = columns.set(place, columns.field(place).with_type(TAG))
    return columns


def encode_file(table: pa.Table, schema: TableSchema) -> pa.Buffer:
    """The bytes of a file.

    Args:
        table: Rows of a file in their order, as `sort_rows` gives them: at least one.
        schema: Their columns.
    """
    columns = file_schema(schema)
    dictionaries, encodings = _encodings(table, schema)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        columns,
        compression="zstd",
        use_dictionary=dictionaries or False,
        column_encoding=encodings,
        write_statistics=True,
        write_page_index=True,
        write_batch_size=_BATCH_ROWS,
        sorting_columns=[
            pq.SortingColumn(place, descending=False, nulls_first=True)
            for place in [*range(len(schema.tags)), len(columns) - 1]
        ],
    ) as writer:
        for start in range(0, table.num_rows, GROUP_ROWS):
            for group in _bounded(table.slice(start, GROUP_ROWS)):
                writer.write_table(_row_group(group, schema, columns), row_group_size=GROUP_ROWS)
    return sink.getvalue()


def _encodings(table: pa.Table, schema: TableSchema) -> tuple[list[str], dict[str, str]]:
    """The columns that get a dictionary, and how those are encoded that get none."""
    dictionaries = list(schema.tags)
    encodings = {TIME: "DELTA_BINARY_PACKED"}
    start = max(0, (table.num_rows - _SAMPLE) // 2)
    sample = table.slice(start, _SAMPLE)
    for name, kind in schema.fields.items():
        if kind == "bool":
            continue
        values = sample.column(name)
        present = len(values) - values.null_count
        # of a column that is nearly empty the sample says little; a dictionary is the safe choice
        if present < 16 or pc.count_distinct(values).as_py() * _REPEATED <= present:
            dictionaries.append(name)
        elif kind == "float64":
            encodings[name] = "BYTE_STREAM_SPLIT"
        elif kind in ("int64", "uint64"):
            encodings[name] = "DELTA_BINARY_PACKED"
    return dictionaries, encodings


def _bounded(table: pa.Table) -> Iterator[pa.Table]:
    """The table, halved as long as it is too large for a row group."""
    if table.nbytes <= _GROUP_BYTES or table.num_rows < 2:
        yield table
        return
    half = table.num_rows // 2
    yield from _bounded(table.slice(0, half))
    yield from _bounded(table.slice(half))


def _row_group(table: pa.Table, schema: TableSchema, columns: pa.Schema) -> pa.Table:
    """The table with exactly the types of the file, and without dictionaries that are mostly about other rows."""
    arrays = []
    for place, column in enumerate(columns):
        array = table.column(place)
        if place < len(schema.tags):
            array = _own_dictionary(array.combine_chunks())
        elif array.type != column.type:
            array = array.cast(column.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=columns)


def _own_dictionary(column: pa.DictionaryArray) -> pa.Array:
    """The same values; a large dictionary is reduced to what these rows use."""
    values = column.dictionary
    if len(values) <= _SMALL_DICTIONARY:
        return column
    indices = column.indices
    missing = None
    if indices.null_count:
        missing = pc.is_null(indices).to_numpy(zero_copy_only=False)
        indices = indices.fill_null(0)
    places = indices.to_numpy()
    used = np.zeros(len(values), np.bool_)
    used[places] = True
    ranks = np.cumsum(used, dtype=np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(ranks[places] - 1, mask=missing), values.take(pa.array(np.flatnonzero(used)))
    )
