"""What the engine and a reader process say to each other, and the memory that they share.

Messages are small and go over a socket: four bytes of length, then msgpack. A body, and the rows made from it, lie in memory
that both map, so no byte of them goes through a socket.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Sequence
from typing import Any

import msgpack
import pyarrow as pa

from walmill.ingest.assemble import Assembled, TableRows
from walmill.ingest.errors import LineError, LineErrors
from walmill.model.schema import TableSchema
from walmill.wal.rows import decode_rows, encode_rows

_ALIGNED = 64
_STEP = 2**20
_FEW = 256  # so many refused lines travel in the message itself

_ERRORS = pa.schema([("line_number", pa.int64()), ("message", pa.large_string()), ("line", pa.large_string())])


class Gone(Exception):
    """The other process is not there any more."""


class Arena:
    """Memory that two processes map; one of them writes it. It grows, and never shrinks.

    Args:
        descriptor: Of its file; stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def reserve(self, size: int) -> None:
        """Makes it at least so large; for the one that writes.

        Raises:
            MemoryError: If there is no memory for it.
        """
        wanted = -(-size // _STEP) * _STEP
        if os.fstat(self._descriptor).st_size < wanted:
            try:
                os.posix_fallocate(self._descriptor, 0, wanted)
            except OSError as error:
                raise MemoryError(str(error)) from None

    def write(self, pieces: Sequence[Any], offset: int = 0) -> int:
        """Writes pieces one after the other, from an offset on; says where they end. `reserve` comes first."""
        for piece in pieces:
            data = memoryview(piece).cast("B")
            end = offset + data.nbytes
            if data.nbytes:
                self._view(end)[offset:end] = data
            offset = end
        return offset

    def read(self, size: int) -> bytes:
        """A copy of its first bytes."""
        return self._view(size)[:size] if size else b""

    def _view(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            if self._map is not None:
                self._map.close()
            self._map = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        return self._map

    def close(self) -> None:
        """Lets go of the memory."""
        if self._map is not None:
            self._map.close()
            self._map = None


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    """Sends a message.

    Raises:
        Gone: If nobody is there.
    """
    packed = msgpack.packb(message)
    try:
        channel.sendall(len(packed).to_bytes(4, "little") + packed)
    except OSError as error:
        raise Gone from error


def receive(channel: socket.socket) -> dict[str, Any]:
    """Waits for a message.

    Raises:
        Gone: If nobody is there any more.
    """
    try:
        size = int.from_bytes(_read(channel, 4), "little")
        found: dict[str, Any] = msgpack.unpackb(_read(channel, size))
    except OSError as error:
        raise Gone from error
    return found


def _read(channel: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = channel.recv(size)
        if not part:
            raise Gone
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def pack_schema(schema: TableSchema | None) -> list[Any] | None:
    """A schema for a message."""
    return None if schema is None else [list(schema.tags), dict(schema.fields)]


def unpack_schema(name: str, data: list[Any] | None) -> TableSchema | None:
    """A schema from a message."""
    return None if data is None else TableSchema(name, tuple(data[0]), data[1])


def pack(made: Assembled, arena: Arena) -> dict[str, Any]:
    """Writes rows and refused lines into the memory; the message that describes them.

    Raises:
        MemoryError: If they do not fit.
    """
    pieces: list[Any] = []
    end = 0

    def place(data: Sequence[Any]) -> list[int]:
        nonlocal end
        start = -(-end // _ALIGNED) * _ALIGNED
        pieces.append(bytes(start - end))
        pieces.extend(data)
        end = start + sum(memoryview(piece).nbytes for piece in data)
        return [start, end]

    tables = [
        [rows.name, list(rows.new_tags), dict(rows.new_fields), *place(encode_rows(rows.batch))]
        for rows in made.tables.values()
    ]
    message: dict[str, Any] = {"tables": tables}
    errors = made.errors
    if len(errors) > _FEW:
        numbers, messages, lines = zip(*errors, strict=True)
        arrays = [pa.array(column, kind.type) for column, kind in zip((numbers, messages, lines), _ERRORS, strict=True)]
        message["many"] = place(encode_rows(pa.RecordBatch.from_arrays(arrays, schema=_ERRORS)))
    else:
        message["errors"] = [list(error) for error in errors]
    arena.reserve(end)
    arena.write(pieces)
    message["size"] = end
    return message


def unpack(message: dict[str, Any], arena: Arena) -> Assembled:
    """Rows and refused lines from a message and a copy of the memory."""
    whole = pa.py_buffer(arena.read(message["size"]))
    tables: dict[str, TableRows] = {}
    for name, tags, fields, start, end in message["tables"]:
        section = whole.slice(start, end - start)
        tables[name] = TableRows(name, tuple(tags), fields, decode_rows(section), section)
    errors: Sequence[LineError]
    if "many" in message:
        start, end = message["many"]
        errors = LineErrors(decode_rows(whole.slice(start, end - start)))
    else:
        errors = [LineError(*error) for error in message["errors"]]
    return Assembled(tables, errors)
