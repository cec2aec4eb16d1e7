"""The values that hooks are given and what they may return. All of them are frozen.

Importing this module imports neither pyarrow nor starlette: annotations only.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from attrs import field, frozen

if TYPE_CHECKING:
    import pyarrow as pa

FieldType: TypeAlias = Literal["int64", "uint64", "float64", "string", "bool"]
BatchKind: TypeAlias = Literal["live", "replay", "backfill"]
RunStatus: TypeAlias = Literal[
    "ok", "failed", "skipped", "retry_later", "dead_letter", "disabled", "cancelled", "refused"
]
RunSource: TypeAlias = Literal["live", "replay", "backfill", "test"]


class UInt(int):
    """An integer to be stored as uint64, as `23u` is in line protocol; plain ints are stored as int64."""

    walmill_type = "uint64"


class MultiMapping(Mapping[str, str]):
    """A mapping in which a key may come several times, as in query strings and headers.

    `m[key]` is the last value; `m.getlist(key)` gives all of them in order.

    Args:
        items: Pairs in the order in which they came, or a mapping.
        ignore_case: Whether keys are compared without case, as header names are.
    """

    __slots__ = ("_ignore_case", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] | Mapping[str, str] = (), *, ignore_case: bool = False) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        self._ignore_case = ignore_case
        self._items = tuple((self._fold(key), value) for key, value in pairs)

    def _fold(self, key: str) -> str:
        return key.lower() if self._ignore_case else key

    def __getitem__(self, key: str) -> str:
        values = self.getlist(key)
        if not values:
            raise KeyError(key)
        return values[-1]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._items))

    def __len__(self) -> int:
        return len(dict(self._items))

    def __repr__(self) -> str:
        return f"MultiMapping({list(self._items)!r})"

    def getlist(self, key: str) -> list[str]:
        """All values of a key in the order in which they came; empty if there is none."""
        wanted = self._fold(key)
        return [value for name, value in self._items if name == wanted]

    def multi_items(self) -> list[tuple[str, str]]:
        """All pairs in the order in which they came."""
        return list(self._items)


def series_key(tags: Mapping[str, str]) -> str:
    """The canonical text of a series: its present tags, sorted by name, escaped as in line protocol.

    The same series has the same key before and after other tags were added to its table.
    """

    def escape(text: str) -> str:
        return text.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")

    return ",".join(f"{escape(name)}={escape(value)}" for name, value in sorted(tags.items()))


def _rows(data: pa.Table, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    names = list(data.column_names) if columns is None else list(columns)
    for batch in data.select([name for name in names if name in data.column_names]).to_batches():
        values: dict[str, Any] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values[name] = column.view("int64").to_pylist() if name == "time" else column.to_pylist()
        nothing = [None] * batch.num_rows
        for row in zip(*(values.get(name, nothing) for name in names), strict=True):
            yield dict(zip(names, row, strict=True))


@frozen(kw_only=True)
class Series:
    """The rows of one series in a batch, in the order of the log.

    Attributes:
        key: `series_key(tags)`: a stable name for this series, good as a cache key.
        tags: The tags that have a value.
        data: The rows, with all columns of the batch.
    """

    key: str
    tags: Mapping[str, str]
    data: pa.Table = field(repr=False, eq=False)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows as dicts; see `TableBatch.rows`."""
        return _rows(self.data, columns)


@frozen(kw_only=True)
class TableBatch:
    """The rows of one table in a batch.

    Attributes:
        name: Name of the table.
        tags: Names of its tags, in the order of the table.
        fields: Types of its fields, by name.
        data: One chunk for each commit, in the order of the log, without a copy: the buffers lie in the log's mapping
            (or in the batch as it was parsed). Columns: tags as string, then fields, then `time` as
            timestamp[ns, UTC]; a column that was added after a commit is null in that commit's chunk.
        time_range: Smallest and largest `time`, ns since the epoch.
    """

    name: str
    tags: tuple[str, ...]
    fields: Mapping[str, FieldType]
    data: pa.Table = field(repr=False, eq=False)
    time_range: tuple[int, int]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self.data.num_rows)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The rows as dicts, in the order of the log. Convenient, and a hundred times slower than `data`.

        Args:
            columns: The keys that each dict has, in this order; all columns if None. A name that the table does not
                have gives None.

        Returns:
            Dicts with every asked key; None means no value; `time` is an int, ns since the epoch.
        """
        return _rows(self.data, columns)

    def by_series(self) -> Iterator[Series]:
        """The rows grouped by series, series in the order of their first row, rows in the order of the log."""
        places: dict[tuple[str | None, ...], list[int]] = {}
        if self.tags:
            columns = [self.data.column(tag).to_pylist() for tag in self.tags]
            for place, values in enumerate(zip(*columns, strict=True)):
                places.setdefault(values, []).append(place)
        elif self.num_rows:
            places[()] = list(range(self.num_rows))
        for values, rows in places.items():
            tags = {tag: value for tag, value in zip(self.tags, values, strict=True) if value is not None}
            data = self.data if len(places) == 1 else self.data.take(rows)
            yield Series(key=series_key(tags), tags=tags, data=data)


@frozen(kw_only=True)
class WriteBatch:
    """What `on_write` gets: whole commits, of one origin and chain, all of them durable.

    Attributes:
        database: Name of the database.
        first_sequence: Sequence of the first commit in this batch.
        last_sequence: Sequence of the last one. Commits between them that do not concern the trigger are left out.
        origin: `client`, or the name of the trigger whose run wrote this.
        kind: `live`, or `replay` and `backfill` when a person asked for old rows again.
        tables: The rows, by name of table. Between tables there is no order.
    """

    database: str
    first_sequence: int
    last_sequence: int
    origin: str = "client"
    kind: BatchKind = "live"
    tables: Mapping[str, TableBatch] = field(factory=dict)

    @property
    def num_rows(self) -> int:
        """Number of rows in all tables."""
        return sum(table.num_rows for table in self.tables.values())


@frozen(kw_only=True)
class Tick:
    """What `on_schedule` gets.

    Attributes:
        scheduled_for: The due time, aware, UTC.
        fired_at: When the run started, aware, UTC.
        previous: The due time of the run before this one; None for the first.
        missed: How many due times between `previous` and this one were dropped (policy `latest`).
        timezone: The zone of the schedule; UTC unless the spec names one.
        since: The due time before this one in the schedule, whether there was a run for it or not; None if there is none.
    """

    scheduled_for: datetime
    fired_at: datetime
    previous: datetime | None = None
    missed: int = 0
    timezone: tzinfo
    since: datetime | None = None

    @property
    def window(self) -> tuple[datetime, datetime]:
        """What this run stands for: from the due time of the last finished run (for the first run, from the due time before
        this one) up to, and without, this one. Windows of successive runs leave nothing out and never overlap.
        """
        return self.previous or self.since or self.scheduled_for, self.scheduled_for


@frozen(kw_only=True)
class Request:
    """What `on_request` gets.

    Attributes:
        method: `GET`, `POST`, … in capitals.
        path: The path below the engine's route, without a leading slash.
        path_params: Values of the path's parameters, converted as the route says.
        query_params: The query string; a name may come several times.
        headers: The headers, names without case; `Authorization` and cookies' owner are the server's and left out.
        client: Host and port of the caller, if known.
        identity: Name of the token or user that called; None without authentication.
        body: The whole body, decompressed; empty for a hook that names the parameter `body` and reads it as it comes.
    """

    method: str
    path: str
    path_params: Mapping[str, Any] = field(factory=dict)
    query_params: MultiMapping = field(factory=MultiMapping)
    headers: MultiMapping = field(factory=MultiMapping)
    client: tuple[str, int] | None = None
    identity: str | None = None
    body: bytes = field(default=b"", repr=False)

    def text(self) -> str:
        """The body as text.

        Raises:
            HTTPError: 400 if it is not UTF-8.
        """
        from walmill_hookspecs.errors import HTTPError

        try:
            return self.body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise HTTPError(400, f"the body is not UTF-8: byte {error.start} is wrong") from None

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            HTTPError: 400 if it is not JSON.
        """
        from walmill_hookspecs.errors import HTTPError

        try:
            return json.loads(self.text())
        except (ValueError, RecursionError) as error:  # the second: lists in lists in lists
            raise HTTPError(400, f"the body is not JSON: {error}") from None

    def stream(self, size: int = 65536) -> Iterator[bytes]:
        """The body, which is there as a whole, in pieces of at most `size` bytes; to read one that still comes, name `body`."""
        for start in range(0, len(self.body), size):
            yield self.body[start : start + size]


@frozen
class Response:
    """An answer to a request with status and headers.

    Attributes:
        content: str, bytes, dict or list (sent as JSON), None, or an iterator of str or bytes (streamed).
        status_code: HTTP status, 100 to 599.
        headers: Further headers.
        media_type: Content type; None chooses by the content.
    """

    content: Any = None
    status_code: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    media_type: str | None = None


Reply: TypeAlias = (
    Response
    | str
    | bytes
    | dict[str, Any]
    | list[Any]
    | tuple[Any, int]
    | tuple[Any, int, Mapping[str, str]]
    | Iterator[str]
    | Iterator[bytes]
    | AsyncIterator[str]
    | AsyncIterator[bytes]
    | None
)
"""What `on_request` may return: see the hook."""


@frozen
class Line:
    """One row to be written.

    Attributes:
        table: Name of the table.
        tags: Tags that have a value.
        fields: Values by name: int (int64), `UInt`, float, bool, str; None and NaN mean no value.
        time: ns since the epoch, or an aware datetime; None takes the time of the run.
    """

    table: str
    tags: Mapping[str, str] = field(factory=dict)
    fields: Mapping[str, int | float | bool | str | None] = field(factory=dict)
    time: int | datetime | None = None


@frozen(kw_only=True)
class TriggerInfo:
    """The trigger for which a hook is called.

    Attributes:
        name: Name, unique in its database.
        database: Name of the database.
        plugin: Name of the entry point.
        spec: The event that it is bound to, as text.
        arguments: The arguments as they were given; secrets are hidden.
    """

    name: str
    database: str
    plugin: str
    spec: str
    arguments: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class Run:
    """The run in which a hook is called.

    Attributes:
        id: Unique for each attempt.
        key: Equal for every attempt at the same event: an idempotency key for the world outside. After a crash of the
            engine the same rows may come again in a longer batch, never with another start.
        attempt: 1 for the first attempt.
        deadline: When the run will be stopped, aware, UTC; None without a time limit.
        dry_run: True if nothing will be committed.
        source: Why it runs.
    """

    id: str
    key: str
    attempt: int = 1
    deadline: datetime | None = None
    dry_run: bool = False
    source: RunSource = "live"


@frozen(kw_only=True)
class RunRecord:
    """What `on_run_end` gets: one finished run.

    Attributes:
        run_id: `Run.id`.
        run_key: `Run.key`.
        database: Name of the database.
        trigger: Name of the trigger.
        plugin: Name of the plugin.
        hook: Name of the hook that was called.
        status: What became of it.
        attempt: 1 for the first attempt.
        started_at: Wall-clock time at which the hook was called, aware, UTC.
        duration_ns: From the call to its return, ns.
        wait_ns: From the event (durable write, due time, arrival) to the call, ns.
        rows_in: Rows that it was given.
        rows_written: Rows that its commit holds.
        sequence: Sequence of its commit; None if it had no effect.
        error: Kind and message of the error, if any.
        plugin_version: Version of the plugin's distribution; None for an object of the application.
        plugin_hash: Hash of the plugin's content; None for an object of the application.
        first_sequence: First commit of the batch (`on_write`).
        last_sequence: Last commit of the batch (`on_write`).
        scheduled_for: The due time (`on_schedule`), aware, UTC.
        cpu_ns: Processor time that the run's process used meanwhile, ns; None where hooks share the engine's process.
        memory: Most memory that the run's process was seen to have, bytes; None if it ended before anybody looked.
        worker: Where it ran: `inline`, or number and process of the worker.
    """

    run_id: str
    run_key: str
    database: str
    trigger: str
    plugin: str
    hook: str
    status: RunStatus
    attempt: int = 1
    started_at: datetime
    duration_ns: int
    wait_ns: int = 0
    rows_in: int = 0
    rows_written: int = 0
    sequence: int | None = None
    error: str | None = None
    plugin_version: str | None = None
    plugin_hash: str | None = None
    first_sequence: int | None = None
    last_sequence: int | None = None
    scheduled_for: datetime | None = None
    cpu_ns: int | None = None
    memory: int | None = None
    worker: str = "inline"


@frozen(kw_only=True)
class SnapshotFile:
    """A Parquet file that a snapshot made. What it holds never changes.

    Attributes:
        path: Where it is: a path of this machine, or the URL of an object in a bucket.
        rows: Rows in it.
        bytes: Its size.
        time_range: Times of its earliest and its latest row, ns.
        sequences: Of the first and the last commit whose rows it holds. One that begins before what is new was joined with older
            files, and holds rows that were told before.
        late: Closed ranges of time, ns, in which a row may have the tags and time of a row in a file with lower sequences;
            outside of them none has.
    """

    path: str
    rows: int
    bytes: int
    time_range: tuple[int, int]
    sequences: tuple[int, int]
    late: tuple[tuple[int, int], ...] = ()


@frozen(kw_only=True)
class SnapshotTable:
    """A table with files that are new for a trigger.

    Attributes:
        database: Name of the database.
        name: Name of the table.
        tags: Its tags; files have them as dictionaries of strings, and are sorted by them, then by `time`.
        fields: Types of its fields, by name.
        files: The new files; there is at least one.
        time_range: Times of the earliest and the latest row in them, ns.
    """

    database: str
    name: str
    tags: tuple[str, ...]
    fields: Mapping[str, FieldType]
    files: tuple[SnapshotFile, ...]
    time_range: tuple[int, int]


@frozen(kw_only=True)
class SnapshotRecord:
    """What `on_snapshot` gets: rows of the trigger's tables up to `sequence` are in files now.

    Attributes:
        sequence: Sequence of the last commit that is in them.
        previous_sequence: Where the last run that was finished ended: later commits are new.
        tables: The tables with new files, by name; there is at least one.
    """

    sequence: int
    previous_sequence: int
    tables: tuple[SnapshotTable, ...]


Callback: TypeAlias = Callable[[], None] | Callable[[], Awaitable[None]]


@frozen(kw_only=True)
class SqlFunction:
    """A function that SQL gets, from `register_functions`.

    Attributes:
        name: What it is called in SQL: lower-case letters, digits and `_`.
        function: Takes one `pyarrow.Array` for each argument, all of the same length, and returns one `pyarrow.Array` of that
            length. Threads call it, several at a time.
        arguments: Types of the arguments, of which there is at least one; SQL converts what fits. Tags come as texts.
        returns: Type of the result.
        volatility: `immutable`: the same arguments always give the same result, so that constants are computed once; `stable`:
            within one query; `volatile`: never.
    """

    name: str
    function: Callable[..., pa.Array]
    arguments: Sequence[pa.DataType]
    returns: pa.DataType
    volatility: Literal["immutable", "stable", "volatile"] = "immutable"


@frozen(kw_only=True)
class SuggestedTrigger:
    """A trigger that a plugin suggests, from `register_triggers`; a person creates it with `walmill plugin enable`.

    Attributes:
        name: What it is called, if nothing else is said.
        spec: Its event, such as `table:cpu` or `every:5m`.
        description: What it does, one sentence.
        arguments: Arguments that differ from the settings' defaults.
        methods: HTTP methods, for requests; None for the server's default.
        max_concurrency: Runs at a time; None for the server's default.
        error_policy: `retry`, `skip` or `disable`; None for the server's default.
    """

    name: str
    spec: str
    description: str = ""
    arguments: Mapping[str, Any] = field(factory=dict)
    methods: Sequence[str] | None = None
    max_concurrency: int | None = None
    error_policy: Literal["retry", "skip", "disable"] | None = None
