"""How many messages may go out: a bucket of tokens. Pure."""

from __future__ import annotations

from attrs import evolve, frozen


@frozen
class Bucket:
    """What may still be sent.

    Attributes:
        tokens: So many messages, with fractions.
        at: When that was, ns.
    """

    tokens: float
    at: int

    def filled(self, now: int, per_minute: int) -> Bucket:
        """The bucket as it is by now; it never holds more than a minute's messages."""
        gained = max(0, now - self.at) / 60e9 * per_minute
        return Bucket(min(float(per_minute), self.tokens + gained), max(now, self.at))

    def take(self) -> Bucket | None:
        """The bucket without one; None if there is none."""
        return evolve(self, tokens=self.tokens - 1.0) if self.tokens >= 1.0 else None

    def wait(self, per_minute: int) -> float:
        """Seconds until there is one."""
        return max(0.0, (1.0 - self.tokens) * 60.0 / per_minute)
