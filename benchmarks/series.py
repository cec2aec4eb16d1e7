"""Memory that a series costs: lines that are each a new series, against as many lines of 1,000 series."""

from __future__ import annotations

import gc
import multiprocessing
import os
from typing import Any

from common import engine, table

from walmill.isolation.warden import memory_of

LINES = 500_000
BODY = 5_000


def measure(series: int, result: Any) -> None:
    """In a process of its own: anonymous memory after so many lines of so many series, and after a snapshot."""
    with engine() as mill:
        mill.write("cpu,host=h0 v=0 0", database="bench")
        before = memory_of(os.getpid())
        for start in range(0, LINES, BODY):
            lines = [
                f"cpu,host=host{number % series:08d} v={number}.5 {number + 1}" for number in range(start, start + BODY)
            ]
            mill.write("\n".join(lines), database="bench")
        del lines
        gc.collect()
        written = memory_of(os.getpid()) - before
        mill.snapshot(300.0)
        gc.collect()
        result.put((written, memory_of(os.getpid()) - before))


def main() -> None:
    """Prints the table."""
    found = {}
    for series in (1_000, LINES):
        result = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(series, result))
        process.start()
        found[series] = result.get(timeout=600)
        process.join()
    rows = [[f"{series:,}", *(f"{size / 2**20:.0f} MiB" for size in sizes)] for series, sizes in found.items()]
    each = [(new - old) / (LINES - 1_000) for new, old in zip(found[LINES], found[1_000], strict=True)]
    rows.append(["bytes a series", *(f"{size:,.0f}" for size in each)])
    table(f"{LINES:,} lines", ("series", "in memory", "after a snapshot"), rows)


if __name__ == "__main__":
    main()
