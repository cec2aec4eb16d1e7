"""Errors that both sides know, and texts of errors that somebody else's code raised."""

from __future__ import annotations

import traceback


def told(value: object) -> str:
    """The text of a value that somebody else's code made, such as an exception of a plugin: never raises, always UTF-8."""
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - its own __str__ may raise anything
        text = f"(its text could not be made: {type(error).__name__})"
    return text.encode("utf-8", "replace").decode()


def described(error: BaseException) -> str:
    """An exception as kind and message, in one line."""
    kind = error.kind if isinstance(error, RemoteError) else type(error).__name__
    text = " ".join(told(error).split())
    return f"{kind}: {text}" if text else kind


def shown(error: BaseException) -> str:
    """The traceback as text, from the plugin's own first line on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_ours(frames.tb_frame.f_globals.get("__name__", "")):
        frames = frames.tb_next
    return told("".join(traceback.format_exception(type(error), error, frames)))


def cause(error: BaseException) -> str:
    """Why something could not be loaded: kind, message, and the place of its last line."""
    frames = traceback.extract_tb(error.__traceback__)
    # a frame of Python's own import machinery tells its reader nothing: it is there when the entry point's module is missing
    known = frames and not frames[-1].filename.startswith("<frozen ")
    place = f" ({frames[-1].filename.rsplit('/', 1)[-1]}, line {frames[-1].lineno})" if known else ""
    return f"{described(error)}{place}"


def _is_ours(module: str) -> bool:
    return module.startswith(("walmill.", "walmill_worker."))


class WalmillError(Exception):
    """Base of all errors that the engine raises on purpose.

    Attributes:
        status: HTTP status that answers a request which met this error.
        message: One sentence or two for a person.
    """

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class PluginFailure(WalmillError):
    """A plugin raised, returned nonsense, or could not be loaded: its author has to look."""


class RemoteError(Exception):
    """What a hook raised in another process, as its text.

    Attributes:
        kind: Name of the exception's class there.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
