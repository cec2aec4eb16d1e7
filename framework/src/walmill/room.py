"""Whether there is room on the disk: when writers have to wait, and when the reserve is given up so that deletes can commit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from walmill.errors import Unavailable
from walmill.fs.protocol import FileSystem
from walmill.observe.log import get_logger

NAME = "reserve"
"""The file in the data directory that holds space for bad times."""
RETRY_SECONDS = 10

log = get_logger("walmill.room")


@frozen
class DiskLimits:
    """How much of the disk of the data directory stays free.

    Attributes:
        min_free: Bytes, or a part of the disk below 1: with less, writers wait.
        reserved: Bytes of a file that is given up when the disk is full; at most a tenth of the disk. 0 for none.
    """

    min_free: float = 0.01
    reserved: int = 0

    def reserve(self, size: int) -> int:
        """Bytes of the reserve on a disk of so many bytes."""
        return min(self.reserved, size // 10) // 4096 * 4096

    def bound(self, size: int) -> int:
        """Free bytes below which writers wait: never fewer than the reserve has, or they would take its place."""
        wanted = self.min_free * size if self.min_free < 1 else self.min_free
        return max(int(wanted), self.reserve(size))


@frozen
class Disk:
    """How a disk is.

    Attributes:
        free: Bytes free.
        size: Bytes in all.
    """

    free: int
    size: int


@frozen
class Step:
    """What is to be done.

    Attributes:
        short: Whether writers wait.
        give_up: Whether the reserve is to be given up.
        make: Bytes of the reserve that is to be made; 0 for none.
    """

    short: bool
    give_up: bool = False
    make: int = 0


def look(disk: Disk, limits: DiskLimits, *, short: bool, held: bool) -> Step:
    """Decides.

    Args:
        disk: How the disk is.
        limits: What is asked for.
        short: Whether writers wait already: then there must be an eighth more before they go on, or it would flap.
        held: Whether the reserve is there.
    """
    bound, reserve = limits.bound(disk.size), limits.reserve(disk.size)
    now_short = disk.free < (bound + bound // 8 if short else bound)
    if held:
        return Step(now_short, give_up=now_short and disk.free < reserve // 2)
    enough = reserve and not now_short and disk.free >= bound + 2 * reserve
    return Step(now_short, make=reserve if enough else 0)


def usage(path: Path) -> Disk:
    """How the disk of a directory is."""
    found = shutil.disk_usage(path)
    return Disk(found.free, found.total)


class Room:
    """Watches the disk of a data directory, and keeps its reserve. For one thread; `check` and `short` are for all.

    Args:
        directory: The data directory.
        fs: Its files.
        limits: What is asked for.
        measure: Tells how the disk is.
    """

    def __init__(
        self, directory: Path, fs: FileSystem, limits: DiskLimits, measure: Callable[[Path], Disk] = usage
    ) -> None:
        self._directory = directory
        self._path = str(directory / NAME)
        self._fs = fs
        self._limits = limits
        self._measure = measure
        self._held = NAME in fs.list(str(directory))
        self._disk = Disk(0, 0)
        self.short = False

    def look(self) -> None:
        """Looks at the disk, and does what is to be done; to be called every now and then."""
        try:
            self._disk = self._measure(self._directory)
        except OSError:
            return
        step = look(self._disk, self._limits, short=self.short, held=self._held)
        if step.short != self.short:
            self.short = step.short
            if step.short:
                log.warning("the disk is nearly full: writers wait", free=self._disk.free, bound=self.bound)
            else:
                log.info("there is space on the disk again", free=self._disk.free, bound=self.bound)
        if step.give_up:
            self._give_up()
        elif step.make:
            self._make(step.make)

    @property
    def bound(self) -> int:
        """Free bytes below which writers wait."""
        return self._limits.bound(self._disk.size)

    @property
    def trouble(self) -> str | None:
        """Why writers wait; None if they do not."""
        if not self.short:
            return None
        return (
            f"the disk of the data directory {self._directory} has {self._disk.free:,} bytes free, and {self.bound:,} must stay "
            "free (min_free_disk): free space, delete data, or set a shorter retention period"
        )

    def check(self) -> None:
        """Whether there is room for a write.

        Raises:
            Unavailable: If not.
        """
        trouble = self.trouble
        if trouble is not None:
            raise Unavailable(
                f"{trouble}; nothing of this write was kept, send it again later", retry_after=RETRY_SECONDS
            )

    def close(self) -> None:
        """Gives the space of the reserve back: whoever starts next makes it anew."""
        if self._held:
            with suppress(OSError):
                self._fs.unlink(self._path)
            self._held = False

    def _give_up(self) -> None:
        with suppress(OSError):
            self._fs.unlink(self._path)
            log.warning("the disk is full: the reserve is given up, so that deletes and clean-up can go on")
        self._held = False

    def _make(self, size: int) -> None:
        try:
            file = self._fs.create(self._path)
        except OSError:
            return
        try:
            file.allocate(size)
            self._held = True
        except OSError:
            with suppress(OSError):
                self._fs.unlink(self._path)
        finally:
            file.close()
