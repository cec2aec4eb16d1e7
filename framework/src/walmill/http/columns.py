"""Writes of rows that need no parsing of line protocol: `POST /api/v3/write_rows` (JSON) and `/api/v3/write_arrow` (Arrow IPC).

A worker thread reads the body and converts it against the schema as it is then; the server's loop and the committer only hand
it on. The committer checks again: if the table has changed meanwhile, the rows are converted anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import anyio.to_thread
from attrs import frozen
from starlette.types import Receive, Scope, Send

from walmill.engine import Engine
from walmill.errors import InvalidRequest, Unavailable
from walmill.http.body import read_body
from walmill.http.parameters import flag, query_pairs
from walmill.http.problems import LIMIT_MESSAGES, send_bytes
from walmill.http.site import Site, json_bytes, json_list
from walmill.ingest.arrow import from_arrow
from walmill.ingest.assemble import TableRows
from walmill.ingest.convert import from_numbered_rows
from walmill.ingest.errors import RowError, short
from walmill.ingest.ipc import read_stream
from walmill.ingest.jsonrows import read_json_rows
from walmill.ingest.names import COLUMNS_PER_TABLE, check_database_name, check_table_name
from walmill.model.catalog import Table
from walmill.model.schema import TableSchema
from walmill.store.draft import COMMIT_BYTES, Draft, SchemaConflict
from walmill.store.submission import RowsWrite, Ticket

ATTEMPTS = 8
"""So often rows are converted anew because others changed the table meanwhile."""


@frozen
class ColumnsParameters:
    """What the query string says.

    Attributes:
        database: Name of the database.
        table: Name of the table.
        tags: Names of the tags; None if nothing is said.
        accept_partial: Whether good rows are kept when others are bad.
        no_sync: Whether it is answered before it is synced.
    """

    database: str
    table: str
    tags: tuple[str, ...] | None = None
    accept_partial: bool = False
    no_sync: bool = False


@lru_cache(maxsize=256)
def parse_columns_parameters(query: bytes) -> ColumnsParameters:
    """Reads the query string.

    Args:
        query: As it came.

    Raises:
        InvalidRequest: A value is wrong, or `db` or `table` is missing.
    """
    pairs = query_pairs(query, strict=True)
    given = dict(pairs)
    missing = [name for name in ("db", "table") if name not in given]
    if missing:
        raise InvalidRequest(
            f"the query parameter {' and the query parameter '.join(missing)} is missing: write for example "
            "?db=plant&table=press&tags=line,side"
        )
    said = [value for name, value in pairs if name == "tags"]
    tags = tuple(tag for value in said for tag in value.split(",") if tag)
    return ColumnsParameters(
        check_database_name(given["db"]),
        check_table_name(given["table"]),
        tags if said else None,
        flag("accept_partial", given.get("accept_partial"), False),
        flag("no_sync", given.get("no_sync"), False),
    )


@frozen
class Format:
    """A kind of body.

    Attributes:
        read: What the body holds, as far as no schema is needed for it.
        convert: The rows in columns, and why the others were refused; None and an error for what is about no single row.
    """

    read: Callable[[bytes], Any]
    convert: Callable[[Any, ColumnsParameters, TableSchema | None, int], tuple[TableRows | None, list[RowError]]]


def _from_json(
    data: Any, asked: ColumnsParameters, schema: TableSchema | None, now: int
) -> tuple[TableRows | None, list[RowError]]:
    rows, refused = from_numbered_rows(data.rows, asked.table, schema, asked.tags, default_time=now)
    return rows, sorted([*data.errors, *refused], key=lambda error: error.row or 0)


def _from_arrow(
    data: Any, asked: ColumnsParameters, schema: TableSchema | None, now: int
) -> tuple[TableRows | None, list[RowError]]:
    errors: list[RowError] = []
    rows: TableRows | None = None
    try:
        rows = from_arrow(
            data,
            asked.table,
            schema,
            asked.tags,
            default_time=now,
            checked=True,
            errors=errors if asked.accept_partial else None,
        )
    except RowError as error:
        errors = [error]
    numbered = [RowError(None if error.row is None else error.row + 1, error.column, error.reason) for error in errors]
    return rows, sorted(numbered, key=lambda error: error.row or 0)


JSON = Format(read_json_rows, _from_json)
ARROW = Format(lambda body: read_stream(body, max_bytes=COMMIT_BYTES), _from_arrow)


class ColumnsEndpoint:
    """The endpoint.

    Args:
        site: The engine.
        form: What its bodies are.
    """

    def __init__(self, site: Site, form: Format) -> None:
        self._site = site
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        site = self._site
        engine = site.engine
        asked = parse_columns_parameters(scope["query_string"])
        body = await read_body(scope, receive, site.body_limit)
        if not body:
            raise InvalidRequest("incoming write was empty")
        errors = await self._write(engine, asked, body)
        if not errors:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        status, report = await anyio.to_thread.run_sync(_refusal, errors, asked.accept_partial)
        await send_bytes(send, status, report, {"content-type": "application/json"})

    async def _write(self, engine: Engine, asked: ColumnsParameters, body: bytes) -> list[RowError]:
        """Writes what can be written; says what was refused."""
        data: Any = None
        for _ in range(ATTEMPTS):
            catalog = engine.view().catalog
            table = catalog.find_table(catalog.find_database(asked.database), asked.table)
            schema = None if table is None else table.schema
            if schema is None and asked.tags is None:
                raise InvalidRequest(
                    f"the table {short(asked.table)} is new: name the columns that are tags, as in tags=line,side, or write "
                    "tags= for none"
                )

            work = partial(_work, self._form, body, data, asked, schema, engine.options.clock.now_ns())
            data, rows, errors = await anyio.to_thread.run_sync(work, limiter=self._site.decoders)
            if rows is None or not rows.batch.num_rows or (errors and not asked.accept_partial):
                return errors
            submission = RowsWrite(
                [(asked.database, rows)], no_sync=asked.no_sync, guard=_guard(asked.database, rows, table)
            )
            try:
                with engine.entering(submission):
                    await engine.submit(submission, Ticket(asyncio.get_running_loop()))
            except SchemaConflict:
                continue
            return errors
        raise Unavailable(
            f"the table {short(asked.table)} was changed by others {ATTEMPTS} times while these rows were on their way: send "
            "them again",
            retry_after=1,
        )


def _work(
    form: Format, body: bytes, data: Any, asked: ColumnsParameters, schema: TableSchema | None, now: int
) -> tuple[Any, TableRows | None, list[RowError]]:
    """Reads the body, unless that is done, and converts it: in a worker thread."""
    if data is None:
        data = form.read(body)
    return data, *form.convert(data, asked, schema, now)


def _guard(database: str, rows: TableRows, converted_for: Table | None) -> Callable[[Draft], None]:
    """Refuses rows that do not fit the table any more: it was made anew, or has no room for their columns."""

    def check(draft: Draft) -> None:
        table = draft.catalog.find_table(draft.catalog.find_database(database), rows.name)
        if converted_for is not None and (table is None or table.id != converted_for.id):
            raise SchemaConflict(f"the table {rows.name!r} was deleted while rows for it were under way")
        if table is not None and (rows.new_tags or rows.new_fields):
            known = {*table.schema.tags, *table.schema.fields}
            gain = sum(name not in known for name in (*rows.new_tags, *rows.new_fields))
            if gain and len(known) + gain > COLUMNS_PER_TABLE:
                raise SchemaConflict(f"the table {rows.name!r} got columns while rows for it were under way")

    return check


def _refusal(errors: list[RowError], accept_partial: bool) -> tuple[int, bytes]:
    """Status and body for refused rows: every one by its number."""
    status = 422 if any(error.reason.startswith(LIMIT_MESSAGES) for error in errors) else 400
    partial = accept_partial and all(error.row is not None for error in errors)
    what = "partial write of rows occurred" if partial else "rows were refused, and nothing was written"
    data = json_list([_shown(error) for error in errors])
    return status, b'{"error":' + json_bytes(what) + b',"data":' + data + b"}"


def _shown(error: RowError) -> dict[str, Any]:
    shown: dict[str, Any] = {"error_message": error.reason}
    if error.row is not None:
        shown["row_number"] = error.row
    if error.column is not None:
        shown["column"] = error.column
    return shown
