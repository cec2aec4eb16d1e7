"""Rows and requests become messages: to webhooks, chat rooms and by mail, no more than so many a minute."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from walmill_hookspecs import (
    BadSettings,
    Context,
    Duration,
    HTTPError,
    Reply,
    Request,
    RetryLater,
    Secret,
    WriteBatch,
    hookimpl,
    setting,
    settings,
)
from walmill_notify.bucket import Bucket
from walmill_notify.message import Message, digest, of_row, template_problem
from walmill_notify.send import Later, Mail, Refused, Webhook

LONGEST_WAIT = 300.0
"""Seconds: back-off grows to this."""
SENT_SECONDS = 24 * 3600.0
"""What was sent is remembered for so long, if a later message of its batch could not be sent."""


@settings
class Notify:
    """Whom to tell, how, and what."""

    to: Literal["webhook", "slack", "mail"] = setting(
        "webhook posts JSON; slack posts what Slack, Mattermost and Rocket.Chat take; mail sends mail",
        default="webhook",
    )
    url: Secret | None = setting("where webhook and slack post to", default=None)
    token: Secret | None = setting("sent as Bearer token with webhook", default=None)
    host: str = setting("the mail server", default="localhost")
    port: int = setting("its port", default=587, minimum=1, maximum=65535)
    security: Literal["starttls", "tls", "none"] = setting("how to talk to the mail server", default="starttls")
    username: str | None = setting("who logs in there", default=None)
    password: Secret | None = setting("the password", default=None)
    sender: str | None = setting("from whom mail is", default=None)
    recipients: list[str] = setting("to whom it goes", default=[])
    title: str = setting("a template: names of tags and fields in braces", default="{rule} {state}")
    text: str = setting("a template", default="{message}")
    only: list[str] = setting("only rows whose field or tag `state` is one of these; all if none is named", default=[])
    per_minute: int = setting("so many messages a minute at most", default=30, minimum=1, maximum=6000)
    timeout: Duration = setting("how long an answer may take", default="10s", minimum="1ms")

    def __attrs_post_init__(self) -> None:
        problems = []
        if self.to == "mail":
            if not self.sender or not _is_address(self.sender):
                problems.append(f"sender={self.sender!r} is no address; mail needs one")
            if not self.recipients:
                problems.append("mail needs 'recipients'")
            problems += [f"recipients: {one!r} is no address" for one in self.recipients if not _is_address(one)]
        elif self.url is None:
            problems.append(f"{self.to} needs 'url'")
        elif not self.url.reveal().startswith(("env:", "file:")):
            parts = urlsplit(self.url.reveal())
            if parts.scheme not in ("http", "https") or not parts.hostname:
                problems.append("'url' is not an http or https URL")
        for name in ("title", "text"):
            wrong = template_problem(getattr(self, name))
            if wrong is not None:
                problems.append(f"{name}: {wrong}")
        if problems:
            raise BadSettings("; ".join(problems))

    def way(self) -> Webhook | Mail:
        """How messages go."""
        seconds = self.timeout.total_seconds()
        if self.to == "mail":
            assert self.sender is not None
            return Mail(
                host=self.host,
                port=self.port,
                sender=self.sender,
                recipients=tuple(self.recipients),
                security=self.security,
                username=self.username,
                password=None if self.password is None else self.password.reveal(),
                timeout=seconds,
            )
        assert self.url is not None
        token = None if self.token is None or self.to == "slack" else self.token.reveal()
        return Webhook(url=self.url.reveal(), shape=self.to, token=token, timeout=seconds)


def _is_address(text: str) -> bool:
    return (
        text.count("@") == 1
        and not text.startswith("@")
        and not text.endswith("@")
        and text.isprintable()
        and " " not in text
    )


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Notify


@hookimpl
def on_write(batch: WriteBatch, ctx: Context[Notify]) -> None:
    """Sends each row as a message, at least once; what would be too many goes together in one."""
    chosen = ctx.settings
    messages = [
        of_row(table.name, table.tags, row, title=chosen.title, text=chosen.text)
        for table in batch.tables.values()
        for row in table.rows()
        if not chosen.only or str(row.get("state")) in chosen.only
    ]
    # what an attempt before this one has sent is not sent again
    messages = [message for message in messages if not ctx.cache.get(f"sent:{message.key}")]
    if not messages:
        return
    bucket = _bucket(ctx)
    # one is kept for those that do not get one of their own
    free = int(bucket.tokens)
    apart = len(messages) if len(messages) <= free else max(0, free - 1)
    parts = [[message] for message in messages[:apart]]
    if messages[apart:]:
        parts.append(messages[apart:])
    way = chosen.way()
    sent: list[str] = []
    for part in parts:
        message = part[0] if len(part) == 1 else digest(part)
        taken = bucket.take()
        if taken is None:
            why = f"{chosen.per_minute} messages a minute are sent"
            raise _later(ctx, bucket, sent, why, bucket.wait(chosen.per_minute))
        try:
            way.send(message)
        except Later as error:
            wait = min(LONGEST_WAIT, 0.5 * 2.0 ** min(ctx.run.attempt, 12))
            raise _later(ctx, bucket, sent, str(error), wait if error.after is None else error.after) from None
        except Refused as error:
            ctx.log.error("the message %s is refused and not sent again: %s", message.key, error)
            ctx.cache.incr("refused")
        bucket = taken
        sent += [one.key for one in part]
    _keep(ctx, bucket)


def _later(ctx: Context[Notify], bucket: Bucket, sent: list[str], why: str, after: float) -> RetryLater:
    """Notes what was sent already, in a commit of its own, for the attempt after this one."""
    if sent:
        for key in sent:
            ctx.cache.put(f"sent:{key}", True, ttl=SENT_SECONDS)
        _keep(ctx, bucket)
        ctx.checkpoint()
    return RetryLater(why, after=after)


@hookimpl
def on_request(request: Request, ctx: Context[Notify]) -> Reply:
    """Sends what is posted: JSON with `text`, and `title` if there is one, or a plain text."""
    if request.method != "POST":
        raise HTTPError(405, "post a text, or JSON with text and title", {"Allow": "POST"})
    title, text, values = _posted(request)
    bucket = _bucket(ctx)
    taken = bucket.take()
    if taken is None:
        wait = max(1, round(bucket.wait(ctx.settings.per_minute)))
        raise HTTPError(
            429, f"{ctx.settings.per_minute} messages a minute are sent; try again later", {"Retry-After": str(wait)}
        )
    key = request.headers.get("idempotency-key") or ctx.run.key
    message = Message(title=" ".join(title.split())[:200], text=text, key=_header(key), values=values)
    try:
        ctx.settings.way().send(message)
    except Later as error:
        raise HTTPError(503, str(error), {"Retry-After": str(max(1, round(error.after or 5)))}) from None
    except Refused as error:
        raise HTTPError(502, str(error)) from None
    _keep(ctx, taken)
    return {"sent": message.key}


def _posted(request: Request) -> tuple[str, str, dict[str, Any]]:
    """Title, text and values of a request.

    Raises:
        HTTPError: 400 if there are none.
    """
    if "json" not in request.headers.get("content-type", ""):
        text = request.text().strip()
        if not text:
            raise HTTPError(400, "the body is empty; post a text, or JSON with text and title")
        return "", text, {}
    said = request.json()
    if not isinstance(said, dict) or not isinstance(said.get("text"), str) or not said["text"].strip():
        raise HTTPError(400, "the body has no text: post for example {'title': 'press 3', 'text': 'is hot'}")
    title = said.get("title", "")
    if not isinstance(title, str):
        raise HTTPError(400, "the title is no text")
    for one in (title, said["text"]):
        if any("\ud800" <= letter <= "\udfff" for letter in one):
            raise HTTPError(400, "the text holds half of a character (a lone surrogate)")
    return title, said["text"], said


def _header(text: str) -> str:
    """A key that can be a header, whoever sent it."""
    return "".join(one for one in text if one.isascii() and one.isprintable() and one not in "<>@ ")[:128] or "none"


def _bucket(ctx: Context[Notify]) -> Bucket:
    now = int(ctx.now().timestamp() * 1e6) * 1_000
    per_minute = ctx.settings.per_minute
    known = ctx.cache.get("bucket")
    full = Bucket(float(per_minute), now)
    return full if known is None else Bucket(*known).filled(now, per_minute)


def _keep(ctx: Context[Notify], bucket: Bucket) -> None:
    ctx.cache.put("bucket", [bucket.tokens, bucket.at])
