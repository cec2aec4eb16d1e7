"""The rows section: one complete Arrow IPC stream with one batch, which any Arrow reader can read."""

from __future__ import annotations

from collections import OrderedDict

import pyarrow as pa

from walmill.wal.entry import Data

_END = b"\xff\xff\xff\xff\0\0\0\0"
_schemas: OrderedDict[pa.Schema, pa.Buffer] = OrderedDict()
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
    """The batch of a section; its buffers lie in the section's."""
    if isinstance(data, tuple):
        data = b"".join(bytes(piece) for piece in data)
    return pa.ipc.open_stream(data if isinstance(data, pa.Buffer) else pa.py_buffer(data)).read_next_batch()
