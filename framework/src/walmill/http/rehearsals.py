"""Trying plugins over HTTP (InfluxDB's `plugin_test`, with all hooks), and following the log."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import math
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.http.body import text_headers
from walmill.http.fields import read_fields, required
from walmill.http.parameters import query_pairs
from walmill.http.resource import json_response, resource
from walmill.http.site import Site, json_bytes
from walmill.http.streams import send_pieces, watching
from walmill.ingest.render import render_row
from walmill.isolation.batch import table_batch
from walmill.rehearsals import DEFAULT_SPECS, SERVICE_SECONDS, Kind, Rehearsal
from walmill.settings.limits import LIMITS
from walmill.settings.nearest import did_you_mean
from walmill.store.commit import Commit
from walmill.triggers.spec import RequestSpec, parse_spec
from walmill.units import parse_duration, parse_time
from walmill_hookspecs import MultiMapping
from walmill_hookspecs import Request as PluginRequest

PATH = "/api/v3/plugin_test"
COMMITS = "/api/v3/commits"
FOLLOWING = ("db", "table", "after", "wait")
BEAT_SECONDS = 15.0
"""A stream of commits says something at least so often, so that a caller who went away is noticed."""
COMMON: Mapping[str, type] = {
    "plugin": str,
    "filename": str,
    "database": str,
    "trigger": str,
    "spec": str,
    "input_arguments": dict,
    "grants": object,
    "limits": dict,
    "executor": str,
}
MEMBERS: Mapping[Kind, Mapping[str, type]] = {
    "write": {
        "input_lp": str,
        "precision": str,
        "query": str,
        "table": str,
        "tags": object,
        "live": str,
    },
    "schedule": {"schedule": str, "at": object},
    "request": {
        "method": str,
        "path": str,
        "query_params": object,
        "headers": object,
        "body": str,
        "body_base64": str,
    },
    "service": {"for": str},
    "snapshot": {"after": int},
}
"""What the body of each may hold beside `COMMON`."""
ROUTES: Mapping[str, Kind] = {
    "wal": "write",
    "schedule": "schedule",
    "request": "request",
    "service": "service",
    "snapshot": "snapshot",
}


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """

    def rehearsing(kind: Kind) -> Any:
        async def endpoint(request: Request) -> Response:
            engine = site.engine
            known = {**COMMON, **MEMBERS[kind]}
            fields = await read_fields(request.scope, request.receive, site.body_limit, known)
            asked = rehearsal_of(kind, fields)
            report = await anyio.to_thread.run_sync(partial(engine.rehearse, asked), limiter=site.runs)
            return json_response(report.to_json())

        return endpoint

    return [
        *(resource(f"{PATH}/{name}", POST=rehearsing(kind)) for name, kind in ROUTES.items()),
        Route(COMMITS, CommitsEndpoint(site), methods=["GET"], name=COMMITS),
    ]


def rehearsal_of(kind: Kind, fields: Mapping[str, Any]) -> Rehearsal:
    """What is to be tried.

    Args:
        kind: Which hook.
        fields: What the caller said: `COMMON` and `MEMBERS`.

    Raises:
        InvalidRequest: With all problems at once, as far as they show here.
    """
    required(fields, "database")
    spec = fields.get("spec")
    if fields.get("schedule") is not None:
        if spec is not None:
            raise InvalidRequest("schedule and spec say the same; leave one of them out")
        text = fields["schedule"]
        spec = text if text.startswith(("every:", "cron:")) else f"cron:{text}"
    limits = fields.get("limits", {})
    unknown = [f"there is no limit {name!r}; {did_you_mean(name, LIMITS)}" for name in limits if name not in LIMITS]
    if unknown:
        raise InvalidRequest("; ".join(unknown))
    if fields.get("plugin") is not None and fields.get("filename") is not None:
        raise InvalidRequest("plugin and filename (InfluxDB's name for it) say the same; leave one of them out")
    live = fields.get("live")
    return Rehearsal(
        kind=kind,
        database=fields["database"],
        plugin=fields.get("plugin", fields.get("filename")),
        trigger=fields.get("trigger"),
        spec=spec,
        arguments=fields.get("input_arguments", {}),
        grants=_texts("grants", fields.get("grants", ())),
        limits=limits,
        executor=fields.get("executor"),
        rows=fields.get("input_lp"),
        query=fields.get("query"),
        live=None if live is None else parse_duration(live) / 1e9,
        table=fields.get("table"),
        tags=None if fields.get("tags") is None else _texts("tags", fields["tags"]),
        precision=fields.get("precision", "nanosecond"),
        at=None if fields.get("at") is None else _instant(fields["at"]),
        request=_request(spec, fields) if kind == "request" else None,
        seconds=SERVICE_SECONDS if fields.get("for") is None else parse_duration(fields["for"]) / 1e9,
        after=fields.get("after"),
    )


def _texts(name: str, value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise InvalidRequest(f"{name} must be a list of texts, not {value!r:.60}")
    return list(value)


def _instant(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidRequest(f"at={value!r:.60} is no time; give RFC 3339, or whole nanoseconds since 1970")
    return parse_time(str(value), what="at")


def _pairs(name: str, value: Any) -> list[tuple[str, str]]:
    """Names and values, from an object or a list of pairs."""
    items = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(items, list) or not all(
        isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(text, str) for text in one) for one in items
    ):
        raise InvalidRequest(f"{name} must be an object of texts, or a list of pairs, not {value!r:.60}")
    return [(one[0], one[1]) for one in items]


def _request(spec: str | None, fields: Mapping[str, Any]) -> PluginRequest:
    """The request that a plugin gets."""
    bound = parse_spec(spec or DEFAULT_SPECS["request"])
    if not isinstance(bound, RequestSpec):
        raise InvalidRequest(f"the spec {str(bound)!r} is not for requests; give request:PATH")
    given, _, query = str(fields.get("path") or ("" if "{" in bound.path else bound.path)).partition("?")
    path = given.strip("/")
    if not path:
        raise InvalidRequest(f"the spec {str(bound)!r} has parameters: give a path that fits it")
    method = str(fields.get("method", "GET")).upper()
    match, inner = Route(f"/{bound.path}", _nowhere, methods=[method]).matches(
        {"type": "http", "method": method, "path": f"/{path}", "root_path": "", "path_params": {}}
    )
    if match is not Match.FULL:
        raise InvalidRequest(f"the path {path!r} does not fit the spec {str(bound)!r}")
    if "body" in fields and "body_base64" in fields:
        raise InvalidRequest("body and body_base64 say the same; leave one of them out")
    body = str(fields.get("body", "")).encode("utf-8", "surrogatepass")
    if "body_base64" in fields:
        try:
            body = base64.b64decode(fields["body_base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest(f"body_base64 is no base64: {error}") from None
    return PluginRequest(
        method=method,
        path=path,
        path_params=dict(inner["path_params"]),
        query_params=MultiMapping(
            [*query_pairs(query.encode()), *_pairs("query_params", fields.get("query_params", []))]
        ),
        headers=MultiMapping(_pairs("headers", fields.get("headers", [])), ignore_case=True),
        body=body,
    )


async def _nowhere(request: Request) -> Response:
    raise NotImplementedError


class CommitsEndpoint:
    """`GET /api/v3/commits?db=…&table=…&after=…&wait=…`: the rows of commits as they become durable, one JSON object a line.

    Args:
        site: The engine.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        engine = self._site.engine
        pairs = query_pairs(scope["query_string"], strict=True)
        for name, _ in pairs:
            if name not in FOLLOWING:
                raise InvalidRequest(f"there is no query parameter {name!r}; {did_you_mean(name, FOLLOWING)}")
        named = dict(pairs)
        required(named, "db")
        engine.view().catalog.database(named["db"])
        tables = frozenset(value for name, value in pairs if name == "table") or None
        after = named.get("after")
        if after is not None and not (after.isascii() and after.isdigit()):
            raise InvalidRequest(f"after={after[:40]!r} is no sequence; give a whole number")
        wait = None if "wait" not in named else parse_duration(named["wait"]) / 1e9
        pieces = _commits(engine, named["db"], tables, None if after is None else int(after), wait)
        headers = text_headers([("content-type", "application/x-ndjson"), ("cache-control", "no-store")])
        async with watching(receive, lambda: None) as watcher:
            until = _until(pieces, watcher)
            async with contextlib.aclosing(until):
                await send_pieces(send, 200, headers, until, watcher)


async def _commits(
    engine: Engine, database: str, tables: frozenset[str] | None, after: int | None, wait: float | None
) -> AsyncGenerator[bytes, None]:
    """A line for each commit; an empty one now and then. Each names the sequence, so that a caller can go on behind it."""
    yield b"\n"
    following = engine.follow(database, tables, after)
    asked: asyncio.Future[Commit] | None = None
    try:
        while True:
            asked = asyncio.ensure_future(anext(following))
            left = math.inf if wait is None else wait
            while not asked.done():
                await asyncio.wait({asked}, timeout=min(left, BEAT_SECONDS))
                left -= BEAT_SECONDS
                if not asked.done():
                    if left <= 0:
                        return
                    yield b"\n"
            yield await anyio.to_thread.run_sync(_line, engine, database, asked.result())
    finally:
        if asked is not None and not asked.done():
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked
        await following.aclose()


async def _until(pieces: AsyncGenerator[bytes, None], watcher: asyncio.Task[None]) -> AsyncGenerator[bytes, None]:
    """Pieces until the caller goes away."""
    asked: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            asked = asyncio.ensure_future(anext(pieces, None))
            await asyncio.wait({asked, watcher}, return_when=asyncio.FIRST_COMPLETED)
            piece = None if watcher.done() else asked.result()
            if piece is None:
                return
            yield piece
    finally:
        if asked is not None and not asked.done():
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asked
        await pieces.aclose()


def _line(engine: Engine, database: str, commit: Commit) -> bytes:
    catalog = engine.view().catalog
    lines: list[str] = []
    for part in commit.rows:
        table = catalog.tables.get(part.table)
        if table is None:  # dropped meanwhile
            continue
        batch = table_batch(table.schema, [part.batch])
        lines += [render_row(batch.name, batch.tags, batch.fields, row) for row in batch.rows()]
    maker = catalog.triggers.get(commit.origin)
    origin = "client" if not commit.origin else maker.name if maker is not None else f"trigger {commit.origin}"
    found = {
        "sequence": commit.sequence,
        "time": commit.time,
        "database": database,
        "origin": origin,
        "lines": lines,
    }
    return json_bytes(found) + b"\n"
