"""The rows section: one complete Arrow IPC stream with one batch, which any Arrow reader can read."""

from __future__ import annotations

from collections import OrderedDict

import pyarrow as pa

from walmill.wal.entry import Data

_END = b"\xff\xff\xff\xff\0\0\0\0"
_schemas: OrderedDict[pa.Schema, pa.Buffer] = OrderedDict()
_read: OrderedDict[bytes, pa.Schema] = OrderedDict()
_SCHEMAS = 4096


def encode_rows(batch: pa.RecordBatch) -> tuple[Data, ...]:
    """A batch as a stream, in pieces: schema, batch, end. Encoding a schema costs more than a small batch, so it is kept."""
    schema = batch.schema
    message = _schemas.get(schema)
    if message is None:
        message = schema.serialize()
        _schemas[schema] = message
        if len(_schemas) > _SCHEMAS:
            _schemas.popitem(last=False)
    return (message, batch.serialize(), _END)


def decode_rows(data: Data | tuple[Data, ...]) -> pa.RecordBatch:
    """The batch of a section; its buffers lie in the section's.

    Reading a schema costs as much as all else of a small batch, so those that were read are kept, by their bytes.

    Raises:
        pyarrow.ArrowInvalid: If it is no stream with a batch.
    """
    if isinstance(data, tuple):
        data = b"".join(bytes(piece) for piece in data)
    stream = data if isinstance(data, pa.Buffer) else pa.py_buffer(data)
    # a message: four bytes of ones, the size of its header, the header; that of a schema has no body
    view = memoryview(stream).cast("B")
    size = 8 + int.from_bytes(view[4:8], "little")
    message = view[:size].tobytes()
    schema = _read.get(message)
    if schema is None:
        schema = pa.ipc.read_schema(stream)
        _read[message] = schema
        if len(_read) > _SCHEMAS:
            _read.popitem(last=False)
    return pa.ipc.read_record_batch(stream.slice(size), schema)
