"""The body of a request that still comes: what a hook that reads it as it comes needs of the server."""

from __future__ import annotations

import asyncio
from typing import Protocol

from walmill.context.local import RunState
from walmill_hookspecs import AsyncBody, Body, RunCancelled
from walmill_hookspecs.body import body_file


class Arriving(Protocol):
    """A body on its way; `http.arriving` makes one.

    Attributes:
        begun: Whether a piece was asked for: then the request cannot be run again.
    """

    begun: bool

    async def next(self) -> bytes:
        """The next piece, on the mill's loop; b"" at the end and ever after.

        Raises:
            HTTPError: 400, if what came is damaged.
            RunCancelled: If the rest will not come.
        """


def body_here(
    arriving: Arriving, state: RunState, loop: asyncio.AbstractEventLoop, *, is_async: bool
) -> Body | AsyncBody:
    """What a hook in this process gets.

    Args:
        arriving: The body.
        state: The run that reads it.
        loop: The mill's loop.
        is_async: Whether the hook runs on it; else in a thread.
    """
    if is_async:
        return AsyncBody(arriving.next)

    def piece() -> bytes:
        if state.cancelled is not None:
            raise RunCancelled(state.cancelled)
        return asyncio.run_coroutine_threadsafe(arriving.next(), loop).result()

    return body_file(piece)
