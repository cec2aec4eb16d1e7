"""Files in memory: for engines without a data directory, and for tests. Nothing of it outlives the process."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence

import pyarrow as pa

from walmill.fs.protocol import Bytes, Entry


class MemoryFile:
    """A file in memory. Its memory is reserved when it is allocated, and taken when it is written."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._size = 0

    def pwritev(self, parts: Sequence[Bytes], offset: int) -> None:
        """See `File.pwritev`."""
        end = offset + sum(len(memoryview(part).cast("B")) for part in parts)
        if end > self._size:
            self.allocate(end)
        for part in parts:
            view = memoryview(part).cast("B")
            self._memory[offset : offset + len(view)] = view
            offset += len(view)

    def pread(self, size: int, offset: int) -> bytes:
        """See `File.pread`."""
        return self._memory[offset : min(offset + size, self._size)]

    def allocate(self, size: int) -> None:
        """See `File.allocate`."""
        if size > len(self._memory):
            grown = mmap.mmap(-1, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
            grown[: self._size] = self._memory[: self._size]
            self._memory = grown
        self._size = max(self._size, size)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        if size > self._size:
            self.allocate(size)
        self._clear(size, self._size)
        self._size = size

    def _clear(self, start: int, end: int) -> None:
        """Zeroes a range, which may be part of the file again. Whole pages are given back: that is free for those never used."""
        pages = min(-(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end)
        self._memory[start:pages] = bytes(pages - start)
        if pages < end:
            try:
                self._memory.madvise(mmap.MADV_REMOVE, pages, end - pages)
            except (AttributeError, OSError):  # another system than Linux
                self._memory[pages:end] = bytes(end - pages)

    def fdatasync(self) -> None:
        """See `File.fdatasync`: there is nothing to do."""

    def map(self) -> pa.Buffer:
        """See `File.map`."""
        return pa.py_buffer(memoryview(self._memory)[: self._size].toreadonly())

    def descriptor(self) -> int | None:
        """See `File.descriptor`."""
        return None

    def size(self) -> int:
        """See `File.size`."""
        return self._size

    def close(self) -> None:
        """See `File.close`."""


class MemoryFS:
    """Files in memory, by path."""

    def __init__(self) -> None:
        self.files: dict[str, MemoryFile] = {}

    def make_directory(self, path: str) -> None:
        """See `FileSystem.make_directory`: every directory is there."""

    def create(self, path: str) -> MemoryFile:
        """See `FileSystem.create`."""
        if path in self.files:
            raise FileExistsError(errno.EEXIST, "the file exists", path)
        self.files[path] = MemoryFile()
        return self.files[path]

    def open(self, path: str) -> MemoryFile:
        """See `FileSystem.open`."""
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", path)
        return self.files[path]

    def open_readonly(self, path: str) -> MemoryFile:
        """See `FileSystem.open_readonly`: it is the same file, and nobody writes to it."""
        return self.open(path)

    def list(self, path: str) -> list[str]:
        """See `FileSystem.list`."""
        return sorted(one.name for one in self.entries(path))

    def entries(self, path: str) -> Sequence[Entry]:
        """See `FileSystem.entries`: the directories are those in which files are."""
        prefix = path.rstrip("/") + "/"
        found = {}
        for name, file in list(self.files.items()):
            if name.startswith(prefix):
                first, slash, _ = name.removeprefix(prefix).partition("/")
                found[first] = Entry(first, bool(slash), 0 if slash else file.size())
        return list(found.values())

    def rename(self, path: str, to: str) -> None:
        """See `FileSystem.rename`."""
        self.open(path)
        self.files[to] = self.files.pop(path)

    def link(self, path: str, to: str) -> None:
        """See `FileSystem.link`."""
        file = self.open(path)
        if to in self.files or self.files.setdefault(to, file) is not file:
            raise FileExistsError(errno.EEXIST, "the file exists", to)

    def remove_directory(self, path: str) -> None:
        """See `FileSystem.remove_directory`: a directory ends with its last file."""
        if self.entries(path):
            raise OSError(errno.ENOTEMPTY, "the directory is not empty", path)

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        self.open(path)
        del self.files[path]

    def sync_directory(self, path: str) -> None:
        """See `FileSystem.sync_directory`: there is nothing to do."""
