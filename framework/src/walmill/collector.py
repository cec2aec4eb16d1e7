"""Python's cycle collector in a process that is the engine's alone."""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 20, 50)
"""Allocations before the youngest objects are looked at, and rounds before the older ones are."""


def calm_collector() -> None:
    """Keeps the collector from stopping the mill for tens of milliseconds to look at modules and schemas again.

    What exists now (libraries, definitions) is never looked at again, and what comes later less often: runs and writes make
    no cycles, so there is little to find. It concerns the whole process, so only `walmill serve`, the demo and the
    benchmarks call it; a host application decides for itself and may call it once its engine is open.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
