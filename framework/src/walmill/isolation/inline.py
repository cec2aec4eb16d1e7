"""`inline`: hooks run in this process. Async hooks on the mill's loop, plain hooks on threads of the trigger's own.

For trusted plugins and those that an application registers itself. Limits cannot be enforced here.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterator, Mapping
from typing import Any

from walmill.context.local import Limits, LocalAsyncContext, LocalContext, RunState
from walmill.errors import PluginFailure, shown
from walmill.isolation.arriving import body_here
from walmill.isolation.base import Called, Gate, Seat
from walmill.isolation.batch import BatchSource
from walmill.observe.log import get_logger
from walmill_hookspecs import AsyncBody, Body, Request, RunCancelled, TriggerInfo
from walmill_hookspecs.body import async_body_of, body_of
from walmill_hookspecs.settings import is_settings, parse
from walmill_worker.binding import Binding, BoundHook
from walmill_worker.calling import call, call_async, call_back_async
from walmill_worker.capture import current

BLOCKING_SECONDS = 0.1
"""An async hook that holds the loop for longer is named in the log."""
QUIET_ROUNDS = 40
"""After so many looks (two seconds) without any hook the watching thread sleeps until the next one."""
THREAD_IDLE_SECONDS = 60.0
"""A trigger's thread that had nothing to do for so long ends; the next event starts another."""

log = get_logger("walmill.inline")


class LoopWatch:
    """Names the hook that blocks the loop: while it does, from a thread of its own, and not only afterwards."""

    def __init__(self) -> None:
        self._step: tuple[str, float] | None = None
        self._steps = 0
        self._named: tuple[str, float] | None = None
        self._end = threading.Event()
        self._active = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="walmill-loop-watch", daemon=True)
        self.named: list[str] = []

    def start(self) -> None:
        """Starts watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stops watching."""
        self._end.set()
        self._active.set()
        self._thread.join(1.0)

    def _watch(self) -> None:
        seen, quiet = 0, 0
        while not self._end.is_set():
            self._active.wait()
            step = self._step
            if step is not None and step is not self._named and time.monotonic() - step[1] > BLOCKING_SECONDS:
                self._named = step
                self.named.append(step[0])
                log.warning(
                    "an async hook blocks the event loop; it delays all async hooks: use await, or make it a plain def",
                    hook=step[0],
                    milliseconds=round((time.monotonic() - step[1]) * 1e3),
                )
            self._end.wait(BLOCKING_SECONDS / 2)
            quiet = quiet + 1 if self._steps == seen and self._step is None else 0
            seen = self._steps
            if quiet > QUIET_ROUNDS:  # waking this thread costs a hook more than these rounds cost
                quiet = 0
                self._active.clear()
                if self._steps != seen:
                    self._active.set()

    @types.coroutine
    def watched(self, coroutine: Coroutine[Any, Any, Any], name: str) -> Generator[Any, Any, Any]:
        """Drives a coroutine step by step, noting when each step begins."""
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                self._step = (name, time.monotonic())
                self._steps += 1
                if not self._active.is_set():
                    self._active.set()
                try:
                    waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
                except StopIteration as stopped:
                    return stopped.value
                finally:
                    self._step = None
                value, error = None, None
                try:
                    value = yield waits_for
                except GeneratorExit:
                    raise
                except BaseException as raised:  # noqa: BLE001 - a cancellation goes on into the hook
                    error = raised
        finally:
            coroutine.close()


Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Threads:
    """Up to so many threads of one trigger's own, made when they are needed. Daemons: none of them delays a shutdown."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._queued = 0
        self._closed = False

    def run(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        """Runs something on one of the threads; for the mill's loop."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            self._queued += 1
            start = self._queued > self._idle and self._threads < self._limit
            self._threads += start
            self._idle += start
        self._jobs.put((job, loop, future))
        if start:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Ends the threads that are idle, and the others when they come back."""
        with self._lock:
            self._closed = True
            count = self._threads
        for _ in range(count):
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            try:
                taken = self._jobs.get(timeout=THREAD_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle > self._queued:  # nobody counts on this thread
                        self._idle -= 1
                        self._threads -= 1
                        return
                continue
            if taken is None:
                with self._lock:
                    self._threads -= 1
                    self._idle -= 1
                return
            job, loop, future = taken
            with self._lock:
                self._idle -= 1
                self._queued -= 1
            result = job()
            with self._lock:
                self._idle += 1
            try:
                loop.call_soon_threadsafe(_set, future, result)
            except RuntimeError:  # the loop is closed: nobody waits for this hook any more
                return
            del taken, job, result, future


def _set(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


class InlineWorker:
    """A plugin bound to one trigger in this process.

    Args:
        binding: The plugin's instance and its hooks.
        settings: Its typed arguments.
        threads: The trigger's threads.
        watch: Watches async hooks.
        name: Name of the plugin.
    """

    def __init__(self, binding: Binding, settings: Any, threads: Threads, watch: LoopWatch, name: str) -> None:
        self._binding = binding
        self._threads = threads
        self._watch = watch
        self._name = name
        self._tasks: dict[RunState, asyncio.Task[Called]] = {}
        self.hooks: Mapping[str, bool] = {hook: bound.is_async for hook, bound in binding.hooks.items()}
        self.settings = settings
        self.code = binding.code
        self._runs = 0
        self._still = asyncio.Event()
        self.started = False
        self.name = "inline"
        self.retire: Callable[[Seat], Awaitable[None]] | None = None

    @property
    def ready(self) -> bool:
        """See `Worker.ready`."""
        return self.started

    async def take(self) -> Seat:
        """See `Worker.take`: all runs have the same place."""
        self._runs += 1
        return self

    def give(self, seat: Seat) -> None:
        """See `Worker.give`."""
        self._runs -= 1
        if not self._runs:
            self._still.set()

    async def drain(self) -> None:
        """See `Worker.drain`."""
        while self._runs:
            self._still.clear()
            await self._still.wait()
        await self.close()

    async def call(self, hook: str, values: Mapping[str, Any], state: RunState, gate: Gate | None = None) -> Called:
        """See `Seat.call`."""
        bound = self._binding.hooks[hook]
        values = {name: value.made if isinstance(value, BatchSource) else value for name, value in values.items()}
        if "request" in values and bound.takes("body"):
            values["body"] = _body(values, bound, state)
        if not bound.is_async:
            given = {**values, "ctx": LocalContext(state)}
            context = contextvars.copy_context()
            called: Called = await self._threads.run(lambda: context.run(_call_here, bound, given, state, gate))
            return called
        given = {**values, "ctx": LocalAsyncContext(state)}
        task = asyncio.current_task()
        assert task is not None
        self._tasks[state] = task
        voice = current.set(state.voice)
        started = 0
        try:
            if gate is not None and not await gate.passed():
                return Called(begun=False)
            started = time.perf_counter_ns()
            result = await self._watch.watched(call_async(bound, given), f"{self._name}.{hook}")
            return Called(result, started=started, ended=time.perf_counter_ns())
        except asyncio.CancelledError as error:
            if state.cancelled is None:
                raise
            return Called(
                error=RunCancelled(state.cancelled),
                traceback=shown(error),
                started=started,
                ended=time.perf_counter_ns(),
            )
        except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin is an error of its run, not of the engine
            return Called(error=error, traceback=shown(error), started=started, ended=time.perf_counter_ns())
        finally:
            current.reset(voice)
            state.voice.end()
            self._tasks.pop(state, None)

    async def pieces(self, body: Any, state: RunState) -> AsyncGenerator[Any, None]:
        """See `Seat.pieces`."""
        if hasattr(body, "__anext__"):
            try:
                while True:
                    current.set(state.voice)  # each piece is asked for by a task with a context of its own
                    try:
                        piece = await body.__anext__()
                    except StopAsyncIteration:
                        return
                    yield piece
            finally:
                current.set(state.voice)
                if hasattr(body, "aclose"):
                    await body.aclose()
        context = contextvars.copy_context()
        end = object()
        try:
            while True:
                called = await self._threads.run(lambda: context.run(_next_piece, body, end, state))
                if isinstance(called, Called):
                    assert called.error is not None
                    raise called.error
                if called is end:
                    return
                yield called
        finally:
            if hasattr(body, "close"):
                self._threads.run(body.close)

    def cancel(self, state: RunState, reason: str) -> None:
        """See `Seat.cancel`."""
        state.cancelled = reason
        task = self._tasks.get(state)
        if task is not None:
            task.cancel()

    def stopping(self, state: RunState) -> None:
        """See `Seat.stopping`."""
        state.stopping = True

    async def call_back(self, state: RunState) -> None:
        """See `Seat.call_back`."""
        await call_back_async(state.callbacks, state.voice.callback_failed)

    async def close(self) -> None:
        """See `Worker.close`."""
        try:
            if self.started and self.retire is not None and not self._runs:
                await self.retire(self)
        finally:
            self._threads.close()


def _body(values: Mapping[str, Any], bound: BoundHook, state: RunState) -> Body | AsyncBody:
    """The body of a request, for a hook that names it."""
    arriving = values.get("body")
    if arriving is None:
        request: Request = values["request"]
        return (async_body_of if bound.is_async else body_of)(request.body)
    return body_here(arriving, state, asyncio.get_running_loop(), is_async=bound.is_async)


def _call_here(bound: Any, given: Mapping[str, Any], state: RunState, gate: Gate | None) -> Called:
    current.set(state.voice)
    if gate is not None and not gate.passed_here():
        current.set(None)
        return Called(begun=False)
    started = time.perf_counter_ns()
    try:
        result = call(bound, given)
        return Called(result, started=started, ended=time.perf_counter_ns())
    except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin is an error of its run, not of the engine
        return Called(error=error, traceback=shown(error), started=started, ended=time.perf_counter_ns())
    finally:
        state.voice.end()
        current.set(None)


def _next_piece(body: Iterator[Any], end: object, state: RunState) -> Any:
    current.set(state.voice)
    try:
        return next(body, end)
    except BaseException as error:  # noqa: BLE001 - as above
        return Called(error=error, traceback=shown(error))
    finally:
        current.set(None)


class InlineExecutor:
    """Makes workers in this process.

    Args:
        bind: Binds a plugin by name.
        watch: Watches async hooks.
    """

    name = "inline"
    isolates = False

    def __init__(self, bind: Callable[[str], Binding], watch: LoopWatch) -> None:
        self._bind = bind
        self._watch = watch

    async def open(
        self, plugin: str, arguments: Mapping[str, Any], *, concurrency: int, trigger: TriggerInfo, limits: Limits
    ) -> InlineWorker:
        """See `Executor.open`."""
        del trigger, limits
        threads = Threads(f"walmill-{plugin}", concurrency)
        job = threads.run(lambda: self._bound(plugin, arguments))
        outcome = await job
        if isinstance(outcome, BaseException):
            threads.close()
            raise outcome
        binding, settings = outcome
        return InlineWorker(binding, settings, threads, self._watch, plugin)

    def _bound(self, plugin: str, arguments: Mapping[str, Any]) -> tuple[Binding, Any] | BaseException:
        try:
            binding = self._bind(plugin)
            registers = binding.hooks.get("register_settings")
            made = call(registers, {}) if registers is not None else None
            settings = parse(made, arguments) if made is not None and is_settings(made) else dict(arguments)
            return binding, settings
        except KeyboardInterrupt:
            return PluginFailure(f"the plugin {plugin!r} was interrupted while it was constructed")
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it where it is awaited
            return error

    async def close(self) -> None:
        """See `Executor.close`."""
