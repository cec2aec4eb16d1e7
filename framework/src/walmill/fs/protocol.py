"""What the log needs of a file system. Everything that touches files goes through here, so that tests can record and break it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import pyarrow as pa

Bytes: TypeAlias = bytes | memoryview | pa.Buffer


class File(Protocol):
    """An open file. Methods raise OSError as the system says it; nothing is durable before `fdatasync` has returned."""

    def pwritev(self, parts: Sequence[Bytes], offset: int) -> None:
        """Writes all parts, one after the other, from an offset on; all of them, or an OSError."""

    def allocate(self, size: int) -> None:
        """Reserves space, so that the file has this size and writing within it cannot meet a full disk."""

    def truncate(self, size: int) -> None:
        """Cuts the file."""

    def fdatasync(self) -> None:
        """When it returns, everything written is on stable storage."""

    def map(self) -> pa.Buffer:
        """The whole file as read-only memory; later writes are visible in it. It lives as long as anybody refers to it."""

    def size(self) -> int:
        """Bytes that the file has."""

    def close(self) -> None:
        """Lets go of the file; maps stay valid."""


class FileSystem(Protocol):
    """Files by path."""

    def make_directory(self, path: str) -> None:
        """Makes a directory with its parents, durably; one that exists is no error."""

    def create(self, path: str) -> File:
        """Makes a file that must not exist."""

    def open(self, path: str) -> File:
        """Opens a file for reading and writing."""

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def unlink(self, path: str) -> None:
        """Removes a file; maps of it stay valid."""

    def sync_directory(self, path: str) -> None:
        """When it returns, files made and removed in the directory stay so."""
