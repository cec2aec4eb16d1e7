"""What the engine needs of an object store, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import pyarrow as pa

from walmill.fs.protocol import Bytes

Found: TypeAlias = tuple[str, int]


class ObjectStore(Protocol):
    """Whole objects by path. All methods block, and are safe from any thread.

    A path is made of segments with one slash between them (`walmill.objects.paths`), and no path is also the folder of
    another. Besides what each method says, all raise `StoreUnavailable`, `StoreRefused`, and `InvalidRequest` for a path that
    no object can have.
    """

    @property
    def name(self) -> str:
        """The store for people: its directory or URL; never with a credential."""

    def get(self, path: str) -> pa.Buffer:
        """The object.

        Raises:
            NoSuchObject: There is none.
        """

    def get_range(self, path: str, start: int, length: int) -> pa.Buffer:
        """The bytes of an object from `start` on: `length` of them, or fewer where the object ends.

        Raises:
            NoSuchObject: There is none.
        """

    def put(self, path: str, data: Bytes) -> None:
        """Writes an object; whoever reads sees the old one or the new one, whole. Durable when it returns."""

    def put_new(self, path: str, data: Bytes) -> None:
        """Writes an object where none may be: of several callers, one succeeds. Durable when it returns.

        After `StoreUnavailable`, and behind a retry of the client's also after `ObjectExists`, the object may be this
        one; `walmill.objects.create.put_new_once` settles that.

        Raises:
            ObjectExists: There is one.
        """

    def delete(self, path: str) -> None:
        """Removes an object, durably; none is no error."""

    def list(self, prefix: str = "") -> Iterator[Found]:
        """Path and size of all objects below a prefix of whole segments (`a/b` has `a/b/c` and not `a/bc`), sorted by path.

        An object that comes or goes meanwhile may be in it or not.
        """

    def local_path(self, path: str) -> str | None:
        """A file of the machine that others may read directly; None if the store has none. The object need not exist."""

    def sweep(self) -> int:
        """Removes what puts that were broken off left behind, and says how many; only its one writer may, before it writes."""

    def close(self) -> None:
        """Lets go of connections; a second call does nothing. Buffers stay valid."""
