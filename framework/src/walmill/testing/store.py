"""An object store in memory whose requests fail as they are told to, before or after they have done their work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal

import pyarrow as pa

from walmill.fs.protocol import Bytes
from walmill.objects.errors import StoreUnavailable
from walmill.objects.memory import MemoryStore

Fate = Literal["good", "lost", "failed"]
"""What becomes of a request: it works; it works and its answer is lost; it does nothing, and that is said as if it were lost."""


class FaultyStore:
    """An `ObjectStore` in memory that fails.

    Attributes:
        fates: What becomes of the next requests that create an object, the first one first; then all work.
        away: Whether no request at all is answered.
        on_put: Called with the path of each object before it is created, in the thread of the caller.
    """

    name = "faulty://"

    def __init__(self) -> None:
        self.inner = MemoryStore()
        self.fates: list[Fate] = []
        self.away = False
        self.on_put: Callable[[str], None] = lambda path: None
        self._guard = threading.Lock()

    def _fate(self) -> Fate:
        with self._guard:
            return self.fates.pop(0) if self.fates else "good"

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable(f"{self.name} does not answer", retry_after=1)

    def get(self, path: str) -> pa.Buffer:
        """See `ObjectStore.get`."""
        self._answer()
        return self.inner.get(path)

    def get_range(self, path: str, start: int, length: int) -> pa.Buffer:
        """See `ObjectStore.get_range`."""
        self._answer()
        return self.inner.get_range(path, start, length)

    def put(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put`."""
        self._answer()
        self.inner.put(path, data)

    def put_new(self, path: str, data: Bytes) -> None:
        """See `ObjectStore.put_new`."""
        self.on_put(path)
        self._answer()
        fate = self._fate()
        if fate != "failed":
            self.inner.put_new(path, data)
        if fate != "good":
            raise StoreUnavailable(f"{self.name} did not answer", retry_after=1)

    def delete(self, path: str) -> None:
        """See `ObjectStore.delete`."""
        self._answer()
        self.inner.delete(path)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See `ObjectStore.list`."""
        self._answer()
        return self.inner.list(prefix)

    def local_path(self, path: str) -> str | None:
        """See `ObjectStore.local_path`."""
        return self.inner.local_path(path)

    def sweep(self) -> int:
        """See `ObjectStore.sweep`."""
        return 0

    def close(self) -> None:
        """See `ObjectStore.close`."""
