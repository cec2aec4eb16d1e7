"""An object store in a dict, which fails when it is told to."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(scope="session")
def new_store() -> type[DictStore]:
    """Makes a store."""
    return DictStore


@pytest.fixture
def store() -> DictStore:
    """A store."""
    return DictStore()
