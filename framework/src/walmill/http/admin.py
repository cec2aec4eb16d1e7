"""Tokens over HTTP."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest
from walmill.http.fields import read_fields, required
from walmill.http.resource import json_response, resource
from walmill.http.site import Site
from walmill.model.catalog import QueryLimits
from walmill.units import (
    INT64_MAX,
    MILLISECOND,
    format_duration,
    format_size,
    format_time,
    parse_duration,
    parse_size,
)

TOKEN = "/api/v3/configure/token"  # noqa: S105 - a path
MAX_EXPIRY = 100 * 365 * 86_400
"""Longest life of a token, seconds."""
LIMITS: dict[str, type] = {
    "query_timeout": str,
    "query_memory_limit": str,
    "query_max_rows": int,
    "query_max_files": int,
}
"""What bounds the queries of a token, and the type of each."""


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """

    async def fields(request: Request, **known: type) -> dict[str, Any]:
        return await read_fields(request.scope, request.receive, site.body_limit, known)

    async def show_tokens(request: Request) -> Response:
        del request
        return json_response(_tokens(site.engine))

    async def create_token(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, token_name=str, expiry_secs=int, **LIMITS)
        required(asked, "token_name")
        limits = _limits(asked)
        name, ends = asked["token_name"], _expiry(asked.get("expiry_secs"), engine.options.clock.now_ns())
        if len(name) > 255 or not name.isprintable():
            raise InvalidRequest(f"the token name {name!r:.60} must have 1 to 255 printable characters")
        token = await site.call(engine.create_token, name, expires_at=ends, limits=limits)
        made = {"token": token, "name": name, "expires_at": _shown(ends), **_told(limits)}
        return json_response(made, status=201)

    async def update_token(request: Request) -> Response:
        asked = await fields(request, token_name=str, **LIMITS)
        required(asked, "token_name")
        await site.call(site.engine.update_token, asked["token_name"], _limits(asked))
        return Response(status_code=200)

    async def delete_token(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, token_name=str)
        required(asked, "token_name")
        if list(engine.view().catalog.tokens) == [asked["token_name"]]:
            raise Conflict(
                f"the token {asked['token_name']!r} is the last one: without it nobody would get in any more, and the next start "
                "would take the operator token up from its file again; create another one first"
            )
        await site.call(engine.delete_token, asked["token_name"])
        return Response(status_code=200)

    return [
        resource(TOKEN, GET=show_tokens, POST=create_token, PUT=update_token, DELETE=delete_token),
    ]


def _expiry(seconds: int | None, now: int) -> int | None:
    if seconds is None:
        return None
    if not 1 <= seconds <= MAX_EXPIRY:
        raise InvalidRequest(
            f"expiry_secs={seconds} must be from 1 to {MAX_EXPIRY}; leave it out for a token that never ends"
        )
    return min(now + seconds * 1_000_000_000, INT64_MAX)


def _limits(asked: dict[str, Any]) -> QueryLimits:
    """The limits that a request names; what it does not name is as the server has it."""
    timeout, memory = asked.get("query_timeout"), asked.get("query_memory_limit")
    for name in ("query_max_rows", "query_max_files"):
        if asked.get(name) is not None and not 1 <= asked[name] <= INT64_MAX:
            raise InvalidRequest(f"{name}={asked[name]} must be at least 1; leave it out for the server's limit")
    return QueryLimits(
        timeout=None if timeout is None else parse_duration(timeout, what="query_timeout", minimum=MILLISECOND),
        memory=None if memory is None else parse_size(memory, what="query_memory_limit", minimum=2**20),
        rows=asked.get("query_max_rows"),
        files=asked.get("query_max_files"),
    )


def _told(limits: QueryLimits) -> dict[str, Any]:
    """The limits that there are, under their names."""
    found = {
        "query_timeout": None if limits.timeout is None else format_duration(limits.timeout),
        "query_memory_limit": None if limits.memory is None else format_size(limits.memory),
        "query_max_rows": limits.rows,
        "query_max_files": limits.files,
    }
    return {name: value for name, value in found.items() if value is not None}


def _shown(instant: int | None) -> str | None:
    return None if instant is None else format_time(instant)


def _tokens(engine: Engine) -> list[dict[str, Any]]:
    """The tokens, without values and hashes."""
    return [
        {
            "name": token.name,
            "created_at": _shown(token.created_at),
            "expires_at": _shown(token.expires_at),
            "permissions": list(token.permissions),
            **_told(token.limits),
        }
        for token in engine.tokens()
    ]
