"""Data files of a remote store on this machine: fetched when a query needs them, checked, kept up to a size.

A file that a query uses is never removed: `fetch` gives it with a pin, and it stays as long as somebody holds that.
"""

from __future__ import annotations

import os
import threading
import uuid
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from walmill.buffer.source import Located
from walmill.errors import DataCorruption, Unavailable
from walmill.model.files import DataFile
from walmill.objects.errors import NoSuchObject
from walmill.objects.protocol import ObjectStore
from walmill.units import format_size

RETRY_SECONDS = 5


class _Pin:
    """Keeps a file in the cache as long as it lives."""

    __slots__ = ("_cache", "_name")

    def __init__(self, cache: FileCache, name: str) -> None:
        self._cache, self._name = cache, name

    def __del__(self) -> None:
        self._cache._unpin(self._name)


class FileCache:
    """A directory with copies of data files. For all threads of one process.

    What is there from an earlier process is used again, once its bytes were compared with the checksum.

    Args:
        store: Where the files are.
        directory: Where the copies go; made if there is none. Only this cache may write there.
        limit: Bytes that all copies may take together.

    Raises:
        Unavailable: If the directory cannot be used.
    """

    def __init__(self, store: ObjectStore, directory: Path, limit: int) -> None:
        self._store = store
        self._directory = directory
        self._limit = limit
        self._guard = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the one that was not used for longest comes first
        self._pins: dict[str, int] = {}
        self._checked: set[str] = set()
        self._fetching: dict[str, threading.Event] = {}
        self._total = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            found = sorted(directory.iterdir(), key=lambda one: one.stat().st_mtime)
            for one in found:
                if one.suffix != ".parquet":
                    one.unlink()
                    continue
                self._sizes[one.name] = one.stat().st_size
                self._total += one.stat().st_size
        except OSError as error:
            raise Unavailable(
                f"the directory {directory} for copies of data files cannot be used: {error.strerror or error}"
            ) from None
        with self._guard:
            self._make_room(0)

    @property
    def bytes(self) -> int:
        """Bytes of all copies."""
        return self._total

    @property
    def files(self) -> int:
        """Number of copies."""
        return len(self._sizes)

    def locate(self, file: DataFile) -> Located:
        """The copy of a file, fetched and checked first if need be. Two threads that want the same file fetch it once.

        Raises:
            DataCorruption: If it is missing in the store, or its bytes are not as they were written.
            Unavailable: If the store does not answer, the disk is full, or queries use so many files that there is no room.
        """
        name = f"{file.path.rpartition('/')[2].removesuffix('.parquet')}-{file.table}.parquet"
        while True:
            with self._guard:
                if name in self._checked and name in self._sizes:
                    self._sizes.move_to_end(name)
                    return self._pinned(name)
                ready = self._fetching.get(name)
                if ready is None:
                    self._fetching[name] = threading.Event()
                    break
            ready.wait()
        try:
            return self._take(file, name)
        finally:
            with self._guard:
                self._fetching.pop(name).set()

    def _take(self, file: DataFile, name: str) -> Located:
        path = self._directory / name
        if name in self._sizes:  # from an earlier process
            with suppress(OSError):
                data = path.read_bytes()
                if len(data) == file.bytes and zlib.crc32(data) == file.checksum:
                    with self._guard:
                        if name in self._sizes:
                            self._checked.add(name)
                            return self._pinned(name)
            with self._guard:
                self._remove(name)
        with self._guard:
            self._make_room(file.bytes)
            self._sizes[name] = file.bytes  # it has its place, and nobody takes it away meanwhile
            self._total += file.bytes
            self._pins[name] = self._pins.get(name, 0) + 1
        try:
            self._fetch(file, path)
        except BaseException:
            with self._guard:
                self._pins[name] -= 1
                self._remove(name)
            raise
        with self._guard:
            self._checked.add(name)
            found = self._pinned(name)
            self._pins[name] -= 1
            return found

    def _fetch(self, file: DataFile, path: Path) -> None:
        try:
            data = memoryview(self._store.get(file.path))
        except NoSuchObject:
            raise DataCorruption(
                f"the file {file.path!r} is missing in {self._store.name}; restore it from a backup"
            ) from None
        if len(data) != file.bytes or zlib.crc32(data) != file.checksum:
            raise DataCorruption(
                f"the file {file.path!r} in {self._store.name} is damaged: its checksum does not fit its {len(data):,} bytes; "
                "restore it from a backup"
            )
        aside = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            aside.write_bytes(data)
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise Unavailable(
                f"a copy of {file.path!r} cannot be written to {self._directory}: {error.strerror or error}; free space there",
                retry_after=RETRY_SECONDS,
            ) from None

    def _pinned(self, name: str) -> Located:
        self._pins[name] = self._pins.get(name, 0) + 1
        return Located(str(self._directory / name), _Pin(self, name), checked=True)

    def _unpin(self, name: str) -> None:
        with self._guard:
            self._pins[name] -= 1
            if not self._pins[name]:
                del self._pins[name]
            if self._total > self._limit:
                with suppress(Unavailable):
                    self._make_room(0)

    def _make_room(self, wanted: int) -> None:
        """Removes copies that nobody uses, until so many bytes fit; the caller has the guard."""
        for name in [name for name in self._sizes if not self._pins.get(name)]:
            if self._total + wanted <= self._limit:
                return
            self._remove(name)
        if self._total + wanted > self._limit:
            raise Unavailable(
                f"queries use {self._total:,} bytes of data files now, and one needs {wanted:,} more: copies of files of "
                f"{self._store.name} may take {format_size(self._limit)} on this machine; ask for a shorter time, ask again "
                "later, or raise object_cache_size",
                retry_after=RETRY_SECONDS,
            )

    def _remove(self, name: str) -> None:
        size = self._sizes.pop(name, None)
        self._checked.discard(name)
        if size is not None:
            self._total -= size
            with suppress(OSError):
                os.unlink(self._directory / name)  # noqa: PTH108 - called for each of many
