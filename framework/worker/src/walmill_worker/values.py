"""Values of the plugin state as bytes, and back. Nothing is ever unpickled.

msgpack for what it knows; an extension type for each further kind. Tuples stay tuples, big ints stay ints.
"""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgpack

_TUPLE, _SET, _FROZENSET, _DATETIME, _TIMEDELTA, _DATE, _INT, _TABLE, _BATCH, _ARRAY, _NUMPY, _UINT = range(1, 13)


def encode(value: Any) -> bytes:
    """The value as bytes.

    Raises:
        TypeError: For a value that cannot be stored, saying where to keep it instead.
    """
    try:
        packed: bytes = msgpack.packb(value, default=extend, strict_types=True)
    except RecursionError:
        raise TypeError("the value for ctx.cache holds itself, or is nested too deeply; keep it on self") from None
    except (OverflowError, ValueError) as error:
        raise TypeError(f"the value cannot be kept in ctx.cache: {error}; keep it on self") from None
    return packed


def decode(data: bytes) -> Any:
    """The value that `encode` was given: a copy of its own."""
    return msgpack.unpackb(data, ext_hook=restore, strict_map_key=False)


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value, default=extend, strict_types=True))


def extend(value: Any) -> Any:
    """What stands for a value that msgpack does not know; for `msgpack.packb`.

    Raises:
        TypeError: If it cannot be stored.
    """
    kind = type(value)
    if kind is tuple:
        return msgpack.ExtType(_TUPLE, _pack(list(value)))
    if kind is set:
        return msgpack.ExtType(_SET, _pack(list(value)))
    if kind is frozenset:
        return msgpack.ExtType(_FROZENSET, _pack(list(value)))
    if isinstance(value, str):
        return str(value)
    if kind is int:
        return msgpack.ExtType(_INT, str(value).encode())
    if kind is datetime:
        zone = value.tzinfo
        name = None if zone is None else ("UTC" if zone is UTC else getattr(zone, "key", None))
        if zone is not None and name is None:
            offset = value.utcoffset()
            name = 0.0 if offset is None else offset.total_seconds()
        naive = value.replace(tzinfo=None)
        return msgpack.ExtType(_DATETIME, _pack([naive.isoformat(), value.fold, name]))
    if kind is timedelta:
        return msgpack.ExtType(_TIMEDELTA, _pack([value.days, value.seconds, value.microseconds]))
    if kind is date:
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if isinstance(value, int) and getattr(kind, "walmill_type", None) == "uint64":
        return msgpack.ExtType(_UINT, str(int(value)).encode())
    return _extend_arrays(value, kind)


def _extend_arrays(value: Any, kind: type) -> Any:
    import numpy as np
    import pyarrow as pa

    if isinstance(value, pa.Table | pa.RecordBatch):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write(value)
        return msgpack.ExtType(_TABLE if isinstance(value, pa.Table) else _BATCH, sink.getvalue().to_pybytes())
    if isinstance(value, pa.Array):
        batch = pa.record_batch([value], names=["value"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write(batch)
        return msgpack.ExtType(_ARRAY, sink.getvalue().to_pybytes())
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        sink_np = io.BytesIO()
        np.save(sink_np, np.asarray(value), allow_pickle=False)
        return msgpack.ExtType(_NUMPY, (b"a" if isinstance(value, np.ndarray) else b"s") + sink_np.getvalue())
    raise TypeError(
        f"a {kind.__module__}.{kind.__qualname__} cannot be kept in ctx.cache: it holds plain types, bytes, datetimes, Arrow "
        "and numpy data; keep it on self"
    )


def restore(code: int, data: bytes) -> Any:
    """The value that such a stand-in means; for `msgpack.unpackb`."""
    match code:
        case 1:
            return tuple(decode(data))
        case 2:
            return set(decode(data))
        case 3:
            return frozenset(decode(data))
        case 4:
            text, fold, zone = decode(data)
            when = datetime.fromisoformat(text).replace(fold=fold)
            if zone is None:
                return when
            if isinstance(zone, str):
                return when.replace(tzinfo=UTC if zone == "UTC" else ZoneInfo(zone))
            from datetime import timezone

            return when.replace(tzinfo=timezone(timedelta(seconds=zone)))
        case 5:
            days, seconds, microseconds = decode(data)
            return timedelta(days, seconds, microseconds)
        case 6:
            return date.fromisoformat(data.decode())
        case 7:
            return int(data)
        case 12:
            from walmill_hookspecs import UInt

            return UInt(data)
    return _restore_arrays(code, data)


def _restore_arrays(code: int, data: bytes) -> Any:
    import numpy as np
    import pyarrow as pa

    if code == _NUMPY:
        loaded = np.load(io.BytesIO(data[1:]), allow_pickle=False)
        return loaded if data[:1] == b"a" else loaded[()]
    if code not in (_TABLE, _BATCH, _ARRAY):
        raise ValueError(f"the state holds a value of the unknown kind {code}; a later version wrote it")
    reader = pa.ipc.open_stream(pa.py_buffer(data))
    if code == _TABLE:
        return reader.read_all()
    batch = reader.read_next_batch()
    return batch if code == _BATCH else batch.column(0)
