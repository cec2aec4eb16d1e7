"""A series as evenly spaced values. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def on_grid(times: npt.NDArray[np.int64], values: Floats, *, start: int, end: int, step: int) -> Floats:
    """Values at every step, NaN where there is none.

    Args:
        times: Starts of steps, ns, in any order.
        values: The value of each.
        start: The first step, ns.
        end: Behind the last one, ns.
        step: Length of a step, ns.
    """
    grid = np.full((end - start) // step, np.nan)
    grid[(times - start) // step] = values
    return grid


def without_gaps(grid: Floats) -> tuple[Floats, float]:
    """A series from its first value on, its gaps filled on a straight line, and the share of values that were there.

    One that ends in a gap goes on from its last value.
    """
    known: Any = np.flatnonzero(np.isfinite(grid))
    if not len(known):
        return grid[:0], 0.0
    part = grid[known[0] :]
    places: Any = known - known[0]
    return np.interp(np.arange(len(part)), places, part[places]), len(known) / len(part)
