"""`every:`: aligned to the epoch, and counted by arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.schedule.interval import IntervalSchedule
from walmill.units import DAY, HOUR, MILLISECOND, MINUTE, SECOND, WEEK, YEAR, format_time, parse_time

NOW = "2026-05-01T12:34:56.789Z"


@pytest.mark.parametrize(
    ("duration", "before", "after"),
    [
        (HOUR, "2026-05-01T12:00:00Z", "2026-05-01T13:00:00Z"),
        (10 * SECOND, "2026-05-01T12:34:50Z", "2026-05-01T12:35:00Z"),
        (MILLISECOND, "2026-05-01T12:34:56.789Z", "2026-05-01T12:34:56.790Z"),
        (DAY, "2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z"),
        (WEEK, "2026-04-30T00:00:00Z", "2026-05-07T00:00:00Z"),
        (YEAR, "2026-01-01T00:00:00Z", "2027-01-01T06:00:00Z"),
        (7 * MINUTE, "2026-05-01T12:31:00Z", "2026-05-01T12:38:00Z"),
    ],
)
def test_due_times_are_multiples_since_the_epoch(duration: int, before: str, after: str) -> None:
    schedule, now = IntervalSchedule(duration), parse_time(NOW)
    assert (format_time(schedule.previous_at_or_before(now)), format_time(schedule.next_after(now))) == (before, after)


@given(st.integers(1, 10**6), st.integers(-(10**7), 10**7), st.integers(0, 10**4))
def test_the_newest_and_how_many_agree_with_counting(duration: int, after: int, span: int) -> None:
    schedule, until = IntervalSchedule(duration), after + span
    found, due = [], schedule.next_after(after)
    while due <= until:
        found.append(due)
        due = schedule.next_after(due)
    assert schedule.newest(after, until) == ((found[-1], len(found)) if found else None)
    assert schedule.previous_at_or_before(until) <= until < schedule.next_after(until)


def test_a_year_of_seconds_is_counted_exactly() -> None:
    now = parse_time("2026-05-01T12:34:56Z")
    assert IntervalSchedule(SECOND).newest(now - YEAR, now) == (now, YEAR // SECOND)


def test_equal_intervals_are_equal_schedules() -> None:
    assert IntervalSchedule(HOUR) == IntervalSchedule(60 * MINUTE)
    assert hash(IntervalSchedule(HOUR)) == hash(IntervalSchedule(60 * MINUTE))
