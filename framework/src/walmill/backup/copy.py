"""Copies the objects of a manifest from one store to another: what is there already is not copied again, and all is checked."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from attrs import frozen

from walmill.errors import DataCorruption, Unavailable
from walmill.objects.protocol import ObjectStore
from walmill.snapshot.manifest import Manifest, read_files
from walmill.snapshot.names import PARTS, TABLES
from walmill.snapshot.store import MISSING

_AT_A_TIME = 4


@frozen
class Wanted:
    """An object that a backup has: where it is, and what it must be."""

    path: str
    size: int
    checksum: int


@frozen
class Progress:
    """How far a copy is.

    Attributes:
        objects: Objects that are there.
        total_objects: Of so many.
        bytes: Their bytes.
        total_bytes: Of so many.
        copied_bytes: How many of them were copied now; the others were there before.
    """

    objects: int
    total_objects: int
    bytes: int
    total_bytes: int
    copied_bytes: int


Told = Callable[[Progress], None]
"""Told after each object; raises to end the copy."""


def objects_of(store: ObjectStore, manifest: Manifest) -> list[Wanted]:
    """All that a manifest names, parts before files.

    Raises:
        DataCorruption: If a part that lists the files is missing or damaged.
    """
    parts = [Wanted(part.path, part.size, part.checksum) for listed in manifest.parts.values() for part in listed]
    files = [
        Wanted(file.path, file.bytes, file.checksum)
        for listed in read_files(store, manifest).values()
        for file in listed
    ]
    return [*dict.fromkeys(parts), *files]


def there(store: ObjectStore) -> dict[str, int]:
    """Sizes of the objects that a store has, by path; manifests are left out."""
    return {path: size for prefix in (PARTS, TABLES) for path, size in store.list(prefix)}


def fetch(store: ObjectStore, wanted: Wanted) -> bytes:
    """The bytes of an object, checked.

    Raises:
        DataCorruption: If it is missing or not what it must be.
    """
    try:
        data = bytes(store.get(wanted.path))
    except MISSING:
        raise DataCorruption(f"{wanted.path} is missing in {store.name}") from None
    if len(data) != wanted.size:
        raise DataCorruption(f"{wanted.path} in {store.name} has {len(data):,} bytes and must have {wanted.size:,}")
    if zlib.crc32(data) != wanted.checksum:
        raise DataCorruption(f"{wanted.path} in {store.name} is damaged: its checksum does not fit its bytes")
    return data


def copy(source: ObjectStore, target: ObjectStore, wanted: Iterable[Wanted], told: Told) -> None:
    """Copies objects; when it returns all of them are in the target, durably.

    Args:
        source: Where they are.
        target: Where they go. One that is there with the same size is taken for the same: no two objects share a name.
        wanted: The objects.
        told: Told how far it is.

    Raises:
        DataCorruption: If one is missing or damaged.
        Exception: What `told` raises.
    """
    listed = list(wanted)
    have = there(target)
    total = sum(one.size for one in listed)
    done = moved = copied = 0

    def move(one: Wanted) -> int:
        target.put(one.path, fetch(source, one))
        return one.size

    def note(future: Future[int]) -> None:
        nonlocal done, moved, copied
        size = future.result()
        done, moved, copied = done + 1, moved + size, copied + size
        told(Progress(done, len(listed), moved, total, copied))

    waiting: deque[Future[int]] = deque()
    with ThreadPoolExecutor(_AT_A_TIME, "walmill-copy") as pool:
        try:
            for one in listed:
                if have.get(one.path) == one.size:
                    done, moved = done + 1, moved + one.size
                    continue
                if len(waiting) >= _AT_A_TIME:
                    note(waiting.popleft())
                waiting.append(pool.submit(move, one))
            while waiting:
                note(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()
    told(Progress(done, len(listed), moved, total, copied))


def look(store: ObjectStore, wanted: Iterable[Wanted], told: Told) -> Iterator[tuple[Wanted, bytes | DataCorruption]]:
    """The bytes of objects, checked, or what is wrong with each; read a few at a time, in order."""
    listed = list(wanted)
    total = sum(one.size for one in listed)
    moved = 0

    def read(one: Wanted) -> bytes | DataCorruption:
        try:
            return fetch(store, one)
        except DataCorruption as error:
            return error

    with ThreadPoolExecutor(_AT_A_TIME, "walmill-copy") as pool:
        for start in range(0, len(listed), _AT_A_TIME):
            some = listed[start : start + _AT_A_TIME]
            for place, (one, found) in enumerate(zip(some, pool.map(read, some), strict=True), start + 1):
                yield one, found
                moved += one.size
                told(Progress(place, len(listed), moved, total, 0))


def quiet(progress: Progress) -> None:
    """Tells nobody."""


class Stopped(Unavailable):
    """Whoever waited for a copy went away; nothing of it counts, and the next one goes on with what is there."""
