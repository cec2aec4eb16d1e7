"""Units of timestamps: names, the guess, the way to nanoseconds."""

from __future__ import annotations

import pytest

from walmill.errors import InvalidRequest
from walmill.ingest.precision import (
    NANOS,
    Precision,
    guess_precision,
    parse_precision,
    parse_v1_precision,
    to_nanos,
    truncate,
)

SECONDS = 1_761_048_000
NANOSECONDS = 1_761_048_000_123_456_789
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
S, MS, US, NS, MINUTE, HOUR, AUTO = (
    Precision.SECOND,
    Precision.MILLISECOND,
    Precision.MICROSECOND,
    Precision.NANOSECOND,
    Precision.MINUTE,
    Precision.HOUR,
    Precision.AUTO,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto", AUTO),
        ("s", S),
        ("second", S),
        ("ms", MS),
        ("millisecond", MS),
        ("us", US),
        ("u", US),
        ("microsecond", US),
        ("ns", NS),
        ("n", NS),
        ("nanosecond", NS),
    ],
)
def test_every_name_is_known(name: str, expected: Precision) -> None:
    assert parse_precision(name) is expected


@pytest.mark.parametrize(("name", "expected"), [("m", MINUTE), ("h", HOUR), ("u", US), ("ns", NS), ("second", S)])
def test_v1_has_minutes_and_hours_as_well(name: str, expected: Precision) -> None:
    assert parse_v1_precision(name) is expected


@pytest.mark.parametrize(
    "name", ["", "invalid", "sec", "m", "h", "minute", "hour", "milliseconds", "micro", "nano", "S", "Auto", "second "]
)
def test_other_names_are_refused_and_shown(name: str) -> None:
    with pytest.raises(InvalidRequest, match="unrecognized precision unit") as caught:
        parse_precision(name)
    assert repr(name) in caught.value.message
    assert "millisecond" in caught.value.message


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (0, S),
        (1, S),
        (4_999_999_999, S),
        (5_000_000_000, MS),
        (4_999_999_999_999, MS),
        (5_000_000_000_000, US),
        (4_999_999_999_999_999, US),
        (5_000_000_000_000_000, NS),
        (SECONDS, S),
        (SECONDS * 1_000, MS),
        (SECONDS * 1_000_000, US),
        (SECONDS * 1_000_000_000, NS),
        (INT64_MAX, NS),
    ],
)
def test_the_guess_depends_on_the_size_only(timestamp: int, expected: Precision) -> None:
    assert guess_precision(timestamp) is expected
    assert guess_precision(-timestamp) is expected


def test_to_nanos_is_the_same_instant_in_every_unit() -> None:
    for unit, nanos in NANOS.items():
        timestamp = SECONDS * 1_000_000_000 // nanos
        assert to_nanos(timestamp, unit) == SECONDS * 1_000_000_000
        if unit in (S, MS, US, NS):  # minutes and hours are never guessed
            assert to_nanos(timestamp, AUTO) == SECONDS * 1_000_000_000


@pytest.mark.parametrize("unit", [S, MS, US, NS, MINUTE, HOUR])
def test_to_nanos_reaches_to_the_last_unit_that_fits(unit: Precision) -> None:
    low, high = -(INT64_MAX // NANOS[unit]), INT64_MAX // NANOS[unit]
    assert to_nanos(high, unit) == high * NANOS[unit]
    assert to_nanos(low, unit) == low * NANOS[unit]
    if unit is NS:
        assert to_nanos(INT64_MIN, unit) == INT64_MIN
        return
    for beyond in (high + 1, low - 1):
        with pytest.raises(InvalidRequest, match=f"timestamp {beyond} in {unit}s is out of range") as caught:
            to_nanos(beyond, unit)
        assert f"from {low} to {high}" in caught.value.message


@pytest.mark.parametrize("timestamp", [INT64_MIN, INT64_MAX, 4_999_999_999, 4_999_999_999_999, -4_999_999_999_999_999])
def test_the_guess_never_overflows(timestamp: int) -> None:
    assert INT64_MIN <= to_nanos(timestamp, AUTO) <= INT64_MAX


@pytest.mark.parametrize(
    ("nanos", "unit", "expected"),
    [
        (1_500_000_000, S, 1_000_000_000),
        (-1_500_000_000, S, -1_000_000_000),
        (0, S, 0),
        (1, S, 0),
        (-1, S, 0),
        (NANOSECONDS, S, SECONDS * 1_000_000_000),
        (NANOSECONDS, MS, 1_761_048_000_123_000_000),
        (NANOSECONDS, US, 1_761_048_000_123_456_000),
        (-1_500_000, MS, -1_000_000),
        (-1_500, US, -1_000),
        (NANOSECONDS, NS, NANOSECONDS),
        (-NANOSECONDS, NS, -NANOSECONDS),
        (NANOSECONDS, AUTO, NANOSECONDS),
        (-NANOSECONDS, AUTO, -NANOSECONDS),
    ],
)
def test_truncate_goes_toward_zero(nanos: int, unit: Precision, expected: int) -> None:
    assert truncate(nanos, unit) == expected
