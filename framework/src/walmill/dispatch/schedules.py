"""on_schedule: due times become runs. The planning is pure (`walmill.schedule.plan`); here are the timer and the runs."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from datetime import tzinfo
from functools import lru_cache
from typing import Any, Protocol

from attrs import evolve, frozen

from walmill.dispatch.consumer import backoff
from walmill.dispatch.station import Ended, Event, Station
from walmill.errors import Conflict, InvalidRequest, NotFound
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.schedule.plan import Due, Schedule, Timeline, due_before
from walmill.store.view import View
from walmill.triggers.spec import CronSpec, EverySpec
from walmill.units import format_time
from walmill_hookspecs import Tick
from walmill_worker.context import to_datetime

log = get_logger("walmill.schedules")

# Thousands of schedules are due at the same instants.
_datetime = lru_cache(maxsize=256)(to_datetime)
_text = lru_cache(maxsize=256)(format_time)


def jitter(trigger: int, due: int, most: int) -> int:
    """How long after its due time a run begins, ns: always the same for a trigger and a due time, spread evenly over triggers.

    Args:
        trigger: Id of the trigger.
        due: The due time, ns.
        most: The bound, ns.
    """
    digest = hashlib.blake2b(f"{trigger}:{due}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) * most >> 64


class ScheduleHost(Protocol):
    """What the schedules need of the engine."""

    def view(self) -> View:
        """The newest view."""

    def now_ns(self) -> int:
        """Wall-clock time, ns."""

    def move(self, trigger: Trigger, cursor: Cursor) -> None:
        """Notes that a cursor moved without a commit."""

    def disable(self, trigger: Trigger, reason: str, traceback: str) -> None:
        """Has a trigger disabled, with a commit."""


@frozen
class _Entry:
    station: Station
    schedule: Schedule
    zone: tzinfo


class Schedules:
    """All schedule triggers. Everything happens on the mill's loop.

    Args:
        host: The engine.
    """

    def __init__(self, host: ScheduleHost) -> None:
        self._host = host
        self._timeline: Timeline[int] = Timeline()
        self._entries: dict[int, _Entry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._arming = False
        self._stopped = False

    def add(self, station: Station, cursor: Cursor) -> None:
        """Starts the schedule of a trigger; call `arm` afterwards."""
        spec, trigger = station.spec, station.trigger
        assert isinstance(spec, EverySpec | CronSpec)
        schedule = spec.schedule()
        self._entries[trigger.id] = _Entry(station, schedule, schedule.zone)
        self._timeline.add(
            trigger.id,
            schedule,
            fired=cursor.fired,
            since=trigger.changed_at,
            now=self._host.now_ns(),
            policy=trigger.missed,
            concurrency=trigger.max_concurrency,
        )

    def remove(self, trigger: int) -> None:
        """Ends the schedule of a trigger."""
        self._entries.pop(trigger, None)
        self._timeline.remove(trigger)

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def next_due(self, trigger: int) -> int | None:
        """The next due time of a trigger, ns."""
        return self._timeline.next_due(trigger, self._host.now_ns())

    def arm(self) -> None:
        """Sets the timer to the next due time."""
        self._arming = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stopped:
            return
        now = self._host.now_ns()
        wake = self._timeline.next_wake(now)
        if wake is not None:
            # At least a millisecond: a loop's timer is no finer, and a shorter sleep would spin.
            delay = max(0.001, (wake - now) / 1e9) if wake > now else 0.0
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._host.now_ns()
        at = time.perf_counter_ns()
        for trigger, due in self._timeline.due(now):
            entry = self._entries[trigger]
            late = max(0, now - due.scheduled_for)
            self._spawn(entry, due, at - late)
        self.arm()

    def _spawn(self, entry: _Entry, due: Due, at: int) -> None:
        task = asyncio.get_running_loop().create_task(self._run(entry, due, at))
        entry.station.tasks.add(task)
        task.add_done_callback(lambda done: self._ended(entry.station, due, done))

    def _ended(self, station: Station, due: Due, task: asyncio.Task[Any]) -> None:
        station.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        trigger = station.trigger
        log.error(
            "the scheduler met an error of its own; the schedule goes on with its next due time",
            database=station.database,
            trigger=trigger.name,
            exc_info=error,
        )
        self._timeline.fired(trigger.id, due)
        self.arm()

    async def _run(self, entry: _Entry, due: Due, at: int) -> None:
        """Runs one due time until it is done with: committed, skipped, or given up."""
        station, trigger = entry.station, entry.station.trigger
        attempt = 0
        if trigger.jitter:
            later = jitter(trigger.id, due.scheduled_for, trigger.jitter)
            await asyncio.sleep(later / 1e9)
            if self._over(station):
                return
            at += later
        while True:
            attempt += 1
            ended = await station.perform(self._event(entry, due, at, attempt))
            if station.blocked is not None or ended.end in ("stale", "cancelled"):
                return
            if ended.end == "disable":
                self._host.disable(trigger, ended.error or "the plugin asked for it", "")
                return
            wait = self._wait(trigger, ended, attempt)
            if wait is None:
                break
            if self._over(station):
                return
            if ended.end in ("conflict", "unavailable"):
                attempt -= 1
            await asyncio.sleep(wait)
            if self._over(station):
                return
            at = time.perf_counter_ns()
        if ended.end == "failed" and trigger.policy == "disable":
            self._host.disable(trigger, ended.error or "failed", ended.traceback)
            return
        if not ended.committed:
            self._move(trigger, self._timeline.cursor(trigger.id, due))
        self._timeline.fired(trigger.id, due)
        if not self._arming:  # once for all that end in this turn of the loop
            self._arming = True
            asyncio.get_running_loop().call_soon(self.arm)

    def _over(self, station: Station) -> bool:
        return station.retired or self._stopped

    def _wait(self, trigger: Trigger, ended: Ended, attempt: int) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        match ended.end:
            case "retry_later":
                return backoff(attempt, random.random()) if ended.after is None else ended.after  # noqa: S311 - jitter
            case "conflict":
                return 0.01 * random.random()  # noqa: S311 - jitter
            case "unavailable":
                return 1.0 if ended.after is None else ended.after
            case "failed" if trigger.policy == "retry" and attempt < trigger.attempts:
                return backoff(attempt, random.random())  # noqa: S311 - jitter
        return None

    def _move(self, trigger: Trigger, fired: int | None) -> None:
        if fired is None:
            return
        cursor = self._host.view().cursors.get(trigger.id) or Cursor()
        self._host.move(trigger, evolve(cursor, fired=fired))

    def _event(self, entry: _Entry, due: Due, at: int, attempt: int) -> Event:
        before = due.previous if due.previous is not None else due_before(entry.schedule, due.scheduled_for)
        tick = Tick(
            scheduled_for=_datetime(due.scheduled_for),
            fired_at=to_datetime(self._host.now_ns()),
            previous=None if due.previous is None else _datetime(due.previous),
            missed=due.missed,
            timezone=entry.zone,
            since=None if before is None else _datetime(before),
        )
        return Event(
            hook="on_schedule",
            values={"tick": tick},
            key=entry.station.key(_text(due.scheduled_for)),
            attempt=attempt,
            at=at,
            source="schedule",
            fired=self._timeline.cursor(entry.station.trigger.id, due),
        )

    async def run_now(self, trigger: Trigger, at: int | None) -> dict[str, Any]:
        """Runs a schedule by hand, once, whatever its due times are; its cursor stays where it is.

        Raises:
            InvalidRequest: If the trigger is not a schedule.
            Conflict: If it is not enabled.
        """
        if not trigger.spec.startswith(("every:", "cron:")):
            raise InvalidRequest(
                f"the trigger {trigger.name!r} is bound to {trigger.spec!r}; `run trigger` is for every: and cron: triggers. "
                "An on_write trigger runs when rows come, a request trigger when it is called, a service all the time, "
                "on_snapshot when rows are in files"
            )
        if not trigger.enabled:
            raise Conflict(f"the trigger {trigger.name!r} is {trigger.state}; enable it first")
        entry = self._entries.get(trigger.id)
        if entry is None:
            raise NotFound(f"the trigger {trigger.name!r} is just being changed; try again")
        now = self._host.now_ns()
        due = Due(now if at is None else at)
        event = evolve(self._event(entry, due, time.perf_counter_ns(), 1), fired=None)
        task = asyncio.ensure_future(entry.station.perform(event))
        entry.station.tasks.add(task)
        task.add_done_callback(entry.station.tasks.discard)
        ended = await task
        return {
            "status": "ok" if ended.end in ("ok", "skip") else ended.end,
            "error": ended.error,
            "sequence": ended.sequence,
            "run_id": ended.run_id,
        }
