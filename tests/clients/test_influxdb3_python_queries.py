"""`influxdb3-python` as it comes from the registry: queries, over Flight on the port of HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import httpx2
import pyarrow as pa
import pytest
from influxdb_client_3 import InfluxDBClient3
from influxdb_client_3.exceptions import InfluxDB3ClientQueryError
from pyarrow import flight

pytestmark = pytest.mark.may_leave("file", reason="gRPC keeps its poll sets as long as the process lives")

ROWS = "\n".join(f'cpu,host=h{n % 3},Rack=r\\ 1 v={n}.5,n={n}i,ok={n % 2 == 0},s="é{n}" {n}' for n in range(30))
SLOW = "SELECT sum(a.value * b.value) FROM generate_series(1, 300000) a CROSS JOIN generate_series(1, 300000) b"


@pytest.fixture(scope="module")
def database(server: Any) -> str:
    name = "flight_rows"
    answer = httpx2.post(
        f"{server.url}/api/v3/write_lp?db={name}", content=ROWS.encode(), headers=dict(_pairs(server)), trust_env=False
    )
    assert answer.status_code == 204, answer.text
    return name


def _client(server: Any, database: str, **options: Any) -> InfluxDBClient3:
    return InfluxDBClient3(host=server.url, token=server.token, database=database, **options)


def test_every_mode_gives_the_rows(server: Any, database: str) -> None:
    sql = 'SELECT host, "Rack", v, n, ok, s, time FROM cpu ORDER BY time'
    with _client(server, database) as client:
        table = client.query(sql)
        assert table.num_rows == 30
        assert table.schema.field("host").type == pa.string()
        assert table.schema.field("time").type == pa.timestamp("ns")
        assert table.column("v").to_pylist()[:2] == [0.5, 1.5]
        assert table.column("Rack").to_pylist()[0] == "r 1"
        assert client.query(sql, mode="polars").height == 30
        assert sum(one.data.num_rows for one in client.query(sql, mode="chunk")) == 30
        assert client.query(sql, mode="reader").read_all() == table
        assert client.query(sql, mode="schema") == table.schema


def test_parameters_and_influxql(server: Any, database: str) -> None:
    with _client(server, database) as client:
        found = client.query(
            "SELECT n FROM cpu WHERE host = $host AND n > $n ORDER BY n", query_parameters={"host": "h1", "n": 20}
        )
        assert found.column("n").to_pylist() == [22, 25, 28]
        table = client.query("SELECT mean(v) FROM cpu GROUP BY host", language="influxql")
        assert table.column_names == ["iox::measurement", "time", "host", "mean"]
        assert table.column("host").to_pylist() == ["h0", "h1", "h2"]
        assert table.column("mean").to_pylist() == [14.0, 15.0, 16.0]
        shown = client.query("SHOW MEASUREMENTS", language="influxql")
        assert shown.to_pylist() == [{"iox::measurement": "measurements", "name": "cpu"}]


def test_async(server: Any, database: str) -> None:
    async def main() -> list[int]:
        with _client(server, database) as client:
            tables = await asyncio.gather(*(client.query_async(f"SELECT * FROM cpu LIMIT {n}") for n in range(1, 6)))
            return [one.num_rows for one in tables]

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("sql", "language", "said"),
    [
        ("SELECT * FROM nothing", "sql", "nothing"),
        ("SELECT nothing FROM cpu", "sql", "nothing"),
        ("SELEC", "sql", "SELEC"),
        ("DROP TABLE cpu", "sql", "read"),
        ("SELECT v FROM", "influxql", "."),
        ("SHOW DATABASES; SHOW DATABASES", "influxql", "one at a time"),
    ],
)
def test_errors_say_what_is_wrong(server: Any, database: str, sql: str, language: str, said: str) -> None:
    with _client(server, database) as client:
        with pytest.raises(InfluxDB3ClientQueryError, match=said) as raised:
            client.query(sql, language=language)
        assert "Traceback" not in str(raised.value)
        assert client.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_only_who_has_a_token_is_let_in(server: Any, database: str) -> None:
    with (
        InfluxDBClient3(host=server.url, token="wrong", database=database) as client,
        pytest.raises(InfluxDB3ClientQueryError, match="not authenticated"),
    ):
        client.query("SELECT 1")
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as plain, pytest.raises(flight.FlightUnauthenticatedError):
        plain.do_get(flight.Ticket(b'{"database":"x","sql_query":"SELECT 1"}')).read_all()


@pytest.mark.parametrize(
    ("ticket", "said"),
    [
        (b"\xff\x00", "no JSON"),
        (b"[]", "ticket is"),
        (b"{}", "no database"),
        (b'{"database": "x"}', "no sql_query"),
        (b'{"database": "x", "sql_query": "SELECT 1", "query_type": "flux"}', "no language"),
        (b'{"database": "x", "sql_query": "SELECT 1", "params": [1]}', "params is"),
    ],
)
def test_a_wrong_ticket_says_what_a_ticket_is(server: Any, ticket: bytes, said: str) -> None:
    with (
        flight.connect(f"grpc://127.0.0.1:{server.port}") as client,
        pytest.raises(flight.FlightServerError, match=said),
    ):
        client.do_get(flight.Ticket(ticket), _bearer(server)).read_all()


def test_a_header_may_name_the_database(server: Any, database: str) -> None:
    ticket = flight.Ticket(b'{"sql_query": "SELECT count(*) AS n FROM cpu"}')
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
        found = client.do_get(ticket, _bearer(server, ("database", database))).read_all()
        assert found.to_pylist() == [{"n": 30}]
        with pytest.raises(flight.FlightServerError, match="2 headers name a database"):
            client.do_get(ticket, _bearer(server, ("database", database), ("bucket", "x"))).read_all()


def test_a_caller_who_leaves_stops_the_query(server: Any, database: str) -> None:
    ticket = flight.Ticket(f'{{"database": "{database}", "sql_query": "{SLOW}"}}'.encode())
    with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
        with pytest.raises(flight.FlightTimedOutError):
            client.do_get(ticket, flight.FlightCallOptions(timeout=1.0, headers=_headers(server))).read_all()
        until = time.monotonic() + 60
        while any(one["query_text"] == SLOW and one["phase"] not in ("success", "fail") for one in _queries(server)):
            assert time.monotonic() < until, "the query goes on without its caller"
            time.sleep(0.05)
    (ended,) = (one for one in _queries(server) if one["query_text"] == SLOW)
    assert ended["query_type"] == "flight"
    assert ended["cancelled"]


def test_callers_who_leave_at_any_moment_leave_nothing_behind(server: Any, database: str) -> None:
    sql = "SELECT value, repeat('x', 100) AS s FROM generate_series(1, 100000)"
    ticket = flight.Ticket(f'{{"database": "{database}", "sql_query": "{sql}"}}'.encode())
    for number in range(60):
        options = flight.FlightCallOptions(timeout=0.001 + number / 1500, headers=_headers(server))
        with flight.connect(f"grpc://127.0.0.1:{server.port}") as client:
            try:
                reader = client.do_get(ticket, options)
                if number % 3 == 0:
                    reader.read_chunk()
                    reader.cancel()
                elif number % 3 == 1:
                    reader.read_all()
            except (flight.FlightError, StopIteration):
                pass
    until = time.monotonic() + 60
    while any(one["running"] for one in _queries(server)):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_large_answers_come_whole_beside_http(server: Any) -> None:
    sql = "SELECT value, repeat('x', 100) AS s FROM generate_series(1, 400000)"
    found: list[int] = []

    def read() -> None:
        with _client(server, "flight_rows") as client:
            found.append(sum(one.data.num_rows for one in client.query(sql, mode="chunk")))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for one in threads:
        one.start()
    while any(one.is_alive() for one in threads):
        assert httpx2.get(f"{server.url}/health", trust_env=False).status_code == 200
    for one in threads:
        one.join()
    assert found == [400_000] * 3


def _queries(server: Any) -> list[dict[str, Any]]:
    answer = httpx2.get(f"{server.url}/api/v3/queries", headers=dict(_pairs(server)), trust_env=False)
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()
    return found


def _pairs(server: Any) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {server.token}")]


def _headers(server: Any, *more: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in (*_pairs(server), *more)]


def _bearer(server: Any, *more: tuple[str, str]) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(headers=_headers(server, *more))
