"""What triggers cost a flush: 1,000 of which one matches, and 1,000 that all match and do nothing, against one trigger."""

from __future__ import annotations

import time
from typing import Any

from common import engine, micro, percentile, table

from walmill_hookspecs import WriteBatch, hookimpl

COUNT = 100


class Nothing:
    """An async hook that does nothing."""

    @hookimpl
    async def on_write(self, batch: WriteBatch) -> None:
        """Does nothing."""


def measure(specs: list[str]) -> tuple[float, float, int]:
    """Median and p99 of a write's acknowledgement, ns; and the ns from the first write to the last run's end, per run."""
    with engine() as mill:
        mill.register(Nothing, name="bench")
        for number, spec in enumerate(specs):
            mill.create_trigger(database="bench", name=f"t{number}", plugin="bench", spec=spec)
        mill.write("cpu,host=a value=0 1", database="bench")
        idle(mill)
        waits = []
        for turn in range(COUNT):
            started = time.perf_counter_ns()
            mill.write(f"cpu,host=a value={turn} {turn + 2}", database="bench")
            waits.append(time.perf_counter_ns() - started)
            time.sleep(0.15 if len(specs) > 1 and specs[-1] == "table:cpu" else 0.005)
        idle(mill)
        matching = sum(spec == "table:cpu" for spec in specs)
        turns, spent = 20, 0
        for turn in range(turns):
            done = sum(mill.run_counts.values()) + matching
            time.sleep(0.3)  # the history of the last turn is written
            started = time.perf_counter_ns()
            mill.write(f"cpu,host=a value={turn} {turn + 1000}", database="bench")
            while sum(mill.run_counts.values()) < done:
                time.sleep(0.0002)
            spent += time.perf_counter_ns() - started
        each = spent / turns / max(1, matching)
    return percentile(waits, 0.5), percentile(waits, 0.99), int(each)


def idle(mill: Any) -> None:
    """Waits until every trigger is done."""
    while any(one["lag_commits"] or one["running"] for one in mill.triggers("bench")):
        time.sleep(0.001)


def main() -> None:
    """Prints the table."""
    one = measure(["table:cpu"])
    silent = measure(["table:cpu", *(f"table:other{number}" for number in range(999))])
    every = measure(["table:cpu"] * 1000)
    rows = [
        ["1 trigger", micro(one[0]), micro(one[1]), "1.00", micro(one[2])],
        [
            "1,000 triggers, 1 matches",
            micro(silent[0]),
            micro(silent[1]),
            f"{silent[0] / one[0]:.2f}",
            micro(silent[2]),
        ],
        ["1,000 triggers, all match", micro(every[0]), micro(every[1]), f"{every[0] / one[0]:.2f}", micro(every[2])],
    ]
    head = ("triggers", "write acknowledged p50", "p99", "ratio", "write to all runs done, per matching trigger")
    table("What triggers cost a flush", head, rows)


if __name__ == "__main__":
    main()
