"""What is kept and where, as anybody sees it from outside."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.options import EngineOptions
from walmill_hookspecs import RetryLater, WriteBatch, hookimpl

STORAGE, SNAPSHOT = "/api/v3/storage", "/api/v3/snapshot"


def _metrics(client: TestClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def _table(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get(STORAGE).json()["tables"][0]
    return found


def test_rows_go_from_memory_into_files_when_they_are_asked_to(tmp_path: Path) -> None:
    engine = Engine.open(EngineOptions(discover_plugins=False, data_dir=tmp_path))
    with TestClient(create_app(engine, without_auth=True)) as client:
        assert client.post(SNAPSHOT).json() == {"snapshot": None}
        assert client.get(STORAGE).json()["snapshot"] is None
        lines = "cpu,host=a v=1 1\ncpu,host=b v=2 2000000000"
        assert client.post("/api/v3/write_lp?db=d&precision=ns", content=lines).status_code == 204
        before = _table(client)
        assert (before["rows_in_memory"], before["files"], before["rows_in_files"]) == (2, 0, 0)
        assert client.get(STORAGE).json()["log"]["to_replay_bytes"] > 0
        made = client.post(SNAPSHOT).json()["snapshot"]
        found = client.get(STORAGE).json()
        assert found["snapshot"]["sequence"] == made["sequence"] == found["sequence"]
        assert found["work"]["snapshots"] == 1
        after = _table(client)
        assert (after["rows_in_memory"], after["files"], after["rows_in_files"]) == (0, 1, 2)
        assert (after["database"], after["table"]) == ("d", "cpu")
        assert (after["earliest_in_files"], after["latest_in_files"]) == (
            "1970-01-01T00:00:00.000000001Z",
            "1970-01-01T00:00:02Z",
        )
        assert after["file_bytes"] == sum(one.stat().st_size for one in tmp_path.rglob("*.parquet"))
        metrics = _metrics(client)
        assert metrics["walmill_file_rows"] == 2
        assert metrics["walmill_memory_rows"] == 0
        assert metrics["walmill_snapshots_total"] == 1
        assert metrics["walmill_snapshot_sequence"] == made["sequence"]
        again = client.post(SNAPSHOT).json()["snapshot"]
        assert again == made, "nothing has come since"


def test_an_engine_in_memory_says_so(client: TestClient) -> None:
    client.post("/api/v3/write_lp?db=d", content="cpu v=1 1")
    found = client.get(STORAGE).json()
    assert (found["snapshot"], found["work"]) == (None, None)
    assert found["tables"][0]["rows_in_memory"] == 1
    answer = client.post(SNAPSHOT)
    assert answer.status_code == 409
    assert "data_dir" in answer.json()["error"]
    assert "walmill_snapshots_total" not in _metrics(client)


@pytest.mark.parametrize(("method", "path"), [("GET", STORAGE), ("POST", SNAPSHOT)])
def test_what_is_not_known_is_named(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path, params={"verbose": "true"})
    assert answer.status_code == 400
    assert "verbose" in answer.json()["error"]


class Later:
    """A plugin that waits for something that does not come."""

    @hookimpl
    def on_write(self, batch: WriteBatch) -> None:
        raise RetryLater("the other side is away", after=timedelta(hours=1))


def test_a_trigger_that_holds_the_log_is_named(tmp_path: Path) -> None:
    engine = Engine.open(EngineOptions(discover_plugins=False, data_dir=tmp_path))
    with TestClient(create_app(engine, without_auth=True)) as client:
        engine.create_database("d")
        engine.register(Later, name="later")
        engine.create_trigger(name="waits", database="d", plugin="later", spec="table:cpu")
        client.post(SNAPSHOT)
        assert client.get(STORAGE).json()["log"]["held_by"] is None
        client.post("/api/v3/write_lp?db=d", content="cpu v=1 1")
        wrote = engine.view().sequence
        client.post(SNAPSHOT)
        held = client.get(STORAGE).json()["log"]["held_by"]
        assert held["database"] == "d"
        assert held["trigger"] == "waits"
        assert held["needs"] <= wrote


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [({}, 400, "to is missing"), ({"to": "s4://x"}, 400, "none of s3://"), ({"to": "/tmp/x"}, 409, "in memory")],
)
def test_a_backup_that_cannot_be(client: TestClient, sent: dict[str, str], status: int, said: str) -> None:
    answer = client.post("/api/v3/backup", json=sent)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True)
