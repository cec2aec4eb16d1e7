"""Objects in memory: for engines without a data directory, and for tests. Nothing of them outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pyarrow as pa

from walmill.fs.protocol import Bytes
from walmill.objects.errors import NoSuchObject, ObjectExists
from walmill.objects.paths import check_path, check_prefix
from walmill.objects.protocol import Found


class MemoryStore:
    """An `ObjectStore` in memory."""

    name = "memory://"

    def __init__(self) -> None:
        self._objects: dict[str, pa.Buffer] = {}
        self._guard = threading.Lock()

    def get(self, path: str) -> pa.Buffer:
        """See `ObjectStore.get`."""
        found = self._objects.get(check_path(path))
        if found is None:
            raise NoSuchObject(f"there is no object {path} in {self.name}")
        return found

    def get_range(self, path: str, start: int, length: int) -> pa.Buffer:
        """See `ObjectStore.get_range`."""
        whole = self.get(path)
        start = min(start, whole.size)
        return whole.slice(start, min(length, whole.size - start))

    def put(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put`."""
        self._objects[check_path(path)] = _copy(data)

    def put_new(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put_new`."""
        check_path(path)
        with self._guard:
            if path in self._objects:
                raise ObjectExists(f"there is an object {path} in {self.name} already")
            self._objects[path] = _copy(data)

    def delete(self, path: str) -> None:
        """See `ObjectStore.delete`."""
        self._objects.pop(check_path(path), None)

    def list(self, prefix: str = "") -> Iterator[Found]:
        """See `ObjectStore.list`."""
        below = check_prefix(prefix)
        start = f"{below}/" if below else ""
        return iter(sorted((path, data.size) for path, data in self._objects.copy().items() if path.startswith(start)))

    def local_path(self, path: str) -> str | None:
        """See `ObjectStore.local_path`: there is no file."""
        check_path(path)
        return None

    def sweep(self) -> int:
        """See `ObjectStore.sweep`: nothing is left behind."""
        return 0

    def close(self) -> None:
        """See `ObjectStore.close`: there is nothing to do."""


def _copy(data: Bytes) -> pa.Buffer:
    return pa.py_buffer(bytes(memoryview(data)))
