"""Answers that are sent piece by piece, and that stop when the caller goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from starlette.types import Receive, Send

from walmill.http.body import ClientGone


async def wait_gone(receive: Receive) -> None:
    """Returns when the caller went away; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextlib.asynccontextmanager
async def watching(
    receive: Receive, gone: Callable[[], None], wait: Callable[[Receive], Coroutine[Any, Any, None]] = wait_gone
) -> AsyncIterator[asyncio.Task[None]]:
    """Calls `gone` if the caller goes away inside.

    Args:
        receive: Of the request.
        gone: Called at most once, on the loop.
        wait: Returns when the caller went away; by default for a request whose body has been read.

    Yields:
        The task that watches; done means that the caller went away.
    """
    watcher = asyncio.create_task(wait(receive))

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            gone()

    watcher.add_done_callback(ended)
    try:
        yield watcher
    finally:
        watcher.remove_done_callback(ended)
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await watcher


async def send_whole(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    """Sends an answer that is there.

    Args:
        send: Of the request.
        status: HTTP status.
        headers: As ASGI wants them, without the length.
        body: The body.
    """
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_pieces(
    send: Send,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    pieces: AsyncIterator[bytes],
    watcher: asyncio.Task[None],
) -> None:
    """Sends an answer whose length is not known.

    The first piece is there before the status is sent, so what fails until then is answered as an error of its own.

    Args:
        send: Of the request.
        status: HTTP status.
        headers: As ASGI wants them.
        pieces: The body; empty ones are left out.
        watcher: From `watching`: nothing more is sent when the caller is gone.

    Raises:
        ClientGone: The caller went away before there was a piece.
    """
    started = False
    async for piece in pieces:
        if watcher.done():
            break
        if not started:
            await send({"type": "http.response.start", "status": status, "headers": list(headers)})
            started = True
        if piece:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    if watcher.done():  # and the answer may not be whole: it must not look as if it were
        if started:
            return
        raise ClientGone
    if not started:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
