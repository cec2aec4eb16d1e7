"""File systems for tests: one that records what is asked of it, fails on demand, and can lose power."""

from __future__ import annotations

import errno
import os
import posixpath
import random
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import pyarrow as pa
from attrs import define, field, frozen

from walmill.fs.memory import MemoryFile
from walmill.fs.protocol import Bytes, Entry


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
        kind: Of which call; `any` means every kind.
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

    seen: MemoryFile = field(factory=MemoryFile)
    durable: bytearray = field(factory=bytearray)
    pending: list[tuple[int, bytes]] = field(factory=list)

    def lose_power(self, chance: random.Random | None) -> None:
        """Of what was written and not synced, any part may be there, torn anywhere; nothing if there is no chance."""
        for offset, data in self.pending if chance is not None else ():
            for start in range(0, len(data), 512):
                if chance is not None and chance.random() < 0.5:
                    part = data[start : start + chance.randint(1, 512)]
                    self.write(offset + start, part)
        self.pending.clear()
        self.seen = MemoryFile()
        self.seen.pwritev([bytes(self.durable)], 0)

    def copy(self) -> _State:
        """The same once more."""
        same = _State(durable=bytearray(self.durable), pending=list(self.pending))
        same.seen.pwritev([self.seen.map()], 0)
        return same

    def write(self, offset: int, data: bytes) -> None:
        """Puts bytes on the disk."""
        end = offset + len(data)
        if len(self.durable) < end:
            self.durable.extend(bytes(end - len(self.durable)))
        self.durable[offset:end] = data


_DIRECTORY: Final = "directory"
_Node: TypeAlias = _State | Literal["directory"]


class FaultyFS:
    """Files in memory that know what was synced. Programs see what they wrote; `power_loss` takes away what was not synced.

    A name is durable when its directory was synced after it came, went or was replaced. Until then the disk may have
    any of what the name has been since, and a file is lost with any directory above it.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._since: dict[str, list[_Node | None]] = {}
        self._failures: list[Failure] = []
        self.calls: list[Call] = []

    def _file(self, path: str) -> _State:
        node = self._nodes.get(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", path)
        if node == _DIRECTORY:
            raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
        return node

    def _in_directory(self, path: str) -> None:
        parent = posixpath.dirname(path.rstrip("/"))
        if parent not in ("", "/") and self._nodes.get(parent) != _DIRECTORY:
            kind = NotADirectoryError if parent in self._nodes else FileNotFoundError
            number = errno.ENOTDIR if parent in self._nodes else errno.ENOENT
            raise kind(number, "there is no such directory", parent)

    def _change(self, path: str, node: _Node | None) -> None:
        self._since.setdefault(path, [self._nodes.get(path)]).append(node)
        if node is None:
            del self._nodes[path]
        else:
            self._nodes[path] = node

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
            if failure.kind not in (kind, "any"):
                continue
            if failure.after > 0:
                failure.after -= 1
                continue
            if not failure.sticky:
                self._failures.remove(failure)
            raise OSError(failure.error, os.strerror(failure.error), path)

    def copy(self) -> FaultyFS:
        """The same files once more, without the calls and failures; what is done to one of the two is not done to the other."""
        states: dict[int, _State] = {}

        def same(node: _Node | None) -> _Node | None:
            if node is None or node == _DIRECTORY:
                return node
            return states.setdefault(id(node), states.get(id(node)) or node.copy())

        copied = FaultyFS()
        copied._nodes = {path: known for path, node in self._nodes.items() if (known := same(node)) is not None}
        copied._since = {path: [same(node) for node in nodes] for path, nodes in self._since.items()}
        return copied

    def power_loss(self, seed: int | None) -> None:
        """Goes back to what the disk has: of what was not synced, any part may be there, torn anywhere.

        Args:
            seed: Of the chance; None loses all that was not synced.
        """
        chance = None if seed is None else random.Random(seed)  # noqa: S311 - a test
        for path, nodes in self._since.items():
            kept = nodes[0] if chance is None else chance.choice(nodes)
            if kept is None:
                self._nodes.pop(path, None)
            else:
                self._nodes[path] = kept
        self._since.clear()
        for path in sorted(self._nodes):
            try:
                self._in_directory(path)
            except OSError:
                del self._nodes[path]
        for state in {id(node): node for node in self._nodes.values() if node != _DIRECTORY}.values():
            state.lose_power(chance)

    def files(self) -> list[str]:
        """The paths of all files, sorted."""
        return sorted(path for path, node in self._nodes.items() if node != _DIRECTORY)

    def content(self, path: str) -> bytes:
        """What programs see in a file."""
        return bytes(memoryview(self._file(path).seen.map()))

    def put(self, path: str, content: bytes) -> None:
        """Replaces a file, durably: how a test damages one."""
        self._make(posixpath.dirname(path))
        state = _State()
        state.seen.pwritev([content], 0)
        state.write(0, content)
        self._nodes[path] = state
        self._since.pop(path, None)

    def _make(self, path: str) -> None:
        """Makes a directory and those above it, durably."""
        while path not in ("", "/"):
            if self._nodes.get(path, _DIRECTORY) != _DIRECTORY:
                raise NotADirectoryError(errno.ENOTDIR, "it is a file", path)
            if path not in self._nodes or path in self._since:
                self._nodes[path] = _DIRECTORY
                self._since.pop(path, None)
            path = posixpath.dirname(path)

    def make_directory(self, path: str) -> None:
        """See `FileSystem.make_directory`; one that fails has made the directory, and the disk need not know."""
        try:
            self.note("make_directory", path)
        except OSError:
            if path not in self._nodes and self._nodes.get(posixpath.dirname(path)) == _DIRECTORY:
                self._change(path, _DIRECTORY)
            raise
        if self._nodes.get(path) == _DIRECTORY:
            return  # as the real one: what somebody else made may not be synced yet
        self._make(path)

    def create(self, path: str) -> FaultyFile:
        """See `FileSystem.create`."""
        self.note("create", path)
        self._in_directory(path)
        if path in self._nodes:
            raise FileExistsError(errno.EEXIST, "the file exists", path)
        state = _State()
        self._change(path, state)
        return FaultyFile(self, path, state)

    def open(self, path: str) -> FaultyFile:
        """See `FileSystem.open`."""
        self.note("open", path)
        return FaultyFile(self, path, self._file(path))

    def open_readonly(self, path: str) -> FaultyFile:
        """See `FileSystem.open_readonly`; it counts as an `open`."""
        return self.open(path)

    def list(self, path: str) -> list[str]:
        """See `FileSystem.list`."""
        return sorted(one.name for one in self.entries(path))

    def entries(self, path: str) -> Sequence[Entry]:
        """See `FileSystem.entries`."""
        prefix = path.rstrip("/") + "/"
        self._in_directory(prefix + "any")
        return [
            Entry(name.removeprefix(prefix), node == _DIRECTORY, 0 if node == _DIRECTORY else node.seen.size())
            for name, node in self._nodes.items()
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        ]

    def rename(self, path: str, to: str) -> None:
        """See `FileSystem.rename`."""
        self.note("rename", path)
        state = self._file(path)
        self._in_directory(to)
        if self._nodes.get(to) == _DIRECTORY:
            raise IsADirectoryError(errno.EISDIR, "it is a directory", to)
        self._change(to, state)
        self._change(path, None)

    def link(self, path: str, to: str) -> None:
        """See `FileSystem.link`."""
        self.note("link", path)
        state = self._file(path)
        self._in_directory(to)
        if to in self._nodes:
            raise FileExistsError(errno.EEXIST, "the file exists", to)
        self._change(to, state)

    def remove_directory(self, path: str) -> None:
        """See `FileSystem.remove_directory`."""
        self.note("remove_directory", path)
        if self.entries(path):
            raise OSError(errno.ENOTEMPTY, "the directory is not empty", path)
        self._change(path, None)

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        self.note("unlink", path)
        self._file(path)
        self._change(path, None)

    def sync_directory(self, path: str) -> None:
        """See `FileSystem.sync_directory`: the names in this directory, and no others."""
        self.note("sync_directory", path)
        self._in_directory(path.rstrip("/") + "/any")
        for name in [one for one in self._since if posixpath.dirname(one) == path.rstrip("/")]:
            del self._since[name]


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

    def pread(self, size: int, offset: int) -> bytes:
        """See `File.pread`."""
        self._fs.note("pread", self._path, offset, size)
        return self._state.seen.pread(size, offset)

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
            self._state.write(offset, data)
        self._state.pending.clear()

    def map(self) -> pa.Buffer:
        """See `File.map`."""
        return self._state.seen.map()

    def descriptor(self) -> int | None:
        """See `File.descriptor`."""
        return self._state.seen.descriptor()

    def size(self) -> int:
        """See `File.size`."""
        return self._state.seen.size()

    def close(self) -> None:
        """See `File.close`."""
