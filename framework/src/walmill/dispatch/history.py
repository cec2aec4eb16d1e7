"""What the engine writes about runs: rows of ordinary tables in the database `_internal`.

Successes go in blocks, a quarter of a second late at most; they may be lost in a crash, outcomes never. Runs of triggers on
`_internal` leave no rows there, or every block would make another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from walmill.ingest.assemble import TableRows
from walmill.ingest.convert import from_rows
from walmill.model.catalog import INTERNAL
from walmill.model.schema import TableSchema, arrow_schema
from walmill.store.submission import RowsWrite, Submission, Ticket
from walmill_hookspecs import RunRecord

BLOCK_SECONDS = 0.25
BLOCK_ROWS = 20_000
"""More rows than this are not kept waiting: the oldest are written at once."""
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
    },
)


class History:
    """Collects rows about runs and logs, and has them written in blocks.

    Args:
        submit: Queues a submission; from any thread.
    """

    def __init__(self, submit: Callable[[Submission, Ticket | None], Ticket]) -> None:
        self._submit = submit
        self._lock = threading.Lock()
        self._runs: list[tuple[Any, ...]] = []
        self._logs: list[dict[str, Any]] = []
        self._last = 0
        self._asked = False
        self.dropped = 0

    def _unique(self, time: int) -> int:
        """A time that no row of ours has had: a series must not overwrite itself."""
        self._last = max(self._last + 1, time)
        return self._last

    def run(self, record: RunRecord, started: int) -> None:
        """Takes the record of a run; from any thread."""
        error = None if record.error is None else record.error[:TEXT_LIMIT]
        with self._lock:
            self._runs.append(
                (
                    record.database,
                    record.trigger,
                    record.plugin,
                    record.hook,
                    record.status,
                    record.run_id,
                    record.run_key,
                    record.attempt,
                    record.duration_ns,
                    record.wait_ns,
                    record.rows_in,
                    record.rows_written,
                    record.sequence,
                    error,
                    self._unique(started),
                )
            )
        if not self._asked:
            self._ask()

    def log(self, database: str, trigger: str, run_id: str, time: int, level: str, text: str) -> None:
        """Takes a line that a run said; from any thread."""
        with self._lock:
            self._logs.append(
                {
                    "database": database,
                    "trigger": trigger,
                    "level": level,
                    "text": text[:TEXT_LIMIT] or " ",
                    "run_id": run_id,
                    "time": self._unique(time),
                }
            )
        self._ask()

    def _ask(self) -> None:
        """Has the rows written with the next frame, or in a quarter of a second."""
        with self._lock:
            if self._asked:
                return
            self._asked = True
        try:
            self._submit(_Block(self), None)
        except Exception:  # noqa: BLE001 - the engine is shutting down: these rows are those that may be lost
            self.dropped += len(self._runs) + len(self._logs)

    def take(self) -> list[tuple[str, TableRows]]:
        """The rows that wait, as tables."""
        with self._lock:
            runs, self._runs = self._runs, []
            logs, self._logs = self._logs, []
            self._asked = False
        found = []
        if runs:
            found.append((INTERNAL, column_rows(RUNS, runs)))
        if logs:
            found.append((INTERNAL, table_rows(LOGS, logs)))
        return found


class _Block(RowsWrite):
    """The rows that wait when the committer comes to them: one block, however many runs there were."""

    def __init__(self, history: History) -> None:
        super().__init__((), source="engine", lazy=BLOCK_SECONDS)
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
