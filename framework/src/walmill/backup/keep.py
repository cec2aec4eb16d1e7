"""What becomes of backups: they are verified, and those that nobody needs are deleted."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from walmill.backup.copy import Told, look, objects_of, quiet
from walmill.backup.description import CLAIMS, Description, descriptions, numbers, read
from walmill.errors import Conflict, DataCorruption
from walmill.objects.protocol import ObjectStore
from walmill.snapshot.manifest import Manifest, read_files
from walmill.snapshot.names import manifest_path
from walmill.snapshot.store import MISSING
from walmill.snapshot.sweep import unreferenced
from walmill.units import DAY

STALE = DAY
"""A note of a backup that is being made counts no more after so long, ns: whoever left it was broken off."""

_EVERY = 2**63


def manifest_of(store: ObjectStore, backup: Description) -> Manifest:
    """The manifest of a backup.

    Raises:
        DataCorruption: If it is missing or damaged, or another one.
    """
    path = manifest_path(backup.manifest)
    try:
        data = bytes(store.get(path))
    except MISSING:
        raise DataCorruption(
            f"{path}, the manifest of the backup {backup.number}, is missing in {store.name}"
        ) from None
    if zlib.crc32(data) != backup.checksum:
        raise DataCorruption(f"{path} in {store.name} is damaged, or is not the manifest of the backup {backup.number}")
    return Manifest.decode(backup.manifest, data)


def verify(store: ObjectStore, only: int | None = None, told: Told = quiet) -> Iterator[tuple[Description, list[str]]]:
    """Reads all that backups have, and compares it with what it must be. Objects that they share are read once.

    Args:
        store: The place.
        only: Number of a backup; None for all.
        told: Told how far it is.

    Yields:
        Each backup with what is wrong with it, one sentence each.

    Raises:
        NotFound: If there is no such backup.
        DataCorruption: If a description is damaged.
    """
    known: dict[str, str | None] = {}
    for backup in [read(store, only)] if only is not None else list(descriptions(store)):
        try:
            manifest = manifest_of(store, backup)
            wanted = objects_of(store, manifest)
            rows = {file.path: file.rows for listed in read_files(store, manifest).values() for file in listed}
        except DataCorruption as error:
            yield backup, [error.message]
            continue
        for one, found in look(store, [one for one in wanted if one.path not in known], told):
            if isinstance(found, DataCorruption):
                known[one.path] = found.message
            else:
                known[one.path] = _trouble(one.path, found, rows.get(one.path))
        yield backup, [problem for one in wanted if (problem := known[one.path]) is not None]


def _trouble(path: str, data: bytes, rows: int | None) -> str | None:
    """What is wrong with a data file whose bytes are right: that it cannot be read, or has other rows."""
    if rows is None:
        return None
    try:
        found = pq.read_metadata(io.BytesIO(data)).num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        return f"{path} is no Parquet file that can be read: {error}"
    return None if found == rows else f"{path} has {found:,} rows and must have {rows:,}"


def delete(store: ObjectStore, gone: Iterable[int], *, now: int, force: bool = False) -> int:
    """Deletes backups, and the objects that no other one has.

    Args:
        store: The place.
        gone: Their numbers.
        now: Wall-clock time, ns.
        force: Also while somebody seems to make a backup.

    Returns:
        How many objects were deleted.

    Raises:
        NotFound: If there is no such backup; then nothing is deleted.
        Conflict: If a backup is being made there: what it counts on could be deleted.
        DataCorruption: If another backup cannot be read: what it has is not known then.
    """
    chosen = [read(store, number) for number in dict.fromkeys(gone)]
    claims = [path for path, _ in store.list(CLAIMS) if _began(path) > now - STALE]
    if claims and not force:
        raise Conflict(
            f"a backup is being made in {store.name}, or was broken off less than a day ago; wait until it is there, or say "
            "--force if you know that there is none"
        )
    for one in chosen:
        store.delete(one.path)
    kept = {one.manifest for one in descriptions(store)}
    count = 0
    for path in list(unreferenced(store, kept, _EVERY)):
        store.delete(path)
        count += 1
    for path, _ in list(store.list(CLAIMS)):
        if force or _began(path) <= now - STALE:
            store.delete(path)
    return count


def _began(claim: str) -> int:
    digits = claim.removeprefix(CLAIMS).partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def beyond(store: ObjectStore, keep: int) -> list[int]:
    """The numbers of all backups but the newest ones."""
    return numbers(store)[:-keep] if keep else numbers(store)
