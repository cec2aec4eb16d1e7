"""`process`: hooks run in worker processes, one for each run that a trigger may have at a time, held to limits from outside.

Workers are forked from a zygote when there is something to do, end when there was nothing for a while, and are replaced when they
end otherwise. The engine imports nothing of the plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from attrs import field, frozen

from walmill.context.local import Limits
from walmill.errors import PluginFailure, Unavailable, WalmillError
from walmill.isolation.base import Code, Seat
from walmill.isolation.cgroup import Groups
from walmill.isolation.seat import Process
from walmill.isolation.warden import Warden, Watched, memory_of
from walmill.isolation.zygote import Ended, Zygote, interpreter
from walmill.observe.log import get_logger
from walmill.wal.log import Log
from walmill_hookspecs import BadSettings, TriggerInfo
from walmill_hookspecs.settings import SettingInfo, check, resolve_secret
from walmill_worker.describe import Described
from walmill_worker.wire import pair

log = get_logger("walmill.workers")

VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "PYTHONHASHSEED",
    "PYTHONDONTWRITEBYTECODE",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
"""The environment variables of the server that a plugin sees, beside `LC_…`; others hold secrets."""


CLOSE_SECONDS = 1.0
"""What still runs after so long when the engine stops is killed with the zygote."""
ZYGOTE_SECONDS = 5.0
"""A zygote of an environment that had no worker for so long ends."""
SLOW_SECONDS = 0.05
"""Where loading a plugin takes longer, a spare worker is kept that has done it."""


@frozen(kw_only=True)
class WorkerOptions:
    """How worker processes are kept.

    Attributes:
        most: So many run at a time in one engine; who needs another one waits.
        idle_seconds: One that had nothing to do for so long ends.
        nice: How far they stand behind the engine.
        start_seconds: What loading a plugin may take.
        variables: Further environment variables of the server that plugins see.
    """

    most: int = 256
    idle_seconds: float = 300.0
    nice: int = 5
    start_seconds: float = 60.0
    variables: Sequence[str] = field(default=())


@frozen(kw_only=True)
class Source:
    """Where a plugin is found.

    Attributes:
        value: Where its entry point points to.
        wrappers: Name and entry point of others that wrap its hooks.
        settings: Its settings, if it describes them.
        code: Version and content hash, where they are known.
        python: The interpreter of the environment that it has for itself; None for the engine's.
    """

    value: str
    wrappers: tuple[tuple[str, str], ...] = ()
    settings: tuple[SettingInfo, ...] = ()
    code: Code = (None, None)
    python: str | None = None


def possible() -> bool:
    """Whether this machine can run hooks in processes: that takes Linux."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open") and hasattr(os, "memfd_create")


class ProcessWorker:
    """A plugin bound to one trigger, in up to so many processes.

    Args:
        executor: Makes the processes.
        plugin: Name of the plugin.
        source: Where it is found.
        arguments: Of the trigger.
        concurrency: Runs at a time.
        trigger: What the plugin sees of the trigger.
        limits: What a run may use.
    """

    def __init__(
        self,
        executor: ProcessExecutor,
        plugin: str,
        source: Source,
        arguments: Mapping[str, Any],
        concurrency: int,
        trigger: TriggerInfo,
        limits: Limits,
    ) -> None:
        self._executor = executor
        self.plugin = plugin
        self.source = source
        self.arguments = arguments
        self.trigger = trigger
        self.limits = limits
        self.hooks: Mapping[str, bool] = {}
        self.settings: Any = None
        self.code = source.code
        self.retire: Callable[[Seat], Awaitable[None]] | None = None
        self._concurrency = concurrency
        self._idle: deque[Process] = deque()
        self._busy: set[Process] = set()
        self._making = 0
        self._spare: asyncio.Task[None] | None = None
        self.slow = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def processes(self) -> list[Process]:
        """Its processes."""
        return [*self._idle, *self._busy]

    @property
    def busy(self) -> Set[Process]:
        """Its processes with a run."""
        return self._busy

    @property
    def idle(self) -> Sequence[Process]:
        """Its processes without a run, that which waits longest first."""
        return self._idle

    @property
    def ready(self) -> bool:
        """See `Worker.ready`."""
        return bool(self._idle) and self._idle[-1].started and not self._closed

    async def first(self) -> None:
        """Makes its first process, so that what is wrong with the plugin shows at once."""
        self.give(await self.take())

    async def take(self) -> Seat:
        """See `Worker.take`."""
        while True:
            if self._closed:
                raise Unavailable("the trigger is being changed; send it again", retry_after=1)
            if self._idle:
                process = self._idle.pop()  # the last one is the warmest
                self._busy.add(process)
                self._keep_spare()
                return process
            if len(self._busy) + self._making < self._concurrency:
                break
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        self._making += 1
        try:
            process = await self._executor.make(self)
        finally:
            self._making -= 1
            self._changed.set()
            self._next()
        if self._closed:
            await process.end(1.0)
            raise Unavailable("the trigger is being changed; send it again", retry_after=1)
        self._busy.add(process)
        self._keep_spare()
        return process

    def _keep_spare(self) -> None:
        """Where loading the plugin takes long, one process more has done it already: it takes the place of one that ends."""
        wanted = self.slow and not self._closed and self._spare is None and self._executor.has_room
        if wanted and self._busy and all(process.started for process in self._idle):
            self._spare = asyncio.get_running_loop().create_task(self._make_spare())

    async def _make_spare(self) -> None:
        try:
            process = await self._executor.make(self)
            if self._closed:
                await process.end(1.0)
            else:
                self._idle.appendleft(process)
                self._next()
                self._executor.given()
        except (WalmillError, BadSettings, OSError) as error:
            log.warning("a spare worker could not be made", trigger=self.trigger.name, error=str(error))
        finally:
            self._spare = None

    def give(self, seat: Seat) -> None:
        """See `Worker.give`."""
        assert isinstance(seat, Process)
        self._busy.discard(seat)
        self._changed.set()
        seat.over()
        if seat.alive and not self._closed:
            self._idle.append(seat)
            self._executor.given()
        self._next()

    def _next(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    def lost(self, process: Process) -> None:
        """A process has ended."""
        with contextlib.suppress(ValueError):
            self._idle.remove(process)
        self._busy.discard(process)
        self._changed.set()
        self._next()

    async def let_go(self, process: Process) -> None:
        """Ends a process that has nothing to do."""
        with contextlib.suppress(ValueError):
            self._idle.remove(process)
        if self.retire is not None and process.alive:
            self._busy.add(process)
            try:
                await self.retire(process)
            finally:
                self._busy.discard(process)
        await process.end(1.0)

    async def drain(self) -> None:
        """See `Worker.drain`."""
        while self._busy or self._making or self._waiting:
            self._changed.clear()
            await self._changed.wait()
        await self.close()

    async def close(self) -> None:
        """See `Worker.close`."""
        while self._idle:  # a spare that is made, or a run that ends, while one says goodbye comes to it
            await self.let_go(self._idle[-1])
        self._closed = True
        while self._waiting:
            self._next()
        if self._spare is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([self._spare])
        for process in list(self._busy):
            process.kill("the trigger was closed")
            await process.end(1.0)
        self._executor.forget(self)


class ProcessExecutor:
    """Makes worker processes. Everything happens on the mill's loop.

    Args:
        source: Finds a plugin by name, for a worker that is to import it.
        wal: The log that workers map.
        options: How workers are kept.
    """

    name = "process"
    isolates = True

    def __init__(self, source: Callable[[str], Source], wal: Log | None, options: WorkerOptions) -> None:
        self._source = source
        self._wal = wal
        self._options = options
        self._warden = Warden()
        self._groups = Groups()
        self._workers: set[ProcessWorker] = set()
        self._zygotes: dict[str | None, Zygote] = {}
        self._numbers = itertools.count(1)
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._sweeping: set[asyncio.Task[None]] = set()

    def processes(self) -> dict[str, Any]:
        """The processes that there are, as plain data; from any thread."""
        return {
            "zygote": None if None not in self._zygotes else self._zygotes[None].pid,
            "zygotes": {python: zygote.pid for python, zygote in list(self._zygotes.items()) if python is not None},
            "count": self._running,
            "workers": [
                {
                    "pid": process.watched.pid,
                    "database": worker.trigger.database,
                    "trigger": worker.trigger.name,
                    "running": process in worker.busy,
                    "stopped": process.watched.stopped,
                    "group": process.watched.group,
                }
                for worker in list(self._workers)
                for process in worker.processes
            ],
        }

    async def open(
        self, plugin: str, arguments: Mapping[str, Any], *, concurrency: int, trigger: TriggerInfo, limits: Limits
    ) -> ProcessWorker:
        """See `Executor.open`."""
        loop = asyncio.get_running_loop()
        source = await loop.run_in_executor(None, self._source, plugin)
        worker = ProcessWorker(self, plugin, source, arguments, concurrency, trigger, limits)
        self._workers.add(worker)
        try:
            await worker.first()
        except BaseException:
            self._workers.discard(worker)
            raise
        return worker

    async def describe(self, plugin: str, value: str, python: str | None = None) -> Described:
        """What a plugin offers, found out in a fresh worker.

        Args:
            plugin: Name of the plugin.
            value: Where its entry point points to.
            python: The interpreter of the environment that it has for itself; None for the engine's.

        Raises:
            PluginFailure: If no worker can be made.
        """
        info = TriggerInfo(name="(inspection)", database="", plugin=plugin, spec="")
        limits = Limits(seconds=None, memory=None, cpu=None)
        process = await self._process(info, limits, lambda process: None, python)
        try:
            return Described.from_plain(await process.describe(plugin, value, self._options.start_seconds))
        except PluginFailure as error:
            return Described(broken=error.message)
        except ValueError as error:
            return Described(broken=str(error))
        finally:
            await process.end(1.0)

    async def check(self, plugin: str, arguments: Mapping[str, Any]) -> str | None:
        """What the plugin itself says against arguments, found out in a fresh worker; None if nothing.

        Without a secret that is not there yet it cannot say anything.

        Args:
            plugin: Name of the plugin.
            arguments: Of a trigger.

        Raises:
            PluginFailure: If the plugin cannot be loaded.
        """
        source = await asyncio.get_running_loop().run_in_executor(None, self._source, plugin)
        try:
            secrets = secrets_of(source.settings, arguments)
        except BadSettings:
            return None
        info = TriggerInfo(name="(inspection)", database="", plugin=plugin, spec="")
        limits = Limits(seconds=None, memory=None, cpu=None)
        process = await self._process(info, limits, lambda process: None, source.python)
        try:
            seconds = self._options.start_seconds
            await process.open(plugin, source.value, source.wrappers, arguments, secrets, seconds)
        except BadSettings as error:
            return str(error)
        finally:
            await process.end(1.0)
        return None

    async def make(self, worker: ProcessWorker) -> Process:
        """A process for a worker, with the plugin loaded; waits while there are too many.

        Raises:
            PluginFailure: If that is not possible.
            BadSettings: If the trigger's arguments do not fit.
        """
        while self._running >= self._options.most:
            if not await self._evict():
                future = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
        secrets = secrets_of(worker.source.settings, worker.arguments)
        process = await self._process(worker.trigger, worker.limits, worker.lost, worker.source.python)
        began = time.monotonic()
        try:
            worker.hooks = await process.open(
                worker.plugin,
                worker.source.value,
                worker.source.wrappers,
                worker.arguments,
                secrets,
                self._options.start_seconds,
            )
        except BaseException:
            await process.end(1.0)
            raise
        worker.slow = time.monotonic() - began > SLOW_SECONDS
        return process

    @property
    def has_room(self) -> bool:
        """Whether another worker may be made without anybody waiting for it."""
        return self._running < self._options.most and not self._waiting

    def _zygote_of(self, python: str | None) -> Zygote:
        """The zygote of an environment, which is not started before it is needed."""
        found = self._zygotes.get(python)
        if found is None:
            variables = environment(self._options.variables)
            if python is None:
                found = Zygote(*interpreter(), variables)
            else:
                variables.pop("PYTHONPATH", None)  # it is for the engine's interpreter
                variables["VIRTUAL_ENV"] = str(Path(python).parent.parent)
                found = Zygote(python, [], variables)
            self._zygotes[python] = found
        return found

    def _close_idle_zygotes(self) -> None:
        """Ends zygotes of environments that nobody uses; the engine's own stays."""
        needed = {worker.source.python for worker in self._workers}
        for python, zygote in list(self._zygotes.items()):
            if python is not None and python not in needed and not zygote.busy:
                del self._zygotes[python]
                zygote.close()

    async def _process(
        self, trigger: TriggerInfo, limits: Limits, lost: Callable[[Process], None], python: str | None = None
    ) -> Process:
        zygote = self._zygote_of(python)
        number = next(self._numbers)
        mine, theirs = pair()
        mine.setblocking(False)
        seen, output = os.pipe()
        found: list[Process] = []
        early: list[Ended] = []

        def ended(how: Ended) -> None:
            if found:
                found[0].died(how)
            else:
                early.append(how)

        self._running += 1
        try:
            forked = await zygote.fork(
                theirs,
                output,
                directory=str(number),
                name=f"walmill:{trigger.name}",
                nice=self._options.nice,
                memory=limits.memory,
                ended=ended,
            )
        except BaseException:
            mine.close()
            os.close(seen)
            self._freed()
            raise
        finally:
            theirs.close()
            os.close(output)
        watched = Watched(forked.pid, forked.pidfd, limits, base=memory_of(forked.pid), groups=self._groups)
        self._warden.add(watched)

        def over(process: Process) -> None:
            self._freed()
            lost(process)

        process = Process(
            mine,
            seen,
            watched,
            number,
            trigger=trigger,
            limits=limits,
            wal=self._wal,
            warden=self._warden,
            over=over,
        )
        found.append(process)
        if early:
            process.died(early[0])
        return process

    def _freed(self) -> None:
        self._running -= 1
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def _evict(self) -> bool:
        """Ends the worker that has had nothing to do for longest; False if all have something to do."""
        idle = [(process.idle_since, worker, process) for worker in self._workers for process in worker.idle]
        if not idle:
            return False
        _, worker, process = min(idle, key=lambda one: one[0])
        await worker.let_go(process)
        return True

    def given(self) -> None:
        """A worker has nothing to do for now: it is looked at again when it may be let go of, and someone may wait for it."""
        if self._waiting:
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
                    break
        if self._sweep is None:
            delay = max(0.05, min(self._options.idle_seconds / 2, 10.0))
            self._sweep = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._sweep = None
        limit = time.monotonic() - self._options.idle_seconds
        left = False
        for worker in list(self._workers):
            for process in list(worker.idle):
                if process.idle_since <= limit:
                    task = asyncio.get_running_loop().create_task(worker.let_go(process))
                    self._sweeping.add(task)
                    task.add_done_callback(self._sweeping.discard)
                else:
                    left = True
        if left:
            self.given()

    def forget(self, worker: ProcessWorker) -> None:
        """A worker is closed."""
        self._workers.discard(worker)
        if worker.source.python is not None:
            asyncio.get_running_loop().call_later(ZYGOTE_SECONDS, self._close_idle_zygotes)

    async def close(self) -> None:
        """See `Executor.close`."""
        if self._sweep is not None:
            self._sweep.cancel()
        closing = [asyncio.get_running_loop().create_task(worker.close()) for worker in list(self._workers)]
        if closing:
            _, late = await asyncio.wait(closing, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
        for zygote in self._zygotes.values():
            zygote.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._warden.stop)
        await loop.run_in_executor(None, self._groups.close)


def environment(more: Sequence[str] = ()) -> dict[str, str]:
    """The environment of plugins: what is known to be harmless, and what the operator has named.

    Args:
        more: Names of further variables.
    """
    found = {
        name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith("LC_") or name in more
    }
    found |= {
        "OPENBLAS_NUM_THREADS": "1",  # each thread would have a stack, and the share of a processor is one at most
        "OMP_NUM_THREADS": found.get("OMP_NUM_THREADS", "1"),
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # a fork copies no threads
        "PYTHONUNBUFFERED": "1",
    }
    return found


def secrets_of(settings: Sequence[SettingInfo], arguments: Mapping[str, Any]) -> dict[str, str]:
    """The values of the secrets among a trigger's arguments, by reference; what they refer to is not reachable from a worker.

    Raises:
        BadSettings: If there is nothing behind a reference.
    """
    values, _ = check(settings, arguments)
    found: dict[str, str] = {}
    for info in settings:
        given = values.get(info.name) if info.kind == "secret" else None
        for reference in given if isinstance(given, list | tuple) else [given]:
            if isinstance(reference, str):
                try:
                    found[reference] = resolve_secret(reference)
                except ValueError as error:
                    raise BadSettings(f"the argument {info.name!r}: {error}") from None
    return found
