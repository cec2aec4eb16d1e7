"""`GET` and `POST /api/v3/query_sql`: SQL that reads, in the format that the client asks for, batch by batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio.to_thread
from starlette.types import Receive, Scope, Send

from walmill.http.body import header, text_headers
from walmill.http.fields import read_fields, required
from walmill.http.problems import send_bytes
from walmill.http.site import Site
from walmill.http.streams import send_pieces, watching
from walmill.query.engine import ResultStream
from walmill.query.formats import choose

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

        def begin() -> ResultStream:
            return engine.stream(asked["q"], asked.get("params"), database=asked["db"])

        stream = await anyio.to_thread.run_sync(begin, limiter=site.queries)
        try:
            if scope["method"] == "HEAD":
                await send_bytes(send, 200, b"", {"content-type": form.content_type}, head=True)
                return
            # Closing stops the query also while a thread waits for its next batch.
            async with watching(receive, stream.close) as watcher:
                pieces = self._pieces(form.encode(stream))
                await send_pieces(send, 200, text_headers([("content-type", form.content_type)]), pieces, watcher)
        finally:
            stream.close()

    async def _pieces(self, encoded: Iterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces, each made in a thread."""

        def following() -> bytes | None:
            return next(encoded, None)

        while (piece := await anyio.to_thread.run_sync(following, limiter=self._site.queries)) is not None:
            yield piece
