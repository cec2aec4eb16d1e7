"""Plugins with environments of their own over HTTP: what an installation says comes line by line, the last line is its end."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from walmill.engine import Engine
from walmill.environments.tool import Say
from walmill.errors import InvalidRequest
from walmill.http.fields import read_fields, required
from walmill.http.resource import json_response, resource
from walmill.http.site import Site
from walmill.http.work import Tell, WorkEndpoint

PATH = "/api/v3/plugins"
PACKAGES = "/api/v3/configure/plugin_environment"


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """

    async def rollback(request: Request) -> Response:
        asked = await read_fields(request.scope, request.receive, site.body_limit, {"name": str})
        required(asked, "name")
        return json_response(await site.call(site.engine.rollback_plugin, asked["name"]))

    def install(engine: Engine, asked: dict[str, Any], say: Say) -> Any:
        return engine.install_plugin(asked["source"], say, wheels=asked.get("wheels"))

    def upgrade(engine: Engine, asked: dict[str, Any], say: Say) -> Any:
        return engine.upgrade_plugin(asked["name"], say, wheels=asked.get("wheels"))

    def outdated(engine: Engine, asked: dict[str, Any], say: Say) -> Any:
        return engine.outdated_plugins(say, wheels=asked.get("wheels"))

    def sync(engine: Engine, asked: dict[str, Any], say: Say) -> Any:
        return engine.sync_plugins(say, wheels=asked.get("wheels"))

    def packages(engine: Engine, asked: dict[str, Any], say: Say) -> Any:
        wanted = asked["packages"]
        if not wanted or not all(isinstance(one, str) for one in wanted):
            raise InvalidRequest('packages is not a list of requirements, such as ["pandas==2.2"]')
        engine.install_packages(wanted, say, wheels=asked.get("wheels"))
        return {"packages": wanted}

    wheels = {"wheels": str}

    def route(
        path: str, do: Callable[[Engine, dict[str, Any], Say], Any], known: dict[str, type], *needed: str
    ) -> Route:
        def work(engine: Engine, asked: dict[str, Any], tell: Tell, gone: Event) -> Any:
            del gone  # it goes on if the caller leaves: half an installation helps nobody
            return do(engine, asked, lambda line: tell({"line": line}))

        return Route(path, WorkEndpoint(site, work, {**known, **wheels}, *needed), methods=["POST"], name=path)

    return [
        route(f"{PATH}/install", install, {"source": str}, "source"),
        route(f"{PATH}/upgrade", upgrade, {"name": str}, "name"),
        route(f"{PATH}/outdated", outdated, {}),
        route(f"{PATH}/sync", sync, {}),
        resource(f"{PATH}/rollback", POST=rollback),
        route(f"{PACKAGES}/install_packages", packages, {"packages": list}, "packages"),
    ]
