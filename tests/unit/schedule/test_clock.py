"""The clock of the machine, and the one for tests."""

from __future__ import annotations

import time

import pytest

from walmill.clock import Clock, SystemClock
from walmill.testing.clock import ManualClock
from walmill.units import SECOND


def test_the_clock_of_the_machine_tells_its_times() -> None:
    clock: Clock = SystemClock()
    before, started = time.time_ns(), time.monotonic()
    assert before <= clock.now_ns() <= time.time_ns()
    assert started <= clock.monotonic() <= time.monotonic()


def test_a_manual_clock_moves_only_by_hand() -> None:
    manual = ManualClock(100 * SECOND, monotonic=5.0)
    clock: Clock = manual
    assert (clock.now_ns(), clock.monotonic()) == (100 * SECOND, 5.0)
    manual.advance(2 * SECOND)
    assert (clock.now_ns(), clock.monotonic()) == (102 * SECOND, 7.0)
    manual.jump(-50 * SECOND)
    assert (clock.now_ns(), clock.monotonic()) == (52 * SECOND, 7.0)
    with pytest.raises(ValueError, match="jump"):
        manual.advance(-1)
