"""Statements that need no planner: the answers are those of DataFusion, and what is not plain is left to it."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.query.test_groups import AT, CPU, ROWS, WHERE, batch, filled

from walmill.errors import InvalidRequest, WalmillError
from walmill.query import plain as plain_module
from walmill.query.asked import simple
from walmill.query.engine import QueryEngine
from walmill.query.errors import QueryTooLarge
from walmill.query.plain import Plain, plain
from walmill.query.plan import Made, Ready

PLAIN_WHERE = st.lists(
    st.one_of(
        st.builds("time {} {}".format, st.sampled_from(["<", "<=", ">", ">=", "="]), AT),
        st.builds("{} {} cpu.time".format, AT, st.sampled_from(["<", ">", "="])),
        st.builds("time BETWEEN {} AND {}".format, AT, AT),
        st.builds("(host = '{}')".format, st.sampled_from(["a", "b", "é", "zz", ""])),
        st.sampled_from(["host IN ('a', 'é')", "\"Room 1\" = '1'", "time < now()", "now() - INTERVAL '1 day' < time"]),
    ),
    max_size=3,
).map(" AND ".join)
ORDER = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["time", "host", '"Room 1"', "n", "s"]),
        st.sampled_from(["", " ASC", " DESC"]),
        st.sampled_from(["", " NULLS FIRST", " NULLS LAST"]),
    ),
    min_size=1,
    max_size=3,
).map(", ".join)
CUT = st.sampled_from(["", " LIMIT 0", " LIMIT 3", " LIMIT 2 OFFSET 1", " OFFSET 4"])
STATEMENT = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "SELECT * FROM cpu",
                'SELECT load, host AS "H", time FROM cpu',
                "SELECT cpu.n, s FROM iox.cpu",
                'SELECT DISTINCT host, "Room 1" FROM cpu',
                "SELECT DISTINCT s AS x, s AS y, time FROM cpu",
                "SELECT DISTINCT load FROM cpu",
                "SELECT host AS time, n FROM cpu",
                "SELECT *, n FROM cpu",
                "SELECT nothing FROM cpu",
            ]
        ),
        st.none(),
        st.just(""),
    ),
    st.tuples(st.just('SELECT time, host, "Room 1", n, s FROM cpu'), ORDER, st.just("")),
    st.tuples(st.just('SELECT DISTINCT n, s, time, host, "Room 1" FROM cpu'), ORDER, CUT),
    st.tuples(st.just("SELECT n FROM cpu"), ORDER, CUT),
    st.tuples(st.just("SELECT host AS n, time FROM cpu"), st.sampled_from(["n", "n DESC, time", "time"]), CUT),
)


def answer(engine, source, sql, order, cut):
    """What can be compared: with an order, what it sorts by, row by row; with a cut and no order, how many rows there are."""
    try:
        found = engine.query({"cpu": source}, sql)
    except WalmillError as error:
        return str(error)
    rows = [repr(row) for row in found.to_pylist()]
    if order is None:
        return found.schema, len(rows) if cut else Counter(rows)
    names = [one.split()[0].strip('"') for one in order.replace('"Room 1"', "room").split(", ")]
    keys = [name.replace("room", "Room 1") for name in names]
    shown = [tuple(repr(row[key]) for key in keys if key in row) for row in found.to_pylist()]
    return found.schema, shown, None if cut else Counter(rows)


@settings(max_examples=120)
@given(
    st.lists(st.tuples(ROWS, st.sampled_from([0, 0, 1, 2])), min_size=1, max_size=4),
    STATEMENT,
    st.one_of(PLAIN_WHERE, PLAIN_WHERE, WHERE),
    st.booleans(),
)
def test_the_answer_is_that_of_datafusion(engines, store_type, steps, statement, where, expires):
    short, other = engines
    select, order, cut = statement
    sql = select + (f" WHERE {where}" if where else "") + (f" ORDER BY {order}" if order else "") + cut
    with TemporaryDirectory() as folder:
        source = filled(store_type(Path(folder), CPU), steps, expires)
        assert answer(short, source, sql, order, cut) == answer(other, source, sql, order, cut), sql


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM cpu", Plain((None,))),
        ('SELECT HOST, c.n AS "N n", * FROM cpu c', Plain((("host", "host"), ("n", "N n"), None))),
        ("SELECT DISTINCT host FROM cpu", Plain((("host", "host"),), distinct=True)),
        (
            "SELECT host AS h FROM cpu ORDER BY h DESC, time, n ASC NULLS FIRST LIMIT 5 OFFSET 2",
            Plain(
                (("host", "h"),),
                order=(("host", True, True), ("time", False, False), ("n", False, True)),
                limit=5,
                offset=2,
            ),
        ),
        ("SELECT host FROM cpu OFFSET 2 ROWS", Plain((("host", "host"),), offset=2)),
        *(
            (sql, None)
            for sql in (
                "SELECT 1 FROM cpu",
                "SELECT n + 1 FROM cpu",
                "SELECT count(*) FROM cpu",
                "SELECT cpu.* FROM cpu",
                "SELECT * EXCEPT (host) FROM cpu",
                "SELECT other.host FROM cpu",
                "SELECT DISTINCT ON (host) host, n FROM cpu",
                "SELECT host FROM cpu GROUP BY host",
                "SELECT host FROM cpu GROUP BY ALL",
                "SELECT host FROM cpu HAVING true",
                "SELECT host FROM cpu ORDER BY 1",
                "SELECT host FROM cpu ORDER BY lower(host)",
                "SELECT host FROM cpu LIMIT 1 + 1",
                "SELECT host FROM cpu LIMIT ALL OFFSET n",
                "SELECT host FROM cpu LIMIT $n",
                "SELECT host FROM cpu LIMIT 99999999999999999999",
                "SELECT host FROM cpu FETCH FIRST 2 ROWS ONLY",
                "SELECT host FROM cpu FOR UPDATE",
                "SELECT host FROM cpu QUALIFY row_number() OVER () = 1",
                "SELECT host FROM cpu SORT BY host",
                "SELECT host INTO x FROM cpu",
                "SELECT TOP 3 host FROM cpu",
            )
        ),
    ],
)
def test_what_is_plain(sql, expected):
    one = simple(sql)
    assert (None if one is None else plain(one)) == expected


def ready(engine, source, sql, params=None):
    plan = engine._plan({"cpu": source}, sql, params, None, engine._bounds(None, None))
    plan.close()
    return isinstance(plan, Ready)


@pytest.mark.parametrize(
    ("sql", "here"),
    [
        ("SELECT * FROM cpu", True),
        ("SELECT n FROM cpu WHERE time > now() - INTERVAL '5 minutes' AND host = 'a' ORDER BY time DESC LIMIT 1", True),
        ("SELECT load FROM cpu ORDER BY time", True),
        # the order and the likeness of floating-point numbers are DataFusion's
        ("SELECT load FROM cpu ORDER BY load", False),
        ("SELECT DISTINCT load FROM cpu", False),
        ("SELECT n FROM cpu WHERE load > 1", False),
        ("SELECT n FROM cpu WHERE s = '1.5'", False),
        ("SELECT n FROM cpu WHERE host = 'a' OR host = 'b'", False),
    ],
)
def test_what_is_answered_here(engines, store_type, tmp_path, sql, here):
    store = store_type(tmp_path, CPU)
    store.write(batch([("a", "1", at, float(at)) for at in range(5)]))
    assert ready(engines[0], store.source(), sql) is here
    assert not ready(engines[1], store.source(), sql)
    store.snapshot()
    assert ready(engines[0], store.source(), sql) is here


def test_much_is_left_to_datafusion(engines, store_type, tmp_path, monkeypatch):
    store = store_type(tmp_path, CPU)
    store.write(batch([("a", "1", at, float(at)) for at in range(5)]))
    source = store.source()
    monkeypatch.setattr(plain_module, "MOST_ROWS", 4)
    assert not ready(engines[0], source, "SELECT * FROM cpu")
    assert engines[0].query({"cpu": source}, "SELECT * FROM cpu").num_rows == 5
    monkeypatch.setattr(plain_module, "MOST_ROWS", 5)
    monkeypatch.setattr(plain_module, "MOST_BATCHES", 0)
    assert not ready(engines[0], source, "SELECT * FROM cpu")
    monkeypatch.setattr(plain_module, "MOST_BATCHES", 1)
    assert ready(engines[0], source, "SELECT * FROM cpu")


@pytest.mark.parametrize(
    ("sql", "here"),
    [
        ("SELECT 1", True),
        (" select\n42 ; ", True),
        ("SELECT 0", True),
        ("SELECT 1 AS one", False),
        ("SELECT 1.5", False),
    ],
)
def test_whether_somebody_is_there(engines, sql, here):
    short, other = (one.query({}, sql) for one in engines)
    assert short.equals(other)
    assert short.schema.equals(other.schema)
    assert ready(engines[0], None, sql) is here
    with pytest.raises(InvalidRequest, match=r"no placeholder \$x"):
        engines[0].query({}, sql, {"x": 1})


def test_limits_hold(store_type, tmp_path):
    store = store_type(tmp_path, CPU)
    store.write(batch([("a", "1", at, float(at)) for at in range(5)]))
    engine = QueryEngine(most_rows=3)
    try:
        with pytest.raises(QueryTooLarge, match="more than 3 rows"):
            engine.query({"cpu": store.source()}, "SELECT * FROM cpu")
        with engine.stream({"cpu": store.source()}, "SELECT * FROM cpu") as stream, pytest.raises(QueryTooLarge):
            stream.read_all()
        assert engine.query({"cpu": store.source()}, "SELECT * FROM cpu LIMIT 3").num_rows == 3
        with engine.stream({"cpu": store.source()}, "SELECT n FROM cpu WHERE host = 'b'") as stream:
            assert stream.read_all().schema == pa.schema([("n", pa.int64())])
        assert engine.schema({"cpu": store.source()}, "SELECT n AS m FROM cpu") == pa.schema([("m", pa.int64())])
    finally:
        engine.close()


def test_parameters_and_their_faults(engines, store_type, tmp_path):
    store = store_type(tmp_path, CPU)
    store.write(batch([("a", "1", at, float(at)) for at in range(5)]))
    source, sql = store.source(), "SELECT n FROM cpu WHERE host = $h AND time >= $t"
    params = {"h": "a", "t": datetime.fromtimestamp(3, UTC)}
    assert ready(engines[0], source, sql, params)
    assert engines[0].query({"cpu": source}, sql, params)["n"].to_pylist() == [3, 4]
    with pytest.raises(InvalidRequest, match=r"no placeholder \$other"):
        engines[0].query({"cpu": source}, sql, {**params, "other": 1})
    with pytest.raises(InvalidRequest, match=r"\$?t"):
        engines[0].query({"cpu": source}, sql, {"h": "a"})


def test_tables_that_are_made(engines):
    """Of a further schema: by their texts, and by the key that whoever makes them can look up."""
    rows = pa.table({"k": ["a", "b", None], "v": [1.0, 2.0, 3.0]})
    asked = []

    def find(wanted):
        asked.append(wanted)
        return rows.slice(0, 1) if wanted == {"k": frozenset("a")} else None

    extra = {"system": {"things": Made(lambda: rows.schema, lambda: rows, find)}}

    def ask(sql):
        return engines[0].query({}, sql, extra=extra).to_pylist()

    assert ask("SELECT v FROM system.things WHERE k = 'a'") == [{"v": 1.0}]
    assert ask("SELECT v FROM system.things WHERE k = 'b'") == [{"v": 2.0}]
    assert ask("SELECT DISTINCT k FROM system.things ORDER BY k DESC") == [{"k": None}, {"k": "b"}, {"k": "a"}]
    assert asked == [{"k": frozenset("a")}, {"k": frozenset("b")}]
    assert ask("SELECT sum(v) AS s FROM system.things") == [{"s": 6.0}]
    with pytest.raises(WalmillError, match="nothing"):
        ask("SELECT nothing FROM system.things")
    with pytest.raises(WalmillError, match="others"):
        ask("SELECT * FROM system.others")


def test_sessions_are_used_again_and_know_nothing_of_before(store_type, tmp_path):
    engine = QueryEngine()
    store = store_type(tmp_path, CPU)
    store.write(batch([("a", "1", at, float(at)) for at in range(5)]))
    try:
        assert engine.query({"cpu": store.source()}, "SELECT sum(n) AS s FROM cpu").to_pylist() == [{"s": 10}]
        (kept,) = engine._sessions._kept.values()
        assert len(kept) == 1
        with pytest.raises(WalmillError, match="cpu"):
            engine.query({}, "SELECT sum(n) AS s FROM cpu")
        extra = {"system": {"things": Made(lambda: pa.schema([("k", pa.string())]), lambda: pa.table({"k": ["a"]}))}}
        assert engine.query({}, "SELECT count(*) AS c FROM system.things", extra=extra).to_pylist() == [{"c": 1}]
        with pytest.raises(WalmillError, match="things"):
            engine.query({}, "SELECT count(*) AS c FROM system.things")
        with engine.stream({}, "SELECT 1 AS one") as stream:
            assert engine.query({}, "SELECT 2 AS two").to_pylist() == [{"two": 2}]  # meanwhile it has another
            assert stream.read_all().to_pylist() == [{"one": 1}]
        assert all(len(kept) <= 4 for kept in engine._sessions._kept.values())
    finally:
        engine.close()
