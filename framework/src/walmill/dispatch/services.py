"""on_service: sources that run as long as their trigger is enabled, and are called again when they end otherwise."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from typing import Protocol

from attrs import frozen

from walmill.dispatch.consumer import backoff
from walmill.dispatch.lasting import STOP_SECONDS, begin, insist
from walmill.dispatch.station import Ended, Event, Station
from walmill.errors import told
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.store.view import View

STABLE_SECONDS = 60.0
"""A source that ran for so long is well: its next failure counts as the first."""
LOOK_SECONDS = 5.0
"""So often a source takes the newest view: an old one holds memory that nobody else needs any more."""

log = get_logger("walmill.dispatch")


@frozen
class Next:
    """What to do when a source has ended.

    Attributes:
        wait: Seconds until it is called again; None if it is not.
        failures: So many ends in a row by now.
        disable: Why the trigger is disabled, if it is.
    """

    wait: float | None = None
    failures: int = 0
    disable: str | None = None


def after(ended: Ended, *, policy: str, asked: bool, lasted: float, failures: int, chance: float) -> Next:
    """What follows the end of a source. Pure.

    Args:
        ended: How it ended.
        policy: The trigger's error policy.
        asked: Whether it was asked to end, because it is to begin again.
        lasted: Seconds that it ran.
        failures: Ends in a row before this one.
        chance: From 0 to 1.
    """
    count = 1 if lasted >= STABLE_SECONDS else failures + 1
    match ended.end:
        case "disable":
            return Next(disable=ended.error or "the plugin asked for it")
        case "stale":  # the trigger was changed: another one has it
            return Next()
        case _ if asked:
            return Next(0.0)
        case "failed" if policy == "disable":
            return Next(disable=ended.error or "failed")
        case "retry_later" | "unavailable" if ended.after is not None:
            return Next(ended.after, count)
    return Next(backoff(count, chance), count)


class ServiceHost(Protocol):
    """What sources need of the engine."""

    def view(self) -> View:
        """The newest view."""

    def disable(self, trigger: Trigger, reason: str, traceback: str) -> None:
        """Has a trigger disabled, with a commit."""


class ServiceDesk:
    """The source of one trigger: one call at a time. Everything happens on the mill's loop.

    Args:
        station: The trigger.
        host: The engine.
        before: The end of what the trigger ran before it was changed, if that still goes on: two at a time would take what
            is the other's.
    """

    def __init__(self, station: Station, host: ServiceHost, before: Awaitable[object] | None = None) -> None:
        self.station = station
        self._host = host
        self._before = before
        self._stopped = False
        self._asked = False
        self._wake = asyncio.Event()
        self._timers: list[asyncio.TimerHandle] = []
        self.waits = False
        station.on_change = self.begin_again
        lost = "the source does not run any more until its trigger is enabled again"
        self.task = begin(station, self._keep(), lost)
        self.task.add_done_callback(self._ended)
        self._look()

    def stop(self) -> None:
        """It is not called again."""
        self._stopped = True
        self._wake.set()

    def begin_again(self) -> None:
        """Its plugin has changed, or is gone: what runs is asked to end, so that what is there now can begin."""
        self._asked = True
        self._wake.set()
        self.station.stop_soon()
        states = list(self.station.runs.values())
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(STOP_SECONDS, insist, self.station, states))

    def _look(self) -> None:
        view = self._host.view()
        for state in self.station.runs.values():
            state.view = view
        if self._asked:  # one that was just beginning has not heard it
            self.station.stop_soon()
        if not self._stopped:
            self._timers = [
                timer for timer in self._timers if not timer.cancelled() and timer.when() > time.monotonic()
            ]
            self._timers.append(asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look))

    def _ended(self, task: asyncio.Task[None]) -> None:
        for timer in self._timers:
            timer.cancel()

    async def _keep(self) -> None:
        if self._before is not None:
            await asyncio.wait([asyncio.ensure_future(self._before)])
            self._before = None
        failures = 0
        while not self._over():
            self._asked = False
            self._wake.clear()
            began = time.monotonic()
            ended = await self._call()
            if self._over() or self.station.blocked is not None:
                return
            found = after(
                ended,
                policy=self.station.trigger.policy,
                asked=self._asked,
                lasted=time.monotonic() - began,
                failures=failures,
                chance=random.random(),  # noqa: S311 - jitter
            )
            if found.disable is not None:
                self._host.disable(self.station.trigger, found.disable, ended.traceback)
                return
            if found.wait is None:
                return
            failures = found.failures
            await self._rest(ended, found.wait)

    def _over(self) -> bool:
        return self._stopped or self.station.retired

    async def _call(self) -> Ended:
        station = self.station
        event = Event(
            hook="on_service",
            values={},
            key=station.key(f"service-{time.time_ns()}"),
            attempt=1,
            at=time.perf_counter_ns(),
            source="service",
        )
        return await station.perform(event)

    async def _rest(self, ended: Ended, seconds: float) -> None:
        if seconds <= 0:
            return
        if ended.end in ("ok", "skip"):
            log.warning(
                "a source has ended without being asked to; it is called again",
                database=self.station.database,
                trigger=self.station.trigger.name,
                seconds=round(seconds, 1),
                reason=told(ended.error or "it returned"),
            )
        self.waits = True
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            self.waits = False
