"""Tables that lie in files: which files a query opens, how it reads them, and what it says of files that are not as written."""

import threading
from pathlib import Path

import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from walmill.buffer.source import Located, TableSource
from walmill.buffer.table import TableBuffer
from walmill.errors import DataCorruption, Internal, InvalidRequest, Unavailable
from walmill.model.schema import TableSchema
from walmill.query import choose
from walmill.query.engine import QueryEngine
from walmill.query.errors import QueryTimeout
from walmill.query.provider import TableCache

CPU = TableSchema("cpu", ("host",), {"load": "int64"})


def cpu_rows(start, end, load=0):
    """One row for each nanosecond."""
    times = range(start, end)
    return pa.record_batch(
        {
            "host": pa.array([f"h{time % 3}" for time in times]),
            "load": pa.array([load] * len(times), pa.int64()),
            "time": pa.array(times, pa.timestamp("ns")),
        }
    )


@pytest.fixture(scope="module")
def engine():
    engine = QueryEngine(short=False)
    engine.query({}, "SELECT * FROM generate_series(1, 1)")  # starts its thread here, not in the first test
    yield engine
    engine.close()


@pytest.fixture
def store(store_type, tmp_path):
    """Files with the times 0-99, 100-199, 200-299 and 300-399, and rows in memory from 400 to 499."""
    store = store_type(tmp_path, CPU)
    for number in range(5):
        if number:
            store.snapshot()
        store.write(cpu_rows(number * 100, number * 100 + 100, number))
    return store


def instant(time):
    return f"TIMESTAMP '1970-01-01T00:00:00.{time:09}'"


def opened(store):
    """The numbers of the files that were asked for since the last call."""
    found, store.located = store.located, []
    return [int(Path(path).name[:5]) for path in found]


def rows(table):
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("where", "files", "count"),
    [
        ("", [1, 2, 3, 4], 500),
        (f"WHERE time >= {instant(400)}", [], 100),
        (f"WHERE time > {instant(399)}", [], 100),
        (f"WHERE time >= {instant(399)}", [4], 101),
        (f"WHERE time = {instant(100)}", [2], 1),
        (f"WHERE {instant(250)} < time AND time < {instant(260)}", [3], 9),
        (f"WHERE time BETWEEN {instant(199)} AND {instant(200)}", [2, 3], 2),
        (f"WHERE time < {instant(10)} OR time >= {instant(390)}", [1, 4], 120),
        (f"WHERE time IN ({instant(5)}, {instant(205)})", [1, 3], 2),
        (f"WHERE time < {instant(150)} AND host = 'h0' AND load > 0", [1, 2], 16),
        (f"WHERE NOT time > {instant(99)}", [1], 100),
        (f"WHERE time < {instant(50)} AND time > {instant(350)}", [], 0),
        ("WHERE time >= $low AND time < '1970-01-01T00:00:00.000000120'", [2], 20),
        ("WHERE time > now() - INTERVAL '1 hour'", [], 0),
        ("WHERE time < now()", [1, 2, 3, 4], 500),
        ("WHERE false", [], 0),
        ("WHERE host = 'h1'", [1, 2, 3, 4], 167),
    ],
)
def test_only_files_with_times_that_are_asked_for_are_opened(engine, store, where, files, count):
    params = {"low": "1970-01-01T00:00:00.000000100"} if "$low" in where else None
    found = engine.query({"cpu": store.source()}, f"SELECT count(*) FROM cpu {where}", params)
    assert (opened(store), rows(found)) == (files, [(count,)])


@pytest.mark.parametrize(
    ("sql", "files", "count"),
    [
        (
            f"SELECT count(*) FROM cpu x JOIN cpu y ON x.host = y.host WHERE x.time = {instant(5)} AND y.time < {instant(102)}",
            [1, 2],
            34,
        ),
        (
            f"WITH new AS (SELECT * FROM cpu WHERE time > {instant(299)}) SELECT count(*) FROM new WHERE time < {instant(400)}",
            [4],
            100,
        ),
        (
            f"SELECT sum(n) FROM (SELECT time, count(*) AS n FROM cpu GROUP BY 1) WHERE time < {instant(7)}",
            [1],
            7,
        ),
        (
            f"SELECT count(*) FROM (SELECT * FROM cpu ORDER BY time DESC LIMIT 150) WHERE time >= {instant(0)}",
            [1, 2, 3, 4],
            150,
        ),
        (
            f"SELECT count(*) FROM (SELECT * FROM cpu WHERE time = {instant(7)} UNION ALL "
            f"SELECT * FROM cpu WHERE time = {instant(307)})",
            [1, 4],
            2,
        ),
        (
            f"SELECT count(*) FROM cpu WHERE time < {instant(3)} AND load <= "
            f"(SELECT max(load) FROM cpu WHERE time > {instant(398)})",
            [1, 4],
            3,
        ),
    ],
)
def test_a_table_may_be_named_more_than_once(engine, store, sql, files, count):
    assert rows(engine.query({"cpu": store.source()}, sql)) == [(count,)]
    assert opened(store) == files


def test_each_plan_asks_again_when_the_clock_may_have_moved_on(engine, store, monkeypatch):
    # between the first look at the clock and the second, a file may come into reach: here it does at once
    looks = []
    needed = engine._needed

    def late(*asked):
        found = needed(*asked)
        looks.append(len(found["cpu"][1]))
        if len(looks) == 1:
            return {name: (source, files[:1]) for name, (source, files) in found.items()}
        return found

    monkeypatch.setattr(engine, "_needed", late)
    found = engine.query({"cpu": store.source()}, "SELECT count(*) FROM cpu WHERE time < now()")
    assert rows(found) == [(500,)]
    assert len(looks) == 3


def test_few_ranges_are_compared_however_many_files_there_are(engine, store, monkeypatch):
    made = []

    class Counting(choose.pa_dataset.FileSystemDataset):
        def __init__(self, fragments, *rest):
            made.append(len(fragments))
            super().__init__(fragments, *rest)

    first = store.files[0]
    files = tuple(
        evolve(
            first, path=f"no-such-file-{n}", min_time=n * 100, max_time=n * 100 + 99, first_sequence=n, last_sequence=n
        )
        for n in range(10_000)
    )
    asked = []

    def locate(file):
        asked.append(file.path)
        return Located(first.path)

    monkeypatch.setattr(choose.pa_dataset, "FileSystemDataset", Counting)
    source = TableSource(TableBuffer.empty(CPU), files, locate)
    engine.query({"cpu": source}, f"SELECT * FROM cpu WHERE time = {instant(555_555)}")
    assert asked == ["no-such-file-5555"]
    assert sum(made) <= 100


@pytest.mark.parametrize("where", ["", f"WHERE time >= {instant(250)} AND time < {instant(450)}"])
def test_rows_in_order_are_read_as_they_are(engine, store, where):
    plan = dict(rows(engine.query({"cpu": store.source()}, f"EXPLAIN SELECT * FROM cpu {where}")))
    count = 4 if not where else 2
    assert plan["files"] == f"cpu: {count} of 4 files read\n  plain: {count} files"
    assert "Aggregate" not in plan["physical_plan"]
    assert "Sort" not in plan["physical_plan"]


def test_rows_that_may_repeat_others_are_merged_as_a_stream(engine, store):
    store.write(cpu_rows(150, 160, 77))
    store.write(cpu_rows(500, 600, 5))
    plan = dict(rows(engine.query({"cpu": store.source()}, "EXPLAIN SELECT * FROM cpu")))
    assert plan["files"] == (
        "cpu: 4 of 4 files read\n  plain: 3 files\n"
        "  merged: 1 file and rows in memory, from 1970-01-01T00:00:00.000000150Z to 1970-01-01T00:00:00.000000159Z"
    )
    assert "ordering_mode=Sorted" in plan["physical_plan"]
    assert "SortExec" not in plan["physical_plan"]
    store.snapshot()
    plan = dict(rows(engine.query({"cpu": store.source()}, "EXPLAIN SELECT * FROM cpu")))
    # the new file has all times from 150 on
    assert "cpu: 5 of 5 files read\n  plain: 3 files\n  merged: 2 files, from" in plan["files"]
    assert "SortExec" not in plan["physical_plan"]
    found = engine.query({"cpu": store.source()}, "SELECT load, count(*) FROM cpu GROUP BY 1 ORDER BY 1")
    assert rows(found) == [(0, 100), (1, 90), (2, 100), (3, 100), (4, 100), (5, 100), (77, 10)]
    # a range of time without repeated rows takes the plain path, although the table has some
    plan = dict(rows(engine.query({"cpu": store.source()}, f"EXPLAIN SELECT * FROM cpu WHERE time < {instant(90)}")))
    assert plan["files"] == "cpu: 1 of 5 files read\n  plain: 1 file"


def test_many_short_times_of_late_rows_are_told_apart(engine, store_type, tmp_path):
    # each snapshot begins a little before the end of the one before; joined, these times would be nearly all there are
    store = store_type(tmp_path, CPU)
    for number in range(21):
        store.write(cpu_rows(max(number * 100 - 3, 0), number * 100 + 100, number))
        store.snapshot()
    plan = dict(rows(engine.query({"cpu": store.source()}, "EXPLAIN SELECT * FROM cpu")))
    assert "from 1970-01-01T00:00:00.000000097Z to 1970-01-01T00:00:00.000000099Z" in plan["files"]
    assert plan["files"].endswith("17 ranges more")
    found = engine.query({"cpu": store.source()}, "SELECT load, count(*) FROM cpu GROUP BY 1 ORDER BY 1")
    assert rows(found) == [(0, 97), *((number, 100) for number in range(1, 20)), (20, 103)]


@pytest.mark.parametrize("form", ["", "ANALYZE", "VERBOSE", "FORMAT TREE"])
def test_each_form_of_explain_says_how_files_are_read(engine, store, form):
    sql = f"EXPLAIN {form} SELECT * FROM cpu"
    tables = {"cpu": store.source()}
    last = engine.query(tables, sql).to_pylist()[-1]
    assert (last["plan_type"], last["plan"].splitlines()[0]) == ("files", "cpu: 4 of 4 files read")
    assert engine.stream(tables, sql).read_all().to_pylist()[-1] == last


def test_logical_forms_of_explain_do_not_say_how_files_are_read(engine, store):
    found = engine.query({"cpu": store.source()}, "EXPLAIN FORMAT pgjson SELECT * FROM cpu")
    assert found.column("plan_type").to_pylist() == ["logical_plan"]


def test_columns_that_files_lack_are_null(engine, store_type, tmp_path):
    old = TableSchema("t", ("a",), {"i": "int64"})
    store = store_type(tmp_path, old)
    store.write(pa.record_batch({"a": ["x", None], "i": [1, 2], "time": pa.array([1, 1], pa.timestamp("ns"))}), old)
    store.snapshot()
    new = old.with_columns(("b.c", 'd"E'), {"S p": "string"})
    store.write(
        pa.record_batch(
            {
                "a": ["x", "x"],
                "b.c": [None, "y"],
                "S p": ["late", "other"],
                "time": pa.array([1, 1], pa.timestamp("ns")),
            }
        ),
        new,
    )
    store.write(pa.record_batch({"i": [3], "time": pa.array([2], pa.timestamp("ns"))}), new)
    expected = [
        (None, None, None, 2, None, 1),
        (None, None, None, 3, None, 2),
        ("x", None, None, 1, "late", 1),
        ("x", "y", None, None, "other", 1),
    ]
    for _ in range(2):
        sql = 'SELECT a, "b.c", "d""E", i, "S p", time::bigint FROM t ORDER BY 1 NULLS FIRST, 2 NULLS FIRST, 6'
        found = engine.query({"t": store.source()}, sql)
        assert rows(found) == expected
        assert rows(engine.query({"t": store.source()}, "SELECT i FROM t WHERE \"b.c\" = 'y'")) == [(None,)]
        assert [str(one) for one in engine.query({"t": store.source()}, "SELECT * FROM t").schema.types] == [
            *["string"] * 3,
            "int64",
            "string",
            "timestamp[ns]",
        ]
        store.snapshot()


def test_a_table_in_files_looks_like_any_other(engine, store):
    tables = {"cpu": store.source(), "mem": TableSource(TableBuffer.empty(CPU).append(cpu_rows(0, 3), CPU, 1))}
    shown = rows(engine.query(tables, "SHOW COLUMNS FROM cpu"))
    assert [row[3:5] for row in shown] == [row[3:5] for row in rows(engine.query(tables, "SHOW COLUMNS FROM mem"))]
    described = rows(engine.query(tables, "DESCRIBE cpu"))
    assert described == rows(engine.query(tables, "DESCRIBE mem"))
    both = engine.query(tables, "SELECT count(*) FROM cpu JOIN mem USING (host, time)")
    assert rows(both) == [(3,)]
    with engine.stream(tables, "SELECT time FROM cpu ORDER BY time") as stream:
        assert stream.read_all().num_rows == 500


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("way", ["query", "stream"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(b""), r"has 0 bytes, and was written with \d+"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, and was written with"),
        (lambda path: (path.unlink(), path.mkdir()), r"has \d+ bytes|cannot be read"),
        (lambda path: flip(path, -1), "is damaged: its checksum is [0-9a-f]{8}"),  # the magic at its end
        (lambda path: flip(path, -8), "is damaged"),  # the length of its metadata
        (lambda path: flip(path, -40), "is damaged"),  # metadata
        (lambda path: flip(path, 8), "is damaged"),  # the first page's header
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "is damaged"),
    ],
    ids=["missing", "empty", "cut", "folder", "magic", "length", "metadata", "page", "zeros"],
)
def test_a_file_that_is_not_as_written_is_named(engine, store, way, damage, message):
    file = store.files[2]
    damage(Path(file.path))
    tables = {"cpu": store.source()}
    with pytest.raises(DataCorruption, match=message) as caught:
        getattr(engine, way)(tables, "SELECT * FROM cpu ORDER BY load")
    assert str(caught.value).startswith(f"the file {file.path!r} ")
    assert caught.value.status == 500
    # what does not need it does not mind
    assert rows(engine.query(tables, f"SELECT count(*) FROM cpu WHERE time < {instant(200)}")) == [(200,)]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_is_an_error_that_names_the_file(engine, store, place, bit):
    file = store.files[0]
    path = Path(file.path)
    good = path.read_bytes()
    data = bytearray(good)
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        with pytest.raises(DataCorruption) as caught:
            engine.query({"cpu": store.source()}, "SELECT * FROM cpu")
    finally:
        path.write_bytes(good)
    assert str(caught.value).startswith(f"the file {file.path!r} is damaged")


def test_a_file_that_goes_after_planning_is_named(engine, store):
    class Going(type(store)):
        def locate(self, file):
            path = super().locate(file)
            if len(self.located) == 4:
                Path(self.files[1].path).unlink()
            return path

    store.__class__ = Going
    with pytest.raises(DataCorruption, match="is missing") as caught:
        engine.query({"cpu": store.source()}, "SELECT * FROM cpu")
    assert store.files[1].path in str(caught.value)


def test_a_query_that_is_wrong_is_not_the_files_fault(engine, store):
    flip(Path(store.files[0].path), -1)
    with pytest.raises(InvalidRequest, match="No field named nope"):
        engine.query({"cpu": store.source()}, "SELECT nope FROM cpu")
    with pytest.raises(InvalidRequest, match="Divide by zero"):
        engine.query({"cpu": store.source()}, f"SELECT 1 / (load - load) FROM cpu WHERE time > {instant(250)}")


def test_errors_of_locate_are_handed_on(engine, store):
    def unreachable(file):
        raise Unavailable("the object store does not answer")

    source = evolve(store.source(), locate=unreachable)
    with pytest.raises(Unavailable, match="does not answer"):
        engine.query({"cpu": source}, "SELECT * FROM cpu")
    with pytest.raises(Internal, match="there is no object store"):
        engine.query({"cpu": TableSource(store.buffer, store.files)}, "SELECT * FROM cpu")


def test_no_room_for_temporary_files_is_said(engine, store, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable, match=r"temporary files .*nowhere.* \(No such file or directory\); free space"):
        engine.query({"cpu": store.source()}, "SELECT * FROM cpu")


@pytest.mark.parametrize("late", [False, True])
def test_temporary_files_go_with_the_query(engine, store, tmp_path, monkeypatch, late):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    if late:
        store.write(cpu_rows(150, 160))
    engine.query({"cpu": store.source()}, "SELECT * FROM cpu")
    assert list(place.iterdir()) == []
    stream = engine.stream({"cpu": store.source()}, "SELECT * FROM cpu")
    assert len(list(place.iterdir())) == 1
    next(stream)
    stream.close()
    assert list(place.iterdir()) == []
    with pytest.raises(InvalidRequest):
        engine.query({"cpu": store.source()}, "SELECT 1 / (load - load) FROM cpu")
    assert list(place.iterdir()) == []
    assert all(Path(file.path).exists() for file in store.files)


def test_time_is_up_while_files_are_fetched(engine, store):
    def slow(file):
        threading.Event().wait(0.1)
        return Located(file.path)

    with pytest.raises(QueryTimeout, match=r"stopped after 0\.05 s"):
        engine.query({"cpu": evolve(store.source(), locate=slow)}, "SELECT * FROM cpu", timeout=0.05)


def test_time_is_up_while_files_are_read(engine, store):
    endless = "SELECT count(*) FROM cpu, generate_series(1, 1000000000000) AS g WHERE sqrt(value + load) < 0"
    with pytest.raises(QueryTimeout, match=r"stopped after 0\.2 s"):
        engine.query({"cpu": store.source()}, endless, timeout=0.2)


@pytest.mark.parametrize("late", [None, 150])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 100), (140, 160), (250, 399), (399, 400), (400, 499), (499, 600), (600, 700)]
)
def test_rows_in_memory_are_read_only_if_their_times_match(engine, store, monkeypatch, late, low, high):
    if late is not None:
        store.write(cpu_rows(late, late + 1, 9))
    read = []
    fresh = TableCache.table
    monkeypatch.setattr(
        TableCache, "table", lambda self, buffer: (read.append(buffer.num_rows), fresh(self, buffer))[1]
    )
    between = f"time >= {instant(low)} AND time <= {instant(high)}"
    found = engine.query({"cpu": store.source()}, f"SELECT count(*) FROM cpu WHERE {between}")
    assert rows(found) == [(len(range(max(low, 0), min(high, 499) + 1)),)]
    first = 400 if late is None else late
    assert (max(read, default=0) > 0) is (high >= first and low <= 499)
