"""How fast background work may read and write: a token bucket of bytes. The time is an argument."""

from __future__ import annotations

from attrs import define, field

_SECOND = 1_000_000_000


@define
class Pace:
    """Bytes per second that compaction and rewriting may move, both what is read and what is written.

    Work that is larger than the bucket is let through when the bucket is full, and leaves a debt that later work waits for: so
    the rate holds on average, however large a file is. For one thread at a time.

    Attributes:
        rate: Bytes per second; 0 for no limit.
        burst: Bytes that may be moved at once after a rest.
    """

    rate: int
    burst: int = 8 * 2**20
    _level: float = field(init=False, default=0.0)
    _at: int | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        if self.rate < 0 or self.burst < 1:
            raise ValueError(
                f"a rate of {self.rate} bytes/s with a burst of {self.burst} bytes: at least 0 and 1 are possible"
            )

    def take(self, amount: int, now: int) -> int:
        """Notes work and says how long to wait before it, ns.

        Args:
            amount: Its bytes.
            now: Monotonic time, ns.
        """
        if not self.rate:
            return 0
        if self._at is None:
            self._level, self._at = float(self.burst), now
        elif now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate / _SECOND)
            self._at = now
        enough = min(amount, self.burst)
        wait = max(0.0, (enough - self._level) * _SECOND / self.rate)
        self._level -= amount
        return int(wait)

    def estimate(self, amount: int) -> int:
        """About how long work takes that begins with an empty bucket, ns: the least, as if the machine were infinitely fast."""
        return amount * _SECOND // self.rate if self.rate else 0
