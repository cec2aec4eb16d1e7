"""Caches of last and of distinct values over HTTP: InfluxDB's routes and bodies, and a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from walmill.errors import InvalidRequest
from walmill.http.fields import read_fields, required
from walmill.http.resource import json_response, resource
from walmill.http.site import Site
from walmill.model.valuecache import Kind
from walmill.units import INT64_MAX, parse_duration
from walmill.values.manage import MAX_AGE, TTL, NewCache

PATHS: Mapping[Kind, str] = {
    "last": "/api/v3/configure/last_cache",
    "distinct": "/api/v3/configure/distinct_cache",
}
MEMBERS: Mapping[Kind, Mapping[str, type]] = {
    "last": {"key_columns": object, "value_columns": object, "count": int, "ttl": object},
    "distinct": {"columns": object, "max_cardinality": int, "max_age": object},
}
NAMED = {"db": str, "table": str, "name": str}


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """

    def of(kind: Kind) -> BaseRoute:
        async def create(request: Request) -> Response:
            known = {**NAMED, **MEMBERS[kind]}
            fields = await read_fields(request.scope, request.receive, site.body_limit, known)
            required(fields, "db", "table")
            made = await site.call(site.engine.create_cache, new_cache(kind, fields))
            listed = await site.call(site.engine.caches, fields["db"])
            found = [
                one for one in listed if (one["table"], one["kind"], one["name"]) == (fields["table"], kind, made.name)
            ]
            return json_response(found[0] if found else {"name": made.name}, status=201)

        async def show(request: Request) -> Response:
            fields = await read_fields(request.scope, request.receive, site.body_limit, {"db": str})
            found = await site.call(site.engine.caches, fields.get("db"))
            return json_response([one for one in found if one["kind"] == kind])

        async def delete(request: Request) -> Response:
            fields = await read_fields(request.scope, request.receive, site.body_limit, NAMED)
            required(fields, "db", "table", "name")
            await site.call(site.engine.delete_cache, kind, fields["db"], fields["table"], fields["name"])
            return Response(status_code=200)

        return resource(PATHS[kind], GET=show, POST=create, DELETE=delete)

    return [of("last"), of("distinct")]


def new_cache(kind: Kind, fields: Mapping[str, Any]) -> NewCache:
    """What a body asks for.

    Raises:
        InvalidRequest: If a member has the wrong form.
    """
    last = kind == "last"
    return NewCache(
        kind=kind,
        database=fields["db"],
        table=fields["table"],
        name=fields.get("name") or None,
        columns=_names(fields, "key_columns" if last else "columns"),
        values=_names(fields, "value_columns") if last else None,
        count=fields.get("count", 1) if last else 1,
        ttl=_period(fields, "ttl", TTL) if last else _period(fields, "max_age", MAX_AGE),
        most=100_000 if last else fields.get("max_cardinality", 100_000),
    )


def _names(fields: Mapping[str, Any], member: str) -> list[str] | None:
    value = fields.get(member)
    if value is None:
        return None
    if isinstance(value, str):
        value = [one.strip() for one in value.split(",") if one.strip()]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidRequest(f"{member} must be a list of names, not {value!r:.60}")
    return value


def _period(fields: Mapping[str, Any], member: str, default: int) -> int | None:
    """A number of seconds, as InfluxDB has it, or a duration; none for ever. ns."""
    value = fields.get(member)
    if value is None:
        return default
    if isinstance(value, str):
        if value.strip().lower() == "none":
            return None
        if value.isascii() and value.isdigit():
            value = int(value)
        else:
            return parse_duration(value, what=member, minimum=1)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= INT64_MAX // 10**9:
        raise InvalidRequest(f"{member}={value!r:.60} must be a number of seconds, a duration such as '4h', or 'none'")
    return value * 10**9
