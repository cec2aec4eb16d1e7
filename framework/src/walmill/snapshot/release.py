"""Which part of the log may go: what a manifest covers and no trigger holds, and which triggers hold it for too long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from walmill.model.catalog import Catalog
from walmill.model.cursor import Cursor
from walmill.model.trigger import BY_A_PERSON, CREATED_DISABLED, RETENTION, Trigger
from walmill.triggers.spec import parse_spec
from walmill.units import HOUR
from walmill.wal.segment import Segment


@frozen
class Kept:
    """A segment of the log that is still there.

    Attributes:
        first_sequence: The sequence that its first entry has, or would have.
        last_sequence: The one of its last entry; lower than the first if it has none.
        bytes: Bytes used.
        ended: When the next segment began, ns; None for the one that is written.
    """

    first_sequence: int
    last_sequence: int
    bytes: int
    ended: int | None = None


@frozen
class Holder:
    """A trigger that keeps log segments.

    Attributes:
        trigger: Its id.
        needs: The first sequence that it has not done.
        enabled: Whether it runs; one that an error stopped holds the log as well, within retention.
    """

    trigger: int
    needs: int
    enabled: bool = True


@frozen
class LogRetention:
    """How much log triggers may hold.

    Attributes:
        age: How long after a segment has ended, ns.
        bytes: How many bytes of log from the first sequence that a trigger needs on.
        free_part: The part of the disk that stays free.
    """

    age: int = 24 * HOUR
    bytes: int = 16 * 2**30
    free_part: float = 0.05


@frozen
class Release:
    """What is to be done.

    Attributes:
        through: Segments whose entries are all at or before this sequence may go, once `pause` is durable.
        pause: Ids of enabled triggers to pause first, reason `retention`, the one furthest behind first.
        lapsed: Ids of stopped triggers whose rows go; they are to be paused with the same reason, so that a person sees it.
    """

    through: int
    pause: tuple[int, ...] = ()
    lapsed: tuple[int, ...] = ()


def describe_segments(segments: Sequence[Segment]) -> list[Kept]:
    """The segments of a log, oldest first."""
    ends = [segment.header.created for segment in segments[1:]]
    return [
        Kept(segment.header.first_sequence, segment.next_sequence - 1, segment.end, ended)
        for segment, ended in zip(segments, [*ends, None], strict=True)
    ]


def find_holders(catalog: Catalog, cursors: Mapping[int, Cursor]) -> list[Holder]:
    """The triggers that hold the log: on_write triggers that are enabled, or that an error has stopped."""
    return [
        Holder(number, (cursors.get(number) or Cursor()).through + 1, trigger.enabled)
        for number, trigger in catalog.triggers.items()
        if _holds(trigger) and parse_spec(trigger.spec).kind == "write"
    ]


def _holds(trigger: Trigger) -> bool:
    """Whether it may go on one day where it is: not if a person stopped it, nor once retention has passed."""
    return trigger.enabled or trigger.reason not in (BY_A_PERSON, CREATED_DISABLED, RETENTION)


def plan_release(
    segments: Sequence[Kept],
    covered: int,
    holders: Iterable[Holder],
    retention: LogRetention,
    now: int,
    *,
    disk_free: int,
    disk_size: int,
) -> Release:
    """Which segments may go, and which triggers have held theirs for too long.

    A trigger is given up only if that frees a segment: what no manifest covers stays anyhow.

    Args:
        segments: The log, oldest first.
        covered: The sequence of the newest manifest.
        holders: The triggers that hold the log.
        retention: How much they may hold.
        now: Wall-clock time, ns.
        disk_free: Free bytes where the log is.
        disk_size: Bytes of that file system.
    """
    waiting = sorted(holders, key=lambda one: (one.needs, one.trigger))
    pause: list[int] = []
    lapsed: list[int] = []
    wanted = int(disk_size * retention.free_part) - disk_free
    while waiting:
        first = waiting[0]
        through = min(covered, first.needs - 1)
        freed = sum(one.bytes for one in segments if one.ended is not None and one.last_sequence <= through)
        held = [one for one in segments if one.ended is not None and first.needs <= one.last_sequence <= covered]
        if not held:
            break
        behind = sum(one.bytes for one in segments if one.last_sequence >= first.needs)
        ended = held[0].ended
        assert ended is not None
        if now - ended <= retention.age and behind <= retention.bytes and freed >= wanted:
            break
        (pause if first.enabled else lapsed).append(first.trigger)
        waiting.pop(0)
    through = min([covered, *(one.needs - 1 for one in waiting[:1])])
    return Release(max(0, through), tuple(pause), tuple(lapsed))
