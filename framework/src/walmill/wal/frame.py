"""Frames as bytes, without any file: encoding, checking, decoding."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from attrs import frozen

from walmill.errors import TooLarge
from walmill.wal.entry import Data, Entry, Frame, Section

MAGIC = b"WALMILL\x01"
ALIGN = 64
HEADER = struct.Struct("<8sHHIQIIQqI")
HEADER_BYTES = 64
VERSION = 1
FRAME_BYTES = 8 * 2**20
ENTRY_BYTES = 33 * 2**20
"""An entry is at most this large: the 32 MB of a commit, and room for its directory."""
_PADDING = bytes(ALIGN)


@frozen
class Header:
    """The first 64 bytes of a frame."""

    version: int
    epoch: int
    first_sequence: int
    count: int
    directory: int
    length: int
    commit_time: int
    checksum: int


@frozen
class Encoded:
    """A frame ready to be written.

    Attributes:
        parts: The bytes in pieces.
        length: Their number, a multiple of 64.
    """

    parts: list[Data]
    length: int


def padding(size: int) -> int:
    """How many bytes bring a size to the next multiple of 64."""
    return -size % ALIGN


def check_size(size: int) -> None:
    """Refuses an entry that is too large.

    Args:
        size: Bytes of its sections, each with its padding.

    Raises:
        TooLarge: Saying so.
    """
    if size > ENTRY_BYTES:
        raise TooLarge(f"an entry of {size:,} bytes is over the limit of {ENTRY_BYTES:,}; write in smaller pieces")


def check_entry(entry: Entry) -> None:
    """The same for an entry that is not encoded yet."""
    check_size(sum(section.size + padding(section.size) for section in entry.sections))


def encode(
    epoch: int, first_sequence: int, commit_time: int, entries: Sequence[Entry], notes: dict[str, Any]
) -> Encoded:
    """A frame as bytes.

    Raises:
        TooLarge: If one entry is over the limit.
    """
    directory: list[Any] = []
    body: list[Data] = []
    place = 0
    for entry in entries:
        start = place
        listed = []
        for section in entry.sections:
            size = section.size
            listed.append([section.kind, section.meta, place, size])
            body.extend(section.pieces)
            gap = padding(size)
            if gap:
                body.append(_PADDING[:gap])
            place += size + gap
        check_size(place - start)
        directory.append([entry.meta, listed])
    text = json.dumps([directory, notes], separators=(",", ":")).encode()
    gap = padding(len(text))
    length = HEADER_BYTES + len(text) + gap + place
    blank = HEADER.pack(MAGIC, VERSION, 0, epoch, first_sequence, len(entries), len(text), length, commit_time, 0)
    checksum = zlib.crc32(blank.ljust(HEADER_BYTES, b"\0"))
    parts: list[Data] = [text, _PADDING[:gap], *body]
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    header = HEADER.pack(
        MAGIC, VERSION, 0, epoch, first_sequence, len(entries), len(text), length, commit_time, checksum
    )
    return Encoded([header.ljust(HEADER_BYTES, b"\0"), *parts], length)


def read_header(data: pa.Buffer, offset: int) -> Header | None:
    """The header at an offset; None if there cannot be one."""
    if offset + HEADER_BYTES > data.size:
        return None
    magic, version, _, epoch, first, count, directory, length, time, checksum = HEADER.unpack_from(data, offset)
    if magic != MAGIC:
        return None
    return Header(version, epoch, first, count, directory, length, time, checksum)


def problem(data: pa.Buffer, offset: int) -> str | None:
    """What is wrong with the frame at an offset; None if it is whole."""
    header = read_header(data, offset)
    if header is None:
        return "there is no frame header"
    if header.version != VERSION:
        return f"the frame has the format {header.version}, and this version reads {VERSION}"
    if header.length % ALIGN or header.length < HEADER_BYTES + header.directory:
        return f"the frame says that it has {header.length} bytes, which cannot be"
    if offset + header.length > data.size:
        return f"the frame has {header.length} bytes, and the segment ends before"
    blank = HEADER.pack(
        MAGIC,
        header.version,
        0,
        header.epoch,
        header.first_sequence,
        header.count,
        header.directory,
        header.length,
        header.commit_time,
        0,
    )
    checksum = zlib.crc32(blank.ljust(HEADER_BYTES, b"\0"))
    view = memoryview(data)
    if bytes(view[offset + HEADER.size : offset + HEADER_BYTES]).strip(b"\0"):
        return "the end of the frame's header is not zero"
    checksum = zlib.crc32(view[offset + HEADER_BYTES : offset + header.length], checksum)
    if checksum != header.checksum:
        return f"the checksum is {checksum:08x}, and the header says {header.checksum:08x}"
    return None


def decode(data: pa.Buffer, offset: int, segment: str) -> Frame:
    """The frame at an offset, which was checked before; its sections refer to `data`."""
    header = read_header(data, offset)
    assert header is not None
    start = offset + HEADER_BYTES
    directory, notes = json.loads(memoryview(data)[start : start + header.directory].tobytes())
    base = start + header.directory + padding(header.directory)
    entries = [
        Entry(meta, tuple(Section(kind, about, data.slice(base + place, size)) for kind, about, place, size in listed))
        for meta, listed in directory
    ]
    return Frame(
        header.epoch, header.first_sequence, entries, notes, header.commit_time, segment, offset, header.length
    )
