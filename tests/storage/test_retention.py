"""Rows, tables and databases whose time has passed are hidden at once, and soon off the disk; what is deleted can be restored."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from walmill.databases import Gone
from walmill.engine import Engine
from walmill.errors import NotFound, WalmillError
from walmill.model.catalog import FOR_EVER
from walmill.snapshot.compact import Bounds
from walmill.testing.clock import ManualClock
from walmill.units import DAY, HOUR, SECOND

NOW = 1_700_000_000 * SECOND


def opened(directory: Path, clock: ManualClock, **more: Any) -> Engine:
    return Engine.open(data_dir=directory, discover_plugins=False, clock=clock, join_rate=0, **more)


def days(engine: Engine, table: str = "cpu", database: str = "d") -> list[int]:
    """How many days ago the rows of a table are, the oldest first."""
    found = engine.query(f"SELECT CAST(time AS BIGINT) AS t FROM {table} ORDER BY t", database=database)
    return [round((NOW - t) / DAY) for t in found["t"].to_pylist()]


def write_days(engine: Engine, ago: range, table: str = "cpu", database: str = "d") -> None:
    lines = [f"{table},host=a v={day} {NOW - day * DAY}" for day in ago]
    engine.write("\n".join(lines), database=database)


def stored(directory: Path) -> int:
    return sum(one.stat().st_size for one in directory.rglob("*.parquet"))


def tidied(engine: Engine, found: Callable[[], bool] = lambda: True) -> None:
    """Cleans up, also what an ended query still holds until garbage is collected, and what the engine itself works on beside."""
    until = time.monotonic() + 60
    while True:
        gc.collect()
        engine.tidy()
        if found():
            return
        assert time.monotonic() < until
        time.sleep(0.05)


def test_rows_expire_in_memory_and_in_files_and_their_files_go(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with opened(tmp_path, clock) as engine:
        engine.create_database("d", retention=100 * DAY)
        write_days(engine, range(95, 0, -1))
        engine.snapshot()
        write_days(engine, range(99, 95, -1))
        before = stored(tmp_path)
        assert days(engine) == list(range(99, 0, -1))
        clock.advance(50 * DAY)
        assert days(engine) == list(range(50, 0, -1)), "what has expired is not seen, wherever it is"
        assert engine.query("SELECT count(*) AS n FROM cpu", database="d")["n"].to_pylist() == [50]
        assert engine.query("SELECT min(v) AS v, max(v) AS w FROM cpu", database="d").to_pylist() == [{"v": 1, "w": 50}]
        engine.snapshot()
        tidied(engine, lambda: stored(tmp_path) < before)
        assert days(engine) == list(range(50, 0, -1))
        clock.advance(51 * DAY)
        tidied(engine, lambda: stored(tmp_path) == 0)
        assert days(engine) == []
        figures = engine.keeper_figures
        assert figures is not None
        assert figures.expired == 99


def test_a_table_has_a_period_of_its_own(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with opened(tmp_path, clock) as engine:
        for table in ("cpu", "mem", "kept"):
            write_days(engine, range(9, 0, -1), table)
        engine.set_retention("d", period=5 * DAY + HOUR)
        engine.set_retention("d", "mem", period=2 * DAY + HOUR)
        engine.set_retention("d", "kept", period=FOR_EVER)
        assert [len(days(engine, table)) for table in ("cpu", "mem", "kept")] == [5, 2, 9]
        engine.snapshot()
    with opened(tmp_path, clock) as engine:
        assert [len(days(engine, table)) for table in ("cpu", "mem", "kept")] == [5, 2, 9]
        engine.set_retention("d", "mem", period=None)
        engine.set_retention("d", "kept", period=None)
        assert [len(days(engine, table)) for table in ("cpu", "mem", "kept")] == [5, 5, 5]
        engine.set_retention("d", period=None)
        assert [len(days(engine, table)) for table in ("cpu", "mem", "kept")] == [9, 9, 9], "no file was cut yet"


def test_rows_that_have_expired_already_are_taken_and_not_seen(tmp_path: Path) -> None:
    with opened(tmp_path, ManualClock(NOW)) as engine:
        engine.create_database("d", retention=DAY + HOUR)
        write_days(engine, range(3, -1, -1))
        assert days(engine) == [1, 0]
        engine.set_retention("d", period=None)
        assert days(engine) == [3, 2, 1, 0]


def test_a_query_that_runs_reads_on_though_its_files_have_expired(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with opened(tmp_path, clock, joins=Bounds(files=100)) as engine:
        engine.create_database("d", retention=10 * DAY)
        for start in range(3):
            lines = "\n".join(f"cpu,host=h{n} v={n} {NOW - DAY + start * SECOND + n}" for n in range(30_000))
            engine.write(lines, database="d")
            engine.snapshot()
        with engine.stream("SELECT * FROM cpu ORDER BY host, time", database="d") as stream:
            rows = next(stream).num_rows
            clock.advance(11 * DAY)
            tidied(engine)
            assert days(engine) == []
            rows += sum(batch.num_rows for batch in stream)
        assert rows == 90_000
        del stream
        tidied(engine, lambda: stored(tmp_path) == 0)


def test_a_database_is_deleted_restored_and_deleted_for_good(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with opened(tmp_path, clock) as engine:
        write_days(engine, range(3))
        engine.snapshot()
        write_days(engine, range(3, 5))
        engine.delete_database("d")
        assert engine.databases() == []
        with pytest.raises(NotFound, match="no database 'd'"):
            engine.query("SELECT * FROM cpu", database="d")
        write_days(engine, range(7, 8))  # a new one of the same name
        assert days(engine) == [7]
        engine.snapshot()
        (shown,) = engine.show_databases(deleted=True)
        assert (shown["db"], shown["hard_delete_at"]) == ("d", "2023-11-17T22:13:20Z")
    with opened(tmp_path, clock) as engine:
        with pytest.raises(WalmillError, match="another database 'd'"):
            engine.restore_database("d")
        assert engine.restore_database("d", new_name="old") == "old"
        assert (days(engine, database="old"), days(engine)) == ([4, 3, 2, 1, 0], [7])
        engine.delete_database("old")
        clock.advance(72 * HOUR)
        tidied(engine)
        with pytest.raises(NotFound, match="can be restored"):
            engine.restore_database("old")
        engine.snapshot()
        tidied(engine, lambda: len([*tmp_path.rglob("*.parquet")]) == 1)
        assert [one["rows_in_files"] for one in engine.storage()["tables"]] == [1]
        assert days(engine) == [7]


def test_a_table_is_deleted_for_good_at_once(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with opened(tmp_path, clock) as engine:
        write_days(engine, range(3))
        write_days(engine, range(2), "mem")
        engine.snapshot()
        engine.delete_table("d", "cpu", Gone(after=0))
        write_days(engine, range(5, 6))
        assert (days(engine), days(engine, "mem")) == ([5], [1, 0])
        engine.snapshot()
        tidied(engine, lambda: sum("/cpu-" in str(one) for one in tmp_path.rglob("*.parquet")) == 1)
    with opened(tmp_path, clock) as engine:
        assert (days(engine), days(engine, "mem")) == ([5], [1, 0])
        with pytest.raises(NotFound):
            engine.restore_table("d", "cpu")
