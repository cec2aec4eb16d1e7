"""The time, as an argument: whoever needs it is given a clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells wall time and monotonic time. May be asked from any thread."""

    def now_ns(self) -> int:
        """Wall time, ns since the epoch, UTC. It may jump, also back."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back. For measuring and for deadlines."""
        ...


class SystemClock:
    """The clock of the machine."""

    __slots__ = ()

    def now_ns(self) -> int:
        """Wall time, ns since the epoch, UTC."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()
