"""How far the start of an engine is: told while its log is replayed, and a way to stop that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from attrs import frozen

from walmill.errors import Unavailable
from walmill.observe.log import get_logger
from walmill.wal.entry import Frame
from walmill.wal.log import Log

TELL_SECONDS = 1.0
"""So often the log of the process says how far it is; a start that is faster says nothing."""

log = get_logger("walmill.engine")


@frozen
class Opening:
    """How far a start is.

    Attributes:
        bytes: Bytes of the log that are replayed.
        total_bytes: Of so many.
        commits: Commits that are replayed.
        reading: Whether the log is still being read from an object store, before it is replayed.
    """

    bytes: int
    total_bytes: int
    commits: int
    reading: bool = False

    def __str__(self) -> str:
        share = 100 * self.bytes // max(1, self.total_bytes)
        if self.reading:
            return f"{share} % of {self.total_bytes / 2**20:,.0f} MiB of log are read from the object store"
        return f"{share} % of {self.total_bytes / 2**20:,.0f} MiB of log are replayed, {self.commits:,} commits"


Told = Callable[[Opening], None]
"""Told during a start, often; what it raises ends the start."""


class Stopped(Unavailable):
    """The start was ended before it was done; nothing is changed."""


def follow(frames: Iterable[Frame], wal: Log, covered: int, told: Told | None) -> Iterator[Frame]:
    """The frames that are replayed, and tells how far that is.

    Args:
        frames: In the order of the log.
        wal: The log.
        covered: The sequence behind which they begin.
        told: Told about ten times a second.
    """
    total = wal.bytes_behind(covered)
    began = told_at = logged_at = time.monotonic()
    done = 0
    for frame in frames:
        yield frame
        done += frame.length
        now = time.monotonic()
        if now - told_at < 0.1:
            continue
        told_at = now
        opening = Opening(min(done, total), total, max(0, frame.first_sequence + len(frame.entries) - 1 - covered))
        if told is not None:
            told(opening)
        if now - logged_at >= TELL_SECONDS:
            logged_at = now
            share = round(100 * opening.bytes / max(1, total))
            log.info("the log is being replayed", percent=share, commits=opening.commits, seconds=round(now - began, 1))
