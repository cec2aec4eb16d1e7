"""InfluxDB's SQL functions: a table of statements and their rows, one line for each function and edge."""

# ruff: noqa: E501 - a table

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from walmill.buffer.source import TableSource
from walmill.buffer.table import TableBuffer
from walmill.errors import InvalidRequest
from walmill.model.schema import TableSchema, arrow_schema
from walmill.query.engine import QueryEngine
from walmill.query.errors import QueryTooLarge
from walmill.query.rewrite import rewrite

CPU = TableSchema("cpu", ("host",), {"v": "float64", "i": "int64"})
ODD = TableSchema("Odd.name", ("my tag",), {"A b": "float64"})
MINUTE = 60_000_000_000
HOUR = 60 * MINUTE
CPU_ROWS = [
    ("a", 1.0, 1, 0),
    ("a", 2.0, 10, 1),
    ("a", None, 7, 2),
    ("a", 5.0, 40, 4),
    ("b", 7.0, None, 2),
    (None, None, 3, 3),
]
"""Host, v, i, minute."""
# Sydney leaves daylight saving time on 2026-04-05 at 3:00 (UTC+11 to +10), Berlin enters it on 2026-03-29 at 2:00
LEAPS = [("syd", 1.0, 1, t) for t in ("2026-04-03T20:00", "2026-04-04T13:30", "2026-04-05T13:30", "2026-04-05T14:30")]


@pytest.fixture
def engine() -> Iterator[QueryEngine]:
    made = QueryEngine(partitions=1)
    yield made
    made.close()


def source(schema: TableSchema, columns: dict[str, pa.Array]) -> TableSource:
    batch = pa.RecordBatch.from_pydict(columns, schema=arrow_schema(schema))
    return TableSource(TableBuffer.empty(schema).append(batch, schema, 1))


@pytest.fixture(scope="module")
def tables() -> dict[str, TableSource]:
    hosts, vs, ints, minutes = zip(*CPU_ROWS, strict=True)
    leap_times = pa.array([time for *_, time in LEAPS]).cast(pa.timestamp("ns"))
    return {
        "cpu": source(
            CPU,
            {
                "host": pa.array(hosts),
                "v": pa.array(vs),
                "i": pa.array(ints, pa.int64()),
                "time": pa.array([one * MINUTE for one in minutes], pa.int64()).cast(pa.timestamp("ns")),
            },
        ),
        "Odd.name": source(
            ODD,
            {
                "my tag": pa.array(["x", "x"]),
                "A b": pa.array([1.0, 3.0]),
                "time": pa.array([0, 2 * MINUTE], pa.int64()).cast(pa.timestamp("ns")),
            },
        ),
        "leap": source(
            TableSchema("leap", ("host",), {"v": "float64", "i": "int64"}),
            {
                "host": pa.array([host for host, *_ in LEAPS]),
                "v": pa.array([v for _, v, *_ in LEAPS]),
                "i": pa.array([i for _, _, i, _ in LEAPS], pa.int64()),
                "time": leap_times,
            },
        ),
    }


def shown(value: object) -> object:
    """Minutes for times in 1970, what clocks show for others."""
    if hasattr(value, "isoformat"):
        if value.tzinfo is None and (value.year, value.month) == (1970, 1):  # type: ignore[attr-defined]
            return f"{(value.day - 1) * 1440 + value.hour * 60 + value.minute}m"  # type: ignore[attr-defined]
        return value.isoformat()  # type: ignore[attr-defined]
    return value


IN_SIX = "time >= '1970-01-01T00:00:00Z' AND time < '1970-01-01T00:06:00Z'"
FILL = "date_bin_gapfill(INTERVAL '1 minute', time)"
SELECTED = [
    ("selector_first(v, time)['value']", 1.0),
    ("selector_first(v, time)['time']", "0m"),
    ("selector_last(v, time)['value']", 5.0),
    ("selector_last(v, time)['time']", "4m"),
    ("selector_min(v, time)['value']", 1.0),
    ("selector_min(i, time)['time']", "0m"),
    ("selector_max(v, time)['value']", 7.0),
    ("selector_max(v, time)['time']", "2m"),
    ("selector_max(i, time, host, v)['other_1']", "a"),
    ("selector_max(i, time, host, v)['other_2']", 5.0),
    ("SELECTOR_LAST(v, time)['value'] + 1", 6.0),
]


@pytest.mark.parametrize(("expression", "value"), SELECTED)
def test_selectors(engine: QueryEngine, tables: dict[str, TableSource], expression: str, value: object) -> None:
    found = engine.query(tables, f"SELECT {expression} AS x FROM cpu").to_pylist()
    assert [shown(row["x"]) for row in found] == [value]


TABLE = [
    ("a whole struct", "SELECT selector_last(v, time) AS x FROM cpu WHERE host = 'b'", [({"time": 2, "value": 7.0},)]),
    ("selectors in groups", "SELECT host, selector_first(i, time)['value'] AS x FROM cpu GROUP BY host ORDER BY host NULLS LAST",
     [("a", 1), ("b", None), (None, 3)]),
    ("a selector of nothing", "SELECT selector_min(v, time)['time'] AS x FROM cpu WHERE host = 'no'", [(None,)]),
    ("gapfill, bounds on both sides", f"SELECT {FILL} AS t, avg(v) AS m FROM cpu WHERE {IN_SIX} AND host = 'a' GROUP BY 1 ORDER BY 1",
     [("0m", 1.0), ("1m", 2.0), ("2m", None), ("3m", None), ("4m", 5.0), ("5m", None)]),
    ("a gap at the start", f"SELECT {FILL} AS t, avg(v) AS m FROM cpu WHERE {IN_SIX} AND host = 'b' GROUP BY t ORDER BY t",
     [("0m", None), ("1m", None), ("2m", 7.0), ("3m", None), ("4m", None), ("5m", None)]),
    ("no lower bound: from the first row", f"SELECT {FILL} AS t, avg(v) AS m FROM cpu WHERE host = 'b' AND time <= '1970-01-01T00:03:00' "
     "GROUP BY t ORDER BY t", [("2m", 7.0), ("3m", None)]),
    ("no upper bound: to the last row", f"SELECT {FILL} AS t, sum(i) AS m FROM cpu WHERE host = 'a' GROUP BY t ORDER BY t",
     [("0m", 1), ("1m", 10), ("2m", 7), ("3m", None), ("4m", 40)]),
    ("between", f"SELECT {FILL} AS t, count(v) AS m FROM cpu WHERE host = 'a' AND time BETWEEN '1970-01-01T00:03:00Z' AND "
     "'1970-01-01T00:05:00Z' GROUP BY t ORDER BY t", [("3m", None), ("4m", 1), ("5m", None)]),
    ("bounds on the left, and strict ones", f"SELECT {FILL} AS t, max(v) AS m FROM cpu WHERE '1970-01-01T00:03:00Z' < time AND "
     "'1970-01-01T00:05:00Z' > time AND host = 'a' GROUP BY t ORDER BY t", [("3m", None), ("4m", 5.0)]),
    ("parameters as bounds", f"SELECT {FILL} AS t, max(v) AS m FROM cpu WHERE time >= to_timestamp($low) AND time < "
     "to_timestamp($high) AND host = 'a' GROUP BY t ORDER BY t", [("3m", None), ("4m", 5.0)]),
    ("an origin", f"SELECT date_bin_gapfill(INTERVAL '2 minutes', time, TIMESTAMP '1970-01-01T00:01:00') AS t, count(*) AS n FROM cpu "
     f"WHERE {IN_SIX} AND time >= '1970-01-01T00:01:00Z' GROUP BY t ORDER BY t", [("1m", 3), ("3m", 2), ("5m", None)]),
    ("each series by itself", f"SELECT host, {FILL} AS t, locf(avg(v)) AS m FROM cpu WHERE {IN_SIX} AND host IS NOT NULL "
     "GROUP BY host, t ORDER BY host, t LIMIT 9",
     [("a", "0m", 1.0), ("a", "1m", 2.0), ("a", "2m", 2.0), ("a", "3m", 2.0), ("a", "4m", 5.0), ("a", "5m", 5.0),
      ("b", "0m", None), ("b", "1m", None), ("b", "2m", 7.0)]),
    ("a series without its tag", f"SELECT host, {FILL} AS t, sum(i) AS m FROM cpu WHERE time >= '1970-01-01T00:02:00Z' AND "
     "time < '1970-01-01T00:04:00Z' AND host IS NULL GROUP BY host, t ORDER BY t", [(None, "2m", None), (None, "3m", 3)]),
    ("locf without a first value", f"SELECT {FILL} AS t, locf(min(v)) AS m FROM cpu WHERE {IN_SIX} AND host = 'b' GROUP BY t ORDER BY t",
     [("0m", None), ("1m", None), ("2m", 7.0), ("3m", 7.0), ("4m", 7.0), ("5m", 7.0)]),
    ("locf across a null", f"SELECT {FILL} AS t, locf(avg(v)) AS m FROM cpu WHERE host = 'a' AND time < '1970-01-01T00:04:00' "
     "GROUP BY t ORDER BY t", [("0m", 1.0), ("1m", 2.0), ("2m", 2.0), ("3m", 2.0)]),
    ("interpolate across a null and a gap", f"SELECT {FILL} AS t, interpolate(avg(v)) AS m FROM cpu WHERE {IN_SIX} AND host = 'a' "
     "GROUP BY t ORDER BY t", [("0m", 1.0), ("1m", 2.0), ("2m", 3.0), ("3m", 4.0), ("4m", 5.0), ("5m", None)]),
    ("a selector carried on", f"SELECT {FILL} AS t, locf(selector_last(i, time)['value']) AS m FROM cpu WHERE {IN_SIX} AND host = 'a' "
     "GROUP BY t ORDER BY t", [("0m", 1), ("1m", 10), ("2m", 7), ("3m", 7), ("4m", 40), ("5m", 40)]),
    ("a default for gaps", f"SELECT {FILL} AS t, coalesce(sum(i), 0) AS m, 2 * avg(v) AS d FROM cpu WHERE {IN_SIX} AND host = 'a' "
     "GROUP BY t ORDER BY t", [("0m", 1, 2.0), ("1m", 10, 4.0), ("2m", 7, None), ("3m", 0, None), ("4m", 40, 10.0), ("5m", 0, None)]),
    ("having", f"SELECT {FILL} AS t, sum(i) AS m FROM cpu WHERE host = 'a' GROUP BY t HAVING sum(i) > 5 ORDER BY t",
     [("1m", 10), ("2m", 7), ("3m", None), ("4m", 40)]),
    ("without any row", f"SELECT {FILL} AS t, sum(i) AS m FROM cpu WHERE {IN_SIX} AND host = 'no' GROUP BY t", []),
    ("in a query within", f"SELECT count(*) AS n FROM (SELECT {FILL} AS t, avg(v) AS m FROM cpu WHERE {IN_SIX} GROUP BY t) x "
     "WHERE m IS NULL", [(2,)]),
    ("in a CTE", f"WITH x AS (SELECT {FILL} AS t, avg(v) AS m FROM cpu WHERE {IN_SIX} GROUP BY 1) SELECT max(t) AS t FROM x", [("5m",)]),
    ("repeated in ORDER BY", f"SELECT {FILL} AS t, avg(v) AS m FROM cpu WHERE {IN_SIX} GROUP BY {FILL} ORDER BY {FILL} DESC LIMIT 1",
     [("5m", None)]),
    ("months", "SELECT date_bin_gapfill(INTERVAL '1 month', time) AS t, count(*) AS n FROM cpu WHERE time >= '1969-12-15T00:00:00Z' AND "
     "time < '1970-03-02T00:00:00Z' GROUP BY t ORDER BY t",
     [("1969-12-01T00:00:00", None), ("0m", 6), ("1970-02-01T00:00:00", None), ("1970-03-01T00:00:00", None)]),
    ("names with capitals, blanks and dots", 'SELECT "my tag", date_bin_gapfill(INTERVAL \'1 minute\', time) AS "T t", '
     'interpolate(avg("A b")) AS "M" FROM "Odd.name" GROUP BY "my tag", "T t" ORDER BY "T t"',
     [("x", "0m", 1.0), ("x", "1m", 2.0), ("x", "2m", 3.0)]),
    ("tz", "SELECT tz(time, 'Europe/Berlin') AS t FROM leap LIMIT 1", [("2026-04-03T22:00:00+02:00",)]),
    ("tz without a zone", "SELECT tz(time) AS t FROM leap LIMIT 1", [("2026-04-03T20:00:00+00:00",)]),
    ("days by the wall clock over the end of daylight saving time", "SELECT date_bin_wallclock(INTERVAL '1 day', "
     "tz(time, 'Australia/Sydney')) AS t, count(*) AS n FROM leap GROUP BY 1 ORDER BY 1",
     [("2026-04-04T00:00:00+11:00", 1), ("2026-04-05T00:00:00+11:00", 2), ("2026-04-06T00:00:00+10:00", 1)]),
    ("the same, with gaps", "SELECT date_bin_wallclock_gapfill(INTERVAL '1 day', tz(time, 'Australia/Sydney')) AS t, count(*) AS n "
     "FROM leap WHERE time >= '2026-04-02T13:00:00Z' AND time < '2026-04-07T14:00:00Z' GROUP BY 1 ORDER BY 1",
     [("2026-04-03T00:00:00+11:00", None), ("2026-04-04T00:00:00+11:00", 1), ("2026-04-05T00:00:00+11:00", 2),
      ("2026-04-06T00:00:00+10:00", 1), ("2026-04-07T00:00:00+10:00", None)]),
    ("hours over its beginning", "SELECT date_bin_wallclock(INTERVAL '1 hour', tz(to_timestamp_nanos(x), 'Europe/Berlin')) AS t "
     "FROM (VALUES (1774744200000000000), (1774747800000000000)) AS v(x) ORDER BY 1",
     [("2026-03-29T01:00:00+01:00",), ("2026-03-29T03:00:00+02:00",)]),
    ("the wall clock of UTC", "SELECT date_bin_wallclock(INTERVAL '1 day', time) AS t FROM leap LIMIT 1", [("2026-04-03T00:00:00",)]),
    ("columns", "SHOW COLUMNS FROM cpu", 4),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "rows"), [pytest.param(sql, rows, id=name) for name, sql, rows in TABLE])
def test_statements(engine: QueryEngine, tables: dict[str, TableSource], sql: str, rows: object) -> None:
    params = {"low": "1970-01-01T00:03:00Z", "high": "1970-01-01T00:05:00Z"} if "$low" in sql else None
    found = engine.query(tables, sql, params).to_pylist()
    if isinstance(rows, int):
        assert len(found) == rows
        return
    made = [tuple(shown(value) for value in row.values()) for row in found]
    if made and isinstance(made[0][0], dict):
        made = [({"time": made[0][0]["time"].minute, "value": made[0][0]["value"]},)]
    assert made == rows


@pytest.mark.parametrize(
    ("sql", "error", "text"),
    [
        ("SELECT locf(avg(v)) FROM cpu", InvalidRequest, "locf needs a query that is grouped by date_bin_gapfill"),
        (f"SELECT v FROM cpu WHERE {FILL} > time", InvalidRequest, "date_bin_gapfill needs GROUP BY"),
        (f"SELECT {FILL} FROM cpu", InvalidRequest, "name it in GROUP BY"),
        (f"SELECT {FILL} AS t, * FROM cpu GROUP BY t", InvalidRequest, "names what it selects"),
        (f"SELECT {FILL} AS t FROM cpu GROUP BY ALL", InvalidRequest, "GROUP BY ALL does not do"),
        (f"SELECT {FILL} AS t FROM cpu GROUP BY 3", InvalidRequest, "GROUP BY 3: the query selects 1 columns"),
        (f"SELECT {FILL} AS t, locf(v) FROM cpu GROUP BY t, v", InvalidRequest, "locf needs an aggregate"),
        (f"SELECT {FILL} AS t, locf(avg(v), 1) FROM cpu GROUP BY t", InvalidRequest, "locf has 2 arguments"),
        ("SELECT date_bin_gapfill(time) AS t FROM cpu GROUP BY t", InvalidRequest, "date_bin_gapfill has 1 arguments"),
        ("SELECT selector_first(v) FROM cpu", InvalidRequest, "selector_first has 1 arguments"),
        ("SELECT selector_first(v, time)['values'] FROM cpu", InvalidRequest, "gives value, time, and no 'values'"),
        ("SELECT tz(time, 'Europe/Bonn') FROM cpu", InvalidRequest, "there is no time zone 'Europe/Bonn'"),
        ("SELECT tz(time, host) FROM cpu", InvalidRequest, "give the time zone as a text"),
        ("SELECT date_bin_wallclock(time) FROM cpu", InvalidRequest, "date_bin_wallclock has 1 arguments"),
        (
            f"SELECT date_bin_gapfill(INTERVAL '1 nanosecond', time) AS t FROM cpu WHERE {IN_SIX} GROUP BY t",
            QueryTooLarge,
            "would make 360000000000 rows; the limit is 10,000,000",
        ),
        (f"SELECT {FILL} AS t, avg(w) AS m FROM cpu GROUP BY t", InvalidRequest, "w"),
        (f"SELECT {FILL} AS t, avg(v FROM cpu GROUP BY t", InvalidRequest, "Expected"),
    ],
)
def test_what_is_refused(
    engine: QueryEngine, tables: dict[str, TableSource], sql: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        engine.query(tables, sql)


def test_other_statements_are_left_as_they_are() -> None:
    def never() -> frozenset[str]:
        raise AssertionError

    for sql in ("SELECT  1 -- x", "SELECT 'locf' || x FROM t", "no sql at all", "SELECT tz FROM t"):
        made, brake = rewrite(sql, never)
        assert "".join(made.split()).replace("--x", "") == "".join(sql.split()).replace("--x", "")
        assert brake is None
