"""`influxdb3-python`, the client of InfluxDB 3, as it comes from the registry: writes."""

from __future__ import annotations

from typing import Any

import pytest
from influxdb_client_3 import (
    SYNCHRONOUS,
    InfluxDBClient3,
    InfluxDBError,
    Point,
    WriteOptions,
    WritePrecision,
    write_client_options,
)
from influxdb_client_3.exceptions import InfluxDBPartialWriteError

BAD = "cpu,host=a v=1 1\ncpu,host=a val= 123\ncpu,host=b v=2 2"


def _client(server: Any, database: str, **options: Any) -> InfluxDBClient3:
    return InfluxDBClient3(host=server.url, token=server.token, database=database, **options)


def _sync(**options: Any) -> dict[str, Any]:
    return write_client_options(write_options=WriteOptions(write_type=SYNCHRONOUS, **options))


def _rows(server: Any, database: str) -> list[tuple[Any, ...]]:
    found = server.rows(database, 'SELECT host, v, CAST("time" AS BIGINT) AS t FROM cpu ORDER BY t, host')
    return [(row["host"], row["v"], row["t"]) for row in found]


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize("gzip", [True, False])
def test_sync(server: Any, v2: bool, gzip: bool) -> None:
    database = f"py3_sync_{v2}_{gzip}"
    options = _sync() if v2 else _sync(use_v2_api=False)  # v2 is the default
    with _client(server, database, write_client_options=options, enable_gzip=gzip) as client:
        client.write(Point("cpu").tag("host", "a b,c=d").field("v", 1.5).time(1))
        client.write(["cpu,host=x v=2 2", "cpu,host=y v=3 3"])
        client.write({"measurement": "cpu", "tags": {"host": "z"}, "fields": {"v": 4.0}, "time": 4})
    assert _rows(server, database) == [("a b,c=d", 1.5, 1), ("x", 2.0, 2), ("y", 3.0, 3), ("z", 4.0, 4)]


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.parametrize(
    ("precision", "unit"),
    [(WritePrecision.S, 10**9), (WritePrecision.MS, 10**6), (WritePrecision.US, 10**3), (WritePrecision.NS, 1)],
)
def test_precisions(server: Any, v2: bool, precision: Any, unit: int) -> None:
    database = f"py3_precision_{v2}_{precision}"
    with _client(server, database, write_client_options=_sync(use_v2_api=v2)) as client:
        client.write("cpu,host=a v=1 7", write_precision=precision)
    assert _rows(server, database) == [("a", 1.0, 7 * unit)]


@pytest.mark.may_leave("thread", reason="the pool of WriteOptions is never shut down")
def test_batching(server: Any) -> None:
    done: list[str] = []
    failed: list[Any] = []
    options = write_client_options(
        success_callback=lambda conf, data: done.append(data),
        error_callback=lambda conf, data, error: failed.append(error),
        write_options=WriteOptions(batch_size=100, flush_interval=50),
    )
    with _client(server, "py3_batching", write_client_options=options, enable_gzip=True) as client:
        for number in range(1050):
            client.write(Point("cpu").tag("host", f"h{number % 7}").field("v", float(number)).time(number))
    assert failed == []
    assert len(done) >= 11
    assert [(v, t) for _, v, t in _rows(server, "py3_batching")] == [(float(n), n) for n in range(1050)]


def test_partial(server: Any) -> None:
    with (
        _client(server, "py3_partial", write_client_options=_sync(use_v2_api=False)) as client,
        pytest.raises(InfluxDBPartialWriteError) as caught,
    ):
        client.write(BAD)
    [error] = caught.value.line_errors
    assert (error.line_number, error.error_message, error.original_line) == (
        2,
        "No fields were provided",
        "cpu,host=a val= 123",
    )
    assert _rows(server, "py3_partial") == [("a", 1.0, 1), ("b", 2.0, 2)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"use_v2_api": False, "accept_partial": False},
            "line protocol parsing error",
        ),
        ({"use_v2_api": True}, "write buffer error: parsing for line protocol failed"),
    ],
)
def test_whole(server: Any, options: dict[str, Any], said: str) -> None:
    database = f"py3_whole_{options['use_v2_api']}"
    with (
        _client(server, database, write_client_options=_sync(**options)) as client,
        pytest.raises(InfluxDBError) as caught,
    ):
        client.write(BAD)
    assert not isinstance(caught.value, InfluxDBPartialWriteError)
    assert said in str(caught.value)
    assert _rows(server, database) == []


def test_no_sync(server: Any) -> None:
    with _client(server, "py3_no_sync", write_client_options=_sync(use_v2_api=False, no_sync=True)) as client:
        client.write("cpu,host=a v=1 1")
    with _client(server, "py3_no_sync", write_client_options=_sync()) as client:
        client.write("cpu,host=b v=2 2")  # when this is durable, so is what came before it
    assert _rows(server, "py3_no_sync") == [("a", 1.0, 1), ("b", 2.0, 2)]


def test_a_wrong_token(server: Any) -> None:
    wrong = InfluxDBClient3(host=server.url, token="wrong", database="py3_token", write_client_options=_sync())
    with wrong as client, pytest.raises(InfluxDBError, match="the request was not authenticated"):
        client.write("cpu,host=a v=1 1")


@pytest.mark.parametrize("scheme", ["Token", "Bearer"])
def test_both_schemes(server: Any, scheme: str) -> None:
    database = f"py3_scheme_{scheme}"
    with _client(server, database, auth_scheme=scheme, write_client_options=_sync()) as client:
        client.write("cpu,host=a v=1 1")
    assert len(_rows(server, database)) == 1


def test_the_version(server: Any) -> None:
    with _client(server, "py3_version") as client:
        version = client.get_server_version()
    assert version
    assert version[0].isdigit()


@pytest.mark.may_leave("file", "thread", reason="close() forgets connections that broke, and the pool of WriteOptions")
def test_a_batching_client_survives_a_restart(own_server: Any) -> None:
    """What could not be sent is sent when the server is back; nothing is lost, and nothing is there twice."""
    failed: list[Any] = []
    options = write_client_options(
        error_callback=lambda conf, data, error: failed.append(error),
        write_options=WriteOptions(
            batch_size=10,
            flush_interval=20,
            retry_interval=100,
            max_retries=300,
            max_retry_delay=200,
            exponential_base=1,
        ),
    )
    with _client(own_server, "restart", write_client_options=options) as client:
        for number in range(300):
            if number == 100:
                own_server.stop()
            if number == 200:
                own_server.start()
            client.write(f"cpu,host=a v={number} {number}")
    assert failed == []
    assert [t for _, _, t in _rows(own_server, "restart")] == list(range(300))
