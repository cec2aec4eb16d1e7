"""Fakes for unit tests of a plugin: values and a context, without an engine.

    ctx = FakeContext(settings=Thresholds(table="cpu", limit=90.0))
    on_write(write_batch({"cpu": [{"host": "a", "usage": 95.0, "time": 1}]}, tags={"cpu": ["host"]}), ctx)
    assert ctx.written == [Line("alerts", {"host": "a"}, {"value": 95.0})]

Needs pyarrow: `pip install walmill-hookspecs[fakes]`. SQL is answered from `answers`, or, where the package datafusion is
installed, really run over `tables`.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias, cast

import pyarrow as pa

from walmill_hookspecs.context import Cache, LoggerAdapter, WriteData
from walmill_hookspecs.errors import QueryError, WriteError
from walmill_hookspecs.fake_values import (
    NOW,
    Rows,
    async_body,
    body,
    nanoseconds,
    request,
    snapshot,
    table_batch,
    tick,
    write_batch,
)
from walmill_hookspecs.types import Line, Run, TriggerInfo, UInt

Answer: TypeAlias = pa.Table | Rows | Exception | Callable[[Mapping[str, Any]], Any]

__all__ = [
    "NOW",
    "Answer",
    "FakeAsyncContext",
    "FakeCache",
    "FakeContext",
    "Rows",
    "async_body",
    "body",
    "request",
    "snapshot",
    "table_batch",
    "tick",
    "write_batch",
]


class FakeCache:
    """A `Cache` in memory, by value as the real one."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[Any, datetime | None]] = {}
        self._shared: FakeCache | None = None

    def _alive(self, key: str) -> bool:
        until = self._values[key][1] if key in self._values else None
        return key in self._values and (until is None or self._clock() < until)

    def get(self, key: str, default: Any = None) -> Any:
        return copy.deepcopy(self._values[key][0]) if self._alive(key) else default

    def put(self, key: str, value: Any, *, ttl: float | timedelta | None = None) -> None:
        _check_storable(value)
        life = ttl if isinstance(ttl, timedelta) or ttl is None else timedelta(seconds=ttl)
        self._values[key] = (copy.deepcopy(value), None if life is None else self._clock() + life)

    def delete(self, key: str) -> bool:
        alive = self._alive(key)
        self._values.pop(key, None)
        return alive

    def incr(self, key: str, by: int = 1) -> int:
        value = self.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"the key {key!r} holds {value!r}; incr needs an int")
        self.put(key, value + by)
        return value + by

    def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self._values if key.startswith(prefix) and self._alive(key))

    @property
    def shared(self) -> Cache:
        if self._shared is None:
            self._shared = FakeCache(self._clock)
        return self._shared


def _check_storable(value: Any) -> None:
    plain = (type(None), bool, int, float, str, bytes, datetime, timedelta, pa.Table, pa.RecordBatch, pa.Array)
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _check_storable(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_storable(key)
            _check_storable(item)
    elif not isinstance(value, plain) and type(value).__module__ != "numpy":
        raise TypeError(f"a {type(value).__name__} cannot be kept in ctx.cache; keep it on self")


def _unescape(text: str) -> str:
    return re.sub(r"\\([,= \\\"])", r"\1", text)


def _lines(text: str) -> list[Line]:
    """Reads line protocol well enough for tests; the engine has the parser with all rules."""
    key = r"(?:\\.|[^,= \\])+"
    string = r'"(?:\\.|[^"\\])*"'
    line = re.compile(
        rf"(?P<table>(?:\\.|[^, \\])+)(?P<tags>(?:,{key}={key})*)\s+"
        rf"(?P<fields>{key}=(?:{string}|[^,\s]+)(?:,{key}=(?:{string}|[^,\s]+))*)(?:\s+(?P<time>-?\d+))?\s*(?:\n|$)"
    )
    pair = re.compile(rf"({key})=({string}|(?:\\.|[^,\s\\])+)")
    found: list[Line] = []
    place = 0
    text = "\n".join(part for part in text.split("\n") if part.strip() and not part.startswith("#"))
    while place < len(text):
        match = line.match(text, place)
        if match is None:
            raise WriteError(f"this is not line protocol: {text[place : place + 60]!r}", row=len(found))
        tags = {_unescape(k): _unescape(v) for k, v in pair.findall(match["tags"])}
        fields = {_unescape(k): _value(v) for k, v in pair.findall(match["fields"])}
        time = int(match["time"]) if match["time"] else None
        found.append(Line(_unescape(match["table"]), tags, fields, time))
        place = match.end()
    return found


def _value(text: str) -> int | float | bool | str:
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text in ("t", "T", "true", "True", "TRUE"):
        return True
    if text in ("f", "F", "false", "False", "FALSE"):
        return False
    if text.endswith("i"):
        return int(text[:-1])
    return UInt(text[:-1]) if text.endswith("u") else float(text)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))


class _Base:
    def __init__(
        self,
        *,
        settings: Any = None,
        tables: Mapping[str, Rows | pa.Table] | None = None,
        answers: Mapping[str, Answer] | Callable[..., Any] | None = None,
        now: datetime = NOW,
        database: str = "test",
        trigger: str = "test",
        key: str | None = None,
        attempt: int = 1,
    ) -> None:
        self.settings: Any = {} if settings is None else settings
        self.database = database
        self.trigger = TriggerInfo(name=trigger, database=database, plugin="test", spec="all_tables")
        self.run = Run(id=f"{trigger}-1", key=key or f"{trigger}:1-1", attempt=attempt)
        self.stopping = False
        self.written: list[Line] = []
        self.written_elsewhere: dict[str, list[Line]] = {}
        self.written_now: list[Line] = []
        self.checkpoints: list[int | None] = []
        self.queries: list[tuple[str, dict[str, Any]]] = []
        self._now = now
        self._tables = dict(tables or {})
        self._answers = answers
        self._cache = FakeCache(lambda: self._now)
        self._callbacks: list[Callable[[], Any]] = []
        self._records = _Records()
        logger = logging.Logger(f"walmill.test.{trigger}", logging.DEBUG)
        logger.addHandler(self._records)
        self.log: LoggerAdapter = logging.LoggerAdapter(logger, {})

    @property
    def cache(self) -> Cache:
        return self._cache

    @property
    def logs(self) -> list[tuple[str, str]]:
        """What was logged: level and message."""
        return self._records.lines

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the time of the context on, as between two runs."""
        self._now += timedelta(seconds=seconds)

    def commit(self) -> None:
        """Calls the callbacks of `on_commit`, as the engine does after the commit."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_commit(self, callback: Callable[[], Any]) -> None:
        self._callbacks.append(callback)

    def write(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> None:
        lines = self._as_lines(data, table, tags)
        if database is None or database == self.database:
            self.written.extend(lines)
        else:
            self.written_elsewhere.setdefault(database, []).extend(lines)

    def _as_lines(self, data: WriteData, table: str | None, tags: Sequence[str] | None) -> list[Line]:
        if isinstance(data, str):
            lines = _lines(data)
        elif isinstance(data, Line):
            lines = [data]
        elif hasattr(data, "__arrow_c_stream__"):
            arrow = pa.table(data)
            rows = arrow.to_pylist()
            if "time" in arrow.column_names and pa.types.is_timestamp(arrow.schema.field("time").type):
                times = arrow.column("time").cast(pa.timestamp("ns")).cast(pa.int64()).to_pylist()
                rows = [{**row, "time": time} for row, time in zip(rows, times, strict=True)]
            return self._from_rows(rows, table, tags)
        else:
            items = list(data)
            if any(not isinstance(item, Line) for item in items):
                return self._from_rows(cast("list[Mapping[str, Any]]", items), table, tags)
            lines = cast("list[Line]", items)
        if table is not None:
            raise WriteError(
                "table= is for mappings and Arrow data; line protocol and Line name their table themselves"
            )
        for place, line in enumerate(lines):
            _check_line(line, place)
        return lines

    def _from_rows(
        self, rows: Sequence[Mapping[str, Any]], table: str | None, tags: Sequence[str] | None
    ) -> list[Line]:
        if table is None:
            raise WriteError("mappings and Arrow data need table=")
        if tags is None:
            raise WriteError(f"say tags= for the table {table!r}; the fake does not know its columns")
        lines = []
        for place, row in enumerate(rows):
            present = {key: value for key, value in row.items() if value is not None}
            line = Line(
                table,
                {key: value for key, value in present.items() if key in tags},
                {key: value for key, value in present.items() if key not in tags and key != "time"},
                present.get("time"),
            )
            _check_line(line, place)
            lines.append(line)
        return lines

    def _cached(self, asked: str, keys: Mapping[str, Any] | None) -> pa.Table:
        """What `answers` has for `last_values(TABLE)` or `distinct_values(TABLE, COLUMN, …)`."""
        if self._answers is None or (not callable(self._answers) and asked not in self._answers):
            raise QueryError(f"there is no answer for {asked!r}: give it in answers=")
        found = self._answer(asked, keys)
        for column, value in (keys or {}).items():
            if column not in found.column_names:
                raise QueryError(f"the answer for {asked!r} has no column {column!r}")
            mask = pa.array([one == value for one in found.column(column).to_pylist()], pa.bool_())
            found = found.filter(mask)
        return found

    def _answer(self, sql: str, params: Mapping[str, Any] | None) -> pa.Table:
        given = dict(params or {})
        self.queries.append((sql, given))
        answers = self._answers
        if callable(answers):
            return _as_table(answers(sql, given))
        if answers is not None:
            folded = " ".join(sql.split())
            for asked, answer in answers.items():
                if " ".join(asked.split()) == folded:
                    return _as_table(answer(given) if callable(answer) else answer)
        try:
            from datafusion import SessionConfig, SessionContext  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise QueryError(
                f"there is no answer for {sql!r}: give it in answers=, or install datafusion to run it over tables="
            ) from None
        session: Any = SessionContext(
            SessionConfig().with_default_catalog_and_schema("public", "iox").with_information_schema(True)
        )
        for name, rows in self._tables.items():
            data = rows if isinstance(rows, pa.Table) else _as_table(rows)
            session.register_record_batches(name, [data.to_batches()])
        try:
            return pa.table(session.sql(sql, param_values=given) if given else session.sql(sql))
        except Exception as error:  # noqa: BLE001 - whatever the planner says is the author's to read
            raise QueryError(str(error)) from None


def _check_line(line: Line, place: int) -> None:
    fields = {key: value for key, value in line.fields.items() if value is not None and value == value}  # noqa: PLR0124 - not NaN
    if not fields:
        raise WriteError(f"the row {place} for {line.table!r} has no field with a value", row=place)
    for key, value in fields.items():
        if isinstance(value, float) and math.isinf(value):
            raise WriteError(f"{key}={value} in row {place}: infinities cannot be stored", row=place, column=key)
    if isinstance(line.time, datetime) and line.time.tzinfo is None:
        raise WriteError(f"time={line.time!r} in row {place} has no time zone", row=place, column="time")


def _as_table(answer: Any) -> pa.Table:
    if isinstance(answer, Exception):
        raise answer
    if isinstance(answer, pa.Table):
        return answer
    rows = [dict(row) for row in answer]
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name == "time":
            columns[name] = pa.array([None if v is None else nanoseconds(v) for v in values], pa.int64()).cast(
                pa.timestamp("ns")
            )
        else:
            columns[name] = pa.array(values)
    return pa.table(columns)


class FakeContext(_Base):
    """A `Context` for tests of plain `def` hooks.

    Args:
        settings: What `ctx.settings` is.
        tables: Rows or Arrow tables by name, for real SQL where datafusion is installed.
        answers: Results by SQL text (spaces do not matter), or a function of SQL and parameters. A result is an Arrow
            table, rows, an exception to be raised, or a function of the parameters. `last_values(TABLE)` and
            `distinct_values(TABLE, COLUMN, …)` are what those methods give.
        now: What `ctx.now()` is.
        database: Name of the database.
        trigger: Name of the trigger.
        key: `ctx.run.key`.
        attempt: `ctx.run.attempt`.

    Attributes:
        written: Rows given to `write`, as `Line`s, in order.
        written_elsewhere: The same by name of another database.
        written_now: Rows given to `write_now`.
        checkpoints: The `through` of each `checkpoint`.
        queries: SQL and parameters of each query.
        logs: Level and message of each log record.
    """

    def query(self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None) -> pa.Table:
        return self._answer(sql, params)

    def stream(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        database: str | None = None,
    ) -> pa.RecordBatchReader:
        table = self._answer(sql, params)
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches())

    def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return self._cached(f"last_values({table})", keys)

    def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return self._cached(f"distinct_values({', '.join([table, *columns])})", keys)

    def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        self.written_now.extend(self._as_lines(data, table, tags))
        return len(self.written_now)

    def checkpoint(self, through: int | None = None) -> None:
        self.checkpoints.append(through)
        self.commit()


class FakeAsyncContext(_Base):
    """An `AsyncContext` for tests of `async def` hooks; see `FakeContext`."""

    async def query(
        self, sql: str, params: Mapping[str, Any] | None = None, *, database: str | None = None
    ) -> pa.Table:
        return self._answer(sql, params)

    async def stream(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        database: str | None = None,
    ) -> AsyncIterator[pa.RecordBatch]:
        for batch in self._answer(sql, params).to_batches():
            yield batch

    async def last_values(
        self,
        table: str,
        *,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return self._cached(f"last_values({table})", keys)

    async def distinct_values(
        self,
        table: str,
        *columns: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
        database: str | None = None,
    ) -> pa.Table:
        return self._cached(f"distinct_values({', '.join([table, *columns])})", keys)

    async def write_now(
        self,
        data: WriteData,
        *,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        database: str | None = None,
    ) -> int:
        self.written_now.extend(self._as_lines(data, table, tags))
        return len(self.written_now)

    async def checkpoint(self, through: int | None = None) -> None:
        self.checkpoints.append(through)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            result = callback()
            if inspect.isawaitable(result):
                await result


def _conforms(sync: FakeContext, asynchronous: FakeAsyncContext) -> tuple[Any, Any]:
    """Type checkers hold the fakes against the contract here."""
    from walmill_hookspecs.context import AsyncContext, Context

    one: Context[Any] = sync
    other: AsyncContext[Any] = asynchronous
    return one, other
