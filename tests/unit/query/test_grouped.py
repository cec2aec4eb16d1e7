"""Counts, sums and extremes by tags and steps of time: the answers are those of DataFusion, and what is unclear is left to it."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.query.test_groups import CPU, ROWS, SECOND, batch, filled
from tests.unit.query.test_plain import PLAIN_WHERE, ready

from walmill.errors import WalmillError
from walmill.query import grouped as grouped_module
from walmill.query.asked import simple
from walmill.query.grouped import Grouped, Output, grouped

VALUE = st.sampled_from(
    [
        "count(*)",
        "count(load)",
        "count(host)",
        "max(load)",
        "min(load) AS low",
        "sum(load)",
        "avg(load) AS mean",
        "sum(n)",
        "AVG(n)",
        "min(n)",
        "max(cpu.time)",
        'count("Room 1")',
        "min(host)",
        "max(DISTINCT n)",
        "sum(n) FILTER (WHERE n > 3)",
        "load",
        "max(nothing)",
        "count(*) AS load",
    ]
)
KEY = st.sampled_from(
    [
        ("host", "host"),
        ('"Room 1"', '"Room 1"'),
        ("host AS h", "h"),
        ("host AS h", "host"),
        ("date_bin(INTERVAL '5 seconds', time) AS t", "t"),
        ("date_bin(INTERVAL '1 minute', cpu.time) AS t", "date_bin(INTERVAL '1 minute', time)"),
        ("date_bin(INTERVAL '7 seconds', time) AS t", "1"),
        ("date_trunc('minute', time) AS t", "1"),
        ("n", "n"),
        ("time", "time"),
    ]
)
ORDER = st.sampled_from(
    ["", "", " ORDER BY host", " ORDER BY t DESC", " ORDER BY t DESC LIMIT 2", " ORDER BY h NULLS FIRST, t"]
)


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, bool]:
    keys = draw(st.lists(KEY, max_size=2, unique=True))
    values = draw(st.lists(VALUE, min_size=1, max_size=3, unique=True))
    shown = [key for key, _ in keys]
    if keys and draw(st.booleans()) and keys[0][1] not in ("1", "t", "h"):
        shown = shown[1:]
    groups = [f"{shown.index(key) + 1}" if by == "1" and key in shown else by for key, by in keys]
    order = draw(ORDER)
    where = draw(PLAIN_WHERE)
    return (
        f"SELECT {', '.join([*shown, *values])} FROM {draw(st.sampled_from(['cpu', 'cpu', 'iox.cpu']))}"
        + (f" WHERE {where}" if where else "")
        + (f" GROUP BY {', '.join(groups)}" if groups else "")
        + order
    ), "LIMIT" in order


def answer(engine, source, sql, cut):
    try:
        found = engine.query({"cpu": source}, sql)
    except WalmillError as error:
        return str(error)
    return found.schema, found.num_rows if cut else Counter(map(repr, found.to_pylist()))


@settings(max_examples=100)
@given(st.lists(st.tuples(ROWS, st.sampled_from([0, 0, 1, 2])), min_size=1, max_size=4), statements(), st.booleans())
def test_the_answer_is_that_of_datafusion(engines, store_type, steps, statement, expires):
    short, other = engines
    sql, cut = statement
    with TemporaryDirectory() as folder:
        source = filled(store_type(Path(folder), CPU), steps, expires)
        assert answer(short, source, sql, cut) == answer(other, source, sql, cut), sql


STEP = Output("t", "time", step=5 * SECOND)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT count(*) FROM cpu", Grouped((Output("count(*)", "*", "count"),))),
        (
            "SELECT date_bin(INTERVAL '5 seconds', time) AS t, max(Load) FROM cpu GROUP BY t ORDER BY t DESC LIMIT 3",
            Grouped(
                (STEP, Output("max(cpu.load)", "load", "max")), (("time", 5 * SECOND),), (("t", True, True),), limit=3
            ),
        ),
        (
            "SELECT c.host, avg(c.n) AS a FROM cpu c GROUP BY 1",
            Grouped((Output("host", "host"), Output("a", "n", "mean")), (("host", None),)),
        ),
        ("SELECT sum(n) FROM cpu GROUP BY host", Grouped((Output("sum(cpu.n)", "n", "sum"),), (("host", None),))),
        *(
            (sql, None)
            for sql in (
                "SELECT host FROM cpu GROUP BY host",
                "SELECT host, max(n) FROM cpu",
                "SELECT max(n), host FROM cpu GROUP BY time",
                "SELECT max(n + 1) FROM cpu",
                "SELECT max(n) + 1 FROM cpu",
                "SELECT max(DISTINCT n) FROM cpu",
                "SELECT count(1) FROM cpu",
                "SELECT count(n, load) FROM cpu",
                "SELECT max(*) FROM cpu",
                "SELECT sum(n) OVER (PARTITION BY host) FROM cpu",
                "SELECT max(n) FILTER (WHERE n > 1) FROM cpu",
                "SELECT first_value(n ORDER BY time) FROM cpu",
                "SELECT median(n) FROM cpu",
                "SELECT date_bin(INTERVAL '1 month', time) AS t, count(*) FROM cpu GROUP BY t",
                "SELECT date_bin(INTERVAL '0 seconds', time) AS t, count(*) FROM cpu GROUP BY t",
                "SELECT date_bin(INTERVAL '1 hour', time, '2000-01-01') AS t, count(*) FROM cpu GROUP BY t",
                "SELECT date_bin(INTERVAL '1 hour', time), count(*) FROM cpu GROUP BY 1",
                "SELECT date_trunc('hour', time) AS t, count(*) FROM cpu GROUP BY t",
                "SELECT host, count(*) FROM cpu GROUP BY 3",
                "SELECT host, count(*) FROM cpu GROUP BY 2",
                "SELECT host, count(*) FROM cpu GROUP BY ROLLUP (host)",
                "SELECT host, count(*) FROM cpu GROUP BY ALL",
                "SELECT host, count(*) FROM cpu GROUP BY GROUPING SETS ((host), ())",
                "SELECT host, count(*) FROM cpu GROUP BY host HAVING count(*) > 1",
                "SELECT host, max(load) AS m FROM cpu GROUP BY host ORDER BY m",
                "SELECT host, max(load) FROM cpu GROUP BY host ORDER BY max(load)",
                "SELECT DISTINCT count(*) FROM cpu",
            )
        ),
    ],
)
def test_what_is_of_that_kind(sql, expected):
    one = simple(sql)
    assert (None if one is None else grouped(one)) == expected


def test_what_is_answered_here(engines, store_type, tmp_path, monkeypatch):
    store = store_type(tmp_path, CPU)
    store.write(batch([("a", "1", at, float(at + 1)) for at in range(5)]))
    source = store.source()
    for sql in (
        "SELECT date_bin(INTERVAL '2 seconds', time) AS t, avg(load), count(*) FROM cpu WHERE host = 'a' GROUP BY t ORDER BY t",
        "SELECT max(n) FROM cpu WHERE host = 'nobody'",
        "SELECT max(n), host FROM cpu WHERE host = 'nobody' GROUP BY host",
    ):
        assert ready(engines[0], source, sql), sql
    monkeypatch.setattr(grouped_module, "MOST_ROWS", 4)
    assert not ready(engines[0], source, "SELECT max(n) FROM cpu")
    assert ready(engines[0], source, "SELECT max(n) FROM cpu WHERE time > '1970-01-01'")
    monkeypatch.undo()
    assert not ready(engines[0], source, "SELECT max(s) FROM cpu")
    assert not ready(engines[0], source, "SELECT n, count(*) FROM cpu GROUP BY n")
    for number in (float("nan"), -0.0):
        store.write(batch([("b", "1", 9, number)]))
        assert not ready(engines[0], store.source(), "SELECT max(load) FROM cpu")
        assert ready(engines[0], store.source(), "SELECT max(load) FROM cpu WHERE host = 'a'")
        assert ready(engines[0], store.source(), "SELECT count(load) FROM cpu")


def test_rows_are_counted_wherever_they_are(engines, store_type, tmp_path):
    store = store_type(tmp_path, CPU)
    store.write(batch([("a", "1", at, float(at)) for at in range(5)]))
    store.snapshot()
    store.write(batch([("a", "1", 9, 9.0)]))
    sql = "SELECT count(*) AS c FROM cpu"
    assert ready(engines[0], store.source(), sql)
    assert engines[0].query({"cpu": store.source()}, sql).to_pylist() == [{"c": 6}]


def test_the_earliest_times_have_no_step_before_them(engines, store_type, tmp_path):
    store = store_type(tmp_path, CPU)
    store.write(
        pa.record_batch({"n": pa.array([1], pa.int64()), "time": pa.array([-(2**63) + 1]).view(pa.timestamp("ns"))})
    )
    sql = "SELECT date_bin(INTERVAL '1 day', time) AS t, sum(n) FROM cpu GROUP BY t"
    assert not ready(engines[0], store.source(), sql)
    assert ready(engines[0], store.source(), "SELECT sum(n) FROM cpu")
