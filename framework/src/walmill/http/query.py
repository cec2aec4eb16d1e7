"""`/api/v3/query_sql` and `query_influxql`: statements that read, in the format that the client asks for, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import anyio.to_thread
import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from walmill.asking import ask_rows
from walmill.http.auth import origin_of
from walmill.http.body import ClientGone, header, text_headers
from walmill.http.fields import read_fields, required
from walmill.http.packing import packed, takes_gzip
from walmill.http.problems import send_bytes
from walmill.http.resource import json_response, resource
from walmill.http.site import Site
from walmill.http.streams import send_pieces, send_whole, watching
from walmill.query.desk import Asked, shown
from walmill.query.encode import Rows
from walmill.query.errors import QueryStopped
from walmill.query.formats import Format, choose
from walmill.query.results import ResultStream

QUERY_ID = "walmill-query-id"
"""The header with the number of a query, by which it can be cancelled."""
QUERIES = "/api/v3/queries"
SHORT_BYTES = 2**18
"""An answer up to this is sent as a whole, with its length."""
MEMBERS = {"db": str, "q": str, "format": str, "params": dict}


class QueryEndpoint:
    """The endpoint.

    Args:
        site: The engine.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        site = self._site
        engine = site.engine
        asked = await read_fields(scope, receive, site.body_limit, MEMBERS)
        required(asked, "db", "q")
        form = choose(asked.get("format"), header(scope, b"accept"))
        query = engine.ask(asked["db"], asked["q"], origin=origin_of(scope))

        def begin() -> _Begun:
            stream = engine.stream(asked["q"], asked.get("params"), database=asked["db"], asked=query)
            try:
                return _Begun(stream, *answered(scope, form, stream, said))
            except BaseException:
                stream.close()
                raise

        said = {"content-type": form.content_type, QUERY_ID: str(query.id)}

        # From here on a caller who goes away stops the query: as it waits for its turn, is planned, or runs.
        async with watching(receive, query.cancel) as watcher:
            try:
                begun = await anyio.to_thread.run_sync(begin, limiter=site.queries)
            except QueryStopped:
                if watcher.done():
                    raise ClientGone from None
                raise
            try:
                if scope["method"] == "HEAD":
                    await send_bytes(send, 200, b"", said, head=True)
                elif begun.whole is not None:
                    await send_whole(send, 200, begun.headers, begun.whole)
                else:
                    await send_pieces(send, 200, begun.headers, in_threads(begun.pieces, site), watcher)
            except QueryStopped:
                if not watcher.done():
                    raise
            finally:
                begun.stream.close()


class _Begun:
    """An answer as far as it is made in the thread that asks: all of it if it is short, and soon there.

    Attributes:
        stream: The rows.
        headers: Of the answer.
        pieces: The body, from its beginning.
        whole: The body; None if it is long, or may take a while.
    """

    def __init__(self, stream: ResultStream, headers: list[tuple[bytes, bytes]], pieces: Iterator[bytes]) -> None:
        self.stream, self.headers, self.pieces = stream, headers, pieces
        self.whole: bytes | None = None
        if not stream.quick:
            return
        made: list[bytes] = []
        size = 0
        for piece in pieces:
            made.append(piece)
            size += len(piece)
            if size > SHORT_BYTES:
                self.pieces = itertools.chain(made, pieces)
                return
        self.whole = b"".join(made)


class InfluxqlRowsEndpoint:
    """`/api/v3/query_influxql`: one statement of InfluxQL, answered as rows in the formats of SQL's.

    Args:
        site: The engine.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        site = self._site
        asked = await read_fields(scope, receive, site.body_limit, MEMBERS)
        required(asked, "q")
        form = choose(asked.get("format"), header(scope, b"accept"))
        stopping: list[Asked] = []

        def ask() -> pa.Table:
            return ask_rows(
                site.engine,
                asked.get("db"),
                asked["q"],
                asked.get("params"),
                origin=origin_of(scope),
                stopping=stopping,
            )

        def stop() -> None:
            for one in list(stopping):
                one.cancel()

        async with watching(receive, stop) as watcher:
            try:
                table = await anyio.to_thread.run_sync(ask, limiter=site.queries)
            except QueryStopped:
                if watcher.done():
                    raise ClientGone from None
                raise
            said = {"content-type": form.content_type}
            if scope["method"] == "HEAD":
                await send_bytes(send, 200, b"", said, head=True)
                return
            headers, pieces = answered(scope, form, table.to_reader(), said)
            await send_pieces(send, 200, headers, in_threads(pieces, site), watcher)


def answered(
    scope: Scope, form: Format, rows: Rows, said: dict[str, str]
) -> tuple[list[tuple[bytes, bytes]], Iterator[bytes]]:
    """Headers and body of an answer with rows, compressed for a caller who takes it."""
    headers = text_headers([*said.items(), ("vary", "accept-encoding")])
    pieces = form.encode(rows)
    if form.name != "parquet" and takes_gzip(scope):  # Parquet is compressed
        pieces = packed(pieces, headers)
    return headers, pieces


async def in_threads(encoded: Iterator[bytes], site: Site) -> AsyncIterator[bytes]:
    """The pieces of an answer, each made in a thread."""

    def following() -> bytes | None:
        return next(encoded, None)

    while (piece := await anyio.to_thread.run_sync(following, limiter=site.queries)) is not None:
        yield piece


def routes(site: Site) -> list[BaseRoute]:
    """The routes that list queries and stop them.

    Args:
        site: The engine.
    """

    async def show(request: Request) -> Response:
        del request
        return json_response([shown(one) for one in site.engine.queries()])

    async def cancel(request: Request) -> Response:
        fields = await read_fields(request.scope, request.receive, site.body_limit, {"id": int})
        required(fields, "id")
        await site.call(site.engine.cancel_query, fields["id"])
        return Response(status_code=200)

    return [resource(QUERIES, GET=show, DELETE=cancel)]
