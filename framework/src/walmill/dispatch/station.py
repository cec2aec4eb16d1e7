"""A station: one enabled trigger with its worker, and the way of one run through it: hook, verdict, commit, record."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from attrs import define, field

from walmill.cache.state import Wish
from walmill.context.capture import Voice
from walmill.context.local import Limits, RunHost, RunState
from walmill.dispatch.history import RunRow
from walmill.dispatch.verdict import judge
from walmill.errors import Conflict, PluginFailure, Unavailable, WalmillError, described, told
from walmill.isolation.base import Called, Executor, Gate, Worker
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.store.commit import Source
from walmill.store.draft import SchemaConflict
from walmill.store.submission import RunEffect, Stale, Ticket
from walmill.store.view import View
from walmill.triggers.spec import Spec
from walmill_hookspecs import BadSettings, Run, TriggerInfo

log = get_logger("walmill.dispatch")

_boot = f"{int(time.time() * 1e6):x}{os.getpid():x}"
_numbers = itertools.count(1)

End = Literal[
    "ok", "skip", "retry_later", "disable", "failed", "cancelled", "answered", "stale", "conflict", "unavailable"
]


class StationHost(RunHost, Protocol):
    """What a station needs of the engine beside what runs need."""

    def now_ns(self) -> int:
        """Wall-clock time, ns."""

    def record(self, row: RunRow) -> None:
        """Takes what became of a run."""

    def say(self, database: str, trigger: str, run_id: str, level: str, text: str) -> None:
        """Takes a line that a run said."""

    def blocked(self) -> None:
        """Tells that a trigger waits for its plugin."""

    def move(self, trigger: int, cursor: Cursor) -> None:
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
        hidden: Its arguments with secrets hidden.
    """

    def __init__(
        self,
        trigger: Trigger,
        spec: Spec,
        database: str,
        host: StationHost,
        executor: Executor,
        limits: Limits,
        hidden: Mapping[str, Any],
    ) -> None:
        self.trigger = trigger
        self.spec = spec
        self.database = database
        self.info = TriggerInfo(
            name=trigger.name, database=database, plugin=trigger.plugin, spec=trigger.spec, arguments=dict(hidden)
        )
        self._host = host
        self._executor = executor
        self._limits = limits
        self._worker: Worker | None = None
        self._started = False
        self._opening = asyncio.Lock()
        self.runs: dict[str, RunState] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.blocked: str | None = None
        self.retired = False

    @property
    def worker(self) -> Worker | None:
        """The worker, once it was opened."""
        return self._worker

    @property
    def ready(self) -> bool:
        """Whether its worker is open and started, so that a run can begin without waiting."""
        return self._worker is not None and self._started and not self.retired

    async def perform(self, event: Event, gate: Gate | None = None, view: View | None = None) -> Ended:
        """Runs a hook and commits its effect. Never raises what the plugin raised.

        Args:
            event: What the run is about.
            gate: Opens when the event is durable; None if it is.
            view: The view of the run; the newest if None.
        """
        if self._worker is None or not self._started:
            failure = await self._open()
            if failure is not None:
                self._record(event, failure, None, 0, 0)
                return failure
        worker = self._worker
        assert worker is not None
        state = self._state(event, view)
        self.runs[state.run.id] = state
        try:
            called = await worker.call(event.hook, event.values, state, gate)
            if not called.begun:
                return Ended(end="cancelled", error="its commits did not become durable")
            if gate is not None and gate.at is not None:
                event.at = gate.at
            ended = await self._finish(event, state, called)
        finally:
            self.runs.pop(state.run.id, None)
        self._record(event, ended, state, called.started, called.ended)
        return ended

    async def _open(self) -> Ended | None:
        """Opens the worker and calls `on_startup`, once; None if all went well."""
        async with self._opening:
            if self._worker is None:
                try:
                    self._worker = await self._executor.open(
                        self.trigger.plugin,
                        self.trigger.arguments,
                        concurrency=self.trigger.max_concurrency,
                    )
                    self.blocked = None
                except (WalmillError, BadSettings) as error:
                    self.blocked = told(error)
                    self._host.blocked()
                    return Ended(end="failed", error=described(error), exception=error)
                except Exception as error:  # noqa: BLE001 - a plugin's constructor may raise anything
                    self.blocked = described(error)
                    self._host.blocked()
                    return Ended(end="failed", error=self.blocked, exception=error)
            if not self._started and "on_startup" in self._worker.hooks:
                ended = await self._startup("on_startup")
                if ended.end != "ok":
                    return ended
            self._started = True
        return None

    async def _startup(self, hook: str) -> Ended:
        assert self._worker is not None
        event = Event(
            hook=hook,
            values={},
            key=f"{self.database}.{self.trigger.name}:{hook}",
            at=time.perf_counter_ns(),
            source="startup",
        )
        state = self._state(event)
        self.runs[state.run.id] = state
        try:
            called = await self._worker.call(hook, {}, state)
            ended = await self._finish(event, state, called)
        finally:
            self.runs.pop(state.run.id, None)
        self._record(event, ended, state, called.started, called.ended)
        return ended

    def _state(self, event: Event, view: View | None = None) -> RunState:
        assert self._worker is not None
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
            run=Run(id=run_id, key=event.key, attempt=event.attempt),
            settings=self._worker.settings,
            source=event.source,
            now=now,
            view=self._host.view() if view is None else view,
            voice=voice,
            limits=self._limits,
            consumed=event.consumed,
            chain=event.chain,
            stopping=self.retired,
        )

    async def _finish(self, event: Event, state: RunState, called: Called) -> Ended:
        state.close()
        verdict = judge(called)
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
        if ended.end == "ok" and state.callbacks:
            await self._call_back(state)
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

    async def _call_back(self, state: RunState) -> None:
        for callback in state.callbacks:
            try:
                result = callback()
                if asyncio.iscoroutine(result):
                    await result
            except Exception as error:  # noqa: BLE001 - the run is committed; its callback cannot undo that
                state.voice.line("ERROR", f"a callback of on_commit failed: {described(error)}")

    def _record(self, event: Event, ended: Ended, state: RunState | None, started: int, stopped: int) -> None:
        status = _STATUS[ended.end]
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
            max(0, stopped - started),
            max(0, started - event.at) if started and event.at else 0,
            event.rows_in,
            0 if state is None else state.committed_rows,
            ended.sequence,
            ended.error,
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
            if self._worker is not None:
                self._worker.cancel(state, reason)
            else:
                state.cancelled = reason

    async def close(self) -> None:
        """Calls `on_shutdown` if the trigger had started and nothing runs, and lets go of the worker."""
        worker = self._worker
        if worker is None:
            return
        if self._started and "on_shutdown" in worker.hooks and not self.runs:
            await self._startup("on_shutdown")
        self._started = False
        self._worker = None
        await worker.close()

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
