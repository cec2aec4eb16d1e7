"""Where the log is: on the disk of this machine, or in an object store; and moving it from one place to another at start."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from walmill.begin import begin_view
from walmill.errors import Conflict, InvalidRequest
from walmill.fs.protocol import FileSystem
from walmill.model.cursor import Cursor
from walmill.objects.errors import NoSuchObject, ObjectExists
from walmill.objects.open import open_store
from walmill.objects.protocol import ObjectStore
from walmill.observe.log import get_logger
from walmill.snapshot.head import Head
from walmill.snapshot.jobs import write_snapshot
from walmill.snapshot.manifest import Loaded, load
from walmill.snapshot.release import find_holders
from walmill.store.replay import replay
from walmill.store.view import View
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
        identity: What tells the engine's object store from others.
        segment_bytes: Size of a segment.
        now: Wall-clock time, ns.
        told: Told how many bytes have been read, and of how many.
    """

    root: Path
    fs: FileSystem
    store: ObjectStore | None
    identity: str
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
            identity=self.identity,
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
        Conflict: If the log is in an object store, and the settings do not say so; or if a trigger needs what would stay behind.
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
    """Takes what only the old log has into files, with a manifest that says where the log is from now on: that is the move."""
    before = old.open(loaded, known=False)
    try:
        for line in before.report:
            log.warning(line)
        covered = loaded.view.sequence
        view = replay(before.replay(after=covered), view=begin_view(loaded))
        _refuse_triggers_behind(view, old)
        # the new place is claimed before a manifest names it: then it is never empty
        if new.store is not None:
            new.open(loaded, known=False).close()
        head = Head(objects, loaded, epoch=before.epoch + 1, now=new.now, log=new.name)
        if view.sequence > covered:
            write_snapshot(head, view)
        else:
            head.claim()
    finally:
        before.close()
    log.info("the log is moved", source=str(old), target=str(new), sequence=view.sequence)
    return load(objects)


def _refuse_triggers_behind(view: View, old: LogPlace) -> None:
    behind = [one for one in find_holders(view.catalog, view.cursors) if one.needs <= view.sequence]
    if not behind:
        return
    names = sorted(view.catalog.triggers[one.trigger].name for one in behind)
    furthest = min((view.cursors.get(one.trigger) or Cursor()).through for one in behind)
    where = LOCAL if old.store is None else old.store.name
    raise Conflict(
        f"the log cannot be moved from {old}: the trigger{'s' if len(names) > 1 else ''} {', '.join(names)} "
        f"need{'' if len(names) > 1 else 's'} what is in it behind the commit {furthest}. Start with --wal {where}, wait until "
        "`walmill show triggers` shows no lag, or disable them, stop, and start as now"
    )
