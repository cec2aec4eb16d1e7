"""Which objects nobody needs, and which files are not what a manifest says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from walmill.model.files import DataFile
from walmill.snapshot.manifest import read_files, read_manifest
from walmill.snapshot.names import MANIFESTS, PARTS, TABLES, attempt_number, manifest_number
from walmill.snapshot.parts import Part
from walmill.snapshot.store import Store


def unreferenced(store: Store, kept: Iterable[int], before: int) -> Iterator[str]:
    """Paths of objects that may be deleted, in an order that is safe to stop at anywhere: manifests, parts, data files.

    What has a name that an engine does not give is left alone.

    Args:
        store: The object store.
        kept: Numbers of the manifests that stay: the newest one, and those that a reader or a backup uses.
        before: Objects of attempts at this number or a later one are left alone. It is the number of the newest manifest, or
            of the oldest attempt in progress if that is lower: a long compaction writes files under the number that was next
            when it began.

    Raises:
        DataCorruption: If a kept manifest cannot be read: then nothing is known to be unneeded.
    """
    numbers = set(kept)
    parts: set[str] = set()
    files: set[str] = set()
    seen: set[tuple[Part, ...]] = set()
    for number in sorted(numbers):
        manifest = read_manifest(store, number)
        parts.update(part.path for listed in manifest.parts.values() for part in listed)
        if manifest.parts["files"] not in seen:
            seen.add(manifest.parts["files"])
            files.update(file.path for listed in read_files(store, manifest).values() for file in listed)
    for path, _ in store.list(MANIFESTS):
        found = manifest_number(path)
        if found is not None and found < before and found not in numbers:
            yield path
    for prefix, needed in ((PARTS, parts), (TABLES, files)):
        for path, _ in store.list(prefix):
            found = attempt_number(path)
            if found is not None and found < before and path not in needed:
                yield path


def damaged_files(store: Store, files: Mapping[int, Iterable[DataFile]]) -> Iterator[tuple[DataFile, str]]:
    """Data files that are missing or have another size, with a sentence each; costs one listing and reads no file."""
    sizes = dict(store.list(TABLES))
    for listed in files.values():
        for file in listed:
            size = sizes.get(file.path)
            if size is None:
                yield file, f"the data file {file.path} is missing: restore it from a backup"
            elif size != file.bytes:
                yield (
                    file,
                    f"the data file {file.path} has {size:,} bytes and must have {file.bytes:,}: restore it from a backup",
                )
