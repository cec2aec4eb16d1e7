"""The share of a core that an idle engine takes, with 200 triggers."""

from __future__ import annotations

import time

from common import engine, table

from walmill_hookspecs import Tick, WriteBatch, hookimpl

SECONDS = 10.0


class Nothing:
    """Hooks that do nothing."""

    @hookimpl
    async def on_write(self, batch: WriteBatch) -> None:
        """Does nothing."""

    @hookimpl
    async def on_schedule(self, tick: Tick) -> None:
        """Does nothing."""


def measure(specs: list[str]) -> float:
    """CPU seconds per second."""
    with engine() as mill:
        mill.register(Nothing, name="bench")
        for number, spec in enumerate(specs):
            mill.create_trigger(database="bench", name=f"t{number}", plugin="bench", spec=spec)
        mill.write("cpu,host=a value=1 1", database="bench")
        time.sleep(2.0)
        before = time.process_time()
        time.sleep(SECONDS)
        return (time.process_time() - before) / SECONDS


if __name__ == "__main__":
    rows = [
        ["none", f"{measure([]):.2%}"],
        ["200 on_write", f"{measure(['table:cpu'] * 200):.2%}"],
        ["150 on_write, 50 hourly schedules", f"{measure(['all_tables'] * 150 + ['every:1h'] * 50):.2%}"],
    ]
    table("An idle engine", ("triggers", "share of one core"), rows)
