"""Objects in a directory of the machine: every put is synced, the file and the names that lead to it."""

from __future__ import annotations

import errno
import os
import posixpath
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa

from walmill.fs.local import LocalFS
from walmill.fs.protocol import Bytes, FileSystem
from walmill.objects.errors import NoSuchObject, ObjectExists, StoreRefused, StoreUnavailable
from walmill.objects.paths import check_path, check_prefix, possible
from walmill.objects.protocol import Found

UNFINISHED = ".unfinished"
"""The directory for files that are being written; no object is in it, since no segment of a path starts with a dot."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LATER = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT)
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStore:
    """An `ObjectStore` in a directory.

    A put writes a file aside, syncs it, gives it its name by `rename` (or `link`, which fails if the name is taken) and
    syncs the directory; so under the name of an object there is never a part of one. Directories are made when they are
    needed, and removed with their last object. One process may write at a time; in it, any thread.
    """

    def __init__(self, root: str, fs: FileSystem | None = None) -> None:
        self._fs = fs or LocalFS()
        self._direct = isinstance(self._fs, LocalFS)
        self._root = os.path.abspath(root) if self._direct else root.rstrip("/")  # noqa: PTH100 - a path need not exist
        self._aside = f"{self._root}/{UNFINISHED}"
        self._names = (
            threading.Lock()
        )  # held while names change, so that no directory goes between its making and its use
        self._durable: set[str] = set()  # directories whose own names were synced by this store

    @property
    def name(self) -> str:
        """See `ObjectStore.name`."""
        return self._root

    def get(self, path: str) -> pa.Buffer:
        """See `ObjectStore.get`."""
        return self._read(path, 0, None)

    def get_range(self, path: str, start: int, length: int) -> pa.Buffer:
        """See `ObjectStore.get_range`."""
        return self._read(path, start, length)

    def _read(self, path: str, start: int, length: int | None) -> pa.Buffer:
        """Reads into memory of its own: a disk error while a map is read would end the process."""
        place = self._place(path)
        with self._told("read", place):
            try:
                file = self._fs.open_readonly(place)
                try:
                    return pa.py_buffer(file.pread(file.size() if length is None else length, start))
                finally:
                    file.close()
            except _ABSENT:
                raise NoSuchObject(f"there is no object {path} in {self.name}") from None

    def put(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put`."""
        place = self._place(path)
        with self._told("write", place), self._written(data) as file:
            self._give_name(self._fs.rename, file, place)
            self._sync_name(place)

    def put_new(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put_new`."""
        place = self._place(path)
        with self._told("write", place), self._written(data) as file:
            taken = not self._give_name(self._fs.link, file, place)
            # Whoever is told that it exists builds on that, and the one who made it may not have synced its name yet.
            self._sync_name(place)
        if taken:
            raise ObjectExists(f"there is an object {path} in {self.name} already")

    @contextmanager
    def _written(self, data: Bytes) -> Iterator[str]:
        """A synced file with the data, outside of the objects; if it is still there afterwards, it is removed."""
        place = f"{self._aside}/{uuid.uuid4().hex}"
        self._fs.make_directory(self._aside)
        try:
            file = self._fs.create(place)
            try:
                file.pwritev([data], 0)
                file.fdatasync()
            finally:
                file.close()
            yield place
        finally:
            with suppress(OSError):  # gone by the rename; else `sweep` finds it
                self._fs.unlink(place)

    def _give_name(self, give: Callable[[str, str], None], file: str, place: str) -> bool:
        """Gives a file its name, under directories that are durable; False if the name is taken."""
        with self._names:
            for attempt in range(3):
                self._directories(posixpath.dirname(place))
                try:
                    give(file, place)
                except FileExistsError:
                    return False
                except FileNotFoundError:  # somebody else removed a directory that we knew
                    self._durable.clear()
                    if attempt == 2:
                        raise
                else:
                    break
        return True

    def _sync_name(self, place: str) -> None:
        with suppress(FileNotFoundError):  # somebody deleted the object meanwhile, and it was the last of its directory
            self._fs.sync_directory(posixpath.dirname(place))

    def _directories(self, directory: str) -> None:
        """Makes the directories down to one, durably.

        One that is there already is synced as well, once: a process that made it may have ended before it did so.
        """
        if directory in self._durable:
            return
        parent = posixpath.dirname(directory)
        if directory != self._root:
            self._directories(parent)
        self._fs.make_directory(directory)
        self._fs.sync_directory(parent or ".")
        self._durable.add(directory)

    def delete(self, path: str) -> None:
        """See `ObjectStore.delete`."""
        place = self._place(path)
        with self._told("delete", place):
            try:
                self._fs.unlink(place)
            except _ABSENT:
                return
            self._sync_name(place)
            self._remove_empty(posixpath.dirname(place))

    def _remove_empty(self, directory: str) -> None:
        """Removes the directories above an object that was deleted, as far as they are empty."""
        with self._names, suppress(OSError):  # not empty; and one that stays does no harm
            while directory != self._root:
                self._fs.remove_directory(directory)
                self._durable.discard(directory)
                directory = posixpath.dirname(directory)

    def list(self, prefix: str = "") -> Iterator[Found]:
        """See `ObjectStore.list`."""
        below = check_prefix(prefix)
        return self._walk(f"{self._root}/{below}" if below else self._root, f"{below}/" if below else "")

    def _walk(self, directory: str, prefix: str) -> Iterator[Found]:
        with self._told("list", directory):
            try:
                entries = self._fs.entries(directory)
            except _ABSENT:
                return
        # A directory sorts as its objects do, with the slash: `a-b` comes before `a/b`.
        for entry in sorted(entries, key=lambda one: f"{one.name}/" if one.directory else one.name):
            if not possible(entry.name):
                continue
            if entry.directory:
                yield from self._walk(f"{directory}/{entry.name}", f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry.size

    def local_path(self, path: str) -> str | None:
        """See `ObjectStore.local_path`."""
        place = self._place(path)
        return place if self._direct else None

    def sweep(self) -> int:
        """See `ObjectStore.sweep`."""
        with self._told("clean up", self._aside):
            try:
                names = self._fs.list(self._aside)
            except FileNotFoundError:
                return 0
            for name in names:
                self._fs.unlink(f"{self._aside}/{name}")
            return len(names)

    def close(self) -> None:
        """See `ObjectStore.close`: no file stays open."""

    def _place(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    @contextmanager
    def _told(self, verb: str, place: str) -> Iterator[None]:
        """Turns what the system says into what a person can act on."""
        try:
            yield
        except OSError as error:
            raise _failure(verb, place, error) from error


def _failure(verb: str, place: str, error: OSError) -> StoreUnavailable | StoreRefused:
    """The error for what the system says: what may pass by itself is `StoreUnavailable`."""
    said = f"cannot {verb} {place}: {error.strerror or error}"
    if error.errno in _FULL:
        return StoreUnavailable(f"{said}; free space on its disk, or raise the quota", retry_after=5)
    if error.errno == errno.EIO:
        return StoreUnavailable(f"{said}; look at the disk and the kernel's log (dmesg)", retry_after=5)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoreUnavailable(f"{said}; raise the limit of open files (ulimit -n)")
    if error.errno in _LATER:
        return StoreUnavailable(f"{said}; it may work later")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreRefused(
            f"{said}; the user of this process needs to read and write there, and the file system to have hard links"
        )
    if error.errno == errno.EROFS:
        return StoreRefused(f"{said}; mount it for writing, or take another directory")
    if error.errno == errno.EXDEV:
        return StoreRefused(f"{said}; all of a store must be on one file system")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY):
        return StoreRefused(f"{said}; a file is where a directory must be, or the other way round: move it away")
    return StoreRefused(f"{said}; look at the directory and its file system")
