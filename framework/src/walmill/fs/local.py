"""The file system of the machine: the only module that opens, writes and syncs files of the log and the objects."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from walmill.fs.protocol import Bytes, Entry

_VECTOR = 512  # the system takes at most 1,024 parts at a time


class LocalFile:
    """An open file of the machine."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pwritev(self, parts: Sequence[Bytes], offset: int) -> None:
        """See `File.pwritev`."""
        left = [memoryview(part).cast("B") for part in parts if memoryview(part)]
        while left:
            written = os.pwritev(self._descriptor, left[:_VECTOR], offset)
            if written <= 0:
                raise OSError(errno.EIO, "the system wrote nothing")
            offset += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]

    def pread(self, size: int, offset: int) -> bytes:
        """See `File.pread`."""
        parts = []
        while size > 0 and (part := os.pread(self._descriptor, size, offset)):
            parts.append(part)
            size -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def allocate(self, size: int) -> None:
        """See `File.allocate`."""
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            os.ftruncate(self._descriptor, size)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        os.ftruncate(self._descriptor, size)

    def fdatasync(self) -> None:
        """See `File.fdatasync`."""
        os.fdatasync(self._descriptor)

    def map(self) -> pa.Buffer:
        """See `File.map`."""
        size = self.size()
        return pa.py_buffer(mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ) if size else b"")

    def descriptor(self) -> int | None:
        """See `File.descriptor`."""
        return os.dup(self._descriptor)

    def size(self) -> int:
        """See `File.size`."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """See `File.close`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class LocalFS:
    """Files of the machine."""

    def make_directory(self, path: str) -> None:
        """See `FileSystem.make_directory`."""
        made = Path(path)
        missing = []
        for one in (made, *made.parents):
            if one.is_dir():
                break
            missing.append(one)
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
            self.sync_directory(str(one.parent))

    def create(self, path: str) -> LocalFile:
        """See `FileSystem.create`."""
        return LocalFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))

    def open(self, path: str) -> LocalFile:
        """See `FileSystem.open`."""
        return LocalFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def open_readonly(self, path: str) -> LocalFile:
        """See `FileSystem.open_readonly`."""
        return LocalFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def list(self, path: str) -> list[str]:
        """See `FileSystem.list`."""
        return sorted(one.name for one in Path(path).iterdir())

    def entries(self, path: str) -> Sequence[Entry]:
        """See `FileSystem.entries`; a name that is gone when it is looked at is left out."""
        found = []
        with os.scandir(path) as names:
            for one in names:
                with contextlib.suppress(FileNotFoundError):
                    directory = one.is_dir()
                    found.append(Entry(one.name, directory, 0 if directory else one.stat().st_size))
        return found

    def rename(self, path: str, to: str) -> None:
        """See `FileSystem.rename`."""
        Path(path).rename(to)

    def link(self, path: str, to: str) -> None:
        """See `FileSystem.link`."""
        Path(to).hardlink_to(path)

    def remove_directory(self, path: str) -> None:
        """See `FileSystem.remove_directory`."""
        Path(path).rmdir()

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        Path(path).unlink()

    def sync_directory(self, path: str) -> None:
        """See `FileSystem.sync_directory`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
