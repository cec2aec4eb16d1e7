"""Logs: events with named values, as console lines on a terminal and as JSON lines otherwise.

The engine logs with `get_logger`, which hands everything to `logging` and touches nothing global: mounted in another
application, its lines go where that application sends its own. Only `walmill serve` and `walmill demo` call `configure`.

Tokens never appear: what looks like one, and what stands after `Authorization`, is replaced before a line is written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]
HIDDEN = "***"
_OURS = "walmill_log_handler"
_RECORD = "walmill_event"
_SECRET_KEYS = frozenset({"authorization", "proxy-authorization", "token", "password", "secret", "auth_token"})
_PATTERNS = (
    (re.compile(r"wm_[A-Za-z0-9_-]{8,}"), "wm_" + HIDDEN),
    (
        re.compile(r"\b(bearer|token|basic)([ \t]+)(?=[A-Za-z0-9+/_.~-]{16,})[A-Za-z0-9+/=_.~-]+", re.IGNORECASE),
        rf"\1\2{HIDDEN}",
    ),
    (
        re.compile(
            r"""(authorization["']?[ \t]*[:=,][ \t]*b?["']?)(?:(bearer|token|basic)[ \t]+)?[^\s"',;)\]}]+""",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"""([?&](?:p|token|access_token)=)[^&\s"'#]+"""), rf"\1{HIDDEN}"),
)


def redact_text(text: str) -> str:
    """A text with tokens and credentials replaced."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_value(value: Any) -> Any:
    """A value with tokens and credentials replaced, also inside of mappings and sequences."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray):
        return redact_text(bytes(value).decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {redact_value(key): _redact_member(key, one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value(one) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def _redact_member(key: Any, value: Any) -> Any:
    name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
    return HIDDEN if name.lower() in _SECRET_KEYS and value is not None else redact_value(value)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A structlog processor that replaces tokens and credentials everywhere in an event."""
    del logger, method
    return {key: value if key.startswith("_") else _redact_member(key, value) for key, value in event.items()}


def _hand_over(logger: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """Ends the chain of `get_logger`: a text for any handler, and the event itself for ours."""
    del logger, method
    exc_info = event.pop("exc_info", None)
    values = " ".join(f"{key}={_plain(value)}" for key, value in event.items() if key != "event")
    text = f"{event.get('event')} {values}" if values else str(event.get("event"))
    passed: dict[str, Any] = {"extra": {_RECORD: event}}
    if exc_info:
        passed["exc_info"] = exc_info
    return (text,), passed


def _plain(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() for c in text) else text


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for the engine's own messages.

    It writes through `logging.getLogger(name)`: level, handlers and format are the application's business.

    Args:
        name: `walmill.` and the part of the engine.
    """
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            redact,
            _hand_over,
        ],
        cache_logger_on_first_use=False,
    )
    return logger


def _unpack(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Takes the named values back out of a record that `get_logger` made."""
    del logger, method
    record = event.get("_record")
    values = getattr(record, _RECORD, None)
    if values is not None:
        event.update(values)
    return event


def _order(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Time, level, logger and event come first in a JSON line."""
    del logger, method
    first = ("timestamp", "level", "logger", "event")
    return {**{key: event[key] for key in first if key in event}, **event}


def configure(
    *,
    level: str = "info",
    style: LogFormat = "auto",
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Sets the logs of this process up; for a process that is ours alone. A second call replaces what the first one did.

    Args:
        level: Least level that is written: debug, info, warning or error.
        style: `auto` is `console` if `stream` is a terminal, else `json`.
        stream: Where lines go; None is standard error.
        environ: Whether `NO_COLOR` is set; None is the environment.
    """
    stream = sys.stderr if stream is None else stream
    environ = os.environ if environ is None else environ
    terminal = stream.isatty()
    console = style == "console" or (style == "auto" and terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal and not environ.get("NO_COLOR"))
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            _unpack,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            _order,
            renderer,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.set_name(_OURS)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [one for one in root.handlers if one.get_name() == _OURS]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True
        theirs.setLevel(logging.NOTSET)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
