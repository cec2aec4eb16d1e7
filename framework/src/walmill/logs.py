"""Where the log is: on the disk of this machine, or in an object store; and moving it from one place to another at start."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from attrs import evolve, frozen

from walmill.begin import begin_view
from walmill.errors import Conflict, InvalidRequest, WalmillError
from walmill.fs.protocol import FileSystem
from walmill.objects.errors import NoSuchObject, ObjectExists
from walmill.objects.open import open_store
from walmill.objects.protocol import ObjectStore
from walmill.observe.log import get_logger
from walmill.snapshot.head import Head
from walmill.snapshot.manifest import Loaded, load
from walmill.snapshot.release import find_holders
from walmill.store.replay import replay
from walmill.wal.log import Log
from walmill.wal.remote import ObjectLog
from walmill.wal.segment import segment_number

LOCAL = "local"
"""The directory `wal` in the data directory, said on purpose: so the log is moved there from an object store."""
REMOTE_FLUSH_SECONDS = 1.0
"""How long a write may wait for others by default if the log is in an object store: a request costs time and money."""
PATIENCE = 5.0
"""Seconds for which one request about a frame is tried again before somebody is told; then it begins anew."""
IDENTITY = "identity"
"""The object of a store that tells it from others: the frames of its log say it."""

log = get_logger("walmill.engine")


@frozen
class LogPlace:
    """Where the log of an engine is, and what is needed to open it.

    Attributes:
        root: The data directory.
        fs: Its files.
        store: The object store in which it is; None for the directory `wal` in the data directory.
        identity: Gives what tells the engine's object store from others.
        segment_bytes: Size of a segment.
        now: Wall-clock time, ns.
        told: Told how many bytes have been read, and of how many.
    """

    root: Path
    fs: FileSystem
    store: ObjectStore | None
    identity: Callable[[], str]
    segment_bytes: int
    now: Callable[[], int]
    told: Callable[[int, int], None] = lambda done, total: None

    @property
    def name(self) -> str | None:
        """The object store, as a manifest says it; None for the disk of this machine."""
        return None if self.store is None else self.store.name

    def __str__(self) -> str:
        return str(self.root / "wal") if self.store is None else self.store.name

    def open(self, loaded: Loaded, *, known: bool) -> Log:
        """Opens the log.

        Args:
            loaded: What the newest manifest says.
            known: Whether that manifest says that the log is here.

        Raises:
            DataCorruption: If it is damaged, or not what the manifest needs.
            Conflict: If it belongs to another object store.
            Unavailable: If its object store does not answer.
        """
        covered = loaded.view.sequence
        epoch = 0 if loaded.manifest is None else loaded.manifest.epoch
        if self.store is None:
            return Log.open(
                self.fs,
                str(self.root / "wal"),
                segment_bytes=self.segment_bytes,
                now_ns=self.now,
                covered=covered,
                epoch=epoch,
            )
        return ObjectLog.attach(
            self.store,
            self.fs,
            str(self.root / "spool"),
            segment_bytes=self.segment_bytes,
            now_ns=self.now,
            covered=covered,
            epoch=epoch,
            identity=self.identity(),
            known=known,
            told=self.told,
        )


def open_place(place: str | None, fs: FileSystem) -> ObjectStore | None:
    """The object store for the log; None for the disk of this machine.

    Args:
        place: What the settings say.
        fs: The files, for a store that is a directory.

    Raises:
        InvalidRequest: It is no place for a log.
        StoreRefused: The store cannot be used.
        StoreUnavailable: It does not answer.
    """
    if place is None or place.lower() == LOCAL:
        return None
    if place.lower().startswith("memory:"):
        raise InvalidRequest(
            "the log cannot be in memory:// (--wal): what is acknowledged would be gone with the process"
        )
    return open_store(place, fs, patience=PATIENCE)


def identity_of(store: ObjectStore) -> str:
    """What tells an object store from others; made with the first call."""
    while True:
        try:
            return bytes(store.get(IDENTITY)).decode()
        except NoSuchObject:
            pass
        try:
            store.put_new(IDENTITY, uuid.uuid4().hex.encode())
        except ObjectExists:
            continue


def open_log(objects: ObjectStore, loaded: Loaded, given: str | None, place: LogPlace) -> tuple[Loaded, Log]:
    """Opens the log where it is; moves it first if another place was given on purpose.

    Args:
        objects: The object store with the files and manifests.
        loaded: What the newest manifest says.
        given: What the settings say: None for nothing.
        place: That place, opened.

    Returns:
        What the newest manifest says now, and the log.

    Raises:
        Conflict: If the log is in an object store, and the settings do not say so.
        WalmillError: As `LogPlace.open`.
    """
    manifest = loaded.manifest
    said = None if manifest is None else manifest.log
    if said is not None and given is None:
        raise Conflict(
            f"the log of this object store is in {said}: start with --wal {said}, or with --wal {LOCAL} to move it to the data "
            "directory"
        )
    if place.name != said and (manifest is not None or _has_log(place.root, place.fs)):
        old = LogPlace(
            place.root,
            place.fs,
            None if said is None else open_store(said, place.fs, patience=PATIENCE),
            place.identity,
            place.segment_bytes,
            place.now,
            place.told,
        )
        loaded = _move(objects, loaded, old, place)
    return loaded, place.open(loaded, known=loaded.manifest is not None and place.name is not None)


def _has_log(root: Path, fs: FileSystem) -> bool:
    directory = root / "wal"
    return directory.is_dir() and any(segment_number(name) is not None for name in fs.list(str(directory)))


def _move(objects: ObjectStore, loaded: Loaded, old: LogPlace, new: LogPlace) -> Loaded:
    """Copies what is needed of a log to another place; the manifest that names that place is the move.

    What was copied by a move that was broken off, or was there from an earlier time, is the same log: only the rest is copied.
    """
    before = old.open(loaded, known=False)
    try:
        for line in before.report:
            log.warning(line)
        covered = loaded.view.sequence
        view = replay(before.replay(after=covered), view=begin_view(loaded))
        if isinstance(before, ObjectLog) and not before.found:
            log.warning(
                "the log is empty: what was acknowledged behind the newest snapshot, if anything, is lost", log=str(old)
            )
        needed = [one.needs for one in find_holders(view.catalog, view.cursors)]
        first = max(before.first_sequence, min([covered + 1, *needed]))
        holding = next(before.read(first), None)  # a trigger may be in the middle of a frame
        first = first if holding is None else holding.first_sequence
        after = new.open(evolve(loaded, view=evolve(loaded.view, sequence=first - 1)), known=False)
        try:
            copied = _copy(before, after, first)
        finally:
            after.close()
        Head(objects, loaded, epoch=max(before.epoch, after.epoch), now=new.now, log=new.name).claim()
    finally:
        before.close()
    log.info("the log is moved", source=str(old), target=str(new), sequence=view.sequence, frames=copied)
    return load(objects)


def _copy(before: Log, after: Log, first: int) -> int:
    """Copies the frames from a sequence on that are not there yet, and says how many those were."""

    def fail(error: WalmillError) -> None:
        raise error

    copied = 0
    for frame in before.replay(after=first - 1):
        if frame.first_sequence <= after.last_sequence or not (frame.entries or "cursors" in frame.notes):
            continue
        notes = {kind: frame.notes[kind] for kind in ("cursors",) if kind in frame.notes}
        after.append(frame.entries, notes, frame.commit_time)
        after.sync(fail)
        copied += 1
    return copied
