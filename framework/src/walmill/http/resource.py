"""A path with several methods, and the JSON that it answers with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from walmill.http.site import json_bytes

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def resource(path: str, **handlers: Handler) -> Route:
    """One route for all methods of a path, so that a 405 can name all of them.

    Args:
        path: The path.
        **handlers: By method; the one for GET answers HEAD as well.
    """

    async def endpoint(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, endpoint, methods=list(handlers), name=path)


def json_response(value: Any, *, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(json_bytes(value), status, media_type="application/json")
