from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine
from walmill_hookspecs import Request, Tick, WriteBatch, hookimpl

TRIGGERS = "/api/v3/configure/processing_engine_trigger"
NAMED = {"db": "d", "trigger_name": "t"}
BASE: dict[str, Any] = {"db": "d", "plugin": "p", "trigger_name": "t", "trigger_specification": "every:1d"}


class Everything:
    @hookimpl
    def on_write(self, batch: WriteBatch, ctx: Any) -> None:
        pass

    @hookimpl
    def on_schedule(self, tick: Tick, ctx: Any) -> None:
        ctx.write(f"ticks at={int(tick.scheduled_for.timestamp())}i")

    @hookimpl
    def on_request(self, request: Request, ctx: Any) -> str:
        return "x"


@pytest.fixture(autouse=True)
def _plugin(engine: Engine) -> None:
    engine.register(Everything(), name="p")


def test_defaults_stand_for_everything_that_is_left_out(client: TestClient) -> None:
    answer = client.post(TRIGGERS, json=BASE)
    assert answer.status_code == 200
    assert len(answer.json()["next"]) == 5
    shown = client.get(TRIGGERS, params=NAMED).json()
    assert shown["trigger_specification"] == "every:1d"
    assert (shown["error_behavior"], shown["attempts"], shown["max_concurrency"]) == ("retry", 5, 1)
    assert (shown["state"], shown["trigger_arguments"]) == ("enabled", {})


def test_influxdbs_body_is_understood(client: TestClient) -> None:
    body = {
        "db": "d",
        "plugin_filename": "p",
        "trigger_name": "t",
        "trigger_specification": "all_tables",
        "trigger_settings": {"run_async": True, "error_behavior": "Log"},
        "trigger_arguments": {"k": 'a,b="c"\nd'},
        "disabled": True,
    }
    assert client.post(TRIGGERS, json=body).status_code == 200
    shown = client.get(TRIGGERS, params=NAMED).json()
    assert shown["trigger_arguments"] == {"k": 'a,b="c"\nd'}
    assert (shown["run_async"], shown["max_concurrency"], shown["error_behavior"]) == (True, 4, "skip")
    assert (shown["state"], shown["disabled"]) == ("disabled", True)


def test_everything_that_can_be_asked_for(client: TestClient) -> None:
    body = {
        **BASE,
        "trigger_specification": "table:cpu",
        "trigger_settings": {"error_behavior": "DISABLE"},
        "trigger_arguments": None,
        "max_concurrency": 3,
        "max_batch_rows": 7,
        "attempts": 2,
        "missed": "all",
        "grants": ["other"],
        "derived": True,
        "from": "start",
        "executor": "inline",
        "limits": {},
    }
    assert client.post(TRIGGERS, json=body).status_code == 200
    shown = client.get(TRIGGERS, params=NAMED).json()
    expected = {
        "error_behavior": "disable",
        "max_concurrency": 3,
        "max_batch_rows": 7,
        "attempts": 2,
        "missed": "all",
        "grants": ["other"],
        "derived": True,
        "executor": "inline",
    }
    assert {name: shown[name] for name in expected} == expected


def test_methods_of_a_request_trigger(client: TestClient) -> None:
    body = {**BASE, "trigger_specification": "request:x", "methods": ["put", "DELETE"]}
    assert client.post(TRIGGERS, json=body).status_code == 200
    assert client.get(TRIGGERS, params=NAMED).json()["methods"] == ["PUT", "DELETE"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"db": None}, ["db is missing"]),
        ({"plugin": None, "trigger_name": None}, ["trigger_name and plugin are missing"]),
        ({"trigger_argments": {}}, ["did you mean 'trigger_arguments'?"]),
        ({"trigger_settings": {"error_behaviour": "log"}}, ["did you mean 'error_behavior'?"]),
        ({"trigger_settings": {"error_behavior": "ignore"}}, ["'ignore'", "retry, skip, disable, log"]),
        ({"trigger_settings": {"run_async": "yes"}}, ["run_async"]),
        ({"trigger_settings": 5}, ["trigger_settings must be an object"]),
        ({"trigger_specification": "every:never"}, ["never"]),
        ({"trigger_specification": "cron:0 0 31 2 *"}, ["0 0 31 2 *"]),
        ({"trigger_specification": "sometimes"}, ["sometimes"]),
        ({"max_concurrency": 0}, ["max_concurrency"]),
        ({"max_concurrency": True}, ["max_concurrency"]),
        ({"attempts": "many", "missed": "some"}, ["attempts", "missed"]),
        ({"executor": "cloud"}, ["executor"]),
        ({"limits": {"memory": "1GB"}}, ["the limit memory cannot be enforced", "inline"]),
        ({"methods": ["GET"]}, ["methods are for request triggers"]),
        ({"trigger_specification": "request:x", "methods": []}, ["methods"]),
        ({"trigger_specification": "request:x", "methods": ["BREW"]}, ["BREW"]),
        ({"trigger_name": "a/b"}, ["a/b"]),
        ({"trigger_arguments": ["k"]}, ["arguments"]),
        ({"disabled": "no"}, ["disabled"]),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, engine: Engine, change: dict[str, Any], said: list[str]) -> None:
    answer = client.post(TRIGGERS, json={**BASE, **change})
    assert answer.status_code == 400, answer.text
    for words in said:
        assert words in answer.json()["error"]
    assert engine.triggers() == []


def test_the_query_string_does_not_describe_a_trigger(client: TestClient) -> None:
    assert client.post(TRIGGERS, params=BASE).status_code == 400


def test_unknown_plugins_taken_names_and_taken_paths(client: TestClient) -> None:
    missing = client.post(TRIGGERS, json={**BASE, "plugin": "q"})
    assert (missing.status_code, "'q'" in missing.json()["error"]) == (404, True)
    body = {**BASE, "trigger_specification": "request:a/{x}"}
    assert client.post(TRIGGERS, json=body).status_code == 200
    assert client.post(TRIGGERS, json=body).status_code == 409
    overlap = client.post(TRIGGERS, json={**BASE, "trigger_name": "u", "trigger_specification": "request:a/b"})
    assert (overlap.status_code, "'t'" in overlap.json()["error"]) == (409, True)


def test_enable_disable_and_delete_as_influxdb_has_them(client: TestClient) -> None:
    client.post(TRIGGERS, json=BASE)
    for action, state in (
        ("disable", "disabled"),
        ("disable", "disabled"),
        ("enable", "enabled"),
        ("enable", "enabled"),
    ):
        assert client.post(f"{TRIGGERS}/{action}", params=NAMED).status_code == 200
        assert client.get(TRIGGERS, params=NAMED).json()["state"] == state
    refused = client.delete(TRIGGERS, params=NAMED)
    assert refused.status_code == 409
    assert refused.json() == {"error": "Cannot delete running plugin t. Disable it first or use --force."}
    assert client.request("DELETE", TRIGGERS, json={**NAMED, "force": True}).status_code == 200
    assert client.get(TRIGGERS, params=NAMED).status_code == 404
    for method, path in (("DELETE", ""), ("POST", "/enable"), ("POST", "/disable"), ("POST", "/run")):
        assert client.request(method, TRIGGERS + path, params=NAMED).status_code == 404


def test_lists(client: TestClient) -> None:
    client.post(TRIGGERS, json={**BASE, "trigger_name": "b"})
    client.post(TRIGGERS, json={**BASE, "trigger_name": "a"})
    client.post(TRIGGERS, json={**BASE, "db": "e"})
    names = [(one["database"], one["trigger_name"]) for one in client.get(TRIGGERS).json()]
    assert names == [("d", "a"), ("d", "b"), ("e", "t")]
    assert [one["trigger_name"] for one in client.get(TRIGGERS, params={"db": "d"}).json()] == ["a", "b"]
    assert client.get(TRIGGERS, params={"db": "nope"}).status_code == 404
    assert client.get(TRIGGERS, params={"trigger_name": "a"}).status_code == 400


@pytest.mark.parametrize(("at", "seconds"), [("2026-01-31T09:30:00Z", 1769851800), ("1769851800000000000", 1769851800)])
def test_run_now(client: TestClient, engine: Engine, at: str, seconds: int) -> None:
    client.post(TRIGGERS, json=BASE)
    ran = client.post(f"{TRIGGERS}/run", params={**NAMED, "at": at})
    assert ran.status_code == 200
    assert ran.json()["status"] == "ok"
    assert engine.query("SELECT at FROM ticks", database="d").to_pylist() == [{"at": seconds}]


def test_run_is_for_schedules(client: TestClient) -> None:
    client.post(TRIGGERS, json={**BASE, "trigger_specification": "all_tables"})
    assert client.post(f"{TRIGGERS}/run", params=NAMED).status_code == 400
    assert client.post(f"{TRIGGERS}/run", params={**NAMED, "at": "soon"}).status_code == 400


def test_a_schedule_is_answered_with_its_next_due_times(client: TestClient, engine: Engine) -> None:
    class Ticks:
        @hookimpl
        def on_schedule(self) -> None:
            pass

    engine.register(Ticks, name="ticks")
    body = {"db": "d", "plugin": "ticks", "trigger_name": "t", "trigger_specification": "cron:0 9 * * *@Asia/Tokyo"}
    found = client.post("/api/v3/configure/processing_engine_trigger", json=body).json()["next"]
    assert len(found) == 5
    assert all(one["utc"].endswith("T00:00:00Z") and one["local"].endswith("T09:00:00+09:00") for one in found)
    body |= {"trigger_name": "u", "trigger_specification": "every:1M"}
    answer = client.post("/api/v3/configure/processing_engine_trigger", json=body)
    assert answer.status_code == 400
    assert "use cron:0 0 1 * *" in answer.text
