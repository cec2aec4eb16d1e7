"""Putting an engine into another application, with its lifespan."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from walmill.errors import Conflict, InvalidRequest
from walmill.http.app import build
from walmill.http.auth import Auth
from walmill.http.site import BODY_LIMIT, Site, Source


def mount(
    app: Starlette,
    path: str,
    engine: Source,
    *,
    auth: Auth | None = None,
    without_auth: bool = False,
    close_engine: bool = True,
    body_limit: int = BODY_LIMIT,
    lifespan_of: Starlette | None = None,
) -> None:
    """Mounts an engine into a Starlette or FastAPI application, below a path, and joins it to the application's lifespan.

    Starlette gives a mounted application no lifespan events, so the host's own lifespan is wrapped: the engine is open before
    it begins and until it has ended, and what it yields as state is kept. Call this before the host starts.

    Several processes may run the host (`uvicorn --workers 2`), but only one of them can have a data directory. Give options
    then, or a function: the others serve the host, answer everything below `path` with 503 and a sentence that names the
    process, and take over when that one ends.

    Args:
        app: The host. Several engines can be mounted in one, below different paths.
        path: Begins with a slash, for example `/db`.
        engine: An open engine; or `EngineOptions`, or a function that opens one, for an engine that lives as long as the host
            (a function can also register the host's own plugins before it returns it).
        auth: Says who calls, from a Starlette `Request`: a `walmill.Identity` for the host's own users, or None for nobody.
            May be `async`. None takes Walmill's own tokens: every request must bring one, and as long as the engine has none
            nobody gets in. Whoever is let in may do everything.
        without_auth: Lets everyone in, for a host whose middleware has decided already.
        close_engine: Whether an engine that was given open is closed after the host's lifespan.
        body_limit: Most bytes of a request's body, also after decompression.
        lifespan_of: The outermost application, if `app` is itself mounted in it: an application that is mounted gets no
            lifespan events to pass on.

    Raises:
        InvalidRequest: The path is none.
        Conflict: The host has something mounted there already.
        TypeError: The host, or the engine, is none.
    """
    outer = app if lifespan_of is None else lifespan_of
    for host in (app, outer):
        if not isinstance(host, Starlette):
            raise TypeError(f"{host!r} is no Starlette or FastAPI application, so nothing can be mounted in it")
    if not path.startswith("/") or "{" in path or any(char.isspace() for char in path):
        raise InvalidRequest(f"the path {path!r} is none to mount at; it must begin with a slash, as in '/db'")
    bare = path.rstrip("/")
    if any(isinstance(route, Mount) and route.path == bare for route in app.routes):
        raise Conflict(f"the application has something mounted at {path!r} already; take another path")
    site = Site(engine, close_engine=close_engine, body_limit=body_limit, where=path)
    app.mount(bare, build(site, auth=auth, without_auth=without_auth))
    hosts = outer.router.lifespan_context

    @contextlib.asynccontextmanager
    async def joined(host: Any) -> AsyncIterator[Any]:
        async with site.running(), hosts(host) as state:
            yield state

    outer.router.lifespan_context = joined
