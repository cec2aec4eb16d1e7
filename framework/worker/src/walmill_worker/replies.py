"""What a plugin returned from `on_request`, as an answer. Pure."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import date, datetime
from typing import Any

from attrs import field, frozen

from walmill_hookspecs import Response
from walmill_worker.errors import PluginFailure

JSON_TYPE = "application/json"
TEXT_TYPE = "text/html; charset=utf-8"
BYTES_TYPE = "application/octet-stream"


@frozen
class Answer:
    """An answer for the server.

    Attributes:
        status: HTTP status.
        headers: Names and values; names lower-case.
        body: The whole body, if it does not stream.
        stream: An iterator of pieces, if it does.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    stream: Iterator[Any] | AsyncIterator[Any] | None = field(default=None, repr=False)


def answer_of(result: Any) -> Answer:
    """The answer that a returned value means.

    Raises:
        PluginFailure: If it means none, saying what would.
    """
    if isinstance(result, Response):
        return _make(result.content, result.status_code, result.headers, result.media_type)
    if isinstance(result, tuple):
        if len(result) == 2 and _is_status(result[1]):
            return _make(result[0], result[1], {}, None)
        if len(result) == 3 and _is_status(result[1]) and isinstance(result[2], Mapping):
            return _make(result[0], result[1], result[2], None)
        raise PluginFailure(
            f"on_request returned a tuple of another shape, {_short(result)}; return (body, status) or (body, status, headers)"
        )
    if result is not None and all(hasattr(result, name) for name in ("status_code", "headers", "body")):
        headers = result.headers
        pairs = headers.items() if hasattr(headers, "items") else headers
        return _make(bytes(result.body), int(result.status_code), dict(pairs), None)
    if result is None:
        return Answer(204)
    return _make(result, 200, {}, None)


def _is_status(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _make(content: Any, status: int, headers: Mapping[str, str], media_type: str | None) -> Answer:
    if not _is_status(status) or not 100 <= status <= 599:
        raise PluginFailure(f"on_request answered with the status {status!r}; give a whole number from 100 to 599")
    pairs = []
    for name, value in headers.items():
        text = f"{name}{value}"
        if any(char in text for char in "\r\n\0"):
            raise PluginFailure(f"on_request answered with the header {name!r}, which holds a line end")
        pairs.append((str(name).lower(), str(value)))
    known = {name for name, _ in pairs}

    def typed(kind: str) -> tuple[tuple[str, str], ...]:
        if "content-type" in known:
            return tuple(pairs)
        return (*pairs, ("content-type", media_type or kind))

    if content is None:
        return Answer(204 if status == 200 else status, tuple(pairs))
    if isinstance(content, str):
        return Answer(status, typed(TEXT_TYPE), content.encode("utf-8", "replace"))
    if isinstance(content, bytes | bytearray | memoryview):
        return Answer(status, typed(BYTES_TYPE), bytes(content))
    if isinstance(content, dict | list):
        try:
            body = json.dumps(content, default=_plain, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise PluginFailure(f"on_request returned something that is not JSON: {error}") from None
        return Answer(status, typed(JSON_TYPE), body)
    if hasattr(content, "__anext__") or hasattr(content, "__next__"):
        return Answer(status, typed(TEXT_TYPE), stream=content)
    raise PluginFailure(
        f"on_request returned {_short(content)}; return str, bytes, dict, list, None, a Response, (body, status) or an iterator "
        "of str or bytes"
    )


def piece_of(piece: Any) -> bytes:
    """One piece of a streamed answer.

    Raises:
        PluginFailure: If it is neither str nor bytes.
    """
    if isinstance(piece, str):
        return piece.encode("utf-8", "replace")
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise PluginFailure(f"a streamed answer gave {_short(piece)}; give str or bytes")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if hasattr(value, "as_py"):
        return value.as_py()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def checked_answer(status: Any, headers: Any, body: Any, stream: Any) -> Answer:
    """An answer that a worker made, checked again here.

    Args:
        status: HTTP status.
        headers: Pairs.
        body: The whole body.
        stream: Where pieces come from, if it streams.

    Raises:
        PluginFailure: If it is none.
    """
    made = _make(bytes(body), status, {str(name): str(value) for name, value in headers}, None)
    pairs = tuple((str(name), str(value)) for name, value in headers)
    return Answer(made.status, pairs, made.body, stream)
