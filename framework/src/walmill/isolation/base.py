"""What an executor is: the one small protocol between the mill and the place where hooks run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from attrs import frozen

from walmill.context.local import RunState


class Gate:
    """Holds a run that is ready until its commits are durable.

    Args:
        loop: The mill's loop, on which an async hook waits.
    """

    __slots__ = ("_future", "_lock", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[int | None] = loop.create_future()
        self._lock = threading.Lock()
        self._lock.acquire()
        self.at: int | None = None

    def settle(self, at: int | None) -> None:
        """Opens it, on the loop.

        Args:
            at: `time.perf_counter_ns()` when the commits became durable; None if they did not: the run must not begin.
        """
        if self._future.done():
            return
        self.at = at
        self._future.set_result(at)
        self._lock.release()

    async def passed(self) -> bool:
        """Waits on the loop; whether the run may begin."""
        return await self._future is not None

    def passed_here(self) -> bool:
        """Waits in a thread; whether the run may begin."""
        self._lock.acquire()
        self._lock.release()
        return self.at is not None


@frozen
class Called:
    """What became of the call of one hook.

    Attributes:
        result: What it returned.
        error: What it raised.
        traceback: That as text, without the engine's own frames.
        started: `time.perf_counter_ns()` right before the hook's first line.
        ended: The same right after its last.
        begun: False if the gate stayed shut and the hook was not called.
    """

    result: Any = None
    error: BaseException | None = None
    traceback: str = ""
    started: int = 0
    ended: int = 0
    begun: bool = True


class Worker(Protocol):
    """A plugin bound to one trigger, ready to be called. All methods are for the mill's loop."""

    hooks: Mapping[str, bool]
    settings: Any

    async def call(self, hook: str, values: Mapping[str, Any], state: RunState, gate: Gate | None = None) -> Called:
        """Calls a hook once, as soon as the gate is open. Never raises what the hook raised; cancelling stops waiting."""

    def pieces(self, body: Any, state: RunState) -> AsyncGenerator[Any, None]:
        """The pieces of a streamed answer, made where the hook ran."""

    def cancel(self, state: RunState, reason: str) -> None:
        """Asks a call under way to end: its next use of the context raises, and a coroutine is cancelled."""

    async def close(self) -> None:
        """Lets go of it; a hook that does not return is left behind."""


class Executor(Protocol):
    """Makes workers."""

    name: str

    async def open(self, plugin: str, arguments: Mapping[str, Any], *, concurrency: int) -> Worker:
        """Binds a plugin for one trigger.

        Raises:
            PluginFailure: If it cannot be bound.
            BadSettings: If its arguments do not fit.
        """

    async def close(self) -> None:
        """Lets go of everything."""
