"""The manifest: a small root that names the parts of everything at one sequence. Writing it is the commit of a snapshot."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as version_of
from typing import Any

import msgpack
from attrs import field, frozen

from walmill.errors import DataCorruption, WalmillError
from walmill.model.files import DataFile
from walmill.snapshot import parts as p
from walmill.snapshot.names import MANIFESTS, PARTS, Attempt, attempt_number, manifest_number, manifest_path, part_path
from walmill.snapshot.parts import KINDS, Part, StateMemo
from walmill.snapshot.store import MISSING, Store
from walmill.store.view import View

FORMAT = 2
"""The newest format that this engine reads. It writes 2 where the log is in an object store, which older engines would not look
for there, and 1 else."""

_READERS = 8  # parts read at a time: an object store answers each of them late, and many at once
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException)
_REMEDY = (
    "restore it from a backup; older manifests are not used in its place, since they lack what was acknowledged later"
)


def engine_version() -> str:
    """The version of this engine."""
    return version_of("walmill")


@frozen(kw_only=True)
class Manifest:
    """What a root says.

    Attributes:
        number: One more than that of the manifest which it replaces: created if absent, so only one writer gets it.
        sequence: Everything up to this sequence is in it.
        time: Commit time of that commit, ns.
        created: When it was made, ns.
        epoch: Epoch of the log of the process that wrote it.
        nonce: Random digits of the attempt: who asks whether a manifest is its own compares them.
        engine: Version of the engine that wrote it.
        format: Version of the format.
        next_id: The catalog's.
        generation: The catalog's.
        parts: The parts of each kind, in their order.
        log: The object store in which the log is; None for the disk of a machine.
    """

    number: int
    sequence: int
    time: int
    created: int
    epoch: int
    nonce: str
    engine: str = field(factory=engine_version)
    next_id: int
    generation: int
    parts: Mapping[str, tuple[Part, ...]]
    log: str | None = None
    format: int = field()

    @format.default
    def _format(self) -> int:
        return 1 if self.log is None else 2

    @property
    def path(self) -> str:
        """Where it is."""
        return manifest_path(self.number)

    def encode(self) -> bytes:
        """As the bytes of a root: JSON, whose last member is the CRC-32 of all bytes before it."""
        members = {
            "format": self.format,
            "engine": self.engine,
            "number": self.number,
            "sequence": self.sequence,
            "time": self.time,
            "created": self.created,
            "epoch": self.epoch,
            "nonce": self.nonce,
            "next_id": self.next_id,
            "generation": self.generation,
            **({} if self.log is None else {"log": self.log}),
            "parts": {kind: [part.to_json() for part in parts] for kind, parts in self.parts.items()},
        }
        body = json.dumps(members, separators=(",", ":")).encode()[:-1]
        return body + b',"checksum":"%08x"}' % zlib.crc32(body)

    @classmethod
    def decode(cls, number: int, data: bytes) -> Manifest:
        """From the bytes of the root with a number.

        Raises:
            DataCorruption: If it is damaged, or of a newer format.
        """
        path = manifest_path(number)
        try:
            members = json.loads(data)
            found = members["format"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataCorruption(
                f"the manifest {path} is damaged: it is not JSON with a format ({error}); {_REMEDY}"
            ) from None
        if isinstance(found, int) and found > FORMAT:
            raise DataCorruption(
                f"the manifest {path} has the format {found}, written by Walmill {members.get('engine', '(not said)')}; this "
                f"is Walmill {engine_version()}, which reads formats up to {FORMAT}: start the version that wrote it, or a "
                "newer one"
            )
        body, mark, rest = data.rpartition(b',"checksum":"')
        if not mark or rest != b'%08x"}' % zlib.crc32(body):
            raise DataCorruption(f"the manifest {path} is damaged: its checksum does not fit its bytes; {_REMEDY}")
        try:
            del members["checksum"]
            parts = {kind: tuple(Part(*part) for part in listed) for kind, listed in members.pop("parts").items()}
            manifest = cls(parts=parts, **members)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataCorruption(f"the manifest {path} cannot be read: {error}; {_REMEDY}") from None
        if manifest.number != number:
            raise DataCorruption(
                f"the manifest {path} is another one: it says that its number is {manifest.number}; {_REMEDY}"
            )
        if set(parts) != set(KINDS):
            raise DataCorruption(
                f"the manifest {path} names parts of the kinds {sorted(parts)}, expected are {sorted(KINDS)}; {_REMEDY}"
            )
        return manifest


@frozen(eq=False)
class Contents:
    """What a manifest is about.

    Attributes:
        view: The view; its rows are left out, since the files hold them.
        files: All data files, by id of table.
        newest: The newest time that each table ever had, ns, by id.
    """

    view: View
    files: Mapping[int, Sequence[DataFile]]
    newest: Mapping[int, int]


@frozen(eq=False)
class Loaded:
    """What the newest manifest gave; nothing at sequence 0 if there is none.

    Attributes:
        view: The view, without rows.
        files: Data files by id of table, in order of their last sequence.
        newest: The newest time of each table, ns.
        manifest: The manifest; None if there is none.
        next_number: What the next manifest is called.
        report: What was passed over, one sentence each.
    """

    view: View
    files: dict[int, tuple[DataFile, ...]]
    newest: dict[int, int]
    manifest: Manifest | None
    next_number: int
    report: tuple[str, ...] = ()


def write_manifest(
    store: Store,
    contents: Contents,
    attempt: Attempt,
    *,
    epoch: int,
    now: int,
    previous: Manifest | None = None,
    memo: StateMemo | None = None,
    log: str | None = None,
) -> Manifest:
    """Stores the parts that are new, and then the root. The data files must be stored before.

    Before the root is there, nothing that this writes is seen by anybody.

    Args:
        store: The object store.
        contents: What it is about.
        attempt: Its number, one more than the newest there is, and a nonce that no other attempt has.
        epoch: Epoch of the log.
        now: Wall-clock time, ns.
        previous: The newest manifest: its parts are named again where nothing has changed.
        memo: What the last call left here; spares looking at state that did not change.
        log: The object store in which the log is; None for the disk of a machine.

    Raises:
        Exception: What the store raised. When that was about the root, look whether it is there after all: then it counts.
    """
    stored = {part.digest: part for kind in KINDS for part in (previous.parts[kind] if previous else ())}
    view = contents.view

    def put(kind: str, blobs: Iterable[bytes]) -> tuple[Part, ...]:
        return tuple(_put(store, kind, blob, attempt, stored) for blob in blobs)

    known: dict[tuple[str, ...], Any] = {}
    state: list[Part] = []
    for names in p.group_spaces(view.state):
        spaces = tuple(view.state.spaces[name] for name in names)
        before = memo.known.get(names) if memo is not None else None
        if before is not None and all(one is other for one, other in zip(spaces, before[0], strict=True)):
            kept = before[1]
        else:
            kept = put("state", p.encode_spaces(view.state, names))
        known[names] = (spaces, kept)
        state += kept
    manifest = Manifest(
        number=attempt.number,
        sequence=view.sequence,
        time=view.time,
        created=now,
        epoch=epoch,
        nonce=attempt.nonce,
        next_id=view.catalog.next_id,
        generation=view.catalog.generation,
        parts={
            "catalog": put("catalog", p.encode_catalog(view.catalog)),
            "cursors": put("cursors", p.encode_cursors(view.cursors)),
            "state": tuple(state),
            "files": put("files", p.encode_files(contents.files)),
            "newest": put("newest", p.encode_newest(contents.newest)),
        },
        log=log,
    )
    root = manifest.encode()
    try:
        store.put_new(manifest.path, root)
    except (WalmillError, OSError):
        if not _is_there(store, manifest.path, root):
            raise
    if memo is not None:
        # not before: parts of an attempt that failed may be cleaned up
        memo.known = known
    return manifest


def _put(store: Store, kind: str, blob: bytes, attempt: Attempt, stored: dict[str, Part]) -> Part:
    digest = hashlib.sha256(kind.encode() + b"\0" + blob).hexdigest()[:32]
    part = stored.get(digest)
    if part is None:
        part = stored[digest] = Part(part_path(kind, attempt, digest), len(blob), zlib.crc32(blob))
        store.put(part.path, blob)
    return part


def _is_there(store: Store, path: str, root: bytes) -> bool:
    """Whether our root was stored although the answer said otherwise, or was lost."""
    try:
        return bytes(store.get(path)) == root
    except (WalmillError, OSError):
        return False


def load(store: Store) -> Loaded:
    """Everything that the newest manifest says.

    Raises:
        DataCorruption: If anything of it is missing, damaged, or of a newer format. An older manifest is never taken in its
            place; the only thing passed over is an empty object, whose content was never stored.
    """
    sizes = {number: size for path, size in store.list(MANIFESTS) if (number := manifest_number(path)) is not None}
    parts = dict(store.list(PARTS))
    last = max(sizes, default=0)
    report = []
    while sizes and sizes[max(sizes)] == 0:
        number = max(sizes)
        del sizes[number]
        report.append(f"the manifest {manifest_path(number)} is empty: it was never completed, and does not count")
    newer = max((attempt_number(path) or 0 for path in parts), default=0)
    if newer > last + 1:
        raise DataCorruption(
            f"there are parts of an attempt at the manifest {manifest_path(newer)}, so {manifest_path(newer - 1)} was written, "
            f"and the newest one there is has the number {last}: put the missing manifests back, or restore from a backup"
        )
    if not sizes:
        return Loaded(View(), {}, {}, None, last + 1, tuple(report))
    manifest = read_manifest(store, max(sizes))
    for part in (part for kind in KINDS for part in manifest.parts[kind]):
        if parts.get(part.path) != part.size:
            size = parts.get(part.path)
            wrong = "is missing" if size is None else f"has {size:,} bytes and must have {part.size:,}"
            raise _damaged(manifest, part, wrong)
    decoded: dict[str, Any] = {}
    decoders = {
        "catalog": lambda blobs: p.decode_catalog(blobs, manifest.next_id, manifest.generation),
        "cursors": p.decode_cursors,
        "state": p.decode_state,
        "files": p.decode_files,
        "newest": p.decode_newest,
    }
    for kind, decode in decoders.items():
        decoded[kind] = _decode(store, manifest, kind, decode)
    view = View(
        sequence=manifest.sequence,
        time=manifest.time,
        catalog=decoded["catalog"],
        cursors=decoded["cursors"],
        state=decoded["state"],
    )
    return Loaded(view, decoded["files"], decoded["newest"], manifest, last + 1, tuple(report))


def read_manifest(store: Store, number: int) -> Manifest:
    """The root with a number.

    Raises:
        DataCorruption: If it is missing, damaged, or of a newer format.
    """
    try:
        data = store.get(manifest_path(number))
    except MISSING:
        raise DataCorruption(f"the manifest {manifest_path(number)} is missing; {_REMEDY}") from None
    return Manifest.decode(number, bytes(data))


def read_files(store: Store, manifest: Manifest) -> dict[int, tuple[DataFile, ...]]:
    """The data files that a manifest lists.

    Raises:
        DataCorruption: If a part of it is missing or damaged.
    """
    files: dict[int, tuple[DataFile, ...]] = _decode(store, manifest, "files", p.decode_files)
    return files


def _decode(store: Store, manifest: Manifest, kind: str, decode: Any) -> Any:
    listed = manifest.parts[kind]
    reading: list[Part] = []

    def blobs() -> Iterator[bytes]:
        for part, blob in zip(listed, _fetch(store, manifest, listed), strict=True):
            reading[:] = [part]
            yield blob

    try:
        return decode(blobs())
    except DataCorruption:
        raise
    except _UNREADABLE as error:
        raise _damaged(manifest, reading[0], f"cannot be read ({error!r})") from None


def _fetch(store: Store, manifest: Manifest, parts: Sequence[Part]) -> Iterator[bytes]:
    """The bytes of parts, in order, checked; several are read at a time."""

    def read(part: Part) -> bytes:
        try:
            data = bytes(store.get(part.path))
        except MISSING:
            raise _damaged(manifest, part, "is missing") from None
        if len(data) != part.size or zlib.crc32(data) != part.checksum:
            raise _damaged(manifest, part, "is damaged: its checksum does not fit its bytes")
        return data

    if len(parts) < 2:
        yield from map(read, parts)
        return
    with ThreadPoolExecutor(_READERS, "walmill-parts") as pool:
        for start in range(0, len(parts), 4 * _READERS):
            yield from pool.map(read, parts[start : start + 4 * _READERS])


def _damaged(manifest: Manifest, part: Part, wrong: str) -> DataCorruption:
    return DataCorruption(f"the part {part.path} of the manifest {manifest.path} {wrong}; {_REMEDY}")
