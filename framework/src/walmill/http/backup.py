"""`POST /api/v3/backup`: makes a backup in a place that the server reaches, and tells how far it is, line by line."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.types import Receive, Scope, Send

from walmill.backup.copy import Progress, Stopped
from walmill.engine import Engine
from walmill.errors import WalmillError
from walmill.http.body import text_headers
from walmill.http.fields import read_fields, required
from walmill.http.site import Site, json_bytes
from walmill.http.streams import send_pieces, watching
from walmill.objects.open import open_store
from walmill.objects.protocol import ObjectStore
from walmill.observe.log import get_logger

TELL_BYTES = 8 * 2**20
"""So much is copied between two lines, at least."""

log = get_logger("walmill.backup")


class _Work:
    """A backup that a thread makes, and what there is to tell of it."""

    def __init__(self, engine: Engine, target: ObjectStore) -> None:
        self._engine = engine
        self._target = target
        self._gone = threading.Event()
        self._told = -TELL_BYTES
        self.lines: queue.SimpleQueue[dict[str, Any] | WalmillError | None] = queue.SimpleQueue()

    def leave(self) -> None:
        """Nobody waits for it any more: it ends with the next object."""
        self._gone.set()

    def run(self) -> None:
        """Makes the backup."""
        try:
            made = self._engine.backup(self._target, self._tell)
            log.info("backup", target=self._target.name, **made.shown())
            self.lines.put({"done": made.shown()})
        except WalmillError as error:
            log.warning("a backup was not made", target=self._target.name, error=error.message)
            self.lines.put(error)
        except Exception as error:
            log.exception("a backup was not made", target=self._target.name)
            self.lines.put({"error": f"the engine met an error of its own: {error!r}"})
        finally:
            self._target.close()
            self.lines.put(None)

    def _tell(self, progress: Progress) -> None:
        if self._gone.is_set():
            raise Stopped("nobody waits for the backup any more; the next one goes on with what is there")
        if progress.bytes - self._told >= TELL_BYTES or progress.objects == progress.total_objects:
            self._told = progress.bytes
            self.lines.put(
                {
                    "objects": progress.objects,
                    "total_objects": progress.total_objects,
                    "bytes": progress.bytes,
                    "total_bytes": progress.total_bytes,
                    "copied_bytes": progress.copied_bytes,
                }
            )


class BackupEndpoint:
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
        asked = await read_fields(scope, receive, site.body_limit, {"to": str})
        required(asked, "to")
        work = _Work(engine, open_store(asked["to"]))
        threading.Thread(target=work.run, name="walmill-backup", daemon=True).start()
        try:
            async with watching(receive, work.leave) as watcher:
                headers = text_headers([("content-type", "application/jsonl")])
                await send_pieces(send, 200, headers, self._pieces(work), watcher)
        finally:
            work.leave()

    async def _pieces(self, work: _Work) -> AsyncIterator[bytes]:
        """The lines; an error before the first one is an answer of its own, a later one is the last line."""
        started = False
        following = partial(work.lines.get)
        while (line := await anyio.to_thread.run_sync(following, limiter=self._site.runs)) is not None:
            if isinstance(line, WalmillError):
                if not started:
                    raise line
                line = {"error": line.message}
            started = True
            yield json_bytes(line) + b"\n"
