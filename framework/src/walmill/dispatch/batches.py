"""From commits to what `on_write` gets: without a copy."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from walmill.model.catalog import Catalog
from walmill.model.schema import TIME, TableSchema, arrow_type
from walmill.store.commit import Commit
from walmill_hookspecs import TableBatch, WriteBatch
from walmill_hookspecs.types import BatchKind

UTC_TIME = pa.timestamp("ns", "UTC")
_ZERO_BYTES = 256 * 2**20
_zeros: pa.Buffer | None = None


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


def table_batch(schema: TableSchema, batches: Sequence[pa.RecordBatch]) -> TableBatch:
    """The rows of one table: one chunk for each commit, columns that a commit does not have filled with null.

    Args:
        schema: The columns of the table by now.
        batches: One for each commit, in the order of the log.
    """
    kinds: list[tuple[str, pa.DataType]] = [(tag, pa.string()) for tag in schema.tags]
    kinds += [(name, arrow_type(kind)) for name, kind in schema.fields.items()]
    arrow = pa.schema([*(pa.field(name, kind) for name, kind in kinds), pa.field(TIME, UTC_TIME, nullable=False)])
    chunks = []
    low, high = 2**63 - 1, -(2**63)
    for batch in batches:
        place = {name: number for number, name in enumerate(batch.schema.names)}
        columns = [
            batch.column(place[name]) if name in place else nothing(batch.num_rows, kind) for name, kind in kinds
        ]
        time = batch.column(place[TIME])
        columns.append(time.view(UTC_TIME))
        if batch.num_rows == 1:
            first = last = time.view(pa.int64())[0].as_py()
        else:
            ends = pc.min_max(time.view(pa.int64()))
            first, last = ends["min"].as_py(), ends["max"].as_py()
        low, high = min(low, first), max(high, last)
        chunks.append(pa.RecordBatch.from_arrays(columns, schema=arrow))
    return TableBatch(
        name=schema.name,
        tags=schema.tags,
        fields=schema.fields,
        data=pa.Table.from_batches(chunks, schema=arrow),
        time_range=(low, high),
    )


def write_batch(
    commits: Sequence[Commit],
    tables: frozenset[int],
    catalog: Catalog,
    database: str,
    *,
    first: int,
    kind: BatchKind = "live",
) -> WriteBatch:
    """The batch for one run.

    Args:
        commits: Whole commits of one origin and chain, in order.
        tables: Ids of the tables that concern the trigger.
        catalog: The definitions by now.
        database: Name of the database.
        first: First sequence of the batch.
        kind: Why it runs.
    """
    parts: dict[int, list[pa.RecordBatch]] = {}
    for commit in commits:
        for part in commit.rows:
            if part.table in tables and part.table in catalog.tables:
                parts.setdefault(part.table, []).append(part.batch)
    origin = commits[0].origin
    maker = catalog.triggers.get(origin)
    made = {number: table_batch(catalog.tables[number].schema, batches) for number, batches in parts.items()}
    return WriteBatch(
        database=database,
        first_sequence=first,
        last_sequence=commits[-1].sequence,
        origin="client" if not origin else (maker.name if maker is not None else f"trigger {origin}"),
        kind=kind,
        tables={batch.name: batch for batch in made.values()},
    )
