"""The rows section: one complete Arrow IPC stream with one batch, which any Arrow reader can read."""

from __future__ import annotations

from collections import OrderedDict

import pyarrow as pa

from walmill.wal.entry import Data
from walmill_worker.rows import decode_rows

__all__ = ["decode_rows", "encode_rows"]

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
