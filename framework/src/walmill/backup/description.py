"""What a place for backups holds, besides the objects that they share: a description of each, which is what makes it count."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator

import attrs
from attrs import frozen

from walmill.errors import DataCorruption, NotFound
from walmill.objects.protocol import ObjectStore
from walmill.snapshot.store import MISSING
from walmill.units import format_time

FORMAT = 1
BACKUPS = "backups/"
CLAIMS = "claims/"
"""Below it lies a note of each backup that is being made."""
_NAME = re.compile(r"backups/(\d{20})")


@frozen(kw_only=True)
class Description:
    """A backup.

    Attributes:
        number: From 1, in the order in which they were made.
        manifest: Number of the manifest that names everything in it.
        nonce: What tells that manifest from one of another data directory.
        sequence: Everything that was committed up to here is in it, and nothing else.
        time: Commit time of that sequence, ns.
        created: When it was made, ns.
        engine: Version of the engine that made it.
        layout: Format of the data directory.
        objects: Number of objects, the manifest included.
        size: Their bytes together.
        checksum: CRC-32 of the manifest.
        format: Format of this description.
    """

    number: int
    manifest: int
    nonce: str
    sequence: int
    time: int
    created: int
    engine: str
    layout: int
    objects: int
    size: int
    checksum: int
    format: int = FORMAT

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{BACKUPS}{self.number:020}"

    def encode(self) -> bytes:
        """As JSON, whose last member is the CRC-32 of all bytes before it."""
        body = json.dumps(attrs.asdict(self), separators=(",", ":")).encode()[:-1]
        return body + b',"crc":"%08x"}' % zlib.crc32(body)

    @classmethod
    def decode(cls, path: str, data: bytes) -> Description:
        """From what `encode` gave.

        Raises:
            DataCorruption: If it is damaged, or of a newer format.
        """
        body, mark, rest = data.rpartition(b',"crc":"')
        if not mark or rest != b'%08x"}' % zlib.crc32(body):
            raise DataCorruption(f"{path} is damaged: its checksum does not fit its bytes")
        try:
            members = json.loads(data)
            del members["crc"]
            if members["format"] > FORMAT:
                raise DataCorruption(
                    f"{path} has the format {members['format']}, made by Walmill {members['engine']}; this version reads formats "
                    f"up to {FORMAT}: use the version that made it, or a newer one"
                )
            return cls(**members)
        except (ValueError, TypeError, KeyError) as error:
            raise DataCorruption(f"{path} cannot be read: {error}") from None

    def shown(self) -> dict[str, object]:
        """As plain data for people and programs."""
        return {
            "backup": self.number,
            "sequence": self.sequence,
            "time": format_time(self.time),
            "created": format_time(self.created),
            "objects": self.objects,
            "bytes": self.size,
            "engine": self.engine,
        }


def numbers(store: ObjectStore) -> list[int]:
    """The numbers of the backups in a place."""
    return [int(match[1]) for path, _ in store.list(BACKUPS) if (match := _NAME.fullmatch(path))]


def descriptions(store: ObjectStore) -> Iterator[Description]:
    """The backups in a place, the oldest first.

    Raises:
        DataCorruption: If one is damaged.
    """
    for number in numbers(store):
        yield read(store, number)


def read(store: ObjectStore, number: int) -> Description:
    """The backup of a number.

    Raises:
        NotFound: If there is none.
        DataCorruption: If its description is damaged.
    """
    path = f"{BACKUPS}{number:020}"
    try:
        data = bytes(store.get(path))
    except MISSING:
        raise NotFound(
            f"there is no backup {number} in {store.name}; `walmill backup list` shows those that are"
        ) from None
    return Description.decode(path, data)


def choose(store: ObjectStore, *, sequence: int | None = None, time: int | None = None) -> Description:
    """The newest backup that holds nothing behind a sequence or a time; the newest of all if neither is given.

    Raises:
        NotFound: If there is none.
        DataCorruption: If a description is damaged.
    """
    found = sorted(descriptions(store), key=lambda one: (one.sequence, one.number))
    if not found:
        raise NotFound(f"there is no backup in {store.name}")
    fitting = [
        one for one in found if (sequence is None or one.sequence <= sequence) and (time is None or one.time <= time)
    ]
    if not fitting:
        oldest = found[0]
        raise NotFound(
            f"there is no backup that ends so early in {store.name}: the oldest one, number {oldest.number}, ends at the "
            f"sequence {oldest.sequence} of {format_time(oldest.time)}"
        )
    return fitting[-1]
