"""Rows that a trigger is given again: dead letters, once; and rows of files whose log is gone, resumable."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.backfill import Job, next_piece
from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest, NotFound
from walmill.model.files import DataFile
from walmill.units import HOUR
from walmill_hookspecs import hookimpl

Wait = Callable[[Callable[[], object]], None]


class Picky:
    """Refuses odd values as long as it is told to."""

    refusing = threading.Event()
    gate = threading.Event()
    seen: list[tuple[str, str, int]] = []  # noqa: RUF012 - shared by all of a test

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        self.gate.wait(20)
        rows = [(name, row) for name, table in batch.tables.items() for row in table.rows()]
        if self.refusing.is_set() and any(int(row["v"]) % 2 for _, row in rows):
            raise ValueError("odd")
        ctx.cache.incr("rows", len(rows))
        self.seen.extend((name, batch.kind, int(row["v"])) for name, row in rows)
        assert ctx.run.source == batch.kind


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Picky.seen.clear()
    Picky.refusing.clear()
    Picky.gate.set()


def made(engine: Engine, **more: Any) -> None:
    engine.register(Picky, name="picky")
    wanted = {"spec": "all_tables", "policy": "retry", "attempts": 1, **more}
    engine.create_trigger(database="d", name="t", plugin="picky", **wanted)


def idle(engine: Engine) -> bool:
    found = engine.trigger("d", "t")
    return not found["running"] and not found["lag_commits"] and "backfill" not in found


def letters(engine: Engine, condition: str = "true") -> int:
    try:
        found = engine.query(f"SELECT count(*) AS n FROM dead_letters WHERE {condition}", database="_internal")
    except NotFound:
        return 0
    return int(found.to_pylist()[0]["n"])


def test_dead_letters_are_given_again_once(engine: Engine, wait: Wait) -> None:
    made(engine)
    Picky.refusing.set()
    for value in range(10):
        engine.write(f'cpu,host=a v={value},s="x y" {value}\nmem v={value}i {value}', database="d")
    wait(lambda: letters(engine) == 10 and idle(engine))
    assert sorted(v for _, _, v in Picky.seen) == sorted([0, 2, 4, 6, 8] * 2)
    Picky.refusing.clear()
    Picky.seen.clear()
    asked = engine.replay_trigger("d", "t", "dead-letters")
    assert (asked["rows"], asked["letters"], asked["refused"]) == (10, 5, [])
    wait(lambda: idle(engine) and len(Picky.seen) == 10)
    assert Counter(Picky.seen) == Counter((name, "replay", v) for v in (1, 3, 5, 7, 9) for name in ("cpu", "mem"))
    assert letters(engine, "replayed_at IS NULL") == 0
    with pytest.raises(InvalidRequest, match="has no dead letters that were not given again"):
        engine.replay_trigger("d", "t", "dead-letters")
    # the tables have not got them twice, and others do not see them
    assert engine.query("SELECT count(*) AS n FROM cpu", database="d").to_pylist() == [{"n": 10}]


def test_what_fails_again_is_a_dead_letter_again(engine: Engine, wait: Wait) -> None:
    made(engine)
    Picky.refusing.set()
    engine.write("cpu v=1 1\ncpu v=2 2", database="d")
    wait(lambda: letters(engine) == 2)
    engine.replay_trigger("d", "t", "dead-letters")
    wait(lambda: letters(engine) == 4)
    assert letters(engine, "replayed_at IS NULL") == 2
    Picky.refusing.clear()
    engine.replay_trigger("d", "t", "dead-letters")
    wait(lambda: idle(engine) and len(Picky.seen) == 2)


def test_letters_whose_table_or_column_is_gone_are_named(engine: Engine, wait: Wait) -> None:
    made(engine)
    Picky.refusing.set()
    engine.write("cpu v=1 1", database="d")
    engine.write("gone v=1 1", database="d")
    wait(lambda: letters(engine) == 2)
    engine.delete_table("d", "gone")
    Picky.refusing.clear()
    asked = engine.replay_trigger("d", "t", "dead-letters")
    assert (asked["rows"], len(asked["refused"])) == (1, 1)
    assert "there is no table 'gone' any more" in asked["refused"][0]
    wait(lambda: len(Picky.seen) == 1)


def test_letters_survive_a_restart_before_they_are_done(tmp_path: Path, wait: Wait) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        made(engine)
        Picky.refusing.set()
        for value in (1, 3, 5):
            engine.write(f"cpu v={value} {value}", database="d")
        wait(lambda: letters(engine) == 3)
        Picky.refusing.clear()
        Picky.gate.clear()
        engine.replay_trigger("d", "t", "dead-letters")
        engine.snapshot()
        assert not engine.close(0.1)
    Picky.gate.set()
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        Picky.seen.clear()
        engine.register(Picky, name="picky")
        wait(lambda: idle(engine) and {v for _, _, v in Picky.seen} == {1, 3, 5})
        assert {kind for _, kind, _ in Picky.seen} == {"replay"}


def without_log(engine: Engine, rows: int = 3000) -> None:
    """Writes rows whose log is gone then."""
    pad = "x" * 200
    for first in range(0, rows, 100):
        lines = "\n".join(
            f'{("cpu", "mem")[v % 2]},host=h{v % 3} v={v}i,pad="{pad}" {v // 10 * 1_000_000_000}'
            for v in range(first, first + 100)
        )
        engine.write(lines, database="d")


def test_files_are_given_where_the_log_is_gone(tmp_path: Path, wait: Wait) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False, segment_bytes=2**16) as engine:
        made(engine, max_batch_rows=100)
        without_log(engine)
        wait(lambda: idle(engine) and len(Picky.seen) == 3000)
        wait(lambda: engine.snapshot() and engine.segments[0].header.first_sequence > 5)
        # what is in memory and in the log only follows the files
        engine.write("cpu,host=z v=5000i 1\nmem v=5001i 1", database="d")
        wait(lambda: idle(engine) and len(Picky.seen) == 3002)
        Picky.seen.clear()
        # rows of one identity are one by now: three hosts, two tables, 300 instants
        whole = engine.query("SELECT v FROM cpu UNION ALL SELECT v FROM mem", database="d").column("v").to_pylist()
        asked = engine.replay_trigger("d", "t", "start")
        assert asked["from"] == 1
        assert asked["backfill"] > 0
        wait(lambda: idle(engine) and (5001 in {v for _, _, v in Picky.seen}))
        filled = [v for _, kind, v in Picky.seen if kind == "backfill"]
        again = [v for _, kind, v in Picky.seen if kind == "replay"]
        assert sorted(filled) == sorted(v for v in whole if v < 5000)
        assert again == [5000, 5001]
        engine.write("cpu v=6000i 1", database="d")
        wait(lambda: Picky.seen[-1] == ("cpu", "live", 6000))


def test_a_backfill_survives_restarts_and_can_be_ended(tmp_path: Path, wait: Wait) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False, segment_bytes=2**16) as engine:
        made(engine, max_batch_rows=20, spec="table:cpu")
        without_log(engine)
        wait(lambda: idle(engine))
        wait(lambda: engine.snapshot() and engine.segments[0].header.first_sequence > 5)
        whole = engine.query("SELECT v FROM cpu", database="d").column("v").to_pylist()
        Picky.seen.clear()
        engine.replay_trigger("d", "t", "start")
        with pytest.raises(Conflict, match="is being given rows from files"):
            engine.replay_trigger("d", "t", "start")
        wait(lambda: len(Picky.seen) > 60)
        counted = engine.view()
    with Engine.open(data_dir=tmp_path, discover_plugins=False, segment_bytes=2**16) as engine:
        engine.register(Picky, name="picky")
        wait(lambda: idle(engine))
        assert sorted(v for _, _, v in Picky.seen) == sorted(whole)
        del counted
        Picky.seen.clear()
        Picky.gate.clear()
        engine.replay_trigger("d", "t", "start")
        wait(lambda: engine.trigger("d", "t")["running"] == 1)
        assert engine.trigger("d", "t")["backfill"]["total"] >= len(whole)
        assert engine.stop_replay("d", "t")
        Picky.gate.set()
        wait(lambda: idle(engine))
        assert not engine.stop_replay("d", "t")
        assert len(Picky.seen) < len(whole)


@given(
    times=st.lists(st.integers(0, 30), max_size=80),
    most=st.integers(1, 12),
    scale=st.sampled_from([1, 1000, HOUR]),
)
def test_pieces_of_a_table_leave_nothing_out(times: list[int], most: int, scale: int) -> None:
    """Whatever the times are, each row is in exactly one piece, and no piece is larger than a batch may be."""
    rows = [(time * scale, f"h{number}") for number, time in enumerate(sorted(times))]
    view, trigger, asked = _fake(rows, most)
    job = Job(tables=(7,), from_sequence=1, through=9)
    found: list[str] = []
    for _ in range(10_000):
        job, pieces = next_piece(job, trigger, view, asked)
        if not job.tables:
            break
        count = sum(batch.num_rows for _, batch in pieces)
        assert count <= most
        found += [host for _, batch in pieces for host in batch.column("host").to_pylist()]
        job = Job.from_bytes(job.to_bytes())
    assert not job.tables
    assert sorted(found) == sorted(host for _, host in rows)
    assert job.rows == len(rows)


def _fake(rows: list[tuple[int, str]], most: int) -> Any:
    """A view with one file that holds these rows, a trigger, and what answers the SQL that a backfill asks."""
    import re

    from attrs import evolve

    from walmill.model.catalog import Catalog, create_database
    from walmill.model.trigger import Trigger
    from walmill.store.view import View

    catalog = Catalog().apply({**create_database(Catalog(), "d", 0), "id": 3})
    catalog = catalog.apply({"op": "create_table", "id": 7, "db": 3, "name": "t", "tags": ["host"], "fields": {}})
    files = ()
    if rows:
        files = (DataFile("p", 7, len(rows), 1, rows[0][0], rows[-1][0], 1, 9, 0),)
    view = evolve(View(), catalog=catalog, files={7: files})
    trigger = Trigger(id=9, database_id=3, name="x", plugin="p", spec="all_tables", max_batch_rows=most)

    def ask(_view: Any, _database: str, sql: str, params: Any) -> pa.Table:
        low, high = (params[name] for name in ("low", "high"))
        limit = int(re.search(r"LIMIT (\d+)", sql)[1])  # type: ignore[index]
        offset = int((re.search(r"OFFSET (\d+)", sql) or [0, 0])[1])
        chosen = [row for row in rows if low <= row[0] < high][offset : offset + limit]
        return pa.table(
            {
                "host": pa.array([host for _, host in chosen], pa.string()),
                "time": pa.array([time for time, _ in chosen], pa.int64()).cast(pa.timestamp("ns")),
            }
        )

    return view, trigger, ask
