"""Plugins with environments of their own over HTTP: what an installation says comes line by line, the last line is its end."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from walmill.engine import Engine
from walmill.environments.tool import Say
from walmill.errors import InvalidRequest, WalmillError
from walmill.http.body import text_headers
from walmill.http.fields import read_fields, required
from walmill.http.resource import json_response, resource
from walmill.http.site import Site, json_bytes
from walmill.http.streams import send_pieces, watching
from walmill.observe.log import get_logger

PATH = "/api/v3/plugins"
PACKAGES = "/api/v3/configure/plugin_environment"

Work = Callable[[Engine, dict[str, Any], Say], Any]

log = get_logger("walmill.environments")


class WorkEndpoint:
    """Does something that takes its time in a thread, and tells what is said; it goes on if the caller leaves.

    Args:
        site: The engine.
        work: Does it.
        known: Type of each member of the body.
        needed: Members that must be there.
    """

    def __init__(self, site: Site, work: Work, known: dict[str, type], *needed: str) -> None:
        self._site = site
        self._work = work
        self._known = known
        self._needed = needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        asked = await read_fields(scope, receive, self._site.body_limit, self._known)
        required(asked, *self._needed)
        lines: queue.SimpleQueue[dict[str, Any] | WalmillError | None] = queue.SimpleQueue()
        engine = self._site.engine
        threading.Thread(target=self._run, args=(engine, asked, lines), name="walmill-install", daemon=True).start()
        async with watching(receive, lambda: None) as watcher:
            headers = text_headers([("content-type", "application/jsonl")])
            await send_pieces(send, 200, headers, self._pieces(lines), watcher)

    def _run(self, engine: Engine, asked: dict[str, Any], lines: queue.SimpleQueue[Any]) -> None:
        try:
            lines.put({"done": self._work(engine, asked, lambda line: lines.put({"line": line}))})
        except WalmillError as error:
            log.warning("an installation failed", error=error.message.splitlines()[0])
            lines.put(error)
        except Exception as error:
            log.exception("an installation failed")
            lines.put({"error": f"the engine met an error of its own: {error!r}"})
        finally:
            lines.put(None)

    async def _pieces(self, lines: queue.SimpleQueue[Any]) -> AsyncIterator[bytes]:
        started = False
        while (line := await anyio.to_thread.run_sync(partial(lines.get), limiter=self._site.runs)) is not None:
            if isinstance(line, WalmillError):
                if not started:
                    raise line
                line = {"error": line.message, "status": line.status}
            started = True
            yield json_bytes(line) + b"\n"


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

    def route(path: str, work: Work, known: dict[str, type], *needed: str) -> Route:
        return Route(path, WorkEndpoint(site, work, {**known, **wheels}, *needed), methods=["POST"], name=path)

    return [
        route(f"{PATH}/install", install, {"source": str}, "source"),
        route(f"{PATH}/upgrade", upgrade, {"name": str}, "name"),
        route(f"{PATH}/outdated", outdated, {}),
        route(f"{PATH}/sync", sync, {}),
        resource(f"{PATH}/rollback", POST=rollback),
        route(f"{PACKAGES}/install_packages", packages, {"packages": list}, "packages"),
    ]
