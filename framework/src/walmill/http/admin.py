"""Tokens and plugins over HTTP."""

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
from walmill.units import INT64_MAX, format_time

TOKEN = "/api/v3/configure/token"  # noqa: S105 - a path
PLUGINS = "/api/v3/plugins"
MAX_EXPIRY = 100 * 365 * 86_400
"""Longest life of a token, seconds."""


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
        asked = await fields(request, token_name=str, expiry_secs=int)
        required(asked, "token_name")
        name, ends = asked["token_name"], _expiry(asked.get("expiry_secs"), engine.options.clock.now_ns())
        if len(name) > 255 or not name.isprintable():
            raise InvalidRequest(f"the token name {name!r:.60} must have 1 to 255 printable characters")
        token = await site.call(engine.create_token, name, expires_at=ends)
        return json_response({"token": token, "name": name, "expires_at": _shown(ends)}, status=201)

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

    async def show_plugins(request: Request) -> Response:
        del request
        engine = site.engine
        return json_response([one.to_json() for one in await site.call(engine.plugins)])

    return [
        resource(TOKEN, GET=show_tokens, POST=create_token, DELETE=delete_token),
        resource(PLUGINS, GET=show_plugins),
    ]


def _expiry(seconds: int | None, now: int) -> int | None:
    if seconds is None:
        return None
    if not 1 <= seconds <= MAX_EXPIRY:
        raise InvalidRequest(
            f"expiry_secs={seconds} must be from 1 to {MAX_EXPIRY}; leave it out for a token that never ends"
        )
    return min(now + seconds * 1_000_000_000, INT64_MAX)


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
        }
        for token in engine.tokens()
    ]
