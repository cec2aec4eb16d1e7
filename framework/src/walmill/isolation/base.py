"""What an executor is: the one small protocol between the mill and the place where hooks run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import frozen

from walmill.context.local import Limits, RunState
from walmill_hookspecs import TriggerInfo


class Gate:
    """Holds a run that is ready until its commits are durable.

    Args:
        loop: The mill's loop, on which an async hook waits.

    Attributes:
        at: `time.perf_counter_ns()` when the commits became durable; None as long as they are not.
    """

    __slots__ = ("_future", "_guard", "_lock", "_open", "_told", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[int | None] = loop.create_future()
        self._guard = threading.Lock()
        self._lock = threading.Lock()
        self._lock.acquire()
        self._open = False
        self._told: Callable[[bool], None] | None = None
        self.at: int | None = None

    def fire(self, at: int) -> None:
        """Opens it for hooks that do not wait on the loop, from the committer's thread; `settle` follows."""
        self._decide(at)

    def settle(self, at: int | None) -> None:
        """Opens it, on the loop.

        Args:
            at: `time.perf_counter_ns()` when the commits became durable; None if they did not: the run must not begin, unless
                it was told that they did.
        """
        if self._future.done():
            return
        self._decide(at)
        self._future.set_result(self.at)

    def _decide(self, at: int | None) -> None:
        with self._guard:
            if self._open:
                return
            self._open = True
            self.at = at
            told = self._told
        if told is not None:
            told(at is not None)
        self._lock.release()

    def tell(self, told: Callable[[bool], None]) -> None:
        """Has `told` called once, at its opening, with whether the run may begin; from the committer's thread or the loop."""
        with self._guard:
            if not self._open:
                self._told = told
                return
        told(self.at is not None)

    @property
    def fired(self) -> bool:
        """Whether the run was told that it may begin."""
        return self.at is not None

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
        result: What it returned; for `on_request` the `Answer` that it means.
        error: What it raised.
        traceback: That as text, without the engine's own frames.
        started: `time.perf_counter_ns()` right before the hook's first line.
        ended: The same right after its last.
        begun: False if the gate stayed shut and the hook was not called.
        cpu_ns: Processor time that the process used meanwhile; None if nobody knows.
        memory: Most memory that it was seen to have, bytes; None if nobody looked.
    """

    result: Any = None
    error: BaseException | None = None
    traceback: str = ""
    started: int = 0
    ended: int = 0
    begun: bool = True
    cpu_ns: int | None = None
    memory: int | None = None


class Seat(Protocol):
    """A place where one run of a trigger happens. All methods are for the mill's loop.

    Attributes:
        started: Whether `on_startup` was called there.
        name: What the history of runs calls it.
    """

    started: bool
    name: str

    async def call(self, hook: str, values: Mapping[str, Any], state: RunState, gate: Gate | None = None) -> Called:
        """Calls a hook once, as soon as the gate is open. Never raises what the hook raised; cancelling stops waiting."""

    async def call_back(self, state: RunState) -> None:
        """Calls what the run gave to `on_commit`."""

    def pieces(self, body: Any, state: RunState) -> AsyncGenerator[Any, None]:
        """The pieces of a streamed answer, made where the hook ran."""

    def cancel(self, state: RunState, reason: str) -> None:
        """Asks a call under way to end: its next use of the context raises, and a coroutine is cancelled."""

    def stopping(self, state: RunState) -> None:
        """Tells a call under way that it should end soon."""


Code = tuple[str | None, str | None]
"""Version and content hash of a plugin."""


class Worker(Protocol):
    """A plugin bound to one trigger, ready to be called. All methods are for the mill's loop.

    Attributes:
        hooks: Names of its hooks, and whether each is `async def`.
        settings: Its typed arguments, if its hooks run in this process.
        code: What of the plugin it has: version of the distribution and content hash, each None where there is none.
        retire: Called before a seat is let go of for lack of work, so that `on_shutdown` can be called there.
    """

    hooks: Mapping[str, bool]
    settings: Any
    code: Code
    retire: Callable[[Seat], Awaitable[None]] | None

    @property
    def ready(self) -> bool:
        """Whether a run can begin without waiting for a place."""

    async def take(self) -> Seat:
        """A place for one run; waits for one.

        Raises:
            PluginFailure: If none can be made.
        """

    def give(self, seat: Seat) -> None:
        """Gives a place back."""

    async def drain(self) -> None:
        """Lets go of it when the last of its runs has ended, those that wait for a place included."""

    async def close(self) -> None:
        """Lets go of it; a hook that does not return is left behind."""


class Executor(Protocol):
    """Makes workers.

    Attributes:
        name: By which triggers name it.
        isolates: Whether hooks run in other processes: only those can be held to limits of time, memory and processor.
    """

    name: str
    isolates: bool

    async def open(
        self, plugin: str, arguments: Mapping[str, Any], *, concurrency: int, trigger: TriggerInfo, limits: Limits
    ) -> Worker:
        """Binds a plugin for one trigger.

        Args:
            plugin: Name of the plugin.
            arguments: Of the trigger, as they were given.
            concurrency: Runs at a time.
            trigger: What the plugin sees of the trigger.
            limits: What a run may use.

        Raises:
            PluginFailure: If it cannot be bound.
            BadSettings: If its arguments do not fit.
        """

    async def close(self) -> None:
        """Lets go of everything."""
