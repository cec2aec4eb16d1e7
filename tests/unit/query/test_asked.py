"""What a simple statement asks of its table: what its text tells, and never less than it needs."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from walmill.model.schema import TableSchema
from walmill.query.asked import Asked, asked_of, simple
from walmill.units import INT64_MAX, INT64_MIN

SCHEMA = TableSchema("cpu", ("host", "Room 1"), {"usage": "float64", "state": "string"})
DAY = 86_400 * 10**9
NOW = 10 * DAY
SECOND = 10**9


def asked(sql: str, **params: object) -> Asked | None:
    one = simple(sql)
    return None if one is None else asked_of(one, SCHEMA, params, NOW)


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN SELECT * FROM cpu",
        "SELECT * FROM cpu, mem",
        "SELECT * FROM cpu JOIN mem USING (time)",
        "SELECT * FROM (SELECT * FROM cpu)",
        "SELECT (SELECT 1) FROM cpu",
        "SELECT * FROM cpu WHERE host IN (SELECT host FROM mem)",
        "WITH x AS (SELECT * FROM cpu) SELECT * FROM x",
        "SELECT * FROM cpu UNION ALL SELECT * FROM mem",
        "SELECT * FROM system.queries",
        "SELECT * FROM public.iox.cpu",
        "SELECT * FROM generate_series(1, 2)",
        "SELECT * FROM cpu AS x(a, b)",
        "SELECT 1",
        "SHOW TABLES",
        "SELECT * FROM cpu; SELECT * FROM cpu",
        "SELECT FROM",
        "SELECT count(*) FROM cpu GROUP BY (SELECT 1)",
        "",
    ],
)
def test_what_is_not_so_simple_is_left_to_the_planner(sql: str) -> None:
    assert simple(sql) is None or simple(sql).schema not in (None, "iox")


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT * FROM cpu", ("host", "Room 1", "usage", "state", "time")),
        ("SELECT cpu.* FROM cpu", ("host", "Room 1", "usage", "state", "time")),
        ("SELECT count(*) FROM cpu", ("time",)),
        ('SELECT "Room 1" FROM iox.cpu', ("Room 1", "time")),
        (
            "SELECT max(USAGE) AS m FROM cpu c GROUP BY c.host HAVING max(c.usage) > 1 ORDER BY m",
            ("host", "usage", "time"),
        ),
        ("SELECT 1 FROM cpu ORDER BY state", ("state", "time")),
        ("SELECT row_number() OVER (PARTITION BY host ORDER BY time) FROM cpu", ("host", "time")),
    ],
)
def test_the_columns_that_it_names(sql: str, columns: tuple[str, ...]) -> None:
    found = asked(sql)
    assert found is not None
    assert found.columns == columns
    assert (found.low, found.high, found.tags) == (INT64_MIN, INT64_MAX, {})


@pytest.mark.parametrize(
    ("where", "low", "high"),
    [
        ("time >= '1970-01-02T00:00:00Z'", DAY, INT64_MAX),
        ("time > '1970-01-02'", DAY + 1, INT64_MAX),
        ("'1970-01-02 00:00:00' <= time", DAY, INT64_MAX),
        ("time < TIMESTAMP '1970-01-02T01:00:00+01:00'", INT64_MIN, DAY - 1),
        ("time <= '1970-01-02T00:00:00.000000001Z'::timestamp", INT64_MIN, DAY + 1),
        ("time = cast('1970-01-02' AS timestamp)", DAY, DAY),
        ("cpu.time BETWEEN '1970-01-02' AND '1970-01-03'", DAY, 2 * DAY),
        ("(time >= '1970-01-02' AND (time < '1970-01-03')) AND usage > 3", DAY, 2 * DAY - 1),
        ("time >= '1970-01-02' AND time >= '1970-01-03'", 2 * DAY, INT64_MAX),
        ("time > now() - INTERVAL '1 day'", NOW - DAY + 1, INT64_MAX),
        ("time < now()", INT64_MIN, NOW + 60 * SECOND - 1),
        (
            "time > now() - INTERVAL '2 hours' AND time < now() - INTERVAL '5 minute'",
            NOW - 7200 * SECOND + 1,
            NOW - 240 * SECOND - 1,
        ),
        ("time >= '1970-01-03'::timestamp - INTERVAL '1 day'", DAY, INT64_MAX),
        ("time >= to_timestamp_nanos(-7) AND to_timestamp_nanos(9) > time", -7, 8),
        # what says nothing of the time is not vague
        ("usage > 1 AND host <> 'a'", INT64_MIN, INT64_MAX),
        ("usage > '1970-01-02'", INT64_MIN, INT64_MAX),
        ("mem.\"Time\" > '1970-01-02'", INT64_MIN, INT64_MAX),
    ],
)
def test_the_times_that_it_needs(where: str, low: int, high: int) -> None:
    found = asked(f"SELECT * FROM cpu WHERE {where}")
    assert found is not None
    assert (found.low, found.high, found.vague) == (low, high, False)


@pytest.mark.parametrize(
    ("where", "low", "high"),
    [
        # what is not understood bounds nothing
        ("time >= 5", INT64_MIN, INT64_MAX),
        ("time >= '1970-01-02T00:00:00Z' OR usage > 1", INT64_MIN, INT64_MAX),
        ("time >= '1970-01-02' AND date_part('hour', time) = 5", DAY, INT64_MAX),
        ("time BETWEEN '1970-01-02' AND usage", INT64_MIN, INT64_MAX),
        ("time >= to_timestamp_nanos(5.5)", INT64_MIN, INT64_MAX),
        ("time >= to_timestamp_nanos('5')", INT64_MIN, INT64_MAX),
        ("NOT time >= '1970-01-02T00:00:00Z'", INT64_MIN, INT64_MAX),
        ("time NOT BETWEEN '1970-01-02' AND '1970-01-03'", INT64_MIN, INT64_MAX),
        ("time <> '1970-01-02'", INT64_MIN, INT64_MAX),
        ("time > now() - INTERVAL '1 month'", INT64_MIN, INT64_MAX),
        ("time > now() - INTERVAL '1 day 2 hours'", INT64_MIN, INT64_MAX),
        ("time > '1970-01-32'", INT64_MIN, INT64_MAX),
        ("time > 'yesterday'", INT64_MIN, INT64_MAX),
        ("time > CAST('1970-01-02' AS timestamp(3))", INT64_MIN, INT64_MAX),
        ("time > to_timestamp('1970-01-02')", INT64_MIN, INT64_MAX),
        ("mem.time > '1970-01-02'", INT64_MIN, INT64_MAX),
    ],
)
def test_times_that_are_not_understood(where: str, low: int, high: int) -> None:
    found = asked(f"SELECT * FROM cpu WHERE {where}")
    assert found is not None
    assert (found.low, found.high, found.vague) == (low, high, True)


@pytest.mark.parametrize(
    ("where", "tags"),
    [
        ("host = 'a'", {"host": {"a"}}),
        ("'a''b' = HOST", {"host": {"a'b"}}),
        ("\"Room 1\" = '7' AND host IN ('a', 'b')", {"Room 1": {"7"}, "host": {"a", "b"}}),
        ("host IN ('a', 'b') AND host = 'b'", {"host": {"b"}}),
        ("host = 'a' AND host = 'b'", {"host": set()}),
        ("host = 'a' OR host = 'b'", {}),
        ("host <> 'a'", {}),
        ("host NOT IN ('a')", {}),
        ("host IN ('a', state)", {}),
        ("host = state", {}),
        ("host = 5", {}),
        ("state = 'on'", {}),
        ("upper(host) = 'A'", {}),
        ("\"HOST\" = 'a'", {}),
    ],
)
def test_the_tags_that_it_needs(where: str, tags: dict[str, set[str]]) -> None:
    found = asked(f"SELECT * FROM cpu WHERE {where}")
    assert found is not None
    assert found.tags == tags


def test_short_statements_are_kept() -> None:
    short, long = "SELECT host FROM cpu", f"SELECT host FROM cpu WHERE host = '{'x' * 1024}'"
    assert simple(short) is simple(short)
    one, other = simple(long), simple(long)
    assert one is not None
    assert other is not None
    assert one is not other
    assert not one.kept
    assert len(asked_of(one, SCHEMA, {}, NOW).tags["host"]) == 1


def test_values_of_parameters() -> None:
    sql = "SELECT * FROM cpu WHERE host = $host AND time >= $low AND time < $high"
    found = asked(sql, host="a", low=datetime(1970, 1, 2, tzinfo=UTC), high="1970-01-03")
    assert found == Asked(found.columns if found else (), DAY, 2 * DAY - 1, {"host": frozenset("a")})
    zone = timezone(timedelta(hours=1))
    found = asked(sql, host=5, low=datetime(1970, 1, 2, 1, tzinfo=zone), high=7)
    assert found is not None
    assert (found.low, found.high, found.tags) == (DAY, INT64_MAX, {})
    found = asked(sql)
    assert found is not None
    assert (found.low, found.high, found.tags) == (INT64_MIN, INT64_MAX, {})
