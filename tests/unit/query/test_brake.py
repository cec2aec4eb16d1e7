"""Joins that can be stopped: where the brake is fitted, that it changes no answer, and that it stops the work itself."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from walmill.engine import Engine
from walmill.query.brake import MAY_JOIN
from walmill.query.errors import QueryStopped, QueryTimeout
from walmill.query.rewrite import rewrite

SERIES = "generate_series(1, 300000)"
ENDLESS = {
    "equal": f"SELECT count(*) FROM {SERIES} a JOIN {SERIES} b ON a.value % 3 = b.value % 3",
    "outer": f"SELECT count(*) FROM {SERIES} a FULL JOIN {SERIES} b ON a.value % 3 = b.value % 3",
    "less": f"SELECT count(*) FROM {SERIES} a JOIN {SERIES} b ON a.value < b.value",
    "where": f"SELECT count(*) FROM {SERIES} a, {SERIES} b WHERE a.value % 3 = b.value % 3",
    "using": (
        f"WITH a AS (SELECT value % 3 AS k FROM {SERIES}), b AS (SELECT value % 3 AS k FROM {SERIES}) "
        "SELECT count(*) FROM a LEFT JOIN b USING (k)"
    ),
}


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine.open(discover_plugins=False) as opened:
        opened.write("cpu,host=a v=1 1\ncpu,host=b v=2 2\ncpu v=3 3", database="d")
        opened.write("mem,host=a w=1 1\nmem,host=c w=3 3\nmem w=4 4\nMy\\ Mem,Host\\ Name=a w=5 1", database="d")
        yield weakref.proxy(opened)


def is_idle() -> bool:
    """Whether this process uses less than half of a processor."""
    used, began = time.process_time(), time.perf_counter()
    time.sleep(0.1)
    return (time.process_time() - used) / (time.perf_counter() - began) < 0.5


@pytest.mark.parametrize("sql", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("how", ["timeout", "stopped"])
def test_a_join_that_is_stopped_leaves_the_processor(engine: Engine, sql: str, how: str) -> None:
    """Without the brake these go on for minutes."""
    if how == "timeout":
        with pytest.raises(QueryTimeout):
            engine.query(sql, database="d", timeout=0.5)
    else:
        asked = engine.ask("d", sql)
        found: list[type[BaseException]] = []

        def read() -> None:
            try:
                with engine.stream(sql, database="d", asked=asked) as stream:
                    stream.read_all()
            except QueryStopped as error:
                found.append(type(error))

        reader = threading.Thread(target=read)
        reader.start()
        until = time.monotonic() + 20
        while is_idle():
            assert time.monotonic() < until
        asked.cancel()
        reader.join()
        assert found == [QueryStopped]
    until = time.monotonic() + 20
    while not is_idle():
        assert time.monotonic() < until, "the join goes on"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*), max(a.v + b.v) FROM t a CROSS JOIN t b",
        "SELECT sum(a.v) FROM t a NATURAL JOIN t b JOIN t c ON true",
    ],
)
def test_tables_of_ours_are_stopped_whatever_joins_them(engine: Engine, sql: str) -> None:
    lines = "\n".join(f"t v={number % 7} {number}" for number in range(60_000))
    engine.write(lines, database="d")
    with pytest.raises(QueryTimeout):
        engine.query(sql, database="d", timeout=0.5)
    until = time.monotonic() + 20
    while not is_idle():
        assert time.monotonic() < until, "the join goes on"


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT cpu.v, mem.w FROM cpu JOIN mem ON cpu.host = mem.host", [(1.0, 1.0)]),
        ("SELECT v, w FROM cpu a JOIN mem b USING (host, time)", [(1.0, 1.0)]),
        ("SELECT v, w FROM cpu a JOIN mem b USING (host, time) WHERE v > 1 OR w > 1", []),
        ("SELECT v, w FROM cpu, mem WHERE cpu.time = mem.time ORDER BY v", [(1.0, 1.0), (3.0, 3.0)]),
        (
            "SELECT v, w FROM cpu a LEFT JOIN mem b ON a.host = b.host AND a.time = b.time ORDER BY v",
            [(1.0, 1.0), (2.0, None), (3.0, None)],
        ),
        ("SELECT v, w FROM cpu a LEFT JOIN mem b USING (time) WHERE w IS NULL", [(2.0, None)]),
        ("SELECT v, w FROM cpu a RIGHT JOIN mem b USING (time) ORDER BY w", [(1.0, 1.0), (3.0, 3.0), (None, 4.0)]),
        (
            "SELECT v, w FROM cpu a FULL JOIN mem b ON a.time = b.time ORDER BY v, w",
            [(1.0, 1.0), (2.0, None), (3.0, 3.0), (None, 4.0)],
        ),
        ("SELECT count(*), 0 FROM cpu a JOIN cpu b ON a.v <= b.v", [(6, 0)]),
        ("SELECT v, 0 FROM cpu a LEFT SEMI JOIN mem b ON a.host = b.host", [(1.0, 0)]),
        ("SELECT v, 0 FROM cpu a LEFT ANTI JOIN mem b ON a.time = b.time", [(2.0, 0)]),
        ("SELECT v, 0 FROM cpu a WHERE EXISTS (SELECT 1 FROM mem WHERE mem.host = a.host)", [(1.0, 0)]),
        (
            "SELECT v, (SELECT max(w) FROM mem WHERE mem.host = a.host) FROM cpu a ORDER BY v",
            [(1.0, 1.0), (2.0, None), (3.0, None)],
        ),
        ('SELECT cpu.v, b.w FROM cpu JOIN "My Mem" AS b ON cpu.host = b."Host Name"', [(1.0, 5.0)]),
        (
            "SELECT x.v, y.w FROM (SELECT * FROM cpu) x JOIN (SELECT m.w, m.time FROM mem m JOIN cpu c USING (host)) y "
            "ON date_bin(INTERVAL '1 hour', x.time) = date_bin(INTERVAL '1 hour', y.time) ORDER BY 1",
            [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)],
        ),
        ("SELECT a.v, b.v FROM cpu a NATURAL JOIN cpu b ORDER BY 1", [(1.0, 1.0), (2.0, 2.0)]),
        ("SELECT count(*), 0 FROM cpu CROSS JOIN mem", [(9, 0)]),
        ("SELECT count(*), 0 FROM cpu, mem, cpu c WHERE cpu.v > 0", [(27, 0)]),
        ("SELECT v, w FROM cpu NATURAL LEFT JOIN mem ORDER BY v", [(1.0, 1.0), (2.0, None), (3.0, None)]),
        ("SELECT v, w FROM cpu NATURAL FULL JOIN mem WHERE v IS NULL ORDER BY w", [(None, 3.0), (None, 4.0)]),
        ("SELECT count(*), 0 FROM cpu LEFT JOIN mem ON true", [(9, 0)]),
        ("SELECT count(*), 0 FROM cpu, (SELECT * FROM mem) x", [(9, 0)]),
    ],
)
def test_answers_stay_as_they_are(engine: Engine, sql: str, rows: list[tuple[object, ...]]) -> None:
    found = engine.query(sql, database="d")
    assert list(zip(*(column.to_pylist() for column in found.columns), strict=True)) == rows


@pytest.mark.parametrize(
    ("sql", "fitted"),
    [
        ("SELECT 1 FROM a JOIN b ON a.x = b.x", 1),
        ("SELECT 1 FROM a JOIN b ON a.x = b.x JOIN c ON b.y = c.y AND a.z = c.z", 3),
        ("SELECT 1 FROM a, b, c WHERE a.x = b.x AND (b.y = c.y) AND a.x > 1", 2),
        ("SELECT 1 FROM a JOIN b USING (x)", 1),
        ("SELECT 1 FROM a JOIN b ON true", 0),
        ("SELECT 1 FROM a NATURAL JOIN b", 0),
        ("SELECT 1 FROM cpu NATURAL JOIN mem", 1),
        ("SELECT 1 FROM cpu CROSS JOIN mem", 1),
        ("SELECT 1 FROM cpu, mem x, mem AS y", 2),
        ("SELECT 1 FROM cpu, mem WHERE cpu.v = mem.w", 1),
        ("SELECT 1 FROM cpu JOIN mem ON true JOIN cpu c USING (time)", 2),
        ("SELECT 1 FROM cpu LEFT SEMI JOIN mem ON true", 0),
        ("SELECT 1 FROM cpu CROSS JOIN system.queries", 0),
        ("SELECT 1 FROM cpu CROSS JOIN generate_series(1, 2)", 0),
        ("SELECT 1 FROM a JOIN b ON a.x = (SELECT max(b.y) FROM b)", 0),
        ("SELECT x, y FROM a WHERE x = y ORDER BY x, y", 0),
        ("EXPLAIN SELECT 1 FROM a JOIN b ON a.x = b.x", 0),
        ("EXPLAIN ANALYZE SELECT 1 FROM a JOIN b ON a.x = b.x", 1),
        ("SELECT 1 FROM a JOIN", 0),
    ],
)
def test_where_it_is_fitted(sql: str, fitted: int) -> None:
    made, brake = rewrite(sql, frozenset, {"cpu", "mem"})
    assert made.count("walmill_runs(") == fitted
    assert (brake is None) is (fitted == 0)
    assert fitted or made == sql


def test_a_text_is_gone_through_once() -> None:
    """Whoever may ask must not be able to hold the interpreter with a long text."""
    for text in ("SELECT 1 " + "from " * 200_000, "from x " * 100_000, "SELECT " + "a b " * 200_000):
        assert MAY_JOIN.search(text) is None
    assert MAY_JOIN.search("SELECT 1 FROM (SELECT x FROM t) a, b")


def test_long_conditions_are_no_error(engine: Engine) -> None:
    """They make a tree that is deeper than Python goes: such a join has no brake, and runs."""
    many = " OR ".join(f"a.v = {number}" for number in range(2000))
    found = engine.query(f"SELECT count(*) AS n FROM cpu a JOIN mem b ON a.host = b.host WHERE {many}", database="d")
    assert found.to_pylist() == [{"n": 1}]
    with pytest.raises(ValueError, match="nested too deeply"):
        engine.query(f"SELECT count(*), tz(time, 'UTC') FROM cpu a WHERE {many} GROUP BY 2", database="d")


def test_nobody_else_can_call_it(engine: Engine) -> None:
    with pytest.raises(ValueError, match="walmill_runs"):
        engine.query("SELECT walmill_runs(true)", database="d")
