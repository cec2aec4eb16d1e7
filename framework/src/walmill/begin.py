"""Where an engine begins: its object store, with copies of remote files here, and the view of the newest snapshot."""

from __future__ import annotations

from pathlib import Path

from rpds import HashTrieMap

from walmill.buffer.table import TableBuffer
from walmill.fs.protocol import FileSystem
from walmill.objects.cache import FileCache
from walmill.objects.open import open_store
from walmill.objects.protocol import ObjectStore
from walmill.snapshot.manifest import Loaded
from walmill.store.view import View


def open_objects(place: str | None, root: Path, fs: FileSystem, cache: int) -> tuple[ObjectStore, FileCache | None]:
    """The object store of an engine, and the copies of its files on this machine if it is not there.

    Args:
        place: A directory, or the URL of a bucket; None for the directory `objects` in the data directory.
        root: The data directory.
        fs: Its files.
        cache: Bytes that copies may take.

    Raises:
        WalmillError: The store cannot be used.
    """
    store = open_store(str(root / "objects") if place is None else place, fs)
    if store.local_path("tables") is not None:
        return store, None
    return store, FileCache(store, root / "cache", cache)


def begin_view(loaded: Loaded) -> View:
    """The view of a snapshot, on which the log is replayed: its tables know how new the rows in files are."""
    view = loaded.view
    tables = HashTrieMap(
        {
            table: TableBuffer.empty(view.catalog.tables[table].schema, newest)
            for table, newest in loaded.newest.items()
            if table in view.catalog.tables
        }
    )
    return View(
        sequence=view.sequence,
        time=view.time,
        catalog=view.catalog,
        tables=tables,
        files=loaded.files,
        cursors=view.cursors,
        state=view.state,
        held=loaded,
    )
