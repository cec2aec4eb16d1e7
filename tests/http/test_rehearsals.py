"""Trying plugins over HTTP, with InfluxDB's routes and one for requests; and following the log."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine
from walmill.plugins.places import find_plugin

PLUGIN = """
from walmill_hookspecs import Line, hookimpl

class Sample:
    @hookimpl
    def on_write(self, batch, ctx):
        for key in sorted(ctx.settings):
            ctx.log.info("%s: %s", key, ctx.settings[key])
        for name, table in batch.tables.items():
            ctx.log.info("table: %s", name)
            for row in table.rows():
                ctx.log.info("row: %s", row)
        ctx.write(Line("some_table", {"tag1": "tag1_value", "tag2": "tag2_value"},
                       {"field1": 1, "field2": 2.0, "field3": "number three"}, 7))
        ctx.write(Line("other_table", {}, {"other_field": 1, "other_field2": 3.14}, 1302), database="mytestdb")
        ctx.log.info("done")

    @hookimpl
    def on_schedule(self, tick, ctx):
        ctx.log.info("args are %s", dict(ctx.settings))

    @hookimpl
    def on_request(self, request, ctx):
        return request.body[::-1], 201, {"x-id": str(request.path_params["id"])}
"""


@pytest.fixture
def tried(engine: Engine, client: TestClient, tmp_path: Path) -> TestClient:
    file = tmp_path / "sample.py"
    file.write_text(PLUGIN)
    place = find_plugin(str(file))
    engine.registry.add(place.name, place.value)
    return client


def test_wal_as_influxdb_has_it(tried: TestClient, engine: Engine) -> None:
    """`test_wal_plugin` of InfluxDB: the same rows, lines and writes; a second database wants a grant here."""
    body: dict[str, Any] = {
        "filename": "sample",
        "database": "foo",
        "input_lp": "cpu,host=A,region=west usage=1i,system=23.2 100\nmem,host=B user=43.1 120",
        "input_arguments": {"arg1": "val1"},
    }
    refused = tried.post("/api/v3/plugin_test/wal", json=body).json()
    assert refused["status"] == "failed"
    assert "may not write to the database 'mytestdb'" in refused["errors"][0]
    answer = tried.post("/api/v3/plugin_test/wal", json={**body, "grants": ["mytestdb"]})
    assert answer.status_code == 200
    found = answer.json()
    assert found["log_lines"] == [
        "INFO: arg1: val1",
        "INFO: table: cpu",
        "INFO: row: {'host': 'A', 'region': 'west', 'usage': 1, 'system': 23.2, 'time': 100}",
        "INFO: table: mem",
        "INFO: row: {'host': 'B', 'user': 43.1, 'time': 120}",
        "INFO: done",
    ]
    assert found["database_writes"] == {
        "foo": ['some_table,tag1=tag1_value,tag2=tag2_value field1=1i,field2=2.0,field3="number three" 7'],
        "mytestdb": ["other_table other_field=1i,other_field2=3.14 1302"],
    }
    assert found["errors"] == []
    assert engine.view().sequence == 0


def test_schedule_as_influxdb_has_it(tried: TestClient) -> None:
    body = {
        "filename": "sample",
        "database": "foo",
        "schedule": "* * * * * *",
        "input_arguments": {"region": "us-east"},
    }
    found = tried.post("/api/v3/plugin_test/schedule", json=body).json()
    assert found["log_lines"] == ["INFO: args are {'region': 'us-east'}"]
    assert "T" in found["trigger_time"]
    assert found["trigger_time"].endswith("Z")
    assert (found["database_writes"], found["errors"]) == ({}, [])


def test_requests_with_bytes_and_path_parameters(tried: TestClient) -> None:
    body = {
        "plugin": "sample",
        "database": "foo",
        "spec": "request:a/{id:int}",
        "method": "post",
        "path": "a/7",
        "body_base64": "AAH/",
    }
    answer = tried.post("/api/v3/plugin_test/request", json=body).json()["answer"]
    assert (answer["status"], answer["body_base64"], answer["whole"]) == (201, "/wEA", True)
    assert ["x-id", "7"] in answer["headers"]


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("wal", {"plugin": "sample"}, "database is missing"),
        ("wal", {"plugin": "sample", "database": "d", "input_lpp": ""}, "did you mean 'input_lp'"),
        ("wal", {"plugin": "sample", "filename": "s", "database": "d"}, "say the same"),
        ("wal", {"plugin": "sample", "database": "d", "grants": "x"}, "grants must be a list of texts"),
        ("wal", {"plugin": "sample", "database": "d", "limits": {"tim": 1}}, "there is no limit 'tim'"),
        ("wal", {"plugin": "sample", "database": "d", "live": "soon"}, "soon"),
        ("wal", {"plugin": "sampel", "database": "d", "input_lp": "c v=1"}, "did you mean 'sample'"),
        ("schedule", {"plugin": "sample", "database": "d", "schedule": "x"}, "cron"),
        ("schedule", {"plugin": "sample", "database": "d", "schedule": "every:1s", "spec": "every:1s"}, "say the same"),
        ("schedule", {"plugin": "sample", "database": "d", "at": "soon"}, "at"),
        ("request", {"plugin": "sample", "database": "d", "spec": "request:a/{id}"}, "give a path that fits it"),
        ("request", {"plugin": "sample", "database": "d", "spec": "request:a", "path": "b"}, "does not fit the spec"),
        ("request", {"plugin": "sample", "database": "d", "body_base64": "?"}, "is no base64"),
        ("request", {"plugin": "sample", "database": "d", "headers": [1]}, "headers must be an object"),
        ("service", {"plugin": "sample", "database": "d"}, "lacks the hook on_service"),
        ("service", {"plugin": "sample", "database": "d", "for": 5}, "for"),
        ("snapshot", {"plugin": "sample", "database": "d", "after": "1"}, "after"),
        (
            "snapshot",
            {"plugin": "sample", "database": "d", "spec": "all_tables"},
            "is for on_write, not for on_snapshot",
        ),
    ],
)
def test_bad_input(tried: TestClient, kind: str, body: dict[str, Any], text: str) -> None:
    answer = tried.post(f"/api/v3/plugin_test/{kind}", json=body)
    assert answer.status_code in (400, 404)
    assert text in answer.json()["error"]


def test_commits_are_followed(client: TestClient, engine: Engine) -> None:
    engine.write('cpu,host=a v=1,s="x\ny" 1', database="d")
    first = engine.view().sequence
    engine.write("mem v=1 1", database="d")
    engine.write("cpu v=1 1", database="other")
    engine.write("cpu,host=b v=2 2", database="d")
    answer = client.get("/api/v3/commits", params={"db": "d", "after": first - 1, "wait": "50ms"})
    found = [json.loads(line) for line in answer.text.split("\n") if line]
    assert [one["lines"] for one in found] == [['cpu,host=a v=1.0,s="x\ny" 1'], ["mem v=1.0 1"], ["cpu,host=b v=2.0 2"]]
    assert [one["origin"] for one in found] == ["client"] * 3
    assert [one["sequence"] for one in found] == sorted(one["sequence"] for one in found)
    some = client.get("/api/v3/commits", params={"db": "d", "after": 0, "wait": "50ms", "table": "mem"})
    assert [json.loads(line)["lines"] for line in some.text.split("\n") if line] == [["mem v=1.0 1"]]


def test_commits_come_as_they_are_written(client: TestClient, engine: Engine) -> None:
    engine.write("cpu v=0 0", database="d")
    seen: list[str] = []
    began = threading.Event()

    def reading() -> None:
        with client.stream("GET", "/api/v3/commits", params={"db": "d", "wait": "1s"}) as response:
            for line in response.iter_lines():
                began.set()
                if line:
                    seen.extend(json.loads(line)["lines"])

    thread = threading.Thread(target=reading)
    thread.start()
    for number in range(1, 50):
        engine.write(f"cpu v={number} {number}", database="d")
    thread.join(20)
    assert seen == [f"cpu v={number}.0 {number}" for number in range(50 - len(seen), 50)]
    assert seen


@pytest.mark.parametrize(
    ("params", "status", "text"),
    [
        ({}, 400, "db is missing"),
        ({"db": "nix"}, 404, "nix"),
        ({"db": "d", "after": "x"}, 400, "is no sequence"),
        ({"db": "d", "wait": "x"}, 400, "x"),
        ({"db": "d", "tabel": "x"}, 400, "did you mean 'table'"),
    ],
)
def test_bad_ways_to_follow(client: TestClient, engine: Engine, params: dict[str, str], status: int, text: str) -> None:
    engine.write("cpu v=0 0", database="d")
    answer = client.get("/api/v3/commits", params=params)
    assert answer.status_code == status
    assert text in answer.json()["error"]
