"""The warden: a thread that holds worker processes to their limits from outside, whatever the plugin in them does.

Wall time, memory and processor time end a run: the process is killed. The share of a processor is held by a control group
where the system has them for us, otherwise by stopping and continuing the process. Everything is measured from
here; nothing that happens in a worker can put it off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence

from attrs import define, field

from walmill.context.local import Limits
from walmill.isolation.cgroup import Group, Groups
from walmill.units import format_size
from walmill_worker.processes import children, descendants

TICK_SECONDS = 0.01
"""A run that lasts is looked at so often."""
LONG_SECONDS = 60.0
LONG_TICK_SECONDS = 0.1
"""A run that has lasted so long is looked at less often: sources run for weeks."""
IDLE_SECONDS = 1.0
"""A worker without a run is looked at so often: a thread that a plugin left behind may go on in it."""
QUIET_TICKS = 100
"""After so many looks without a run the thread sleeps until the next one."""
FILES_LOOKS = 10
"""Open files are looked through with every so many looks: it takes as long as all the rest of one."""
BURST_SECONDS = 0.05
"""A process may use its share of so much time at once."""


@define(eq=False)
class Watched:
    """One worker process under watch.

    Attributes:
        pid: The process.
        pidfd: Its descriptor.
        limits: What a run in it may use.
        base: Bytes of memory that it had before it loaded the plugin.
        groups: Makes its control group, when it uses more than its share.
        began: `time.monotonic()` when the run began; None between runs.
        cpu_before: Processor seconds that it had used then.
        peak: Most memory seen in this run, bytes; 0 if nobody looked.
        killed: Why it was killed from here.
        seen_at: `time.monotonic()` when it was looked at last.
    """

    pid: int
    pidfd: int
    limits: Limits
    base: int = 0
    groups: Groups | None = None
    began: float | None = None
    cpu_before: float = 0.0
    peak: int = 0
    killed: str | None = None
    seen_at: float = 0.0
    _closing: threading.Lock = field(factory=threading.Lock)
    _tokens: float = 0.0
    _looked: float = 0.0
    _used: float = 0.0
    _stopped: list[int] = field(factory=list)
    _group: Group | None = None
    _asked: bool = False
    _looks: int = 0
    _files: int = 0

    def kill(self, why: str | None = None) -> None:
        """Ends it; what it has started is ended by the zygote, whose children they become."""
        with self._closing:  # a descriptor that is closed may be another process's by now
            if self.pidfd < 0:
                return
            if self.killed is None and why is not None:
                self.killed = why
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """It has ended: nothing is done to it any more."""
        with self._closing:
            if self.pidfd >= 0:
                os.close(self.pidfd)
                self.pidfd = -1
        if self._group is not None and self.groups is not None:
            self.groups.leave(self._group)

    def cpu(self) -> float:
        """Seconds of processor time that it and what it has started have used."""
        total = cpu_of(self.pid)
        below = children(self.pid)
        if below:
            total += sum(cpu_of(one) for one in descendants(self.pid))
        return total + ended_children(self.pid)

    def look(self, now: float) -> None:
        """Looks at it, and does what its limits ask for."""
        if self.pidfd < 0:
            return
        limits, began = self.limits, self.began
        if began is not None and limits.seconds is not None and now - began >= limits.seconds:
            self.kill(f"the run took longer than its limit of {limits.seconds:g} s")
            return
        if limits.memory is not None:
            size = self.memory()
            self.peak = max(self.peak, size)
            if size > limits.memory:
                self.kill(f"memory limit of {format_size(limits.memory)} exceeded")
                return
        used = self.cpu()
        if began is not None and limits.cpu_seconds is not None and used - self.cpu_before > limits.cpu_seconds:
            self.kill(f"the run used more than its limit of {limits.cpu_seconds:g} s of processor time")
            return
        if limits.cpu is not None:
            self._share(limits.cpu, used, now)

    def memory(self) -> int:
        """Bytes beyond what it had at first, with all that it has started: anonymous and shared memory, memory files that they
        hold open without having them mapped, no other files."""
        tree = [self.pid, *descendants(self.pid)]
        own = [_resident(one) for one in tree]
        if self._looks % FILES_LOOKS == 0:
            self._files = memory_files(tree)
        self._looks += 1
        mapped = sum(shared for _, shared in own)
        return max(0, sum(own[0]) - self.base) + sum(map(sum, own[1:])) + max(0, self._files - mapped)

    def _share(self, share: float, used: float, now: float) -> None:
        if self._group is not None:
            self.go_on()
            return
        most = share * BURST_SECONDS
        if not self._looked:
            self._looked, self._used, self._tokens = now, used, most
            return
        self._tokens = min(most, self._tokens + share * (now - self._looked)) - (used - self._used)
        self._looked, self._used = now, used
        if self._tokens < 0 and not self._stopped:
            self._stopped = [self.pid, *descendants(self.pid)]
            _signal(self._stopped, signal.SIGSTOP)
            if self.groups is not None and not self._asked:
                self._asked = True
                self.groups.confine(lambda: (self.pid, *descendants(self.pid)), share, self._confined)
        elif self._tokens >= 0:
            self.go_on()

    def _confined(self, group: Group | None) -> bool:
        with self._closing:
            if self.pidfd < 0:
                return False
            self._group = group
            return True

    def go_on(self) -> None:
        """Has it go on if it was stopped."""
        if self._stopped:
            _signal(self._stopped, signal.SIGCONT)
            self._stopped = []

    @property
    def stopped(self) -> bool:
        """Whether it stands still for having used more than its share."""
        return bool(self._stopped)

    @property
    def group(self) -> str | None:
        """The directory of its control group; None as long as it needs none, or where there are none."""
        return None if self._group is None else str(self._group.path)


class Warden:
    """Watches the workers of one engine."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._quiet = 0
        self._end = False
        self._thread: threading.Thread | None = None

    def add(self, watched: Watched) -> None:
        """Watches a process from now on."""
        with self._lock:
            self._watched.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="walmill-warden", daemon=True)
                self._thread.start()

    def remove(self, watched: Watched) -> None:
        """Watches it no more."""
        with self._lock:
            self._watched.discard(watched)

    def begin(self, watched: Watched) -> None:
        """A run begins in a process."""
        watched.peak = 0
        watched.cpu_before = cpu_of(watched.pid) if watched.limits.cpu_seconds is None else watched.cpu()
        watched.began = time.monotonic()
        if not self._wake.is_set():
            self._wake.set()

    def finish(self, watched: Watched) -> None:
        """A run has ended in a process."""
        watched.began = None

    def stop(self) -> None:
        """Ends the thread."""
        self._end = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        swept = time.monotonic()
        while not self._end:
            with self._lock:
                watched = list(self._watched)
            now = time.monotonic()
            sweep = now - swept >= IDLE_SECONDS
            if sweep:
                swept = now
            busy, calm = False, True
            soonest = now + TICK_SECONDS
            for one in watched:
                began = one.began
                lasts = 0.0 if began is None else now - began
                due = lasts >= TICK_SECONDS / 2 and (lasts < LONG_SECONDS or now - one.seen_at >= LONG_TICK_SECONDS)
                if began is not None:
                    busy = True
                    calm = calm and lasts >= LONG_SECONDS and one.limits.seconds is None
                    if one.limits.seconds is not None:
                        soonest = min(soonest, began + one.limits.seconds)
                if sweep or one.stopped or due:
                    one.seen_at = now
                    with contextlib.suppress(OSError, ValueError):  # it has ended
                        one.look(now)
                    busy, calm = busy or one.stopped, calm and not one.stopped
            self._quiet = 0 if busy else self._quiet + 1
            if self._quiet > QUIET_TICKS:
                self._wake.clear()
                if not any(one.began is not None for one in watched) and not self._end:
                    self._wake.wait(IDLE_SECONDS if watched else None)
                self._quiet = 0 if self._wake.is_set() else QUIET_TICKS
            elif busy and calm:
                self._wake.clear()
                # one that has begun since then has set it, or is seen here
                if not any(one.began is not None and one.began >= now for one in watched) and not self._end:
                    self._wake.wait(LONG_TICK_SECONDS)
            else:
                time.sleep(max(0.0005, soonest - time.monotonic()))


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has used, all its threads together; 0 if it is gone."""
    try:
        return time.clock_gettime(((~pid) << 3) | 2)  # the system's number for the clock of a process
    except OSError:
        return 0.0


_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def ended_children(pid: int) -> float:
    """Seconds of processor time of children that have ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - called often
            parts = file.read().rpartition(b") ")[2].split()
    except OSError:
        return 0.0
    return (int(parts[13]) + int(parts[14])) / _TICKS


def memory_of(pid: int) -> int:
    """Bytes of anonymous and shared memory that a process has in use; 0 if it is gone. Mapped files do not count."""
    return sum(_resident(pid))


def memory_files(processes: Sequence[int]) -> int:
    """Bytes of the memory files (memfd_create) that processes hold open, each file once; those of the engine do not count."""
    found: dict[tuple[int, int], int] = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - called often
                path = f"/proc/{pid}/fd/{name}"
                with contextlib.suppress(OSError):
                    target = os.readlink(path)  # noqa: PTH115
                    if target.startswith("/memfd:") and not target.startswith("/memfd:walmill-"):
                        about = os.stat(path)  # noqa: PTH116
                        found[about.st_dev, about.st_ino] = about.st_blocks * 512
    return sum(found.values())


def _resident(pid: int) -> tuple[int, int]:
    """Bytes of anonymous, and of shared memory that a process has in use."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 - called often
            text = file.read()
    except OSError:
        return 0, 0
    anonymous, shared = (
        int(text[place + len(name) : text.index(b"kB", place)]) * 1024 if (place := text.find(name)) >= 0 else 0
        for name in (b"RssAnon:", b"RssShmem:")
    )
    return anonymous, shared


def _signal(processes: list[int], number: signal.Signals) -> None:
    for one in processes:
        with contextlib.suppress(OSError):
            os.kill(one, number)
