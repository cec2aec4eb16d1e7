"""A source that stores what an MQTT broker sends, each message once.

A message is acknowledged to the broker when it is durable here, and not before: the broker, or its sender, sends again what was
not. One that comes again is told by its id, which is remembered in the same commit in which its row is.
"""

from __future__ import annotations

import hashlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from walmill_hookspecs import Context, Line, RetryLater, WriteError, hookimpl
from walmill_mqtt.payload import Shape, Unreadable, rows_of, text_of
from walmill_mqtt.settings import Mqtt

WAIT_SECONDS = 0.1
"""After so long without a message it is looked whether the source is to end."""
LINGER_SECONDS = 0.002
"""Messages that come within this of each other share a commit."""
MOST = 1000
"""A commit has the rows of so many messages at most."""
PAYLOAD_CHARACTERS = 4096
"""So much of a message that cannot be stored is kept."""


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Mqtt


@hookimpl
def on_service(ctx: Context[Mqtt]) -> None:
    """Stores what comes until it is asked to end."""
    link = Link(ctx)
    try:
        link.connect()
        while not ctx.stopping:
            link.wait(WAIT_SECONDS)
            if link.inbox:
                while len(link.inbox) < MOST and link.wait(LINGER_SECONDS):
                    pass
                store(ctx, link.inbox, link.acknowledge)
    finally:
        link.close()


class Link:
    """The connection to the broker. Everything happens in the hook's thread.

    Args:
        ctx: The context of the source.

    Attributes:
        inbox: Messages that came and are not stored yet.
    """

    def __init__(self, ctx: Context[Mqtt]) -> None:
        self._chosen = ctx.settings
        self._log = ctx.log
        self._refused: str | None = None
        self.inbox: deque[paho.MQTTMessage] = deque()
        name = self._chosen.client_id or f"walmill-{ctx.database}-{ctx.trigger.name}"
        # the broker keeps what comes for this name while nobody is there; a trial must not take it from the source that has it
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{name}-{ctx.run.id}" if ctx.run.dry_run else name,
            clean_session=ctx.run.dry_run,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if self._chosen.username is not None:
            secret = self._chosen.password
            self._client.username_pw_set(self._chosen.username, None if secret is None else secret.reveal())
        if self._chosen.tls:
            self._client.tls_set_context(ssl.create_default_context(cafile=self._chosen.ca))
        self._client.on_message = lambda client, data, message: self.inbox.append(message)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed

    @property
    def _where(self) -> str:
        return f"the broker {self._chosen.host}:{self._chosen.port}"

    def connect(self) -> None:
        """Connects and subscribes.

        Raises:
            RetryLater: If that is not possible now.
        """
        chosen = self._chosen
        try:
            self._client.connect(chosen.host, chosen.port, max(1, round(chosen.keepalive.total_seconds())))
        except (OSError, ValueError) as error:
            raise self._later(f"{self._where} gave no answer: {error}") from None

    def _connected(self, client: paho.Client, data: Any, flags: Any, reason: ReasonCode, more: Any) -> None:
        if reason.is_failure:
            self._refused = f"{self._where} refused the connection: {reason}"
            return
        self._log.info(
            "connected to %s as %s", self._where, "a known session" if flags.session_present else "a new session"
        )
        client.subscribe([(topic, self._chosen.qos) for topic in self._chosen.topics])

    def _subscribed(self, client: paho.Client, data: Any, mid: int, reasons: list[ReasonCode], more: Any) -> None:
        for topic, reason in zip(self._chosen.topics, reasons, strict=False):
            if reason.is_failure:
                self._refused = f"{self._where} refused the topic {topic!r}: {reason}"
            else:
                self._log.info("subscribed to %s", topic)

    def wait(self, seconds: float) -> bool:
        """Takes what comes within so many seconds; whether there was anything.

        Raises:
            RetryLater: If the connection is over.
        """
        before = len(self.inbox)
        found = self._client.loop(seconds)
        if self._refused is not None:
            raise self._later(self._refused)
        if found != paho.MQTT_ERR_SUCCESS:
            raise self._later(f"{self._where} is not there any more: {paho.error_string(found)}")
        return len(self.inbox) > before

    def acknowledge(self, message: paho.MQTTMessage) -> None:
        """Tells the broker that a message is safe here."""
        self._client.ack(message.mid, message.qos)

    def close(self) -> None:
        """Leaves the broker, which goes on to keep messages for this source."""
        self._client.disconnect()
        self._client.loop(0.0)

    def _later(self, why: str) -> RetryLater:
        return RetryLater(why, after=self._chosen.reconnect.total_seconds())


def store(ctx: Context[Mqtt], inbox: deque[paho.MQTTMessage], acknowledge: Callable[[paho.MQTTMessage], None]) -> None:
    """Stores the messages that are there in one commit, and acknowledges them when it is durable."""
    chosen = ctx.settings
    shape = chosen.shape()
    came = int(ctx.now().timestamp() * 1e6) * 1_000
    seen: set[str] = set()
    for place in range(len(inbox)):
        message = inbox.popleft()
        _store_one(ctx, message, shape, came + place * 1_000, seen)
        if message.qos > 0:
            ctx.on_commit(lambda one=message: acknowledge(one))  # type: ignore[misc] # a default binds it now
    ctx.checkpoint()


def _store_one(ctx: Context[Mqtt], message: paho.MQTTMessage, shape: Shape, came: int, seen: set[str]) -> None:
    chosen = ctx.settings
    try:
        if shape.format == "line":
            ctx.write(text_of(bytes(message.payload)))
            return
        rows = rows_of(message.topic, bytes(message.payload), shape, came)
        fresh = []
        for row in rows:
            if row.id is not None:
                key = _key(row.id)
                if key in seen or ctx.cache.get(key):
                    continue
                seen.add(key)
                ctx.cache.put(key, True, ttl=chosen.remember.total_seconds())
            fresh.append(row.line)
        if fresh:
            ctx.write(fresh)
    except (Unreadable, WriteError) as error:
        ctx.log.warning("a message on %s cannot be stored: %s", message.topic, error)
        payload = message.payload.decode("utf-8", "backslashreplace")[:PAYLOAD_CHARACTERS]
        ctx.write(Line(chosen.rejected, {"topic": message.topic}, {"payload": payload, "error": str(error)}, came))


def _key(name: str) -> str:
    """The key of a message in the state, where keys have 1,024 bytes at most."""
    if len(name) > 250 or not name.isprintable():
        return f"hash:{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return f"id:{name}"
