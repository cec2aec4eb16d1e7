"""Temporary directories that outlive a process that was killed, and how a later one knows them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from walmill.observe.log import get_logger

LOCK = "lock"
"""A directory with this file belongs to the process that holds a lock on it."""
OLD_SECONDS = 7 * 86_400
"""A directory for one query that is older than this was left: nobody asks for so long."""
_LOCKED = "walmill-flight-"
_AGED = "walmill-query-"

log = get_logger("walmill.leftovers")


class Place:
    """A temporary directory of this process.

    Args:
        path: Where it is; it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Removes it. May be called often."""
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)


def sweep(directory: Path | None = None) -> int:
    """Removes what processes that were killed have left in the directory for temporary files.

    Args:
        directory: The directory; None takes the system's.

    Returns:
        How many directories are gone.
    """
    place = Path(tempfile.gettempdir()) if directory is None else directory
    count = 0
    with contextlib.suppress(OSError):
        for one in place.iterdir():
            with contextlib.suppress(OSError):
                if one.name.startswith((_LOCKED, _AGED)) and one.lstat().st_uid == os.getuid() and _is_left(one):
                    shutil.rmtree(one, ignore_errors=True)
                    count += 1
    if count:
        log.info("temporary directories of processes that were killed are removed", count=count, directory=str(place))
    return count


def _is_left(place: Path) -> bool:
    if place.is_symlink() or not place.is_dir():
        return False
    if place.name.startswith(_AGED):
        return time.time() - place.stat().st_mtime > OLD_SECONDS
    try:
        lock = os.open(place / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - place.stat().st_mtime > OLD_SECONDS  # just being made, or of a version without locks
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
