from __future__ import annotations

import base64
import json
import logging
import time
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from walmill import Engine, Identity, create_app
from walmill.observe.log import configure

QUERY = "/api/v3/query_sql?db=d&q=SELECT+1+AS+one"


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture
def token(engine: Engine) -> str:
    engine.create_database("d")
    return engine.create_token("joe")


@pytest.mark.parametrize("form", ["Bearer {}", "Token {}", "bearer {}"])
def test_a_token_lets_in(engine: Engine, token: str, form: str) -> None:
    client = TestClient(create_app(engine))
    answer = client.get(QUERY, headers={"authorization": form.format(token)})
    assert (answer.status_code, answer.json()) == (200, [{"one": 1}])


def test_basic_lets_in_with_any_name(engine: Engine, token: str) -> None:
    client = TestClient(create_app(engine))
    assert client.get(QUERY, headers={"authorization": _basic(f"anyone:{token}")}).status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wm_unknown", 401),
        ("Bearer", 400),
        ("Digest x", 400),
        ("Basic !!!", 400),
        (_basic("a:b:c"), 400),
        (_basic("a:wrong"), 401),
    ],
)
def test_others_are_not_let_in(engine: Engine, token: str, header: str | None, status: int) -> None:
    client = TestClient(create_app(engine))
    answer = client.get(QUERY, headers={} if header is None else {"authorization": header})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    if status == 401:
        assert answer.json() == {"error": "the request was not authenticated"}
        assert answer.headers["www-authenticate"] == 'Bearer realm="walmill"'


def test_a_token_that_has_ended(engine: Engine) -> None:
    token = engine.create_token("short", expires_at=time.time_ns() - 1)
    client = TestClient(create_app(engine))
    assert client.get(QUERY, headers={"authorization": f"Bearer {token}"}).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v3/write_lp?db=d"),
        ("GET", "/api/v3/query_sql"),
        ("GET", "/api/v3/engine/x"),
        ("OPTIONS", "/api/v3/engine/x"),
        ("GET", "/api/v3/plugins"),
        ("GET", "/api/v3/configure/token"),
        ("POST", "/api/v3/configure/token"),
        ("GET", "/api/v3/configure/database"),
        ("POST", "/api/v3/configure/processing_engine_trigger"),
        ("GET", "/no/such/path"),
        ("GET", "/health/../api/v3/plugins"),
        ("GET", "//health"),
    ],
)
def test_every_other_route_wants_a_token(engine: Engine, token: str, method: str, path: str) -> None:
    assert TestClient(create_app(engine)).request(method, path).status_code == 401


def test_an_engine_without_tokens_lets_nobody_in(engine: Engine) -> None:
    answer = TestClient(create_app(engine)).get(QUERY)
    assert answer.status_code == 401
    assert "engine.create_token" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/ready", 200), ("/ping", 200), ("/metrics", 200), ("/", 401)]
)
def test_what_everyone_may_ask(engine: Engine, path: str, status: int) -> None:
    assert TestClient(create_app(engine)).get(path).status_code == status


def test_metrics_can_want_a_token(engine: Engine, token: str) -> None:
    client = TestClient(create_app(engine, open_metrics=False))
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"authorization": f"Bearer {token}"}).status_code == 200


def _by_header(request: Request) -> Identity | None:
    name = request.headers.get("x-user")
    return None if name is None else Identity(name)


async def _by_header_later(request: Request) -> Identity | None:
    return _by_header(request)


@pytest.mark.parametrize("rule", [_by_header, _by_header_later])
def test_a_hosts_own_rule_replaces_tokens(engine: Engine, token: str, rule: Any) -> None:
    client = TestClient(create_app(engine, auth=rule))
    assert client.get(QUERY, headers={"x-user": "anna"}).status_code == 200
    assert client.get(QUERY, headers={"authorization": f"Bearer {token}"}).status_code == 401
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("found", ["anna", True, object()])
def test_a_rule_that_returns_something_else_lets_nobody_in(engine: Engine, found: Any) -> None:
    answer = TestClient(create_app(engine, auth=lambda request: found)).get(QUERY)
    assert answer.status_code == 500
    assert "error of the server" in answer.json()["error"]


def test_tokens_are_made_shown_and_deleted(engine: Engine) -> None:
    first = engine.create_token("first")
    client = TestClient(create_app(engine), headers={"authorization": f"Bearer {first}"})
    made = client.post("/api/v3/configure/token", json={"token_name": "second", "expiry_secs": 60})
    assert made.status_code == 201
    assert made.json()["name"] == "second"
    token = made.json()["token"]
    shown = client.get("/api/v3/configure/token").json()
    assert [one["name"] for one in shown] == ["first", "second"]
    assert shown[0]["expires_at"] is None
    assert shown[1]["expires_at"] is not None
    assert token not in json.dumps(shown)
    assert client.get(QUERY, headers={"authorization": f"Bearer {token}"}).status_code == 404
    assert client.post("/api/v3/configure/token", json={"token_name": "second"}).status_code == 409
    assert client.delete("/api/v3/configure/token", params={"token_name": "second"}).status_code == 200
    assert client.get(QUERY, headers={"authorization": f"Bearer {token}"}).status_code == 401
    assert client.delete("/api/v3/configure/token", params={"token_name": "second"}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [{}, {"token_name": ""}, {"token_name": 5}, {"token_name": "a", "expiry_secs": 0}, {"token_name": "a\nb"}]
    + [{"token_name": "a", "expiry_secs": value} for value in (-1, 1.5, "x", 10**12, True)],
)
def test_bad_tokens_are_400(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/api/v3/configure/token", json=body).status_code == 400


def test_no_token_appears_in_a_log(engine: Engine, token: str, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    configure(level="debug", style="json")
    try:
        client = TestClient(create_app(engine, auth=lambda request: 1 / 0))
        for headers in ({"authorization": f"Bearer {token}"}, {"authorization": _basic(f"x:{token}")}):
            assert client.get(f"{QUERY}&p={token}", headers=headers).status_code == 500
    finally:
        root.setLevel(level)
        for handler in [one for one in root.handlers if one not in handlers]:
            root.removeHandler(handler)
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said
    assert token not in said
    assert base64.b64encode(f"x:{token}".encode()).decode() not in said
