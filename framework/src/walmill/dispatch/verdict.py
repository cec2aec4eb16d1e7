"""What the end of a hook means. Pure."""

from __future__ import annotations

import math
from typing import Literal

from attrs import frozen

from walmill.errors import described, told
from walmill.isolation.base import Called
from walmill_hookspecs import DisableTrigger, HTTPError, RetryLater, RunCancelled, SkipBatch

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
            return Verdict("skip", told(error.reason) or None)
        case RetryLater():
            after: object = error.after
            if after is not None and not (isinstance(after, int | float) and math.isfinite(after) and after >= 0):
                return Verdict("failed", f"RetryLater(after={told(after)}): give seconds from 0 on, or a timedelta")
            return Verdict("retry_later", told(error.reason) or "the plugin asked for another try", after)
        case DisableTrigger():
            return Verdict("disable", told(error.reason))
        case HTTPError():
            return Verdict("answered", told(error))
        case RunCancelled():
            return Verdict("cancelled", told(error))
    return Verdict("failed", described(error))
