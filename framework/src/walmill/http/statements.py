"""`GET` and `POST /query` of InfluxDB 1, as far as clients that write need it: they create their database first."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from starlette.types import Receive, Scope, Send

from walmill.errors import Conflict, InvalidRequest
from walmill.http.body import header, read_body
from walmill.http.fields import parse_object
from walmill.http.parameters import query_pairs
from walmill.http.problems import send_json
from walmill.http.site import Site
from walmill.ingest.errors import short
from walmill.ingest.names import check_database_name

_CREATE = re.compile(
    r"""\s*CREATE\s+DATABASE\s+(?:"(?P<quoted>(?:[^"\\\n]|\\.)*)"|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))\s*(?P<rest>.*)""",
    re.IGNORECASE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_EXAMPLE = "this route runs only CREATE DATABASE; read with SQL at /api/v3/query_sql"


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


class StatementEndpoint:
    """The endpoint. Creating a database that exists is no error, as in InfluxDB 1.

    Args:
        site: The engine.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        engine = self._site.engine
        asked = dict(query_pairs(scope["query_string"]))
        if scope["method"] == "POST":
            asked |= _of_body(header(scope, b"content-type"), await read_body(scope, receive, self._site.body_limit))
        statement = asked.get("q")
        if not isinstance(statement, str) or not statement.strip():
            raise InvalidRequest(
                f'the parameter q is missing: write for example q=CREATE DATABASE "sensors"; {_EXAMPLE}'
            )
        name = parse_create_database(statement)
        if name not in engine.view().catalog.names:
            with contextlib.suppress(Conflict):  # another one was faster
                await self._site.call(engine.create_database, name)
        await send_json(send, 200, {"results": [{"statement_id": 0}]}, head=scope["method"] == "HEAD")


def _of_body(content_type: str | None, body: bytes) -> dict[str, Any]:
    """What a form or a JSON object says; v1 clients also send POST with an empty body of any type."""
    if not body.strip():
        return {}
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return dict(query_pairs(body))
    if kind == "application/json":
        return parse_object(body)
    raise InvalidRequest(
        f"the Content-Type {kind[:60]!r} is not known here: send a form (application/x-www-form-urlencoded), JSON, or q in the "
        "query string"
    )
