"""`influxdb-client`, the client of InfluxDB 2, as it comes from the registry: writes."""

from __future__ import annotations

from typing import Any

import pytest
from influxdb_client import InfluxDBClient, Point, WriteOptions, WritePrecision
from influxdb_client.client.write_api import ASYNCHRONOUS, SYNCHRONOUS
from influxdb_client.rest import ApiException


def _client(server: Any, **options: Any) -> InfluxDBClient:
    return InfluxDBClient(url=server.url, token=server.token, org="any", **options)


def _rows(server: Any, database: str) -> list[tuple[Any, ...]]:
    found = server.rows(database, 'SELECT host, v, CAST("time" AS BIGINT) AS t FROM cpu ORDER BY t, host')
    return [(row["host"], row["v"], row["t"]) for row in found]


@pytest.mark.parametrize("gzip", [True, False])
def test_sync(server: Any, gzip: bool) -> None:
    bucket = f"py2_sync_{gzip}"
    with _client(server, enable_gzip=gzip) as client:
        api = client.write_api(write_options=SYNCHRONOUS)
        api.write(bucket, record=Point("cpu").tag("host", "a b").field("v", 1.5).time(1))
        api.write(bucket, record=["cpu,host=x v=2 2", b"cpu,host=y v=3 3"])
        api.write(bucket, record={"measurement": "cpu", "tags": {"host": "z"}, "fields": {"v": 4.0}, "time": 4})
        api.write(bucket, record="cpu,host=s v=5 5", write_precision=WritePrecision.S)
    assert _rows(server, bucket) == [
        ("a b", 1.5, 1),
        ("x", 2.0, 2),
        ("y", 3.0, 3),
        ("z", 4.0, 4),
        ("s", 5.0, 5_000_000_000),
    ]


def test_asynchronous(server: Any) -> None:
    with _client(server) as client:
        with pytest.warns(DeprecationWarning, match="'WriteType.asynchronous' is deprecated"):
            api = client.write_api(write_options=ASYNCHRONOUS)
        waiting = [api.write("py2_async", record=f"cpu,host=a v={n} {n}") for n in range(20)]
        for one in waiting:
            one.get()
    assert [t for _, _, t in _rows(server, "py2_async")] == list(range(20))


@pytest.mark.may_leave("thread", reason="the pool of WriteOptions is never shut down")
@pytest.mark.parametrize("gzip", [True, False])
def test_batching(server: Any, gzip: bool) -> None:
    bucket = f"py2_batching_{gzip}"
    failed: list[Any] = []
    with (
        _client(server, enable_gzip=gzip) as client,
        client.write_api(
            write_options=WriteOptions(batch_size=100, flush_interval=50),
            error_callback=lambda conf, data, error: failed.append(error),
        ) as api,
    ):
        for number in range(1050):
            api.write(bucket, record=Point("cpu").tag("host", f"h{number % 7}").field("v", float(number)).time(number))
    assert failed == []
    assert [(v, t) for _, v, t in _rows(server, bucket)] == [(float(n), n) for n in range(1050)]


@pytest.mark.may_leave(
    "file", "thread", reason="a refused batch keeps its connection, and the pool of WriteOptions is never shut down"
)
def test_a_bad_line_refuses_its_batch_and_is_not_sent_again(server: Any) -> None:
    failed: list[Any] = []
    with _client(server) as client:
        with (
            pytest.raises(ApiException) as caught,
            client.write_api(write_options=SYNCHRONOUS) as api,
        ):
            api.write("py2_bad", record="cpu,host=a v=1 1\ncpu,host=a val= 123")
        assert caught.value.status == 400
        assert caught.value.message == (
            "write buffer error: parsing for line protocol failed: line 2 'cpu,host=a val= 123': No fields were provided"
        )
        with client.write_api(
            write_options=WriteOptions(batch_size=2, flush_interval=50),
            error_callback=lambda conf, data, error: failed.append(error),
        ) as api:
            for line in ("cpu,host=a v=1 1", "cpu,host=a val= 123", "cpu,host=b v=2 2", "cpu,host=b v=3 3"):
                api.write("py2_bad", record=line)
    assert [error.status for error in failed] == [400]
    assert _rows(server, "py2_bad") == [("b", 2.0, 2), ("b", 3.0, 3)]


def test_a_wrong_token(server: Any) -> None:
    with (
        InfluxDBClient(url=server.url, token="wrong", org="any") as client,
        pytest.raises(ApiException, match="the request was not authenticated") as caught,
    ):
        client.write_api(write_options=SYNCHRONOUS).write("py2_token", record="cpu v=1")
    assert caught.value.status == 401


def test_ping(server: Any) -> None:
    with _client(server) as client:
        assert client.ping()
        assert client.version()
