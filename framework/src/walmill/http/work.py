"""What takes its time: done in a thread, told line by line as JSON; the last line has `done` or `error`."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.types import Receive, Scope, Send

from walmill.engine import Engine
from walmill.errors import WalmillError
from walmill.http.body import text_headers
from walmill.http.fields import read_fields, required
from walmill.http.site import Site, json_bytes
from walmill.http.streams import send_pieces, watching
from walmill.observe.log import get_logger

Tell = Callable[[dict[str, Any]], None]
Work = Callable[[Engine, dict[str, Any], Tell, threading.Event], Any]
"""Does it for an engine, as the fields of the request say; tells lines, and may end once the event says that nobody waits."""

log = get_logger("walmill.work")


class WorkEndpoint:
    """An endpoint for something that takes its time.

    Args:
        site: The engine.
        work: Does it, in a thread of its own; what it returns is `done`.
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
        lines: queue.SimpleQueue[Any] = queue.SimpleQueue()
        gone = threading.Event()
        what = (scope["path"], self._site.engine, asked, lines, gone)
        threading.Thread(target=self._run, args=what, name="walmill-work", daemon=True).start()
        try:
            async with watching(receive, gone.set) as watcher:
                headers = text_headers([("content-type", "application/jsonl")])
                await send_pieces(send, 200, headers, self._pieces(lines), watcher)
        finally:
            gone.set()

    def _run(
        self,
        path: str,
        engine: Engine,
        asked: dict[str, Any],
        lines: queue.SimpleQueue[Any],
        gone: threading.Event,
    ) -> None:
        try:
            lines.put({"done": self._work(engine, asked, lines.put, gone)})
        except WalmillError as error:
            log.warning("it could not be done", path=path, error=error.message)
            lines.put(error)
        except Exception as error:
            log.exception("it could not be done", path=path)
            lines.put({"error": f"the engine met an error of its own: {error!r}"})
        finally:
            lines.put(None)

    async def _pieces(self, lines: queue.SimpleQueue[Any]) -> AsyncIterator[bytes]:
        """The lines; an error before the first one is an answer of its own, a later one is the last line."""
        started = False
        while (line := await anyio.to_thread.run_sync(partial(lines.get), limiter=self._site.runs)) is not None:
            if isinstance(line, WalmillError):
                if not started:
                    raise line
                line = {"error": line.message}
            started = True
            yield json_bytes(line) + b"\n"
