"""File systems for tests: one that records what is asked of it, fails on demand, and can lose power."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence

import pyarrow as pa
from attrs import define, field, frozen

from walmill.fs.memory import MemoryFile
from walmill.fs.protocol import Bytes


@frozen
class Call:
    """One call: its kind (`create`, `pwritev`, `fdatasync` …), the path, the offset and the size."""

    kind: str
    path: str
    offset: int = 0
    size: int = 0


@define
class Failure:
    """A failure to come.

    Attributes:
        kind: Of which call.
        error: The system's number for it.
        after: So many calls of the kind go well first.
        sticky: Whether all later ones fail too, until `clear`.
    """

    kind: str
    error: int
    after: int = 0
    sticky: bool = False


@define(eq=False)
class _State:
    """One file: what programs see, and what the disk has."""

    seen: MemoryFile
    durable: bytearray = field(factory=bytearray)
    linked: bool = False
    pending: list[tuple[int, bytes]] = field(factory=list)


class FaultyFS:
    """Files in memory that know what was synced. Programs see what they wrote; `power_loss` takes away what was not synced."""

    def __init__(self) -> None:
        self._files: dict[str, _State] = {}
        self._gone: dict[str, _State] = {}
        self._failures: list[Failure] = []
        self.calls: list[Call] = []

    def fail(self, kind: str, error: int = errno.EIO, *, after: int = 0, sticky: bool = False) -> None:
        """Has a call fail."""
        self._failures.append(Failure(kind, error, after, sticky))

    def clear(self) -> None:
        """No call fails any more."""
        self._failures.clear()

    def note(self, kind: str, path: str, offset: int = 0, size: int = 0) -> None:
        """Records a call, and fails it if its turn has come."""
        self.calls.append(Call(kind, path, offset, size))
        for failure in list(self._failures):
            if failure.kind != kind:
                continue
            if failure.after > 0:
                failure.after -= 1
                continue
            if not failure.sticky:
                self._failures.remove(failure)
            raise OSError(failure.error, os.strerror(failure.error), path)

    def power_loss(self, seed: int) -> None:
        """Goes back to what the disk has: of what was not synced, any part may be there, torn anywhere."""
        chance = random.Random(seed)  # noqa: S311 - a test
        for path, state in self._gone.items():
            if chance.random() < 0.5:
                self._files.setdefault(path, state)
        self._gone.clear()
        for path, state in list(self._files.items()):
            if not state.linked and chance.random() < 0.5:
                del self._files[path]
                continue
            content = bytearray(state.durable)
            for offset, data in state.pending:
                for start in range(0, len(data), 512):
                    if chance.random() < 0.5:
                        part = data[start : start + chance.randint(1, 512)]
                        if len(content) < offset + start + len(part):
                            content.extend(bytes(offset + start + len(part) - len(content)))
                        content[offset + start : offset + start + len(part)] = part
            seen = MemoryFile()
            seen.pwritev([bytes(content)], 0)
            self._files[path] = _State(seen, content, linked=True)

    def content(self, path: str) -> bytes:
        """What programs see in a file."""
        return bytes(memoryview(self._files[path].seen.map()))

    def put(self, path: str, content: bytes) -> None:
        """Replaces a file, durably: how a test damages one."""
        seen = MemoryFile()
        seen.pwritev([content], 0)
        self._files[path] = _State(seen, bytearray(content), linked=True)

    def make_directory(self, path: str) -> None:
        """See `FileSystem.make_directory`."""
        self.note("make_directory", path)

    def create(self, path: str) -> FaultyFile:
        """See `FileSystem.create`."""
        self.note("create", path)
        if path in self._files:
            raise FileExistsError(errno.EEXIST, "the file exists", path)
        self._files[path] = _State(MemoryFile())
        return FaultyFile(self, path, self._files[path])

    def open(self, path: str) -> FaultyFile:
        """See `FileSystem.open`."""
        self.note("open", path)
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", path)
        return FaultyFile(self, path, self._files[path])

    def list(self, path: str) -> list[str]:
        """See `FileSystem.list`."""
        prefix = path.rstrip("/") + "/"
        return sorted(name.removeprefix(prefix) for name in self._files if name.startswith(prefix))

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        self.note("unlink", path)
        self._gone[path] = self._files.pop(path)

    def sync_directory(self, path: str) -> None:
        """See `FileSystem.sync_directory`."""
        self.note("sync_directory", path)
        for state in self._files.values():
            state.linked = True
        self._gone.clear()


class FaultyFile:
    """An open file of a `FaultyFS`."""

    def __init__(self, fs: FaultyFS, path: str, state: _State) -> None:
        self._fs = fs
        self._path = path
        self._state = state

    def pwritev(self, parts: Sequence[Bytes], offset: int) -> None:
        """See `File.pwritev`; one that fails leaves half of it behind."""
        data = b"".join(bytes(memoryview(part).cast("B")) for part in parts)
        try:
            self._fs.note("pwritev", self._path, offset, len(data))
        except OSError:
            half = data[: len(data) // 2]
            self._state.seen.pwritev([half], offset)
            self._state.pending.append((offset, half))
            raise
        self._state.seen.pwritev([data], offset)
        self._state.pending.append((offset, data))

    def allocate(self, size: int) -> None:
        """See `File.allocate`."""
        self._fs.note("allocate", self._path, 0, size)
        self._state.seen.allocate(size)
        self._state.pending.append((size - 1, b"\0"))

    def truncate(self, size: int) -> None:
        """See `File.truncate`: it is durable at once, which is the harder case."""
        self._fs.note("truncate", self._path, 0, size)
        self._state.seen.truncate(size)
        del self._state.durable[size:]
        self._state.pending = [(offset, data[: size - offset]) for offset, data in self._state.pending if offset < size]

    def fdatasync(self) -> None:
        """See `File.fdatasync`; one that fails leaves it open what the disk has."""
        self._fs.note("fdatasync", self._path)
        for offset, data in self._state.pending:
            end = offset + len(data)
            if len(self._state.durable) < end:
                self._state.durable.extend(bytes(end - len(self._state.durable)))
            self._state.durable[offset:end] = data
        self._state.pending.clear()

    def map(self) -> pa.Buffer:
        """See `File.map`."""
        return self._state.seen.map()

    def size(self) -> int:
        """See `File.size`."""
        return self._state.seen.size()

    def close(self) -> None:
        """See `File.close`."""
