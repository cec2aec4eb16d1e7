"""What the engine writes about runs: rows of ordinary tables in the database `_internal`.

Successes go in blocks, a quarter of a second late at most; they may be lost in a crash, outcomes never. Runs of triggers on
`_internal` leave no rows there, or every block would make another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from walmill.errors import told
from walmill.ingest.assemble import TableRows
from walmill.ingest.convert import from_rows
from walmill.model.catalog import INTERNAL
from walmill.model.schema import TableSchema, arrow_schema
from walmill.store.submission import RowsWrite, Submission, Ticket
from walmill_hookspecs import RunRecord
from walmill_hookspecs.types import RunStatus
from walmill_worker.context import to_datetime

BLOCK_SECONDS = 0.25
BLOCK_ROWS = 20_000
"""Of the runs that wait, a block takes at most so many; the next one follows at once."""
BLOCK_CHARACTERS = 4 * 2**20
"""Of the lines that wait, a block takes so much text: as UTF-8 it may be four times as many bytes."""
WAITING_CHARACTERS = 64 * 2**20
"""More text than this does not wait: lines that come faster than the log takes them are left out, and counted."""
TEXT_LIMIT = 65_536

RUNS = TableSchema(
    "runs",
    ("database", "trigger", "plugin", "hook", "status"),
    {
        "run_id": "string",
        "run_key": "string",
        "attempt": "int64",
        "duration_ns": "int64",
        "wait_ns": "int64",
        "rows_in": "int64",
        "rows_written": "int64",
        "sequence": "int64",
        "error": "string",
        "plugin_version": "string",
        "plugin_hash": "string",
        "first_sequence": "int64",
        "last_sequence": "int64",
        "scheduled_for": "int64",
        "cpu_ns": "int64",
        "memory": "int64",
        "worker": "string",
    },
)
LOGS = TableSchema("logs", ("database", "trigger", "level"), {"text": "string", "run_id": "string"})
DEAD_LETTERS = TableSchema(
    "dead_letters",
    ("database", "trigger", "table"),
    {
        "line": "string",
        "error": "string",
        "run_key": "string",
        "attempts": "int64",
        "first_sequence": "int64",
        "last_sequence": "int64",
        "replayed_at": "int64",
    },
)


class RunRow(NamedTuple):
    """One ended run, in the order of the columns of `_internal.runs`; plain, because there is one for each run.

    Attributes:
        time: When it began, ns.
    """

    database: str
    trigger: str
    plugin: str
    hook: str
    status: RunStatus
    run_id: str
    run_key: str
    attempt: int
    duration_ns: int
    wait_ns: int
    rows_in: int
    rows_written: int
    sequence: int | None
    error: str | None
    plugin_version: str | None
    plugin_hash: str | None
    first_sequence: int | None
    last_sequence: int | None
    scheduled_for: int | None
    cpu_ns: int | None
    memory: int | None
    worker: str
    time: int

    def to_record(self) -> RunRecord:
        """As `on_run_end` gets it."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self._fields[:-1]}
        if self.scheduled_for is not None:
            values["scheduled_for"] = to_datetime(self.scheduled_for)
        return RunRecord(started_at=to_datetime(self.time), **values)


class History:
    """Collects rows about runs and logs, and has them written in blocks.

    Args:
        submit: Queues a submission; from any thread.
    """

    def __init__(self, submit: Callable[[Submission, Ticket | None], Ticket]) -> None:
        self._submit = submit
        self._lock = threading.Lock()
        self._runs: list[RunRow] = []
        self._logs: list[dict[str, Any]] = []
        self._last = 0
        self._characters = 0
        self._asked = False
        self.dropped = 0

    def _unique(self, time: int) -> int:
        """A time that no row of ours has had: a series must not overwrite itself."""
        self._last = max(self._last + 1, time)
        return self._last

    def run(self, row: RunRow) -> None:
        """Takes what became of a run; from any thread."""
        with self._lock:
            self._runs.append(row)
        if not self._asked:
            self._ask()

    def log(self, database: str, trigger: str, run_id: str, time: int, level: str, text: str) -> None:
        """Takes a line that a run said; from any thread."""
        with self._lock:
            if self._characters > WAITING_CHARACTERS:
                self.dropped += 1
                return
            self._characters += min(len(text), TEXT_LIMIT) + len(run_id)
            self._logs.append(
                {
                    "database": database,
                    "trigger": trigger,
                    "level": level,
                    "text": told(text[:TEXT_LIMIT]) or " ",
                    "run_id": run_id,
                    "time": self._unique(time),
                }
            )
        self._ask()

    def _ask(self, *, at_once: bool = False) -> None:
        """Has the rows written in a quarter of a second, with those that come until then.

        A block for each frame would cost as much as the frame.
        """
        with self._lock:
            if self._asked:
                return
            self._asked = True
        try:
            self._submit(_Block(self, 0.0 if at_once else BLOCK_SECONDS), None)
        except Exception:  # noqa: BLE001 - the engine is shutting down: these rows are those that may be lost
            self.dropped += len(self._runs) + len(self._logs)

    def take(self) -> list[tuple[str, TableRows]]:
        """The rows that wait, as tables: as many as one block holds, oldest first; for the others another one is asked for."""
        with self._lock:
            runs, self._runs = self._runs[:BLOCK_ROWS], self._runs[BLOCK_ROWS:]
            count, size = 0, 0
            while count < len(self._logs) and size <= BLOCK_CHARACTERS:
                size += len(self._logs[count]["text"]) + len(self._logs[count]["run_id"])
                count += 1
            logs, self._logs = self._logs[:count], self._logs[count:]
            self._characters = max(0, self._characters - size)
            self._asked = False
            more = bool(self._runs or self._logs)
        if more:
            self._ask(at_once=True)
        found = []
        if runs:
            rows = [_shortened(row, self._unique(row.time)) for row in runs]
            found.append((INTERNAL, column_rows(RUNS, rows)))
        if logs:
            found.append((INTERNAL, table_rows(LOGS, logs)))
        return found


def _shortened(row: RunRow, time: int) -> tuple[Any, ...]:
    error = row.error
    if error is not None and len(error) > TEXT_LIMIT:
        row = row._replace(error=error[:TEXT_LIMIT])
    return (*row[:-1], time)


class _Block(RowsWrite):
    """The rows that wait when the committer comes to them: one block, however many runs there were."""

    def __init__(self, history: History, lazy: float) -> None:
        super().__init__((), source="engine", lazy=lazy)
        self._history = history

    def prepare(self, draft: Any) -> Any:
        self.rows = self._history.take()
        return super().prepare(draft)


def table_rows(schema: TableSchema, rows: Sequence[dict[str, Any]]) -> TableRows:
    """Rows of one of the engine's own tables, with all its columns declared."""
    made = from_rows(rows, schema.name, schema, schema.tags, default_time=0)
    return TableRows(schema.name, schema.tags, schema.fields, made.batch)


def column_rows(schema: TableSchema, rows: Sequence[tuple[Any, ...]]) -> TableRows:
    """The same from tuples in the order of the schema's columns: there may be thousands in a block."""
    arrow = arrow_schema(schema)
    arrays, fields = [], []
    for column, values in zip(arrow, zip(*rows, strict=True), strict=True):
        array = pa.array(values, column.type)
        if array.null_count < len(array):
            arrays.append(array)
            fields.append(column)
    return TableRows(
        schema.name, schema.tags, schema.fields, pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    )
