"""A table of the lake: what is known of it, and how rows get into it."""

from __future__ import annotations

from urllib.parse import quote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from walmill_lakehouse.shape import EXACT

CONFIGURATION = {"delta.logRetentionDuration": "interval 30 days"}
PARTS = 1024
Storage = dict[str, str] | None


class LakeError(Exception):
    """Something about a table of the lake, in one sentence."""


def place_of(into: str, database: str, table: str) -> str:
    """Where a table is: its name with what is no letter, digit, `_`, `-` or `.` as `~XX`."""
    parts = [quote(name, safe="").replace("~", "~7E").replace("%", "~") for name in (database, table)]
    return "/".join([into.rstrip("/"), *parts])


def opened(place: str, storage: Storage) -> DeltaTable | None:
    """A table as it is now; None if there is none."""
    try:
        return DeltaTable(place, storage_options=storage)
    except TableNotFoundError:
        return None


def known(table: DeltaTable | None, application: str) -> tuple[int, bool]:
    """What a table has of a trigger.

    Returns:
        Up to which sequence it has all rows, 0 if it has none; and whether it has some of the next ones.
    """
    found = None if table is None else table.transaction_version(application)
    sequence, part = divmod(0 if found is None else int(found), PARTS)
    whole = part == PARTS - 1 or found is None
    return sequence if whole else sequence - 1, not whole


def version_of(sequence: int, part: int, *, last: bool) -> int:
    """The number by which a table remembers what it has of a trigger: of commits up to a sequence all, or some parts."""
    return sequence * PARTS + (PARTS - 1 if last else min(part, PARTS - 2))


def add(
    table: DeltaTable | None,
    place: str,
    rows: pa.Table,
    *,
    tags: list[str],
    partition: str | None,
    merge: bool,
    application: str,
    version: int,
    storage: Storage,
) -> None:
    """Adds rows to a table in one version of it, which says up to which sequence it has them.

    Args:
        table: The table; None if there is none yet.
        place: Where it is.
        rows: The rows, each identity once.
        tags: Names of the tags.
        partition: Name of the column by which rows lie together.
        merge: Whether rows with the same tags and time are replaced, column by column where there is a new value.
        application: Who writes.
        version: What the table has then; see `version_of`.
        storage: How the bucket is reached.

    Raises:
        LakeError: That is not possible.
    """
    said = CommitProperties(app_transactions=[Transaction(application, version)])
    try:
        if table is None or not merge:
            write_deltalake(
                place,
                rows,
                mode="append",
                schema_mode="merge",
                partition_by=None if partition is None or table is not None else [partition],
                storage_options=storage,
                configuration=CONFIGURATION if table is None else None,
                commit_properties=said,
            )
            return
        keys = [*tags, EXACT, *([partition] if partition is not None else [])]
        same = " AND ".join(f"t.{_quoted(key)} IS NOT DISTINCT FROM s.{_quoted(key)}" for key in tags)
        at = " AND ".join(f"t.{_quoted(key)} = s.{_quoted(key)}" for key in keys[len(tags) :])
        fields = [name for name in rows.column_names if name not in keys]
        there = {field.name for field in table.schema().fields}
        values = {
            _quoted(name): f"coalesce(s.{_quoted(name)}, t.{_quoted(name)})" if name in there else f"s.{_quoted(name)}"
            for name in fields
        }
        merger = table.merge(
            rows,
            " AND ".join(filter(None, [at, same])),
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            commit_properties=said,
        )
        merger.when_matched_update(values).when_not_matched_insert_all().execute()
    except (DeltaError, OSError, ValueError) as error:
        raise LakeError(f"the table {place} cannot be written: {' '.join(str(error).split())}") from error


def tidy(table: DeltaTable, hours: int) -> tuple[int, int]:
    """Joins small files, and deletes those that no version of the last hours needs; gives how many of each."""
    joined = table.optimize.compact()
    deleted = table.vacuum(retention_hours=hours, dry_run=False, enforce_retention_duration=False)
    return int(joined["numFilesRemoved"]), len(deleted)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
