"""Writes of line protocol: a bare ASGI callable, because a one-line write costs half as much without a Request object.

How the query string is read and how refused lines are reported is a `Form`: that of `/api/v3/write_lp` is here, those of the
older routes are in `forms`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache

from attrs import frozen
from starlette.types import Receive, Scope, Send

from walmill.collector import let_go
from walmill.errors import InvalidRequest
from walmill.http.body import read_body
from walmill.http.parameters import flag, query_pairs
from walmill.http.problems import LIMIT_MESSAGES, send_bytes
from walmill.http.site import Site, json_bytes, json_list
from walmill.ingest.errors import LineError
from walmill.ingest.precision import Precision, parse_precision

MANY_ERRORS = 200
"""The report of more refused lines than this is put together in a thread."""


@frozen
class WriteParameters:
    """What the query string of a write says."""

    database: str
    precision: Precision = Precision.AUTO
    accept_partial: bool = True
    no_sync: bool = False


@lru_cache(maxsize=256)
def parse_parameters(query: bytes) -> WriteParameters:
    """Reads the query string of a write; clients send the same one again and again.

    Args:
        query: As it came.

    Raises:
        InvalidRequest: A value is wrong, or `db` is missing.
    """
    given = dict(query_pairs(query))
    database = given.get("db")
    if database is None:
        raise InvalidRequest("the query parameter db is missing: write for example /api/v3/write_lp?db=sensors")
    return WriteParameters(
        database,
        parse_precision(given["precision"]) if "precision" in given else Precision.AUTO,
        flag("accept_partial", given.get("accept_partial"), True),
        flag("no_sync", given.get("no_sync"), False),
    )


def status_of(errors: Sequence[LineError]) -> int:
    """The status for refused lines: 422 if one would pass a limit of the schema, else 400."""
    return 422 if any(error.message.startswith(LIMIT_MESSAGES) for error in errors) else 400


def refusal(errors: Sequence[LineError], accept_partial: bool) -> tuple[int, bytes]:
    """Status and body for refused lines, exactly as InfluxDB has them.

    Args:
        errors: At least one.
        accept_partial: Whether the other lines were written.
    """
    status = status_of(errors)
    if accept_partial:
        data = json_list([error.as_dict() for error in errors])
        return status, b'{"error":"partial write of line protocol occurred","data":' + data + b"}"
    return status, json_bytes({"error": "line protocol parsing error", "data": errors[0].as_dict()})


@frozen
class Form:
    """What one of the write routes looks like.

    Attributes:
        parse: Reads the query string.
        refusal: Status and body for refused lines, and whether the others were written.
    """

    parse: Callable[[bytes], WriteParameters]
    refusal: Callable[[Sequence[LineError], bool], tuple[int, bytes]]


V3 = Form(parse_parameters, refusal)


class WriteEndpoint:
    """The endpoint.

    Args:
        site: The engine.
        form: What its requests and answers look like.
    """

    def __init__(self, site: Site, form: Form = V3) -> None:
        self._site = site
        self._parse, self._refusal = form.parse, form.refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        site = self._site
        engine = site.engine
        asked = self._parse(scope["query_string"])
        body = await read_body(scope, receive, site.body_limit)
        written = await engine.write_async(
            body,
            database=asked.database,
            precision=asked.precision,
            accept_partial=asked.accept_partial,
            no_sync=asked.no_sync,
        )
        if not written.errors:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if len(written.errors) > MANY_ERRORS:
            status, report = await asyncio.to_thread(self._refuse_many, written.errors, asked.accept_partial)
        else:
            status, report = self._refusal(written.errors, asked.accept_partial)
        await send_bytes(send, status, report, {"content-type": "application/json"})

    def _refuse_many(self, errors: Sequence[LineError], accept_partial: bool) -> tuple[int, bytes]:
        found = self._refusal(errors, accept_partial)
        if isinstance(errors, list):
            let_go(errors)
        return found
