"""What a run has written so far: checked at the call, committed with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from walmill.errors import InvalidRequest
from walmill.ingest.arrow import from_arrow
from walmill.ingest.assemble import TableRows
from walmill.ingest.convert import from_lines, from_rows
from walmill.ingest.errors import RowError
from walmill.ingest.names import check_database_name
from walmill.ingest.precision import Precision
from walmill.ingest.reader import read_rows, scan
from walmill.model.schema import TableSchema
from walmill_hookspecs import LimitExceeded, Line, WriteError
from walmill_hookspecs.context import WriteData
from walmill_worker.context import not_writable

_UNTIMED = -(2**63)
"""No timestamp can be this one: it stands for a line without time until the run's time is put in."""


class Effects:
    """Rows of a run, by database and table, against the schema as it would be after them.

    Args:
        schema_of: The schema of a table in the run's view, by database and table.
        start: Time for the first row without one, ns; the next ones get successive ns.
        max_rows: How many rows the run may write.
    """

    def __init__(self, schema_of: Callable[[str, str], TableSchema | None], *, start: int, max_rows: int) -> None:
        self._schema_of = schema_of
        self._overlay: dict[tuple[str, str], TableSchema] = {}
        self._next_time = start
        self._max_rows = max_rows
        self.rows: list[tuple[str, TableRows]] = []
        self.num_rows = 0

    def take(self) -> list[tuple[str, TableRows]]:
        """The rows so far; they are forgotten here."""
        rows, self.rows = self.rows, []
        return rows

    def settled(self, count: int) -> None:
        """The first so many batches of `rows` are committed: they count no more, and the view has their columns."""
        del self.rows[:count]
        self.num_rows = sum(rows.batch.num_rows for _, rows in self.rows)
        self._overlay.clear()
        for database, rows in self.rows:
            self.remember(database, rows)

    def convert(
        self,
        database: str,
        data: WriteData,
        table: str | None,
        tags: Sequence[str] | None,
        *,
        not_before: int,
    ) -> list[TableRows]:
        """Data of any accepted kind as rows of tables, checked.

        Args:
            database: Name of the database.
            data: The data.
            table: As in `ctx.write`.
            tags: As in `ctx.write`.
            not_before: The time of the run, ns: rows without a time get no earlier one.

        Raises:
            WriteError: For what does not fit; nothing of it is kept.
            LimitExceeded: If the run would write too many rows.
        """
        self._next_time = max(self._next_time, not_before)
        try:
            check_database_name(database)
            found = self._convert(database, data, table, tags)
        except RowError as error:
            raise WriteError(error.message, row=error.row, column=error.column) from None
        except InvalidRequest as error:
            raise WriteError(error.message) from None
        count = sum(rows.batch.num_rows for rows in found)
        if self.num_rows + count > self._max_rows:
            raise LimitExceeded(
                f"the run would write {self.num_rows + count:,} rows; its limit is {self._max_rows:,}: write fewer, or "
                "commit what there is with ctx.checkpoint()"
            )
        return found

    def add(self, database: str, found: Sequence[TableRows]) -> None:
        """Keeps converted rows for the run's commit."""
        for rows in found:
            self.remember(database, rows)
            self.rows.append((database, rows))
            self.num_rows += rows.batch.num_rows

    def remember(self, database: str, rows: TableRows) -> None:
        """Lets later writes of the run see the columns that these rows add."""
        known = self.schema(database, rows.name) or TableSchema(rows.name)
        self._overlay[database, rows.name] = known.with_columns(rows.new_tags, rows.new_fields)

    def schema(self, database: str, table: str) -> TableSchema | None:
        """The schema of a table, with what this run adds."""
        return self._overlay.get((database, table)) or self._schema_of(database, table)

    def _convert(
        self, database: str, data: WriteData, table: str | None, tags: Sequence[str] | None
    ) -> list[TableRows]:
        def schema_of(name: str) -> TableSchema | None:
            return self.schema(database, name)

        if isinstance(data, str):
            _forbid_table(table, "line protocol")
            return self._from_text(data, schema_of)
        if isinstance(data, Line):
            data = [data]
        if hasattr(data, "__arrow_c_stream__"):
            name = _require_table(table, "Arrow data")
            rows = from_arrow(cast("Any", data), name, schema_of(name), tags, default_time=self._next_time)
            self._next_time += rows.batch.num_rows
            return [rows] if rows.batch.num_rows else []
        if isinstance(data, Mapping) or not isinstance(data, Iterable):
            raise WriteError(not_writable(data))
        items: list[Any] = list(data)
        if not items:
            return []
        if all(isinstance(item, Line) for item in items):
            _forbid_table(table, "Line")
            found = from_lines(cast("list[Line]", items), schema_of, default_time=self._next_time)
            self._next_time += len(items)
            return list(found.values())
        name = _require_table(table, "mappings")
        rows = from_rows(items, name, schema_of(name), tags, default_time=self._next_time)
        self._next_time += len(items)
        return [rows]

    def _from_text(self, text: str, schema_of: Callable[[str], TableSchema | None]) -> list[TableRows]:
        body = text.encode("utf-8", "surrogatepass")
        scanned = scan(body, precision=Precision.NANOSECOND, default_time=_UNTIMED)
        scanned, self._next_time = scanned.stamped(_UNTIMED, self._next_time)
        made = read_rows(scanned, schema_of, accept_partial=False)
        if made.errors:
            first = made.errors[0]
            raise WriteError(
                f"line {first.line_number}: {first.message}: {first.original_line[:60]!r}", row=first.line_number - 1
            )
        return list(made.tables.values())


def _forbid_table(table: str | None, what: str) -> None:
    if table is not None:
        raise WriteError(f"table={table!r} was given with {what}, which names its table itself; leave it out")


def _require_table(table: str | None, what: str) -> str:
    if table is None:
        raise WriteError(f"{what} need table=, the name of the table")
    return table
