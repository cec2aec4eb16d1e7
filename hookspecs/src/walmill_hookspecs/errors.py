"""What a plugin may raise to say what should happen next, and what the context raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta


class PluginSignal(Exception):
    """Base of what a plugin raises on purpose; anything else that it raises is a failure under the trigger's policy."""


class SkipBatch(PluginSignal):
    """This event is done with, without effect: what the run wrote and changed is dropped, the cursor moves on.

    Args:
        reason: One sentence, shown in the history of runs.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(PluginSignal):
    """The same event again after a while, whatever the error policy says; counts as an attempt.

    Args:
        reason: One sentence, shown in the history of runs.
        after: Time to wait: seconds, or a timedelta. None leaves it to the engine's back-off.
    """

    def __init__(self, reason: str = "", *, after: float | timedelta | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after.total_seconds() if isinstance(after, timedelta) else after


class DisableTrigger(PluginSignal):
    """The trigger is disabled with this reason; its cursor stays before this event.

    Args:
        reason: One sentence for the person who will enable it again.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadSettings(PluginSignal, ValueError):
    """The arguments of a trigger do not fit; all problems are told at once.

    Args:
        problems: One sentence each, naming the argument.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


class HTTPError(PluginSignal):
    """Answers a request with an error status; nothing that the run wrote or changed is kept.

    Args:
        status: HTTP status, 400 to 599.
        detail: Text for the caller, sent as `{"error": detail}`.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"HTTPError status is {status}; give 400 to 599, and return a Response for success")
        super().__init__(f"{status} {detail}".rstrip())
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class ContextError(Exception):
    """Base of what the context raises at the call that was wrong."""


class QueryError(ContextError):
    """A query could not be planned or run; the message is the planner's."""


class TableNotFound(QueryError):
    """A query names a table that the database does not have.

    Args:
        message: The sentence for the author.
        table: The name that was asked for.
        near: Names of tables that are spelled alike, best first.
    """

    def __init__(self, message: str, *, table: str = "", near: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.table = table
        self.near = tuple(near)


class WriteError(ContextError):
    """Something given to `ctx.write` cannot be written.

    Args:
        message: What is wrong, and what would be right.
        row: Position of the row in what was given, from 0; None if it is not about one row.
        column: Name of the column; None if it is not about one.
    """

    def __init__(self, message: str, *, row: int | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.column = column


class LimitExceeded(ContextError):
    """A run asked for more than its limits allow (rows, state, log lines)."""


class RunCancelled(BaseException):
    """The run is being stopped: time limit, shutdown, or the caller went away.

    Not an `Exception`, so that `except Exception` in a plugin does not swallow it.
    """
