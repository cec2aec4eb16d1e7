"""The context of a run that happens in this process: `Context` for plain hooks, `AsyncContext` for async ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, evolve, field, frozen

from walmill.cache.state import Wish, database_space, trigger_space
from walmill.context.effects import Effects
from walmill.context.state import RunCache
from walmill.errors import WalmillError
from walmill.ingest.assemble import TableRows
from walmill.model.catalog import INTERNAL
from walmill.model.schema import TableSchema
from walmill.model.trigger import Trigger
from walmill.model.valuecache import Kind
from walmill.store.commit import Source
from walmill.store.draft import Draft
from walmill.store.submission import RowsWrite, RunEffect, Stale, Submission, Ticket, check_generation
from walmill.store.view import View
from walmill_hookspecs import QueryError, Run, RunCancelled, TableNotFound, TriggerInfo, WriteError
from walmill_hookspecs.context import WriteData
from walmill_worker.calling import call_back, call_back_async, taken
from walmill_worker.capture import Voice
from walmill_worker.context import ContextBase, to_datetime

if TYPE_CHECKING:
    import pyarrow as pa

    from walmill.query.results import ResultStream


class RunHost(Protocol):
    """What a run needs of the engine."""

    @property
    def pool(self) -> Executor:
        """Threads for what an async hook waits for."""

    def view(self) -> View:
        """The newest view."""

    def submit(self, submission: Submission, ticket: Ticket | None = None) -> Ticket:
        """Queues a submission."""

    def query(self, view: View, database: str, sql: str, params: Mapping[str, Any] | None) -> pa.Table:
        """Runs SQL on a view."""

    def stream(self, view: View, database: str, sql: str, params: Mapping[str, Any] | None) -> ResultStream:
        """Runs SQL on a view, batch by batch."""

    def cached(self, view: View, database: str, asked: CachedValues) -> pa.Table:
        """What a cache of values has."""

    def now_ns(self) -> int:
        """Wall-clock time, ns."""


@frozen
class CachedValues:
    """What is asked of a cache of values.

    Attributes:
        kind: `last` or `distinct`.
        table: Name of the table.
        columns: Only these columns, each combination once; none for all.
        cache: Name of the cache; None takes the oldest one of the table.
        keys: Only rows with these values.
    """

    kind: Kind
    table: str
    columns: tuple[str, ...] = ()
    cache: str | None = None
    keys: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Limits:
    """What a run may use. Time, memory and processor can only be held to by an executor that runs hooks in other processes.

    Attributes:
        rows: Rows that it may write.
        state_bytes: Bytes that a space of its state may take.
        log_lines: Lines that it may say.
        seconds: How long it may take; None for ever.
        memory: Bytes that its process may have beyond what an empty one has, with all that it starts; None for no limit.
        cpu: Share of one processor: 0.5 for half of one, 2 for two; None for no limit.
        cpu_seconds: Processor time that it may use; None for no limit.
        answer_bytes: Bytes that the answer to a request may have, or a piece of it.
    """

    rows: int = 1_000_000
    state_bytes: int = 16 * 2**20
    log_lines: int = 10_000
    seconds: float | None = 60.0
    memory: int | None = 512 * 2**20
    cpu: float | None = 1.0
    cpu_seconds: float | None = None
    answer_bytes: int = 64 * 2**20

    def of_hook(self, hook: str) -> Limits:
        """What the run of a hook may use: one that goes on for ever is not held to any time."""
        return evolve(self, seconds=None, cpu_seconds=None) if hook == "on_service" else self

    def with_named(self, named: Mapping[str, Any]) -> Limits:
        """These limits with others in their place.

        Args:
            named: By the names of `walmill.settings.limits.LIMITS`.
        """
        changes = {_NAMES[name]: value for name, value in named.items() if name in _NAMES}
        for name in ("seconds", "cpu_seconds"):
            if changes.get(name) is not None:
                changes[name] /= 1e9
        return evolve(self, **changes)


_NAMES = {
    "timeout": "seconds",
    "memory": "memory",
    "cpu": "cpu",
    "cpu_time": "cpu_seconds",
    "rows": "rows",
    "log_lines": "log_lines",
    "answer_size": "answer_bytes",
}


@define(kw_only=True, eq=False)
class RunState:
    """Everything about one run in this process.

    Attributes:
        host: The engine.
        trigger: The trigger.
        database: Name of its database.
        info: What the plugin sees of the trigger.
        run: What the plugin sees of the run.
        settings: Its typed arguments.
        source: The kind of run.
        now: Time of the run, ns.
        view: The view on which it runs.
        voice: Where its lines go.
        limits: What it may use.
        consumed: The range of sequences that it was given (`on_write`); shrinks with each checkpoint.
        chain: The chain of what it was given.
        cancelled: Why it is to end; None while it may go on.
        stopping: Whether it should end soon.
        closed: Whether the hook has returned: what it would write from now on joins no commit any more.
        stale: Why nothing of it counts any more, as a checkpoint was told: its trigger was changed; None if nobody said so.
    """

    host: RunHost
    trigger: Trigger
    database: str
    info: TriggerInfo
    run: Run
    settings: Any
    source: Source
    now: int
    view: View
    voice: Voice
    limits: Limits = field(factory=Limits)
    consumed: tuple[int, int] | None = None
    chain: tuple[int, ...] = ()
    cancelled: str | None = None
    stopping: bool = False
    closed: bool = False
    stale: str | None = None
    committed_rows: int = 0
    callbacks: list[Callable[[], Any]] = field(factory=list)
    _effects: Effects | None = field(init=False, default=None)
    _cache: RunCache | None = field(init=False, default=None)

    @property
    def effects(self) -> Effects:
        """What the run has written so far. Made when it is first needed: most runs of most triggers write nothing."""
        if self._effects is None:
            self._effects = Effects(self.schema_of, start=self.now, max_rows=self.limits.rows)
        return self._effects

    @property
    def cache(self) -> RunCache:
        """The trigger's state as this run sees it."""
        if self._cache is None:
            space = self.view.state.space(trigger_space(self.trigger.id))
            self._cache = RunCache(space, now=self.now, limit=self.limits.state_bytes, shared=self._shared_cache)
            if self.closed:
                self._cache.close()
        return self._cache

    def close(self) -> None:
        """The hook has returned: nothing joins the run's commit any more, and whoever tries is told."""
        self.closed = True
        if self._cache is not None:
            self._cache.close()

    def take_rows(self) -> list[tuple[str, TableRows]]:
        """The rows written so far; they are forgotten here."""
        return [] if self._effects is None else self._effects.take()

    def _shared_cache(self) -> RunCache:
        space = self.view.state.space(database_space(self.trigger.database_id))
        return RunCache(space, now=self.now, limit=self.limits.state_bytes)

    @property
    def lasting(self) -> bool:
        """Whether it goes on for ever, so that its time and what it reads are those of the moment."""
        return self.source == "service"

    def time(self) -> int:
        """The time of the run, ns."""
        return self.host.now_ns() if self.lasting else self.now

    def reading(self) -> View:
        """The view that its next query reads."""
        if self.lasting:
            self.view = self.host.view()
        return self.view

    def schema_of(self, database: str, table: str) -> TableSchema | None:
        """The schema of a table in the run's view."""
        catalog = self.view.catalog
        found = catalog.find_table(catalog.find_database(database), table)
        return None if found is None else found.schema

    def check(self) -> None:
        """Ends the run here if it is to end.

        Raises:
            RunCancelled: Saying why.
        """
        if self.cancelled is not None:
            raise RunCancelled(self.cancelled)

    def allowed(self, database: str | None) -> str | None:
        """The database that a call means, or None if the trigger has no grant for it."""
        if database is None or database == self.database:
            return self.database
        if database in self.trigger.grants or ("*" in self.trigger.grants and database != INTERNAL):
            return database
        return None

    def wishes(self) -> dict[str, Sequence[Wish]]:
        """What the run wants changed in the state, by space."""
        found: dict[str, Sequence[Wish]] = {}
        if self._cache is None:
            return found
        own = self._cache.wishes()
        if own:
            found[trigger_space(self.trigger.id)] = own
        shared = self._cache.shared_or_none
        if shared is not None and shared.wishes():
            found[database_space(self.trigger.database_id)] = shared.wishes()
        return found

    def rebase(self, view: View, rows: int, wishes: Mapping[str, Sequence[Wish]]) -> None:
        """Goes on upon a view in which what a checkpoint took is committed. What came meanwhile stays for the next commit.

        Args:
            view: The view.
            rows: So many batches of rows were committed.
            wishes: The wishes that were, by space.
        """
        self.view = view
        if self._effects is not None:
            self._effects.settled(rows)
        if self._cache is None:
            return
        now = self.time()
        for cache, name in (
            (self._cache, trigger_space(self.trigger.id)),
            (self._cache.shared_or_none, database_space(self.trigger.database_id)),
        ):
            if cache is not None:
                cache.rebase(view.state.space(name), now, wishes.get(name, ()))


class _Base(ContextBase):
    def __init__(self, state: RunState) -> None:
        super().__init__(state)
        self._state = state

    def now(self) -> datetime:
        return to_datetime(self._state.time())

    @property
    def stopping(self) -> bool:
        return self._state.stopping or self._state.cancelled is not None

    @property
    def cache(self) -> RunCache:
        self._state.check()
        return self._state.cache

    def write(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> None:
        state = self._state
        state.check()
        if state.closed:
            raise WriteError("the hook has returned and its commit is made; only ctx.write_now can write now")
        name = self._writable(database)
        state.effects.add(name, state.effects.convert(name, data, table, tags, not_before=state.time()))

    def _writable(self, database: str | None) -> str:
        name = self._state.allowed(database)
        if name is None or name == INTERNAL:
            raise WriteError(
                f"the trigger {self._state.trigger.name!r} may not write to the database {database!r}; grant it with "
                f"`walmill create trigger --grant {database}`"
                if name is None
                else f"the database {INTERNAL!r} is written by the engine only"
            )
        return name

    def _readable(self, database: str | None) -> str:
        name = self._state.allowed(database)
        if name is None:
            raise QueryError(
                f"the trigger {self._state.trigger.name!r} may not read the database {database!r}; grant it with "
                f"`walmill create trigger --grant {database}`"
            )
        return name

    def cached_here(self, asked: CachedValues, database: str | None) -> pa.Table:
        """What a cache of values has, in this thread."""
        self._state.check()
        name = self._readable(database)
        try:
            return self._state.host.cached(self._state.reading(), name, asked)
        except WalmillError as error:
            raise QueryError(error.message) from None

    def _rows_write(
        self, data: WriteData, table: str | None, tags: Sequence[str] | None, database: str | None
    ) -> RowsWrite:
        state = self._state
        state.check()
        name = self._writable(database)
        found = state.effects.convert(name, data, table, tags, not_before=state.time())
        for rows in found:
            state.effects.remember(name, rows)
        state.committed_rows += sum(rows.batch.num_rows for rows in found)
        return RowsWrite(
            [(name, rows) for rows in found],
            source=state.source,
            origin=state.trigger.id,
            chain=(*state.chain, state.trigger.id),
            run=state.run.id,
            guard=self._guard,
        )

    def _guard(self, draft: Draft) -> None:
        check_generation(draft, self._state.trigger.id, self._state.trigger.generation)

    def _checkpoint(self, through: int | None) -> RunEffect:
        state = self._state
        state.check()
        if state.closed:
            raise WriteError(
                "the hook has returned and its commit is made; there is nothing for ctx.checkpoint to commit"
            )
        consumed = None
        if through is not None:
            if state.consumed is None:
                raise ValueError("ctx.checkpoint(through=…) is for on_write; elsewhere leave `through` out")
            first, last = state.consumed
            if not first <= through <= last:
                raise ValueError(f"ctx.checkpoint(through={through}); this batch still goes from {first} to {last}")
            consumed = (first, through)
        rows = list(state.effects.rows)
        return RunEffect(
            trigger=state.trigger.id,
            generation=state.trigger.generation,
            consumed=consumed,
            through=0,
            rows=rows,
            wishes=state.wishes(),
            source=state.source,
            chain=state.chain,
            run=state.run.id,
        )

    def _checkpointed(self, through: int | None, effect: RunEffect, view: View) -> None:
        state = self._state
        state.committed_rows += sum(one.batch.num_rows for _, one in effect.rows)
        if through is not None and state.consumed is not None:
            state.consumed = (through + 1, state.consumed[1])
        state.rebase(view, len(effect.rows), effect.wishes)
        state.voice.renew()


class LocalContext(_Base):
    """What a plain `def` hook gets; its methods block its own thread."""

    def query(self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None) -> pa.Table:
        self._state.check()
        return _query(self._state.host.query, self._state.reading(), self._readable(database), sql, params)

    def stream(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> pa.RecordBatchReader:
        self._state.check()
        stream = _query(self._state.host.stream, self._state.reading(), self._readable(database), sql, params)
        reader: pa.RecordBatchReader = stream.to_reader()
        return reader

    def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return self.cached_here(CachedValues("last", table, (), cache, keys or {}), database)

    def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return self.cached_here(CachedValues("distinct", table, columns, cache, keys or {}), database)

    def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        submission = self._rows_write(data, table, tags, database)
        outcome = _written(self._state.host.submit(submission).result)
        return outcome.sequence or self._state.view.sequence

    def checkpoint(self, through: int | None = None) -> None:
        state = self._state
        effect = self._checkpoint(through)
        callbacks = taken(state.callbacks)
        try:
            state.host.submit(effect).result()
        except BaseException as error:
            _not_committed(state, callbacks, error)
            raise
        self._checkpointed(through, effect, state.host.view())
        if not state.run.dry_run:
            call_back(callbacks, state.voice.callback_failed)


class LocalAsyncContext(_Base):
    """What an `async def` hook gets."""

    def query_here(self, sql: str, params: Mapping[str, Any] | None, database: str | None) -> pa.Table:
        """Runs SQL in this thread."""
        self._state.check()
        return _query(self._state.host.query, self._state.reading(), self._readable(database), sql, params)

    def stream_here(self, sql: str, params: Mapping[str, Any] | None, database: str | None) -> ResultStream:
        """Runs SQL in this thread, batch by batch; close it."""
        self._state.check()
        ask = self._state.host.stream
        found: ResultStream = _query(ask, self._state.reading(), self._readable(database), sql, params)
        return found

    def next_batch(self, stream: ResultStream) -> pa.RecordBatch | None:
        """The next batch, in this thread; None at the end."""
        self._state.check()
        return _next_batch(stream)

    async def query(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> pa.Table:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._state.host.pool, self.query_here, sql, params, database)

    async def stream(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> AsyncIterator[pa.RecordBatch]:
        pool = self._state.host.pool
        loop = asyncio.get_running_loop()
        reader = await loop.run_in_executor(pool, self.stream_here, sql, params, database)
        try:
            while True:
                batch = await loop.run_in_executor(pool, self.next_batch, reader)
                if batch is None:
                    return
                yield batch
        finally:
            reader.close()

    async def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        asked = CachedValues("last", table, (), cache, keys or {})
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._state.host.pool, self.cached_here, asked, database)

    async def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        asked = CachedValues("distinct", table, columns, cache, keys or {})
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._state.host.pool, self.cached_here, asked, database)

    async def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        submission = self._rows_write(data, table, tags, database)
        try:
            outcome = await self._state.host.submit(submission, Ticket(asyncio.get_running_loop()))
        except WalmillError as error:
            raise WriteError(error.message) from None
        return int(outcome.sequence or self._state.view.sequence)

    async def checkpoint(self, through: int | None = None) -> None:
        state = self._state
        effect = self._checkpoint(through)
        callbacks = taken(state.callbacks)
        try:
            await state.host.submit(effect, Ticket(asyncio.get_running_loop()))
        except BaseException as error:
            _not_committed(state, callbacks, error)
            raise
        self._checkpointed(through, effect, state.host.view())
        if not state.run.dry_run:
            await call_back_async(callbacks, state.voice.callback_failed)


def _query(
    ask: Callable[[View, str, str, Mapping[str, Any] | None], Any],
    view: View,
    database: str,
    sql: str,
    params: Mapping[str, Any] | None,
) -> Any:
    try:
        return ask(view, database, sql, params)
    except WalmillError as error:
        near = getattr(error, "near", None)
        if near is not None:
            raise TableNotFound(error.message, table=getattr(error, "table", ""), near=near) from None
        raise QueryError(error.message) from None


def _not_committed(state: RunState, callbacks: list[Callable[[], Any]], error: BaseException) -> None:
    """A checkpoint was refused: what it held stays, and the hook is told in the contract's terms."""
    state.callbacks[:0] = callbacks
    if isinstance(error, Stale):
        state.stale = error.message
    if isinstance(error, WalmillError):
        raise WriteError(error.message) from None


def _written(wait: Callable[[], Any]) -> Any:
    try:
        return wait()
    except WalmillError as error:
        raise WriteError(error.message) from None


def _next_batch(stream: ResultStream) -> pa.RecordBatch | None:
    try:
        return next(stream, None)
    except WalmillError as error:
        raise QueryError(error.message) from None
