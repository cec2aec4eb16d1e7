"""Rows of stored files: read whole and checked, and written again without some of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from attrs import evolve

from walmill.buffer.series import Ints, times_of
from walmill.errors import DataCorruption
from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema
from walmill.snapshot.build import NewFile
from walmill.snapshot.names import Attempt, Place, month_of_path
from walmill.snapshot.parquet import encode_file, file_schema
from walmill.snapshot.sort import TAG, dense_codes
from walmill.snapshot.store import MISSING, Store

Mask: TypeAlias = "pa.BooleanArray | np.ndarray[tuple[int], np.dtype[np.bool_]]"
Choice: TypeAlias = Callable[[pa.RecordBatch], Mask]
"""Says for each row of a batch whether it goes; null is no."""

_REMEDY = "restore it from a backup"


def read_rows(store: Store, file: DataFile) -> list[pa.RecordBatch]:
    """All rows of a file, in its order, tags as dictionaries.

    Raises:
        DataCorruption: If it is missing, or its bytes are not those that were written.
    """
    try:
        data = pa.py_buffer(store.get(file.path))
    except MISSING:
        raise DataCorruption(f"the data file {file.path} is missing: {_REMEDY}") from None
    if data.size != file.bytes:
        raise DataCorruption(
            f"the data file {file.path} has {data.size:,} bytes and must have {file.bytes:,}: {_REMEDY}"
        )
    if zlib.crc32(data) != file.checksum:
        raise DataCorruption(f"the data file {file.path} is damaged: its checksum does not fit its bytes: {_REMEDY}")
    try:
        batches: list[pa.RecordBatch] = pq.ParquetFile(pa.BufferReader(data)).read().to_batches()
    except (pa.ArrowException, OSError) as error:
        raise DataCorruption(f"the data file {file.path} cannot be read ({error}): {_REMEDY}") from None
    return batches


def rewrite_file(
    file: DataFile,
    batches: Iterable[pa.RecordBatch],
    gone: Choice,
    place: Place,
    schema: TableSchema,
    attempt: Attempt,
    number: int = 0,
) -> NewFile | DataFile | None:
    """A file without some of its rows: of the same month and the same sequences, so it stands where the old one stood.

    What only the rows that go had, such as a value of a tag, is not in the new file's bytes.

    Args:
        file: The file.
        batches: Its rows in their order.
        gone: Says which rows go.
        place: The table.
        schema: Its columns, at least those of the file.
        attempt: For whose manifest it is.
        number: Number of the file in its name.

    Returns:
        The new file; the old one if all rows stay; None if all go.
    """
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        chosen = pa.array(gone(batch)) if batch.num_rows else pa.array([], pa.bool_())
        left = batch.filter(pc.invert(pc.fill_null(chosen, fill_value=False)))
        if left.num_rows:
            kept.append(left)
    rows = sum(batch.num_rows for batch in kept)
    if rows == file.rows:
        return file
    if not rows:
        return None
    present = set(kept[0].schema.names)
    own = evolve(
        schema,
        tags=tuple(tag for tag in schema.tags if tag in present),
        fields={name: kind for name, kind in schema.fields.items() if name in present},
    )
    table = pa.Table.from_batches([_tidy(batch, own) for batch in kept]).unify_dictionaries()
    times = np.concatenate([times_of(batch) for batch in kept])
    low, high = int(times.min()), int(times.max())
    data = encode_file(table, own)
    return NewFile(
        DataFile(
            path=place.file(month_of_path(file.path), file.last_sequence, attempt, number),
            table=file.table,
            rows=rows,
            bytes=data.size,
            min_time=low,
            max_time=high,
            first_sequence=file.first_sequence,
            last_sequence=file.last_sequence,
            checksum=zlib.crc32(data),
            late=tuple((max(low, a), min(high, b)) for a, b in file.late if a <= high and b >= low),
        ),
        data,
    )


def _tidy(batch: pa.RecordBatch, schema: TableSchema) -> pa.RecordBatch:
    """The batch with the types of a file, and with dictionaries of what its rows use only."""
    columns = file_schema(schema)
    arrays = []
    for column in columns:
        array = batch.column(column.name)
        if column.type == TAG:
            array = array.cast(pa.string()).dictionary_encode()
        arrays.append(array.cast(column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def earlier_than(time: int) -> Choice:
    """Chooses rows with an earlier time."""
    return lambda batch: times_of(batch) < time


class Identities:
    """Chooses the rows with one of some identities.

    A row of a file may hold only a part of what SQL sees under its identity: whoever deletes what a query found has to choose
    by identity, and in all files of the table that can hold it.

    Args:
        keys: Tags and time of the rows, nulls included; a tag that it lacks is null.
        tags: The tags of the table.
    """

    def __init__(self, keys: pa.Table, tags: Sequence[str]) -> None:
        self._tags = tuple(tags)
        self._values: list[pa.Array] = []
        codes: list[Ints] = []
        for tag in self._tags:
            column = _tag(keys, tag)
            values = column.unique()
            self._values.append(values)
            codes.append(_codes(column, values))
        times = np.concatenate([np.zeros(0, np.int64), keys.column(TIME).cast(pa.int64()).to_numpy()])
        self._times = np.unique(times)
        codes.append(np.searchsorted(self._times, times))
        self._codes = codes

    @property
    def span(self) -> tuple[int, int] | None:
        """Times of the earliest and the latest; None if there is none."""
        return (int(self._times[0]), int(self._times[-1])) if len(self._times) else None

    def __call__(self, batch: pa.RecordBatch) -> Mask:
        """Which rows of a batch have one of them."""
        found = np.zeros(batch.num_rows, np.bool_)
        if not len(self._times) or not batch.num_rows:
            return found
        times = times_of(batch)
        at = np.searchsorted(self._times, times)
        near = np.flatnonzero(self._times[np.minimum(at, len(self._times) - 1)] == times)
        columns: list[Ints] = []
        rows = batch.take(pa.array(near))
        possible = np.ones(len(near), np.bool_)
        for tag, values in zip(self._tags, self._values, strict=True):
            codes = _codes(_tag(rows, tag), values)
            possible &= codes >= 0
            columns.append(codes)
        columns.append(at[near])
        near = near[possible]
        if not len(near):
            return found
        both = [np.concatenate([mine, other[possible]]) for mine, other in zip(self._codes, columns, strict=True)]
        sizes = [*(len(values) for values in self._values), len(self._times)]
        known = len(self._codes[-1])
        numbers, _ = dense_codes(both, sizes, known + len(near))
        found[near] = np.isin(numbers[known:], numbers[:known])
        return found


def _tag(rows: pa.Table | pa.RecordBatch, tag: str) -> pa.Array:
    if tag not in rows.schema.names:
        return pa.nulls(rows.num_rows, pa.string())
    column = rows.column(tag).cast(pa.string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _codes(column: pa.Array, values: pa.Array) -> Ints:
    """The place of each value, null being one; -1 for one that is not there."""
    codes: Ints = pc.index_in(column, value_set=values).fill_null(-1).to_numpy().astype(np.int64)
    return codes
