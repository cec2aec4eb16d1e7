"""Delivery of alerts to a webhook: at least once, with an idempotency key."""

from __future__ import annotations

import hashlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from walmill_hookspecs import (
    BadSettings,
    Context,
    Duration,
    RetryLater,
    Secret,
    WriteBatch,
    hookimpl,
    series_key,
    setting,
    settings,
)

LONGEST_WAIT = 300.0
"""Seconds: back-off grows to this, and a `Retry-After` counts up to this."""


@settings
class Webhook:
    """Whom to tell, and how."""

    url: str = setting("where alerts are posted to")
    token: Secret | None = setting("sent as a Bearer token", default=None)
    timeout: Duration = setting("how long an answer may take", default="10s", minimum="1ms")
    template: str = setting("a text about the alert", default="[{severity}] {rule}: {message}")
    states: list[str] = setting("which states are told", default=["firing", "resolved"])

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadSettings(f"url={self.url!r} is not an http or https URL")


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Webhook


@hookimpl
def on_write(batch: WriteBatch, ctx: Context[Webhook]) -> None:
    """Posts each alert. What was delivered before a failure is posted again, with the same key."""
    for table in batch.tables.values():
        for row in table.rows():
            if row.get("state") not in ctx.settings.states:
                continue
            tags = {tag: row[tag] for tag in table.tags if row[tag] is not None}
            post(
                alert_body(table.name, tags, row, ctx.settings.template),
                idempotency_key(table.name, tags, row["time"]),
                ctx,
            )


def idempotency_key(table: str, tags: Mapping[str, str], time: int) -> str:
    """A key made from the identity of the row, which does not depend on the batch in which it comes."""
    identity = f"{table}\n{series_key(tags)}\n{time}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


class _Blanks(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return ""


def alert_body(table: str, tags: Mapping[str, str], row: Mapping[str, Any], template: str) -> dict[str, Any]:
    """What is posted."""
    time = datetime.fromtimestamp(row["time"] // 1_000_000_000, UTC).isoformat()
    values = {name: value for name, value in row.items() if name != "time" and name not in tags and value is not None}
    return {
        "table": table,
        "time": time,
        "time_ns": row["time"],
        "tags": dict(tags),
        **values,
        "text": template.format_map(_Blanks({**tags, **values, "table": table, "time": time})),
    }


def post(body: Mapping[str, Any], key: str, ctx: Context[Webhook]) -> None:
    """Posts one alert.

    Raises:
        RetryLater: If it may be accepted later.
    """
    chosen = ctx.settings
    headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "walmill-alerts"}
    if chosen.token is not None:
        headers["Authorization"] = f"Bearer {chosen.token.reveal()}"
    request = urllib.request.Request(chosen.url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310 - checked
    wait = min(LONGEST_WAIT, 0.5 * 2.0 ** min(ctx.run.attempt, 12))
    try:
        with urllib.request.urlopen(request, timeout=chosen.timeout.total_seconds()) as answer:  # noqa: S310 - checked
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (408, 429) or error.code >= 500:
                raise RetryLater(f"{chosen.url} answered {error.code}", after=_after(error.headers, wait)) from None
            ctx.log.error("%s refused the alert %s with %s; it is not sent again", chosen.url, key, error.code)
            ctx.cache.incr("refused")
    except (TimeoutError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RetryLater(f"{chosen.url} gave no answer: {reason}", after=wait) from None


def _after(headers: Any, wait: float) -> float:
    try:
        return max(0.0, min(LONGEST_WAIT, float(headers.get("Retry-After", wait))))
    except ValueError:  # a date: the server's clock is not ours
        return wait
