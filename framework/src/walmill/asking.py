"""InfluxQL over an engine: each statement is one or several queries in SQL, and each of them goes over the engine's desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.influxql.answer import Asker
from walmill.influxql.parameters import bind
from walmill.influxql.parse import Show, parse
from walmill.influxql.rows import to_table
from walmill.query.desk import Asked


def asker_of(
    engine: Engine, database: str | None, *, origin: str, stopping: list[Asked], epoch: str | None = None
) -> Asker:
    """What answers statements.

    Args:
        engine: The engine.
        database: The database of statements that name none.
        origin: Who asks.
        stopping: The query that runs is in it as long as it runs; whoever wants to stop the statement cancels it.
        epoch: Unit of times; None for RFC 3339.
    """

    def ask(name: str, sql: str, own: pa.Table | None = None) -> pa.Table:
        query = engine.ask(name, sql, kind="influxql", origin=origin)
        stopping.append(query)
        try:
            with engine.stream(sql, database=name, asked=query, given=own) as stream:
                return stream.read_all()
        finally:
            stopping.remove(query)

    now = engine.options.clock.now_ns()
    return Asker(catalog=engine.view().catalog, ask=ask, database=database, now=now, epoch=epoch)


def ask_rows(
    engine: Engine,
    database: str | None,
    text: str,
    params: Mapping[str, Any] | None = None,
    *,
    origin: str,
    stopping: list[Asked],
) -> pa.Table:
    """One statement's answer as a table.

    Args:
        engine: The engine.
        database: As for `asker_of`.
        text: The statement.
        params: Values of its `$name` parameters.
        origin: As for `asker_of`.
        stopping: As for `asker_of`.

    Raises:
        InvalidRequest: If the statement is wrong, or there are several.
        NotFound: If there is no such database.
    """
    statements = parse(bind(text, params))
    if len(statements) != 1:
        raise InvalidRequest(f"{len(statements)} statements; give one at a time here, or all of them to /query")
    asker = asker_of(engine, database, origin=origin, stopping=stopping, epoch="ns")
    statement = statements[0]
    named = statement.database if isinstance(statement, Show) else None
    return to_table(statement, asker.series(statement), named or database)
