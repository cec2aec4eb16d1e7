"""Python's cycle collector, its lock, and large lists, in a process in which nobody may be kept waiting."""

from __future__ import annotations

import gc
import sys
from typing import Any

THRESHOLDS = (10_000, 20, 50)
"""Allocations before the youngest objects are looked at, and rounds before the older ones are."""
TURN_SECONDS = 0.0002
"""A thread that wants the interpreter's lock gets it after so long from one that computes."""


def calm_collector() -> None:
    """Keeps the collector from stopping the mill for tens of milliseconds to look at modules and schemas again.

    What exists now (libraries, definitions) is never looked at again, and what comes later less often: runs and writes make
    no cycles, so there is little to find. It concerns the whole process, so only `walmill serve`, the demo and the
    benchmarks call it; a host application decides for itself and may call it once its engine is open.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def short_turns() -> None:
    """Lets threads that have little to do in between those that compute.

    An acknowledgement passes the lock a few dozen times, so a turn of 5 ms, as Python has it, would show that often while
    somebody's large body is read line by line. It concerns the whole process: see `calm_collector`.
    """
    sys.setswitchinterval(TURN_SECONDS)


def give_back() -> None:
    """Has Arrow's allocator return to the system what it keeps after a large job: a gigabyte after a join, for hours."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def let_go(items: list[Any]) -> None:
    """Empties a list in small steps: to free hundreds of thousands of objects at once would keep the lock all the while."""
    while items:
        del items[-500:]
