"""Backfill: a trigger is given the rows of files, because the log that brought them is gone; resumable, at the trigger's pace.

Rows come table by table in the order of their times, merged as a query has them, in pieces of about the trigger's
`max_batch_rows`. How far it is lies in the plugin state of the engine (`backfill_space`), in the same commits as the rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve, frozen
from rpds import HashTrieMap

from walmill.cache.state import Wish, backfill_space
from walmill.dispatch.again import GIVEN_BYTES, GiveAgain
from walmill.errors import Unavailable, WalmillError
from walmill.model.files import DataFile
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.store.submission import Submission
from walmill.store.view import View
from walmill.triggers.spec import AllTables, TableSpec, parse_spec
from walmill.units import HOUR, INT64_MAX
from walmill_worker.values import decode, encode

log = get_logger("walmill.backfill")

KEY = "job"
WAIT_SECONDS = 0.05
"""So often is looked whether a trigger has done what it was given."""
RETRY_SECONDS = 1.0
WITHIN = "time >= to_timestamp_nanos($low) AND time < to_timestamp_nanos($high)"


class Host(Protocol):
    """What a backfill needs of the engine."""

    def view(self) -> View:
        """The newest view."""

    def rows_of(self, view: View, database: str, sql: str, params: Mapping[str, Any]) -> pa.Table:
        """Runs SQL on a view."""

    def commit(self, submission: Submission) -> int | None:
        """Commits something, and waits; its sequence."""

    def behind(self, trigger: int) -> bool:
        """Whether a trigger has not done all that it was given."""

    def first_sequence(self) -> int:
        """The first sequence that the log has."""

    def in_files(self) -> int:
        """All commits up to this one are in files."""


@frozen(kw_only=True)
class Job:
    """How far a backfill is.

    Attributes:
        tables: Ids of the tables that are left, the first one is under way.
        position: Rows of the first table before this time are done, ns; None if it has not begun.
        offset: So many rows of that very time are done as well.
        window: How much time is looked at next, ns.
        from_sequence: Files that hold commits from this one on are read.
        through: They hold all commits up to this one.
        then: First and last sequence of the log that follow; None if none do.
        rows: Rows given so far.
        total: Rows of the files at the beginning.
    """

    tables: tuple[int, ...]
    position: int | None = None
    offset: int = 0
    window: int = HOUR
    from_sequence: int
    through: int
    then: tuple[int, int] | None = None
    rows: int = 0
    total: int = 0

    def to_bytes(self) -> bytes:
        """As a value of the state."""
        return encode(
            {
                "tables": list(self.tables),
                "position": self.position,
                "offset": self.offset,
                "window": self.window,
                "from_sequence": self.from_sequence,
                "through": self.through,
                "then": None if self.then is None else list(self.then),
                "rows": self.rows,
                "total": self.total,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Job:
        """From what `to_bytes` gave."""
        found = decode(data)
        return cls(**{**found, "tables": tuple(found["tables"]), "then": found["then"] and tuple(found["then"])})


def job_of(view: View, trigger: int) -> Job | None:
    """The backfill of a trigger; None if there is none."""
    entry = view.state.space(backfill_space(trigger)).entries.get(KEY)
    return None if entry is None else Job.from_bytes(entry.value)


def new_job(view: View, trigger: Trigger, start: int, through: int, then: tuple[int, int] | None) -> Job:
    """A backfill that begins.

    Args:
        view: The view.
        trigger: The trigger.
        start: The first sequence that it is to get again.
        through: What is in files.
        then: What of the log follows.
    """
    tables = tuple(number for number in tables_of(view, trigger) if files_of(view, number, start, through))
    total = sum(one.rows for number in tables for one in files_of(view, number, start, through))
    return Job(tables=tables, from_sequence=start, through=through, then=then, total=total)


def tables_of(view: View, trigger: Trigger) -> list[int]:
    """The tables that a trigger concerns, by name."""
    spec = parse_spec(trigger.spec)
    assert isinstance(spec, AllTables | TableSpec)
    owner = view.catalog.databases[trigger.database_id]
    return [number for name, number in sorted(owner.tables.items()) if spec.matches(name)]


def files_of(view: View, table: int, start: int, through: int) -> tuple[DataFile, ...]:
    """The files of a table that hold commits of a range."""
    return tuple(
        one for one in view.files.get(table, ()) if one.last_sequence >= start and one.first_sequence <= through
    )


class Backfiller:
    """Does all backfills, in a thread of its own that ends when there is nothing to do.

    Args:
        host: The engine.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def wake(self) -> None:
        """There may be something to do."""
        with self._lock:
            if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._work, name="walmill-backfill", daemon=True)
            self._thread.start()

    def stop(self, timeout: float) -> None:
        """Does nothing more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _jobs(self) -> list[tuple[Trigger, Job]]:
        view = self._host.view()
        found = []
        for trigger in view.catalog.triggers.values():
            job = job_of(view, trigger.id)
            if job is not None and trigger.enabled:
                found.append((trigger, job))
        return found

    def _work(self) -> None:
        while not self._stop.is_set():
            jobs = self._jobs()
            if not jobs:
                with self._lock:
                    if not self._jobs():
                        self._thread = None
                        return
                continue
            worked = False
            for trigger, job in jobs:
                if self._stop.is_set():
                    return
                if not self._host.behind(trigger.id):
                    worked = self._try(trigger, job) or worked
            if not worked:
                self._stop.wait(WAIT_SECONDS)

    def _try(self, trigger: Trigger, job: Job) -> bool:
        try:
            self._host.commit(self._step(trigger, job))
        except Unavailable as error:
            self._stop.wait(min(float(error.retry_after), RETRY_SECONDS))
        except WalmillError as error:
            log.error("a backfill could not go on, and is tried again", trigger=trigger.name, error=error.message)
            self._stop.wait(RETRY_SECONDS)
        else:
            return True
        return False

    def _step(self, trigger: Trigger, job: Job) -> GiveAgain:
        """The next piece, and how far it is then."""
        view = self._host.view()
        entry = view.state.space(backfill_space(trigger.id)).entries.get(KEY)
        version = 0 if entry is None else entry.version
        first = self._host.first_sequence()
        if not job.tables and job.then is not None and job.then[0] < first:
            # the log went on losing its beginning meanwhile: that is in files by now
            through = self._host.in_files()
            then = (through + 1, job.then[1]) if through < job.then[1] else None
            job = evolve(new_job(view, trigger, job.then[0], through, then), rows=job.rows)
        after, rows = next_piece(job, trigger, view, self._host.rows_of)
        if not job.tables:
            log.info("a backfill is done", trigger=trigger.name, rows=after.rows)
            done = Wish(KEY, "delete", version=version)
            return GiveAgain(
                trigger=trigger.id,
                kind="backfill",
                rows=rows,
                wishes=[done],
                then=job.then,
                first=first,
            )
        wish = Wish(KEY, "put", after.to_bytes(), version=version)
        return GiveAgain(trigger=trigger.id, kind="backfill", rows=rows, wishes=[wish])


Ask = Callable[[View, str, str, Mapping[str, Any]], pa.Table]


def next_piece(job: Job, trigger: Trigger, view: View, ask: Ask) -> tuple[Job, Sequence[tuple[int, pa.RecordBatch]]]:
    """The next rows, and the job after them. When no table is left, there are no rows with it.

    Args:
        job: How far it is.
        trigger: The trigger.
        view: The view.
        ask: Runs SQL on a view.
    """
    if not job.tables:
        return job, ()
    table = job.tables[0]
    files = files_of(view, table, job.from_sequence, job.through)
    if not files:
        return evolve(job, tables=job.tables[1:], position=None, window=HOUR), ()
    database = view.catalog.databases[trigger.database_id].name
    schema = view.catalog.tables[table].schema
    only = evolve(view, tables=HashTrieMap(), files={table: files})
    low, high = min(one.min_time for one in files), max(one.max_time for one in files)
    begin = low if job.position is None else max(low, job.position)
    if begin > high:
        return evolve(job, tables=job.tables[1:], position=None, window=HOUR), ()
    name = quoted(schema.name)

    def asked(condition: str, more: str, start: int, stop: int) -> pa.Table:
        return ask(only, database, f"SELECT * FROM {name} WHERE {condition} {more}", {"low": start, "high": stop})  # noqa: S608 - a quoted name

    most, window = trigger.max_batch_rows, job.window
    end = min(begin + window, high + 1, INT64_MAX)
    if job.offset == 0:
        found = asked(WITHIN, f"ORDER BY time LIMIT {most + 1}", begin, end)
        if found.num_rows:
            most = max(1, min(most, 2 * GIVEN_BYTES * found.num_rows // max(1, found.nbytes)))
        if found.num_rows <= most:
            if 4 * found.num_rows < most:
                window = min(2 * window, INT64_MAX // 4)
            return _after(job, found, position=end, window=window), _pieces(table, found, schema.tags)
        window = max(1, window // 2)
        times = found.column("time").combine_chunks().cast(pa.int64())
        begin, last = times[0].as_py(), times[most].as_py()
        if last > begin:
            found = found.filter(pc.less(times, last))
            return _after(job, found, position=last, window=window), _pieces(table, found, schema.tags)
    # more rows of one instant than a batch holds: they go in several, by their series
    order = ", ".join(quoted(tag) for tag in schema.tags)
    more = f"ORDER BY {order} LIMIT {most} OFFSET {job.offset}" if order else f"LIMIT {most} OFFSET {job.offset}"
    found = asked(WITHIN, more, begin, begin + 1)
    if found.num_rows < most:
        return _after(job, found, position=begin + 1, window=window), _pieces(table, found, schema.tags)
    after = _after(job, found, position=begin, window=window)
    return evolve(after, offset=job.offset + found.num_rows), _pieces(table, found, schema.tags)


def _after(job: Job, found: pa.Table, *, position: int, window: int) -> Job:
    return evolve(job, position=position, window=window, offset=0, rows=job.rows + found.num_rows)


def quoted(name: str) -> str:
    """A name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _pieces(table: int, found: pa.Table, tags: Sequence[str]) -> list[tuple[int, pa.RecordBatch]]:
    """Rows as the log has them: tags as plain text, no columns without values."""
    names, columns = [], []
    for name, column in zip(found.column_names, found.columns, strict=True):
        plain = column.cast(pa.string()) if name in tags else column
        if name == "time":
            plain = plain.cast(pa.timestamp("ns"))
        elif plain.null_count == len(plain):
            continue
        names.append(name)
        columns.append(plain)
    batches = pa.table(columns, names=names).combine_chunks().to_batches() if found.num_rows else []
    return [(table, one) for one in batches]
