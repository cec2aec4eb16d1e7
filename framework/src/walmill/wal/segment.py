"""Segments: files of frames. One file is written at a time, from its beginning to its end, and never again."""

from __future__ import annotations

import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from attrs import define, field, frozen

from walmill.fs.protocol import File
from walmill.wal.frame import MAGIC, problem, read_header

SEGMENT_MAGIC = b"WMSEGMT\x01"
SEGMENT_HEADER = struct.Struct("<8sHHIQQqI")
SEGMENT_HEADER_BYTES = 64
SEGMENT_VERSION = 1
INDEX_BYTES = 256 * 1024
_NAME = re.compile(r"(\d{10})\.seg")


def segment_name(number: int) -> str:
    """The name of a segment's file."""
    return f"{number:010d}.seg"


def segment_number(name: str) -> int | None:
    """The number in the name of a segment's file; None for another file."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


@frozen
class SegmentHeader:
    """The first 64 bytes of a segment.

    Attributes:
        epoch: Epoch of all its frames.
        number: Its number, as in its name.
        first_sequence: The sequence that its first entry has.
        created: ns since the epoch.
    """

    epoch: int
    number: int
    first_sequence: int
    created: int

    def encode(self) -> bytes:
        """As bytes."""
        blank = self._pack(0)
        return self._pack(zlib.crc32(blank))

    def _pack(self, checksum: int) -> bytes:
        packed = SEGMENT_HEADER.pack(
            SEGMENT_MAGIC, SEGMENT_VERSION, 0, self.epoch, self.number, self.first_sequence, self.created, checksum
        )
        return packed.ljust(SEGMENT_HEADER_BYTES, b"\0")

    @classmethod
    def decode(cls, data: pa.Buffer) -> SegmentHeader | None:
        """From a segment's bytes; None if they do not begin with a whole header."""
        if data.size < SEGMENT_HEADER_BYTES:
            return None
        magic, version, _, epoch, number, first, created, checksum = SEGMENT_HEADER.unpack_from(data, 0)
        if magic != SEGMENT_MAGIC or version != SEGMENT_VERSION:
            return None
        found = cls(epoch, number, first, created)
        return found if zlib.crc32(found._pack(0)) == checksum else None


@define(eq=False)
class Segment:
    """One segment, open.

    Attributes:
        name: Name of its file.
        header: Its header.
        data: The whole file, mapped.
        end: Where the next frame goes.
        next_sequence: The sequence of the entry after its last one.
        file: The file, while it is written.
        zeroed: Up to where its space is known to be written, with zeros or frames.
        index: Places of some frames: first sequence, commit time, offset; about one in 256 KB.
    """

    name: str
    header: SegmentHeader
    data: pa.Buffer = field(repr=False)
    end: int = SEGMENT_HEADER_BYTES
    next_sequence: int = 0
    file: File | None = field(default=None, repr=False)
    zeroed: int = SEGMENT_HEADER_BYTES
    index: list[tuple[int, int, int]] = field(factory=list, repr=False)

    def __attrs_post_init__(self) -> None:
        self.next_sequence = max(self.next_sequence, self.header.first_sequence)

    def add(self, first_sequence: int, count: int, commit_time: int, offset: int, length: int) -> None:
        """Notes a frame that is durable."""
        if not self.index or offset - self.index[-1][2] >= INDEX_BYTES:
            self.index.append((first_sequence, commit_time, offset))
        self.next_sequence = first_sequence + count
        self.end = offset + length

    def offset_of(self, sequence: int) -> int:
        """An offset at or before the frame with this sequence, from which frames can be followed."""
        place = bisect_right(self.index, sequence, key=lambda item: item[0]) - 1
        # frames without entries share their sequence with the next one: step back to the first of them
        while place > 0 and self.index[place][0] == sequence:
            place -= 1
        return self.index[place][2] if place >= 0 else SEGMENT_HEADER_BYTES

    def offsets(self, start: int) -> Iterator[int]:
        """The offsets of the frames from `start` to the end."""
        offset = start
        while offset < self.end:
            header = read_header(self.data, offset)
            if header is None:
                return
            yield offset
            offset += header.length


@frozen
class Scan:
    """What a look through a segment found.

    Attributes:
        end: Where the last whole frame ends.
        torn: What is wrong behind it, if anything is there.
        damage: Offset of a whole frame behind the wrong one: not a torn tail but damage.
    """

    end: int
    torn: str | None = None
    damage: int | None = None


def scan(segment: Segment, stop: int | None = None) -> Scan:
    """Looks through a segment frame by frame, checks every one, and notes it in the segment.

    Args:
        segment: The segment; frames of another epoch, or out of sequence, do not belong to it.
        stop: The first sequence of a later epoch: frames at or after it are not valid any more.
    """
    offset = SEGMENT_HEADER_BYTES
    expected = segment.header.first_sequence
    data = segment.data
    while offset < data.size:
        wrong = problem(data, offset)
        header = read_header(data, offset)
        if wrong is None and header is not None:
            if header.epoch != segment.header.epoch:
                wrong = f"the frame has the epoch {header.epoch}, and the segment {segment.header.epoch}"
            elif header.first_sequence != expected:
                wrong = f"the frame begins with the sequence {header.first_sequence}, expected is {expected}"
        if wrong is not None or header is None:
            return Scan(offset, *_behind(segment, offset, expected, wrong or "there is no frame"))
        if stop is not None and header.first_sequence >= stop:
            return Scan(offset)
        segment.add(header.first_sequence, header.count, header.commit_time, offset, header.length)
        expected = header.first_sequence + header.count
        offset += header.length
    return Scan(offset)


def find_frame(data: pa.Buffer) -> int | None:
    """The offset of a whole frame in a segment whose header says nothing; None if there is none."""
    content = memoryview(data).tobytes()
    found = content.find(MAGIC)
    while found >= 0:
        if found % 64 == 0 and problem(data, found) is None:
            return found
        found = content.find(MAGIC, found + 1)
    return None


def _behind(segment: Segment, offset: int, expected: int, wrong: str) -> tuple[str | None, int | None]:
    """What lies from a bad frame on: nothing (zeros), a torn frame, or whole frames, which means damage."""
    if not np.frombuffer(segment.data, np.uint8, offset=offset).any():
        return None, None
    content = memoryview(segment.data)[offset + 1 :].tobytes()
    found = content.find(MAGIC)
    while found >= 0:
        place = offset + 1 + found
        if place % 64 == 0 and problem(segment.data, place) is None:
            header = read_header(segment.data, place)
            assert header is not None
            if header.epoch == segment.header.epoch and header.first_sequence >= expected:
                return wrong, place
        found = content.find(MAGIC, found + 1)
    return wrong, None
