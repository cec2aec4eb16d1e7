"""InfluxQL on `/query`: what dashboards send, with the answers in the form of InfluxDB 1."""

# ruff: noqa: E501 - a table

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.influxql import within
from walmill.influxql.parse import parse
from walmill.options import EngineOptions
from walmill.testing.clock import ManualClock

S = 1_000_000_000
NOW = 100 * S
LINES = "\n".join(
    [
        *(f"cpu,host=a,dc=x usage={v},n={i}i {i * 10 * S}" for i, v in enumerate([1, 2, 4, 8])),
        *(f"cpu,host=b,dc=x usage={v} {i * 20 * S}" for i, v in enumerate([10, 20])),
        f'mem,host=a free=5i,state="it\'s",ok=true {30 * S}',
        f"untagged v=1 {50 * S}",
    ]
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine.open(EngineOptions(discover_plugins=False, clock=ManualClock(NOW))) as made:
        made.write(LINES, database="d")
        made.write("cpu usage=7 1000000000", database="d/week")
        yield made


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as made:
        yield made


def asked(client: TestClient, statement: str, **params: Any) -> list[Any]:
    """The series of the first result: name, tags, columns without time, rows."""
    answer = client.get("/query", params={"db": "d", "q": statement, "epoch": "s", **params})
    assert answer.status_code == 200, answer.text
    [result] = answer.json()["results"]
    assert "error" not in result, result
    return [
        (
            one.get("name"),
            one.get("tags"),
            one["columns"][1:] if one["columns"][0] == "time" else one["columns"],
            [tuple(row) for row in one["values"]],
        )
        for one in result.get("series", [])
    ]


A, B = {"host": "a"}, {"host": "b"}
TIMED = "WHERE time >= 0 AND time < 60s"
TABLE: list[tuple[str, list[Any]]] = [
    ("SELECT usage FROM cpu WHERE host = 'a' ORDER BY time DESC LIMIT 2", [("cpu", None, ["usage"], [(30, 8.0), (20, 4.0)])]),
    ("SELECT \"usage\" FROM \"cpu\" WHERE (\"host\" = 'b') LIMIT 1 OFFSET 1", [("cpu", None, ["usage"], [(20, 20.0)])]),
    ("SELECT usage, host FROM cpu WHERE time = 20s", [("cpu", None, ["usage", "host"], [(20, 4.0, "a"), (20, 20.0, "b")])]),
    ("SELECT * FROM mem", [("mem", None, ["free", "host", "ok", "state"], [(30, 5, "a", True, "it's")])]),
    ("SELECT *::field FROM mem", [("mem", None, ["free", "ok", "state"], [(30, 5, True, "it's")])]),
    ("SELECT /^f/ FROM mem", [("mem", None, ["free"], [(30, 5)])]),
    ("SELECT usage FROM cpu WHERE usage > 4 AND n >= 1", [("cpu", None, ["usage"], [(30, 8.0)])]),
    ("SELECT free FROM mem WHERE state = 'it\\'s' AND ok = true", [("mem", None, ["free"], [(30, 5)])]),
    ("SELECT v FROM untagged WHERE host = ''", [("untagged", None, ["v"], [(50, 1.0)])]),
    ("SELECT usage FROM cpu WHERE host != 'a' AND host <> ''", [("cpu", None, ["usage"], [(0, 10.0), (20, 20.0)])]),
    ("SELECT usage FROM cpu WHERE host =~ /^(a|c)$/ AND time > 15s", [("cpu", None, ["usage"], [(20, 4.0), (30, 8.0)])]),
    ("SELECT usage FROM cpu WHERE host !~ /a/", [("cpu", None, ["usage"], [(0, 10.0), (20, 20.0)])]),
    ("SELECT usage * 2 + 1 AS x, usage FROM cpu WHERE host = 'b'", [("cpu", None, ["x", "usage"], [(0, 21.0, 10.0), (20, 41.0, 20.0)])]),
    ("SELECT usage FROM cpu WHERE time >= '1970-01-01T00:00:30Z'", [("cpu", None, ["usage"], [(30, 8.0)])]),
    ("SELECT usage FROM cpu WHERE time >= '1970-01-01 00:00:30'", [("cpu", None, ["usage"], [(30, 8.0)])]),
    ("SELECT usage FROM cpu WHERE time > now() - 1m - 15s", [("cpu", None, ["usage"], [(30, 8.0)])]),
    ("SELECT usage FROM cpu WHERE time >= 30000ms AND time <= 30000000000", [("cpu", None, ["usage"], [(30, 8.0)])]),
    ("SELECT usage FROM cpu GROUP BY host LIMIT 1", [("cpu", A, ["usage"], [(0, 1.0)]), ("cpu", B, ["usage"], [(0, 10.0)])]),
    ("SELECT usage FROM cpu GROUP BY host SLIMIT 1 SOFFSET 1", [("cpu", B, ["usage"], [(0, 10.0), (20, 20.0)])]),
    ("SELECT v FROM untagged GROUP BY host", [("untagged", {"host": ""}, ["v"], [(50, 1.0)])]),
    (f"SELECT mean(usage) FROM cpu {TIMED} GROUP BY time(20s), host fill(null)",
     [("cpu", A, ["mean"], [(0, 1.5), (20, 6.0), (40, None)]), ("cpu", B, ["mean"], [(0, 10.0), (20, 20.0), (40, None)])]),
    (f"SELECT mean(usage) FROM cpu {TIMED} GROUP BY time(20s) fill(none)", [("cpu", None, ["mean"], [(0, 13 / 3), (20, 32 / 3)])]),
    (f"SELECT max(usage) FROM cpu {TIMED} GROUP BY time(20s) fill(0) ORDER BY time DESC", [("cpu", None, ["max"], [(40, 0.0), (20, 20.0), (0, 10.0)])]),
    (f"SELECT last(usage) FROM cpu {TIMED} AND host = 'a' GROUP BY time(15s) fill(previous)", [("cpu", None, ["last"], [(0, 2.0), (15, 4.0), (30, 8.0), (45, 8.0)])]),
    ("SELECT mean(usage) FROM cpu WHERE time >= 0 AND time <= 20s AND host = 'b' GROUP BY time(10s) fill(linear)", [("cpu", None, ["mean"], [(0, 10.0), (10, 15.0), (20, 20.0)])]),
    (f"SELECT count(usage) FROM cpu {TIMED} GROUP BY time(30s, 10s)", [("cpu", None, ["count"], [(-20, 2), (10, 4), (40, 0)])]),
    ("SELECT count(usage) FROM cpu WHERE time >= 70s GROUP BY time(10s)", []),
    ("SELECT count(usage) FROM cpu WHERE host = 'b' GROUP BY time(50s)", [("cpu", None, ["count"], [(0, 2), (50, 0), (100, 0)])]),
    (f"SELECT sum(usage) FROM cpu {TIMED} GROUP BY time(20s) LIMIT 1", [("cpu", None, ["sum"], [(0, 13.0)])]),
    ("SELECT mean(usage) FROM cpu", [("cpu", None, ["mean"], [(0, 7.5)])]),
    ("SELECT mean(usage) FROM cpu WHERE time >= 20s", [("cpu", None, ["mean"], [(20, 32 / 3)])]),
    ("SELECT mean(*) FROM cpu", [("cpu", None, ["mean_n", "mean_usage"], [(0, 1.5, 7.5)])]),
    ("SELECT first(usage), last(usage) FROM cpu GROUP BY *", [("cpu", {"dc": "x", "host": "a"}, ["first", "last"], [(0, 1.0, 8.0)]), ("cpu", {"dc": "x", "host": "b"}, ["first", "last"], [(0, 10.0, 20.0)])]),
    ("SELECT last(usage) FROM cpu GROUP BY host", [("cpu", A, ["last"], [(30, 8.0)]), ("cpu", B, ["last"], [(20, 20.0)])]),
    ("SELECT max(usage), host FROM cpu", [("cpu", None, ["max", "host"], [(20, 20.0, "b")])]),
    ("SELECT min(usage) * 2 FROM cpu", [("cpu", None, ["min"], [(0, 2.0)])]),
    ("SELECT percentile(usage, 50), spread(usage), median(usage) FROM cpu", [("cpu", None, ["percentile", "spread", "median"], [(0, 4.0, 19.0, 6.0)])]),
    ("SELECT count(distinct(usage)), count(n) FROM cpu", [("cpu", None, ["count", "count_1"], [(0, 6, 4)])]),
    ("SELECT distinct(n) FROM cpu", [("cpu", None, ["distinct"], [(0, 0), (0, 1), (0, 2), (0, 3)])]),
    ("SELECT top(usage, 2) FROM cpu", [("cpu", None, ["top"], [(0, 10.0), (20, 20.0)])]),
    ("SELECT top(usage, 2), host, n FROM cpu ORDER BY time DESC", [("cpu", None, ["top", "host", "n"], [(20, 20.0, "b", None), (0, 10.0, "b", None)])]),
    ("SELECT bottom(usage, 2) AS least FROM cpu WHERE time > 0", [("cpu", None, ["least"], [(10, 2.0), (20, 4.0)])]),
    ("SELECT top(usage, host, 2) FROM cpu", [("cpu", None, ["top", "host"], [(20, 20.0, "b"), (30, 8.0, "a")])]),
    ("SELECT top(usage, host, 1) FROM cpu", [("cpu", None, ["top", "host"], [(20, 20.0, "b")])]),
    ("SELECT top(usage, 1) FROM cpu GROUP BY host", [("cpu", A, ["top"], [(30, 8.0)]), ("cpu", B, ["top"], [(20, 20.0)])]),
    (f"SELECT top(usage, 1) FROM cpu {TIMED} GROUP BY time(20s)", [("cpu", None, ["top"], [(0, 10.0), (20, 20.0)])]),
    (f"SELECT bottom(usage, 1) FROM cpu {TIMED} GROUP BY time(20s), host", [("cpu", A, ["bottom"], [(0, 1.0), (20, 4.0)]), ("cpu", B, ["bottom"], [(0, 10.0), (20, 20.0)])]),
    ("SELECT mode(usage) FROM cpu GROUP BY host", [("cpu", A, ["mode"], [(0, 1.0)]), ("cpu", B, ["mode"], [(0, 10.0)])]),
    ("SELECT mean(usage) / count(usage) FROM cpu GROUP BY /^ho/", [("cpu", A, ["mean_count"], [(0, 0.9375)]), ("cpu", B, ["mean_count"], [(0, 7.5)])]),
    ("SELECT sum(usage) / 0 FROM cpu", []),
    (f"SELECT derivative(mean(usage), 1s) FROM cpu {TIMED} AND host = 'a' GROUP BY time(10s)", [("cpu", None, ["derivative"], [(10, 0.1), (20, 0.2), (30, 0.4)])]),
    ("SELECT difference(usage) FROM cpu WHERE host = 'a'", [("cpu", None, ["difference"], [(10, 1.0), (20, 2.0), (30, 4.0)])]),
    ("SELECT non_negative_derivative(usage, 10s) FROM cpu GROUP BY host LIMIT 1", [("cpu", A, ["non_negative_derivative"], [(10, 1.0)]), ("cpu", B, ["non_negative_derivative"], [(20, 5.0)])]),
    ("SELECT moving_average(usage, 2), cumulative_sum(usage) FROM cpu WHERE host = 'a'", [("cpu", None, ["moving_average", "cumulative_sum"], [(0, None, 1.0), (10, 1.5, 3.0), (20, 3.0, 7.0), (30, 6.0, 15.0)])]),
    ("SELECT usage FROM d.autogen.cpu WHERE time = 30s", [("cpu", None, ["usage"], [(30, 8.0)])]),
    ("SELECT usage FROM week.cpu", [("cpu", None, ["usage"], [(1, 7.0)])]),
    ("SELECT usage FROM d..cpu WHERE time = 30s", [("cpu", None, ["usage"], [(30, 8.0)])]),
    ("SELECT mean(free), mean(usage) FROM /^(cpu|mem)$/", [("cpu", None, ["mean", "mean_1"], [(0, None, 7.5)]), ("mem", None, ["mean", "mean_1"], [(0, 5.0, None)])]),
    ("SELECT usage FROM cpu, mem WHERE time = 30s", [("cpu", None, ["usage"], [(30, 8.0)])]),
    # a SELECT within a SELECT: as InfluxDB 1.6.7 answers them
    ("SELECT max(m) FROM (SELECT mean(usage) AS m FROM cpu GROUP BY host)", [("cpu", None, ["max"], [(0, 15.0)])]),
    (f"SELECT sum(m) FROM (SELECT max(usage) AS m FROM cpu GROUP BY host, time(10s)) {TIMED} GROUP BY time(20s)", [("cpu", None, ["sum"], [(0, 13.0), (20, 32.0), (40, None)])]),
    (f"SELECT sum(m) FROM (SELECT max(usage) AS m FROM cpu GROUP BY host, time(10s) fill(none)) {TIMED} GROUP BY time(20s), host",
     [("cpu", A, ["sum"], [(0, 3.0), (20, 12.0), (40, None)]), ("cpu", B, ["sum"], [(0, 10.0), (20, 20.0), (40, None)])]),
    ("SELECT m, host FROM (SELECT mean(usage) AS m FROM cpu GROUP BY host)", [("cpu", None, ["m", "host"], [(0, 3.75, "a"), (0, 15.0, "b")])]),
    ("SELECT * FROM (SELECT mean(usage) AS m FROM cpu GROUP BY host)", [("cpu", None, ["host", "m"], [(0, "a", 3.75), (0, "b", 15.0)])]),
    ("SELECT m FROM (SELECT mean(usage) AS m FROM cpu GROUP BY host) WHERE m > 5", [("cpu", None, ["m"], [(0, 15.0)])]),
    ("SELECT m FROM (SELECT mean(usage) AS m FROM cpu GROUP BY host) WHERE host = 'a'", [("cpu", None, ["m"], [(0, 3.75)])]),
    ("SELECT mean(usage) FROM (SELECT usage FROM cpu) GROUP BY host", [("cpu", A, ["mean"], [(0, 3.75)]), ("cpu", B, ["mean"], [(0, 15.0)])]),
    ("SELECT mean(usage) FROM (SELECT usage FROM cpu) WHERE host = 'a'", []),
    ("SELECT mean(usage) FROM (SELECT usage FROM cpu WHERE usage > 3) WHERE time >= 20s", [("cpu", None, ["mean"], [(20, 32 / 3)])]),
    ("SELECT mean(m) FROM (SELECT mean(usage) AS m FROM cpu) GROUP BY host", [("cpu", A, ["mean"], [(0, 3.75)]), ("cpu", B, ["mean"], [(0, 15.0)])]),
    ("SELECT mean(d) FROM (SELECT derivative(usage, 10s) AS d FROM cpu GROUP BY host)", [("cpu", None, ["mean"], [(0, 3.0)])]),
    ("SELECT usage FROM (SELECT usage FROM cpu LIMIT 2)", [("cpu", None, ["usage"], [(0, 1.0), (0, 10.0)])]),
    ("SELECT sum(s) FROM (SELECT sum(m) AS s FROM (SELECT max(usage) AS m FROM cpu GROUP BY host, time(10s) fill(none)) WHERE time >= 0 AND time < 60s GROUP BY time(20s))",
     [("cpu", None, ["sum"], [(0, 45.0)])]),
    ("SELECT sum(m) FROM (SELECT mean(usage) AS m FROM cpu GROUP BY time(20s), host fill(none)) WHERE time >= 10s AND time < 60s GROUP BY time(30s) fill(none)",
     [("cpu", None, ["sum"], [(0, 28.0)])]),
    ("SELECT mean(usage), mean(free) FROM (SELECT usage, free FROM cpu, mem)", [("cpu", None, ["mean", "mean_1"], [(0, 7.5, None)]), ("mem", None, ["mean", "mean_1"], [(0, None, 5.0)])]),
    ("SELECT last(state) FROM (SELECT state FROM mem GROUP BY host)", [("mem", None, ["last"], [(30, "it's")])]),
    ("SELECT a + b FROM (SELECT max(usage) AS a, min(usage) AS b FROM cpu GROUP BY host)", [("cpu", None, ["a_b"], [(0, 9.0), (0, 30.0)])]),
    ("SELECT nope FROM (SELECT usage FROM cpu)", []),
    ("SELECT nope FROM (SELECT usage FROM nope)", []),
    ("SELECT nope FROM cpu", []),
    ("SELECT usage FROM nope", []),
    ("SHOW DATABASES", [("databases", None, ["name"], [("d",), ("d/week",)])]),
    ("SHOW MEASUREMENTS", [("measurements", None, ["name"], [("cpu",), ("mem",), ("untagged",)])]),
    ("SHOW MEASUREMENTS WITH MEASUREMENT =~ /(?i)^c/ LIMIT 100", [("measurements", None, ["name"], [("cpu",)])]),
    ("SHOW MEASUREMENTS WHERE host = 'b'", [("measurements", None, ["name"], [("cpu",)])]),
    ("SHOW TAG KEYS FROM \"cpu\"", [("cpu", None, ["tagKey"], [("dc",), ("host",)])]),
    ("SHOW TAG KEYS ON d FROM mem", [("mem", None, ["tagKey"], [("host",)])]),
    ("SHOW FIELD KEYS FROM mem", [("mem", None, ["fieldKey", "fieldType"], [("free", "integer"), ("ok", "boolean"), ("state", "string")])]),
    ("SHOW TAG VALUES FROM cpu WITH KEY = host", [("cpu", None, ["key", "value"], [("host", "a"), ("host", "b")])]),
    ("SHOW TAG VALUES WITH KEY IN (\"host\", \"dc\") WHERE host = 'a'", [("cpu", None, ["key", "value"], [("dc", "x"), ("host", "a")]), ("mem", None, ["key", "value"], [("host", "a")])]),
    ("SHOW TAG VALUES FROM cpu WITH KEY =~ /o/ WHERE time > now() - 85s LIMIT 1", [("cpu", None, ["key", "value"], [("host", "a")])]),
    ("SHOW RETENTION POLICIES ON d", [(None, None, ["name", "duration", "shardGroupDuration", "replicaN", "default"], [("autogen", "0s", "168h0m0s", 1, True)])]),
    # as Grafana's data source writes them
    ('SELECT mean("usage") FROM "cpu" WHERE ("host"::tag =~ /^(a|b)$/) AND time >= 0ms and time <= 59999ms GROUP BY time(20s), "host"::tag fill(null) tz(\'Europe/Berlin\')',
     [("cpu", A, ["mean"], [(0, 1.5), (20, 6.0), (40, None)]), ("cpu", B, ["mean"], [(0, 10.0), (20, 20.0), (40, None)])]),
    ("SELECT last(\"usage\") AS \"Usage now\" FROM \"autogen\".\"cpu\" WHERE $timeFilter".replace("$timeFilter", "time >= 0ms and time <= 100000ms"), [("cpu", None, ["Usage now"], [(30, 8.0)])]),
]  # fmt: skip


@pytest.mark.parametrize(("statement", "series"), TABLE, ids=[one for one, _ in TABLE])
def test_statements(client: TestClient, statement: str, series: list[Any]) -> None:
    found = asked(client, statement)
    assert [
        (one[0], one[1], one[2], [pytest.approx(row) if None not in row else row for row in one[3]]) for one in found
    ] == series


def test_times_and_several_statements(client: TestClient) -> None:
    answer = client.post("/query", data={"db": "d", "q": "SELECT usage FROM cpu WHERE time = 30s; SHOW DATABASES"})
    first, second = answer.json()["results"]
    assert first["series"][0]["values"] == [["1970-01-01T00:00:30Z", 8.0]]
    assert (first["statement_id"], second["statement_id"]) == (0, 1)
    for epoch, time in (("ns", 30 * S), ("u", 30_000_000), ("ms", 30_000), ("s", 30), ("m", 0)):
        found = asked(client, "SELECT usage FROM cpu WHERE time = 30s", epoch=epoch)
        assert found[0][3] == [(time, 8.0)]


def test_answers_in_chunks(client: TestClient) -> None:
    params = {"db": "d", "q": "SELECT usage FROM cpu GROUP BY host", "chunked": "true", "chunk_size": "3"}
    lines = [json.loads(line) for line in client.get("/query", params=params).text.splitlines()]
    results = [one["results"][0] for one in lines]
    assert [len(one["series"][0]["values"]) for one in results] == [3, 1, 2]
    assert [one.get("partial", False) for one in results] == [True, True, False]
    assert [one["series"][0].get("partial", False) for one in results] == [True, False, False]
    empty = client.get("/query", params={**params, "q": "SELECT nope FROM cpu"})
    assert empty.json() == {"results": [{"statement_id": 0}]}


def test_parameters_are_values_and_nothing_else(client: TestClient) -> None:
    nasty = "x' OR host = 'a"
    body = {
        "db": "d",
        "q": "SELECT usage FROM cpu WHERE host = $host AND usage > $least",
        "params": {"host": "b", "least": 15},
    }
    assert client.post("/query", json=body).json()["results"][0]["series"][0]["values"] == [
        ["1970-01-01T00:00:20Z", 20.0]
    ]
    body["params"] = {"host": nasty, "least": 0}
    assert client.post("/query", json=body).json() == {"results": [{"statement_id": 0}]}
    answer = client.post("/query", json={**body, "params": {"host": "b"}})
    assert (answer.status_code, answer.json()["error"]) == (400, "missing parameter: least")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"db": "nix", "q": "SELECT usage FROM cpu"}, "database not found: nix"),
        ({"q": "SELECT usage FROM cpu"}, "database name required"),
        ({"db": "d", "q": "SELECT mean(usage), host FROM cpu"}, "mixing aggregate and non-aggregate queries is not supported"),
        ({"db": "d", "q": "SELECT usage FROM cpu GROUP BY time(1m)"}, "GROUP BY requires at least one aggregate function"),
        ({"db": "d", "q": "SELECT holt_winters(mean(usage), 1, 1) FROM cpu GROUP BY time(1m)"}, "the function holt_winters() is not known here"),
        ({"db": "d", "q": "SELECT top(usage) FROM cpu"}, "top(field[, tag, …], n) needs a field and a whole number"),
        ({"db": "d", "q": "SELECT top(usage, 0) FROM cpu"}, "must choose at least 1 point"),
        ({"db": "d", "q": "SELECT bottom(usage, n, 2) FROM cpu"}, "in bottom() must be tags"),
        ({"db": "d", "q": "SELECT top(usage, 2), mean(usage) FROM cpu"}, "stand alone"),
        ({"db": "d", "q": "SELECT integral(usage, 3) FROM cpu"}, "takes a duration as its unit"),
        ({"db": "d", "q": "SELECT integral(usage), mean(usage) FROM cpu"}, "stands alone"),
        ({"db": "d", "q": "SELECT mode(usage), mean(usage) FROM cpu"}, "mode(field) stands alone"),
        ({"db": "d", "q": "SELECT percentile(usage, 101) FROM cpu"}, "percentile(101) must be from 0 to 100"),
        ({"db": "d", "q": "SELECT usage FROM cpu WHERE time > host"}, "time is compared with something that is no time"),
        ({"db": "d", "q": "SELECT usage FROM (SELECT nope(usage) FROM cpu)"}, "the function nope() is not known here"),
        ({"db": "d", "q": "SELECT usage FROM (SELECT usage FROM nowhere..cpu)"}, "database not found: nowhere"),
        ({"db": "d", "q": "SELECT mean(usage) FROM cpu GROUP BY time(1m) tz('Europe/Bonn')"}, "no time zone 'Europe/Bonn'"),
        ({"db": "d", "q": "SELECT moving_average(usage, 1) FROM cpu"}, "a whole number above 1"),
        ({"db": "d", "q": "SHOW TAG KEYS ON nix"}, "database not found: nix"),
    ],
)  # fmt: skip
def test_what_a_statement_cannot_be(client: TestClient, params: dict[str, str], text: str) -> None:
    answer = client.get("/query", params=params)
    assert answer.status_code == 200
    assert text in answer.json()["results"][0]["error"]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"db": "d"}, "the parameter q is missing"),
        ({"db": "d", "q": "DROP MEASUREMENT cpu"}, "error parsing query: line 1, char 1"),
        ({"db": "d", "q": "SELECT usage FROM cpu WHERE"}, "error parsing query"),
        ({"db": "d", "q": "SELECT usage FROM cpu ORDER BY usage"}, "only ORDER BY time"),
        ({"db": "d", "q": "SELECT usage FROM cpu", "epoch": "y"}, "epoch='y' is no unit"),
        ({"db": "d", "q": "SELECT usage FROM cpu", "chunked": "true", "chunk_size": "0"}, "chunk_size='0'"),
        ({"db": "d", "q": "SELECT usage FROM cpu", "chunked": "maybe"}, "chunked"),
        ({"db": "d", "q": "CREATE USER x"}, "CREATE DATABASE only"),
    ],
)
def test_bad_requests(client: TestClient, params: dict[str, str], text: str) -> None:
    answer = client.get("/query", params=params)
    assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text


def test_it_is_among_the_queries(client: TestClient, engine: Engine) -> None:
    asked(client, "SELECT usage FROM cpu")
    assert engine.queries()[-1].kind == "influxql"


def test_the_most_frequent_value(client: TestClient, engine: Engine) -> None:
    """Of values that are there as often, the one that came first; in bins as well, with what stands in gaps."""
    values = [3, 1, 1, 2, 2, 2, 1, 5, 7, 7]
    engine.write("\n".join(f'dice,table=x v={v}i,s="s{v}" {i * S}' for i, v in enumerate(values)), database="d")
    engine.write("\n".join(f"dice,table=y v={v}i {i * S + 1}" for i, v in enumerate([9, 8])), database="d")
    assert asked(client, "SELECT mode(v) FROM dice WHERE \"table\" = 'x'") == [("dice", None, ["mode"], [(0, 1)])]
    assert asked(client, "SELECT mode(s) FROM dice") == [("dice", None, ["mode"], [(0, "s1")])]
    binned = "SELECT mode(v) FROM dice WHERE time >= 0 AND time < 16s AND \"table\" = 'x' GROUP BY time(4s)"
    assert asked(client, binned) == [("dice", None, ["mode"], [(0, 1), (4, 2), (8, 7), (12, None)])]
    assert asked(client, f"{binned} fill(previous)")[0][3][-1] == (12, 7)
    assert asked(client, f"{binned} fill(none)")[0][3] == [(0, 1), (4, 2), (8, 7)]
    offset = binned.replace("time >= 0", "time >= 1s").replace("time(4s)", 'time(4s, 1s), "table"')
    assert asked(client, f"{offset} fill(none)") == [("dice", {"table": "x"}, ["mode"], [(1, 1), (5, 2), (9, 7)])]


def test_areas_under_lines(client: TestClient, engine: Engine) -> None:
    """Within a bin the trapezium; a line into another bin is cut at the end of the first."""
    for table, points in (("x", [(0, 0), (4, 4), (6, 4), (14, 12)]), ("y", [(1, 10)])):
        engine.write("\n".join(f"flow,table={table} v={v} {t * S}" for t, v in points), database="d")
    one = "FROM flow WHERE \"table\" = 'x'"
    assert asked(client, f"SELECT integral(v) {one}") == [("flow", None, ["integral"], [(0, 8.0 + 8.0 + 64.0)])]
    assert asked(client, f"SELECT integral(v, 2s) AS area {one}") == [("flow", None, ["area"], [(0, 40.0)])]
    assert asked(client, 'SELECT integral(v) FROM flow GROUP BY "table"')[1][3] == [(0, 0.0)]
    binned = f"SELECT integral(v) {one} AND time >= 0 AND time < 20s GROUP BY time(5s)"
    # to 5 s: 8 + 4; from there to 6 s: 4, and to 10 s: 24 more; what is behind it lies in the bin of the last point
    assert asked(client, binned) == [("flow", None, ["integral"], [(0, 12.0), (5, 28.0), (10, 40.0), (15, None)])]
    assert asked(client, f"{binned} fill(0)")[0][3][-1] == (15, 0.0)


def test_nothing_after_a_failure(client: TestClient) -> None:
    answer = client.get("/query", params={"db": "d", "q": "SELECT x(usage) FROM cpu; SHOW DATABASES"})
    assert [list(one) for one in answer.json()["results"]] == [["statement_id", "error"]]


@pytest.mark.parametrize(
    "text", ["select mean(v) from m group by TIME(1h) FILL(none)", "SeLeCt v FrOm m -- a comment", "SHOW tag KEYS;"]
)
def test_keywords_in_any_case(text: str) -> None:
    assert len(parse(text)) == 1


@pytest.mark.parametrize(
    ("q", "rows"),
    [
        (
            "SELECT mean(usage) FROM cpu GROUP BY host",
            [
                {"iox::measurement": "cpu", "time": "1970-01-01T00:00:00", "host": "a", "mean": 3.75},
                {"iox::measurement": "cpu", "time": "1970-01-01T00:00:00", "host": "b", "mean": 15.0},
            ],
        ),
        (
            "SELECT n, free FROM cpu, mem WHERE time >= 30s",
            [
                {"iox::measurement": "cpu", "time": "1970-01-01T00:00:30", "n": 3},
                {"iox::measurement": "mem", "time": "1970-01-01T00:00:30", "free": 5},
            ],
        ),
        ("SELECT usage FROM nothing", []),
        ("SHOW MEASUREMENTS LIMIT 1", [{"iox::measurement": "measurements", "name": "cpu"}]),
        ("SHOW TAG KEYS FROM mem", [{"iox::measurement": "mem", "tagKey": "host"}]),
        ("SHOW RETENTION POLICIES", [{"iox::database": "d", "name": "autogen"}]),
    ],
)
def test_one_statement_as_rows(client: TestClient, q: str, rows: list[dict[str, Any]]) -> None:
    answer = client.post("/api/v3/query_influxql", json={"db": "d", "q": q, "format": "json"})
    assert answer.status_code == 200, answer.text
    assert answer.json() == rows
    assert client.get("/api/v3/query_influxql", params={"db": "d", "q": q, "format": "csv"}).status_code == 200


def test_rows_of_all_databases_and_of_named_ones(client: TestClient) -> None:
    answer = client.get("/api/v3/query_influxql", params={"q": "SHOW DATABASES", "format": "json"})
    assert {"iox::database": "d", "deleted": False} in answer.json()
    text = 'SELECT usage FROM "d"."week"."cpu" WHERE usage = $usage'
    body = {"q": text, "db": "d", "params": {"usage": 7}, "format": "csv"}
    assert client.post("/api/v3/query_influxql", json=body).text.splitlines()[0] == "iox::measurement,time,usage"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"db": "d", "q": "SHOW DATABASES; SHOW DATABASES"}, 400, "one at a time"),
        ({"db": "d", "q": "SELEC"}, 400, "error parsing query"),
        ({"db": "e", "q": "SELECT usage FROM cpu"}, 404, "database not found: e"),
        ({"q": "SELECT usage FROM cpu"}, 400, "database name required"),
        ({"db": "d"}, 400, "q"),
        ({"db": "d", "q": "SELECT usage FROM cpu WHERE usage > $x", "params": {"y": 1}}, 400, "missing parameter: x"),
        ({"db": "d", "q": "SHOW DATABASES", "format": "xml"}, 400, "unknown format"),
    ],
)
def test_rows_that_cannot_be_had(client: TestClient, body: dict[str, Any], status: int, said: str) -> None:
    answer = client.post("/api/v3/query_influxql", json=body)
    assert (answer.status_code, said in answer.text) == (status, True), answer.text


def test_a_select_within_is_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(within, "MOST_ROWS", 5)
    answer = client.get("/query", params={"db": "d", "q": "SELECT max(usage) FROM (SELECT usage FROM cpu)"}).json()
    assert "the SELECT within gives more than 5 rows" in json.dumps(answer)
    assert asked(client, "SELECT max(usage) FROM (SELECT usage FROM cpu WHERE host = 'a')") == [
        ("cpu", None, ["max"], [(30, 8.0)])
    ]
