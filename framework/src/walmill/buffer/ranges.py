"""Sets of closed time ranges: small, sorted, disjoint, and never more than a few."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

Ranges = tuple[tuple[int, int], ...]
"""Closed ranges of nanoseconds `(low, high)`, sorted and disjoint."""

MOST_RANGES = 16


def cover_times(times: np.ndarray[Any, np.dtype[np.int64]], most: int = MOST_RANGES) -> Ranges:
    """The ranges that cover some times, split at the widest gaps.

    Args:
        times: Nanoseconds, in any order, repetitions allowed.
        most: Largest number of ranges, at least 1.

    Returns:
        At most `most` ranges; every time lies in one of them.
    """
    if len(times) == 0:
        return ()
    points = np.unique(times)
    if len(points) <= most:
        return tuple((int(point), int(point)) for point in points)
    # as unsigned numbers: the distance of two int64 may not fit into one
    gaps = points[1:].view(np.uint64) - points[:-1].view(np.uint64)
    cuts = np.sort(np.argsort(gaps, kind="stable")[len(gaps) - (most - 1) :])
    lows = [int(points[0]), *(int(points[cut + 1]) for cut in cuts)]
    highs = [*(int(points[cut]) for cut in cuts), int(points[-1])]
    return tuple(zip(lows, highs, strict=True))


def unite(left: Ranges, right: Ranges, most: int = MOST_RANGES) -> Ranges:
    """The union of two sets of ranges; the nearest ranges are joined until at most `most` are left.

    Returns:
        Ranges that cover everything that one of the two covers, and perhaps the gaps between near ones.
    """
    if not left or not right:
        both = left or right
    elif left[-1] == right[-1] and len(right) == 1:
        both = left  # the commonest case: the same late time again
    else:
        joined: list[tuple[int, int]] = []
        for low, high in sorted(left + right):
            if joined and low <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        both = tuple(joined)
    while len(both) > most:
        gap = min(range(len(both) - 1), key=lambda i: both[i + 1][0] - both[i][1])
        both = (*both[:gap], (both[gap][0], both[gap + 1][1]), *both[gap + 2 :])
    return both


def join(ranges: Iterable[tuple[int, int]], most: int = MOST_RANGES) -> Ranges:
    """Any ranges, in any order and overlapping, as a set; however many there are, it costs about one sort.

    Returns:
        At most `most` ranges which cover everything given, and perhaps the narrowest gaps between.
    """
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    if len(joined) <= most:
        return tuple(joined)
    gaps = [right[0] - left[1] for left, right in pairwise(joined)]
    kept = sorted(sorted(range(len(gaps)), key=lambda place: -gaps[place])[: most - 1])
    lows = [joined[0][0], *(joined[place + 1][0] for place in kept)]
    highs = [*(joined[place][1] for place in kept), joined[-1][1]]
    return tuple(zip(lows, highs, strict=True))


def inside(times: np.ndarray[Any, np.dtype[np.int64]], ranges: Ranges) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which times lie in one of the ranges.

    Returns:
        One boolean for each time.
    """
    if not ranges:
        return np.zeros(len(times), np.bool_)
    lows = np.array([low for low, _ in ranges], np.int64)
    highs = np.array([high for _, high in ranges], np.int64)
    place = np.searchsorted(lows, times, side="right") - 1
    return (place >= 0) & (times <= highs[place])
