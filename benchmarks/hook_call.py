"""Calling one plugin's hook, with 100 plugins registered against one."""

from __future__ import annotations

import time

from common import micro, percentile, table

from walmill.plugins.registry import Registry
from walmill_hookspecs import WriteBatch, hookimpl
from walmill_worker.calling import call

COUNT = 20_000


class Nothing:
    """A hook that does nothing."""

    @hookimpl
    def on_write(self, batch: WriteBatch) -> None:
        """Does nothing."""


def measure(plugins: int) -> list[float]:
    """ns of each call."""
    registry = Registry(discover=False)
    for number in range(plugins):
        registry.register(Nothing, name=f"p{number}")
    hook = registry.bind("p0").hooks["on_write"]
    values = {"batch": None, "ctx": None}
    waits = []
    for _ in range(COUNT):
        started = time.perf_counter_ns()
        call(hook, values)
        waits.append(float(time.perf_counter_ns() - started))
    return waits


if __name__ == "__main__":
    rows = []
    for plugins in (1, 10, 100):
        waits = measure(plugins)
        rows.append([plugins, f"{percentile(waits, 0.5) / 1e3:.2f} µs", micro(percentile(waits, 0.99))])
    table("Calling a hook", ("registered plugins", "p50", "p99"), rows)
