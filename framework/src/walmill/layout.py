"""What a data directory looks like, and which engines may open it: its format version."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from walmill.errors import DataCorruption, Unavailable
from walmill.fs.whole import sync_directory, write_whole

FORMAT = 1
"""The format that this engine writes. Format 0 has no file that says so, and no objects: only a log."""

NAME = "walmill.json"
RESTORING = "restoring.json"
"""Is there as long as a backup is being restored into the directory, and says which."""


def check_layout(root: Path) -> None:
    """Looks whether this engine may open a data directory, and notes the format in a new or an older one.

    Args:
        root: The directory.

    Raises:
        DataCorruption: If a newer engine has written it, or the file that says so cannot be read.
        Unavailable: If it cannot be written.
    """
    if (root / RESTORING).exists():
        raise DataCorruption(
            f"a backup is being restored into the data directory {root}, or that was broken off: run the same "
            "`walmill backup restore` again, it goes on where it was"
        )
    path = root / NAME
    engine = version("walmill")
    try:
        said = json.loads(path.read_text())
        found, by = said["format"], said.get("engine", "(not said)")
        if type(found) is not int:
            raise ValueError(f"format is {found!r}")
    except FileNotFoundError:
        found, by = 0, ""
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataCorruption(
            f"{NAME} in the data directory {root} cannot be read ({error}); restore it from a backup: it says "
            f'{{"format": {FORMAT}}} for directories that Walmill {engine} wrote'
        ) from None
    if found > FORMAT:
        raise DataCorruption(
            f"the data directory {root} has the format {found}, written by Walmill {by}; this is Walmill {engine}, which reads "
            f"formats up to {FORMAT}: start the version that wrote it, or a newer one"
        )
    if found < FORMAT:
        _write(path, json.dumps({"format": FORMAT, "engine": engine}) + "\n")


def restoring(root: Path) -> Any:
    """Which backup is being restored into a directory; None for none."""
    try:
        return json.loads((root / RESTORING).read_text())
    except (OSError, ValueError):
        return None


def set_restoring(root: Path, backup: Any) -> None:
    """Notes which backup is being restored into a directory; None when it is there.

    Raises:
        Unavailable: If it cannot be written.
    """
    if backup is not None:
        _write(root / RESTORING, json.dumps(backup) + "\n")
        return
    try:
        (root / RESTORING).unlink()
        sync_directory(root)
    except OSError as error:
        raise Unavailable(f"{root / RESTORING} cannot be removed: {error.strerror or error}") from None


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be written ({error.strerror or error}); give the directory space and write permission"
        ) from None
