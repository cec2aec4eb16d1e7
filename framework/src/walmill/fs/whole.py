"""Files that are replaced as a whole: a reader finds what was there before or what comes, and a crash leaves one of the two."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ASIDE = ".new-"
"""How the name of a file begins that is not there yet."""


def write_whole(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Replaces a file. When this returns, its contents and its name are synced.

    Args:
        path: Its path; the directory must be there.
        data: All that it will hold; text becomes UTF-8.
        mode: Who may read it.

    Raises:
        OSError: If it cannot be written; then what was there stays.
    """
    descriptor, aside = tempfile.mkstemp(prefix=ASIDE, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Syncs the names in a directory.

    Raises:
        OSError: If that is not possible.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
