"""What a ticket asks for: the JSON that InfluxDB 3's clients send with `DoGet`. Pure.

`{"database": "plant", "sql_query": "SELECT …", "query_type": "sql", "params": {…}}`; `query_type` may also be `influxql`.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen

from walmill.errors import InvalidRequest

KINDS = ("sql", "influxql")
DATABASE_HEADERS = ("database", "bucket", "bucket-name", "iox-namespace-name")
"""Headers that name the database of a ticket without one; InfluxDB's."""
FORM = 'a ticket is JSON: {"database": "NAME", "sql_query": "SELECT …", "query_type": "sql"}'


@frozen
class Ticket:
    """A query that a client asks for.

    Attributes:
        database: Name of the database.
        text: The statement.
        kind: Its language.
        params: Values of its `$name` parameters; None for none.
    """

    database: str
    text: str
    kind: str = "sql"
    params: dict[str, Any] | None = None


def parse_ticket(data: bytes, named: str | None = None) -> Ticket:
    """Reads a ticket.

    Args:
        data: What the client sent.
        named: The database that a header names.

    Raises:
        InvalidRequest: If it is no such ticket.
    """
    try:
        given = json.loads(data)
    except ValueError:
        raise InvalidRequest(f"the ticket of {len(data)} bytes is no JSON; {FORM}") from None
    if not isinstance(given, dict):
        raise InvalidRequest(f"the ticket is {data[:40]!r}; {FORM}")
    database = _text("database", given.get("database") or named)
    text = _text("sql_query", given.get("sql_query"))
    kind = given.get("query_type") or "sql"
    if kind not in KINDS:
        raise InvalidRequest(f"query_type={kind!r:.40} is no language; give one of {', '.join(KINDS)}")
    params = given.get("params")
    if params is not None and not isinstance(params, dict):
        raise InvalidRequest(f'params is {params!r:.40}; give an object of values: {{"name": 1}}')
    return Ticket(database, text, kind, params or None)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"the ticket has no {name}; {FORM}")
    return value


def to_bytes(ticket: Ticket) -> bytes:
    """A ticket as `parse_ticket` reads it."""
    given = {"database": ticket.database, "sql_query": ticket.text, "query_type": ticket.kind, "params": ticket.params}
    return json.dumps(given).encode()
