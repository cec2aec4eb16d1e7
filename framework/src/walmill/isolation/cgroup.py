"""Control groups: where the system lets us make some, the kernel itself holds a worker to its share of a processor.

A process moves into a group of its own when it has used more than its share for the first time. Most never do, and a move can
take 20 ms: the kernel waits until no processor is in the middle of a fork. It is done by a thread of its own; until then the
warden stops and continues the process.

Sources: cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1 of Linux.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import define, frozen

from walmill.observe.log import get_logger

log = get_logger("walmill.workers")

PERIOD_US = 50_000
"""Over so long a share is counted, microseconds: in every such span a process gets its share, and then waits."""
LEAST_QUOTA_US, MOST_PERIOD_US = 1_000, 1_000_000
"""What the kernel takes at least and at most."""
PREFIX = "walmill-"
CLOSE_SECONDS = 2.0
_numbers = itertools.count(1)  # engines of one process have groups of their own


@frozen
class Place:
    """A group in which we may make others.

    Attributes:
        version: Of the interface: 1, or 2.
        path: Where it is mounted.
    """

    version: int
    path: Path


def place_of(groups: str, mounts: str) -> Place | None:
    """The group of a process, as far as it divides processors; None if that is not mounted.

    Args:
        groups: What `/proc/PID/cgroup` says.
        mounts: What `/proc/PID/mountinfo` says.
    """
    memberships = [parts for line in groups.splitlines() if len(parts := line.split(":", 2)) == 3]
    old = next((path for _, names, path in memberships if "cpu" in names.split(",")), None)
    new = next((path for number, names, path in memberships if (number, names) == ("0", "")), None)
    for version, kind, member in ((1, "cgroup", old), (2, "cgroup2", new)):
        if member is None or ".." in member.split("/"):  # it is outside of what we see
            continue
        for line in mounts.splitlines():
            about, _, system = line.partition(" - ")
            parts, options = about.split(), system.split()
            if len(parts) < 5 or len(options) < 3 or options[0] != kind:
                continue
            if version == 1 and "cpu" not in options[2].split(","):
                continue
            root, point = (part.replace("\\040", " ") for part in parts[3:5])
            inside = os.path.relpath(member, root)
            if not inside.startswith(".."):
                return Place(version, Path(point) / inside)
        if version == 1:
            return None  # the kernel divides processors by that version alone
    return None


def quota_of(share: float) -> tuple[int, int]:
    """Quota and period, microseconds, that give a share of one processor."""
    period = min(MOST_PERIOD_US, max(PERIOD_US, round(LEAST_QUOTA_US / share)))
    return max(LEAST_QUOTA_US, round(share * period)), period


@define(eq=False)
class Group:
    """A group with a share of a processor.

    Attributes:
        place: Where it was made.
        path: Its directory.
    """

    place: Place
    path: Path

    def limit(self, share: float) -> None:
        """Sets the share."""
        quota, period = quota_of(share)
        if self.place.version == 2:
            _write(self.path / "cpu.max", f"{quota} {period}")
        else:
            _write(self.path / "cpu.cfs_period_us", str(period))
            _write(self.path / "cpu.cfs_quota_us", str(quota))

    def take(self, processes: Callable[[], Iterable[int]]) -> None:
        """Moves processes into it, and those that they start meanwhile."""
        seen: set[int] = set()
        while fresh := [one for one in processes() if one not in seen]:
            for pid in fresh:
                seen.add(pid)
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    _write(self.path / "cgroup.procs", str(pid))

    def remove(self) -> bool:
        """Removes it; False while there are processes in it."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class Groups:
    """The groups of one engine's workers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place: Place | None = None
        self._looked = False
        self._left: list[Group] = []
        self._threads: set[threading.Thread] = set()

    def confine(
        self, processes: Callable[[], Iterable[int]], share: float, done: Callable[[Group | None], bool]
    ) -> None:
        """Moves processes into a new group, beside whoever asks.

        Args:
            processes: Gives them; asked again until there are no more of them.
            share: Of one processor.
            done: Told of the group, or None where there can be none; says whether it is still wanted.
        """
        thread = threading.Thread(
            target=self._confine, args=(processes, share, done), name="walmill-cgroup", daemon=True
        )
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _confine(
        self, processes: Callable[[], Iterable[int]], share: float, done: Callable[[Group | None], bool]
    ) -> None:
        group = None
        try:
            group = self._make()
            if group is not None:
                group.limit(share)
                group.take(processes)
        except OSError as error:
            log.info("the share of a processor is held by signals, not by a control group", error=str(error))
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                self._place = None  # what the system forbids once, it forbids again
            if group is not None:
                self.leave(group)
                group = None
        finally:
            if not done(group) and group is not None:
                self.leave(group)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def leave(self, group: Group) -> None:
        """A group is no longer needed. It goes as soon as the last process in it has ended."""
        with self._lock:
            self._left = [one for one in [*self._left, group] if not one.remove()]

    def close(self) -> None:
        """Removes what is left, as soon as it can be removed."""
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(CLOSE_SECONDS)
        until = time.monotonic() + CLOSE_SECONDS
        while True:
            with self._lock:
                self._left = [one for one in self._left if not one.remove()]
                if not self._left or time.monotonic() > until:
                    return
            time.sleep(0.005)

    def _make(self) -> Group | None:
        with self._lock:
            if not self._looked:
                self._looked = True
                self._place = found()
            if self._place is None:
                return None
            place = self._place
        group = Group(place, place.path / f"{PREFIX}{os.getpid()}-{next(_numbers)}")
        group.path.mkdir()
        kind = group.path / "cgroup.type"
        if place.version == 2 and kind.read_text().strip() == "domain invalid":
            # our own group has processes of its own, this one: in such a group others divide processors only as threads
            _write(kind, "threaded")
        return group


def found() -> Place | None:
    """The group of this process, if others can be made in it; what engines that were killed have left there is removed."""
    try:
        place = place_of(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
        if place is None or not os.access(place.path, os.W_OK):
            return None
        if place.version == 2:
            if "cpu" not in (place.path / "cgroup.controllers").read_text().split():
                return None
            given = place.path / "cgroup.subtree_control"
            if "cpu" not in given.read_text().split():
                _write(given, "+cpu")
        for left in place.path.glob(f"{PREFIX}*"):
            pid = left.name.removeprefix(PREFIX).partition("-")[0]
            if pid.isdigit() and not Path("/proc", pid).exists():
                Group(place, left).remove()
    except OSError as error:
        log.info("the share of a processor is held by signals, not by control groups", error=str(error))
        return None
    return place


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
