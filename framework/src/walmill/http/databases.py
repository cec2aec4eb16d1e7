"""Databases and tables over HTTP: created, kept for how long, deleted, restored."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from walmill.databases import Gone
from walmill.errors import InvalidRequest
from walmill.http.fields import read_fields, required
from walmill.http.resource import json_response, resource
from walmill.http.site import Site
from walmill.model.catalog import FOR_EVER
from walmill.units import SECOND, format_time, parse_duration, parse_time

DATABASE = "/api/v3/configure/database"
TABLE = "/api/v3/configure/table"
ROWS = "/api/v3/delete_rows"


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """

    async def fields(request: Request, **known: type) -> dict[str, Any]:
        return await read_fields(request.scope, request.receive, site.body_limit, known)

    # ---- databases

    async def show_databases(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, format=str, show_deleted=bool)
        if asked.get("format", "json") != "json":
            raise InvalidRequest(f"format={asked['format']!r:.40}: databases are listed as json only")
        found = engine.show_databases()
        if asked.get("show_deleted"):
            found += engine.show_databases(deleted=True)
        return json_response(found)

    async def create_database(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, retention_period=str)
        required(asked, "db")
        retention = _period(asked.get("retention_period"), table=False)
        await site.call(partial(engine.create_database, asked["db"], retention=retention))
        return Response(status_code=200)

    async def update_database(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, retention_period=str)
        required(asked, "db", "retention_period")
        period = _period(asked["retention_period"], table=False)
        await site.call(partial(engine.set_retention, asked["db"], period=period))
        return Response(status_code=200)

    async def delete_database(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, hard_delete_at=str)
        required(asked, "db")
        await site.call(engine.delete_database, asked["db"], _gone(asked.get("hard_delete_at")))
        return Response(status_code=200)

    async def restore_database(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, id=int, new_name=str)
        required(asked, "db")
        restore = partial(engine.restore_database, asked["db"], number=asked.get("id"), new_name=asked.get("new_name"))
        return json_response({"db": await site.call(restore)})

    async def set_period(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, duration=str)
        required(asked, "db", "duration")
        period = _period(asked["duration"], table=False)
        await site.call(partial(engine.set_retention, asked["db"], period=period))
        return Response(status_code=204)

    async def clear_period(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str)
        required(asked, "db")
        await site.call(partial(engine.set_retention, asked["db"], period=None))
        return Response(status_code=204)

    # ---- tables

    async def show_tables(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, show_deleted=bool)
        required(asked, "db")
        found = engine.show_tables(asked["db"])
        if asked.get("show_deleted"):
            found += engine.show_tables(asked["db"], deleted=True)
        return json_response(found)

    async def create_table(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, table=str, tags=object, fields=object, retention_period=str)
        required(asked, "db", "table")
        await site.call(
            partial(
                engine.create_table,
                asked["db"],
                asked["table"],
                tags=_tags(asked.get("tags", [])),
                fields=_fields(asked.get("fields", [])),
                retention=_period(asked.get("retention_period"), table=True),
            )
        )
        return Response(status_code=200)

    async def update_table(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, table=str, retention_period=str)
        required(asked, "db", "table", "retention_period")
        period = _period(asked["retention_period"], table=True)
        await site.call(partial(engine.set_retention, asked["db"], asked["table"], period=period))
        return Response(status_code=200)

    async def delete_table(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, table=str, hard_delete_at=str)
        required(asked, "db", "table")
        await site.call(engine.delete_table, asked["db"], asked["table"], _gone(asked.get("hard_delete_at")))
        return Response(status_code=200)

    async def restore_table(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, table=str, id=int, new_name=str)
        required(asked, "db", "table")
        restore = partial(
            engine.restore_table,
            asked["db"],
            asked["table"],
            number=asked.get("id"),
            new_name=asked.get("new_name"),
        )
        return json_response({"db": asked["db"], "table": await site.call(restore)})

    async def delete_rows(request: Request) -> Response:
        engine = site.engine
        asked = await fields(request, db=str, table=str, where=str, dry_run=bool)
        required(asked, "db", "table", "where")
        dry = asked.get("dry_run", False)
        work = partial(engine.delete_rows, asked["db"], asked["table"], asked["where"], dry_run=dry)
        found = await anyio.to_thread.run_sync(work, limiter=site.runs)
        times = {"earliest": found.earliest, "latest": found.latest}
        shown = {name: None if time is None else format_time(time) for name, time in times.items()}
        return json_response({"rows": found.rows, **shown, "dry_run": dry})

    return [
        resource(ROWS, POST=delete_rows),
        resource(DATABASE, GET=show_databases, POST=create_database, PUT=update_database, DELETE=delete_database),
        resource(f"{DATABASE}/retention_period", POST=set_period, DELETE=clear_period),
        resource(f"{DATABASE}/restore", POST=restore_database),
        resource(TABLE, GET=show_tables, POST=create_table, PUT=update_table, DELETE=delete_table),
        resource(f"{TABLE}/restore", POST=restore_table),
    ]


def _period(text: str | None, *, table: bool) -> int | None:
    """A retention period, ns: `none` is for ever, and `database` (for a table) what the database says."""
    word = "" if text is None else text.strip().lower()
    if text is None or (table and word == "database"):
        return None
    if word == "none":
        return FOR_EVER if table else None
    try:
        return parse_duration(text, what="retention period", minimum=SECOND)
    except InvalidRequest as error:
        also = "`none`, or `database` for what the database says" if table else "`none`"
        raise InvalidRequest(f"{error.message}; for ever is {also}") from None


def _gone(text: str | None) -> Gone | None:
    """When what is deleted goes: `now`, `never`, `default`, a time, or a duration from now."""
    if text is None or text.strip().lower() == "default":
        return None
    word = text.strip().lower()
    if word == "now":
        return Gone(after=0)
    if word == "never":
        return Gone()
    try:
        return Gone(after=parse_duration(text))
    except InvalidRequest:
        pass
    try:
        return Gone(at=parse_time(text))
    except InvalidRequest:
        raise InvalidRequest(
            f"hard_delete_at={text!r:.60} is none of now, never, default, a time such as 2026-01-31T09:30:00Z, or a duration "
            "such as 72h"
        ) from None


def _tags(given: Any) -> list[str]:
    if isinstance(given, str):  # in a query string
        return [one for one in given.split(",") if one]
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise InvalidRequest(f"tags must be a list of names, not {given!r:.60}")
    return given


def _fields(given: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    if not isinstance(given, list):
        raise InvalidRequest(f'fields must be a list of {{"name", "type"}}, not {given!r:.60}')
    for one in given:
        if (
            not isinstance(one, dict)
            or set(one) != {"name", "type"}
            or not all(isinstance(v, str) for v in one.values())
        ):
            raise InvalidRequest(f'a field must be {{"name": "…", "type": "…"}}, not {one!r:.60}')
        if one["name"] in found:
            raise InvalidRequest(f"the field {one['name']!r} is named twice")
        found[one["name"]] = "string" if one["type"] == "utf8" else one["type"]
    return found
