"""What the runs of one trigger came to since the start: counts, how long they took, what they used, what went wrong last."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Any

from walmill.dispatch.history import RunRow

BOUNDS = (0.0001, 0.00025, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of the buckets, seconds; a last one has the rest."""
_RECENT = 512
_NANOSECONDS = tuple(round(bound * 1e9) for bound in BOUNDS)


class Spread:
    """How often something took how long.

    Attributes:
        counts: By bucket.
        total_ns: All together.
    """

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total_ns = 0

    def add(self, nanoseconds: int) -> None:
        """Counts one."""
        self.counts[bisect_left(_NANOSECONDS, nanoseconds)] += 1
        self.total_ns += nanoseconds


class Tally:
    """The runs of one trigger."""

    def __init__(self) -> None:
        self.duration = Spread()
        self.wait = Spread()
        self.runs = 0
        self.failures = 0
        self.rows_in = 0
        self.rows_written = 0
        self.cpu_ns = 0
        self.memory: int | None = None
        self.last_error: str | None = None
        self.last_error_at: int | None = None
        self._recent: deque[int] = deque(maxlen=_RECENT)

    def add(self, row: RunRow) -> None:
        """Counts a run."""
        self.runs += 1
        self.rows_in += row.rows_in
        self.rows_written += row.rows_written
        self.duration.add(row.duration_ns)
        self.wait.add(row.wait_ns)
        self._recent.append(row.duration_ns)
        if row.cpu_ns is not None:
            self.cpu_ns += row.cpu_ns
        if row.memory is not None:
            self.memory = row.memory
        if row.status == "failed":
            self.failures += 1
        if row.status in ("failed", "retry_later"):  # what a plugin waits for is what a person wants to know
            self.last_error, self.last_error_at = row.error, row.time

    def show(self) -> dict[str, Any]:
        """As plain data; from any thread."""
        recent = sorted(self._recent.copy())
        return {
            "runs": self.runs,
            "failures": self.failures,
            "rows_in": self.rows_in,
            "rows_written": self.rows_written,
            "duration_p50_ns": recent[len(recent) // 2] if recent else None,
            "duration_p99_ns": recent[min(len(recent) - 1, len(recent) * 99 // 100)] if recent else None,
            "cpu_ns": self.cpu_ns,
            "memory": self.memory,
            "last_error": self.last_error,
            "last_error_at": self.last_error_at,
        }


NOTHING = Tally().show()
"""Of a trigger that has not run."""
