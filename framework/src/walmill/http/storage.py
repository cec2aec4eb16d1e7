"""What is kept and where, and a snapshot on request, over HTTP."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from walmill.http.fields import read_fields
from walmill.http.resource import json_response, resource
from walmill.http.site import Site

STORAGE = "/api/v3/storage"
SNAPSHOT = "/api/v3/snapshot"
WAIT_SECONDS = 240.0
"""How long a request waits for its snapshot, which then goes on."""


def routes(site: Site) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
    """

    async def nothing(request: Request) -> None:
        await read_fields(request.scope, request.receive, site.body_limit, {})

    async def show_storage(request: Request) -> Response:
        engine = site.engine
        await nothing(request)
        return json_response(await site.call(engine.storage))

    async def make_snapshot(request: Request) -> Response:
        engine = site.engine
        await nothing(request)
        manifest = await anyio.to_thread.run_sync(engine.snapshot, WAIT_SECONDS, limiter=site.runs)
        made: dict[str, Any] | None = None
        if manifest is not None:
            made = {"number": manifest.number, "sequence": manifest.sequence}
        return json_response({"snapshot": made})

    return [resource(STORAGE, GET=show_storage), resource(SNAPSHOT, POST=make_snapshot)]
