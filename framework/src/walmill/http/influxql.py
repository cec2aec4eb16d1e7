"""`GET` and `POST /query` of InfluxDB 1: InfluxQL that reads, and CREATE DATABASE, which clients that write send first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.types import Receive, Scope, Send

from walmill.asking import asker_of
from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest, WalmillError
from walmill.http.auth import origin_of
from walmill.http.body import header, read_body, text_headers
from walmill.http.fields import parse_object
from walmill.http.packing import packed, takes_gzip
from walmill.http.parameters import flag, query_pairs
from walmill.http.query import in_threads
from walmill.http.site import Site, json_bytes
from walmill.http.statements import is_create, parse_create_database
from walmill.http.streams import send_pieces, watching
from walmill.influxql.answer import DIVISORS
from walmill.influxql.parameters import bind
from walmill.influxql.parse import Select, Show, parse

CHUNK = 10_000


class InfluxqlEndpoint:
    """The endpoint.

    Args:
        site: The engine.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        engine = self._site.engine
        asked: dict[str, Any] = dict(query_pairs(scope["query_string"]))
        if scope["method"] == "POST":
            asked |= _of_body(header(scope, b"content-type"), await read_body(scope, receive, self._site.body_limit))
        text = asked.get("q")
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest("the parameter q is missing: write for example q=SHOW DATABASES")
        if is_create(text):
            await self._create(text)
            await _send(send, [json_bytes({"results": [{"statement_id": 0}]}) + b"\n"], head=scope["method"] == "HEAD")
            return
        epoch = asked.get("epoch") or None
        if epoch is not None and epoch not in DIVISORS:
            raise InvalidRequest(f"epoch={epoch!r:.40} is no unit; give one of {', '.join(DIVISORS)}")
        chunked = flag("chunked", asked.get("chunked"), default=False)
        size = str(asked.get("chunk_size") or CHUNK)
        if not size.isdigit() or int(size) < 1:
            raise InvalidRequest(f"chunk_size={size[:40]!r} must be a whole number of rows")
        statements = parse(bind(text, _object(asked.get("params"))))
        origin = origin_of(scope)
        database = asked.get("db") or None
        if database is not None and (asked.get("rp") or "").lower() not in ("", "autogen", "default"):
            database = f"{database}/{asked['rp'].lower()}"
        stopping: list[Any] = []

        def answer() -> Iterator[bytes]:
            return _answered(engine, statements, database, epoch, int(size) if chunked else None, origin, stopping)

        def stop() -> None:
            for one in list(stopping):
                one.cancel()

        async with watching(receive, stop) as watcher:
            headers = text_headers([("content-type", "application/json"), ("vary", "accept-encoding")])
            pieces = packed(answer(), headers) if takes_gzip(scope) else answer()
            await send_pieces(send, 200, headers, in_threads(pieces, self._site), watcher)

    async def _create(self, text: str) -> None:
        engine, name = self._site.engine, parse_create_database(text)
        if name not in engine.view().catalog.names:
            with contextlib.suppress(Conflict):  # another one was faster
                await self._site.call(engine.create_database, name)


def _answered(
    engine: Engine,
    statements: list[Select | Show],
    database: str | None,
    epoch: str | None,
    chunk: int | None,
    origin: str,
    stopping: list[Any],
) -> Iterator[bytes]:
    """The answer: one object, or with `chunk` one for so many rows each."""
    asker = asker_of(engine, database, origin=origin, stopping=stopping, epoch=epoch)
    results: list[dict[str, Any]] = []
    for number, statement in enumerate(statements):
        result: dict[str, Any] = {"statement_id": number}
        try:
            if chunk is not None:
                some = False
                for piece in _chunks(asker.series(statement), number, chunk):
                    some = True
                    yield json_bytes(piece) + b"\n"
                if not some:
                    yield json_bytes({"results": [result]}) + b"\n"
                continue
            series = list(asker.series(statement))
            if series:
                result["series"] = series
        except WalmillError as error:
            result["error"] = error.message
            if chunk is not None:
                yield json_bytes({"results": [result]}) + b"\n"
                return
        results.append(result)
        if "error" in result:
            break  # as InfluxDB: statements behind one that failed are not run
    if chunk is None:
        yield json_bytes({"results": results}) + b"\n"


def _chunks(series: Iterator[dict[str, Any]], number: int, chunk: int) -> Iterator[dict[str, Any]]:
    """Series in pieces of so many rows; all but the last piece of an answer say that more comes."""
    before: dict[str, Any] | None = None
    for one in series:
        values = one["values"]
        for first in range(0, len(values), chunk):
            if before is not None:
                yield {"results": [{"statement_id": number, "series": [before], "partial": True}]}
            before = {**one, "values": values[first : first + chunk]}
            if first + chunk < len(values):
                before["partial"] = True
    if before is not None:
        yield {"results": [{"statement_id": number, "series": [before]}]}


def _object(params: Any) -> dict[str, Any]:
    if params in (None, ""):
        return {}
    return params if isinstance(params, dict) else parse_object(str(params).encode("utf-8", "surrogatepass"))


async def _send(send: Send, pieces: list[bytes], *, head: bool) -> None:
    body = b"".join(pieces)
    headers = text_headers([("content-type", "application/json"), ("content-length", str(len(body)))])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


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
