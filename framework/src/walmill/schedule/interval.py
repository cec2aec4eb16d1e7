"""`every:`: due at each multiple of a duration since the epoch."""

from __future__ import annotations

from datetime import UTC, tzinfo
from typing import ClassVar

from attrs import frozen


@frozen
class IntervalSchedule:
    """Due at each multiple of a duration since the epoch, so that restarts do not move it: `every:1h` is due on the hour.

    Attributes:
        duration: ns, at least 1.
    """

    duration: int

    zone: ClassVar[tzinfo] = UTC

    @property
    def spacing(self) -> int:
        """Least distance between two due times, ns: the duration."""
        return self.duration

    def next_after(self, instant: int) -> int:
        """The first due time strictly after an instant, ns."""
        return (instant // self.duration + 1) * self.duration

    def previous_at_or_before(self, instant: int) -> int:
        """The last due time that is not after an instant, ns."""
        return instant // self.duration * self.duration

    def newest(self, after: int, until: int) -> tuple[int, int] | None:
        """The newest due time in (after, until] and how many there are, exactly; None without any. Arithmetic, no loop."""
        count = until // self.duration - after // self.duration
        return (self.previous_at_or_before(until), count) if count > 0 else None
