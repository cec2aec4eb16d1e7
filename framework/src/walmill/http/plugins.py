"""Plugins over HTTP: what there is, and uploads into the plugin directory, by InfluxDB's routes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from walmill.errors import InvalidRequest
from walmill.http.fields import read_fields, required
from walmill.http.resource import json_response, resource
from walmill.http.site import Site
from walmill.plugins.content import MOST_BYTES

PATH = "/api/v3/plugins"
UPLOAD_BYTES = 2 * MOST_BYTES
"""A body with files may be so long: JSON writes some bytes as several."""


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """

    async def fields(request: Request, **known: type) -> dict[str, Any]:
        return await read_fields(request.scope, request.receive, max(site.body_limit, UPLOAD_BYTES), known)

    async def show(request: Request) -> Response:
        del request
        return json_response(await site.call(site.engine.show_plugins))

    async def show_one(request: Request) -> Response:
        return json_response(await site.call(site.engine.show_plugin, request.path_params["name"]))

    async def create_file(request: Request) -> Response:
        asked = await fields(request, plugin_name=str, content=str)
        required(asked, "plugin_name")
        _has_content(asked)
        return json_response(
            await site.call(site.engine.upload_plugin, asked["plugin_name"], asked["content"].encode())
        )

    async def update_file(request: Request) -> Response:
        asked = await fields(request, plugin_name=str, content=str, db=str)
        required(asked, "plugin_name")
        _has_content(asked)
        engine = site.engine
        place = await site.call(engine.place_of, asked["plugin_name"], asked.get("db"))
        path = asked["plugin_name"] if place is None else place
        if place is not None and not place.endswith(".py"):
            path = f"{place}/__init__.py"
        return json_response(await site.call(engine.upload_plugin, path, asked["content"].encode()))

    async def put_directory(request: Request) -> Response:
        asked = await fields(request, plugin_name=str, files=list, db=str)
        required(asked, "plugin_name", "files")
        engine = site.engine
        place = await site.call(engine.place_of, asked["plugin_name"], asked.get("db"))
        files = _files(asked["files"])
        return json_response(await site.call(engine.upload_plugin, place or asked["plugin_name"], files))

    async def remove(request: Request) -> Response:
        asked = await fields(request, plugin_name=str, force=bool)
        required(asked, "plugin_name")
        await site.call(partial(site.engine.remove_plugin, asked["plugin_name"], force=asked.get("force", False)))
        return Response(status_code=200)

    async def enable(request: Request) -> Response:
        asked = await fields(request, name=str, db=str, trigger_arguments=dict, only=list)
        required(asked, "name", "db")
        work = partial(
            site.engine.enable_plugin,
            asked["name"],
            asked["db"],
            arguments=asked.get("trigger_arguments"),
            only=[str(one) for one in asked.get("only", ())],
        )
        return json_response(await site.call(work))

    return [
        resource(PATH, GET=show),
        resource(f"{PATH}/enable", POST=enable),
        resource(f"{PATH}/files", POST=create_file, PUT=update_file, DELETE=remove),
        resource(f"{PATH}/directory", POST=put_directory, PUT=put_directory),
        resource(f"{PATH}/{{name}}", GET=show_one),
    ]


def _has_content(asked: Mapping[str, Any]) -> None:
    if "content" not in asked:  # an empty file is one
        raise InvalidRequest("content is missing")


def _files(given: list[Any]) -> Mapping[str, bytes]:
    """The files of a directory.

    Raises:
        InvalidRequest: If one is something else.
    """
    found: dict[str, bytes] = {}
    for one in given:
        path = one.get("relative_path") if isinstance(one, dict) else None
        content = None if path is None else _content(one)
        if not isinstance(path, str) or content is None:
            raise InvalidRequest(
                f'files[{len(found)}] is not {{"relative_path": "…", "content": "…"}}, or "content_base64" for what is no text'
            )
        if path in found:
            raise InvalidRequest(f"the file {path!r:.100} comes twice")
        found[path] = content
    return found


def _content(one: Mapping[str, Any]) -> bytes | None:
    """The bytes that a file is to have; None if nothing says so."""
    text, packed = one.get("content"), one.get("content_base64")
    if isinstance(text, str) and packed is None:
        return text.encode()
    if isinstance(packed, str) and text is None:
        try:
            return base64.b64decode(packed, validate=True)
        except ValueError:
            return None
    return None
