"""Who calls: the layer that lets a request in, or answers 401."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from walmill.auth.rules import NOT_AUTHENTICATED, Identity, authorize
from walmill.errors import Unauthorized
from walmill.http.body import header, path_of
from walmill.http.parameters import query_pairs
from walmill.http.site import Site

Auth: TypeAlias = Callable[[Request], Identity | Awaitable[Identity | None] | None]
"""A host application's own rule: who calls, or None for nobody whom it knows.

It runs on the server's loop and sees a request without its body; one that has to wait for something is `async`.
"""

IDENTITY = "walmill.identity"
"""Where the identity is in the scope of a request."""
OPEN = frozenset({"/health", "/ready", "/ping"})
"""What everyone may ask."""
TOKEN_IN_QUERY = frozenset({"/write", "/query"})
"""Where the query parameter `p` may hold the token, as v1 clients send their password."""


def origin_of(scope: Scope) -> str:
    """Who asks, as queries are noted: the name of a token, or nothing if everyone is let in."""
    identity: Identity | None = scope.get(IDENTITY)
    return "" if identity is None else identity.name


class AuthLayer:
    """Lets a request in, or answers 401. Everyone who is let in may do everything, as with InfluxDB's admin tokens.

    Args:
        app: What is inside.
        site: The engine.
        auth: The host application's rule; None takes Walmill's own tokens.
        without_auth: Whether everyone is let in.
        open_metrics: Whether `/metrics` is open to everyone.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        site: Site,
        auth: Auth | None = None,
        without_auth: bool = False,
        open_metrics: bool = True,
    ) -> None:
        self.app = app
        self._site = site
        self._auth = auth
        self._without_auth = without_auth
        self._open = OPEN | {"/metrics"} if open_metrics else OPEN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            scope[IDENTITY] = None
            if not self._without_auth and path_of(scope) not in self._open:
                scope[IDENTITY] = self._by_token(scope) if self._auth is None else await self._by_host(scope)
        await self.app(scope, receive, send)

    def _by_token(self, scope: Scope) -> Identity:
        engine = self._site.engine
        tokens = engine.view().catalog.tokens
        if not tokens:
            raise Unauthorized(
                f"{NOT_AUTHENTICATED}: the engine has no token yet; its operator makes one with engine.create_token(name)"
            )
        given = header(scope, b"authorization")
        password = None
        if given is None and path_of(scope) in TOKEN_IN_QUERY:
            password = dict(query_pairs(scope["query_string"])).get("p")
        return authorize(given, password, tokens.values(), engine.options.clock.now_ns())

    async def _by_host(self, scope: Scope) -> Identity:
        assert self._auth is not None
        found = self._auth(Request(scope))  # without its body, which belongs to the route
        identity = await found if inspect.isawaitable(found) else found
        if identity is None:
            raise Unauthorized(NOT_AUTHENTICATED)
        if not isinstance(identity, Identity):
            raise TypeError(
                f"auth returned {type(identity).__name__}; return walmill.Identity(name), or None for nobody"
            )
        return identity
