"""Request triggers at `/api/v3/engine/{path}`: each one a Route, in a router that is swapped as a whole when they change."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Match, Route, Router
from starlette.types import Receive, Scope, Send

from walmill.dispatch.requests import Exchange
from walmill.engine import Engine
from walmill.errors import NotFound, PluginFailure
from walmill.http.arriving import ArrivingBody
from walmill.http.auth import IDENTITY
from walmill.http.body import ClientGone, read_body, text_headers
from walmill.http.parameters import query_pairs
from walmill.http.site import Site
from walmill.http.streams import send_pieces, wait_gone, watching
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.triggers.spec import RequestSpec, parse_spec
from walmill_hookspecs import MultiMapping
from walmill_hookspecs import Request as PluginRequest
from walmill_worker.replies import Answer

PREFIX = "/api/v3/engine"
PATH_PARAMETER = "walmill_path"
HIDDEN = frozenset({b"authorization", b"proxy-authorization", b"cookie"})
"""Headers that carry the caller's rights here or in the host application: a plugin never gets them."""
_SERVERS = frozenset({"content-length", "transfer-encoding", "connection"})
_BODILESS = (204, 304)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

log = get_logger("walmill.http")


class RequestTriggers:
    """The ASGI endpoint below `/api/v3/engine/`.

    Args:
        site: The engine.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._router = Router(redirect_slashes=False)
        site.on_open(lambda engine: engine.on_routes(self._changed))

    def _changed(self, triggers: Sequence[Trigger]) -> None:
        """Builds a new router; from any thread. Requests that are being answered keep the old one."""
        routes = []
        for trigger in triggers:
            spec = parse_spec(trigger.spec)
            if isinstance(spec, RequestSpec):
                endpoint = TriggerEndpoint(self._site, trigger)
                routes.append(Route(f"/{spec.path}", endpoint, methods=trigger.methods, name=trigger.name))
        # A Route for GET answers HEAD as well: one that was made for HEAD goes before it.
        routes.sort(key=lambda route: route.methods is not None and "GET" in route.methods)
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. The path below the prefix is a parameter of the route that leads here, so mounts and `root_path` are past."""
        self._site.require()
        path = scope["path_params"][PATH_PARAMETER]
        router = self._router
        inner = {**scope, "path": f"/{path}", "root_path": "", "path_params": {}, PATH_PARAMETER: path}
        allowed: set[str] = set()
        for route in router.routes:
            match, _ = route.matches(inner)
            if match is Match.FULL:
                await router(inner, receive, send)
                return
            if match is Match.PARTIAL and isinstance(route, Route):
                allowed |= route.methods or set()
        if not allowed:
            raise NotFound(
                f"no request trigger answers {scope['method']} {PREFIX}/{path}; `walmill show triggers` lists them"
            )
        allow = ", ".join(sorted(allowed | {"OPTIONS"}))
        if scope["method"] != "OPTIONS":
            raise HTTPException(405, headers={"Allow": allow})
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow.encode())]})
        await send({"type": "http.response.body", "body": b""})


class TriggerEndpoint:
    """Answers the requests of one trigger.

    Args:
        site: The engine.
        trigger: The trigger.
    """

    def __init__(self, site: Site, trigger: Trigger) -> None:
        self._site = site
        self._trigger = trigger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        engine = self._site.engine
        arriving = ArrivingBody(scope) if await engine.reads_body(self._trigger.plugin) else None
        if arriving is None:
            body = await read_body(scope, receive, self._site.body_limit)
            exchange = Exchange(plugin_request(scope, body))
        else:
            exchange = Exchange(plugin_request(scope, b""), arriving)

        def stop(reason: str) -> None:
            engine.cancel(exchange, reason)  # first, so that a run whose body breaks off is known to be cancelled
            if arriving is not None:
                arriving.cut(reason)

        wait = wait_gone if arriving is None else arriving.take_in
        async with watching(receive, lambda: stop("the caller went away"), wait) as watcher:
            asked = asyncio.ensure_future(engine.answer(self._trigger.id, exchange))
            try:
                answer = await asyncio.shield(asked)
            except asyncio.CancelledError:
                stop("the server is shutting down")
                late = asyncio.create_task(_discard(engine, asked))
                _late.add(late)
                late.add_done_callback(_late.discard)
                raise
            try:
                status, headers = checked(answer)
            except PluginFailure as error:
                log.warning("an answer of a plugin cannot be sent", trigger=self._trigger.name, error=error.message)
                if answer.stream is not None:
                    await engine.end_stream(answer.stream)
                raise
            head = scope["method"] == "HEAD"
            if answer.stream is None:
                if watcher.done():
                    raise ClientGone
                await _send_whole(send, status, headers, answer.body, head=head)
                return
            if head or status in _BODILESS:
                await engine.end_stream(answer.stream)
                await _send_whole(send, status, headers, None, head=head)
                return
            pieces = stream_of(engine, answer.stream, watcher)
            async with contextlib.aclosing(pieces):
                await send_pieces(send, status, text_headers(headers), pieces, watcher)


_late: set[asyncio.Task[None]] = set()
"""Keeps a task alive while it waits for an answer that nobody wants any more."""


async def _discard(engine: Engine, asked: asyncio.Future[Answer]) -> None:
    with contextlib.suppress(Exception):
        answer = await asked
        if answer.stream is not None:
            await engine.end_stream(answer.stream)


async def _send_whole(
    send: Send, status: int, headers: list[tuple[str, str]], body: bytes | None, *, head: bool
) -> None:
    if status in _BODILESS:
        body = b""
    elif body is not None:
        headers = [*headers, ("content-length", str(len(body)))]
    await send({"type": "http.response.start", "status": status, "headers": text_headers(headers)})
    await send({"type": "http.response.body", "body": b"" if head or body is None else body})


async def stream_of(engine: Engine, stream: Any, watcher: asyncio.Task[None]) -> AsyncGenerator[bytes, None]:
    """The pieces of a streamed answer; it is ended when the caller goes away, or does not read on.

    Args:
        engine: The engine.
        stream: From the answer.
        watcher: Done when the caller went away.
    """
    asked: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            asked = asyncio.ensure_future(engine.next_piece(stream))
            await asyncio.wait({asked, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return
            piece = asked.result()
            if piece is None:
                stream = None
                return
            yield piece
    finally:
        if asked is not None and not asked.done():
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asked
        if stream is not None:
            await _end(engine, stream)


async def _end(engine: Engine, stream: Any) -> None:
    """Ends a stream of which a piece may still be on its way."""
    for attempt in range(20):
        try:
            await engine.end_stream(stream)
        except RuntimeError as error:
            if "already running" not in str(error):
                raise
            await asyncio.sleep(0.01 * (attempt + 1))
        else:
            return


def plugin_request(scope: Scope, body: bytes) -> PluginRequest:
    """What the plugin gets of a request.

    Args:
        scope: Of the request, below the prefix.
        body: The whole body, decompressed.
    """
    identity, client = scope.get(IDENTITY), scope.get("client")
    left_out = HIDDEN
    if any(name == b"content-encoding" for name, _ in scope["headers"]):
        left_out = HIDDEN | {b"content-encoding", b"content-length"}
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"] if name not in left_out
    ]
    query = query_pairs(scope["query_string"])
    return PluginRequest(
        method=scope["method"],
        path=scope[PATH_PARAMETER],
        path_params=dict(scope["path_params"]),
        query_params=MultiMapping(query),
        headers=MultiMapping(headers, ignore_case=True),
        client=None if client is None else (client[0], client[1]),
        identity=None if identity is None else identity.name,
        body=body,
    )


def checked(answer: Answer) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers of an answer, as HTTP can carry them; length and framing are the server's business.

    Raises:
        PluginFailure: If it cannot.
    """
    if not 200 <= answer.status <= 599:
        raise PluginFailure(f"on_request answered with the status {answer.status}; give one from 200 to 599")
    for name, value in answer.headers:
        if not _HEADER_NAME.fullmatch(name):
            raise PluginFailure(f"on_request answered with the header {name!r}, whose name HTTP does not allow")
        if not all(char == "\t" or (char >= " " and char != "\x7f" and char <= "\xff") for char in value):
            raise PluginFailure(
                f"on_request answered with the header {name!r}, whose value holds what HTTP cannot carry"
            )
    return answer.status, [(name, value.strip()) for name, value in answer.headers if name not in _SERVERS]
