"""Durations, sizes and times: what is read, what is refused and with which words, and that text comes back."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.errors import InvalidRequest
from walmill.units import (
    DAY,
    HOUR,
    INT64_MAX,
    INT64_MIN,
    MILLISECOND,
    MINUTE,
    MONTH,
    SECOND,
    WEEK,
    YEAR,
    format_duration,
    format_size,
    format_time,
    parse_duration,
    parse_size,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", 10 * SECOND),
        ("1h30m", 90 * MINUTE),
        ("1m 30s", 90 * SECOND),
        (" 1 m  30 s ", 90 * SECOND),
        ("0.5s", 500 * MILLISECOND),
        ("1.25h", 75 * MINUTE),
        ("0.1us", 100),
        ("0s", 0),
        ("7ns", 7),
        ("7nsec", 7),
        ("7us", 7_000),
        ("7µs", 7_000),
        ("7μs", 7_000),
        ("7ms", 7 * MILLISECOND),
        ("7msec", 7 * MILLISECOND),
        ("7sec", 7 * SECOND),
        ("1second", SECOND),
        ("7min", 7 * MINUTE),
        ("7m", 7 * MINUTE),
        ("7hours", 7 * HOUR),
        ("7hr", 7 * HOUR),
        ("1day", DAY),
        ("2days", 2 * DAY),
        ("7d", WEEK),
        ("2w", 2 * WEEK),
        ("1week", WEEK),
        ("1M", MONTH),
        ("2months", 2 * MONTH),
        ("1y", YEAR),
        ("2years", 2 * YEAR),
        ("30s1h", HOUR + 30 * SECOND),
    ],
)
def test_durations(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", ["no unit", "5s", "5ms"]),
        ("0.5", ["no unit", "0.5s"]),
        ("-5", ["no unit"]),
        ("", ["not a duration", "1h30m"]),
        ("s", ["not a duration"]),
        ("-5s", ["not a duration"]),
        ("5s 3", ["not a duration"]),
        ("5s,3m", ["not a duration"]),
        ("1e3s", ["unknown unit 'e'"]),
        ("5 fortnights", ["unknown unit 'fortnights'", "M (month)"]),
        ("5S", ["unknown unit 'S'"]),
        ("0.5ns", ["finer than a nanosecond"]),
        ("0.0000000001s", ["finer than a nanosecond"]),
        ("300y", ["out of bounds", "0s"]),
        ("9" * 30 + "s", ["not a duration"]),
        ("٣s", ["not a duration"]),
    ],
)
def test_durations_that_are_refused(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_duration(text, what="window")
    assert caught.value.message.startswith("the window ")
    for word in words:
        assert word in caught.value.message


def test_the_bounds_of_a_duration_are_told() -> None:
    assert parse_duration("1s", minimum=SECOND, maximum=HOUR) == SECOND
    assert parse_duration("1h", minimum=SECOND, maximum=HOUR) == HOUR
    for text in ("999ms", "3601s"):
        with pytest.raises(InvalidRequest, match="it must be from 1s to 1h"):
            parse_duration(text, minimum=SECOND, maximum=HOUR)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, "0s"),
        (90 * MINUTE, "1h30m"),
        (36 * HOUR, "1d12h"),
        (WEEK, "1w"),
        (8 * DAY, "8d"),
        (MONTH, "1M"),
        (YEAR, "1y"),
        (SECOND + 1, "1s1ns"),
        (1_500_000, "1ms500us"),
    ],
)
def test_durations_are_written_short(duration: int, expected: str) -> None:
    assert format_duration(duration) == expected


@given(st.integers(0, INT64_MAX))
def test_a_duration_comes_back(duration: int) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64MB", 64_000_000),
        ("64M", 64_000_000),
        ("16GiB", 16 * 2**30),
        ("1 KiB", 1024),
        ("1kb", 1000),
        ("1.5kB", 1500),
        ("0.5 MiB", 524_288),
        ("2TiB", 2 * 2**40),
        ("3T", 3 * 10**12),
        ("12B", 12),
        ("1048576", 1_048_576),
        ("0", 0),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["not a size", "64MB"]),
        ("MB", ["not a size"]),
        ("-1MB", ["not a size"]),
        ("1e6", ["not a size"]),
        ("1 XB", ["unknown unit 'XB'", "GiB"]),
        ("0.5B", ["whole number of bytes"]),
        ("0.0001kB", ["whole number of bytes"]),
        ("2GB", ["out of bounds", "from 1MB to 1GB"]),
        ("1kB", ["out of bounds", "from 1MB to 1GB"]),
    ],
)
def test_sizes_that_are_refused(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_size(text, what="memory limit", minimum=10**6, maximum=10**9)
    assert repr(text) in caught.value.message
    for word in ["the memory limit", *words]:
        assert word in caught.value.message


@given(st.one_of(st.integers(0, INT64_MAX), st.integers(0, 2000).map(lambda count: count * 2**20)))
def test_a_size_comes_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1024, "1KiB"), (64_000_000, "64MB"), (2**34, "16GiB"), (1025, "1025B")],
)
def test_sizes_are_written_short(size: int, expected: str) -> None:
    assert format_size(size) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T09:30:00Z", 1_769_851_800 * SECOND),
        ("2026-01-31T10:30:00+01:00", 1_769_851_800 * SECOND),
        ("2026-01-31 04:00:00.5-05:30", 1_769_851_800 * SECOND + 500 * MILLISECOND),
        ("2026-01-31t09:30:00.123456789z", 1_769_851_800 * SECOND + 123_456_789),
        ("1969-12-31T23:59:59.999999999Z", -1),
        (" 1769851800000000000 ", 1_769_851_800 * SECOND),
        ("-5", -5),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-01-31T09:30:00", ["no zone", "append Z"]),
        ("2026-01-31", ["not a time", "2026-01-31T09:30:00Z"]),
        ("yesterday", ["not a time"]),
        ("", ["not a time"]),
        ("1.5", ["not a time"]),
        ("2026-02-30T00:00:00Z", ["does not exist"]),
        ("2026-01-31T24:01:00Z", ["does not exist"]),
        ("2026-01-31T09:30:60Z", ["does not exist"]),
        ("2026-01-31T09:30:00+24:00", ["offset"]),
        ("2026-01-31T09:30:00.1234567891Z", ["not a time"]),
        ("1600-01-01T00:00:00Z", ["out of bounds", "1677-09-21", "2262-04-11"]),
        ("9223372036854775808", ["out of bounds"]),
        ("9" * 40, ["not a time"]),
    ],
)
def test_times_that_are_refused(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_time(text, what="start")
    assert caught.value.message.startswith(f"the start {text!r} ")
    for word in words:
        assert word in caught.value.message


@given(st.integers(INT64_MIN, INT64_MAX))
def test_a_time_comes_back(instant: int) -> None:
    assert parse_time(format_time(instant)) == instant
    assert parse_time(str(instant)) == instant


def test_times_have_as_many_digits_as_they_need() -> None:
    assert format_time(0) == "1970-01-01T00:00:00Z"
    assert format_time(500 * MILLISECOND) == "1970-01-01T00:00:00.500Z"
    assert format_time(1_500) == "1970-01-01T00:00:00.000001500Z"


def test_the_module_is_light() -> None:
    code = "import sys, walmill.units; print(sorted(sys.modules.keys() & {'pyarrow', 'numpy', 'croniter', 'zoneinfo', 'attrs'}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
