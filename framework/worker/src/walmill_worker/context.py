"""The context of a run in a worker: every call that needs the engine asks it over the worker's socket."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pyarrow as pa
from attrs import define, field

from walmill_hookspecs import Line, QueryError, Run, TriggerInfo, WriteError
from walmill_hookspecs.context import LoggerAdapter, WriteData
from walmill_worker.calling import call_back, call_back_async, taken
from walmill_worker.capture import PluginLogger, Voice
from walmill_worker.given import listed, names_of, pack_given
from walmill_worker.values import decode, encode


class Way(Protocol):
    """What a context needs of its process."""

    def ask(self, what: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """Asks the engine and waits here; what it answers, or raises."""

    async def ask_async(self, what: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """The same on the loop."""

    def look(self) -> None:
        """Takes what the engine has sent meanwhile."""


@define(kw_only=True, eq=False)
class RunHere:
    """A run in this process.

    Attributes:
        engine: The way to the engine.
        database: Name of the trigger's database.
        info: What the plugin sees of the trigger.
        run: What it sees of the run.
        settings: Its typed arguments.
        now: Time of the run, ns.
        voice: Where its lines go.
        cancelled: Why it is to end.
        stopping: Whether it should end soon.
        lasting: Whether it goes on for ever, so that its time is that of the moment.
        callbacks: What is to be called after the commit.
        ended: Whether the engine takes nothing more of it.
    """

    engine: Way
    database: str
    info: TriggerInfo
    run: Run
    settings: Any
    now: int
    voice: Voice
    cancelled: str | None = None
    stopping: bool = False
    lasting: bool = False
    callbacks: list[Callable[[], Any]] = field(factory=list)
    ended: bool = False


class _Cache:
    def __init__(self, run: RunHere, *, shared: bool) -> None:
        self._run = run
        self._of_database = shared

    def _ask(self, what: str, **arguments: Any) -> Any:
        return _of(self._run).ask(what, {"shared": self._of_database, **arguments})

    def get(self, key: str, default: Any = None) -> Any:
        """See `walmill_hookspecs.Cache.get`."""
        value = self._ask("cache.get", key=key)
        return default if value is None else decode(value)

    def put(self, key: str, value: Any, *, ttl: float | timedelta | None = None) -> None:
        """See `walmill_hookspecs.Cache.put`."""
        seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else None if ttl is None else float(ttl)
        self._ask("cache.put", key=key, value=encode(value), ttl=seconds)

    def delete(self, key: str) -> bool:
        """See `walmill_hookspecs.Cache.delete`."""
        return bool(self._ask("cache.delete", key=key))

    def incr(self, key: str, by: int = 1) -> int:
        """See `walmill_hookspecs.Cache.incr`."""
        # as bytes of the state, because integers there have no bound
        return int(decode(self._ask("cache.incr", key=key, by=encode(by))))

    def keys(self, prefix: str = "") -> list[str]:
        """See `walmill_hookspecs.Cache.keys`."""
        return list(self._ask("cache.keys", prefix=prefix))

    @property
    def shared(self) -> _Cache:
        """See `walmill_hookspecs.Cache.shared`."""
        return _Cache(self._run, shared=True)


def _of(run: RunHere) -> Way:
    if run.ended:
        raise WriteError("the run has ended; its context cannot be used any more")
    return run.engine


class RunLike(Protocol):
    """What every kind of context knows of its run; see `RunHere`."""

    database: str
    info: TriggerInfo
    run: Run
    settings: Any
    now: int
    voice: Voice
    callbacks: list[Callable[[], Any]]


class ContextBase:
    """What contexts have in common, in whichever process the hook runs.

    Args:
        state: The run.
    """

    def __init__(self, state: RunLike) -> None:
        self._common = state
        self._log: LoggerAdapter | None = None

    @property
    def database(self) -> str:
        return self._common.database

    @property
    def trigger(self) -> TriggerInfo:
        return self._common.info

    @property
    def settings(self) -> Any:
        return self._common.settings

    @property
    def log(self) -> LoggerAdapter:
        if self._log is None:
            run = self._common
            logger = PluginLogger(f"walmill.plugin.{run.database}.{run.info.name}", run.voice)
            self._log = logging.LoggerAdapter(logger, {"run": run.run.id})
        return self._log

    @property
    def run(self) -> Run:
        return self._common.run

    def now(self) -> datetime:
        return to_datetime(self._common.now)

    def on_commit(self, callback: Callable[[], Any]) -> None:
        if not callable(callback):
            raise TypeError(f"on_commit got {callback!r}; give a function without arguments")
        self._common.callbacks.append(callback)


def to_datetime(instant: int) -> datetime:
    """An instant in ns as an aware datetime, UTC, whole microseconds."""
    return datetime.fromtimestamp(instant // 1_000_000_000, UTC) + timedelta(
        microseconds=instant % 1_000_000_000 // 1_000
    )


class _Base(ContextBase):
    def __init__(self, run: RunHere) -> None:
        super().__init__(run)
        self._run = run

    def now(self) -> datetime:
        return to_datetime(time.time_ns()) if self._run.lasting else super().now()

    @property
    def stopping(self) -> bool:
        run = self._run
        if not run.ended:
            run.engine.look()
        return run.stopping or run.cancelled is not None

    @property
    def cache(self) -> _Cache:
        return _Cache(self._run, shared=False)

    def write(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> None:
        arguments, descriptors = _given(data, table, tags, database)
        _closing(descriptors, lambda: _of(self._run).ask("write", arguments, descriptors))


class WorkerContext(_Base):
    """What a plain `def` hook gets; its methods block its own thread."""

    def query(self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None) -> pa.Table:
        return _table(_of(self._run).ask("query", _asked(sql, params, database)))

    def stream(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> pa.RecordBatchReader:
        number, schema = _of(self._run).ask("stream", _asked(sql, params, database))

        def batches() -> Any:
            try:
                while (batch := _of(self._run).ask("batch", {"stream": number})) is not None:
                    yield from _table(batch).to_batches()
            finally:
                if not self._run.ended:
                    self._run.engine.ask("close", {"stream": number})

        return pa.RecordBatchReader.from_batches(pa.ipc.read_schema(pa.py_buffer(schema)), batches())

    def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return _table(_of(self._run).ask("cached", _cached("last", table, (), cache, keys, database)))

    def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return _table(_of(self._run).ask("cached", _cached("distinct", table, columns, cache, keys, database)))

    def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        arguments, descriptors = _given(data, table, tags, database)
        return int(_closing(descriptors, lambda: _of(self._run).ask("write_now", arguments, descriptors)))

    def checkpoint(self, through: int | None = None) -> None:
        run = self._run
        callbacks = taken(run.callbacks)
        try:
            _of(run).ask("checkpoint", {"through": through})
        except BaseException:
            run.callbacks[:0] = callbacks
            raise
        run.voice.renew()
        if not run.run.dry_run:
            call_back(callbacks, run.voice.callback_failed)


class WorkerAsyncContext(_Base):
    """What an `async def` hook gets."""

    async def query(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> pa.Table:
        return _table(await _of(self._run).ask_async("query", _asked(sql, params, database)))

    async def stream(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> AsyncIterator[pa.RecordBatch]:
        number, _ = await _of(self._run).ask_async("stream", _asked(sql, params, database))
        try:
            while (batch := await _of(self._run).ask_async("batch", {"stream": number})) is not None:
                for one in _table(batch).to_batches():
                    yield one
        finally:
            if not self._run.ended:
                self._run.engine.ask("close", {"stream": number})

    async def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return _table(await _of(self._run).ask_async("cached", _cached("last", table, (), cache, keys, database)))

    async def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        asked = _cached("distinct", table, columns, cache, keys, database)
        return _table(await _of(self._run).ask_async("cached", asked))

    async def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        arguments, descriptors = _given(data, table, tags, database)
        try:
            return int(await _of(self._run).ask_async("write_now", arguments, descriptors))
        finally:
            _closing(descriptors, lambda: None)

    async def checkpoint(self, through: int | None = None) -> None:
        run = self._run
        callbacks = taken(run.callbacks)
        try:
            await _of(run).ask_async("checkpoint", {"through": through})
        except BaseException:
            run.callbacks[:0] = callbacks
            raise
        run.voice.renew()
        if not run.run.dry_run:
            await call_back_async(callbacks, run.voice.callback_failed)


def _closing(descriptors: Sequence[int], act: Callable[[], Any]) -> Any:
    from walmill_worker.wire import close_all

    try:
        return act()
    finally:
        close_all(descriptors)


def _table(stream: Any) -> pa.Table:
    return pa.ipc.open_stream(stream if isinstance(stream, pa.Buffer) else pa.py_buffer(stream)).read_all()


def _cached(
    kind: str,
    table: str,
    columns: Sequence[str],
    cache: str | None,
    keys: Mapping[str, Any] | None,
    database: str | None,
) -> dict[str, Any]:
    """What is asked of a cache of values."""
    return {
        "kind": kind,
        "table": table,
        "columns": list(columns),
        "cache": cache,
        "keys": None if keys is None else pack_given(dict(keys)),
        "database": database,
    }


def _asked(sql: str, params: Mapping[str, Any] | None, database: str | None) -> dict[str, Any]:
    if not isinstance(sql, str):
        raise QueryError(f"ctx.query got {sql!r:.60}; give SQL as text")
    return {"sql": sql, "params": None if params is None else pack_given(dict(params)), "database": database}


def _given(
    data: WriteData, table: str | None, tags: Sequence[str] | None, database: str | None
) -> tuple[dict[str, Any], list[int]]:
    """What was given to a write, in a form that crosses; the descriptors are the caller's to close."""
    from walmill_worker.wire import table_file

    arguments: dict[str, Any] = {"table": table, "tags": names_of(tags), "database": database}
    if isinstance(data, str):
        return {**arguments, "text": data.encode("utf-8", "surrogatepass")}, []
    if isinstance(data, Line):
        data = [data]
    if hasattr(data, "__arrow_c_stream__"):
        rows = pa.table(data)
        return arguments, [table_file(rows.schema, rows.to_batches())]
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise WriteError(not_writable(data))
    return {**arguments, "items": pack_given(listed(data))}, []


def not_writable(data: object) -> str:
    """Why something of a kind that nobody takes cannot be written."""
    kind = type(data).__name__
    return f"ctx.write got a {kind}; give line protocol, a Line, an iterable of Lines or of mappings, or Arrow data"
