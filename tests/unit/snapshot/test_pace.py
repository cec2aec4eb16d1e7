"""The rate of background work, on a clock that stands where it is put."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.snapshot.pace import Pace
from walmill.units import SECOND


@pytest.mark.parametrize(
    ("takes", "waits"),
    [
        ([(0, 50), (0, 50)], [0, 0]),  # what the bucket has
        ([(0, 100), (0, 10)], [0, 1]),
        ([(0, 100), (1, 10)], [0, 0]),
        ([(0, 100), (5, 60)], [0, 1]),
        ([(0, 100), (100, 100), (100, 10)], [0, 0, 1]),  # a rest fills the bucket and no more
        ([(0, 350), (0, 10), (26, 10)], [0, 26, 1]),  # a debt is waited for, by what comes later
        ([(9, 100), (3, 10), (9, 10)], [0, 1, 2]),  # a clock that goes back gives nothing
    ],
)
def test_waits(takes, waits):
    pace = Pace(10, burst=100)
    assert [pace.take(amount, at * SECOND) // SECOND for at, amount in takes] == waits


@given(st.lists(st.integers(1, 500), min_size=1, max_size=50), st.integers(1, 300), st.integers(1, 200))
def test_the_rate_holds_however_large_the_pieces_are(amounts, rate, burst):
    pace, now = Pace(rate, burst), 0
    for amount in amounts:
        now += pace.take(amount, now)
    moved = sum(amounts[:-1])  # the last one may have left a debt
    assert now + len(amounts) >= pace.estimate(max(0, moved - burst))


def test_no_limit():
    pace = Pace(0)
    assert [pace.take(2**40, 0), pace.estimate(2**40)] == [0, 0]
    assert Pace(2**20).estimate(3 * 2**20) == 3 * SECOND


@pytest.mark.parametrize(("rate", "burst"), [(-1, 1), (1, 0)])
def test_a_pace_that_cannot_be(rate, burst):
    with pytest.raises(ValueError, match=f"a rate of {rate} bytes/s with a burst of {burst} bytes"):
        Pace(rate, burst)
