"""From rows of commits to what `on_write` gets: without a copy, in whichever process the hook runs."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from attrs import field, frozen

from walmill_hookspecs import TableBatch
from walmill_hookspecs.types import FieldType

TIME = "time"
UTC_TIME = pa.timestamp("ns", "UTC")
TYPES: Mapping[str, pa.DataType] = {
    "int64": pa.int64(),
    "uint64": pa.uint64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
}
_ZERO_BYTES = 256 * 2**20
_KEPT = 1024
_zeros: pa.Buffer | None = None


@frozen
class Columns:
    """The columns of one table, ready to be given to a hook.

    Attributes:
        name: Name of the table.
        tags: Names of its tags.
        fields: Types of its fields, by name.
        kinds: Name and type of each column but `time`.
        arrow: The whole schema.
    """

    name: str
    tags: tuple[str, ...]
    fields: Mapping[str, FieldType]
    kinds: tuple[tuple[str, pa.DataType], ...] = field(repr=False)
    arrow: pa.Schema = field(repr=False)


_made: OrderedDict[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]], Columns] = OrderedDict()


def columns_of(name: str, tags: tuple[str, ...], fields: Mapping[str, FieldType]) -> Columns:
    """The columns of a table; those that were asked for lately are kept, since small batches come often."""
    key = (name, tags, tuple(fields.items()))
    found = _made.get(key)
    if found is None:
        kinds = (*((tag, pa.string()) for tag in tags), *((one, TYPES[kind]) for one, kind in fields.items()))
        arrow = pa.schema([*(pa.field(one, kind) for one, kind in kinds), pa.field(TIME, UTC_TIME, nullable=False)])
        found = _made[key] = Columns(name, tags, dict(fields), kinds, arrow)
        if len(_made) > _KEPT:
            _made.popitem(last=False)
    return found


def zeros() -> pa.Buffer:
    """Bytes that are all zero and cost no memory: what a column that a commit does not have points to."""
    global _zeros  # noqa: PLW0603 - one mapping for the process, made when it is first needed
    if _zeros is None:
        _zeros = pa.py_buffer(mmap.mmap(-1, _ZERO_BYTES, prot=mmap.PROT_READ))
    return _zeros


def nothing(rows: int, kind: pa.DataType) -> pa.Array:
    """A column without any value, whose buffers all lie in `zeros()`."""
    zero = zeros()
    if 8 * (rows + 1) > zero.size:
        return pa.nulls(rows, kind)
    buffers = [zero, zero, zero] if pa.types.is_string(kind) else [zero, zero]
    return pa.Array.from_buffers(kind, rows, buffers, null_count=rows)


def table_batch(columns: Columns, batches: Sequence[pa.RecordBatch]) -> TableBatch:
    """The rows of one table: one chunk for each commit, columns that a commit does not have filled with null.

    Args:
        columns: The columns of the table by now.
        batches: One for each commit, in the order of the log.
    """
    chunks = []
    low, high = 2**63 - 1, -(2**63)
    for batch in batches:
        place = {name: number for number, name in enumerate(batch.schema.names)}
        arrays = [
            batch.column(place[name]) if name in place else nothing(batch.num_rows, kind)
            for name, kind in columns.kinds
        ]
        time = batch.column(place[TIME])
        arrays.append(time.view(UTC_TIME))
        if batch.num_rows == 1:
            first = last = time.view(pa.int64())[0].as_py()
        else:
            ends = pc.min_max(time.view(pa.int64()))
            first, last = ends["min"].as_py(), ends["max"].as_py()
        low, high = min(low, first), max(high, last)
        chunks.append(pa.RecordBatch.from_arrays(arrays, schema=columns.arrow))
    return TableBatch(
        name=columns.name,
        tags=columns.tags,
        fields=columns.fields,
        data=pa.Table.from_batches(chunks, schema=columns.arrow),
        time_range=(low, high),
    )
