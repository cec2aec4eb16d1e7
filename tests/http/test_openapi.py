"""What is said of the routes is what they do: each of them is described, with what it takes, and nothing else is."""

from __future__ import annotations

import re
from typing import Any

from openapi_spec_validator import validate
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.http.operations import MEANINGS, OPERATIONS, Operation
from walmill.http.requests import PREFIX

OWN = ("/api/v3/write_lp", "/api/v2/write", "/write", "/api/v3/write_rows", "/api/v3/write_arrow", "/query")
"""They let parameters pass that they do not know, as clients send more than they need to."""
STRANGE = "zzqqxxjj"


def name_of(one: Operation) -> str:
    return f"{one.method} {one.path}"


def call(client: TestClient, one: Operation, **members: Any) -> tuple[int, str]:
    path = one.path.replace("{name}", "none")
    if one.takes_json and one.path.endswith("processing_engine_trigger") and one.method == "POST":
        answer = client.request(one.method, path, json=members)
    else:
        answer = client.request(one.method, path, params=members)
    return answer.status_code, answer.text


def test_every_route_is_described_and_nothing_else(engine: Engine) -> None:
    app = create_app(engine, without_auth=True, close_engine=False)
    there = set()
    for route in app.routes:
        path = re.sub(r"\{(\w+):path\}", "{path}", route.path)  # type: ignore[attr-defined]
        methods = getattr(route, "methods", None) or ("GET", "POST", "PUT", "DELETE")
        there |= {f"{method} {path}" for method in methods if method != "HEAD"}
    assert there == {name_of(one) for one in OPERATIONS}


def test_every_member_has_a_meaning_and_every_meaning_a_member() -> None:
    assert {name for one in OPERATIONS for name in one.members} == set(MEANINGS)


CHECKED = [one for one in OPERATIONS if one.path not in OWN and one.members and not one.path.startswith(PREFIX)]


def test_they_take_what_is_said(client: TestClient) -> None:
    for one in CHECKED:
        status, text = call(client, one, **{STRANGE: "1"})
        known = re.search(r"known are ([\w, ]+)", text)
        assert status == 400, f"{name_of(one)}: {text}"
        assert known is not None, f"{name_of(one)}: {text}"
        assert set(known[1].split(", ")) == set(one.members), name_of(one)


def test_they_want_what_is_said(client: TestClient) -> None:
    for one in (one for one in CHECKED if one.required):
        status, text = call(client, one)
        said = re.search(r'"([\w]+(?: and [\w]+)*) (?:is|are) missing', text)
        assert status == 400, f"{name_of(one)}: {text}"
        assert said is not None, f"{name_of(one)}: {text}"
        named = set(said[1].split(" and ")) - {"plugin"}  # or plugin_filename: no schema of ours says that
        assert named <= one.required, f"{name_of(one)}: {text}"
        if named != one.required:  # some are looked at when the others are there
            status, text = call(client, one, **dict.fromkeys(named, "1"))
            assert status == 400, f"{name_of(one)}: {text}"


def test_clients_of_others_are_told_what_is_missing(client: TestClient) -> None:
    for one in (one for one in OPERATIONS if one.path in OWN):
        status, text = call(client, one)
        assert status == 400
        assert sorted(one.required)[0] in text


def test_the_document_is_openapi(client: TestClient) -> None:
    found = client.get("/api/v3/openapi.json").json()
    validate(found)
    create = found["paths"]["/api/v3/configure/processing_engine_trigger"]["post"]
    body = create["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["db", "trigger_name", "trigger_specification"]
    assert found["paths"]["/health"]["get"]["security"] == []
    assert found["paths"]["/api/v3/plugins/{name}"]["get"]["parameters"][0]["in"] == "path"
