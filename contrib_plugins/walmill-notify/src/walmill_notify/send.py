"""Sending: to a webhook, to a chat room, by mail."""

from __future__ import annotations

import http.client
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from attrs import frozen

from walmill_notify.message import Message


class Refused(Exception):
    """It will never be taken; the message says why."""


class Later(Exception):
    """It may be taken later.

    Attributes:
        after: Seconds, if the other side says so.
    """

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


@frozen(kw_only=True)
class Webhook:
    """Posts JSON.

    Attributes:
        url: Where to.
        shape: `webhook`: the message with all values; `slack`: what Slack, Mattermost, Rocket.Chat and others take.
        token: Sent as Bearer.
        timeout: Seconds that an answer may take.
    """

    url: str
    shape: str = "webhook"
    token: str | None = None
    timeout: float = 10.0

    @property
    def where(self) -> str:
        """The host: a URL of a chat room is a secret."""
        return self.url.split("/")[2].rpartition("@")[2]

    def send(self, message: Message) -> None:
        """Sends it.

        Raises:
            Later: If it may be taken later.
            Refused: If not.
        """
        body: Mapping[str, Any]
        if self.shape == "slack":
            body = {"text": f"*{message.title}*\n{message.text}" if message.title else message.text}
        else:
            body = {"title": message.title, "text": message.text, "values": message.values, "key": message.key}
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": message.key,
            "User-Agent": "walmill-notify",
        }
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = json.dumps(body, default=str).encode()
        request = urllib.request.Request(self.url, data, headers, method="POST")  # noqa: S310 - settings check the scheme
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310 - the same
                answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (408, 425, 429) or error.code >= 500:
                    raise Later(
                        f"{self.where} answered {error.code}", _seconds(error.headers.get("Retry-After"))
                    ) from None
                raise Refused(f"{self.where} answered {error.code}") from None
        except (OSError, http.client.HTTPException) as error:
            raise Later(f"{self.where} gave no answer: {getattr(error, 'reason', error)}") from None


@frozen(kw_only=True)
class Mail:
    """Sends mail.

    Attributes:
        host: The server.
        port: Its port.
        sender: From whom.
        recipients: To whom.
        security: `starttls`, `tls` or `none`.
        username: Who logs in; None for nobody.
        password: The password.
        timeout: Seconds that an answer may take.
    """

    host: str
    port: int
    sender: str
    recipients: tuple[str, ...]
    security: str = "starttls"
    username: str | None = None
    password: str | None = None
    timeout: float = 10.0

    @property
    def where(self) -> str:
        """The server."""
        return f"{self.host}:{self.port}"

    def send(self, message: Message) -> None:
        """Sends it; see `Webhook.send`."""
        mail = EmailMessage()
        mail["Subject"] = message.title or "Walmill"
        mail["From"] = self.sender
        mail["To"] = ", ".join(self.recipients)
        mail["Date"] = formatdate(usegmt=True)
        mail["Message-ID"] = f"<{message.key}@walmill>"  # a mail that comes twice is known by it
        mail.set_content(message.text or message.title)
        try:
            with self._open() as server:
                if self.username is not None:
                    server.login(self.username, self.password or "")
                refused = server.send_message(mail)
        except smtplib.SMTPResponseException as error:
            why = f"{self.where} answered {error.smtp_code} {_text(error.smtp_error)}"
            raise (Later(why) if 400 <= error.smtp_code < 500 else Refused(why)) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            why = f"{self.where} refused {', '.join(error.recipients)}"
            raise (Later(why) if all(400 <= code < 500 for code in codes) else Refused(why)) from None
        except smtplib.SMTPNotSupportedError as error:
            raise Refused(f"{self.where}: {error}") from None
        except (OSError, smtplib.SMTPException) as error:
            raise Later(f"{self.where} gave no answer: {error}") from None
        if refused:
            raise Refused(f"{self.where} refused {', '.join(refused)}; the others have it")

    def _open(self) -> smtplib.SMTP:
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout, context=ssl.create_default_context())
        server = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        if self.security == "starttls":
            try:
                server.starttls(context=ssl.create_default_context())
            except BaseException:
                server.close()
                raise
        return server


def _text(said: bytes | str) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, min(300.0, float(text)))
    except ValueError:  # a date: the server's clock is not ours
        return None
