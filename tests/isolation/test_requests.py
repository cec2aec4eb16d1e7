"""Requests that worker processes answer, over HTTP."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.isolation.conftest import state, wait
from tests.isolation.test_process import make

from walmill import Engine, create_app
from walmill.context.local import Limits


@pytest.fixture
def client(tmp_path: Path, place: Path) -> Iterator[TestClient]:
    with Engine.open(data_dir=tmp_path, limits=Limits(seconds=2.0, answer_bytes=100_000)) as engine:
        make(engine, "answer", spec="request:answer/{number:int}/{name}", methods=("GET", "POST"))
        make(engine, "answer", name="async", plugin="asynchronous", spec="request:pieces")
        app = create_app(engine, without_auth=True, close_engine=False)
        with TestClient(app, raise_server_exceptions=False) as found:
            found.engine = engine  # type: ignore[attr-defined]
            yield weakref.proxy(found)  # pytest keeps what a fixture gave for longer than its test


ROUTE = "/api/v3/engine/answer/7/a b"


def test_a_request_crosses_whole(client: TestClient) -> None:
    answer = client.post(f"{ROUTE}?a=1&a=2", content=b"hello", headers={"X-Mine": "yes"})
    assert answer.status_code == 200
    found = answer.json()
    assert found.pop("pid") != __import__("os").getpid()
    assert found == {
        "method": "POST",
        "path": "answer/7/a b",
        "params": {"number": "7", "name": "a b"},
        "query": ["1", "2"],
        "header": "yes",
        "body": "hello",
    }


def test_bytes_and_headers(client: TestClient) -> None:
    body = bytes(range(256)) * 300
    answer = client.post(f"{ROUTE}?kind=binary", content=body)
    assert (answer.status_code, answer.headers["x-size"]) == (201, str(len(body)))
    assert answer.content == body[::-1]


def test_a_streamed_answer(client: TestClient) -> None:
    assert client.get(f"{ROUTE}?kind=stream").text == "".join(f"piece {number}\n" for number in range(1000))
    assert client.get("/api/v3/engine/pieces").text == "".join(f"piece {number}\n" for number in range(100))
    assert client.get(f"{ROUTE}").status_code == 200  # its place is free again


def test_errors(client: TestClient) -> None:
    answer = client.get(f"{ROUTE}?kind=error")
    assert (answer.status_code, answer.json(), answer.headers["x-pot"]) == (418, {"error": "a teapot"}, "yes")
    for kind in ("fail", "tuple", "exit"):
        answer = client.get(f"{ROUTE}?kind={kind}")
        assert answer.status_code == 500
        assert "secret" not in answer.text
    answer = client.get(f"{ROUTE}?kind=large&size=200000")
    assert answer.status_code == 500
    assert client.get(f"{ROUTE}?kind=large&size=90000").text == "x" * 90_000


def test_what_it_writes_is_there_when_it_answers(client: TestClient) -> None:
    for number in range(1, 6):
        assert client.get(f"{ROUTE}?kind=write").text == "written"
        engine: Engine = client.engine  # type: ignore[attr-defined]
        assert state(engine, "t", "asked") == number


def test_a_request_that_takes_too_long(client: TestClient) -> None:
    assert client.get(f"{ROUTE}?kind=sleep&seconds=60").status_code == 500
    assert client.get(ROUTE).status_code == 200


def test_four_at_a_time(client: TestClient) -> None:
    answers: list[str] = []

    def ask() -> None:
        answers.append(client.get(f"{ROUTE}?kind=sleep&seconds=0.3").text)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    engine: Engine = client.engine  # type: ignore[attr-defined]
    wait(lambda: sum(one["running"] for one in engine.worker_processes()["workers"]) == 4)
    for thread in threads:
        thread.join()
    assert answers == ["slept"] * 6
