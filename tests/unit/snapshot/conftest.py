"""Object stores in a dict, which fail when they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from walmill.errors import Conflict, NotFound, Unavailable


class DictStore:
    """Objects in a dict.

    Attributes:
        objects: The objects by path.
        written: Paths in the order in which they were written.
        fail_at: Number of the write, from 0, which raises; None for none.
        applied: Whether the write that raises has its effect nevertheless.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.written: list[str] = []
        self.fail_at: int | None = None
        self.applied = False

    def get(self, path: str) -> bytes:
        if path not in self.objects:
            raise NotFound(f"there is no object {path}")
        return self.objects[path]

    def put(self, path: str, data: bytes) -> None:
        fails = self.fail_at == len(self.written)
        self.written.append(path)
        if not fails or self.applied:
            self.objects[path] = bytes(data)
        if fails:
            self.fail_at = None
            raise Unavailable("the store did not answer")

    def put_new(self, path: str, data: bytes) -> None:
        if path in self.objects:
            raise Conflict(f"there is an object {path} already")
        self.put(path, data)

    def delete(self, path: str) -> None:
        self.objects.pop(path, None)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return iter(sorted((path, len(data)) for path, data in self.objects.items() if path.startswith(prefix)))


class FaultyStore(DictStore):
    """Fails at one of its operations, whichever thread it comes from: of all, or of writes if these are applied nevertheless.

    Attributes:
        operations: How many there were.
        break_at: Number of the one, from 0, which raises; None for none.
        before_puts: Called one for each writing of a data file, before it is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.break_at: int | None = None
        self.before_puts: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def quiet(self) -> DictStore:
        """The same objects, for a look that counts for nothing."""
        same = DictStore()
        same.objects = self.objects
        return same

    def _breaks(self) -> bool:
        with self._lock:
            self.operations += 1
            return self.operations - 1 == self.break_at

    def get(self, path: str) -> bytes:
        if not self.applied and self._breaks():
            raise Unavailable("the store did not answer")
        return super().get(path)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        if not self.applied and self._breaks():
            raise Unavailable("the store did not answer")
        return super().list(prefix)

    def put(self, path: str, data: bytes) -> None:
        if self.before_puts and path.startswith("tables/"):
            self.before_puts.pop(0)()
        breaks = self._breaks()
        if not breaks or self.applied:
            assert path not in self.objects  # nothing is ever written over
            self.objects[path] = bytes(data)
        if breaks:
            raise Unavailable("the store did not answer")

    def delete(self, path: str) -> None:
        breaks = self._breaks()
        if not breaks or self.applied:
            super().delete(path)
        if breaks:
            raise Unavailable("the store did not answer")


@pytest.fixture(scope="session")
def new_faulty() -> type[FaultyStore]:
    """Makes a store that fails at any operation."""
    return FaultyStore


@pytest.fixture(scope="session")
def new_store() -> type[DictStore]:
    """Makes a store."""
    return DictStore


@pytest.fixture
def store() -> DictStore:
    """A store."""
    return DictStore()
