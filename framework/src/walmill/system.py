"""`system.*`: what the engine knows, as tables of SQL, made when they are asked for; with InfluxDB's names where it has them.

A query sees what belongs to its database. In `_internal` it sees everything, and the tables about databases, tables and tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from walmill.buffer.source import Locate
from walmill.errors import DataCorruption
from walmill.model.catalog import INTERNAL, Catalog
from walmill.query.desk import Asked, shown
from walmill.query.plan import Extra, Made
from walmill.scarcity import scarce
from walmill.store.view import View

SCHEMA = "system"
LOG_ROWS = 10_000
"""So many of the newest lines are in `system.processing_engine_logs`; the table `logs` of `_internal` has all."""
NS = pa.timestamp("ns")

Columns = Mapping[str, pa.DataType]
TRIGGERS: Columns = {
    "database": pa.string(),
    "trigger_name": pa.string(),
    "plugin": pa.string(),
    "trigger_specification": pa.string(),
    "state": pa.string(),
    "reason": pa.string(),
    "warning": pa.string(),
    "error_behavior": pa.string(),
    "executor": pa.string(),
    "max_concurrency": pa.int64(),
    "max_batch_rows": pa.int64(),
    "through": pa.int64(),
    "lag_commits": pa.int64(),
    "lag_rows": pa.int64(),
    "lag_seconds": pa.float64(),
    "running": pa.int64(),
    "runs": pa.int64(),
    "failures": pa.int64(),
    "rows_in": pa.int64(),
    "rows_written": pa.int64(),
    "duration_p50_ns": pa.int64(),
    "duration_p99_ns": pa.int64(),
    "cpu_ns": pa.int64(),
    "memory": pa.int64(),
    "last_error": pa.string(),
    "last_error_at": NS,
    "last_fired": NS,
    "next_due": NS,
    "created_at": NS,
}
"""`system.triggers`: as `walmill show trigger` has them."""
ENGINE_TRIGGERS: Columns = {
    "trigger_name": pa.string(),
    "plugin_filename": pa.string(),
    "trigger_specification": pa.string(),
    "disabled": pa.bool_(),
    "error_behavior": pa.string(),
}
ARGUMENTS: Columns = {
    "database": pa.string(),
    "trigger_name": pa.string(),
    "argument_key": pa.string(),
    "argument_value": pa.string(),
}
LOGS: Columns = {
    "event_time": NS,
    "database": pa.string(),
    "trigger_name": pa.string(),
    "log_level": pa.string(),
    "log_text": pa.string(),
    "run_id": pa.string(),
}
PLUGINS: Columns = {
    "name": pa.string(),
    "distribution": pa.string(),
    "version": pa.string(),
    "location": pa.string(),
    "entry_point": pa.string(),
    "hooks": pa.string(),
    "status": pa.string(),
    "cause": pa.string(),
    "problem": pa.string(),
    "deprecated": pa.string(),
    "hash": pa.string(),
    "triggers": pa.string(),
    "summary": pa.string(),
}
PLUGIN_FILES: Columns = {
    "plugin_name": pa.string(),
    "file_name": pa.string(),
    "file_path": pa.string(),
    "size_bytes": pa.int64(),
    "last_modified": NS,
}
FILES: Columns = {
    "database_name": pa.string(),
    "table_name": pa.string(),
    "path": pa.string(),
    "size_bytes": pa.int64(),
    "row_count": pa.int64(),
    "min_time": pa.int64(),
    "max_time": pa.int64(),
    "first_sequence": pa.int64(),
    "last_sequence": pa.int64(),
}
INFLUXDB_SCHEMA: Columns = {"measurement": pa.string(), "key": pa.string(), "data_type": pa.string()}
DATABASES: Columns = {
    "database_name": pa.string(),
    "retention_period_ns": pa.int64(),
    "deleted": pa.bool_(),
    "created_at": NS,
    "hard_deletion_time": NS,
}
TABLES: Columns = {
    "database_name": pa.string(),
    "table_name": pa.string(),
    "column_count": pa.int64(),
    "series_key_columns": pa.string(),
    "retention_period_ns": pa.int64(),
    "deleted": pa.bool_(),
    "hard_deletion_time": NS,
}
TOKENS: Columns = {
    "name": pa.string(),
    "created_at": NS,
    "expiry": NS,
    "permissions": pa.string(),
    "query_timeout_ns": pa.int64(),
    "query_memory_limit_bytes": pa.int64(),
    "query_max_rows": pa.int64(),
    "query_max_files": pa.int64(),
}


QUERIES: Columns = {
    "id": pa.int64(),
    "phase": pa.string(),
    "issue_time": NS,
    "query_type": pa.string(),
    "query_text": pa.string(),
    "database": pa.string(),
    "origin": pa.string(),
    "parquet_files": pa.int64(),
    "rows": pa.int64(),
    "permit_duration": pa.duration("ns"),
    "plan_duration": pa.duration("ns"),
    "execute_duration": pa.duration("ns"),
    "end2end_duration": pa.duration("ns"),
    "success": pa.bool_(),
    "running": pa.bool_(),
    "cancelled": pa.bool_(),
    "error": pa.string(),
}


LAST_CACHES: Columns = {
    "database": pa.string(),
    "table": pa.string(),
    "name": pa.string(),
    "key_column_names": pa.list_(pa.string()),
    "value_column_names": pa.list_(pa.string()),
    "count": pa.int64(),
    "ttl": pa.int64(),
}
DISTINCT_CACHES: Columns = {
    "database": pa.string(),
    "table": pa.string(),
    "name": pa.string(),
    "column_names": pa.list_(pa.string()),
    "max_cardinality": pa.int64(),
    "max_age_seconds": pa.int64(),
}


class Host(Protocol):
    """What the tables need of the engine."""

    def triggers(self, database: str | None = None) -> list[dict[str, Any]]:
        """The triggers, as plain data."""

    def show_plugins(self) -> list[dict[str, Any]]:
        """The plugins, as plain data."""

    def plugin_files(self) -> list[dict[str, Any]]:
        """The files of the plugins, as plain data."""

    def queries(self) -> list[Asked]:
        """The queries that wait or run, and the last ones that have ended."""

    def caches(self, database: str | None = None) -> list[dict[str, Any]]:
        """The caches of values, as plain data."""

    def locate(self) -> Locate:
        """Gives files."""


def tables(host: Host, view: View, database: str) -> Extra:
    """The schema `system` of a query.

    Args:
        host: The engine.
        view: The view that the query has.
        database: The database that it names.
    """
    catalog = view.catalog
    only = None if database == INTERNAL else database
    makers: dict[str, Made] = {
        "triggers": made(TRIGGERS, lambda: table(TRIGGERS, host.triggers(only))),
        "processing_engine_triggers": made(ENGINE_TRIGGERS, lambda: _engine_triggers(host.triggers(only))),
        "processing_engine_trigger_arguments": made(ARGUMENTS, lambda: _arguments(host.triggers(only))),
        "processing_engine_logs": made(LOGS, lambda: _logs(view, host.locate(), only)),
        "queries": made(
            QUERIES, lambda: table(QUERIES, [_asked(one) for one in host.queries() if only in (None, one.database)])
        ),
        "last_caches": made(LAST_CACHES, lambda: _caches(host.caches(only), "last")),
        "distinct_caches": made(DISTINCT_CACHES, lambda: _caches(host.caches(only), "distinct")),
        "plugins": made(PLUGINS, lambda: _plugins(host.show_plugins())),
        "parquet_files": made(FILES, lambda: _files(view, only)),
        "influxdb_schema": made(INFLUXDB_SCHEMA, lambda: _schema(catalog, database)),
    }
    if only is None:
        makers["databases"] = made(DATABASES, lambda: _databases(catalog))
        makers["tables"] = made(TABLES, lambda: _tables(catalog))
        makers["plugin_files"] = made(PLUGIN_FILES, lambda: table(PLUGIN_FILES, host.plugin_files()))
        makers["tokens"] = made(TOKENS, lambda: _tokens(catalog))
    return {SCHEMA: makers}


def made(columns: Columns, make: Callable[[], pa.Table]) -> Made:
    """A table that is made when a query names it."""
    return Made(lambda: pa.schema(columns.items()), make)


def table(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table; what is missing in one is null."""
    return pa.table(
        {name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()},
        schema=pa.schema(columns.items()),
    )


def _engine_triggers(found: Sequence[Mapping[str, Any]]) -> pa.Table:
    return table(ENGINE_TRIGGERS, [{**row, "plugin_filename": row["plugin"]} for row in found])


def _arguments(found: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Secrets are hidden, as everywhere."""
    rows = [
        {
            "database": row["database"],
            "trigger_name": row["trigger_name"],
            "argument_key": key,
            "argument_value": str(value),
        }
        for row in found
        for key, value in row["trigger_arguments"].items()
    ]
    return table(ARGUMENTS, rows)


def _logs(view: View, locate: Locate, database: str | None) -> pa.Table:
    """The newest lines that plugins said: from memory, and from the newest files as far as needed."""
    owner = view.catalog.find_database(INTERNAL)
    kept = None if owner is None else view.catalog.find_table(owner, "logs")
    if kept is None:
        return table(LOGS, [])
    names = ["time", "database", "trigger", "level", "text", "run_id"]
    found: list[pa.Table] = []
    count = 0
    buffer = view.tables.get(kept.id)
    if buffer is not None:
        for batch in reversed(buffer.batches):
            count += _add(found, pa.Table.from_batches([batch]).select(names), database)
            if count >= LOG_ROWS:
                break
    if count < LOG_ROWS:
        import pyarrow.parquet as pq

        for file in sorted(view.files.get(kept.id, ()), key=lambda one: one.max_time, reverse=True):
            try:
                read = pq.read_table(locate(file).path, columns=names)
            except (OSError, pa.ArrowException) as error:
                raise scarce(error) or DataCorruption(f"the file {file.path!r} cannot be read: {error}") from None
            count += _add(found, read, database)
            if count >= LOG_ROWS:
                break
    if not found:
        return table(LOGS, [])
    plain = [one.cast(pa.schema([NS_FIELD, *(pa.field(name, pa.string()) for name in names[1:])])) for one in found]
    rows = pa.concat_tables(plain).sort_by([("time", "descending")]).slice(0, LOG_ROWS)
    return rows.rename_columns(list(LOGS)).cast(pa.schema(LOGS.items()))


NS_FIELD = pa.field("time", NS)


def _add(found: list[pa.Table], rows: pa.Table, database: str | None) -> int:
    if database is not None:
        rows = rows.filter(pc.equal(rows.column("database").cast(pa.string()), database))
    found.append(rows)
    return int(rows.num_rows)


def _asked(one: Asked) -> dict[str, Any]:
    found = shown(one)

    def duration(name: str) -> int | None:
        return None if found[name] is None else round(found[name] * 1e9)

    return {
        **found,
        "parquet_files": found["files"],
        "permit_duration": duration("permit_seconds"),
        "plan_duration": duration("plan_seconds"),
        "execute_duration": duration("execute_seconds"),
        "end2end_duration": duration("seconds"),
    }


def _caches(found: Sequence[Mapping[str, Any]], kind: str) -> pa.Table:
    """Durations are in seconds, as InfluxDB has them."""
    rows = [
        {
            **one,
            "key_column_names": one["columns"],
            "column_names": one["columns"],
            "value_column_names": one["values"],
            "ttl": None if one["ttl_seconds"] is None else int(one["ttl_seconds"]),
            "max_age_seconds": None if one["ttl_seconds"] is None else int(one["ttl_seconds"]),
        }
        for one in found
        if one["kind"] == kind
    ]
    return table(LAST_CACHES if kind == "last" else DISTINCT_CACHES, rows)


def _plugins(found: Sequence[Mapping[str, Any]]) -> pa.Table:
    rows = [
        {
            **one,
            "entry_point": one["value"],
            "hooks": ",".join(sorted(one["hooks"])),
            "triggers": ",".join(one["triggers"]),
            "deprecated": "; ".join(one["deprecated"]) or None,
        }
        for one in found
    ]
    return table(PLUGINS, rows)


def _files(view: View, database: str | None) -> pa.Table:
    rows = []
    for number, files in view.files.items():
        kept = view.catalog.tables.get(number)
        if kept is None:
            continue
        owner = view.catalog.databases[kept.database_id].name
        if database in (None, owner):
            rows += [
                {
                    "database_name": owner,
                    "table_name": kept.schema.name,
                    "path": one.path,
                    "size_bytes": one.bytes,
                    "row_count": one.rows,
                    "min_time": one.min_time,
                    "max_time": one.max_time,
                    "first_sequence": one.first_sequence,
                    "last_sequence": one.last_sequence,
                }
                for one in files
            ]
    return table(FILES, rows)


def _schema(catalog: Catalog, database: str) -> pa.Table:
    owner = catalog.find_database(database)
    rows = []
    for name, number in sorted({} if owner is None else owner.tables.items()):
        schema = catalog.tables[number].schema
        rows += [{"measurement": name, "key": tag, "data_type": "tag"} for tag in schema.tags]
        rows += [{"measurement": name, "key": key, "data_type": kind} for key, kind in schema.fields.items()]
        rows.append({"measurement": name, "key": "time", "data_type": "timestamp"})
    return table(INFLUXDB_SCHEMA, rows)


def _databases(catalog: Catalog) -> pa.Table:
    rows = [
        {
            "database_name": one.name,
            "retention_period_ns": one.retention,
            "deleted": one.deleted is not None,
            "created_at": one.created_at,
            "hard_deletion_time": None if one.deleted is None else one.deleted.until,
        }
        for one in catalog.databases.values()
    ]
    return table(DATABASES, sorted(rows, key=lambda one: str(one["database_name"])))


def _tables(catalog: Catalog) -> pa.Table:
    rows = [
        {
            "database_name": catalog.databases[one.database_id].name,
            "table_name": one.schema.name,
            "column_count": len(one.schema.tags) + len(one.schema.fields) + 1,
            "series_key_columns": ", ".join(one.schema.tags),
            "retention_period_ns": catalog.period_of(number),
            "deleted": one.deleted is not None,
            "hard_deletion_time": None if one.deleted is None else one.deleted.until,
        }
        for number, one in catalog.tables.items()
    ]
    return table(TABLES, sorted(rows, key=lambda one: (str(one["database_name"]), str(one["table_name"]))))


def _tokens(catalog: Catalog) -> pa.Table:
    """Without hashes."""
    rows = [
        {
            "name": one.name,
            "created_at": one.created_at,
            "expiry": one.expires_at,
            "permissions": ",".join(one.permissions),
            "query_timeout_ns": one.limits.timeout,
            "query_memory_limit_bytes": one.limits.memory,
            "query_max_rows": one.limits.rows,
            "query_max_files": one.limits.files,
        }
        for one in catalog.tokens.values()
    ]
    return table(TOKENS, rows)
