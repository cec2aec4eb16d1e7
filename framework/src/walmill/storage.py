"""What an engine keeps, and where: the log, the newest snapshot, the rows of each table; as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from walmill.keeper import Keeper
from walmill.snapshot.manifest import Manifest
from walmill.snapshot.release import find_holders
from walmill.store.view import View
from walmill.units import format_time
from walmill.wal.segment import Segment


def describe_storage(
    view: View, segments: Sequence[Segment], keeper: Keeper | None, place: str | None = None
) -> dict[str, Any]:
    """What is kept.

    Args:
        view: The view; all figures of tables are of it.
        segments: The segments of the log, oldest first.
        keeper: The keeper; None for an engine that keeps everything in memory.
        place: Where the log is; None for memory.

    Returns:
        `sequence`; `log` (`place`, `segments`, `bytes`, `first_sequence`, `to_replay_bytes`, `held_by`: the enabled trigger
        furthest behind, and `pressure`: the part of the memory for rows that is used); `snapshot` (the newest one, None if there
        is none), `work` (what was done since the start), `store` and `cache` (copies of its files here, None if it is a
        directory), all None without a keeper; `disk_short` (whether writers wait for space); `tables`, by database and name.
    """
    covered = 0 if keeper is None or keeper.manifest is None else keeper.manifest.sequence
    used = sum(one.end for one in segments)
    return {
        "sequence": view.sequence,
        "log": {
            "place": place,
            "segments": len(segments),
            "bytes": used,
            "first_sequence": segments[0].header.first_sequence if segments else view.sequence + 1,
            "to_replay_bytes": used if keeper is None else keeper.behind_bytes,
            "held_by": _held_by(view, covered),
            "pressure": None if keeper is None else round(keeper.pressure, 4),
        },
        "snapshot": None if keeper is None else _snapshot(keeper.manifest),
        "work": None if keeper is None else _work(keeper),
        "disk_short": keeper is not None and keeper.room.short,
        "store": None if keeper is None else keeper.store_name,
        "cache": None if keeper is None else keeper.cached(),
        "tables": _tables(view),
    }


def _held_by(view: View, covered: int) -> dict[str, Any] | None:
    """The enabled trigger that needs the oldest part of what files have already; None if none needs any of it."""
    behind = [one for one in find_holders(view.catalog, view.cursors) if one.enabled and one.needs <= covered]
    if not behind:
        return None
    first = min(behind, key=lambda one: (one.needs, one.trigger))
    trigger = view.catalog.triggers[first.trigger]
    return {
        "database": view.catalog.databases[trigger.database_id].name,
        "trigger": trigger.name,
        "needs": first.needs,
    }


def _snapshot(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    return {"number": manifest.number, "sequence": manifest.sequence, "created": format_time(manifest.created)}


def _work(keeper: Keeper) -> dict[str, Any]:
    figures = keeper.figures
    return {
        "snapshots": figures.snapshots,
        "snapshot_failures": figures.failures,
        "snapshot_rows": figures.rows,
        "last_snapshot_seconds": round(figures.seconds, 6),
        "joins": figures.joins,
        "objects_deleted": figures.swept,
        "segments_released": figures.released,
    }


def _tables(view: View) -> list[dict[str, Any]]:
    found = []
    for number, table in view.catalog.tables.items():
        files = view.files.get(number, ())
        buffer = view.tables.get(number)
        found.append(
            {
                "database": view.catalog.databases[table.database_id].name,
                "table": table.schema.name,
                "rows_in_memory": 0 if buffer is None else buffer.num_rows,
                "files": len(files),
                "rows_in_files": sum(one.rows for one in files),
                "file_bytes": sum(one.bytes for one in files),
                "earliest_in_files": format_time(min(one.min_time for one in files)) if files else None,
                "latest_in_files": format_time(max(one.max_time for one in files)) if files else None,
            }
        )
    return sorted(found, key=lambda one: (one["database"], one["table"]))
