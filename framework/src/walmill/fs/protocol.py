"""What the log and the objects need of a file system. All that touches files goes through here, so that tests can break it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import pyarrow as pa
from attrs import frozen

Bytes: TypeAlias = bytes | memoryview | pa.Buffer


@frozen
class Entry:
    """What a directory holds under one name.

    Attributes:
        name: Within the directory.
        directory: Whether it is a directory.
        size: Bytes of a file; 0 for a directory.
    """

    name: str
    directory: bool
    size: int


class File(Protocol):
    """An open file. Methods raise OSError as the system says it; nothing is durable before `fdatasync` has returned."""

    def pwritev(self, parts: Sequence[Bytes], offset: int) -> None:
        """Writes all parts, one after the other, from an offset on; all of them, or an OSError."""

    def pread(self, size: int, offset: int) -> bytes:
        """The bytes from an offset on: `size` of them, or fewer where the file ends."""

    def allocate(self, size: int) -> None:
        """Reserves space, so that the file has this size and writing within it cannot meet a full disk."""

    def truncate(self, size: int) -> None:
        """Cuts the file."""

    def fdatasync(self) -> None:
        """When it returns, everything written is on stable storage."""

    def map(self) -> pa.Buffer:
        """The whole file as read-only memory; later writes are visible in it. It lives as long as anybody refers to it."""

    def descriptor(self) -> int | None:
        """A descriptor of it for another process, the caller's to close; None if it is no file of the machine."""

    def size(self) -> int:
        """Bytes that the file has."""

    def close(self) -> None:
        """Lets go of the file; maps stay valid."""


class FileSystem(Protocol):
    """Files by path."""

    def make_directory(self, path: str) -> None:
        """Makes a directory with its parents, durably, each that it makes; one that exists is no error."""

    def create(self, path: str) -> File:
        """Makes a file that must not exist."""

    def open(self, path: str) -> File:
        """Opens a file for reading and writing."""

    def open_readonly(self, path: str) -> File:
        """Opens a file for reading only."""

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def entries(self, path: str) -> Sequence[Entry]:
        """What a directory holds, in no order."""

    def rename(self, path: str, to: str) -> None:
        """Gives a file another path, at once; a file that was there is gone, and whoever looks sees one of the two."""

    def link(self, path: str, to: str) -> None:
        """Gives a file a second path, at which nothing may be: of several callers, one succeeds."""

    def remove_directory(self, path: str) -> None:
        """Removes a directory, which must be empty."""

    def unlink(self, path: str) -> None:
        """Removes a file; maps of it stay valid."""

    def sync_directory(self, path: str) -> None:
        """When it returns, what was made, renamed and removed in the directory stays so."""
