"""The Flight server: `DoGet` with a ticket gives the rows of a query, batch by batch. It listens on a socket of its own that
only this process's user reaches; `walmill.http.door` brings connections to it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import evolve
from pyarrow import flight

from walmill.asking import ask_rows
from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.flight import catalog
from walmill.flight.callers import Authorize, Caller, Callers, Calls, Open
from walmill.flight.messages import make, type_of, unwrap, wrap
from walmill.flight.problems import flight_error
from walmill.flight.ticket import DATABASE_HEADERS, FORM, Ticket, parse_ticket, to_bytes
from walmill.influxql.translate import quoted
from walmill.leftovers import Place
from walmill.query.desk import Asked
from walmill.query.errors import NotSupported
from walmill.query.results import ResultStream

WHO = "who"
SOCKET_PATH_BYTES = 103
"""sockaddr_un holds 108 bytes on Linux and 104 on macOS, with a zero at the end."""
INFO_SECONDS = 60.0
CREATE_PREPARED = "CreatePreparedStatement"
CLOSE_PREPARED = "ClosePreparedStatement"
_PLACEHOLDER = re.compile(r"\$\d")
ACTIONS = {
    CREATE_PREPARED: "Prepares a statement: ActionCreatePreparedStatementRequest to ActionCreatePreparedStatementResult.",
    CLOSE_PREPARED: "Forgets a prepared statement: ActionClosePreparedStatementRequest.",
}


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """A Flight server over an engine. Calls run in threads of gRPC, any number at once; the engine's desk gives them turns.

    Args:
        engine: Gives the engine; it may not be open yet, and says so.
        authorize: Says who calls.
    """

    def __init__(self, engine: Callable[[], Engine], authorize: Authorize) -> None:
        self._engine = engine
        self._home = Place(_short_directory())
        self._calls = Calls()
        self.path = str(self._home.path / "socket")
        try:
            super().__init__(f"grpc+unix://{self.path}", auth_handler=Open(), middleware={WHO: Callers(authorize)})
        except BaseException:
            self._calls.close()
            self._home.remove()
            raise

    def close(self) -> None:
        """Stops running queries, and ends."""
        self._calls.close()
        self.shutdown()
        self._home.remove()

    # ---- calls

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Rows of a query, or what a command of Flight SQL asks."""
        caller: Caller = context.get_middleware(WHO)
        try:
            found = command_of(ticket.ticket)
            if found is None:
                return self._rows(context, caller, parse_ticket(ticket.ticket, caller.database()))
            name, message = found
            if name == "TicketStatementQuery":
                return self._rows(context, caller, parse_ticket(message.statement_handle, caller.database()))
            return flight.RecordBatchStream(self._told(caller, name, message))
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """Where the rows of a command of Flight SQL are to be had, and their columns."""
        caller: Caller = context.get_middleware(WHO)
        try:
            schema, ticket = self._planned(caller, descriptor)
            return flight.FlightInfo(schema, descriptor, [flight.FlightEndpoint(ticket, [])], -1, -1)
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """Columns of a command's rows."""
        try:
            return flight.SchemaResult(self._planned(context.get_middleware(WHO), descriptor)[0])
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None

    def do_action(self, context: Any, action: Any) -> Any:
        """Prepared statements: their handle is the statement itself, so nothing is kept and none is forgotten."""
        caller: Caller = context.get_middleware(WHO)
        try:
            if action.type == CREATE_PREPARED:
                found = command_of(action.body.to_pybytes())
                if found is None or found[0] != "ActionCreatePreparedStatementRequest":
                    raise InvalidRequest(f"the body of {CREATE_PREPARED} is no ActionCreatePreparedStatementRequest")
                ticket = Ticket(named(caller), found[1].query)
                made = make(
                    "ActionCreatePreparedStatementResult",
                    prepared_statement_handle=to_bytes(ticket),
                    dataset_schema=self._prepared(ticket).serialize().to_pybytes(),
                    parameter_schema=pa.schema([]).serialize().to_pybytes(),
                )
                return iter([flight.Result(wrap(made))])
            if action.type == CLOSE_PREPARED:
                return iter([])
            raise NotSupported(f"the action {action.type!r:.60} is not known here; {' and '.join(ACTIONS)} are")
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """What `do_action` knows."""
        del context
        return list(ACTIONS.items())

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Values of a prepared statement: they become part of its handle. Rows are not written over Flight."""
        caller: Caller = context.get_middleware(WHO)
        try:
            found = command_of(descriptor.command) if descriptor.command else None
            if found is None or found[0] != "CommandPreparedStatementQuery":
                raise NotSupported("Flight reads only; write to /api/v3/write_arrow or /api/v3/write_lp")
            ticket = parse_ticket(found[1].prepared_statement_handle, caller.database())
            bound = evolve(ticket, params=values_of(reader.read_all()))
            made = make("DoPutPreparedStatementResult", prepared_statement_handle=to_bytes(bound))
            writer.write(pa.py_buffer(made.SerializeToString()))
        except Exception as error:  # noqa: BLE001 - gRPC is told each of them
            raise flight_error(error) from None

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Not known."""
        del context, descriptor, reader, writer
        raise flight_error(NotSupported("DoExchange is not known here"))

    def list_flights(self, context: Any, criteria: Any) -> Any:
        """Not known."""
        del context, criteria
        raise flight_error(NotSupported("ListFlights is not known here; Flight SQL's GetTables lists tables"))

    # ---- what they need

    def _watch(self, context: Any, caller: Caller, queries: list[Asked]) -> None:
        """Stops queries if their caller goes away."""
        call = self._calls.begin(context, queries)
        caller.at_end(lambda: self._calls.end(call))

    def _planned(self, caller: Caller, descriptor: Any) -> tuple[pa.Schema, bytes]:
        """Columns and ticket of a command."""
        if not descriptor.command:
            raise InvalidRequest(f"a path is no query here; {FORM}, or a command of Flight SQL")
        found = command_of(descriptor.command)
        if found is None:
            ticket = parse_ticket(descriptor.command, caller.database())
            return self._schema(ticket), bytes(descriptor.command)
        name, message = found
        if name == "CommandStatementQuery":
            ticket = Ticket(named(caller), message.query)
        elif name == "CommandPreparedStatementQuery":
            ticket = parse_ticket(message.prepared_statement_handle, caller.database())
        else:
            return self._told(caller, name, message, columns_only=True).schema, bytes(descriptor.command)
        return self._schema(ticket), wrap(make("TicketStatementQuery", statement_handle=to_bytes(ticket)))

    def _prepared(self, ticket: Ticket) -> pa.Schema:
        """Columns of a statement that is prepared; none for one that waits for values, without which it has no types."""
        try:
            return plain(self._engine().schema_of(ticket.text, database=ticket.database))
        except InvalidRequest:
            if _PLACEHOLDER.search(ticket.text):
                return pa.schema([])
            raise

    def _schema(self, ticket: Ticket) -> pa.Schema | None:
        """Columns of a statement's rows, before it is run; None for those of InfluxQL, which the rows tell."""
        if ticket.kind != "sql":
            return None
        return plain(self._engine().schema_of(ticket.text, ticket.params, database=ticket.database))

    def _told(self, caller: Caller, name: str, message: Any, *, columns_only: bool = False) -> pa.Table:
        """What a command asks about the database; with `columns_only` no rows are looked for."""

        def ask(sql: str, params: Mapping[str, Any]) -> pa.Table:
            return self._engine().query(sql, params, database=named(caller), timeout=INFO_SECONDS)

        def given(field: str) -> str | None:
            return getattr(message, field) if message.HasField(field) else None

        def schema_of(schema: str, table: str) -> pa.Schema:
            sql = f"SELECT * FROM {quoted(schema)}.{quoted(table)}"  # noqa: S608 - quoted names
            return plain(self._engine().schema_of(sql, database=named(caller)))

        match name:
            case "CommandGetCatalogs":
                return catalog.catalogs()
            case "CommandGetTableTypes":
                return catalog.table_types()
            case "CommandGetSqlInfo":
                return catalog.sql_info(list(message.info))
            case "CommandGetXdbcTypeInfo":
                return catalog.type_info(message.data_type if message.HasField("data_type") else None)
            case "CommandGetPrimaryKeys":
                return catalog.PRIMARY_KEYS.empty_table()
            case "CommandGetExportedKeys" | "CommandGetImportedKeys" | "CommandGetCrossReference":
                return catalog.FOREIGN_KEYS.empty_table()
            case "CommandGetDbSchemas" if columns_only:
                return catalog.SCHEMAS.empty_table()
            case "CommandGetDbSchemas":
                return catalog.schemas(ask, given("catalog"), given("db_schema_filter_pattern"))
            case "CommandGetTables" if columns_only:
                return (catalog.TABLES_WITH_SCHEMA if message.include_schema else catalog.TABLES).empty_table()
            case "CommandGetTables":
                return catalog.tables(
                    ask,
                    given("catalog"),
                    given("db_schema_filter_pattern"),
                    given("table_name_filter_pattern"),
                    list(message.table_types),
                    schema_of if message.include_schema else None,
                )
        raise NotSupported(f"{name} is not known here; Flight reads only")

    def _rows(self, context: Any, caller: Caller, ticket: Ticket) -> Any:
        engine = self._engine()
        if ticket.kind == "influxql":
            stopping: list[Asked] = []
            self._watch(context, caller, stopping)
            table = ask_rows(engine, ticket.database, ticket.text, ticket.params, origin=caller.name, stopping=stopping)
            return flight.RecordBatchStream(table)
        query = engine.ask(ticket.database, ticket.text, kind="flight", origin=caller.name)
        self._watch(context, caller, [query])
        stream = engine.stream(ticket.text, ticket.params, database=ticket.database, asked=query)
        caller.at_end(stream.close)
        schema = plain(stream.schema)
        return flight.GeneratorStream(schema, _batches(stream, schema))


def _batches(stream: ResultStream, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        for batch in stream:
            yield batch if batch.schema == schema else batch.cast(schema)
    except Exception as error:  # noqa: BLE001 - gRPC is told each of them
        raise flight_error(error) from None


def _short_directory() -> Path:
    """A directory for a socket, whose path the kernel bounds."""
    made = Path(tempfile.mkdtemp(prefix="walmill-flight-"))
    if len(os.fsencode(made)) + len("/socket") <= SOCKET_PATH_BYTES:
        return made
    made.rmdir()
    return Path(tempfile.mkdtemp(prefix="walmill-flight-", dir="/tmp"))


def plain(schema: pa.Schema) -> pa.Schema:
    """A schema without dictionaries, which Flight clients in other languages may not know how to replace in a stream."""
    return pa.schema(
        [one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in schema]
    )


def named(caller: Caller) -> str:
    """The database that a call of Flight SQL is about.

    Raises:
        InvalidRequest: If no header names one.
    """
    found = caller.database()
    if not found:
        raise InvalidRequest(f"no database is named; send one of the headers {', '.join(DATABASE_HEADERS)}")
    return found


def command_of(data: bytes) -> tuple[str, Any] | None:
    """Name and message of Flight SQL; None for JSON.

    Raises:
        NotSupported: If it is neither.
    """
    if data.lstrip()[:1] == b"{":
        return None
    found = unwrap(data)
    if found is None and (said := type_of(data)):
        raise NotSupported(f"{said:.80} is not known here; {FORM}, or a command of Flight SQL")
    return found


def values_of(rows: pa.Table) -> dict[str, Any]:
    """Values for `$1`, `$2`, … of a prepared statement, by the order of their columns.

    Args:
        rows: What the client bound.

    Raises:
        InvalidRequest: If it is not one row, or a value has a type that cannot be bound.
    """
    if rows.num_rows != 1:
        raise InvalidRequest(f"{rows.num_rows:,} rows of values are bound to a statement; bind one")
    found: dict[str, Any] = {}
    for number, column in enumerate(rows.columns, 1):
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("ns")).cast(pa.string())  # noqa: PLW2901 - the same one, as SQL reads it
        value = column[0].as_py()
        if value is not None and not isinstance(value, bool | int | float | str):
            raise InvalidRequest(
                f"the value of ${number} is {column.type}; bind a number, a text, a time, true or false"
            )
        found[str(number)] = value
    return found
