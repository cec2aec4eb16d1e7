"""Errors as answers: the kind decides the status, the message is for a person, a traceback never leaves the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from walmill.errors import InvalidRequest, Unavailable, WalmillError
from walmill.http.body import ClientGone, path_of, text_headers
from walmill.http.site import json_bytes
from walmill.observe.log import get_logger
from walmill.scarcity import scarce

LIMIT_MESSAGES = ("Update to schema would exceed number of", "Adding a new database would exceed limit of")
"""How messages about limits of the schema begin; they are answered with 422."""
_V2_CODES = {
    403: "forbidden",
    404: "not found",
    405: "method not allowed",
    409: "conflict",
    413: "request too large",
    422: "unprocessable entity",
    503: "unavailable",
}

log = get_logger("walmill.http")


async def send_json(
    send: Send, status: int, value: Any, headers: Mapping[str, str] | None = None, *, head: bool = False
) -> None:
    """Sends a whole JSON answer."""
    body = json_bytes(value)
    await send_bytes(send, status, body, {"content-type": "application/json", **(headers or {})}, head=head)


async def send_bytes(send: Send, status: int, body: bytes, headers: Mapping[str, str], *, head: bool = False) -> None:
    """Sends a whole answer."""
    pairs = text_headers({**headers, "content-length": str(len(body))}.items())
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": b"" if head else body})


def answer_to(error: BaseException, scope: Scope) -> tuple[int, dict[str, Any], dict[str, str]] | None:
    """Status, body and headers that answer an error; None for one that nobody expected.

    Args:
        error: What was raised.
        scope: Of the request.
    """
    error = scarce(error) or error
    if isinstance(error, WalmillError):
        status, headers = error.status, {}
        if isinstance(error, InvalidRequest) and error.message.startswith(LIMIT_MESSAGES):
            status = 422
        if isinstance(error, Unavailable):
            headers["retry-after"] = str(max(1, int(error.retry_after)))
        if status == 401:
            headers["www-authenticate"] = 'Bearer realm="walmill"'
        return status, error_body(scope, status, error.message), headers
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        if error.status_code == 404:
            message = f"there is nothing at {scope['method']} {scope['path']}"
        elif error.status_code == 405:
            allowed = sorted(name.strip() for name in headers.get("Allow", "").split(",") if name.strip())
            headers = {**headers, "Allow": ", ".join(allowed)}
            message = f"{scope['path']} does not know the method {scope['method']}; it knows {', '.join(allowed)}"
        else:
            message = error.detail
        return (
            error.status_code,
            error_body(scope, error.status_code, message),
            {name.lower(): value for name, value in headers.items()},
        )
    return None


def error_body(scope: Scope, status: int, message: str) -> dict[str, Any]:
    """The JSON that says what is wrong, in the form of the API that was called.

    Args:
        scope: Of the request.
        status: Of the answer.
        message: For a person.
    """
    # InfluxDB 3 answers 401 in the same form everywhere, and its clients look for it.
    if status == 401 or not path_of(scope).startswith("/api/v2/"):
        return {"error": message}
    return {"code": _V2_CODES.get(status, "internal error" if status >= 500 else "invalid"), "message": message}


class Boundary:
    """The outermost layer: turns whatever is raised inside into an answer.

    Args:
        app: What is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except ClientGone:
            if not started:  # nobody reads it, but a host's middleware wants an answer
                await send_json(send, 400, {"error": "the caller went away before its request was answered"})
        except Exception as error:
            answer = answer_to(error, scope)
            if answer is None:
                log.exception("a request met an error of the server", method=scope["method"], path=scope["path"])
            if started:
                # The status is gone already: only a broken connection tells the caller that the answer is not whole.
                log.warning("an answer broke off", path=scope["path"], error=str(error))
                raise
            if answer is None:
                message = "an error of the server; its log says more, please report it"
                answer = 500, error_body(scope, 500, message), {}
            status, body, headers = answer
            await send_json(send, status, body, headers, head=scope["method"] == "HEAD")
