"""Caches of last and distinct values over HTTP, with InfluxDB's routes and bodies."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine

LAST = "/api/v3/configure/last_cache"
DISTINCT = "/api/v3/configure/distinct_cache"


@pytest.fixture
def filled(client: TestClient, engine: Engine) -> TestClient:
    engine.write("cpu,region=us,host=a usage=1,cores=4i 1000", database="d")
    return client


def test_a_cache_from_its_creation_to_its_end(filled: TestClient, engine: Engine) -> None:
    made = filled.post(LAST, json={"db": "d", "table": "cpu", "key_columns": ["host"], "count": 2, "ttl": 60})
    assert made.status_code == 201
    assert made.json() == {
        "database": "d",
        "table": "cpu",
        "kind": "last",
        "name": "cpu_host_last_cache",
        "columns": ["host"],
        "values": None,
        "count": 2,
        "ttl_seconds": 60.0,
        "max_cardinality": None,
    }
    body = {"db": "d", "table": "cpu", "columns": ["region", "host"], "name": "places", "max_age": "none"}
    assert filled.post(DISTINCT, json=body).status_code == 201
    assert filled.post(DISTINCT, json=body).status_code == 409
    assert [one["name"] for one in filled.get(LAST, params={"db": "d"}).json()] == ["cpu_host_last_cache"]
    assert filled.get(DISTINCT).json()[0]["ttl_seconds"] is None
    engine.write("cpu,region=us,host=b usage=2 2000", database="d")
    asked = {"db": "d", "q": "SELECT host, usage FROM last_cache('cpu') ORDER BY host"}
    assert filled.get("/api/v3/query_sql", params=asked).json() == [{"host": "b", "usage": 2.0}]
    asked["q"] = "SELECT * FROM distinct_cache('cpu', 'places')"
    assert len(filled.get("/api/v3/query_sql", params=asked).json()) == 2
    params = {"db": "d", "table": "cpu", "name": "places"}
    assert filled.request("DELETE", DISTINCT, params=params).status_code == 200
    assert filled.request("DELETE", DISTINCT, params=params).status_code == 404
    gone = filled.get("/api/v3/query_sql", params=asked)
    assert (gone.status_code, "could not find cache for the given arguments" in gone.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        (LAST, {"table": "cpu"}, 400, "db is missing"),
        (LAST, {"db": "d", "table": "nix"}, 404, "there is no table 'nix'"),
        (LAST, {"db": "nix", "table": "cpu"}, 404, "there is no database 'nix'"),
        (LAST, {"db": "d", "table": "cpu", "key_columns": "hots"}, 400, "did you mean 'host'"),
        (LAST, {"db": "d", "table": "cpu", "key_columns": 7}, 400, "key_columns must be a list of names"),
        (LAST, {"db": "d", "table": "cpu", "key_columns": ["usage"]}, 400, "'usage' is float64"),
        (LAST, {"db": "d", "table": "cpu", "count": 0}, 400, "count=0"),
        (LAST, {"db": "d", "table": "cpu", "ttl": -1}, 400, "ttl=-1"),
        (LAST, {"db": "d", "table": "cpu", "columns": ["host"]}, 400, "no member 'columns'"),
        (DISTINCT, {"db": "d", "table": "cpu"}, 400, "name the columns"),
        (DISTINCT, {"db": "d", "table": "cpu", "columns": ["cores"]}, 400, "'cores' is int64"),
        (DISTINCT, {"db": "d", "table": "cpu", "columns": ["host"], "max_cardinality": 0}, 400, "max_cardinality=0"),
        (DISTINCT, {"db": "d", "table": "cpu", "columns": ["host"], "max_age": "soon"}, 400, "max_age"),
    ],
)
def test_bad_input(filled: TestClient, path: str, body: dict[str, Any], status: int, text: str) -> None:
    answer = filled.post(path, json=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]
