"""Restores a backup into an empty data directory. One that was broken off is gone on with, and is never taken for a whole one."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from walmill.backup.copy import Told, copy, objects_of, quiet
from walmill.backup.description import Description
from walmill.backup.keep import manifest_of
from walmill.errors import Conflict, DataCorruption, Unavailable
from walmill.fs.lock import NAME as LOCK
from walmill.fs.lock import DirectoryLock
from walmill.layout import FORMAT, NAME, RESTORING, check_layout, restoring, set_restoring
from walmill.objects.local import LocalStore
from walmill.objects.protocol import ObjectStore

UNFINISHED = Path(RESTORING).with_suffix(".new").name


def restore(store: ObjectStore, backup: Description, directory: Path, told: Told = quiet) -> None:
    """Restores a backup.

    Args:
        store: The place of the backup.
        backup: The backup.
        directory: The data directory; made if there is none.
        told: Told how far it is.

    Raises:
        Conflict: If something is in the directory that is not of an earlier attempt at the same backup, or if it is in use.
        DataCorruption: If the backup is damaged, or made by a newer engine.
        Unavailable: If a store does not answer, or the directory cannot be written.
    """
    if backup.layout > FORMAT:
        raise DataCorruption(
            f"the backup {backup.number} has the format {backup.layout} of data directories, made by Walmill {backup.engine}; "
            f"this version reads formats up to {FORMAT}: restore it with the version that made it, or a newer one"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        present = {one.name for one in directory.iterdir()} - {LOCK, UNFINISHED}
    except OSError as error:
        raise Unavailable(f"the directory {directory} cannot be used: {error.strerror or error}") from None
    mine = {"number": backup.number, "manifest": backup.manifest, "nonce": backup.nonce}
    if present and restoring(directory) != mine:
        what = "another restore was broken off in it" if RESTORING in present else "it is not empty"
        raise Conflict(f"the directory {directory} cannot take a backup: {what}; name one that is empty or not there")
    lock = DirectoryLock.acquire(directory)
    try:
        set_restoring(directory, mine)
        manifest = manifest_of(store, backup)
        target = LocalStore(str(directory / "objects"))
        target.sweep()
        copy(store, target, objects_of(store, manifest), told)
        # the log of the one that was backed up is not that of the directory
        target.put(manifest.path, evolve(manifest, log=None, format=1).encode())
        set_restoring(directory, None)
        (directory / NAME).unlink(missing_ok=True)
        check_layout(directory)
    finally:
        lock.release()
