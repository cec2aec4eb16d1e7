"""The file system of the machine: the only module that opens, writes and syncs files of the log."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from walmill.fs.protocol import Bytes

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
        if not made.is_dir():
            made.mkdir(parents=True, exist_ok=True)
            self.sync_directory(str(made.parent))

    def create(self, path: str) -> LocalFile:
        """See `FileSystem.create`."""
        return LocalFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))

    def open(self, path: str) -> LocalFile:
        """See `FileSystem.open`."""
        return LocalFile(os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def open_readonly(self, path: str) -> LocalFile:
        """Opens a file for reading only: what inspects a log must not need more."""
        return LocalFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def list(self, path: str) -> list[str]:
        """See `FileSystem.list`."""
        return sorted(one.name for one in Path(path).iterdir())

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
