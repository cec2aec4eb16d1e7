"""Answers of queries for callers who take gzip."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app

MANY = "SELECT value, repeat('x', 50) AS s FROM generate_series(1, 40000)"


@pytest.fixture
def client() -> Iterator[TestClient]:
    with Engine.open(discover_plugins=False) as engine:
        engine.write("\n".join(f"cpu,host=h{n % 3} v={n} {n}" for n in range(2000)), database="d")
        with TestClient(create_app(engine, without_auth=True, close_engine=False)) as made:
            yield made


def raw(client: TestClient, path: str, accepts: str | None, **params: str) -> tuple[str | None, bytes]:
    headers = {"accept-encoding": accepts} if accepts is not None else {"accept-encoding": "identity"}
    with client.stream("GET", path, params={"db": "d", **params}, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["vary"] == "accept-encoding"
        return answer.headers.get("content-encoding"), b"".join(answer.iter_raw())


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "pretty", "arrow"])
def test_a_packed_answer_is_the_same(client: TestClient, form: str) -> None:
    plain = raw(client, "/api/v3/query_sql", None, q=MANY, format=form)
    packed = raw(client, "/api/v3/query_sql", "gzip, deflate", q=MANY, format=form)
    assert (plain[0], packed[0]) == (None, "gzip")
    assert gzip.decompress(packed[1]) == plain[1]
    assert len(packed[1]) * 3 < len(plain[1])


def test_influxql_too(client: TestClient) -> None:
    for path, more in (("/query", {"epoch": "ns"}), ("/api/v3/query_influxql", {"format": "json"})):
        plain = raw(client, path, None, q="SELECT v FROM cpu", **more)
        packed = raw(client, path, "gzip", q="SELECT v FROM cpu", **more)
        assert (plain[0], packed[0]) == (None, "gzip")
        assert gzip.decompress(packed[1]) == plain[1]


@pytest.mark.parametrize(
    ("accepts", "encoding"),
    [
        ("*", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip; q=0.0, br", None),
        ("br", None),
        ("", None),
    ],
)
def test_who_takes_gzip(client: TestClient, accepts: str, encoding: str | None) -> None:
    assert raw(client, "/api/v3/query_sql", accepts, q=MANY, format="csv")[0] == encoding


def test_what_is_not_worth_it(client: TestClient) -> None:
    assert raw(client, "/api/v3/query_sql", "gzip", q="SELECT 1 AS a", format="json") == (None, b'[{"a":1}]')
    assert raw(client, "/api/v3/query_sql", "gzip", q=MANY, format="parquet")[0] is None
    answer = client.get("/api/v3/query_sql", params={"db": "d", "q": "SELECT * FROM nothing"})
    assert answer.status_code == 404
