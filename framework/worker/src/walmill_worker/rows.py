"""Rows as the log has them: one complete Arrow IPC stream with one batch, which any Arrow reader can read."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

import pyarrow as pa

Data: TypeAlias = bytes | memoryview | pa.Buffer
_SCHEMAS = 4096
_read: OrderedDict[bytes, pa.Schema] = OrderedDict()


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
