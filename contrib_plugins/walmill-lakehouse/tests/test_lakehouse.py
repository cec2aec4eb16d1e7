"""The lake has what the database has: each row once, whatever stops, and as others read it."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pytest
from attrs import evolve
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from walmill_lakehouse import export
from walmill_lakehouse.lake import PARTS, LakeError, place_of, version_of
from walmill_lakehouse.settings import Lakehouse
from walmill_lakehouse.shape import apart, batches, lake_names, merged, with_last

from walmill.engine import Engine
from walmill.options import EngineOptions
from walmill.testing.suite import plugin_suite
from walmill_hookspecs import BadSettings, SnapshotRecord
from walmill_hookspecs.fakes import FakeContext, snapshot
from walmill_hookspecs.settings import parse

SCRATCH = tempfile.mkdtemp(prefix="walmill-lake-")
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
ROWS = "\n".join(
    f'cpu,host=h{n % 3} usage={n / 2},idle={n}u,up=t,note="n{n}" {1_700_000_000_000_000_001 + n}' for n in range(30)
)

TestContract = plugin_suite("walmill_lakehouse.export", rows=ROWS, arguments={"into": SCRATCH})


def settings(into: Path | str, **more: Any) -> Lakehouse:
    return parse(Lakehouse, {"into": str(into), **more})


def wait_for(engine: Engine) -> None:
    from walmill.testing.suite import _wait

    _wait(lambda: engine.trigger("d", "t")["lag_commits"] == 0 and not engine.trigger("d", "t")["running"])
    assert not engine.trigger("d", "t")["failures"], engine.trigger("d", "t")["last_error"]


def begin(place: Path) -> Engine:
    engine = Engine.open(EngineOptions(data_dir=place / "data", discover_plugins=False, shutdown_timeout=10.0))
    engine.add_plugin("lake", "walmill_lakehouse.export")
    return engine


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    with begin(tmp_path) as engine:
        yield weakref.proxy(engine)


def create(engine: Engine, place: Path, **more: Any) -> None:
    arguments = {"into": str(place / "lake"), **more.pop("arguments", {})}
    engine.create_trigger(
        database="d", name="t", plugin="lake", spec="snapshot", arguments=arguments, executor="inline", **more
    )


def lake_rows(place: Path | str, names: list[str]) -> list[dict[str, Any]]:
    """The rows of a Delta table as its log and DuckDB say, without the library that wrote them."""
    live: dict[str, None] = {}
    for version in sorted(Path(place, "_delta_log").glob("*.json")):
        for action in map(json.loads, version.read_text().splitlines()):
            if "add" in action:
                live[unquote(action["add"]["path"])] = None
            if "remove" in action:
                live.pop(unquote(action["remove"]["path"]), None)
    if not live:
        return []
    files = [str(Path(place, path)) for path in live]
    with duckdb.connect() as connection:
        query = "SELECT * FROM read_parquet($files, union_by_name = true)"
        found = connection.sql(query, params={"files": files}).to_arrow_table()
    return sorted((dict(row) for row in found.select(names).to_pylist()), key=str)


def same_rows(engine: Engine, sql: str, names: list[str]) -> list[dict[str, Any]]:
    rows = engine.query(sql, database="d")
    columns = [
        column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        for column in (rows.column(place) for place in range(rows.num_columns))
    ]
    return sorted(pa.table(columns, names=names).to_pylist(), key=str)


@pytest.mark.parametrize("seed", range(3))
def test_the_lake_has_what_the_table_has(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    engine = begin(tmp_path)
    try:
        create(engine, tmp_path, arguments={"rows": "1000", "partition": chance.choice(["month", "day", "none"])})
        for _ in range(12):
            match chance.choice(["write", "write", "write", "snapshot", "tidy", "restart"]):
                case "write":
                    lines = []
                    for _ in range(chance.randrange(1, 40)):
                        host = f",host=h{chance.randrange(3)}" if chance.random() < 0.8 else ""
                        given_fields = [
                            f"v={chance.random()}",
                            f"n={chance.randrange(10**6)}i",
                            f"w{chance.randrange(3)}=true",
                        ]
                        fields = ",".join(chance.sample(given_fields, chance.randrange(1, 3)))
                        lines.append(
                            f"cpu{host} {fields} {1_700_000_000_000_000_000 + chance.randrange(60) * 86_400_000_000_500}"
                        )
                    engine.write("\n".join(lines), database="d")
                case "snapshot":
                    engine.snapshot()
                case "tidy":
                    assert engine._keeper is not None
                    engine._keeper.tidy()
                case "restart":
                    engine.close(10.0)
                    engine = begin(tmp_path)
                    engine.enable_trigger("d", "t")
        engine.write("cpu v=0.5,n=1i,w0=true,w1=true,w2=true 1", database="d")
        engine.write("cpu,host=h0 v=0.5 1", database="d")
        engine.snapshot()
        wait_for(engine)
        names = ["host", "time_ns", "v", "n", "w0", "w1", "w2"]
        expected = same_rows(engine, "SELECT host, time, v, n, w0, w1, w2 FROM cpu", names)
        assert lake_rows(tmp_path / "lake" / "d" / "cpu", names) == expected
        assert DeltaTable(str(tmp_path / "lake" / "d" / "cpu")).to_pyarrow_table().num_rows == len(expected)
    finally:
        engine.close(10.0)


def test_what_others_see(tmp_path: Path, database: Engine) -> None:
    database.write(
        'room\\ 1,Rack=a big=18446744073709551615u,a\\ b=1.5,A_b=2i,month="x" 1700000000123456789', database="d"
    )
    create(database, tmp_path, start="start")
    database.snapshot()
    wait_for(database)
    table = DeltaTable(str(tmp_path / "lake" / "d" / "room~201"))
    protocol = table.protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2), "what every reader knows"
    kinds = {field.name: str(field.type) for field in table.schema().fields}
    assert kinds["time"] == 'PrimitiveType("timestamp")'
    assert kinds["big"] == 'PrimitiveType("decimal(20,0)")'
    assert {"Rack", "a_b", "A_b_2", "month", "_month", "time_ns"} <= set(kinds)
    (row,) = table.to_pyarrow_table().to_pylist()
    assert row["time_ns"] == 1700000000123456789
    assert row["time"].isoformat() == "2023-11-14T22:13:20.123456+00:00"
    assert (int(row["big"]), row["_month"], row["month"]) == (2**64 - 1, "2023-11", "x")


def files_of(place: Path, count: int, first: int, *, older: bool = False) -> SnapshotRecord:
    """A record of one file with so many rows."""
    rows = [{"host": f"h{n % 2}", "time": 1000 * (first + n), "v": float(n)} for n in range(count)]
    found = snapshot(place, {"cpu": rows}, tags={"cpu": ["host"]}, database="d", sequences=(first, first))
    if not older:
        return found
    (table,) = found.tables
    (one,) = table.files
    return evolve(found, tables=(evolve(table, files=(evolve(one, sequences=(1, first)),)),))


def test_a_run_that_is_repeated_adds_nothing(tmp_path: Path) -> None:
    context = FakeContext(settings=settings(tmp_path / "lake"))
    record = files_of(tmp_path, 10, 100)
    for _ in range(3):  # the engine died before it heard of the first ones' ends
        export.on_snapshot(record, context)
    table = DeltaTable(str(tmp_path / "lake" / "d" / "cpu"))
    assert table.to_pyarrow_table().num_rows == 10
    assert table.version() == 0
    export.on_snapshot(files_of(tmp_path, 110, 101, older=True), context)  # a file that was joined with the one before
    found = DeltaTable(str(tmp_path / "lake" / "d" / "cpu")).to_pyarrow_table()
    identities = list(zip(found["host"].to_pylist(), found["time_ns"].to_pylist(), strict=True))
    assert len(identities) == len(set(identities))


def test_a_large_file_comes_in_parts_and_may_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = FakeContext(settings=settings(tmp_path / "lake", rows="1000"))
    place = str(tmp_path / "lake" / "d" / "cpu")
    export.on_snapshot(files_of(tmp_path, 1000, 100), context)
    record = files_of(tmp_path, 4500, 100_000)
    before, added = export.named, []

    def interrupted(*arguments: Any) -> Any:
        added.append(arguments)
        if len(added) == 3:
            raise MemoryError
        return before(*arguments)

    monkeypatch.setattr(export, "named", interrupted)
    with pytest.raises(MemoryError):
        export.on_snapshot(record, context)
    begun = DeltaTable(place).to_pyarrow_table().num_rows
    assert 1000 < begun < 5500
    export.on_snapshot(record, context)
    assert DeltaTable(place).to_pyarrow_table().num_rows == 5500
    version = DeltaTable(place).version()
    export.on_snapshot(record, context)
    assert DeltaTable(place).version() == version


def test_files_of_one_snapshot_in_several_versions_may_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each month has a file of its own: a version with the first of them does not have the snapshot."""
    records = [
        snapshot(
            tmp_path / str(n),
            {"cpu": [{"host": "a", "time": 10**6 * n + k, "v": 1.0} for k in range(800)]},
            tags={"cpu": ["host"]},
            database="d",
            sequences=(7, 9),
        )
        for n in range(4)
    ]
    files = tuple(one for record in records for one in record.tables[0].files)
    record = evolve(records[0], tables=(evolve(records[0].tables[0], files=files),))
    context = FakeContext(settings=settings(tmp_path / "lake", rows="1000"))
    place = str(tmp_path / "lake" / "d" / "cpu")
    before, calls = export.named, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) in (2, 5):
            raise MemoryError
        return before(*arguments)

    monkeypatch.setattr(export, "named", interrupted)
    for _ in range(2):
        with pytest.raises(MemoryError):
            export.on_snapshot(record, context)
    export.on_snapshot(record, context)
    assert DeltaTable(place).to_pyarrow_table().num_rows == 3200
    version = DeltaTable(place).version()
    export.on_snapshot(record, context)
    assert DeltaTable(place).version() == version


@given(st.integers(1, 2**40), st.integers(0, 3000))
def test_versions_grow_and_say_what_is_there(sequence: int, part: int) -> None:
    some, whole = version_of(sequence, part, last=False), version_of(sequence, part, last=True)
    assert version_of(sequence - 1, 0, last=True) < some < whole < version_of(sequence + 1, 0, last=False)
    assert version_of(sequence, part, last=False) <= version_of(sequence, part + 1, last=False)
    assert (some % PARTS == PARTS - 1, whole % PARTS == PARTS - 1) == (False, True)


def test_another_trigger_is_not_taken_for_it(tmp_path: Path) -> None:
    for number in (100, 50):  # a database that was begun anew has lower sequences
        context = FakeContext(settings=settings(tmp_path / "lake"))
        export.on_snapshot(files_of(tmp_path, 10, number), context)
    assert DeltaTable(str(tmp_path / "lake" / "d" / "cpu")).to_pyarrow_table().num_rows == 20


def test_a_table_that_lies_otherwise_is_left_alone(tmp_path: Path) -> None:
    export.on_snapshot(files_of(tmp_path, 10, 100), FakeContext(settings=settings(tmp_path / "lake")))
    other = FakeContext(settings=settings(tmp_path / "lake", partition="day"))
    with pytest.raises(BadSettings, match="is partitioned by _month, and the settings say _day"):
        export.on_snapshot(files_of(tmp_path, 10, 200), other)


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("no directory")
    with pytest.raises((LakeError, OSError), match="lake"):
        export.on_snapshot(files_of(tmp_path, 10, 100), FakeContext(settings=settings(tmp_path / "lake")))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"into": " "}, "into is empty"),
        ({"into": "lake"}, "no absolute path"),
        ({"into": "/lake", "access_key": "x"}, "belong together"),
    ],
)
def test_settings_that_make_no_sense_are_refused(more: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        parse(Lakehouse, more)


def test_small_files_are_joined_on_a_schedule(tmp_path: Path, database: Engine) -> None:
    create(database, tmp_path)
    for n in range(5):
        database.write(f"cpu,host=h{n} v={n} {n + 1}", database="d")
        database.snapshot()
        wait_for(database)
    place = tmp_path / "lake" / "d" / "cpu"
    assert len(DeltaTable(str(place)).file_uris()) == 5
    database.create_trigger(
        database="d",
        name="tidy",
        plugin="lake",
        spec="every:1h",
        executor="inline",
        arguments={"into": str(tmp_path / "lake"), "keep_hours": "1"},
    )
    assert database.run_trigger("d", "tidy")["status"] == "ok"
    assert len(DeltaTable(str(place)).file_uris()) == 1
    assert len(lake_rows(place, ["host", "v"])) == 5


@given(st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=12), st.sampled_from(["month", "day", "none"]))
def test_names_in_the_lake(columns: list[str], partition: Any) -> None:
    names, together = lake_names(columns, partition)
    taken = [name.lower() for name in names.values()] + ["time", "time_ns"] + ([together] if together else [])
    assert len(taken) == len(set(taken))
    assert not any(character in name for name in names.values() for character in " ,;{}()\n\t=")
    more, _ = lake_names([*columns, "a further one"], partition)
    assert {column: more[column] for column in columns} == names


@given(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8))
def test_no_two_tables_have_one_place(one: str, other: str) -> None:
    assert (place_of("/lake", "d", one) == place_of("/lake", "d", other)) == (one == other)
    assert place_of("/lake/", "d", one).count("/") == 3


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 60))
def test_files_come_in_batches(sizes: list[int], most: int) -> None:
    found = list(batches(range(len(sizes)), most, sizes.__getitem__))
    assert [last for _, last in with_last(found)] == [False] * (len(found) - 1) + [True] * bool(found)
    assert [one for part in found for one in part] == list(range(len(sizes)))
    assert all(sum(sizes[one] for one in part) <= most or len(part) == 1 for part in found)


@given(st.lists(st.tuples(st.integers(-5, 40), st.integers(0, 10)), max_size=3))
def test_rows_that_may_be_there_are_told_apart(spans: list[tuple[int, int]]) -> None:
    late = [(low, low + length) for low, length in spans]
    rows = pa.table({"0": ["x"] * 40, "1": pa.array(range(40), pa.int64())})
    found = list(apart(rows, 1, late))
    assert sorted(time for some, _ in found for time in some.column(1).to_pylist()) == list(range(40))
    for some, may in found:
        assert all(any(low <= time <= high for low, high in late) == may for time in some.column(1).to_pylist())
        assert some.num_rows


def test_the_newest_value_of_each_column_wins() -> None:
    def part(**columns: Any) -> pa.Table:
        times = pa.array([1, 2], pa.timestamp("ns", "UTC"))
        return pa.table({"time": times, "host": pa.array(["a", None]), **columns})

    found = merged(
        [part(v=[1.0, 2.0]), part(v=pa.array([None, 5.0]), w=pa.array([True, None])), part(w=pa.array([None, False]))],
        ("host",),
        {"v": "float64", "w": "bool"},
    )
    rows = [[row[name] for name in ("0", "1", "3", "4")] for row in found.to_pylist()]
    assert rows == [["a", 1, 1.0, True], [None, 2, 5.0, False]]
