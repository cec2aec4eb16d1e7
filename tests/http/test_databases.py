"""Databases and tables over HTTP: how long rows are kept, what is deleted and restored, and what is wrong with a request."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

DATABASE, TABLE = "/api/v3/configure/database", "/api/v3/configure/table"


def shown(client: TestClient, path: str = DATABASE, **params: Any) -> dict[str, Any]:
    found = client.get(path, params=params).json()
    return {one.get("table", one["db"]): one for one in found}


def test_how_long_rows_are_kept(client: TestClient) -> None:
    assert client.post(DATABASE, json={"db": "a", "retention_period": "30d"}).status_code == 200
    assert shown(client)["a"]["retention_period"] == "30d"
    assert client.put(DATABASE, json={"db": "a", "retention_period": "1h30m"}).status_code == 200
    assert shown(client)["a"]["retention_period"] == "1h30m"
    assert client.delete(f"{DATABASE}/retention_period", params={"db": "a"}).status_code == 204
    assert shown(client)["a"]["retention_period"] is None
    assert client.post(f"{DATABASE}/retention_period", params={"db": "a", "duration": "2w"}).status_code == 204
    assert shown(client)["a"]["retention_period"] == "2w"
    assert client.put(DATABASE, json={"db": "a", "retention_period": "none"}).status_code == 200
    assert shown(client)["a"]["retention_period"] is None


def test_a_table_from_its_creation_to_its_end(client: TestClient) -> None:
    fields = [{"name": "v", "type": "float64"}, {"name": "s", "type": "utf8"}]
    made = {"db": "d", "table": "cpu", "tags": ["host"], "fields": fields, "retention_period": "7d"}
    assert client.post(TABLE, json=made).status_code == 200
    assert client.post(TABLE, json=made).status_code == 409
    assert shown(client, TABLE, db="d")["cpu"] == {
        "db": "d",
        "table": "cpu",
        "tags": ["host"],
        "fields": {"v": "float64", "s": "string"},
        "retention_period": "1w",
    }
    assert client.post("/api/v3/write_lp?db=d", content="cpu,host=a v=1i").status_code == 400, "v is a float"
    assert client.post("/api/v3/write_lp?db=d", content='cpu,host=a v=1,s="x"').status_code == 204
    for period, said in (("none", "none"), ("database", None)):
        assert client.put(TABLE, json={"db": "d", "table": "cpu", "retention_period": period}).status_code == 200
        assert shown(client, TABLE, db="d")["cpu"]["retention_period"] == said
    assert client.delete(TABLE, params={"db": "d", "table": "cpu", "hard_delete_at": "never"}).status_code == 200
    assert shown(client, TABLE, db="d") == {}
    deleted = shown(client, TABLE, db="d", show_deleted=True)["cpu"]
    assert deleted["hard_delete_at"] is None
    restored = client.post(f"{TABLE}/restore", json={"db": "d", "table": "cpu", "new_name": "old"})
    assert restored.json() == {"db": "d", "table": "old"}
    rows = client.get("/api/v3/query_sql", params={"db": "d", "q": "SELECT host, v, s FROM old"}).json()
    assert rows == [{"host": "a", "v": 1.0, "s": "x"}]


@pytest.mark.parametrize(
    ("when", "restorable"),
    [
        (None, True),
        ("default", True),
        ("never", True),
        ("72h", True),
        ("2100-01-01T00:00:00Z", True),
        ("now", False),
        ("0s", False),
        ("1970-01-01T00:00:00Z", False),
    ],
)
def test_until_when_a_database_can_be_restored(client: TestClient, when: str | None, restorable: bool) -> None:
    client.post("/api/v3/write_lp?db=d", content="cpu v=1")
    params = {"db": "d"} if when is None else {"db": "d", "hard_delete_at": when}
    assert client.delete(DATABASE, params=params).status_code == 200
    assert client.get("/api/v3/query_sql", params={"db": "d", "q": "SELECT 1"}).status_code == 404
    assert shown(client) == {}
    assert list(shown(client, show_deleted=True)) == (["d"] if restorable else [])
    answer = client.post(f"{DATABASE}/restore", json={"db": "d"})
    assert answer.status_code == (200 if restorable else 404)
    if not restorable:
        assert "can be restored" in answer.json()["error"]


def test_several_deleted_databases_of_one_name(client: TestClient) -> None:
    for value in (1, 2):
        client.post("/api/v3/write_lp?db=d", content=f"cpu v={value}")
        client.delete(DATABASE, params={"db": "d"})
    ids = [one["id"] for one in client.get(DATABASE, params={"show_deleted": True}).json()]
    assert ids == sorted(ids, reverse=True)
    answer = client.post(f"{DATABASE}/restore", json={"db": "d", "id": ids[1], "new_name": "first"})
    assert answer.json() == {"db": "first"}
    rows = client.get("/api/v3/query_sql", params={"db": "first", "q": "SELECT v FROM cpu"}).json()
    assert rows == [{"v": 1.0}]
    assert client.post(f"{DATABASE}/restore", json={"db": "d", "id": ids[1]}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "said"),
    [
        ("POST", DATABASE, {"db": "x", "retention_period": "30"}, 400, "has no unit"),
        ("POST", DATABASE, {"db": "x", "retention_period": "-1d"}, 400, "retention period"),
        ("POST", DATABASE, {"db": "x", "retention_period": "1ms"}, 400, "1s"),
        ("POST", DATABASE, {"db": "x", "retention_period": "database"}, 400, "`none`"),
        ("PUT", DATABASE, {"db": "x", "retention_period": "1d"}, 404, "no database 'x'"),
        ("PUT", DATABASE, {"db": "x"}, 400, "retention_period is missing"),
        ("DELETE", DATABASE, {"db": "d", "hard_delete_at": "soon"}, 400, "none of now, never, default"),
        ("DELETE", DATABASE, {"db": "_internal", "hard_delete_at": "now"}, 403, "_internal"),
        ("POST", f"{DATABASE}/restore", {"db": "d"}, 404, "can be restored"),
        ("POST", f"{DATABASE}/restore", {"db": "d", "id": "x"}, 400, "whole number"),
        ("PUT", TABLE, {"db": "d", "table": "no", "retention_period": "1d"}, 404, "no table 'no'"),
        ("DELETE", TABLE, {"db": "d", "table": "no"}, 404, "no table 'no'"),
        ("DELETE", TABLE, {"db": "d"}, 400, "table is missing"),
        ("DELETE", TABLE, {"db": "_internal", "table": "runs"}, 403, "_internal"),
        ("GET", TABLE, {}, 400, "db is missing"),
        ("POST", TABLE, {"db": "d", "table": "t", "fields": []}, 400, "needs a field"),
        ("POST", TABLE, {"db": "d", "table": "t", "fields": {"v": "bool"}}, 400, "must be a list"),
        ("POST", TABLE, {"db": "d", "table": "t", "fields": [{"name": "v"}]}, 400, "a field must be"),
        ("POST", TABLE, {"db": "d", "table": "t", "fields": [{"name": "v", "type": "int"}]}, 400, "one of int64"),
        ("POST", TABLE, {"db": "d", "table": "t", "tags": [1], "fields": []}, 400, "a list of names"),
        (
            "POST",
            TABLE,
            {"db": "d", "table": "#t", "tags": ["v", "time"], "fields": [{"name": "v", "type": "bool"}]},
            400,
            "named twice",
        ),
    ],
)
def test_what_is_wrong_is_a_sentence(
    client: TestClient, method: str, path: str, sent: dict[str, Any], status: int, said: str
) -> None:
    client.post(DATABASE, json={"db": "d"})
    where = {"params": sent} if method == "GET" else {"json": sent}
    answer = client.request(method, path, **where)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
