"""Bodies of requests that hooks read while they come: over a real server, in this process and in workers."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.isolation.conftest import runs, state, wait

from walmill import Engine, create_app
from walmill.context.local import Limits
from walmill.http.body import Gunzip
from walmill.rehearsals import Rehearsal
from walmill_hookspecs import Request, hookimpl
from walmill_hookspecs.fakes import request

LIMIT = 100_000
KINDS = [(plugin, executor) for plugin in ("reader", "async-reader") for executor in ("process", "inline")]


class Served:
    """A server in this process, on loopback."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        app = create_app(engine, without_auth=True, close_engine=False, body_limit=LIMIT)
        config = uvicorn.Config(app, log_config=None, lifespan="on", loop="asyncio", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        wait(lambda: self._server.started)

    def post(self, body: Any, do: str = "count", headers: Any = (), *, chunked: bool = False) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(
                "POST", f"/api/v3/engine/up?do={do}", body=body, headers=dict(headers), encode_chunked=chunked
            )
            answer = connection.getresponse()
            return answer.status, answer.read()

    def begin(self, do: str) -> socket.socket:
        """A request whose body is still to come, in chunks."""
        link = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        link.sendall(
            f"POST /api/v3/engine/up?do={do} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        return link

    @property
    def running(self) -> int:
        return int(self.engine.trigger("d", "t")["running"])

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def until(link: socket.socket, end: bytes) -> bytes:
    found = b""
    while end not in found:
        got = link.recv(65536)
        assert got, found
        found += got
    return found


@pytest.fixture
def serve(tmp_path: Path, place: Path) -> Iterator[Callable[..., Served]]:
    with contextlib.ExitStack() as stack:

        def make(plugin: str, executor: str, **more: Any) -> Served:
            engine = stack.enter_context(Engine.open(data_dir=tmp_path, limits=Limits(seconds=20.0)))
            engine.create_trigger(
                database="d", name="t", plugin=plugin, spec="request:up", methods=["POST"], executor=executor, **more
            )
            served = Served(engine)
            stack.callback(served.close)
            return served

        yield make


@pytest.mark.parametrize(("plugin", "executor"), KINDS)
def test_bodies_of_every_size_come_whole_and_beyond_the_limit(
    serve: Callable[..., Served], plugin: str, executor: str
) -> None:
    served = serve(plugin, executor)
    for size in (0, 1, 65_535, 65_536, 5_000_000):
        data = os.urandom(size)
        status, answer = served.post(data)
        assert (status, json.loads(answer)) == (
            200,
            {"size": size, "digest": hashlib.sha256(data).hexdigest(), "whole": 0, "more": 0},
        )
    data = os.urandom(300_000)
    pieces = iter([data[:1], data[1:100], data[100:]])
    assert json.loads(served.post(pieces, chunked=True)[1])["digest"] == hashlib.sha256(data).hexdigest()
    assert served.engine.query("SELECT max(size) AS m FROM seen", database="d").column("m")[0].as_py() == 5_000_000
    assert json.loads(served.post(b"a\nb\n\nc", "lines")[1]) == {"lines": ["a", "b", "", "c"]}


@pytest.mark.parametrize(("plugin", "executor"), KINDS)
def test_a_body_and_its_answer_stream_at_once(serve: Callable[..., Served], plugin: str, executor: str) -> None:
    served = serve(plugin, executor)
    with served.begin("echo") as link:
        until(link, b"<")  # it has answered before anything came
        for word in (b"one", b"two", b"three"):
            link.sendall(chunk(word))
            until(link, word.upper())  # and answers each piece before the next one is sent
        link.sendall(b"0\r\n\r\n")
        assert b">" in until(link, b"0\r\n\r\n")


@pytest.mark.parametrize(("plugin", "executor"), KINDS)
def test_what_is_not_read_is_not_in_the_way(serve: Callable[..., Served], plugin: str, executor: str) -> None:
    served = serve(plugin, executor)
    connection = HTTPConnection("127.0.0.1", served.port, timeout=30)
    with contextlib.closing(connection):
        for do, status, said in (("half", 200, b"xxxxx"), ("refuse", 413, b'{"error": "too much for me"}')) * 3:
            connection.request("POST", f"/api/v3/engine/up?do={do}", body=b"x" * 3_000_000)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (status, said)


@pytest.mark.parametrize(("plugin", "executor"), KINDS)
def test_compressed_bodies(serve: Callable[..., Served], plugin: str, executor: str) -> None:
    served = serve(plugin, executor)
    data = b"walmill" * 300_000
    packed = gzip.compress(data[:1_000_000]) + gzip.compress(data[1_000_000:])
    headers = {"content-encoding": "gzip"}
    assert json.loads(served.post(packed, headers=headers)[1])["digest"] == hashlib.sha256(data).hexdigest()
    for bad, why in ((packed[:-5], b"cut off"), (packed[:2000] + b"?" * 900, b"is damaged"), (b"plain", b"not gzip")):
        status, answer = served.post(bad, headers=headers)
        assert (status, why in answer) == (400, True), answer
    status, answer = served.post(b"x", headers={"content-encoding": "br"})
    assert (status, b"unknown" in answer) == (400, True)


@pytest.mark.parametrize(("plugin", "executor"), KINDS)
def test_a_caller_that_leaves_ends_the_run(serve: Callable[..., Served], plugin: str, executor: str) -> None:
    served = serve(plugin, executor, max_concurrency=1)
    with served.begin("count") as link:
        link.sendall(chunk(b"x" * 1000))
        wait(lambda: served.running == 1)
    wait(lambda: served.running == 0)
    assert json.loads(served.post(b"abc")[1])["size"] == 3  # its place is free again
    ended = wait(lambda: [(row["status"], row["error"]) for row in runs(served.engine, "t")])
    assert ended[0] == ("cancelled", "the caller went away")
    assert {status for status, _ in ended[1:]} <= {"ok"}


@pytest.mark.parametrize(("plugin", "executor"), KINDS)
def test_a_body_that_was_read_is_not_run_again(serve: Callable[..., Served], plugin: str, executor: str) -> None:
    """Two runs change one key: the second one to commit would be repeated, but its body is gone."""
    served = serve(plugin, executor)
    with served.begin("count-up") as link:
        link.sendall(chunk(b"first"))
        wait(lambda: served.running == 1)
        wait(lambda: served.post(b"other", "count-up") == (200, b"other"))
        link.sendall(b"0\r\n\r\n")
        answer = until(link, b"again")
        begun = answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer
        assert begun or b"first" in answer  # the other one may have been the first to read the key
    assert state(served.engine, "t", "n") in (1, 2)


class _Whole:
    @hookimpl
    def on_request(self, request: Request, ctx: Any) -> Any:
        return {"whole": len(request.body)}


class _Wrapped(_Whole):
    @hookimpl(wrapper=True, specname="on_request")
    def around(self, request: Request, body: Any) -> Any:
        answer = yield
        return {**answer, "wrapper": body.read().decode()}


def test_a_hook_that_names_no_body_gets_it_whole(serve: Callable[..., Served]) -> None:
    served = serve("reader", "process")
    served.engine.register(_Whole(), name="whole")
    served.engine.register(_Wrapped(), name="wrapped")
    for plugin in ("whole", "wrapped"):
        served.engine.create_trigger(
            database="d", name=plugin, plugin=plugin, spec=f"request:{plugin}", methods=["POST"]
        )
    connection = HTTPConnection("127.0.0.1", served.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/api/v3/engine/whole", body=b"x" * 1000)
        assert json.loads(connection.getresponse().read()) == {"whole": 1000}
        connection.request("POST", "/api/v3/engine/wrapped", body=b"abc")
        assert json.loads(connection.getresponse().read()) == {"whole": 3, "wrapper": "abc"}
        connection.request("POST", "/api/v3/engine/whole", body=b"x" * (LIMIT + 1))
        assert connection.getresponse().status == 413


@pytest.mark.parametrize("plugin", ["reader", "async-reader"])
def test_a_rehearsal_reads_what_it_is_given(engine: Engine, plugin: str) -> None:
    given = request("POST", "up", query={"do": "lines"}, body="a\nb")
    asked = Rehearsal(kind="request", database="d", plugin=plugin, spec="request:up", request=given)
    answer = engine.rehearse(asked).answer
    assert answer is not None
    assert json.loads(answer["body"]) == {"lines": ["a", "b"]}


def test_gunzip_in_pieces_of_any_size() -> None:
    data = bytes(range(256)) * 500 + b"\0" * 200_000
    packed = gzip.compress(data) + zlib.compress(b"", wbits=31) + gzip.compress(b"end") + b"\0" * 50
    for step in (1, 7, 1000, len(packed)):
        for size in (1000, 65_536):
            unpack = Gunzip()
            found = [
                piece
                for start in range(0, len(packed), step)
                for piece in unpack.pieces(packed[start : start + step], size)
            ]
            unpack.finish()
            assert b"".join(found) == data + b"end"
            assert max(map(len, found)) <= size
