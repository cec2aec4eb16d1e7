"""How far a value is from what its series usually has. Pure.

`zscore` keeps mean and variance with exponential forgetting (West 1979, "Updating mean and variance estimates"); `mad` keeps the
last values, and compares with their median in units of their median absolute deviation (Iglewicz and Hoaglin 1993), which a
few wild values do not move.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any, Literal

from attrs import Factory, define, frozen

Method = Literal["zscore", "mad"]
NORMAL = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""


@frozen(kw_only=True)
class Rule:
    """When a value is an anomaly.

    Attributes:
        method: `zscore` or `mad`.
        threshold: So many deviations away.
        window: About so many values are remembered.
        warmup: So many are looked at before any is judged.
        floor: A deviation smaller than this counts as this: a series that stands still would make an anomaly of any change.
        relearn: After so many anomalies in a row the series has changed, and they are what it usually has.
    """

    method: Method = "zscore"
    threshold: float = 3.0
    window: int = 100
    warmup: int = 30
    floor: float = 0.0
    relearn: int = 20


@frozen
class Anomaly:
    """A value that is one.

    Attributes:
        time: Of its row, ns.
        value: The value.
        score: How many deviations away it is; negative below. Bounded by 1e9, for a series that stands still.
        expected: Mean or median.
        deviation: The deviation.
    """

    time: int
    value: float
    score: float
    expected: float
    deviation: float


@define
class Memory:
    """What is remembered of a series.

    Attributes:
        newest: Time of the newest row looked at, ns.
        count: Values learned, up to `window` for `zscore`.
        mean: Their mean (`zscore`).
        variance: Their variance (`zscore`).
        values: The last ones (`mad`).
        odd: Anomalies in a row, the last ones, that were not learned.
    """

    newest: int = -(2**63)
    count: int = 0
    mean: float = 0.0
    variance: float = 0.0
    values: list[float] = Factory(list)
    odd: list[float] = Factory(list)

    def to_state(self) -> list[Any]:
        """As plain types."""
        return [self.newest, self.count, self.mean, self.variance, list(self.values), list(self.odd)]

    @classmethod
    def from_state(cls, data: Any) -> Memory:
        """From what `to_state` gave."""
        newest, count, mean, variance, values, odd = data
        return cls(newest, count, mean, variance, list(values), list(odd))

    def usual(self, method: Method) -> tuple[float, float]:
        """What is expected, and the deviation."""
        if method == "mad":
            middle = statistics.median(self.values)
            return middle, NORMAL * statistics.median(abs(value - middle) for value in self.values)
        return self.mean, math.sqrt(self.variance)

    def learn(self, value: float, rule: Rule) -> None:
        """A value is usual."""
        self.count = min(self.count + 1, rule.window)
        if rule.method == "mad":
            self.values.append(value)
            del self.values[: -rule.window]
            return
        share = 1.0 / self.count
        away = value - self.mean
        self.mean += share * away
        self.variance = (1.0 - share) * (self.variance + share * away * away)


def judge(memory: Memory, rule: Rule, rows: Iterable[tuple[int, float | None]]) -> list[Anomaly]:
    """Looks at values of a series, and changes what is remembered of it.

    Args:
        memory: What is remembered; changed in place.
        rule: When a value is an anomaly.
        rows: Times (ns) and values, in any order. A row that is not newer than the newest one looked at is left out, and so
            is a value that is none, or not finite.
    """
    found = []
    for time, value in sorted((row for row in rows if row[1] is not None), key=lambda row: row[0]):
        assert value is not None
        if time <= memory.newest or not math.isfinite(value):
            continue
        memory.newest = time
        if memory.count < rule.warmup:
            memory.learn(value, rule)
            continue
        expected, deviation = memory.usual(rule.method)
        deviation = max(deviation, rule.floor)
        away = value - expected
        score = (
            0.0 if away == 0 else max(-1e9, min(1e9, away / deviation if deviation > 0 else math.copysign(1e9, away)))
        )
        if abs(score) < rule.threshold:
            memory.odd.clear()
            memory.learn(value, rule)
            continue
        found.append(Anomaly(time, value, score, expected, deviation))
        memory.odd.append(value)
        if len(memory.odd) >= rule.relearn:
            again = Memory(newest=memory.newest)
            for one in memory.odd:
                again.learn(one, rule)
            memory.count, memory.mean, memory.variance, memory.values, memory.odd = (
                max(again.count, rule.warmup), again.mean, again.variance, again.values, [],
            )  # fmt: skip
    return found
