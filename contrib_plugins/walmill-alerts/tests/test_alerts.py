"""Alerts begin once, end once, and are told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walmill_alerts import deadman, thresholds, webhook
from walmill_alerts.deadman import Deadman
from walmill_alerts.rule import Limits, Watch, step
from walmill_alerts.thresholds import Thresholds
from walmill_alerts.webhook import Webhook, idempotency_key

from walmill_hookspecs import BadSettings, RetryLater
from walmill_hookspecs.fakes import FakeContext, tick, write_batch
from walmill_hookspecs.settings import parse


def rows(*values: float | None, start: int = 1, host: str = "a") -> list[dict[str, Any]]:
    return [{"host": host, "temp": value, "time": start + place} for place, value in enumerate(values)]


def states(context: FakeContext) -> list[tuple[str, Any, Any]]:
    return [(line.tags["host"], line.fields["state"], line.time) for line in context.written]


def test_an_alert_begins_once_and_ends_below_its_clear_limit() -> None:
    context = FakeContext(settings=Thresholds(field="temp", above=90.0, clear=85.0), trigger="heat")
    batch = write_batch({"room": rows(80, 91, 95, 88, 84, 92)}, tags={"room": ["host"]})
    thresholds.on_write(batch, context)
    assert states(context) == [("a", "firing", 2), ("a", "resolved", 5), ("a", "firing", 6)]
    first = context.written[0]
    assert first.table == "alerts"
    assert first.tags == {"host": "a", "rule": "heat", "severity": "warning"}
    assert first.fields["limit"] == 90.0
    assert "above 90" in str(first.fields["message"])


def test_the_state_carries_over_batches_and_late_rows_are_left_out() -> None:
    context = FakeContext(settings=Thresholds(field="temp", below=10.0))
    for batch_rows in (rows(5, start=10), rows(50, start=3), rows(4, start=11), rows(12, start=12)):
        thresholds.on_write(write_batch({"room": batch_rows}, tags={"room": ["host"]}), context)
    assert states(context) == [("a", "firing", 10), ("a", "resolved", 12)]


def test_a_breach_has_to_last() -> None:
    context = FakeContext(settings=parse(Thresholds, {"field": "temp", "above": "1", "lasting": "3ns"}))
    thresholds.on_write(write_batch({"room": rows(2, 0, 2, 2, 2, 2)}, tags={"room": ["host"]}), context)
    assert states(context) == [("a", "firing", 6)]
    assert context.written[0].fields["since"] == 3


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 100), max_size=30), st.floats(40, 60), st.floats(0, 10))
def test_states_alternate(values: list[float], above: float, gap: float) -> None:
    limits = Limits(above=above, clear=above - gap)
    changes = step(Watch(), limits, [{"time": n, "v": value} for n, value in enumerate(values)], "v")
    assert [change.firing for change in changes] == [n % 2 == 0 for n in range(len(changes))]
    assert all(change.value > above if change.firing else change.value <= above - gap for change in changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"field": "t"}, "give 'above' or 'below'"),
        ({"field": "t", "above": "1", "clear": "2"}, "before it begins"),
        ({"field": "t", "below": "1", "clear": "0"}, "before it begins"),
        ({"field": "t", "above": "3", "below": "1", "clear": "2"}, "one limit"),
        ({"above": "3"}, "'field' is missing"),
    ],
)
def test_bad_rules(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        parse(Thresholds, arguments)


def test_deadman_speaks_once_and_again_when_heard() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    base = int(now.timestamp()) * 1_000_000_000
    newest = {"a": base - 30_000_000_000, "b": base - 5_000_000_000}

    def answer(sql: str, params: dict[str, Any]) -> Any:
        if "information_schema" in sql:
            return [{"column_name": "host"}]
        return [{"host": host, "newest": time} for host, time in newest.items()]

    context = FakeContext(settings=parse(Deadman, {"table": "room", "timeout": "10s"}), answers=answer, now=now)
    deadman.on_schedule(tick(now), context)
    deadman.on_schedule(tick(now), context)
    assert states(context) == [("a", "firing", base)]
    later = now + timedelta(seconds=3)
    newest["a"] = base
    deadman.on_schedule(tick(later), context)
    assert [state for _, state, _ in states(context)] == ["firing", "resolved"]


class Receiver(BaseHTTPRequestHandler):
    """Answers with the next status of the server's list, and remembers what came."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        server.seen.append((self.headers["Idempotency-Key"], self.headers["Authorization"], json.loads(body)))
        self.send_response(server.statuses.pop(0) if server.statuses else 204)
        self.send_header("Retry-After", "2")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def receiver() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Receiver)
    server.seen, server.statuses = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


ALERT = {"rule": "heat", "severity": "warning", "state": "firing", "message": "hot", "value": 91.0, "time": 5}
BATCH = write_batch({"alerts": [ALERT]}, tags={"alerts": ["rule", "severity"]})


def hook_to(server: Any, **more: str) -> FakeContext:
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    return FakeContext(settings=parse(Webhook, {"url": url, **more}))


def test_a_webhook_that_is_down_for_a_while_gets_the_alert_with_the_same_key(receiver: Any) -> None:
    receiver.statuses[:] = [503, 429]
    context = hook_to(receiver, token="secret-token")
    for _ in range(2):
        with pytest.raises(RetryLater) as raised:
            webhook.on_write(BATCH, context)
        assert raised.value.after == 2.0
    webhook.on_write(BATCH, context)
    keys = {key for key, _, _ in receiver.seen}
    assert keys == {idempotency_key("alerts", {"rule": "heat", "severity": "warning"}, 5)}
    assert receiver.seen[0][1] == "Bearer secret-token"
    assert receiver.seen[-1][2]["text"] == "[warning] heat: hot"
    assert receiver.seen[-1][2]["value"] == 91.0


def test_a_webhook_that_refuses_is_not_asked_again(receiver: Any) -> None:
    receiver.statuses[:] = [400]
    context = hook_to(receiver)
    webhook.on_write(BATCH, context)
    assert context.cache.get("refused") == 1
    assert context.logs[0][0] == "ERROR"


def test_no_answer_is_tried_again() -> None:
    context = FakeContext(settings=parse(Webhook, {"url": "http://127.0.0.1:9/", "timeout": "1s"}), attempt=3)
    with pytest.raises(RetryLater) as raised:
        webhook.on_write(BATCH, context)
    assert raised.value.after == 4.0


def test_states_that_are_not_told(receiver: Any) -> None:
    webhook.on_write(BATCH, hook_to(receiver, states="resolved"))
    assert receiver.seen == []


def test_a_url_that_is_none() -> None:
    with pytest.raises(BadSettings, match="not an http or https URL"):
        parse(Webhook, {"url": "ftp://example.org"})
