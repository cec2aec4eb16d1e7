"""What the log holds, as its users see it: entries with sections, gathered into frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import pyarrow as pa
from attrs import field, frozen

Data: TypeAlias = bytes | memoryview | pa.Buffer


@frozen
class Section:
    """A part of an entry that is bytes.

    Attributes:
        kind: What it is, for the reader.
        meta: JSON types.
        data: The bytes; when they are to be written, they may be given in several pieces.
    """

    kind: str
    meta: dict[str, Any]
    data: Data | tuple[Data, ...] = field(repr=False)

    @property
    def pieces(self) -> tuple[Data, ...]:
        """The bytes in pieces."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return sum(memoryview(piece).nbytes for piece in self.pieces)


@frozen
class Entry:
    """One atomic change: one sequence number.

    Attributes:
        meta: JSON types.
        sections: Its parts that are bytes.
    """

    meta: dict[str, Any]
    sections: tuple[Section, ...] = ()


@frozen
class Frame:
    """Entries that were written and synced together.

    Attributes:
        epoch: Raised by every start and every failed sync.
        first_sequence: Sequence of the first entry; a frame without entries uses none.
        entries: The entries; the bytes of their sections lie in the mapped segment.
        notes: JSON types that belong to the frame and not to an entry.
        commit_time: ns since the epoch.
        segment: Name of the segment's file.
        offset: Where the frame begins in it.
        length: Bytes that it takes.
    """

    epoch: int
    first_sequence: int
    entries: Sequence[Entry]
    notes: dict[str, Any]
    commit_time: int
    segment: str
    offset: int
    length: int

    @property
    def last_sequence(self) -> int:
        """Sequence of the last entry; one before the first if there is none."""
        return self.first_sequence + len(self.entries) - 1
