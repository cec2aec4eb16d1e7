"""A stream of Arrow IPC messages from a stranger, as a table whose buffers lie in the body: nothing is parsed or copied.

The format lets a few bytes stand for gigabytes: compressed buffers, dictionaries, views, columns without buffers. So the
messages are weighed before anything is read, and the columns before anything is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from walmill.errors import InvalidRequest, LimitReached, TooLarge
from walmill.ingest.errors import RowError
from walmill.ingest.names import COLUMNS_PER_TABLE

_FILE = b"ARROW1"
_REMEDY = "write it with pyarrow.ipc.new_stream, or with what your library calls the Arrow stream format"
_WIDTH = 8
"""Bytes that a stored value takes at most, besides the characters of a string."""
_SPARE = 4
"""The stream itself may be so many times larger than what is stored: offsets of 64 bits, views, validity."""


def read_stream(body: bytes | pa.Buffer, *, max_bytes: int) -> pa.Table:
    """The rows of an Arrow IPC stream, checked down to the last offset; their buffers are those of the body.

    Args:
        body: The stream: a schema, dictionaries, batches; compressed buffers are fine.
        max_bytes: Most bytes of the rows when they are stored.

    Raises:
        InvalidRequest: It is no such stream, it is damaged, or bytes follow its end.
        RowError: A column has a type that no column of a table has.
        LimitReached: It has more columns than a table may have.
        TooLarge: It has more rows or bytes than one request may bring.
    """
    buffer = body if isinstance(body, pa.Buffer) else pa.py_buffer(body)
    if bytes(memoryview(buffer)[: len(_FILE)]) == _FILE:
        raise InvalidRequest(f"the body is an Arrow file (Feather), and this route wants an IPC stream: {_REMEDY}")
    try:
        _weigh(buffer, max_bytes)
        source = pa.BufferReader(buffer)
        with pa.ipc.open_stream(source) as reader:
            _check_columns(reader.schema)
            table = reader.read_all()
        table.validate(full=True)
        rest = buffer.size - source.tell()
    except (InvalidRequest, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, struct.error) as error:
        raise InvalidRequest(
            f"the body is not an Arrow IPC stream, or it is damaged ({_first_line(error)}): {_REMEDY}"
        ) from None
    if rest:
        raise InvalidRequest(f"{rest} bytes follow the end of the Arrow IPC stream: send one stream in a request")
    stored = _stored_bytes(table)
    if stored > max_bytes:
        raise _too_large(f"the rows would take {stored:,} bytes", max_bytes)
    return table


def _weigh(buffer: pa.Buffer, max_bytes: int) -> None:
    """Refuses a stream that says that it stands for too much, before any of it is decompressed."""
    rows = size = 0
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(buffer)):
        if message.type not in ("record batch", "dictionary"):
            continue
        header = _Header(memoryview(message.metadata), is_dictionary=message.type == "dictionary")
        if not header.is_dictionary:
            rows += header.rows
        data = memoryview(b"") if message.body is None else memoryview(message.body)
        for offset, length in header.buffers():
            size += _uncompressed(data, offset, length) if header.compressed else length
    if rows * _WIDTH > max_bytes:  # each has a time
        raise _too_large(f"the stream has {rows:,} rows", max_bytes)
    if size > _SPARE * max_bytes:
        raise _too_large(f"the stream stands for {size:,} bytes", _SPARE * max_bytes)


def _uncompressed(data: memoryview, offset: int, length: int) -> int:
    """How many bytes a compressed buffer says that it stands for: it begins with that number, or -1 for as it is."""
    if not length:
        return 0
    (said,) = struct.unpack_from("<q", data, offset)
    return length if said < 0 else int(said)


class _Header:
    """What the metadata of a batch or a dictionary says about its size. The metadata are a flatbuffer, verified by Arrow."""

    def __init__(self, data: memoryview, *, is_dictionary: bool) -> None:
        self._data = data
        self.is_dictionary = is_dictionary
        (root,) = struct.unpack_from("<I", data, 0)
        batch = self._table(root, 2)
        if is_dictionary:
            batch = self._table(batch, 1)
        self._batch = batch
        place = self._place(batch, 0)
        self.rows: int = struct.unpack_from("<q", data, place)[0] if place else 0
        self.compressed = self._place(batch, 3) != 0
        if self.rows < 0:
            raise ValueError(f"a batch has {self.rows} rows")

    def buffers(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each buffer in the body."""
        place = self._place(self._batch, 2)
        if not place:
            return
        place += self._offset(place)
        (count,) = struct.unpack_from("<I", self._data, place)
        for offset, length in struct.iter_unpack("<qq", self._data[place + 4 : place + 4 + 16 * count]):
            if offset < 0 or length < 0:
                raise ValueError(f"a buffer of {length} bytes lies at {offset}")
            yield offset, length

    def _offset(self, place: int) -> int:
        return int(struct.unpack_from("<I", self._data, place)[0])

    def _place(self, table: int, member: int) -> int:
        """Where a member of a table is; 0 if it is not there."""
        vtable = table - struct.unpack_from("<i", self._data, table)[0]
        entry = 4 + 2 * member
        (size,) = struct.unpack_from("<H", self._data, vtable)
        if entry + 2 > size:
            return 0
        (found,) = struct.unpack_from("<H", self._data, vtable + entry)
        return table + found if found else 0

    def _table(self, table: int, member: int) -> int:
        place = self._place(table, member)
        if not place:
            raise ValueError("a message has no header")
        return place + self._offset(place)


def _check_columns(schema: pa.Schema) -> None:
    if len(schema) > COLUMNS_PER_TABLE + 1:
        raise LimitReached(
            f"the stream has {len(schema)} columns: a table has at most {COLUMNS_PER_TABLE} and time; leave some away"
        )
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if (
            pa.types.is_nested(kind)
            or pa.types.is_dictionary(kind)
            or pa.types.is_run_end_encoded(kind)
            or isinstance(kind, pa.BaseExtensionType)
        ):
            raise RowError(
                None,
                field.name,
                f"it is {field.type}: a column holds ints, floats, bools, strings, times, or dictionaries of these",
            )


def _stored_bytes(table: pa.Table) -> int:
    """About how many bytes the rows take when dictionaries and views are plain columns. Columns without values count not."""
    size = 0
    for column in table.columns:
        if column.null_count == len(column):
            continue
        size += _WIDTH * len(column)
        for chunk in column.chunks:
            if pa.types.is_dictionary(chunk.type):
                lengths = _lengths(chunk.dictionary)
                if lengths is not None:
                    size += pc.sum(lengths.take(chunk.indices), min_count=0).as_py() or 0
            else:
                lengths = _lengths(chunk)
                if lengths is not None:
                    size += pc.sum(lengths, min_count=0).as_py() or 0
    return size


def _lengths(array: pa.Array) -> pa.Array | None:
    """Bytes of each string; None for what is no string."""
    kind = array.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        end = array.offset + len(array)
        views = np.frombuffer(array.buffers()[1], np.int32, 4 * end).reshape(-1, 4)
        lengths = views[array.offset :, 0].astype(np.int64)
        return pa.array(lengths, mask=np.asarray(array.is_null()))
    if any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    ):
        return pc.binary_length(array).cast(pa.int64())
    return None


def _too_large(what: str, limit: int) -> TooLarge:
    return TooLarge(f"{what}, and one request may bring {limit:,}: send it in several requests")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
