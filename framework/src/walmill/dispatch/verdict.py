"""What the end of a hook means. Pure."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from walmill.isolation.base import Called
from walmill_hookspecs import BadSettings, DisableTrigger, HTTPError, RetryLater, RunCancelled, SkipBatch

Kind = Literal["ok", "skip", "retry_later", "disable", "failed", "cancelled", "answered"]


@frozen
class Verdict:
    """What to do after a hook.

    Attributes:
        kind: `ok`; `skip`, `retry_later`, `disable` as the plugin said; `answered` with an HTTP error; `cancelled`; `failed`.
        error: Kind and message, one line.
        after: Seconds to wait, if the plugin said so.
    """

    kind: Kind
    error: str | None = None
    after: float | None = None


_OK = Verdict("ok")


def judge(called: Called) -> Verdict:
    """The verdict on one call."""
    error = called.error
    if error is None:
        return _OK
    match error:
        case SkipBatch():
            return Verdict("skip", error.reason or None)
        case RetryLater():
            return Verdict("retry_later", error.reason or "the plugin asked for another try", error.after)
        case DisableTrigger():
            return Verdict("disable", error.reason)
        case HTTPError():
            return Verdict("answered", str(error))
        case RunCancelled():
            return Verdict("cancelled", str(error))
        case BadSettings():
            return Verdict("failed", f"BadSettings: {error}")
    text = " ".join(str(error).split())
    return Verdict("failed", f"{type(error).__name__}: {text}" if text else type(error).__name__)
