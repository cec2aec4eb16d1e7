"""Few rows of files are read here: the answers are those of DataFusion, and what is large or comes twice is left to it."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.buffer.source import TableSource
from walmill.errors import DataCorruption, InvalidRequest, WalmillError
from walmill.model.schema import TableSchema
from walmill.query import groups
from walmill.query.footers import Columns, Footers

CPU = TableSchema("cpu", ("host", "Room 1"), {"load": "float64", "n": "int64", "s": "string"})
SECOND = 10**9


def batch(rows):
    """Rows: host, room, second, load."""
    return pa.record_batch(
        {
            "host": pa.array([row[0] for row in rows], pa.string()),
            "Room 1": pa.array([row[1] for row in rows], pa.string()),
            "load": pa.array([row[3] for row in rows], pa.float64()),
            "n": pa.array([row[2] for row in rows], pa.int64()),
            "s": pa.array([None if row[3] is None else str(row[3]) for row in rows], pa.string()),
            "time": pa.array([row[2] * SECOND for row in rows], pa.timestamp("ns")),
        }
    )


def filled(store, steps, expires):
    """A table with the rows of some steps, some of them in files; with some rows expired, on wish."""
    for rows, pieces in steps:
        store.write(batch(rows))
        if pieces:
            store.snapshot(pieces=pieces)
    source = store.source()
    return evolve(source, cut_off=8 * SECOND) if expires else source


ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "é"]),
        st.sampled_from([None, "1", "2"]),
        st.integers(0, 20),
        st.none() | st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")]),
    ),
    min_size=1,
    max_size=12,
)
AT = st.integers(-1, 21).map(lambda at: f"'1970-01-01T00:00:{max(at, 0):02}Z'")
CONDITION = st.one_of(
    st.builds("time {} {}".format, st.sampled_from(["<", "<=", ">", ">=", "=", "<>"]), AT),
    st.builds("{} {} time".format, AT, st.sampled_from(["<", ">="])),
    st.builds("time BETWEEN {} AND {}".format, AT, AT),
    st.builds("host {} '{}'".format, st.sampled_from(["=", "<>", ">"]), st.sampled_from(["a", "b", "é", "zz"])),
    st.sampled_from(
        [
            "host IN ('a', 'zz')",
            "host NOT IN ('a')",
            "\"Room 1\" = '1'",
            "host IS NULL",
            "load > 1",
            "load = 'nan'",
            "n < 5",
            "cpu.host = 'a'",
            "time > now() - INTERVAL '1 day'",
            "time < now()",
            "host = s",
        ]
    ),
)
WHERE = st.recursive(
    CONDITION,
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("{} AND {}".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("NOT ({})".format, inner),
    ),
    max_leaves=4,
)
ASKED = st.sampled_from(
    [
        "SELECT * FROM cpu WHERE {}",
        "SELECT n, load FROM cpu WHERE {} ORDER BY time",
        "SELECT count(*), max(load), min(host) FROM cpu WHERE {}",
        "SELECT host, count(s) FROM cpu WHERE {} GROUP BY host",
        "SELECT date_bin(INTERVAL '5 seconds', time) AS t, avg(n) FROM iox.cpu WHERE {} GROUP BY t",
        'SELECT DISTINCT "Room 1" FROM cpu WHERE {}',
        "SELECT nothing_of_that_name FROM cpu WHERE {}",
    ]
)


def answer(engine, source, sql):
    try:
        found = engine.query({"cpu": source}, sql)
    except WalmillError as error:
        return str(error)
    return found.schema, Counter(map(repr, found.to_pylist()))


@settings(max_examples=120)
@given(st.lists(st.tuples(ROWS, st.sampled_from([0, 1, 2])), min_size=1, max_size=4), ASKED, WHERE, st.booleans())
def test_the_answer_is_that_of_datafusion(engines, store_type, steps, asked, where, expires):
    short, other = engines
    with TemporaryDirectory() as folder:
        source = filled(store_type(Path(folder), CPU), steps, expires)
        sql = asked.format(where)
        assert answer(short, source, sql) == answer(other, source, sql), sql


@pytest.fixture
def store(store_type, tmp_path):
    """A file with twenty seconds of two hosts, in row groups of three rows; one row of memory."""
    made = store_type(tmp_path, CPU)
    made.write(batch([(host, "1", at, float(at)) for host in "ab" for at in range(20)]))
    made.snapshot()
    made.write(batch([("a", "1", 30, 30.0)]))
    return made


def planned(engine, source, sql, params=None):
    """Whether a statement is read here, and how many rows of files that takes; closes its plan."""
    plan = engine._plan({"cpu": source}, sql, params, None, engine._bounds(None, None))
    try:
        return plan.files is None, plan.rows
    finally:
        plan.close()


@pytest.mark.parametrize(
    ("sql", "here", "rows"),
    [
        ("SELECT *, 1 AS one FROM cpu", True, 41),
        ("SELECT *, 1 AS one FROM cpu WHERE host = 'a'", True, 21),
        ("SELECT *, 1 AS one FROM cpu WHERE host = 'a' AND time < '1970-01-01T00:00:05Z'", True, 5),
        ("SELECT *, 1 AS one FROM cpu WHERE host = 'c'", True, 1),
        ("SELECT *, 1 AS one FROM cpu WHERE time > '1970-01-01T00:00:25Z'", True, 1),
        ("SELECT *, 1 AS one FROM cpu WHERE time > '1970-01-02'", True, 0),
        ("SELECT * FROM cpu x JOIN cpu y USING (time)", False, None),
        ("EXPLAIN SELECT * FROM cpu", False, None),
    ],
)
def test_only_rows_that_are_needed_are_read(engines, store, sql, here, rows):
    found = planned(engines[0], store.source(), sql)
    assert found[0] is here
    assert rows is None or found[1] == rows


def test_much_is_left_to_datafusion(engines, store, monkeypatch):
    source = store.source()
    monkeypatch.setattr(groups, "MOST_ROWS", 20)
    assert planned(engines[0], source, "SELECT *, 1 AS one FROM cpu") == (False, 41)
    assert planned(engines[0], source, "SELECT *, 1 AS one FROM cpu WHERE time < '1970-01-01T00:00:03Z'")[0]
    monkeypatch.setattr(groups, "MOST_VALUES", 20)
    assert not planned(engines[0], source, "SELECT *, 1 AS one FROM cpu WHERE time < '1970-01-01T00:00:03Z'")[0]
    assert planned(engines[0], source, "SELECT count(*) + 0 FROM cpu WHERE time < '1970-01-01T00:00:03Z'")[0]
    monkeypatch.setattr(groups, "MOST_BYTES", 1)
    assert not planned(engines[0], source, "SELECT count(*) + 0 FROM cpu WHERE time < '1970-01-01T00:00:03Z'")[0]
    monkeypatch.setattr(groups, "MOST_BYTES", 10_000)
    monkeypatch.setattr(groups, "MOST_FILES", 0)
    assert not planned(engines[0], source, "SELECT count(*) + 0 FROM cpu WHERE time < '1970-01-01T00:00:03Z'")[0]


def test_rows_that_may_come_twice_are_left_to_datafusion(engines, store):
    store.write(batch([("a", "1", 3, 99.0)]))
    source = store.source()
    assert not planned(engines[0], source, "SELECT *, 1 AS one FROM cpu WHERE host = 'b'")[0]
    sql = "SELECT load FROM cpu WHERE host = 'a' AND time = '1970-01-01T00:00:03Z'"
    assert engines[0].query({"cpu": source}, sql).to_pylist() == [{"load": 99.0}]
    assert planned(engines[0], source, "SELECT *, 1 AS one FROM cpu WHERE time > '1970-01-01T00:00:10Z'")[0]


def test_columns_that_came_later(engines, store):
    wider = CPU.with_columns(("zone",), {"more": "int64"})
    store.write(
        pa.record_batch({"zone": ["z"], "more": [7], "time": pa.array([40 * SECOND], pa.timestamp("ns"))}), wider
    )
    source = store.source()
    sql = "SELECT count(*) AS c, count(more) AS m FROM cpu"
    assert engines[0].query({"cpu": source}, sql).to_pylist() == [{"c": 42, "m": 1}]
    assert engines[0].query({"cpu": source}, "SELECT more FROM cpu WHERE zone = 'z'").to_pylist() == [{"more": 7}]
    assert engines[0].query({"cpu": source}, "SELECT DISTINCT zone FROM cpu WHERE host = 'a'").to_pylist() == [
        {"zone": None}
    ]
    assert planned(engines[0], source, "SELECT more + 1 FROM cpu WHERE zone = 'z'") == (True, 2)


def test_parameters_and_their_faults(engines, store):
    source = store.source()
    sql = "SELECT count(*) + 0 AS c FROM cpu WHERE host = $host"
    assert engines[0].query({"cpu": source}, sql, {"host": "a"}).to_pylist() == [{"c": 21}]
    assert planned(engines[0], source, sql, {"host": "b"}) == (True, 21)
    with pytest.raises(InvalidRequest, match=r"no placeholder \$other"):
        engines[0].query({"cpu": source}, sql, {"host": "a", "other": 1})
    with pytest.raises(InvalidRequest, match="host"):
        engines[0].query({"cpu": source}, sql)


def test_columns_are_kept_within_a_bound(store_type, tmp_path):
    made = store_type(tmp_path, CPU)
    made.write(batch([("a", "1", at, float(at)) for at in range(20)]))
    made.snapshot()
    (file,) = made.files
    footer, columns = Footers().of(file, Path(file.path), CPU), Columns(limit=300)
    for group in (0, 1, 0, 2, 3):
        found = columns.of(file, Path(file.path), footer, group, ["host", "n", "s", "time"])
        assert found["n"].to_pylist() == list(range(3 * group, 3 * group + 3))
        assert found["s"].cast(pa.string()).to_pylist() == [str(float(one)) for one in range(3 * group, 3 * group + 3)]
        assert 0 < columns.bytes <= 300
        assert columns.bytes == sum(one.nbytes for one in columns._known.values())
    assert Columns(limit=1).of(file, Path(file.path), footer, 0, ["n"])["n"].to_pylist() == [0, 1, 2]


def test_a_damaged_file_is_named(engines, store):
    (file,) = store.files
    path = Path(file.path)
    path.write_bytes(path.read_bytes()[:-4] + b"PARX")
    with pytest.raises(DataCorruption, match=path.name):
        engines[0].query({"cpu": store.source()}, "SELECT * FROM cpu")
    path.unlink()
    with pytest.raises(DataCorruption, match="is missing"):
        engines[0].query({"cpu": TableSource(store.buffer, store.files, store.locate)}, "SELECT * FROM cpu")


def test_another_now_is_planned_over_the_files(engines, store, monkeypatch):
    source = store.source()
    sql = "SELECT *, 1 AS one FROM cpu WHERE time < now()"
    assert planned(engines[0], source, sql)[0]
    monkeypatch.setattr("walmill.query.engine.SLACK", 0)  # as if its files had taken long to come
    assert not planned(engines[0], source, sql)[0]
    assert planned(engines[0], source, "SELECT *, 1 AS one FROM cpu")[0]


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM cpu WHERE 1 = 0",
        "SELECT * FROM cpu WHERE host = 'a' AND host = 'b'",
        "SELECT host, avg(load + 1) AS m FROM cpu WHERE false GROUP BY host ORDER BY m",
        "SELECT date_trunc('minute', time) AS t, host, avg(load) AS m FROM cpu WHERE host = 'a' AND (host = '') AND host = 'a' "
        "GROUP BY 1, host ORDER BY t DESC",
        "SELECT host FROM cpu WHERE load > 1 AND n = 2 AND n = 3 AND host = '' AND host = 'a'",
        "SELECT x.host FROM cpu x JOIN cpu y ON x.host = y.host WHERE x.host = 'a' AND y.host = 'b'",
    ],
)
def test_conditions_that_nothing_fulfils(engines, store, sql, short):
    assert engines[0 if short else 1].query({"cpu": store.source()}, sql).num_rows == 0


@pytest.mark.parametrize("short", [True, False])
def test_conditions_that_everything_fulfils(engines, store, short):
    engine, source = engines[0 if short else 1], store.source()
    assert engine.query({"cpu": source}, "SELECT host, load + 1 FROM cpu WHERE true").num_rows == 41
    assert engine.query({"cpu": source}, "SELECT host FROM cpu WHERE 1 = 1 AND (n < 5 OR true)").num_rows == 41
