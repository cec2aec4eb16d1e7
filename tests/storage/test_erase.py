"""Rows that SQL finds are deleted by identity: no older value shows up again, whatever the engine does beside it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill import erase
from walmill.engine import Engine
from walmill.errors import Conflict, Forbidden, LimitReached, NotFound, WalmillError
from walmill.snapshot.compact import Bounds
from walmill.testing.clock import ManualClock
from walmill.units import DAY

Rows = dict[tuple[str | None, int], dict[str, int]]


def opened(directory: Path, **more: Any) -> Engine:
    return Engine.open(
        data_dir=directory,
        discover_plugins=False,
        join_rate=0,
        joins=Bounds(files=2, growth=10**6),
        clock=ManualClock(10**18),
        **more,
    )


def rows_of(engine: Engine, table: str = "cpu") -> Rows:
    found = engine.query(f"SELECT *, CAST(time AS BIGINT) AS t FROM {table}", database="d").drop_columns(["time"])
    rows: Rows = {}
    for one in found.to_pylist():
        key = (one.get("host"), one["t"])
        assert key not in rows
        rows[key] = {name: one[name] for name in ("a", "b") if one.get(name) is not None}
    return rows


WRITE = st.tuples(
    st.sampled_from([None, "x", "y"]),
    st.sampled_from([0, 1, 2, 40 * DAY, 80 * DAY]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 4),
)
STEP = st.one_of(
    st.lists(WRITE, min_size=1, max_size=4),
    st.sampled_from(["snapshot", "join", "restart"]),
    st.sampled_from(
        ["a = 1", "b > 2", "host = 'x'", "host IS NULL", "time > to_timestamp_nanos(1)", "a IS NULL", "false"]
    ),
)
FITS: dict[str, Any] = {
    "a = 1": lambda key, row: row.get("a") == 1,
    "b > 2": lambda key, row: row.get("b", 0) > 2,
    "host = 'x'": lambda key, row: key[0] == "x",
    "host IS NULL": lambda key, row: key[0] is None,
    "time > to_timestamp_nanos(1)": lambda key, row: key[1] > 1,
    "a IS NULL": lambda key, row: "a" not in row,
    "false": lambda key, row: False,
}


@settings(max_examples=15)
@given(st.lists(STEP, min_size=2, max_size=10))
def test_what_is_left_is_what_a_dict_has(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    directory = tmp_path_factory.mktemp("erase")
    engine = opened(directory)
    model: Rows = {}
    try:
        engine.write("cpu,host=z a=0i,b=0i 5", database="d")
        model["z", 5] = {"a": 0, "b": 0}
        for step in steps:
            if isinstance(step, list):
                lines = [
                    f"cpu{f',host={host}' if host else ''} {field}={value}i {time}" for host, time, field, value in step
                ]
                engine.write("\n".join(lines), database="d")
                for host, time, field, value in step:
                    model.setdefault((host, time), {})[field] = value
            elif step == "snapshot":
                engine.snapshot()
            elif step == "join":
                engine.snapshot()
                engine.tidy()
            elif step == "restart":
                engine.close()
                engine = opened(directory)
            else:
                gone = {key for key, row in model.items() if FITS[step](key, row)}
                counted = engine.delete_rows("d", "cpu", step, dry_run=True)
                assert rows_of(engine) == model
                done = engine.delete_rows("d", "cpu", step)
                assert done == counted
                times = sorted(time for _, time in gone)
                assert (done.rows, done.earliest, done.latest) == (
                    len(gone),
                    *((times[0], times[-1]) if times else (None,) * 2),
                )
                model = {key: row for key, row in model.items() if key not in gone}
            assert rows_of(engine) == model
    finally:
        engine.close()


def test_what_is_written_meanwhile_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        engine.write("\n".join(f"cpu a={n}i {n}" for n in range(5000)), database="d")
        stop = threading.Event()
        written: list[int] = []

        def write() -> None:
            while not stop.is_set():
                engine.write(f"cpu b=1i {len(written)}", database="d")
                written.append(len(written))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            done = [engine.delete_rows("d", "cpu", f"a >= {n} AND a < {n + 1000}").rows for n in range(0, 5000, 1000)]
        finally:
            stop.set()
            writer.join(30)
        assert sum(done) == 5000
        left = rows_of(engine)
        assert all("a" not in row for row in left.values())
        engine.snapshot()
        engine.tidy()
        assert rows_of(engine) == left
    with opened(tmp_path) as engine:
        assert rows_of(engine) == left


@pytest.mark.parametrize(
    ("database", "table", "where", "kind", "said"),
    [
        ("d", "cpu", " ", WalmillError, "the condition is empty"),
        ("d", "cpu", "nothing = 1", WalmillError, "nothing"),
        ("d", "cpu", "a = ", WalmillError, "."),
        ("d", "cpu", "true; DROP TABLE cpu", WalmillError, "."),
        ("d", "mem", "true", NotFound, "no table 'mem'"),
        ("e", "cpu", "true", NotFound, "no database 'e'"),
        ("_internal", "runs", "true", Forbidden, "_internal"),
    ],
)
def test_what_is_wrong_deletes_nothing(
    tmp_path: Path, database: str, table: str, where: str, kind: type[WalmillError], said: str
) -> None:
    with opened(tmp_path) as engine:
        engine.write("cpu a=1i 1", database="d")
        for dry_run in (True, False):
            with pytest.raises(kind, match=said):
                engine.delete_rows(database, table, where, dry_run=dry_run)
        assert rows_of(engine) == {(None, 1): {"a": 1}}
        assert engine.delete_rows("d", "cpu", "a = 1 -- a comment").rows == 1


def test_too_many_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase, "MOST_ROWS", 2)
    with opened(tmp_path) as engine:
        engine.write("cpu a=1i 1\ncpu a=2i 2\ncpu a=3i 3", database="d")
        with pytest.raises(LimitReached, match="more than 2 rows"):
            engine.delete_rows("d", "cpu", "true")
        assert engine.delete_rows("d", "cpu", "a < 3").rows == 2


def test_an_engine_in_memory_says_so() -> None:
    with Engine.open(discover_plugins=False) as engine, pytest.raises(Conflict, match="data_dir"):
        engine.delete_rows("d", "cpu", "true")
