"""What a run in a worker asks of the engine, done here with the same context that a hook in this process has.

Nothing that a worker sends is trusted: names and forms are checked, Arrow data are checked down to the last offset, and what is
wrong becomes the error of that call.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import pyarrow as pa

from walmill.context.local import CachedValues, LocalAsyncContext, RunState
from walmill.context.state import RunCache
from walmill.errors import InvalidRequest
from walmill.ingest.errors import RowError
from walmill.ingest.ipc import read_stream
from walmill.isolation.arriving import Arriving
from walmill_hookspecs import QueryError, WriteError
from walmill_worker.given import unpack_given
from walmill_worker.values import decode, encode
from walmill_worker.wire import map_file, table_file

WAITING = ("write_now", "checkpoint", "body")
"""Calls that wait for a commit or a caller: `later`; others go to a thread."""
LOOP_BYTES = 8 * 1024
"""What a call gives is converted on the loop up to this size, and by a thread beyond it."""
INLINE_BYTES = 32 * 1024
"""An answer up to this size travels in its message, a larger one in a memory file."""
ARROW_BYTES = 2**30
STREAMS = 64
"""So many streams a run may have open."""

Answer = tuple[Any, int | None]


class Calls:
    """The calls of one run.

    Args:
        state: The run.
        body: The body of its request, if that still comes.
    """

    def __init__(self, state: RunState, body: Arriving | None = None) -> None:
        self.state = state
        self._body = body
        self._context = LocalAsyncContext(state)
        self._streams: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        self._converting = threading.Lock()

    def at_once(self, what: str, given: Mapping[str, Any], descriptors: list[int]) -> Answer | None:
        """Does what takes no time here and now; None if it takes time.

        Raises:
            BaseException: What the call raises where the plugin called it.
        """
        match what:
            case "cache.get":
                value = self._cache(given).get_encoded(given["key"])
                return value, None
            case "cache.put":
                _check_value(given["value"])
                self._cache(given).put_encoded(given["key"], given["value"], ttl=given["ttl"])
                return None, None
            case "cache.delete":
                return self._cache(given).delete(given["key"]), None
            case "cache.incr":
                return encode(self._cache(given).incr(given["key"], decode(given["by"]))), None
            case "cache.keys":
                return self._cache(given).keys(given["prefix"]), None
            case "close":
                stream = self._streams.pop(given["stream"], None)
                if stream is not None:
                    stream.close()
                return None, None
            case "write" if not descriptors and _size(given) <= LOOP_BYTES and not self._converting.locked():
                self._context.write(_data(given, descriptors), **_where(given))
                return None, None
        return None

    def in_thread(self, what: str, given: Mapping[str, Any], descriptors: list[int]) -> Answer:
        """Does in a thread what takes time and waits for no commit."""
        match what:
            case "write":
                with self._converting:
                    self._context.write(_data(given, descriptors), **_where(given))
                return None, None
            case "query":
                return self._query(given)
            case "cached":
                return self._cached(given)
            case "stream":
                return self._stream(given)
            case "batch":
                stream = self._streams.get(given["stream"])
                if stream is None:
                    raise QueryError("the stream is closed")
                return self._batch(stream)
        raise ValueError(f"there is no call {what!r:.40}")

    async def later(self, what: str, given: Mapping[str, Any], descriptors: list[int]) -> Answer:
        """Does what waits for a commit, or for the caller of a request."""
        if what == "body":
            if self._body is None:
                raise ValueError("the run has no body that still comes")
            return await self._body.next(), None
        if what == "checkpoint":
            await self._context.checkpoint(given["through"])
            return None, None
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self.state.host.pool, _data, given, descriptors)
        return await self._context.write_now(data, **_where(given)), None

    def close(self) -> None:
        """Closes the streams that the run has left open."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def _cache(self, given: Mapping[str, Any]) -> RunCache:
        self.state.check()
        return self.state.cache.shared if given["shared"] else self.state.cache

    def _query(self, given: Mapping[str, Any]) -> Answer:
        table = self._context.query_here(given["sql"], _params(given), given["database"])
        return _told(table.schema, table.to_batches())

    def _cached(self, given: Mapping[str, Any]) -> Answer:
        kind = given["kind"]
        if kind not in ("last", "distinct"):
            raise ValueError(f"there is no cache of {kind!r:.40} values")
        keys = {} if given["keys"] is None else unpack_given(given["keys"])
        asked = CachedValues(kind, given["table"], tuple(given["columns"]), given["cache"], keys)
        table = self._context.cached_here(asked, given["database"])
        return _told(table.schema, table.to_batches())

    def _stream(self, given: Mapping[str, Any]) -> Answer:
        if len(self._streams) >= STREAMS:
            raise QueryError(f"a run may have {STREAMS} streams open at a time; read them to their end, or close them")
        stream = self._context.stream_here(given["sql"], _params(given), given["database"])
        number = next(self._numbers)
        self._streams[number] = stream
        return [number, stream.schema.serialize().to_pybytes()], None

    def _batch(self, stream: Any) -> Answer:
        batch = self._context.next_batch(stream)
        return (None, None) if batch is None else _told(batch.schema, [batch])


def _told(schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> Answer:
    if sum(batch.nbytes for batch in batches) > INLINE_BYTES:
        return None, table_file(schema, batches)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes(), None


def _params(given: Mapping[str, Any]) -> Any:
    return None if given["params"] is None else unpack_given(given["params"])


def _check_value(data: Any) -> None:
    if not isinstance(data, bytes):
        raise TypeError("a value of the state did not come as bytes")
    try:
        msgpack.unpackb(data, ext_hook=lambda code, part: None, strict_map_key=False)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with bytes of a stranger
        raise ValueError(f"a value of the state cannot be read: {type(error).__name__}") from None


def _where(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"table": given["table"], "tags": given["tags"], "database": given["database"]}


def _size(given: Mapping[str, Any]) -> int:
    return len(given.get("text") or given.get("items") or b"")


def _data(given: Mapping[str, Any], descriptors: list[int]) -> Any:
    """What was given to a write."""
    if descriptors:
        try:
            return read_stream(map_file(descriptors.pop(0)), max_bytes=ARROW_BYTES)
        except RowError as error:
            raise WriteError(error.message, row=error.row, column=error.column) from None
        except InvalidRequest as error:
            raise WriteError(f"the Arrow data cannot be read: {error.message}") from None
    if "text" in given:
        text: str = given["text"].decode("utf-8", "surrogatepass")
        return text
    items = unpack_given(given["items"])
    if not isinstance(items, list):
        raise ValueError("rows came in another form")
    return items
