from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from walmill import Engine, create_app

DATABASE = "/api/v3/configure/database"


def test_databases_are_made_shown_and_deleted(client: TestClient) -> None:
    assert client.post(DATABASE, json={"db": "b"}).status_code == 200
    assert client.post(DATABASE, json={"db": "a"}).content == b""
    shown = client.get(DATABASE, params={"format": "json", "show_deleted": "false"}).json()
    assert [one["db"] for one in shown] == ["a", "b"]
    assert client.post(DATABASE, json={"db": "a"}).status_code == 409
    assert client.delete(DATABASE, params={"db": "a"}).status_code == 200
    assert client.delete(DATABASE, params={"db": "a"}).status_code == 404
    assert [one["db"] for one in client.get(DATABASE).json()] == ["b"]


@pytest.mark.parametrize(
    ("method", "sent", "status", "said"),
    [
        ("POST", {}, 400, "db is missing"),
        ("POST", {"db": ""}, 400, "db is missing"),
        ("POST", {"db": "_internal"}, 400, "did not start with a number or letter"),
        ("POST", {"db": "a b"}, 400, "invalid character"),
        ("POST", {"dbs": "a"}, 400, "did you mean 'db'?"),
        ("DELETE", {"db": "_internal"}, 403, "_internal"),
    ],
)
def test_bad_databases(client: TestClient, method: str, sent: dict[str, str], status: int, said: str) -> None:
    answer = client.request(method, DATABASE, json=sent)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_a_405_names_all_methods_of_a_path(client: TestClient) -> None:
    answer = client.patch(DATABASE, json={"db": "a"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, POST, PUT")


def test_plugins(client: TestClient, engine: Engine) -> None:
    assert client.get("/api/v3/plugins").json() == []


def test_health_ready_ping(client: TestClient, engine: Engine) -> None:
    health = client.get("/health")
    assert (health.status_code, health.text, health.headers["content-type"]) == (200, "OK", "text/plain; charset=utf-8")
    assert client.get("/ready").json() == {"status": "ready"}
    for ping in (client.get("/ping"), client.post("/ping")):
        assert set(ping.json()) == {"product_name", "version", "revision", "process_id"}
        assert ping.headers["x-influxdb-version"] == ping.json()["version"]
        assert re.fullmatch("[0-9a-f-]{36}", ping.headers["request-id"])
    assert client.get("/ping").json()["process_id"] == client.get("/ping").json()["process_id"]


def test_a_closed_engine_is_not_ready() -> None:
    engine = Engine.open(discover_plugins=False)
    client = TestClient(create_app(engine))
    engine.close()
    answer = client.get("/ready")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.get("/health").status_code == 200


def test_metrics(client: TestClient, engine: Engine) -> None:
    client.post("/api/v3/write_lp?db=d", content=b"cpu v=1 1\ncpu v=2 2")
    text = client.get("/metrics").text
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["walmill_rows_total", ()] == 2
    assert samples["walmill_commits_total", ()] >= 1
    assert samples["walmill_view_sequence", ()] == engine.view().sequence
    assert samples["walmill_log_sync_seconds_count", ()] == samples["walmill_frames_total", ()]
    assert (
        samples["walmill_log_sync_seconds_sum", ()] >= samples["walmill_log_sync_seconds", (("quantile", "1.0"),)] > 0
    )
    assert ("process_start_time_seconds", ()) in samples


def test_two_engines_count_apart(client: TestClient, engine: Engine) -> None:
    client.post("/api/v3/write_lp?db=d", content=b"cpu v=1 1")
    with Engine.open(discover_plugins=False) as other:
        text = TestClient(create_app(other, close_engine=False)).get("/metrics").text
    assert "walmill_rows_total 0.0" in text
