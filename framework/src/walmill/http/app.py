"""The application: all routes of an engine, behind its authentication."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.http import (
    admin,
    databases,
    health,
    installs,
    openapi,
    plugins,
    rehearsals,
    storage,
    triggers,
    valuecaches,
)
from walmill.http.auth import Auth, AuthLayer
from walmill.http.backup import backup_endpoint
from walmill.http.columns import ARROW, JSON, ColumnsEndpoint
from walmill.http.forms import V1, V2
from walmill.http.influxql import InfluxqlEndpoint
from walmill.http.problems import Boundary, answer_to
from walmill.http.query import InfluxqlRowsEndpoint, QueryEndpoint
from walmill.http.query import routes as query_routes
from walmill.http.requests import PATH_PARAMETER, PREFIX, RequestTriggers
from walmill.http.site import BODY_LIMIT, Site, json_bytes
from walmill.http.write import WriteEndpoint


def create_app(
    engine: Engine,
    *,
    auth: Auth | None = None,
    without_auth: bool = False,
    close_engine: bool = True,
    body_limit: int = BODY_LIMIT,
    open_metrics: bool = True,
) -> Starlette:
    """The engine as an application of its own. To put it into another application use `walmill.mount`.

    Args:
        engine: An open engine.
        auth: Says who calls, from a Starlette `Request`: a `walmill.Identity`, or None for nobody. It replaces Walmill's own
            tokens. None takes those: a request must bring one of the engine's tokens (Bearer, Token, Basic), and an engine
            without tokens lets nobody in. Whoever is let in may do everything.
        without_auth: Lets everyone in, instead.
        close_engine: Whether the engine is closed when the application's lifespan ends.
        body_limit: Most bytes of a request's body, also after decompression.
        open_metrics: Whether `/metrics` wants no token; `/health`, `/ready` and `/ping` never do.

    Returns:
        An ASGI application.

    Raises:
        InvalidRequest: Both `auth` and `without_auth` are given.
        TypeError: `auth` cannot be called, or the engine is none.
    """
    site = Site(engine, close_engine=close_engine, body_limit=body_limit)
    return build(site, auth=auth, without_auth=without_auth, open_metrics=open_metrics)


def build(
    site: Site,
    *,
    auth: Auth | None = None,
    without_auth: bool = False,
    open_metrics: bool = True,
    defaults: Mapping[str, Any] | None = None,
) -> Starlette:
    """The application for an engine that need not be open yet; see `create_app`.

    Args:
        site: The engine.
        auth: Says who calls.
        without_auth: Lets everyone in.
        open_metrics: Whether `/metrics` wants no token.
        defaults: Members of `NewTrigger` that a new trigger gets if its body says nothing.
    """

    if auth is not None and without_auth:
        raise InvalidRequest("auth and without_auth were both given; leave one of them away")
    if auth is not None and not callable(auth):
        raise TypeError(f"auth={auth!r} is no function from a request to walmill.Identity or None")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        async with site.running():
            yield

    routes = [
        Route("/api/v3/write_lp", WriteEndpoint(site), methods=["POST"], name="write_lp"),
        Route("/api/v2/write", WriteEndpoint(site, V2), methods=["POST"], name="write_v2"),
        Route("/write", WriteEndpoint(site, V1), methods=["POST"], name="write_v1"),
        Route("/api/v3/write_rows", ColumnsEndpoint(site, JSON), methods=["POST"], name="write_rows"),
        Route("/api/v3/write_arrow", ColumnsEndpoint(site, ARROW), methods=["POST"], name="write_arrow"),
        Route("/query", InfluxqlEndpoint(site), methods=["GET", "POST"], name="query_v1"),
        Route("/api/v3/query_sql", QueryEndpoint(site), methods=["GET", "POST"], name="query_sql"),
        Route("/api/v3/query_influxql", InfluxqlRowsEndpoint(site), methods=["GET", "POST"], name="query_influxql"),
        Route(f"{PREFIX}/{{{PATH_PARAMETER}:path}}", RequestTriggers(site), name="engine"),
        Route("/api/v3/backup", backup_endpoint(site), methods=["POST"], name="backup"),
        *triggers.routes(site, defaults or {}),
        *admin.routes(site),
        *installs.routes(site),
        *plugins.routes(site),
        *rehearsals.routes(site),
        *query_routes(site),
        *valuecaches.routes(site),
        *databases.routes(site),
        *storage.routes(site),
        *health.routes(site),
        *openapi.routes(),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Boundary),
            Middleware(AuthLayer, site=site, auth=auth, without_auth=without_auth, open_metrics=open_metrics),
        ],
        exception_handlers={HTTPException: _known_problem},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


async def _known_problem(request: Request, error: Exception) -> Response:
    """An unknown path or method, as JSON."""
    answer = answer_to(error, request.scope)
    assert answer is not None
    status, body, headers = answer
    return Response(json_bytes(body), status, headers, media_type="application/json")
