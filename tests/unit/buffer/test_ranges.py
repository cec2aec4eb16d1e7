"""Sets of time ranges: what is put in is covered, and they stay few."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.buffer.ranges import MOST_RANGES, cover_times, inside, unite

TIMES = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 50), max_size=60)


def well_formed(ranges):
    flat = [edge for low, high in ranges for edge in (low, high)]
    return all(low <= high for low, high in ranges) and flat == sorted(flat) and len(ranges) <= MOST_RANGES


@given(TIMES)
def test_a_cover_holds_every_time(times):
    ranges = cover_times(np.array(times, np.int64))
    assert well_formed(ranges)
    assert inside(np.array(times, np.int64), ranges).all()
    if len(set(times)) <= MOST_RANGES:
        assert ranges == tuple((time, time) for time in sorted(set(times)))


@given(st.lists(TIMES, max_size=6))
def test_a_union_holds_what_was_put_in(parts):
    ranges = ()
    for part in parts:
        ranges = unite(ranges, cover_times(np.array(part, np.int64)))
        assert well_formed(ranges)
    for part in parts:
        assert inside(np.array(part, np.int64), ranges).all()


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((), (), ()),
        (((1, 2),), (), ((1, 2),)),
        (((1, 2),), ((3, 4),), ((1, 4),)),
        (((1, 2),), ((4, 5),), ((1, 2), (4, 5))),
        (((1, 9),), ((3, 4), (12, 12)), ((1, 9), (12, 12))),
        (((5, 5), (7, 7)), ((7, 7),), ((5, 5), (7, 7))),
    ],
)
def test_union(left, right, expected):
    assert unite(left, right) == expected


def test_the_nearest_ranges_are_joined():
    assert unite(((0, 0), (10, 10), (100, 100)), ((92, 92),), most=3) == ((0, 0), (10, 10), (92, 100))
    assert cover_times(np.array([0, 1, 50, 51]), most=2) == ((0, 1), (50, 51))


def test_inside():
    found = inside(np.array([0, 1, 2, 3, 9, 10, 11]), ((1, 2), (10, 10)))
    assert found.tolist() == [False, True, True, False, False, True, False]
    assert not inside(np.array([1]), ()).any()
