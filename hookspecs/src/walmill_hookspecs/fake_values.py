"""Fakes of what hooks are given: rows, ticks, requests, files. `walmill_hookspecs.fakes` has them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timezone, tzinfo
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from walmill_hookspecs.body import async_body_of, body_of
from walmill_hookspecs.types import (
    FieldType,
    MultiMapping,
    Request,
    SnapshotFile,
    SnapshotRecord,
    SnapshotTable,
    TableBatch,
    Tick,
    UInt,
    WriteBatch,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""The time at which a fake context is, unless it is told another one."""

Rows = Iterable[Mapping[str, Any]]


def nanoseconds(when: datetime | int) -> int:
    """A time as ns since the epoch."""
    if isinstance(when, int):
        return when
    if when.tzinfo is None:
        raise ValueError(f"{when!r} has no time zone; give an aware datetime or int ns")
    delta = when - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1_000


def _field_type(value: Any) -> FieldType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, UInt):
        return "uint64"
    if isinstance(value, int):
        return "int64"
    return "float64" if isinstance(value, float) else "string"


_ARROW = {
    "bool": pa.bool_(),
    "uint64": pa.uint64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
}


def table_batch(name: str, rows: Rows, *, tags: Sequence[str] = (), chunks: int = 1) -> TableBatch:
    """A `TableBatch` from rows.

    Args:
        name: Name of the table.
        rows: Mappings; `time` is int ns or an aware datetime; a missing key or None is no value.
        tags: Which keys are tags.
        chunks: Into how many chunks (commits) the rows are cut.
    """
    listed = [dict(row) for row in rows]
    fields: dict[str, FieldType] = {}
    for row in listed:
        for key, value in row.items():
            if key != "time" and key not in tags and value is not None:
                fields.setdefault(key, _field_type(value))
    times = [nanoseconds(row["time"]) for row in listed]
    columns: dict[str, pa.Array] = {tag: pa.array([row.get(tag) for row in listed], pa.string()) for tag in tags}
    for field, kind in fields.items():
        columns[field] = pa.array([row.get(field) for row in listed], _ARROW[kind])
    columns["time"] = pa.array(times, pa.int64()).cast(pa.timestamp("ns", "UTC"))
    whole = pa.table(columns)
    size = max(1, math.ceil(len(listed) / max(1, chunks)))
    parts = [whole.slice(start, size) for start in range(0, max(1, len(listed)), size)]
    return TableBatch(
        name=name,
        tags=tuple(tags),
        fields=fields,
        data=pa.concat_tables(parts),
        time_range=(min(times, default=0), max(times, default=0)),
    )


def write_batch(
    tables: Mapping[str, Rows],
    *,
    tags: Mapping[str, Sequence[str]] | None = None,
    database: str = "test",
    sequences: tuple[int, int] = (1, 1),
    origin: str = "client",
    kind: Literal["live", "replay", "backfill"] = "live",
) -> WriteBatch:
    """A `WriteBatch` from rows by table.

    Args:
        tables: Rows by name of table, as in `table_batch`.
        tags: Which keys of which table are tags.
        database: Name of the database.
        sequences: First and last sequence.
        origin: `client` or the name of a trigger.
        kind: As in `WriteBatch`.
    """
    return WriteBatch(
        database=database,
        first_sequence=sequences[0],
        last_sequence=sequences[1],
        origin=origin,
        kind=kind,
        tables={name: table_batch(name, rows, tags=(tags or {}).get(name, ())) for name, rows in tables.items()},
    )


def snapshot(
    place: Path,
    tables: Mapping[str, Rows],
    *,
    tags: Mapping[str, Sequence[str]] | None = None,
    database: str = "test",
    sequences: tuple[int, int] = (1, 1),
    late: Sequence[tuple[int, int]] = (),
) -> SnapshotRecord:
    """A `SnapshotRecord` of files that are written into a directory, one for each table, as the engine writes them.

    Args:
        place: The directory; it need not exist.
        tables: Rows by name of table, as in `table_batch`.
        tags: Which keys of which table are tags.
        database: Name of the database.
        sequences: Of the first and the last commit whose rows they hold; what is before them was told before.
        late: Ranges of time in which rows may repeat older ones.
    """
    import pyarrow.parquet as pq

    place.mkdir(parents=True, exist_ok=True)
    found = []
    for name, rows in tables.items():
        batch = table_batch(name, rows, tags=(tags or {}).get(name, ()))
        data = batch.data
        for tag in batch.tags:
            data = data.set_column(
                data.column_names.index(tag), tag, data.column(tag).combine_chunks().dictionary_encode()
            )
        plain = batch.data.append_column("_row", pa.array(range(data.num_rows)))
        order = plain.sort_by([(key, "ascending") for key in (*batch.tags, "time")]).column("_row")
        path = place / f"{name}-{sequences[0]}-{sequences[1]}.parquet"
        pq.write_table(data.take(order), path)
        one = SnapshotFile(
            path=str(path),
            rows=data.num_rows,
            bytes=path.stat().st_size,
            time_range=batch.time_range,
            sequences=sequences,
            late=tuple(late),
        )
        found.append(
            SnapshotTable(
                database=database,
                name=name,
                tags=batch.tags,
                fields=batch.fields,
                files=(one,),
                time_range=batch.time_range,
            )
        )
    return SnapshotRecord(sequence=sequences[1], previous_sequence=sequences[0] - 1, tables=tuple(found))


def tick(
    scheduled_for: datetime = NOW,
    *,
    fired_at: datetime | None = None,
    previous: datetime | None = None,
    missed: int = 0,
    since: datetime | None = None,
    zone: tzinfo = timezone.utc,  # noqa: UP017 - the parameter's type is tzinfo
) -> Tick:
    """A `Tick`; `fired_at` is `scheduled_for` unless given."""
    return Tick(
        scheduled_for=scheduled_for,
        fired_at=fired_at or scheduled_for,
        previous=previous,
        missed=missed,
        timezone=zone,
        since=since,
    )


def request(
    method: str = "GET",
    path: str = "",
    *,
    path_params: Mapping[str, Any] | None = None,
    query: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | str = b"",
    identity: str | None = None,
    client: tuple[str, int] | None = ("127.0.0.1", 40000),
) -> Request:
    """A `Request`."""
    return Request(
        method=method.upper(),
        path=path.lstrip("/"),
        path_params=dict(path_params or {}),
        query_params=MultiMapping(query),
        headers=MultiMapping(headers, ignore_case=True),
        client=client,
        identity=identity,
        body=body.encode() if isinstance(body, str) else body,
    )


body = body_of
async_body = async_body_of
