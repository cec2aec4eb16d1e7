"""Makes a backup of a running engine: everything that its newest manifest names, copied beside the writes that go on."""

from __future__ import annotations

import secrets
import zlib

from walmill.backup.copy import Told, copy, objects_of, quiet
from walmill.backup.description import CLAIMS, Description, numbers
from walmill.errors import Conflict
from walmill.layout import FORMAT as LAYOUT
from walmill.objects.create import put_new_once
from walmill.objects.errors import ObjectExists
from walmill.objects.protocol import ObjectStore
from walmill.snapshot.manifest import Loaded


def create_backup(
    source: ObjectStore, loaded: Loaded, target: ObjectStore, *, now: int, told: Told = quiet
) -> Description:
    """Copies what a manifest names and describes it; only then the backup is there.

    Objects are written once and never changed, so what an earlier backup has copied is not copied again; what is copied is
    compared with its checksum.

    Args:
        source: The object store of the engine.
        loaded: What the newest manifest says. As long as it is held, nothing of it is deleted.
        target: Where the backup goes.
        now: Wall-clock time, ns.
        told: Told how far it is.

    Returns:
        The backup. One of the same sequence that is there already is given back as it is.

    Raises:
        Conflict: If the target has backups of another data directory, or nothing was ever committed.
        DataCorruption: If an object is missing or damaged: then there is no backup.
        Unavailable: If a store does not answer.
    """
    manifest = loaded.manifest
    if manifest is None:
        raise Conflict("nothing was ever committed, so there is nothing to back up")
    root = manifest.encode()
    for number in reversed(numbers(target)):
        known = Description.decode(f"backup {number}", bytes(target.get(f"backups/{number:020}")))
        if (known.manifest, known.nonce) == (manifest.number, manifest.nonce):
            return known
    claim = f"{CLAIMS}{now:020}-{secrets.token_hex(4)}"
    target.put(claim, b"a backup is being made")
    try:
        wanted = objects_of(source, manifest)
        copy(source, target, wanted, told)
        try:
            put_new_once(target, manifest.path, root)
        except ObjectExists:
            raise Conflict(
                f"{target.name} has a backup of another data directory, or of another history of this one; take another place"
            ) from None
        while True:
            description = Description(
                number=max(numbers(target), default=0) + 1,
                manifest=manifest.number,
                nonce=manifest.nonce,
                sequence=manifest.sequence,
                time=manifest.time,
                created=now,
                engine=manifest.engine,
                layout=LAYOUT,
                objects=len(wanted) + 1,
                size=sum(one.size for one in wanted) + len(root),
                checksum=zlib.crc32(root),
            )
            try:
                put_new_once(target, description.path, description.encode())
            except ObjectExists:  # another one was faster
                continue
            return description
    finally:
        target.delete(claim)
