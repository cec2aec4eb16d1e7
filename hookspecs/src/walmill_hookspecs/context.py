"""The one object through which a hook acts: promises only, no code.

A plain `def` hook gets a `Context`; an `async def` hook gets an `AsyncContext`, whose methods that wait are coroutines.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from walmill_hookspecs.types import Line, Run, TriggerInfo

if TYPE_CHECKING:
    import pyarrow as pa

    LoggerAdapter: TypeAlias = logging.LoggerAdapter[logging.Logger]
else:
    LoggerAdapter = logging.LoggerAdapter

S_co = TypeVar("S_co", covariant=True)


class ArrowStream(Protocol):
    """Anything with the Arrow C stream interface: tables and batches of pyarrow, pandas, polars, DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The stream as a capsule."""


WriteData: TypeAlias = str | Line | Iterable[Line] | Iterable[Mapping[str, Any]] | ArrowStream


class Cache(Protocol):
    """The durable state of a trigger, between runs, restarts and crashes; by value, never by reference.

    Values are plain types (None, bool, int, float, str, bytes, list, tuple, dict, set, datetime, timedelta), Arrow tables,
    batches and arrays, and numpy arrays. `get` returns a copy: only `put`, `delete` and `incr` change what is stored.
    Changes become durable with the run's commit, together with its rows and its cursor, and not at all if the run fails.
    A run sees its own changes. Nothing is ever evicted silently.
    """

    def get(self, key: str, default: Any = None) -> Any:
        """A copy of the value, or `default` if there is none or its time to live has passed."""

    def put(self, key: str, value: Any, *, ttl: float | timedelta | None = None) -> None:
        """Stores a value.

        Args:
            key: 1 to 1,024 bytes.
            value: See the class.
            ttl: Seconds or timedelta after which it is gone; None keeps it for ever.

        Raises:
            TypeError: For a value of another type ("keep it on self").
            LimitExceeded: If the state would pass its limit of bytes.
        """

    def delete(self, key: str) -> bool:
        """Removes a key; says whether it was there."""

    def incr(self, key: str, by: int = 1) -> int:
        """Adds to a counter (0 if it was not there) and returns it; concurrent runs' additions merge.

        Raises:
            TypeError: If the key holds something other than an int.
        """

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, sorted."""

    @property
    def shared(self) -> Cache:
        """The namespace that all triggers of the database share."""


class BaseContext(Protocol[S_co]):
    """What both kinds of context have."""

    @property
    def database(self) -> str:
        """Name of the trigger's database."""

    @property
    def trigger(self) -> TriggerInfo:
        """The trigger for which the hook is called."""

    @property
    def settings(self) -> S_co:
        """The arguments of the trigger: an instance of the class that `register_settings` returned, else a dict."""

    @property
    def log(self) -> LoggerAdapter:
        """A logger; records appear with the run's id in the server's log and in `_internal.logs` while the run goes on."""

    @property
    def run(self) -> Run:
        """The run."""

    @property
    def stopping(self) -> bool:
        """True once the run should end soon: shutdown, its time is up, or the caller went away."""

    @property
    def cache(self) -> Cache:
        """The durable state of the trigger."""

    def now(self) -> datetime:
        """The time of the run, aware, UTC; the same at every call within a run, but for `on_service`: there it is now."""

    def write(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> None:
        """Adds rows to the run's commit. They become durable and visible when the hook has returned, all or none.

        Args:
            data: Line protocol with ns times (str), a `Line`, several of them, an iterable of mappings, or Arrow data.
            table: The table, for mappings and Arrow data; forbidden for line protocol and `Line`.
            tags: Which columns are tags, needed for a new table; columns that are tags in the table stay tags.
            database: Another database; the trigger needs a grant for it.

        Raises:
            WriteError: At once, for syntax, names and types that do not fit the schema; nothing of this call is kept.
            LimitExceeded: If the run would write more rows than its limit.
        """

    def on_commit(self, callback: Callable[[], Any]) -> None:
        """Has `callback` called once what the run has done so far is durable: by `checkpoint`, or by the run's commit.

        It is called at most once, and not at all after a crash; an error in it is logged and changes nothing.
        """


class Context(BaseContext[S_co], Protocol[S_co]):
    """What a plain `def` hook gets. Its methods may block; they are called from the run's own thread."""

    def query(self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None) -> pa.Table:
        """Runs SQL. All queries of a run see one view: at or after its batch, never its own uncommitted writes.

        Args:
            sql: One statement that reads.
            params: Values for `$name`, bound as typed values.
            database: Another database; the trigger needs a grant for it.

        Raises:
            TableNotFound: With the names of tables spelled alike.
            QueryError: For everything else that the planner or the execution refuses.
        """

    def stream(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> pa.RecordBatchReader:
        """Like `query`, batch by batch, for results that should not be in memory as a whole."""

    def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        """The newest rows of each key of a table, from its cache of last values: without SQL, and without a look at the table.

        What was written after the run's view may be in it.

        Args:
            table: Name of the table.
            cache: Name of the cache; None takes the oldest one of the table.
            keys: Only rows with these values, by column.
            database: Another database; the trigger needs a grant for it.

        Raises:
            QueryError: If there is no such cache or column; `walmill create last_cache` makes one.
        """

    def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        """The combinations of values that a table has, from its cache of distinct values.

        Args:
            table: Name of the table.
            *columns: Only these columns, each combination once; none for all of the cache.
            cache: As in `last_values`.
            keys: As in `last_values`.
            database: As in `last_values`.

        Raises:
            QueryError: If there is no such cache or column; `walmill create distinct_cache` makes one.
        """

    def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        """Writes rows in a commit of their own and waits until it is durable.

        It stays when the run fails, and comes again when the run is repeated: explicit times make that harmless.

        Returns:
            The sequence of the commit.
        """

    def checkpoint(self, through: int | None = None) -> None:
        """Commits what the run has written and changed so far, waits until that is durable, and calls what `on_commit` was given.

        Args:
            through: Sequence up to which the batch is done, which moves the cursor (`on_write` only); None leaves it where it is.

        Raises:
            WriteError: If it could not be committed; nothing of it was, and the run should end.
        """


class AsyncContext(BaseContext[S_co], Protocol[S_co]):
    """What an `async def` hook gets: as `Context`, with coroutines where it waits."""

    async def query(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> pa.Table:
        """See `Context.query`."""

    def stream(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> AsyncIterator[pa.RecordBatch]:
        """See `Context.stream`."""

    async def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        """See `Context.last_values`."""

    async def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        """See `Context.distinct_values`."""

    async def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        """See `Context.write_now`."""

    async def checkpoint(self, through: int | None = None) -> None:
        """See `Context.checkpoint`."""
