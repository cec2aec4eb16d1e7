"""What an executor is: the one small protocol between the mill and the place where hooks run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from attrs import frozen

from walmill.context.local import RunState


@frozen
class Called:
    """What became of the call of one hook.

    Attributes:
        result: What it returned.
        error: What it raised.
        traceback: That as text, without the engine's own frames.
        started: `time.perf_counter_ns()` right before the hook's first line.
        ended: The same right after its last.
    """

    result: Any = None
    error: BaseException | None = None
    traceback: str = ""
    started: int = 0
    ended: int = 0


class Worker(Protocol):
    """A plugin bound to one trigger, ready to be called. All methods are for the mill's loop."""

    hooks: Mapping[str, bool]
    settings: Any

    async def call(self, hook: str, values: Mapping[str, Any], state: RunState) -> Called:
        """Calls a hook once. Never raises what the hook raised; cancelling it stops waiting for it."""

    def pieces(self, body: Any, state: RunState) -> AsyncIterator[Any]:
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
