"""How far a trigger is: the part of its log, or of its schedule, that is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import evolve, frozen

Range = tuple[int, int]
"""First and last sequence of a finished batch."""


@frozen
class Cursor:
    """What a trigger has finished.

    Attributes:
        through: Every commit up to this sequence is done with.
        done: Finished ranges beyond `through`, sorted; only with concurrent runs.
        fired: The due time that a schedule last finished, ns; None before its first.
    """

    through: int = 0
    done: tuple[Range, ...] = ()
    fired: int | None = None

    def covers(self, first: int, last: int) -> bool:
        """Whether any commit of the range is done already."""
        return first <= self.through or any(a <= last and first <= b for a, b in self.done)

    def finish(self, first: int, last: int, through: int) -> Cursor:
        """This cursor after a range was finished, and all up to `through` with it."""
        if not self.done and through >= last:  # one run at a time: by far the most common
            return Cursor(max(self.through, through), (), self.fired)
        return self.move(through, (*self.done, (first, last)))

    def move(self, through: int, done: Iterable[Range]) -> Cursor:
        """This cursor moved on; it never moves back."""
        reached = max(self.through, through)
        joined: list[Range] = []
        for first, last in sorted({*self.done, *done}):
            if last <= reached:
                continue
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            else:
                joined.append((first, last))
        if joined and joined[0][0] <= reached + 1:
            reached = joined.pop(0)[1]
        return evolve(self, through=reached, done=tuple(joined))

    def to_json(self) -> list[Any]:
        """As JSON types."""
        return [self.through, [list(pair) for pair in self.done], self.fired]

    @classmethod
    def from_json(cls, data: list[Any]) -> Cursor:
        """From what `to_json` gave."""
        through, done, fired = data
        return cls(through, tuple((a, b) for a, b in done), fired)
