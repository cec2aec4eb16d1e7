"""A bucket that does not answer, answers wrongly, or does not do what is needed: what is said, and that no secret is."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.seaweed import BUCKET, SECRET, Seaweed, free_ports, variables

from walmill.errors import InvalidRequest, WalmillError
from walmill.objects import remote
from walmill.objects.create import put_new_once
from walmill.objects.errors import StoreRefused, StoreUnavailable
from walmill.objects.open import open_store
from walmill.objects.remote import RemoteStore, parse_url

pytestmark = pytest.mark.may_leave(
    "file", reason="obstore keeps connections, and a runtime, as long as the process lives"
)

Answer = Callable[[http.server.BaseHTTPRequestHandler], bool]


@contextmanager
def proxy(endpoint: str, intercept: Answer) -> Iterator[str]:
    """A server before a server: what `intercept` has not answered is handed on."""
    import httpx2

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if not intercept(self):
                self.hand_on()

        def hand_on(self, *, answer: bool = True) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            with httpx2.Client(trust_env=False) as client:
                found = client.request(self.command, endpoint + self.path, content=self.body, headers=headers)
            if answer:
                self.reply(found.status_code, found.content, dict(found.headers))

        def reply(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                if name.lower() in ("etag", "last-modified", "content-type"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{made.server_address[1]}"
        try:
            with variables({"AWS_ENDPOINT_URL": url}):
                yield url
        finally:
            made.shutdown()
            thread.join(10)


def test_a_server_that_fails_now_and_then_is_asked_again(server: Seaweed, url: str) -> None:
    asked: list[str] = []

    def every_second_fails(request: Any) -> bool:
        asked.append(request.command)
        if len(asked) % 2:
            request.reply(503, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
            return True
        return False

    with proxy(server.endpoint, every_second_fails):
        store = RemoteStore(url)
        store.put("a", b"1")
        assert bytes(store.get("a")) == b"1"
        assert list(store.list()) == [("a", 1)]
    assert len(asked) >= 6


def test_a_lost_answer_to_a_create_is_recognised_by_its_bytes(server: Seaweed, url: str) -> None:
    lost: list[str] = []

    def lose_the_first(request: Any) -> bool:
        if request.command == "PUT" and not lost:
            lost.append(request.path)
            request.hand_on(answer=False)
            request.reply(500, b"<Error><Code>InternalError</Code><Message>it broke</Message></Error>")
            return True
        return False

    with proxy(server.endpoint, lose_the_first):
        store = RemoteStore(url)
        put_new_once(store, "root", b"mine, nonce 17")
        assert lost
        with pytest.raises(WalmillError, match="already"):
            put_new_once(store, "root", b"mine, nonce 18")


def careless(request: Any, objects: dict[str, bytes]) -> bool:
    """A store that keeps what it is sent, whatever the condition."""
    path, _, query = request.path.partition("?")
    name = path.removeprefix("/bucket/")
    match request.command:
        case "PUT":
            objects[name] = request.body
            request.reply(200, headers={"etag": '"1"'})
        case "POST":  # a bulk delete
            keys = re.findall(r"<Key>(.*?)</Key>", request.body.decode())
            for key in keys:
                objects.pop(key, None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            request.reply(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        case "GET" if "list-type=2" in query:
            listed = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>1</ETag>"
                "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
                for key, data in objects.items()
            )
            request.reply(
                200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>".encode()
            )
        case _ if name in objects:
            headers = {"etag": '"1"', "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            request.reply(200, objects[name], headers)
        case _:
            request.reply(404)
    return True


def test_a_store_that_ignores_the_condition_is_refused() -> None:
    objects: dict[str, bytes] = {}
    with (
        proxy("", lambda request: careless(request, objects)),
        variables({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}),
    ):
        store = RemoteStore("s3://bucket")
        store.put("a", b"1")
        assert (bytes(store.get("a")), list(store.list())) == (b"1", [("a", 1)])
        store.delete("a")
        with pytest.raises(StoreRefused, match=r"ignores the condition of a conditional create \(If-None-Match: \*\)"):
            open_store("s3://bucket")
    assert objects == {}, "the probe is taken away again"


@pytest.mark.parametrize(
    ("environment", "place", "kind", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, f"s3://{BUCKET}/x", StoreRefused, "check the credentials"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, f"s3://{BUCKET}/x", StoreRefused, "credentials"),
        ({}, "s3://no-such-bucket-here/x", StoreRefused, "no-such-bucket-here is not there"),
    ],
)
def test_what_is_wrong_with_a_bucket(
    server: Seaweed, environment: dict[str, str], place: str, kind: type[WalmillError], said: str
) -> None:
    del server
    with variables(environment), pytest.raises(kind, match=said) as caught:
        RemoteStore(place).get("a")
    assert SECRET not in caught.value.message
    assert "wrong-secret" not in caught.value.message


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 1)
    (port,) = free_ports(1)
    away = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": SECRET}
    with variables(away):
        store = RemoteStore("s3://bucket/x")
        for call in (lambda: store.get("a"), lambda: store.put("a", b""), lambda: list(store.list())):
            with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}") as caught:
                call()
            assert SECRET not in caught.value.message
            assert caught.value.retry_after


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b-1/p/q/", ("s3", "b-1", "p/q")),
        ("S3://bucket", ("s3", "bucket", "")),
        ("gs://bucket/p", ("gs", "bucket", "p")),
        ("az://container/p", ("az", "container", "p")),
        ("memory://", ("memory", "", "")),
    ],
)
def test_urls(url: str, expected: tuple[str, str, str]) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://b/x", "none of s3://"),
        ("s3://", "has no bucket"),
        ("s3:///x", "has no bucket"),
        ("s3://key:secret@bucket/x", "credentials and options come from the environment"),
        ("s3://bucket/x?region=1", "credentials and options come from the environment"),
        ("s3://bucket/.hidden", "must not start with a dot"),
        ("memory://x", "must be memory:// alone"),
    ],
)
def test_urls_that_are_none(url: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        parse_url(url)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["gs://bucket/x", "az://container/x"])
def test_other_kinds_are_opened_and_say_what_they_lack(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, and without a network."""
    monkeypatch.setattr(remote, "RETRIES", 0)
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 1)
    with pytest.raises(WalmillError) as caught:
        RemoteStore(url).get("a")
    assert url.partition("/x")[0] in caught.value.message
