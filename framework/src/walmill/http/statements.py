"""CREATE DATABASE, as clients of InfluxDB 1 send it before they write."""

from __future__ import annotations

import re

from walmill.errors import InvalidRequest
from walmill.ingest.errors import short
from walmill.ingest.names import check_database_name

_CREATE = re.compile(
    r"""\s*CREATE\s+DATABASE\s+(?:"(?P<quoted>(?:[^"\\\n]|\\.)*)"|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))\s*(?P<rest>.*)""",
    re.IGNORECASE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BEGINS = re.compile(r"\s*CREATE\b", re.IGNORECASE)
_EXAMPLE = "of statements that change something this route runs CREATE DATABASE only"


def is_create(statement: str) -> bool:
    """Whether a statement creates something."""
    return _BEGINS.match(statement) is not None


def parse_create_database(statement: str) -> str:
    """The database that an InfluxQL statement creates.

    Args:
        statement: `CREATE DATABASE name` or `CREATE DATABASE "name"`, with or without a semicolon.

    Raises:
        InvalidRequest: It is another statement, or the name breaks the rules.
    """
    found = _CREATE.fullmatch(statement)
    if found is None:
        raise InvalidRequest(f"the statement {short(statement)} cannot be run here: {_EXAMPLE}")
    rest = found["rest"].rstrip().rstrip(";").strip()
    if rest:
        raise InvalidRequest(
            f"{short(rest)} after the name of the database is not known: databases have no retention policy of their own; "
            "write CREATE DATABASE and the name"
        )
    name = found["bare"] if found["bare"] is not None else _ESCAPED.sub(_unescaped, found["quoted"])
    return check_database_name(name)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
