from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine, Identity, create_app
from walmill.errors import PluginFailure
from walmill.http.requests import RequestTriggers
from walmill.http.site import Site
from walmill_hookspecs import HTTPError, Request, Response, hookimpl

PATH = "/api/v3/engine"


class Answering:
    """Answers what it was made with, and keeps what it was asked."""

    def __init__(self, reply: Callable[[Request], Any]) -> None:
        self.reply = reply
        self.asked: list[Request] = []

    @hookimpl
    def on_request(self, request: Request, ctx: Any) -> Any:
        del ctx
        self.asked.append(request)
        return self.reply(request)


@pytest.fixture
def serve(engine: Engine) -> Callable[..., Answering]:
    def make(reply: Callable[[Request], Any], path: str = "x", name: str = "t", **more: Any) -> Answering:
        plugin = Answering(reply)
        engine.register(plugin, name=name)
        engine.create_trigger(database="d", name=name, plugin=name, spec=f"request:{path}", **more)
        return plugin

    return make


def _raise(error: BaseException) -> Any:
    raise error


def _pieces(*pieces: Any) -> Iterator[Any]:
    yield from pieces


async def _later(*pieces: Any) -> AsyncIterator[Any]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


@pytest.mark.parametrize(
    ("reply", "status", "content_type", "body"),
    [
        (lambda r: "text", 200, "text/html; charset=utf-8", b"text"),
        (lambda r: b"\x00\xff", 200, "application/octet-stream", b"\x00\xff"),
        (lambda r: {"a": [1, None]}, 200, "application/json", b'{"a": [1, null]}'),
        (lambda r: [], 200, "application/json", b"[]"),
        (lambda r: None, 204, None, b""),
        (lambda r: ("made", 201), 201, "text/html; charset=utf-8", b"made"),
        (lambda r: ("made", 201, {"Content-Type": "text/plain"}), 201, "text/plain", b"made"),
        (lambda r: Response(b"x", 418, {"x-tea": "pot"}, "image/x"), 418, "image/x", b"x"),
        (lambda r: _pieces("a", b"b", "c"), 200, "text/html; charset=utf-8", b"abc"),
        (lambda r: _pieces(), 200, "text/html; charset=utf-8", b""),
        (lambda r: _later("a", b"b"), 200, "text/html; charset=utf-8", b"ab"),
        (lambda r: Response(_pieces("1\n"), media_type="application/jsonl"), 200, "application/jsonl", b"1\n"),
        (lambda r: ("ignored", 304), 304, "text/html; charset=utf-8", b""),
        (lambda r: ("", 200, {"Content-Length": "99"}), 200, "text/html; charset=utf-8", b""),
    ],
)
def test_answers(
    client: TestClient, serve: Any, reply: Any, status: int, content_type: str | None, body: bytes
) -> None:
    serve(reply)
    answer = client.get(f"{PATH}/x")
    assert (answer.status_code, answer.headers.get("content-type"), answer.content) == (status, content_type, body)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (lambda r: _raise(RuntimeError("secret words")), 500),
        (lambda r: _raise(SystemExit(3)), 500),
        (lambda r: object(), 500),
        (lambda r: ("a", "b"), 500),
        (lambda r: ("a", 99), 500),
        (lambda r: ("a", 101), 500),
        (lambda r: ("a", 200, {"x y": "1"}), 500),
        (lambda r: ("a", 200, {"x": "1\r\ny: 2"}), 500),
        (lambda r: ("a", 200, {"x": "\u20ac"}), 500),
        (lambda r: _pieces(5), 500),
        (lambda r: {"a": float("nan")}, 500),
        (lambda r: r.json(), 400),
        (lambda r: _raise(HTTPError(404, "no such device")), 404),
    ],
)
def test_failures_are_a_sentence_in_json(client: TestClient, serve: Any, reply: Any, status: int) -> None:
    serve(reply)
    answer = client.post(f"{PATH}/x", content=b"{")
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert "Traceback" not in answer.text
    assert "secret words" not in answer.text


async def _bad_pieces(error: BaseException) -> AsyncIterator[str]:
    yield "a"
    raise error


@pytest.mark.parametrize("error", [RuntimeError("secret words"), SystemExit(1)])
def test_a_stream_that_fails_breaks_off(client: TestClient, serve: Any, error: BaseException) -> None:
    serve(lambda r: _bad_pieces(error), max_concurrency=1)
    serve(lambda r: "still here", "y", "u")
    for _ in range(3):
        with pytest.raises(PluginFailure, match="failed in run"):
            client.get(f"{PATH}/x")
    assert client.get(f"{PATH}/y").text == "still here"


def test_a_failure_names_its_run(client: TestClient, serve: Any) -> None:
    serve(lambda r: _raise(RuntimeError("boom")))
    message = client.get(f"{PATH}/x").json()["error"]
    assert "'t'" in message
    assert "run" in message


def test_what_a_plugin_gets(client: TestClient, serve: Any) -> None:
    plugin = serve(lambda r: None, "devices/{id:int}/{rest:path}", methods=["PUT"])
    headers = {"Authorization": "Bearer hidden", "Cookie": "session=hidden", "X-One": "1"}
    answer = client.put(f"{PATH}/devices/007/a%20b/c?q=1&q=2&e=", content=b"body", headers=headers)
    assert answer.status_code == 204
    [request] = plugin.asked
    assert (request.method, request.path, request.body) == ("PUT", "devices/007/a b/c", b"body")
    assert request.path_params == {"id": 7, "rest": "a b/c"}
    assert request.query_params.getlist("q") == ["1", "2"]
    assert request.query_params["e"] == ""
    assert request.headers["x-one"] == "1"
    assert "hidden" not in str(list(request.headers.items()))
    assert request.client == ("testclient", 50000)
    assert request.identity is None


def test_gzip_bodies_come_decompressed(client: TestClient, serve: Any) -> None:
    plugin = serve(lambda r: r.text())
    answer = client.post(f"{PATH}/x", content=gzip.compress(b"hello"), headers={"content-encoding": "gzip"})
    assert answer.text == "hello"
    assert "content-encoding" not in plugin.asked[0].headers
    assert client.post(f"{PATH}/x", content=b"x" * 100_001).status_code == 413


def test_the_identity_is_the_callers(engine: Engine, serve: Any) -> None:
    plugin = serve(lambda r: None)
    token = engine.create_token("joe")
    with TestClient(create_app(engine, close_engine=False)) as client:
        assert client.get(f"{PATH}/x").status_code == 401
        client.get(f"{PATH}/x", headers={"authorization": f"Bearer {token}"})
    with TestClient(create_app(engine, auth=lambda r: Identity("host"), close_engine=False)) as client:
        client.get(f"{PATH}/x")
    assert [one.identity for one in plugin.asked] == ["joe", "host"]


def test_methods_of_one_path_may_be_several_triggers(client: TestClient, serve: Any) -> None:
    serve(lambda r: "read", "x", "reader", methods=["GET"])
    serve(lambda r: "written", "x", "writer", methods=["POST"])
    assert client.get(f"{PATH}/x").text == "read"
    assert client.post(f"{PATH}/x").text == "written"
    refused = client.delete(f"{PATH}/x")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert refused.json()["error"].startswith(f"{PATH}/x does not know the method DELETE")
    options = client.options(f"{PATH}/x")
    assert (options.status_code, options.headers["allow"], options.content) == (204, "GET, HEAD, OPTIONS, POST", b"")


def test_head_is_get_without_a_body(client: TestClient, serve: Any) -> None:
    serve(lambda r: "12345", "x", "whole")
    serve(lambda r: _pieces("12345"), "stream", "stream", max_concurrency=1)
    for _ in range(5):  # a stream that is never read gives its place back
        whole, stream = client.head(f"{PATH}/x"), client.head(f"{PATH}/stream")
    assert (whole.status_code, whole.headers["content-length"], whole.content) == (200, "5", b"")
    assert (stream.status_code, stream.content) == (200, b"")
    assert "content-length" not in stream.headers


def test_head_and_options_can_have_triggers_of_their_own(client: TestClient, serve: Any) -> None:
    serve(lambda r: ("", 200, {"x-by": "get"}), "x", "a", methods=["GET"])
    serve(lambda r: ("", 200, {"x-by": "head"}), "x", "b", methods=["HEAD"])
    serve(lambda r: ("", 200, {"x-by": "options"}), "x", "c", methods=["OPTIONS"])
    assert client.get(f"{PATH}/x").headers["x-by"] == "get"
    assert client.head(f"{PATH}/x").headers["x-by"] == "head"
    assert client.options(f"{PATH}/x").headers["x-by"] == "options"


@pytest.mark.parametrize("path", ["", "/", "/y", "/x/", "/x/y", "/devices/abc", "/devices/1/2"])
def test_unknown_paths_are_404_in_json(client: TestClient, serve: Any, path: str) -> None:
    serve(lambda r: "x", "x", "a")
    serve(lambda r: "device", "devices/{id:int}", "b")
    answer = client.get(f"{PATH}{path}")
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def test_routes_come_and_go_with_their_triggers(client: TestClient, engine: Engine, serve: Any) -> None:
    serve(lambda r: "here")

    def status() -> int:
        return int(client.get(f"{PATH}/x").status_code)

    assert status() == 200
    engine.disable_trigger("d", "t")
    _until(lambda: status() == 404)
    engine.enable_trigger("d", "t")
    _until(lambda: status() == 200)
    engine.delete_trigger("d", "t", force=True)
    _until(lambda: status() == 404)


def _until(true: Callable[[], bool]) -> None:
    """A definition is durable a moment before the mill has taken it up."""
    wait = threading.Event()
    for _ in range(500):
        if true():
            return
        wait.wait(0.01)
    raise AssertionError("it did not come true in five seconds")


class Patient:
    """Waits until it is cancelled, then says so."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()

    @hookimpl
    async def on_request(self, request: Request, ctx: Any) -> Any:
        if request.path == "stream":
            return self._endless()
        self.began.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.ended.set()

    async def _endless(self) -> AsyncIterator[str]:
        try:
            while True:
                self.began.set()
                yield "x"
                await asyncio.sleep(0.005)
        finally:
            self.ended.set()


@pytest.mark.parametrize("path", ["wait", "stream"])
def test_a_run_ends_when_its_caller_goes_away(engine: Engine, path: str) -> None:
    plugin = Patient()
    engine.register(plugin, name="p")
    engine.create_trigger(database="d", name="p", plugin="p", spec="request:{what:path}", max_concurrency=1)
    endpoint = RequestTriggers(Site(engine))

    async def ask() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        body_read = False

        async def receive() -> dict[str, Any]:
            nonlocal body_read
            if not body_read:
                body_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.to_thread(plugin.began.wait, 5)
            while path == "stream" and len(sent) < 3:
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": f"{PATH}/{path}",
            "query_string": b"",
            "headers": [],
            "path_params": {"walmill_path": path},
        }
        await asyncio.wait_for(_settled(endpoint(scope, receive, send)), 5)
        return sent

    async def _settled(asked: Any) -> None:
        with contextlib.suppress(Exception):  # what is answered to nobody does not matter here
            await asked

    for _ in range(3):  # its only place is free again each time
        plugin.began.clear()
        plugin.ended.clear()
        sent = asyncio.run(ask())
        assert plugin.ended.wait(5)
        if path == "stream":
            assert sent[0]["status"] == 200
            assert all(message.get("more_body") for message in sent[1:])
