"""`influxdb`, the client of InfluxDB 1, as it comes from the registry: writes and queries."""

from __future__ import annotations

from typing import Any

import pytest
from influxdb import InfluxDBClient
from influxdb.exceptions import InfluxDBClientError

POINTS = [
    {"measurement": "cpu", "tags": {"host": "a b"}, "fields": {"v": 1.5}, "time": 1},
    {"measurement": "cpu", "tags": {"host": "x"}, "fields": {"v": 2.0}, "time": 2},
]


def _client(server: Any, database: str, **options: Any) -> InfluxDBClient:
    """The password is the token; the name is anything."""
    options.setdefault("password", server.token)
    return InfluxDBClient(host="127.0.0.1", port=server.port, username="any", database=database, **options)


def _rows(server: Any, database: str) -> list[tuple[Any, ...]]:
    found = server.rows(database, 'SELECT host, v, CAST("time" AS BIGINT) AS t FROM cpu ORDER BY t, host')
    return [(row["host"], row["v"], row["t"]) for row in found]


@pytest.mark.parametrize("gzip", [True, False])
def test_create_database_and_write_points(server: Any, gzip: bool) -> None:
    database = f"py1_{gzip}"
    with _client(server, database, gzip=gzip) as client:
        for _ in range(2):
            client.create_database(database)
        assert client.write_points(POINTS, time_precision="n")
        assert client.write_points(["cpu,host=y v=3 3"], protocol="line", consistency="all")
    assert _rows(server, database) == [("a b", 1.5, 1), ("x", 2.0, 2), ("y", 3.0, 3)]


@pytest.mark.parametrize(
    ("precision", "unit"), [("u", 10**3), ("ms", 10**6), ("s", 10**9), ("m", 60 * 10**9), ("h", 3600 * 10**9)]
)
def test_precisions(server: Any, precision: str, unit: int) -> None:
    database = f"py1_precision_{precision}"
    with _client(server, database) as client:
        assert client.write_points(["cpu,host=a v=1 7"], protocol="line", time_precision=precision)
    assert _rows(server, database) == [("a", 1.0, 7 * unit)]


def test_a_retention_policy_is_a_database_of_its_own(server: Any) -> None:
    with _client(server, "py1_policy") as client:
        client.write_points(POINTS, time_precision="n", retention_policy="Weekly")
        client.write_points(POINTS[:1], time_precision="n", retention_policy="autogen")
    assert len(_rows(server, "py1_policy/weekly")) == 2
    assert len(_rows(server, "py1_policy")) == 1


def test_batches(server: Any) -> None:
    points = [{"measurement": "cpu", "tags": {"host": "a"}, "fields": {"v": float(n)}, "time": n} for n in range(1050)]
    with _client(server, "py1_batches") as client:
        assert client.write_points(points, time_precision="n", batch_size=100)
    assert [t for _, _, t in _rows(server, "py1_batches")] == list(range(1050))


def test_write_of_lines(server: Any) -> None:
    with _client(server, "py1_lines") as client:
        lines = ["cpu,host=a v=1 1", "cpu,host=b v=2 2"]
        assert client.write(lines, params={"db": "py1_lines", "precision": "n"}, protocol="line") is True
    assert len(_rows(server, "py1_lines")) == 2


def test_a_bad_line(server: Any) -> None:
    with _client(server, "py1_bad") as client, pytest.raises(InfluxDBClientError) as caught:
        client.write_points(["cpu,host=a v=1 1", "cpu,host=a val= 123"], protocol="line")
    assert caught.value.code == 400
    assert "unable to parse line 2 'cpu,host=a val= 123': No fields were provided" in str(caught.value)
    assert _rows(server, "py1_bad") == []


def test_a_wrong_password(server: Any) -> None:
    with _client(server, "py1_token", password="wrong") as client:
        for call in (lambda: client.write_points(POINTS), lambda: client.create_database("py1_token")):
            with pytest.raises(InfluxDBClientError, match="the request was not authenticated") as caught:
                call()
            assert caught.value.code == 401


def test_ping(server: Any) -> None:
    with _client(server, "py1_ping") as client:
        assert client.ping()


def test_queries(server: Any) -> None:
    with _client(server, "py1_query") as client:
        client.write_points(POINTS, time_precision="n")
        found = client.query("SELECT v FROM cpu GROUP BY host", epoch="ns")
        values = sorted((tags["host"], next(iter(rows))["v"]) for (_, tags), rows in found.items())
        assert values == [("a b", 1.5), ("x", 2.0)]
        assert list(client.query("SELECT mean(v) FROM cpu").get_points()) == [
            {"time": "1970-01-01T00:00:00Z", "mean": 1.75}
        ]
        bound = client.query("SELECT v FROM cpu WHERE host = $host", bind_params={"host": "a b"}, epoch="ns")
        assert list(bound.get_points()) == [{"time": 1, "v": 1.5}]
        both = client.query("SELECT v FROM cpu LIMIT 1; SHOW MEASUREMENTS")
        assert [len(list(one.get_points())) for one in both] == [1, 1]
        chunks = client.query("SELECT v FROM cpu", chunked=True, chunk_size=1)
        assert sum(len(list(one.get_points())) for one in chunks) == 2
        assert {"name": "py1_query"} in client.get_list_database()
        assert client.get_list_measurements() == [{"name": "cpu"}]
        assert client.get_list_retention_policies("py1_query")[0]["name"] == "autogen"
        with pytest.raises(InfluxDBClientError, match="database not found: nothing"):
            client.query("SELECT v FROM cpu", database="nothing")


def test_what_is_no_query_gets_a_sentence(server: Any) -> None:
    with (
        _client(server, "py1_query") as client,
        pytest.raises(InfluxDBClientError, match="error parsing query") as error,
    ):
        client.query("DROP SERIES FROM cpu")
    assert error.value.code == 400
