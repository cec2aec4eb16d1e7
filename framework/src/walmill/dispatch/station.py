"""A station: one enabled trigger with its worker, and the way of one run through it: hook, verdict, commit, record."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, Protocol

from attrs import define, evolve, field

from walmill.cache.state import Wish
from walmill.context.local import Limits, RunHost, RunState
from walmill.dispatch.bench import Bench
from walmill.dispatch.history import RunRow
from walmill.dispatch.verdict import judge
from walmill.errors import Conflict, PluginFailure, Unavailable, WalmillError, described, told
from walmill.isolation.base import Called, Code, Executor, Gate, Seat, Worker
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.scarcity import RETRY_SECONDS, scarce
from walmill.store.commit import Source
from walmill.store.draft import SchemaConflict
from walmill.store.submission import RunEffect, Stale, Ticket
from walmill.store.view import View
from walmill.triggers.spec import Spec
from walmill_hookspecs import BadSettings, Run, TriggerInfo
from walmill_hookspecs.types import BatchKind
from walmill_worker.capture import Voice
from walmill_worker.replies import Answer

log = get_logger("walmill.dispatch")

_boot = f"{int(time.time() * 1e6):x}{os.getpid():x}"
_numbers = itertools.count(1)

End = Literal[
    "ok", "skip", "retry_later", "disable", "failed", "cancelled", "answered", "stale", "conflict", "unavailable"
]


class StationHost(RunHost, Protocol):
    """What a station needs of the engine beside what runs need."""

    def record(self, row: RunRow) -> None:
        """Takes what became of a run."""

    def say(self, database: str, trigger: str, run_id: str, level: str, text: str) -> None:
        """Takes a line that a run said."""

    def blocked(self) -> None:
        """Tells that a trigger waits for its plugin."""

    def move(self, trigger: Trigger, cursor: Cursor) -> None:
        """Notes that a cursor moved without a commit."""


@define(kw_only=True)
class Event:
    """What a run is about.

    Attributes:
        hook: The hook to call.
        values: The hook's parameters, without the context.
        key: `run.key`.
        attempt: 1 for the first.
        at: `time.perf_counter_ns()` of the event: durable, due, arrived.
        source: The kind of run.
        consumed: The range of sequences (`on_write`).
        through: Gives up to where all is done once this run is.
        fired: The due time (`on_schedule`), ns.
        chain: The chain of what is consumed.
        rows_in: Rows given.
        why: Whether it is done again because a person asked for that.
        accept: Makes the answer of what the hook returned, before anything is committed; raises PluginFailure for nonsense.
    """

    hook: str
    values: Mapping[str, Any]
    key: str
    attempt: int = 1
    at: int = 0
    source: Source = "write"
    consumed: tuple[int, int] | None = None
    through: Callable[[], int] = lambda: 0
    fired: int | None = None
    chain: tuple[int, ...] = ()
    rows_in: int = 0
    why: BatchKind = "live"
    accept: Callable[[Any], Any] | None = None


@define(kw_only=True)
class Ended:
    """How a run ended.

    Attributes:
        end: What it came to.
        error: Kind and message.
        traceback: Of the plugin's exception.
        after: Seconds that the plugin wants to wait.
        result: What the hook returned.
        exception: What the hook raised.
        committed: Whether there was a commit.
        cursor: The trigger's cursor after the commit.
        first: Where the rest of the batch begins, after checkpoints.
        state: The run; None if it never began.
        seat: Where it ran, if a streamed answer still comes from there: to be given back.
        worker: What it is given back to.
        run_id: Its id.
        sequence: Of its commit.
    """

    end: End
    error: str | None = None
    traceback: str = ""
    after: float | None = None
    result: Any = None
    exception: BaseException | None = None
    committed: bool = False
    cursor: Cursor | None = None
    first: int | None = None
    state: RunState | None = field(default=None, repr=False)
    seat: Seat | None = field(default=None, repr=False)
    worker: Worker | None = field(default=None, repr=False)
    run_id: str = ""
    sequence: int | None = None


class Station:
    """One enabled trigger.

    Args:
        trigger: Its definition.
        spec: Its event.
        database: Name of its database.
        host: The engine.
        executor: Where its hooks run.
        limits: What its runs may use.
        hide: Its arguments with secrets hidden; called by a thread, since that may have to be found out.
        dry: Whether the host keeps nothing of what its runs commit: they are told, and what waits for a commit is not called.
    """

    def __init__(
        self,
        trigger: Trigger,
        spec: Spec,
        database: str,
        host: StationHost,
        executor: Executor,
        limits: Limits,
        hide: Callable[[], Mapping[str, Any]],
        *,
        dry: bool = False,
    ) -> None:
        self.trigger = trigger
        self.spec = spec
        self.database = database
        self._hide = hide
        self._dry = dry
        self.info = TriggerInfo(
            name=trigger.name, database=database, plugin=trigger.plugin, spec=trigger.spec, arguments={}
        )
        self._host = host
        self._executor = executor
        self._limits = limits
        self._bench = Bench(self._new_worker, host.blocked, trigger.name)
        self._starting = asyncio.Lock()
        self.runs: dict[str, RunState] = {}
        self._seats: dict[str, Seat] = {}
        self.on_change: Callable[[], None] | None = None
        """Called when its plugin has changed or is gone: for a run that does not end by itself."""
        self.tasks: set[asyncio.Task[Any]] = set()

    @property
    def worker(self) -> Worker | None:
        """The worker, once it was opened."""
        return self._bench.worker

    @property
    def blocked(self) -> str | None:
        """Why its plugin cannot be used; None if nothing is known to be in the way."""
        return self._bench.blocked

    @blocked.setter
    def blocked(self, reason: str | None) -> None:
        self._bench.blocked = reason

    @property
    def retired(self) -> bool:
        """Whether the trigger is not this station's any more."""
        return self._bench.retired

    @property
    def ready(self) -> bool:
        """Whether its worker is open and started, so that a run can begin without waiting."""
        return self.worker is not None and self.worker.ready and not self.retired

    def retire(self) -> None:
        """The trigger is not its own any more: another one has it, or nobody."""
        self._bench.retired = True

    async def renew(self) -> None:
        """Its plugin has changed; see `Bench.renew`."""
        await self._bench.renew()
        if self.on_change is not None:
            self.on_change()

    def block(self, reason: str) -> None:
        """Its plugin is gone; see `Bench.block`."""
        self._bench.block(reason)
        if self.on_change is not None:
            self.on_change()

    async def perform(self, event: Event, gate: Gate | None = None, view: View | None = None) -> Ended:
        """Runs a hook and commits its effect. Never raises what the plugin raised.

        Args:
            event: What the run is about.
            gate: Opens when the event is durable; None if it is.
            view: The view of the run; the newest if None.
        """
        worker = self.worker
        if worker is None:
            problem = await self._bench.open()
            if problem is not None:
                return self._not_opened(event, problem)
            worker = self.worker
            assert worker is not None
        try:
            seat = await worker.take()
        except (WalmillError, BadSettings) as error:
            return self._not_seated(event, error)
        except Exception as error:  # noqa: BLE001 - whatever the engine lacks, the trigger goes on later
            return self._not_seated(event, self._not_possible(error))
        kept = False
        try:
            if not seat.started:
                failure = await self._start(seat, worker)
                if failure is not None:
                    self._record(event, failure, None, Called())
                    return failure
            ended = await self._run(event, seat, worker, gate, view)
            kept = ended.seat is not None
            if kept:
                ended.worker = worker
        finally:
            if not kept:
                worker.give(seat)
        return ended

    def give_back(self, ended: Ended) -> None:
        """The last piece of a streamed answer is out: its place is free again."""
        seat, ended.seat = ended.seat, None
        if seat is not None and ended.worker is not None:
            ended.worker.give(seat)

    async def _run(
        self, event: Event, seat: Seat, worker: Worker, gate: Gate | None = None, view: View | None = None
    ) -> Ended:
        state = self._state(event, worker, view)
        self.runs[state.run.id] = state
        self._seats[state.run.id] = seat
        try:
            try:
                called = await seat.call(event.hook, event.values, state, gate)
            except Exception as error:
                short = scarce(error)
                if short is not None:
                    state.close()
                    return self._not_seated(event, short)
                log.exception("a run met an error of the engine's own", trigger=self.trigger.name)
                called = Called(error=error)
            if not called.begun:
                return Ended(end="cancelled", error="its commits did not become durable")
            if gate is not None and gate.at is not None:
                event.at = gate.at
            ended = await self._finish(event, state, called, seat)
        finally:
            self.runs.pop(state.run.id, None)
            self._seats.pop(state.run.id, None)
        self._record(event, ended, state, called, seat.name, worker.code)
        return ended

    def _not_possible(self, error: Exception) -> Unavailable:
        """What keeps the engine from making a place, though nothing is wrong with the plugin: it is tried again."""
        short = scarce(error)
        if short is not None:
            return short
        log.exception("a worker could not be made", trigger=self.trigger.name, database=self.database)
        return Unavailable(f"a worker could not be made: {described(error)}", retry_after=RETRY_SECONDS)

    def _not_seated(self, event: Event, error: Exception) -> Ended:
        """There is no place where it could run."""
        if isinstance(error, Unavailable):
            ended = Ended(end="unavailable", error=error.message, after=float(error.retry_after), exception=error)
        else:
            self.blocked = told(error)
            self._host.blocked()
            ended = Ended(end="failed", error=described(error), exception=error)
        self._record(event, ended, None, Called())
        return ended

    def _not_opened(self, event: Event, error: Exception) -> Ended:
        """There is no worker."""
        if self.retired and isinstance(error, Unavailable):
            ended = Ended(end="unavailable", error=error.message, after=float(error.retry_after), exception=error)
        else:
            ended = Ended(end="failed", error=described(error), exception=error)
        self._record(event, ended, None, Called())
        return ended

    async def _new_worker(self) -> Worker:
        """Binds the plugin as it is now.

        Raises:
            Exception: Whatever keeps it from that.
        """
        loop = asyncio.get_running_loop()
        hidden = await loop.run_in_executor(self._host.pool, self._hide)
        self.info = evolve(self.info, arguments=dict(hidden))
        worker = await self._executor.open(
            self.trigger.plugin,
            self.trigger.arguments,
            concurrency=self.trigger.max_concurrency,
            trigger=self.info,
            limits=self._limits,
        )
        worker.retire = partial(self._say_goodbye, worker)
        if self.spec.hook not in worker.hooks:
            await worker.close()
            raise PluginFailure(f"the plugin {self.trigger.plugin!r} lacks the hook {self.spec.hook} by now")
        return worker

    async def _start(self, seat: Seat, worker: Worker) -> Ended | None:
        """Calls `on_startup` where it was not called yet; None if all went well."""
        async with self._starting:  # an inline worker is one place for all runs
            if not seat.started and "on_startup" in worker.hooks:
                ended = await self._run(self._turn("on_startup"), seat, worker)
                if ended.end != "ok":
                    return ended
            seat.started = True
        return None

    async def _say_goodbye(self, worker: Worker, seat: Seat) -> None:
        """Calls `on_shutdown` in a place that will not be used any more."""
        if seat.started and "on_shutdown" in worker.hooks:
            seat.started = False
            await self._run(self._turn("on_shutdown"), seat, worker)

    def _turn(self, hook: str) -> Event:
        return Event(
            hook=hook,
            values={},
            key=f"{self.database}.{self.trigger.name}:{hook}",
            at=time.perf_counter_ns(),
            source="startup",
        )

    def _state(self, event: Event, worker: Worker, view: View | None = None) -> RunState:
        now = self._host.now_ns()
        run_id = f"{self.trigger.name}-{_boot}-{next(_numbers)}"
        voice = Voice(
            lambda level, text: self._host.say(self.database, self.trigger.name, run_id, level, text),
            left=self._limits.log_lines,
            limit=self._limits.log_lines,
        )
        return RunState(
            host=self._host,
            trigger=self.trigger,
            database=self.database,
            info=self.info,
            run=Run(
                id=run_id,
                key=event.key,
                attempt=event.attempt,
                deadline=self._deadline(event.hook),
                dry_run=self._dry,
                source="test" if self._dry else event.why,
            ),
            settings=worker.settings,
            source=event.source,
            now=now,
            view=self._host.view() if view is None else view,
            voice=voice,
            limits=self._limits,
            consumed=event.consumed,
            chain=event.chain,
            stopping=self.retired,
        )

    def _deadline(self, hook: str) -> datetime | None:
        """When a run that begins now is ended, if this executor can do that."""
        seconds = self._limits.of_hook(hook).seconds if self._executor.isolates else None
        return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)

    async def _finish(self, event: Event, state: RunState, called: Called, seat: Seat) -> Ended:
        state.close()
        verdict = judge(called)
        if verdict.kind == "cancelled" and state.cancelled is None:  # nobody but the plugin itself has said so
            verdict = evolve(verdict, kind="failed", error=f"RunCancelled: {verdict.error}")
        first = None
        if event.consumed is not None and state.consumed is not None and state.consumed[0] != event.consumed[0]:
            first = state.consumed[0]
        ended = Ended(
            end=_END[verdict.kind],
            error=verdict.error,
            traceback=called.traceback if verdict.kind == "failed" else "",
            after=verdict.after,
            result=called.result,
            exception=called.error,
            first=first,
            state=state,
            run_id=state.run.id,
        )
        if verdict.kind == "failed" and state.stale is not None:  # the hook let out what its checkpoint was told
            ended.end, ended.error, ended.traceback = "stale", state.stale, ""
        if verdict.kind != "ok":
            return ended
        if event.accept is not None:
            try:
                ended.result = event.accept(called.result)
            except PluginFailure as error:
                ended.end, ended.error = "failed", error.message
                return ended
        elif called.result is not None:
            problem = not_run(event.hook, called.result)
            if problem is not None:
                ended.end, ended.error = "failed", problem
                return ended
        rows, wishes = state.take_rows(), state.wishes()
        consumed = state.consumed
        if consumed is not None and consumed[0] > consumed[1]:
            consumed = None  # a checkpoint finished all of it
        if not rows and not wishes:
            ended.committed = first is not None and consumed is None
        else:
            await self._commit(event, state, ended, rows, wishes, consumed)
        if ended.committed:
            ended.cursor = self._host.view().cursors.get(self.trigger.id)
        if ended.end == "ok" and state.callbacks and not self._dry:
            await seat.call_back(state)
        if ended.end == "ok" and isinstance(ended.result, Answer) and ended.result.stream is not None:
            ended.seat = seat
        return ended

    async def _commit(
        self,
        event: Event,
        state: RunState,
        ended: Ended,
        rows: Sequence[tuple[str, Any]],
        wishes: Mapping[str, Sequence[Wish]],
        consumed: tuple[int, int] | None,
    ) -> None:
        effect = RunEffect(
            trigger=self.trigger.id,
            generation=self.trigger.generation,
            consumed=consumed,
            through=event.through(),
            fired=event.fired,
            rows=rows,
            wishes=wishes,
            source=event.source,
            chain=state.chain,
            run=state.run.id,
        )
        try:
            outcome = await self._host.submit(effect, Ticket(asyncio.get_running_loop()))
        except Stale as error:
            ended.end, ended.error = "stale", error.message
        except SchemaConflict as error:
            ended.end, ended.error = "failed", f"WriteError: {error.message}"
        except Conflict as error:
            ended.end, ended.error = "conflict", error.message
        except Unavailable as error:
            ended.end, ended.error, ended.after = "unavailable", error.message, float(error.retry_after)
        except WalmillError as error:
            ended.end, ended.error = "failed", f"{type(error).__name__}: {error.message}"
        else:
            ended.committed = True
            ended.sequence = outcome.sequence
            state.committed_rows += outcome.value.rows

    def _record(
        self,
        event: Event,
        ended: Ended,
        state: RunState | None,
        called: Called,
        where: str = "",
        code: Code | None = None,
    ) -> None:
        status = _STATUS[ended.end]
        if code is None:  # it has not begun
            code = (None, None) if self.worker is None else self.worker.code
        begun = self._host.now_ns() if state is None else state.now
        row = RunRow(
            self.database,
            self.trigger.name,
            self.trigger.plugin,
            event.hook,
            status,
            ended.run_id or f"{self.trigger.name}-{_boot}-{next(_numbers)}",
            event.key,
            event.attempt,
            max(0, called.ended - called.started),
            max(0, called.started - event.at) if called.started and event.at else 0,
            event.rows_in,
            0 if state is None else state.committed_rows,
            ended.sequence,
            ended.error,
            code[0],
            code[1],
            None if event.consumed is None else event.consumed[0],
            None if event.consumed is None else event.consumed[1],
            event.fired,
            called.cpu_ns,
            called.memory,
            where,
            begun,
        )
        self._host.record(row)
        if ended.end == "failed":
            log.warning(
                "a run failed",
                database=self.database,
                trigger=self.trigger.name,
                hook=event.hook,
                attempt=event.attempt,
                error=ended.error,
            )
            if ended.traceback:
                self._host.say(self.database, self.trigger.name, row.run_id, "ERROR", ended.traceback)

    def cancel(self, reason: str) -> None:
        """Asks the runs under way to end."""
        for state in list(self.runs.values()):
            self.cancel_run(state, reason)

    def cancel_run(self, state: RunState, reason: str) -> None:
        """Asks one run to end."""
        seat = self._seats.get(state.run.id)
        if seat is not None:
            seat.cancel(state, reason)
        else:
            state.cancelled = reason

    def stop_soon(self) -> None:
        """Tells the runs under way that they should end soon."""
        for state in list(self.runs.values()):
            seat = self._seats.get(state.run.id)
            if seat is not None:
                seat.stopping(state)

    async def close(self) -> None:
        """Calls `on_shutdown` where the trigger had started and nothing runs, and lets go of the worker."""
        await self._bench.close()

    def key(self, suffix: str) -> str:
        """A key for runs of this trigger."""
        return f"{self.database}.{self.trigger.name}:{suffix}"


def not_run(hook: str, result: object) -> str | None:
    """Why a hook that returned this did nothing of what its author wrote; None for any other value, which means nothing."""
    if inspect.iscoroutine(result):
        result.close()
        return f"{hook} returned a coroutine that nobody awaits: write `async def {hook}`, or await it"
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return f"{hook} has a `yield`, so calling it ran nothing of it: take the yield out"
    return None


_END: dict[str, End] = {
    "ok": "ok",
    "skip": "skip",
    "retry_later": "retry_later",
    "disable": "disable",
    "failed": "failed",
    "cancelled": "cancelled",
    "answered": "answered",
}
_STATUS: dict[str, Any] = {
    "ok": "ok",
    "skip": "skipped",
    "retry_later": "retry_later",
    "disable": "disabled",
    "failed": "failed",
    "cancelled": "cancelled",
    "answered": "ok",
    "stale": "refused",
    "conflict": "refused",
    "unavailable": "refused",
}
