"""Files that need not survive the machine: what was written is not synced."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from walmill.fs.protocol import Bytes, Entry, File, FileSystem


class UnsyncedFile:
    """An open file that is never synced.

    Args:
        file: The file.
    """

    def __init__(self, file: File) -> None:
        self._file = file

    def pwritev(self, parts: Sequence[Bytes], offset: int) -> None:
        """See `File.pwritev`."""
        self._file.pwritev(parts, offset)

    def pread(self, size: int, offset: int) -> bytes:
        """See `File.pread`."""
        return self._file.pread(size, offset)

    def allocate(self, size: int) -> None:
        """See `File.allocate`."""
        self._file.allocate(size)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        self._file.truncate(size)

    def fdatasync(self) -> None:
        """Does nothing."""

    def map(self) -> pa.Buffer:
        """See `File.map`."""
        return self._file.map()

    def descriptor(self) -> int | None:
        """See `File.descriptor`."""
        return self._file.descriptor()

    def size(self) -> int:
        """See `File.size`."""
        return self._file.size()

    def close(self) -> None:
        """See `File.close`."""
        self._file.close()


class UnsyncedFS:
    """A file system whose files are never synced.

    Args:
        fs: The files.
    """

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs

    def make_directory(self, path: str) -> None:
        """See `FileSystem.make_directory`."""
        self._fs.make_directory(path)

    def create(self, path: str) -> UnsyncedFile:
        """See `FileSystem.create`."""
        return UnsyncedFile(self._fs.create(path))

    def open(self, path: str) -> UnsyncedFile:
        """See `FileSystem.open`."""
        return UnsyncedFile(self._fs.open(path))

    def open_readonly(self, path: str) -> UnsyncedFile:
        """See `FileSystem.open_readonly`."""
        return UnsyncedFile(self._fs.open_readonly(path))

    def list(self, path: str) -> list[str]:
        """See `FileSystem.list`."""
        return self._fs.list(path)

    def entries(self, path: str) -> Sequence[Entry]:
        """See `FileSystem.entries`."""
        return self._fs.entries(path)

    def rename(self, path: str, to: str) -> None:
        """See `FileSystem.rename`."""
        self._fs.rename(path, to)

    def link(self, path: str, to: str) -> None:
        """See `FileSystem.link`."""
        self._fs.link(path, to)

    def remove_directory(self, path: str) -> None:
        """See `FileSystem.remove_directory`."""
        self._fs.remove_directory(path)

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        self._fs.unlink(path)

    def sync_directory(self, path: str) -> None:
        """Does nothing."""
