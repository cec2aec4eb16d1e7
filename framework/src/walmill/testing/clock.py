"""A clock that moves only when it is told to."""

from __future__ import annotations


class ManualClock:
    """A `walmill.clock.Clock` whose two times are set by hand.

    Args:
        now_ns: Wall time at the start, ns since the epoch.
        monotonic: Monotonic time at the start, seconds.
    """

    def __init__(self, now_ns: int = 0, monotonic: float = 0.0) -> None:
        self._now_ns = now_ns
        self._monotonic = monotonic

    def now_ns(self) -> int:
        """Wall time, ns since the epoch."""
        return self._now_ns

    def monotonic(self) -> float:
        """Monotonic time, seconds."""
        return self._monotonic

    def advance(self, nanoseconds: int) -> None:
        """Lets time pass: both times move on.

        Args:
            nanoseconds: How much; not negative.

        Raises:
            ValueError: If it is negative; `jump` moves the wall time back.
        """
        if nanoseconds < 0:
            raise ValueError(f"time cannot pass by {nanoseconds} ns: use jump() to set the wall time back")
        self._now_ns += nanoseconds
        self._monotonic += nanoseconds / 1e9

    def jump(self, nanoseconds: int) -> None:
        """Sets the wall time on or back, as an operator or NTP does; the monotonic time stays."""
        self._now_ns += nanoseconds
