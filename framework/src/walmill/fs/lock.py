"""The lock of a data directory: one engine at a time, in one process at a time."""

from __future__ import annotations

import fcntl
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from walmill.errors import Conflict

NAME = "lock"


class DirectoryLock:
    """A lock that is held. It ends with `release`, or with the process, however that ends."""

    _guard = threading.Lock()

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, directory: Path) -> DirectoryLock:
        """Locks a directory.

        Raises:
            Conflict: If another process, or another engine of this one, holds it; the message names the process.
        """
        name = str(directory.resolve())
        with cls._guard:
            descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
                os.close(descriptor)
                who = holder or "a process that did not leave its number"
                raise Conflict(
                    f"the data directory {name} is in use by {who}; stop that one first, or take another directory"
                ) from None
            os.ftruncate(descriptor, 0)
            started = datetime.now(UTC).isoformat(timespec="seconds")
            os.pwrite(descriptor, f"process {os.getpid()}, since {started}\n".encode(), 0)
            return cls(descriptor)

    def release(self) -> None:
        """Lets the directory go; a second call does nothing."""
        with self._guard:
            if self._descriptor < 0:
                return
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def holder(directory: Path) -> str | None:
    """Who holds the lock of a directory, as text; None if nobody does."""
    path = directory / NAME
    if not path.exists():
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
    finally:
        os.close(descriptor)
    return None
