"""Messages go out once, to real servers, no more than so many a minute."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from hypothesis import given
from hypothesis import strategies as st
from walmill_notify import notify
from walmill_notify.bucket import Bucket
from walmill_notify.message import fill, template_problem
from walmill_notify.notify import Notify

from walmill.testing.suite import plugin_suite
from walmill_hookspecs import BadSettings, HTTPError, RetryLater
from walmill_hookspecs.fakes import FakeContext, request, write_batch
from walmill_hookspecs.settings import parse

# nobody is there: rows wait for their time, and requests are told
TestContract = plugin_suite(
    "walmill_notify.notify",
    rows='alerts,rule=hot state="firing",message="press 3" 1',
    arguments={"url": "http://127.0.0.1:9/hook"},
    requests=(),
)


class Receiver(BaseHTTPRequestHandler):
    """Answers with the next status of the server's list, and remembers what came."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.headers["Idempotency-Key"], self.headers["Authorization"], body))
        self.send_response(server.statuses.pop(0) if server.statuses else 204)
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Receiver)
    server.seen, server.statuses = [], []
    server.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Postbox:
    """A mail server that remembers what came."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.port = 0
        self.answer = "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any
    ) -> str:
        from email import message_from_bytes, policy

        if self.answer.startswith("250"):
            made = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(made, EmailMessage)
            self.mails.append((envelope.rcpt_tos, made))
        return self.answer

    async def handle_RCPT(  # noqa: N802 - as above
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address.startswith("nobody"):
            return "550 no such person"
        envelope.rcpt_tos.append(address)
        return "250 OK"


@pytest.fixture
def postbox() -> Iterator[Any]:
    box = Postbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        box.port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=box.port)
    controller.start()
    yield box
    controller.stop()


def alerts(count: int, first: int = 1, state: str = "firing") -> Any:
    rows = [{"rule": "hot", "state": state, "message": f"no. {n}", "time": n} for n in range(first, first + count)]
    return write_batch({"alerts": rows}, tags={"alerts": ["rule"]})


def telling(url: str, **more: Any) -> FakeContext:
    return FakeContext(settings=parse(Notify, {"url": url, **more}))


def test_a_row_is_told(receiver: Any) -> None:
    context = telling(receiver.url, token="secret", only="firing")
    notify.on_write(alerts(1), context)
    notify.on_write(alerts(1, state="resolved"), context)
    ((key, token, body),) = receiver.seen
    assert token == "Bearer secret"
    assert (body["title"], body["text"], body["key"]) == ("hot firing", "no. 1", key)
    assert body["values"]["time"] == "1970-01-01T00:00:00+00:00"
    slack = telling(receiver.url, to="slack", text="{message} at {time} of {nothing}", title="")
    notify.on_write(alerts(1), slack)
    assert receiver.seen[-1][2] == {"text": "no. 1 at 1970-01-01T00:00:00+00:00 of "}


def test_what_was_sent_before_a_failure_is_not_sent_again(receiver: Any) -> None:
    receiver.statuses[:] = [204, 503]
    context = telling(receiver.url)
    with pytest.raises(RetryLater) as raised:
        notify.on_write(alerts(3), context)
    assert raised.value.after == 7.0
    assert context.checkpoints == [None]
    notify.on_write(alerts(3), context)
    assert [body["text"] for _, _, body in receiver.seen] == ["no. 1", "no. 2", "no. 2", "no. 3"]
    assert receiver.seen[1][0] == receiver.seen[2][0], "the same message has the same key"


def test_too_many_go_together(receiver: Any) -> None:
    context = telling(receiver.url, per_minute="5")
    notify.on_write(alerts(40), context)
    assert [body["title"] for _, _, body in receiver.seen] == ["hot firing"] * 4 + ["36 messages"]
    assert receiver.seen[-1][2]["text"].endswith("… and 16 more")
    with pytest.raises(RetryLater) as raised:
        notify.on_write(alerts(1, 100), context)
    assert raised.value.after == pytest.approx(12)
    context.advance(12.5)
    notify.on_write(alerts(1, 100), context)
    assert len(receiver.seen) == 6


def test_what_is_refused_is_not_sent_again(receiver: Any) -> None:
    receiver.statuses[:] = [404]
    context = telling(receiver.url)
    notify.on_write(alerts(2), context)
    assert len(receiver.seen) == 2
    assert context.cache.get("refused") == 1
    assert "answered 404" in context.logs[0][1]
    assert "/hook" not in context.logs[0][1], "the path of a chat room is a secret"


def test_nobody_is_there() -> None:
    context = FakeContext(settings=parse(Notify, {"url": "http://127.0.0.1:9/"}), attempt=3)
    with pytest.raises(RetryLater, match="gave no answer") as raised:
        notify.on_write(alerts(1), context)
    assert raised.value.after == 4.0


def mailing(postbox: Any, **more: str) -> FakeContext:
    arguments = {"to": "mail", "host": "127.0.0.1", "port": str(postbox.port), "security": "none"}
    return FakeContext(settings=parse(Notify, {**arguments, "sender": "a@b.c", "recipients": "x@y.z,v@w.u", **more}))


def test_mail(postbox: Any) -> None:
    context = mailing(postbox, title="{rule}\n{state}", text="Größe: {message}")
    notify.on_write(alerts(1), context)
    ((to, mail),) = postbox.mails
    assert to == ["x@y.z", "v@w.u"]
    assert mail["Subject"] == "hot firing", "a title is one line, whatever is in a row"
    assert mail.get_content().strip() == "Größe: no. 1"
    assert mail["Message-ID"].endswith("@walmill>")
    postbox.answer = "451 later"
    with pytest.raises(RetryLater, match="451 later"):
        notify.on_write(alerts(1, 2), context)
    postbox.answer = "554 never"
    notify.on_write(alerts(1, 2), context)
    assert context.cache.get("refused") == 1
    notify.on_write(alerts(1, 3), mailing(postbox, recipients="nobody@y.z"))
    asked = mailing(postbox, security="starttls")
    notify.on_write(alerts(1, 4), asked)
    assert "STARTTLS" in asked.logs[0][1]
    assert len(postbox.mails) == 1


def test_requests(receiver: Any) -> None:
    context = telling(receiver.url, per_minute="2")
    said = request("POST", body=b"hot", headers={"Idempotency-Key": "k-1\n2"})
    assert notify.on_request(said, context) == {"sent": "k-12"}
    body = json.dumps({"title": "press", "text": "hot", "more": 1}).encode()
    notify.on_request(request("POST", body=body, headers={"content-type": "application/json"}), context)
    assert receiver.seen[0][0] == "k-12"
    assert receiver.seen[1][2]["values"]["more"] == 1
    with pytest.raises(HTTPError) as raised:
        notify.on_request(said, context)
    assert (raised.value.status, dict(raised.value.headers)) == (429, {"Retry-After": "30"})


@pytest.mark.parametrize(
    ("method", "body", "kind", "status"),
    [
        ("GET", b"", "", 405),
        ("POST", b" ", "text/plain", 400),
        ("POST", b"\xff", "text/plain", 400),
        ("POST", b"[1]", "application/json", 400),
        ("POST", b'{"text": 1}', "application/json", 400),
        ("POST", b'{"text": "a", "title": []}', "application/json", 400),
        ("POST", b'{"text": "\\ud800"}', "application/json", 400),
        ("POST", b"x", "text/plain", 503),
    ],
)
def test_bad_requests(method: str, body: bytes, kind: str, status: int) -> None:
    context = telling("http://127.0.0.1:9/")
    with pytest.raises(HTTPError) as raised:
        notify.on_request(request(method, body=body, headers={"content-type": kind}), context)
    assert raised.value.status == status


def test_a_request_that_the_other_side_refuses(receiver: Any) -> None:
    receiver.statuses[:] = [400]
    with pytest.raises(HTTPError) as raised:
        notify.on_request(request("POST", body=b"x"), telling(receiver.url))
    assert raised.value.status == 502


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 90_000_000_000), st.integers(0, 5)), max_size=50))
def test_never_more_than_so_many_in_a_minute(per_minute: int, steps: list[tuple[int, int]]) -> None:
    now, sent = 0, []
    bucket = Bucket(float(per_minute), 0)
    for wait, wanted in steps:
        now += wait
        bucket = bucket.filled(now, per_minute)
        for _ in range(wanted):
            taken = bucket.take()
            if taken is not None:
                bucket = taken
                sent.append(now)
            else:
                later = bucket.filled(now + round(bucket.wait(per_minute) * 1e9) + 2, per_minute)
                assert later.take() is not None, "after the wait there is one"
    for first in sent:
        # a full bucket, and what flows in within the minute
        assert sum(first <= one < first + 60_000_000_000 for one in sent) <= 2 * per_minute


@given(
    st.text(max_size=30), st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(st.floats(), st.text()), max_size=2)
)
def test_a_template_is_refused_or_filled(template: str, values: dict[str, Any]) -> None:
    if template_problem(template) is None:
        assert isinstance(fill(template, values), str)


def test_templates() -> None:
    assert fill("{a:.1f} {b}", {"a": 1.25, "b": "x"}) == "1.2 x"
    assert fill("{a:.1f} {b}", {"a": "no number", "b": "x"}) == "no number x"
    assert template_problem("{a.__class__}") is not None
    assert template_problem("{a[0]}") is not None
    assert template_problem("{") is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "webhook needs 'url'"),
        ({"to": "slack"}, "slack needs 'url'"),
        ({"url": "ftp://x"}, "not an http or https URL"),
        ({"to": "mail"}, "no address; mail needs one.*needs 'recipients'"),
        ({"to": "mail", "sender": "a@b", "recipients": "x@y,z"}, "'z' is no address"),
        ({"url": "http://x", "text": "{a.b}"}, "text: .*no name"),
        ({"url": "http://x", "per_minute": "0"}, "per_minute"),
    ],
)
def test_bad_settings(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        parse(Notify, arguments)
