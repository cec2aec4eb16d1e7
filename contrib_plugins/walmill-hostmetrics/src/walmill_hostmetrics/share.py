"""Shares of processor time between two looks. Pure."""

from __future__ import annotations

from collections.abc import Mapping

Times = Mapping[str, float]
"""Seconds that a processor has spent, by what for, since the machine started."""
WITHIN = {"guest": "user", "guest_nice": "nice"}
"""The kernel counts the time of guests in another one as well (Linux, proc(5))."""


def usage(before: Times, now: Times) -> dict[str, float] | None:
    """Percent of the time between two looks, by what for; None if that cannot be told: the machine was started anew.

    Args:
        before: The earlier look.
        now: The later one.
    """
    spent = {name: now[name] - before.get(name, 0.0) for name in now}
    for name, other in WITHIN.items():
        if name in spent and other in spent:
            spent[other] -= spent[name]
    if any(now[name] < before.get(name, 0.0) - 0.5 for name in now):
        return None
    total = sum(max(0.0, value) for value in spent.values())
    if total <= 0.0:
        return None
    return {f"usage_{name}": 100.0 * max(0.0, value) / total for name, value in spent.items()}
