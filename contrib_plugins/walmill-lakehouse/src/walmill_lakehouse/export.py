"""Keeps a Delta Lake table of each table of the database: what is in Parquet files of ours is in it a moment later."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from walmill_hookspecs import (
    BadSettings,
    Context,
    SnapshotFile,
    SnapshotRecord,
    SnapshotTable,
    Tick,
    hookimpl,
)
from walmill_lakehouse.settings import Lakehouse
from walmill_lakehouse.shape import ALWAYS, apart, batches, lake_names, merged, named, with_last

if TYPE_CHECKING:
    from deltalake import DeltaTable

_NANOS = "'Timestamp(Nanosecond, None)'"


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Lakehouse


@hookimpl
def on_snapshot(record: SnapshotRecord, ctx: Context[Lakehouse]) -> None:
    """Brings the rows of new files into the lake; what a run before this one, that did not end, has brought is passed over."""
    application = _application(ctx)
    for table in record.tables:
        _export(table, record.previous_sequence, application, ctx)


@hookimpl
def on_schedule(tick: Tick, ctx: Context[Lakehouse]) -> None:
    """Joins the small files of the lake's tables, and deletes what no version needs any more."""
    from walmill_lakehouse.lake import opened, place_of, tidy

    chosen = ctx.settings
    found = ctx.query("SELECT DISTINCT table_name FROM information_schema.tables WHERE table_schema = 'iox' ORDER BY 1")
    for name in found.column(0).to_pylist():
        table = opened(place_of(chosen.into, ctx.database, name), chosen.storage())
        if table is not None:
            joined, deleted = tidy(table, chosen.keep_hours)
            ctx.log.info("%s: %d files joined, %d deleted", name, joined, deleted)


def _application(ctx: Context[Lakehouse]) -> str:
    """The name by which the lake knows this trigger: another one of its name must not be taken for it."""
    known = ctx.cache.get("application")
    if known is None:
        known = f"walmill-{uuid.uuid4()}"
        ctx.cache.put("application", known)
        ctx.checkpoint()  # before anything bears it
    return str(known)


def _export(found: SnapshotTable, before: int, application: str, ctx: Context[Lakehouse]) -> None:
    from walmill_lakehouse.lake import add, known, opened, place_of, version_of

    chosen = ctx.settings
    place, storage = place_of(chosen.into, found.database, found.name), chosen.storage()
    names, together = lake_names([*found.tags, *found.fields], chosen.partition)
    tags, fields = [names[tag] for tag in found.tags], [names[field] for field in found.fields]
    table = opened(place, storage)
    _check_partition(table, together, place)
    done, begun = known(table, application)
    # files of one age may come in several batches: a table has all of that age only with the last of them
    files = sorted((one for one in found.files if one.sequences[1] > done), key=lambda one: one.sequences[::-1])
    groups = list(batches(files, chosen.rows, lambda one: one.rows))
    part = reached = 0
    for place_in_line, several in enumerate(groups):
        newest = several[-1].sequences[1]
        whole = place_in_line + 1 == len(groups) or groups[place_in_line + 1][0].sequences[1] > newest
        part, reached = part if newest == reached else 0, newest
        asked = any("://" in one.path for one in several)
        joined = any(one.sequences[0] <= max(before, done) for one in several)  # with what the lake has
        again = begun and several[0].sequences[1] == done + 1
        late = ALWAYS if asked or joined or again else [span for one in several for span in one.late]
        pieces = (piece for some in _rows(found, several, ctx, asked=asked) for piece in apart(some, len(tags), late))
        for (some, merge), last in with_last(pieces):
            rows = named(some, tags, fields, chosen.partition, together)
            add(
                table,
                place,
                rows,
                tags=tags,
                partition=together,
                merge=merge,
                application=application,
                version=version_of(newest, part, last=last and whole),
                storage=storage,
            )
            ctx.log.info("%s: %d rows %s", place, rows.num_rows, "merged" if merge else "added")
            table = opened(place, storage)
            part += 1


def _check_partition(table: DeltaTable | None, partition: str | None, place: str) -> None:
    """Raises BadSettings if a table lies otherwise than the settings say."""
    if table is None:
        return
    has = next(iter(table.metadata().partition_columns), None)
    if has != partition:
        raise BadSettings(
            f"the table {place} is partitioned by {has or 'nothing'}, and the settings say {partition or 'nothing'}"
        )


def _rows(
    table: SnapshotTable, files: list[SnapshotFile], ctx: Context[Lakehouse], *, asked: bool
) -> Iterator[pa.Table]:
    """The rows of files, each identity once; of a large file so many at a time.

    Files of a bucket are not read: the engine is asked for the rows of their times.
    """
    if asked:
        yield merged([_asked(table, files, ctx)], table.tags, table.fields)
    elif len(files) > 1:
        yield merged([pq.read_table(one.path, partitioning=None) for one in files], table.tags, table.fields)
    else:
        with pq.ParquetFile(files[0].path) as file:
            groups = file.iter_batches(ctx.settings.rows)  # which end where the file's row groups end
            for some in batches(groups, ctx.settings.rows, lambda batch: batch.num_rows):
                yield merged([pa.Table.from_batches(some)], table.tags, table.fields)


def _asked(table: SnapshotTable, files: list[SnapshotFile], ctx: Context[Lakehouse]) -> pa.Table:
    name = '"' + table.name.replace('"', '""') + '"'
    low, high = min(one.time_range[0] for one in files), max(one.time_range[1] for one in files)
    return ctx.query(
        f"SELECT * FROM {name} WHERE time >= arrow_cast($low, {_NANOS}) AND time <= arrow_cast($high, {_NANOS})",  # noqa: S608
        {"low": low, "high": high},
    )
