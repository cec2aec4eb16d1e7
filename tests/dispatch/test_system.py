"""`system.*`: what the engine knows, in SQL."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from walmill.engine import Engine
from walmill.query.errors import TableNotFound
from walmill_hookspecs import Secret, hookimpl, setting, settings

Wait = Callable[[Callable[[], object]], None]


@settings
class Wanted:
    password: Secret = setting("a secret", default="")
    level: int = setting("a number", default=1)


class Logs:
    @hookimpl
    def register_settings(self) -> type:
        return Wanted

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        ctx.log.warning("%d rows in %s", batch.num_rows, ctx.database)


def rows(engine: Engine, sql: str, database: str = "d") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.query(sql, database=database).to_pylist()
    return found


@pytest.fixture
def used(tmp_path: Path, wait: Wait) -> Any:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        engine.register(Logs, name="logs")
        for database in ("d", "e"):
            arguments = {"password": "hush", "level": 3}
            engine.create_trigger(
                database=database, name="t", plugin="logs", spec="table:cpu", arguments=arguments, policy="skip"
            )
            engine.write("cpu,host=a v=1 1\ncpu,host=b v=2 2", database=database)
            wait(lambda: rows(engine, "SELECT log_text FROM system.processing_engine_logs", database))  # noqa: B023
        yield weakref.proxy(engine)


def test_triggers_with_their_lag(used: Engine, wait: Wait) -> None:
    found = rows(
        used, "SELECT database, trigger_name, state, lag_rows, lag_seconds, runs, rows_in FROM system.triggers"
    )
    assert found == [
        {
            "database": "d",
            "trigger_name": "t",
            "state": "enabled",
            "lag_rows": 0,
            "lag_seconds": 0.0,
            "runs": 1,
            "rows_in": 2,
        }
    ]
    assert len(rows(used, "SELECT state FROM system.triggers", "_internal")) == 2
    assert rows(used, "SELECT * FROM system.processing_engine_triggers") == [
        {
            "trigger_name": "t",
            "plugin_filename": "logs",
            "trigger_specification": "table:cpu",
            "disabled": False,
            "error_behavior": "skip",
        }
    ]
    sql = "SELECT argument_key, argument_value FROM system.processing_engine_trigger_arguments ORDER BY 1"
    assert [tuple(row.values()) for row in rows(used, sql)] == [("level", "3"), ("password", "***")]


def test_logs_from_memory_and_from_files(used: Engine, wait: Wait) -> None:
    sql = "SELECT database, trigger_name, log_level, log_text FROM system.processing_engine_logs"
    wanted = [{"database": "d", "trigger_name": "t", "log_level": "WARNING", "log_text": "2 rows in d"}]
    assert rows(used, sql) == wanted
    used.snapshot()
    assert rows(used, sql) == wanted
    wait(lambda: len(rows(used, sql, "_internal")) == 2)
    used.write("cpu,host=a v=1 3", database="d")
    wait(lambda: len(rows(used, sql)) == 2)
    assert [row["log_text"] for row in rows(used, sql)] == ["1 rows in d", "2 rows in d"]


def test_files_schema_and_definitions(used: Engine) -> None:
    assert rows(used, "SELECT path FROM system.parquet_files") == []
    used.snapshot()
    files = rows(used, "SELECT table_name, row_count, min_time, max_time FROM system.parquet_files")
    assert files == [{"table_name": "cpu", "row_count": 2, "min_time": 1, "max_time": 2}]
    assert [tuple(row.values()) for row in rows(used, "SELECT * FROM system.influxdb_schema")] == [
        ("cpu", "host", "tag"),
        ("cpu", "v", "float64"),
        ("cpu", "time", "timestamp"),
    ]
    names = [row["database_name"] for row in rows(used, "SELECT database_name FROM system.databases", "_internal")]
    assert names == ["_internal", "d", "e"]
    sql = "SELECT column_count, series_key_columns FROM system.tables WHERE database_name = 'd'"
    assert rows(used, sql, "_internal") == [{"column_count": 3, "series_key_columns": "host"}]
    used.create_token("who")
    assert [row["name"] for row in rows(used, "SELECT name FROM system.tokens", "_internal")] == ["who"]
    assert rows(used, "SELECT name, status FROM system.plugins") == [{"name": "logs", "status": "active"}]


def test_what_belongs_to_all_is_seen_in_internal_only(used: Engine) -> None:
    for name in ("databases", "tables", "tokens"):
        with pytest.raises(TableNotFound, match=name):
            rows(used, f"SELECT * FROM system.{name}")


def test_it_is_described_without_being_made(used: Engine) -> None:
    sql = "SELECT count(DISTINCT table_name) AS n FROM information_schema.columns WHERE table_schema = 'system'"
    assert rows(used, sql)[0]["n"] == 10
    assert rows(used, "SELECT state FROM system.triggers", "_internal")


def test_an_empty_engine_answers(engine: Engine) -> None:
    assert rows(engine, "SELECT database_name FROM system.databases", "_internal") == []


def test_the_rows_that_a_trigger_has_before_it_are_known_after_a_start(tmp_path: Path, wait: Wait) -> None:
    """Its plugin is away: what is written meanwhile counts, before the engine is closed and after it is opened again."""
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        engine.register(Logs, name="logs")
        engine.create_trigger(database="d", name="t", plugin="logs", spec="table:cpu")
        engine.write("cpu v=1 1", database="d")
        wait(lambda: engine.triggers()[0]["runs"] == 1)
    for start in range(2):
        with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
            for number in range(3):
                assert engine.triggers()[0]["lag_rows"] == 6 * start + 2 * number
                engine.write(f"cpu v=1 {start}{number}1\ncpu v=2 {start}{number}2\nmem v=3 3", database="d")
            assert engine.triggers()[0]["lag_rows"] == 6 * start + 6
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        assert engine.triggers()[0]["lag_rows"] == 12
        engine.register(Logs, name="logs")
        wait(lambda: engine.triggers()[0]["lag_rows"] == 0)
