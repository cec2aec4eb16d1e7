"""From durable (the sync has returned) to the first line of an inline hook."""

from __future__ import annotations

import threading
import time
from typing import Any

from common import engine, micro, percentile, table

from walmill_hookspecs import WriteBatch, hookimpl


class Plain:
    """A plain hook that does nothing."""

    @hookimpl
    def on_write(self, batch: WriteBatch) -> None:
        """Does nothing: the engine notes when it was called."""


class Async:
    """An async hook that does nothing."""

    @hookimpl
    async def on_write(self, batch: WriteBatch) -> None:
        """Does nothing."""


def bodies(rows: int, count: int) -> list[bytes]:
    """Bodies of line protocol with advancing times and no body twice."""
    return [
        "\n".join(
            f"cpu,host=h{row % 1000} user={row}.5,system={turn}.25,n={row}i {(turn * rows + row + 1) * 1000}"
            for row in range(rows)
        ).encode()
        for turn in range(count)
    ]


def measure(plugin: type, rows: int, rate: float | None, count: int, writers: int = 1) -> list[Any]:
    """One row of the table."""
    with engine() as mill:
        mill.register(plugin, name="bench")
        mill.create_trigger(database="bench", name="bench", plugin="bench", spec="table:cpu")
        prepared = bodies(rows, count)
        mill.write(bodies(1, 1)[0], database="bench")
        time.sleep(0.3)  # the hook's thread and the loop have been used once
        skip = len(mill.figures.sync_ns)

        def write(mine: list[bytes]) -> None:
            due = time.perf_counter()
            for body in mine:
                mill.write(body, database="bench")
                if rate is not None:
                    due += 1 / rate
                    time.sleep(max(0.0, due - time.perf_counter()))

        threads = [threading.Thread(target=write, args=(prepared[number::writers],)) for number in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        syncs = list(mill.figures.sync_ns)[skip:]
        time.sleep(0.6)  # history is written a quarter of a second late
        waits = (
            mill.query(
                "SELECT wait_ns FROM runs WHERE database = 'bench' AND status = 'ok' ORDER BY time",
                database="_internal",
            )
            .column(0)
            .to_pylist()[1:]
        )
    pace = "saturated" if rate is None else f"{rate:g}/s"
    kind = "async" if plugin is Async else "plain"
    return [
        kind,
        rows,
        pace,
        len(waits),
        micro(percentile(waits, 0.5)),
        micro(percentile(waits, 0.99)),
        micro(percentile(syncs, 0.5)),
        micro(percentile(syncs, 0.99)),
    ]


def main() -> None:
    """Prints the table."""
    rows = [
        measure(Async, 1, 100, 500),
        measure(Plain, 1, 100, 500),
        measure(Async, 5000, 20, 100),
        measure(Plain, 5000, 20, 100),
        measure(Async, 100, None, 1500, writers=4),
        measure(Plain, 100, None, 1500, writers=4),
    ]
    head = ("hook", "rows a write", "pace", "runs", "p50", "p99", "fdatasync p50", "fdatasync p99")
    table("Durable to the first line of an inline hook", head, rows)


if __name__ == "__main__":
    main()
