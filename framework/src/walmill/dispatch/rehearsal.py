"""A rehearsal: one run that happens for real and of which nothing is kept (a dry run).

The run goes through an ordinary `Station`, in the executor that the trigger would have. What stands for the engine is a `Stage`:
a view of its own that begins as the real one and goes on with what the run commits. Nobody else ever sees it.
"""

from __future__ import annotations

import asyncio
import base64
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve, field, frozen

from walmill.context.local import CachedValues
from walmill.dispatch.history import RunRow
from walmill.dispatch.lasting import STOP_SECONDS, insist
from walmill.dispatch.station import Ended, Event, Station, StationHost
from walmill.errors import WalmillError
from walmill.ingest.render import render_row
from walmill.isolation.batch import BatchSource, table_batch
from walmill.model.catalog import Catalog
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.store.commit import Commit
from walmill.store.draft import Draft
from walmill.store.submission import Outcome, Submission, Ticket, settle_all
from walmill.store.view import View
from walmill.units import format_time
from walmill_hookspecs import HTTPError, Request, Tick
from walmill_hookspecs.types import SnapshotRecord
from walmill_worker.replies import Answer, answer_of, piece_of
from walmill_worker.values import decode

if TYPE_CHECKING:
    import pyarrow as pa

LINES = 10_000
"""So many rows of what a run wrote are shown; all are counted."""
SHOWN_CHARACTERS = 2_000
ANSWER_BYTES = 2**20
"""So much of an answer is shown."""


class Asked(Protocol):
    """Answers SQL in place of the engine."""

    def __call__(self, database: str, sql: str, params: Mapping[str, Any] | None, /) -> pa.Table: ...


@frozen
class Said:
    """A line that the run said.

    Attributes:
        level: `DEBUG` to `CRITICAL`.
        text: The line.
        at: Seconds since the run began to be prepared.
    """

    level: str
    text: str
    at: float


def advance(view: View, commit: Commit) -> View:
    """A view with a commit that only this line of views has: the tables that it writes get lists of their own."""
    tables = view.tables
    for part in commit.rows:
        buffer = tables.get(part.table)
        if buffer is not None:
            tables = tables.insert(part.table, buffer.branch())
    return evolve(view, tables=tables).decide(commit).store_rows([commit])


class Stage:
    """What stands for the engine in a rehearsal. Any thread may use it.

    Args:
        host: The engine.
        view: Where it begins.
        ask: Answers SQL instead of this view; None for this view.

    Attributes:
        commits: What was committed here, in order.
        said: The lines that were said.
        rows: What became of each run: `on_startup`, then the run itself.
    """

    def __init__(self, host: StationHost, view: View, ask: Asked | None = None) -> None:
        self._host = host
        self._view = view
        self._ask = ask
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.commits: list[Commit] = []
        self.said: list[Said] = []
        self.rows: list[RunRow] = []

    @property
    def pool(self) -> Executor:
        """Threads for what async hooks wait for."""
        return self._host.pool

    def view(self) -> View:
        """The view as it is here."""
        return self._view

    def set_up(self, decide: Callable[[Draft], Any]) -> tuple[Any, Commit | None]:
        """Changes the view before the run: this is not part of what it did.

        Returns:
            What `decide` returned, and the commit.

        Raises:
            WalmillError: If that cannot be.
        """
        draft = Draft(self._view, self._time())
        value = decide(draft)
        commit = draft.build()
        if commit is not None:
            self._view = advance(self._view, commit)
        return value, commit

    def place(self, trigger: int, cursor: Cursor) -> None:
        """Sets a cursor, here."""
        self._view = evolve(self._view, cursors=self._view.cursors.insert(trigger, cursor))

    def submit(self, submission: Submission, ticket: Ticket | None = None) -> Ticket:
        """Commits here, with all checks of a real commit."""
        ticket = Ticket() if ticket is None else ticket
        with self._lock:
            draft = Draft(self._view, self._time())
            try:
                value = submission.prepare(draft)
                commit = draft.build()
            except WalmillError as error:
                outcome = Outcome(error=error)
            else:
                if commit is not None:
                    self._view = advance(self._view, commit)
                    self.commits.append(commit)
                outcome = Outcome(None if commit is None else commit.sequence, value)
        settle_all([(ticket, outcome)])
        return ticket

    def _time(self) -> int:
        return max(self._view.time, self._host.now_ns())

    def query(self, view: View, database: str, sql: str, params: Mapping[str, Any] | None) -> pa.Table:
        """Runs SQL on a view, or asks who answers instead."""
        if self._ask is None:
            return self._host.query(view, database, sql, params)
        return self._ask(database, sql, params)

    def stream(self, view: View, database: str, sql: str, params: Mapping[str, Any] | None) -> Any:
        """Runs SQL on a view, batch by batch."""
        if self._ask is None:
            return self._host.stream(view, database, sql, params)
        return _Whole(self._ask(database, sql, params))

    def cached(self, view: View, database: str, asked: CachedValues) -> pa.Table:
        """What a cache of values has."""
        return self._host.cached(view, database, asked)

    def now_ns(self) -> int:
        """Wall-clock time, ns."""
        return self._host.now_ns()

    def record(self, row: RunRow) -> None:
        """Keeps what became of a run, here."""
        self.rows.append(row)

    def say(self, database: str, trigger: str, run_id: str, level: str, text: str) -> None:
        """Keeps a line, here."""
        del database, trigger, run_id
        self.said.append(Said(level, text, time.monotonic() - self._began))

    def blocked(self) -> None:
        """A rehearsal waits for no plugin."""

    def move(self, trigger: Trigger, cursor: Cursor) -> None:
        """A cursor that moved without a commit; nobody asks for it here."""


class _Whole:
    """A stream of what is there as a whole; as `walmill.query.engine.ResultStream`."""

    def __init__(self, table: pa.Table) -> None:
        self.schema = table.schema
        self._reader = table.to_reader()

    def __next__(self) -> pa.RecordBatch:
        return self._reader.read_next_batch()

    def __iter__(self) -> _Whole:
        return self

    def to_reader(self) -> pa.RecordBatchReader:
        """The rest as a reader."""
        return self._reader

    def close(self) -> None:
        """Ends it."""


@frozen(kw_only=True)
class Report:
    """What a rehearsed run did.

    Attributes:
        status: As in `_internal.runs`: `ok`, `failed`, `skipped`, `retry_later`, `disabled`, `refused`, `cancelled`.
        error: Kind and message.
        traceback: Of the plugin's exception.
        rows_in: Rows that it was given.
        said: The lines that it said.
        writes: Rows that it would have written, by database: lines of line protocol, at most `LINES` of them.
        counts: Number of those rows, all of them, by database and table.
        created: Tables and columns that would come into being, as text.
        state: Changes of the plugin's state.
        answer: The answer to a request: `status`, `headers`, `body`, `whole`.
        callbacks: So many functions were given to `on_commit`; none was called.
        seconds: From the hook's first line to its last.
        cpu_seconds: Processor time; None if nobody measured.
        memory: Most memory, bytes; None if nobody looked.
        due: The due time that was told, ns.
    """

    status: str
    error: str | None
    traceback: str
    rows_in: int
    said: Sequence[Said]
    writes: Mapping[str, Sequence[str]]
    counts: Mapping[tuple[str, str], int]
    created: Sequence[str]
    state: Sequence[Mapping[str, Any]]
    answer: Mapping[str, Any] | None = None
    callbacks: int = 0
    seconds: float = 0.0
    cpu_seconds: float | None = None
    memory: int | None = None
    due: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong."""
        return self.status in ("ok", "skipped")

    def to_json(self) -> dict[str, Any]:
        """As a dict of JSON types, with InfluxDB's `log_lines`, `database_writes` and `errors` among them."""
        found: dict[str, Any] = {
            "status": self.status,
            "log_lines": [f"{one.level}: {one.text}" for one in self.said],
            "database_writes": {database: list(lines) for database, lines in self.writes.items()},
            "errors": [] if self.error is None else [self.error],
            "traceback": self.traceback or None,
            "rows_in": self.rows_in,
            "rows_written": [
                {"database": database, "table": table, "rows": count}
                for (database, table), count in self.counts.items()
            ],
            "created": list(self.created),
            "state": [{**one, "value": json_value(one["value"])} for one in self.state],
            "log_times": [round(one.at, 6) for one in self.said],
            "callbacks": self.callbacks,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "memory_bytes": self.memory,
        }
        if self.due is not None:
            found["trigger_time"] = format_time(self.due)
        if self.answer is not None:
            answer = dict(self.answer)
            body = answer.pop("body")
            try:
                answer["body"] = body.decode("utf-8")
            except UnicodeDecodeError:
                answer["body_base64"] = base64.b64encode(body).decode()
            found["answer"] = answer
        return found


def json_value(value: Any) -> Any:
    """A value of the state as JSON has it; what JSON does not know is shown as Python writes it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: json_value(one) for key, one in value.items()}
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)"


@frozen(kw_only=True)
class Part:
    """What a rehearsal is about.

    Attributes:
        hook: The hook.
        values: Its parameters without the context.
        consumed: The range of sequences that it is given.
        rows: Rows that it is given.
        due: The due time, ns.
        lasts: Seconds until the hook is asked to end, for one that does not end by itself; None if it does.
    """

    hook: str
    values: Mapping[str, Any] = field(factory=dict)
    consumed: tuple[int, int] | None = None
    rows: int = 0
    due: int | None = None
    lasts: float | None = None


def batch_part(
    stage: Stage, trigger: Trigger, commits: Sequence[Commit], tables: frozenset[int], database: str
) -> Part:
    """`on_write` with commits that the view has.

    Args:
        stage: Its view has the rows.
        trigger: The trigger; its cursor is set before them.
        commits: The commits.
        tables: Which of their tables concern it.
        database: Name of the database.
    """
    first, last = commits[0].sequence, commits[-1].sequence
    stage.place(trigger.id, Cursor(through=first - 1))
    source = BatchSource(commits=commits, tables=tables, catalog=stage.view().catalog, database=database, first=first)
    rows = sum(part.batch.num_rows for commit in commits for part in commit.rows if part.table in tables)
    return Part(hook="on_write", values={"batch": source}, consumed=(first, last), rows=rows)


def tick_part(tick: Tick, due: int) -> Part:
    """`on_schedule`."""
    return Part(hook="on_schedule", values={"tick": tick}, due=due)


def request_part(request: Request) -> Part:
    """`on_request`."""
    return Part(hook="on_request", values={"request": request})


def snapshot_part(record: SnapshotRecord) -> Part:
    """`on_snapshot`."""
    rows = sum(one.rows for table in record.tables for one in table.files)
    consumed = (record.previous_sequence + 1, record.sequence)
    return Part(hook="on_snapshot", values={"record": record}, consumed=consumed, rows=rows)


def service_part(lasts: float) -> Part:
    """`on_service`, for so many seconds."""
    return Part(hook="on_service", lasts=lasts)


async def rehearse(stage: Stage, station: Station, part: Part) -> Report:
    """Performs a run; on the mill's loop. Never raises what the plugin raised.

    Args:
        stage: What the station has for an engine.
        station: Of the trigger.
        part: What the run is about.
    """
    asked = part.hook == "on_request"
    event = Event(
        hook=part.hook,
        values=part.values,
        key=station.key(f"test-{time.time_ns()}"),
        at=time.perf_counter_ns(),
        source=_SOURCES[part.hook],
        consumed=part.consumed,
        through=lambda: 0 if part.consumed is None else part.consumed[1],
        rows_in=part.rows,
        accept=_accepted if asked else None,
    )
    task = asyncio.ensure_future(station.perform(event))
    station.tasks.add(task)
    task.add_done_callback(station.tasks.discard)
    try:
        if part.lasts is not None:
            await _ask_to_end(station, task, part.lasts)
        ended = await task
        answer = await _answer(ended) if asked else None
        station.give_back(ended)
    finally:
        await station.close()
    return _report(stage, ended, part, answer)


async def _ask_to_end(station: Station, task: asyncio.Task[Ended], lasts: float) -> None:
    """Has a source run for a while, as `walmill.dispatch.services` ends one."""
    if (await asyncio.wait({task}, timeout=lasts))[0]:
        return
    station.stop_soon()
    if not (await asyncio.wait({task}, timeout=STOP_SECONDS))[0]:
        insist(station, list(station.runs.values()))


def _accepted(result: Any) -> Answer:
    return result if isinstance(result, Answer) else answer_of(result)


_SOURCES: dict[str, Any] = {
    "on_write": "write",
    "on_schedule": "schedule",
    "on_request": "request",
    "on_service": "service",
    "on_snapshot": "snapshot",
}


async def _answer(ended: Ended) -> dict[str, Any] | None:
    """The answer as plain data; what a stream brings up to a bound."""
    answer: Any = ended.result
    if ended.end == "answered" and isinstance(ended.exception, HTTPError):
        problem = ended.exception
        answer = answer_of(({"error": problem.detail}, problem.status, problem.headers))
    if not isinstance(answer, Answer):
        return None
    body, whole = answer.body or b"", True
    if answer.stream is not None and ended.seat is not None and ended.state is not None:
        pieces = ended.seat.pieces(answer.stream, ended.state)
        try:
            async for piece in pieces:
                body += piece_of(piece)
                if len(body) > ANSWER_BYTES:
                    break
        except Exception as error:  # noqa: BLE001 - of the plugin: told like any other
            ended.end, ended.error = "failed", f"the streamed answer: {type(error).__name__}: {error}"
        finally:
            await pieces.aclose()
    if len(body) > ANSWER_BYTES:
        body, whole = body[:ANSWER_BYTES], False
    return {"status": answer.status, "headers": [list(pair) for pair in answer.headers], "body": body, "whole": whole}


def _report(stage: Stage, ended: Ended, part: Part, answer: Mapping[str, Any] | None) -> Report:
    row = stage.rows[-1] if stage.rows else None
    catalog = stage.view().catalog
    writes, counts = _written(stage.commits, catalog)
    status = "failed" if row is None else row.status
    if ended.end == "failed":
        status = "failed"
    return Report(
        status=status,
        error=ended.error,
        traceback=ended.traceback,
        rows_in=part.rows,
        said=tuple(one for one in stage.said if one.text != ended.traceback),
        writes=writes,
        counts=counts,
        created=_created(stage.commits, catalog),
        state=_changed(stage.commits),
        answer=answer,
        callbacks=0 if ended.state is None else len(ended.state.callbacks),
        seconds=0.0 if row is None else row.duration_ns / 1e9,
        cpu_seconds=None if row is None or row.cpu_ns is None else row.cpu_ns / 1e9,
        memory=None if row is None else row.memory,
        due=part.due,
    )


def _written(commits: Sequence[Commit], catalog: Catalog) -> tuple[dict[str, list[str]], dict[tuple[str, str], int]]:
    writes: dict[str, list[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    shown = 0
    for commit in commits:
        for part in commit.rows:
            table = catalog.tables[part.table]
            database = catalog.databases[table.database_id].name
            key = (database, table.schema.name)
            counts[key] = counts.get(key, 0) + part.batch.num_rows
            batch = table_batch(table.schema, [part.batch.slice(0, max(0, LINES - shown))])
            lines = writes.setdefault(database, [])
            lines += [render_row(batch.name, batch.tags, batch.fields, values) for values in batch.rows()]
            shown = sum(map(len, writes.values()))
    return writes, counts


def _created(commits: Sequence[Commit], catalog: Catalog) -> list[str]:
    found = []
    for definition in (one for commit in commits for one in commit.definitions):
        match definition["op"]:
            case "create_database":
                found.append(f"the database {definition['name']}")
            case "create_table":
                columns = [*definition["tags"], *definition["fields"]]
                found.append(f"the table {definition['name']} ({', '.join(columns)})")
            case "add_columns":
                table = catalog.tables[definition["id"]].schema.name
                found.append(f"{', '.join([*definition['tags'], *definition['fields']])} in the table {table}")
    return found


def _changed(commits: Sequence[Commit]) -> list[dict[str, Any]]:
    """The changes of the state: the last one of each key."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for commit in commits:
        for part in commit.state:
            shared = part.space.startswith("d:")
            for key, value, expires in part.changes:
                found.pop((part.space, key), None)
                found[part.space, key] = {
                    "key": key,
                    "shared": shared,
                    "op": "delete" if value is None else "put",
                    "value": None if value is None else decode(value),
                    "expires_at": expires,
                }
    return list(found.values())
