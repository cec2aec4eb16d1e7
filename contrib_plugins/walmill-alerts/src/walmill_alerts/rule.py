"""A threshold with hysteresis for one series. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, frozen


@frozen
class Limits:
    """When an alert begins and ends.

    Attributes:
        above: It begins above this; None for no such limit.
        below: It begins below this.
        clear: It ends at this or on the good side of it; None takes the limit itself.
        lasting: ns that a breach has to last before it fires.
    """

    above: float | None = None
    below: float | None = None
    clear: float | None = None
    lasting: int = 0

    def breached(self, value: float) -> float | None:
        """The limit that a value is beyond; None if it is within."""
        if self.above is not None and value > self.above:
            return self.above
        if self.below is not None and value < self.below:
            return self.below
        return None

    def cleared(self, value: float) -> bool:
        """Whether a value ends an alert."""
        high = self.above if self.clear is None or self.above is None else self.clear
        low = self.below if self.clear is None or self.below is None else self.clear
        return (high is None or value <= high) and (low is None or value >= low)


@define
class Watch:
    """What is remembered of a series.

    Attributes:
        newest: Time of the newest row looked at, ns.
        firing: Whether the alert is on.
        since: When the breach began, ns; None without one.
    """

    newest: int = -(2**63)
    firing: bool = False
    since: int | None = None

    def to_state(self) -> list[Any]:
        """As plain types."""
        return [self.newest, self.firing, self.since]


@frozen
class Change:
    """A change of state, which becomes an alert row.

    Attributes:
        time: Of the row that brought it, ns.
        firing: On or off.
        value: The value of that row.
        limit: The limit that was passed, or the one that holds again.
        since: When the breach began, ns.
    """

    time: int
    firing: bool
    value: float
    limit: float
    since: int


def step(watch: Watch, limits: Limits, rows: Iterable[Mapping[str, Any]], field: str) -> list[Change]:
    """Looks at rows of a series and changes what is remembered of it.

    Args:
        watch: What is remembered; changed in place.
        limits: The rule.
        rows: With `time` (ns) and the field; in any order.
        field: The field that is watched.
    """
    changes: list[Change] = []
    for row in sorted(rows, key=lambda one: int(one["time"])):
        time, value = int(row["time"]), row[field]
        if value is None or time <= watch.newest:
            continue
        watch.newest = time
        if watch.firing:
            if limits.cleared(value):
                limit = limits.above if limits.above is not None else limits.below
                changes.append(Change(time, False, value, limit or 0.0, watch.since or time))
                watch.firing, watch.since = False, None
            continue
        limit = limits.breached(value)
        if limit is None:
            watch.since = None
            continue
        if watch.since is None:
            watch.since = time
        if time - watch.since >= limits.lasting:
            watch.firing = True
            changes.append(Change(time, True, value, limit, watch.since))
    return changes
