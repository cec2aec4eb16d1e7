"""The few kinds of error that the engine knows, each saying what to do next.

The kind is API: it decides the HTTP status and the exit code. The message is for a person: it names the thing, shows the
value, gives the bound and the remedy.
"""

from __future__ import annotations

from walmill_worker.errors import PluginFailure, RemoteError, WalmillError, described, shown, told

__all__ = [
    "Conflict",
    "DataCorruption",
    "Forbidden",
    "Internal",
    "InvalidRequest",
    "LimitReached",
    "NotFound",
    "PluginFailure",
    "RemoteError",
    "Superseded",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "WalmillError",
    "described",
    "shown",
    "told",
]


class InvalidRequest(WalmillError, ValueError):
    """The call is wrong and stays wrong: fix it before you send it again."""

    status = 400


class TooLarge(InvalidRequest):
    """A body, a row or a name is over a limit of the server."""

    status = 413


class LimitReached(InvalidRequest):
    """A schema limit (databases, tables, columns) would be exceeded."""

    status = 422


class Unauthorized(WalmillError):
    """No token, or one that the server does not know."""

    status = 401


class Forbidden(WalmillError, PermissionError):
    """The token is known and does not allow this."""

    status = 403


class NotFound(WalmillError, LookupError):
    """The named thing does not exist."""

    status = 404


class Conflict(WalmillError):
    """The thing exists already, or its state forbids the change."""

    status = 409


class Superseded(Conflict):
    """Another process has taken over what only one may write: this one must stop, for nothing that it writes would be seen."""


class Unavailable(WalmillError):
    """Cannot be done now and may work later: the same call can be repeated.

    Attributes:
        retry_after: Whole seconds after which a repetition makes sense.
    """

    status = 503

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DataCorruption(WalmillError):
    """Bytes on disk are not what was written: an operator has to look."""


class Internal(WalmillError):
    """A rule of the engine itself was broken: please report it."""
