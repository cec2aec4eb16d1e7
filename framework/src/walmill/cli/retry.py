"""Whether a request that failed is sent again, and when. Pure."""

from __future__ import annotations

from walmill.cli.connection import CannotReach, Refused

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 10.0
DEFAULT_SECONDS = 300.0
"""How long a server that answered before is waited for."""
LATER = frozenset({429, 502, 503, 504})
"""Answers after which the same request may pass: by the server, or by a proxy before it."""


def may_pass_later(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, CannotReach) or (isinstance(error, Refused) and error.code in LATER)


def may_be_done(error: Exception) -> bool:
    """Whether the server may have done what it was asked, although it did not say so."""
    if isinstance(error, CannotReach):
        return error.arrived
    return isinstance(error, Refused) and error.code in (502, 504)


def budget(error: Exception, *, given: float | None, reached: bool) -> float:
    """For how many seconds a request is tried again after its first failure.

    Args:
        error: The failure.
        given: What the user asked for; None if nothing.
        reached: Whether the server answered anything before. One that was never there is more likely a mistake in the
            address, and that is said at once.
    """
    if given is not None:
        return given
    return DEFAULT_SECONDS if reached or not isinstance(error, CannotReach) or error.arrived else 0.0


def pause(attempt: int, elapsed: float, total: float, asked: float | None, luck: float) -> float | None:
    """How many seconds to wait before the next attempt.

    Args:
        attempt: How many attempts failed, from 1.
        elapsed: Seconds since the first of them failed.
        total: For how many seconds attempts are made, counted in the same way.
        asked: The server's Retry-After; None if it gave none.
        luck: From 0 to 1, at random: those who wait for one server shall not come back all at once.

    Returns:
        Not less than `asked`, and never beyond `total`: the last attempt is made at its end. None to give up.
    """
    left = total - elapsed
    if left <= 0:
        return None
    wait = min(FIRST_SECONDS * 2.0 ** min(attempt - 1, 20), LONGEST_SECONDS) * (0.5 + luck / 2)
    if asked is not None:
        if asked > left:
            return None
        wait = max(wait, asked)
    return min(wait, left)
