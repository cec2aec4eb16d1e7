"""What snapshots need of an object store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import pyarrow as pa

from walmill.errors import NotFound

Data: TypeAlias = bytes | memoryview | pa.Buffer

MISSING = (NotFound, FileNotFoundError)
"""What `get` raises when there is no such object."""


class Store(Protocol):
    """Objects by path. All methods block, and may be called from any thread."""

    def get(self, path: str) -> Data:
        """The bytes of an object."""

    def put(self, path: str, data: Data) -> None:
        """Writes a whole object, atomically; it is durable when this returns."""

    def put_new(self, path: str, data: Data) -> None:
        """The same, and `Conflict` if there is such an object already."""

    def delete(self, path: str) -> None:
        """Removes an object; no error if there is none."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Paths and sizes of the objects below a prefix, sorted by path."""
