"""When a snapshot is due, and when writers have to wait for one."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from walmill.units import MINUTE, SECOND

Cause = Literal["memory", "buffer", "log", "disk", "deleted", "age"]
"""Why a snapshot is due, the most urgent first."""

_LONGEST_WAIT = MINUTE
LEAST_FOR_DISK = 2**20
"""Bytes of log for which a snapshot is worth it when the disk is nearly full."""


@frozen
class Limits:
    """What is allowed to gather before a snapshot.

    Attributes:
        buffer_bytes: Bytes of rows in memory.
        log_bytes: Bytes of the log since the last snapshot: what a restart has to replay.
        log_objects: Objects of a log in an object store since then: a restart fetches each of them.
        age: How long rows, or other changes, are kept in memory and log only, ns.
        memory_bytes: Bytes of rows in memory, those of a snapshot that is under way included, above which writers wait.
    """

    buffer_bytes: int = 256 * 2**20
    log_bytes: int = 256 * 2**20
    log_objects: int = 5_000
    age: int = 10 * MINUTE
    memory_bytes: int = 1024 * 2**20

    @property
    def early_bytes(self) -> int:
        """From here on memory is short, and a snapshot is due however young the rows are."""
        return min(self.buffer_bytes, self.memory_bytes // 2)


@frozen
class Facts:
    """How things are.

    Attributes:
        sequence: The newest durable commit.
        covered: The sequence of the newest manifest; 0 if there is none.
        buffer_bytes: Bytes of rows in memory that no manifest covers.
        log_bytes: Bytes of the log behind the newest manifest.
        log_objects: Objects of the log behind it; 0 if the log is on a disk.
        since: When the first commit came that no manifest covers, ns.
        failures: How many snapshots failed since the last good one.
        failed_at: When the last one failed, ns.
    """

    sequence: int
    covered: int = 0
    buffer_bytes: int = 0
    log_bytes: int = 0
    since: int = 0
    failures: int = 0
    failed_at: int = 0
    log_objects: int = 0


def snapshot_due(
    facts: Facts, limits: Limits, now: int, *, deleted: bool = False, disk_short: bool = False
) -> Cause | None:
    """Why a snapshot is due; None if it is not. The caller sees to it that only one is under way.

    After a failure it is due again after 1 s, 2 s, 4 s and so on, at most a minute; being short of memory changes nothing
    about that, since the store that failed is the same.

    Args:
        facts: How things are.
        limits: What is allowed.
        now: Wall-clock time, ns.
        deleted: Whether a table was deleted for good whose files the newest manifest still names.
        disk_short: Whether the disk is nearly full: files take less than the log, which can go then.
    """
    if facts.sequence <= facts.covered:
        return None
    if facts.failures and now < facts.failed_at + retry_after(facts.failures):
        return None
    if facts.buffer_bytes >= limits.buffer_bytes:
        return "buffer"
    if facts.buffer_bytes >= limits.early_bytes:
        return "memory"
    if facts.log_bytes >= limits.log_bytes or facts.log_objects >= limits.log_objects:
        return "log"
    if disk_short and facts.log_bytes >= LEAST_FOR_DISK:
        return "disk"
    if deleted:
        return "deleted"
    return "age" if now - facts.since >= limits.age else None


def retry_after(failures: int) -> int:
    """How long to wait after so many failures in a row, ns."""
    return min(_LONGEST_WAIT, SECOND << min(failures - 1, 16))


def writers_wait(bytes_in_memory: int, limits: Limits) -> bool:
    """Whether writers are to be told to come back later: all rows in memory, those of a snapshot under way included."""
    return bytes_in_memory >= limits.memory_bytes
