"""A file system that records what is done to it, so that a test can look at the disk as it was after any of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import define, field, frozen

from walmill.fs.protocol import Bytes, Entry, File
from walmill.testing.fs import FaultyFS


@frozen
class Step:
    """One call that changes something: its name, the path, and for one of a file the number of that open file.

    Attributes:
        kind: Name of the method.
        path: The path, or that of the file.
        file: Number of the open file; for `create` and `open` the one that it gives; None for other calls.
        given: The other arguments.
    """

    kind: str
    path: str
    file: int | None = None
    given: tuple[Any, ...] = ()


@define(eq=False)
class Replay:
    """A disk to which recorded steps are done, one after the other.

    Attributes:
        disk: The disk.
    """

    disk: FaultyFS = field(factory=FaultyFS)
    _files: dict[int, File] = field(factory=dict)

    def apply(self, step: Step) -> None:
        """Does one step."""
        if step.kind in ("create", "open"):
            assert step.file is not None
            self._files[step.file] = getattr(self.disk, step.kind)(step.path)
        elif step.file is not None:
            getattr(self._files[step.file], step.kind)(*step.given)
        else:
            getattr(self.disk, step.kind)(step.path, *step.given)


class RecordingFS:
    """Passes everything on to a `FaultyFS`, one call at a time, and records what changes something.

    Args:
        disk: The files; a new disk if None.

    Attributes:
        disk: The files.
        steps: What was done, in order; calls that failed are not in it.
    """

    def __init__(self, disk: FaultyFS | None = None) -> None:
        self.disk = disk or FaultyFS()
        self.steps: list[Step] = []
        self.lock = threading.RLock()
        self._opened = 0

    def do(self, kind: str, path: str, *given: Any) -> Any:
        """Calls and records one method of the disk."""
        with self.lock:
            found = getattr(self.disk, kind)(path, *given)
            self.steps.append(Step(kind, path, None, given))
            return found

    def _open(self, kind: str, path: str) -> RecordedFile:
        with self.lock:
            file = getattr(self.disk, kind)(path)
            self._opened += 1
            self.steps.append(Step(kind, path, self._opened))
            return RecordedFile(self, path, self._opened, file)

    def make_directory(self, path: str) -> None:
        """See `FileSystem.make_directory`."""
        self.do("make_directory", path)

    def create(self, path: str) -> File:
        """See `FileSystem.create`."""
        return self._open("create", path)

    def open(self, path: str) -> File:
        """See `FileSystem.open`."""
        return self._open("open", path)

    def open_readonly(self, path: str) -> File:
        """See `FileSystem.open_readonly`."""
        with self.lock:
            return self.disk.open_readonly(path)

    def list(self, path: str) -> list[str]:
        """See `FileSystem.list`."""
        with self.lock:
            return self.disk.list(path)

    def entries(self, path: str) -> Sequence[Entry]:
        """See `FileSystem.entries`."""
        with self.lock:
            return self.disk.entries(path)

    def rename(self, path: str, to: str) -> None:
        """See `FileSystem.rename`."""
        self.do("rename", path, to)

    def link(self, path: str, to: str) -> None:
        """See `FileSystem.link`."""
        self.do("link", path, to)

    def remove_directory(self, path: str) -> None:
        """See `FileSystem.remove_directory`."""
        self.do("remove_directory", path)

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        self.do("unlink", path)

    def sync_directory(self, path: str) -> None:
        """See `FileSystem.sync_directory`."""
        self.do("sync_directory", path)


class RecordedFile:
    """An open file of a `RecordingFS`."""

    def __init__(self, fs: RecordingFS, path: str, number: int, file: File) -> None:
        self._fs, self._path, self._number, self._file = fs, path, number, file

    def _do(self, kind: str, *given: Any) -> None:
        with self._fs.lock:
            getattr(self._file, kind)(*given)
            self._fs.steps.append(Step(kind, self._path, self._number, given))

    def pwritev(self, parts: Sequence[Bytes], offset: int) -> None:
        """See `File.pwritev`."""
        self._do("pwritev", [b"".join(bytes(memoryview(part).cast("B")) for part in parts)], offset)

    def pread(self, size: int, offset: int) -> bytes:
        """See `File.pread`."""
        with self._fs.lock:
            return self._file.pread(size, offset)

    def allocate(self, size: int) -> None:
        """See `File.allocate`."""
        self._do("allocate", size)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        self._do("truncate", size)

    def fdatasync(self) -> None:
        """See `File.fdatasync`."""
        self._do("fdatasync")

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


def store_files(disk: FaultyFS, below: str, to: Path) -> None:
    """Writes the files of a disk below a path into a directory of the machine."""
    prefix = below.rstrip("/") + "/"
    for path in disk.files():
        if path.startswith(prefix):
            place = to / path.removeprefix(prefix)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(disk.content(path))
