"""Triggers and the plugins that they wait for: what happens when plugins change, come or go. On the mill's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Executor as Pool
from typing import Any, Protocol

from walmill.dispatch.station import Station
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.plugins.description import PluginDescription
from walmill.plugins.registry import Registry
from walmill.triggers.spec import Spec

TRY_SECONDS = 60.0
"""At the latest after so long a trigger is tried again that could not begin though its plugin is there."""
LOOK_SECONDS = 5.0
"""At the latest after so long it is looked again whether a plugin that a trigger waits for is there."""

log = get_logger("walmill.dispatch")


class WaitingHost(Protocol):
    """What is needed of the mill."""

    @property
    def stations(self) -> Collection[Station]:
        """The triggers that are enabled."""

    @property
    def stopping(self) -> bool:
        """Whether nothing new begins any more."""

    def start_anew(self, stations: Collection[Station]) -> None:
        """Takes other stations for the same triggers."""

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs something that the end of the mill waits for."""


class Waiting:
    """Has triggers go on when their plugins can be used again.

    Args:
        host: The mill.
        registry: The plugins.
        pool: Threads for what takes its time.
    """

    def __init__(self, host: WaitingHost, registry: Registry, pool: Pool) -> None:
        self._host = host
        self._registry = registry
        self._pool = pool
        self._next: asyncio.TimerHandle | None = None
        self._patience = 0.0
        self._tries: dict[int, tuple[float, float]] = {}
        """By trigger: how long it was waited before it was started anew, and when that may be done again."""

    def changed(self, names: Collection[str]) -> None:
        """Plugins have changed, come or gone. Runs under way end with what they began with."""
        if self._host.stopping:
            return
        ready = []
        for station in list(self._host.stations):
            plugin = station.trigger.plugin
            if plugin not in names:
                continue
            self._tries.pop(station.trigger.id, None)
            known = self._registry.peek(plugin)
            if known is None:
                log.error("a trigger is paused: its plugin is gone", trigger=station.trigger.name, plugin=plugin)
                station.block(f"the plugin {plugin!r} is gone; the trigger goes on when it is there again")
            elif station.blocked is None:
                self._host.keep(station.renew())
            elif known.status == "active":
                ready.append(station)
        if ready:
            self._host.start_anew(ready)

    def blocked(self) -> None:
        """A trigger cannot run because its plugin cannot be bound; it is looked at again soon, and then less often."""
        if self._next is None and not self._host.stopping:
            self._next = asyncio.get_running_loop().call_later(0.05 + self._patience, self._look)
            self._patience = min(LOOK_SECONDS, 2 * self._patience + 0.05)

    def stop(self) -> None:
        """Looks no more."""
        if self._next is not None:
            self._next.cancel()

    def _may_try(self, trigger: int, now: float) -> bool:
        """Whether a trigger is started anew now. What keeps it from running may be its arguments, or a secret that is not there:
        it is tried less and less often.
        """
        waited, next_time = self._tries.get(trigger, (0.0, 0.0))
        if now < next_time:
            return False
        waited = min(TRY_SECONDS, 2 * waited + 0.05) if now - next_time < 2 * TRY_SECONDS else 0.05
        self._tries[trigger] = (waited, now + waited)
        return True

    def _look(self) -> None:
        self._next = None
        self._host.keep(self._look_again())

    async def _look_again(self) -> None:
        """Starts triggers anew that were blocked and whose plugin can be bound now."""
        waiting = [station for station in self._host.stations if station.blocked is not None]
        names = {station.trigger.plugin for station in waiting}
        look: Callable[[], set[str]] = lambda: {name for name in names if self._registry.usable(name)}  # noqa: E731
        usable = await asyncio.get_running_loop().run_in_executor(self._pool, look)
        if self._host.stopping:
            return
        now = asyncio.get_running_loop().time()
        there = [station for station in waiting if station.trigger.plugin in usable and not station.retired]
        ready = [station for station in there if self._may_try(station.trigger.id, now)]
        if ready:
            self._host.start_anew(ready)
        if len(ready) < len(waiting):
            self.blocked()
        else:
            self._patience = 0.0


def hindrance(plugin: PluginDescription | None, trigger: Trigger, spec: Spec) -> str | None:
    """What keeps a trigger's plugin from being used, as far as that is known without looking at it; None if nothing does."""
    if plugin is None:
        return f"there is no plugin {trigger.plugin!r}; the trigger goes on when it is there"
    if plugin.status == "disabled":
        return f"the plugin {trigger.plugin!r} is disabled by the server's settings"
    if plugin.status == "broken":
        return f"the plugin {trigger.plugin!r} is broken: {plugin.cause}"
    if plugin.hooks and spec.hook not in plugin.hooks:
        return f"the plugin {trigger.plugin!r} lacks the hook {spec.hook} by now"
    return "; ".join(plugin.check_arguments(trigger.arguments)) or None
