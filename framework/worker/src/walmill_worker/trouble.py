"""Errors that cross from the engine to a worker, and what a hook raised on its way back: as plain data, never as objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from walmill_hookspecs import (
    BadSettings,
    DisableTrigger,
    HTTPError,
    LimitExceeded,
    QueryError,
    RetryLater,
    RunCancelled,
    SkipBatch,
    TableNotFound,
    WriteError,
)
from walmill_worker.errors import RemoteError, told

_PLAIN: Mapping[str, type[BaseException]] = {
    "TypeError": TypeError,
    "ValueError": ValueError,
    "LimitExceeded": LimitExceeded,
    "QueryError": QueryError,
    "RunCancelled": RunCancelled,
    "MemoryError": MemoryError,
}


def pack_error(error: BaseException) -> dict[str, Any]:
    """An exception as plain data."""
    data: dict[str, Any] = {"kind": type(error).__name__, "text": told(error)}
    match error:
        case WriteError():
            data |= {"is": "WriteError", "row": error.row, "column": error.column}
        case TableNotFound():
            data |= {"is": "TableNotFound", "table": error.table, "near": list(error.near)}
        case SkipBatch():
            data |= {"is": "SkipBatch", "reason": told(error.reason)}
        case RetryLater():
            after: object = error.after
            if not isinstance(after, int | float | None) or isinstance(after, bool):
                after = told(after)
            data |= {"is": "RetryLater", "reason": told(error.reason), "after": after}
        case DisableTrigger():
            data |= {"is": "DisableTrigger", "reason": told(error.reason)}
        case BadSettings():
            data |= {"is": "BadSettings", "problems": [told(one) for one in error.problems]}
        case HTTPError():
            headers = {told(name): told(value) for name, value in error.headers.items()}
            data |= {"is": "HTTPError", "status": error.status, "detail": told(error.detail), "headers": headers}
        case _:
            base = next((name for name, kind in _PLAIN.items() if type(error) is kind), None)
            if base is not None:
                data["is"] = base
    return data


def unpack_error(data: Any) -> BaseException:
    """The exception that the data mean; one that only its own process knows becomes a `RemoteError`.

    Raises:
        ValueError: If they mean none.
    """
    try:
        return _made(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"an error has another form: {error!r}") from None


def _made(data: Any) -> BaseException:
    kind, text = str(data["kind"]), str(data["text"])
    match data.get("is"):
        case "WriteError":
            return WriteError(text, row=data["row"], column=data["column"])
        case "TableNotFound":
            return TableNotFound(text, table=str(data["table"]), near=[str(one) for one in data["near"]])
        case "SkipBatch":
            return SkipBatch(str(data["reason"]))
        case "RetryLater":
            return RetryLater(str(data["reason"]), after=data["after"])
        case "DisableTrigger":
            return DisableTrigger(str(data["reason"]))
        case "BadSettings":
            return BadSettings([str(one) for one in data["problems"]])
        case "HTTPError":
            headers = {str(name): str(value) for name, value in data["headers"].items()}
            return HTTPError(int(data["status"]), str(data["detail"]), headers)
        case str(name) if name in _PLAIN:
            return _PLAIN[name](text)
    return RemoteError(kind, text)
