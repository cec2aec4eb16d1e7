"""Durations, sizes and times between text and whole numbers. Pure, and light to import."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from walmill.errors import InvalidRequest

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
MONTH = 2_630_016 * SECOND
"""30.44 days, as InfluxDB counts a month."""
YEAR = 31_557_600 * SECOND
"""365.25 days, as InfluxDB counts a year."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_SPELLINGS = {
    "ns nsec nanos": 1,
    "us usec µs μs micros": MICROSECOND,
    "ms msec millis": MILLISECOND,
    "s sec secs second seconds": SECOND,
    "m min mins minute minutes": MINUTE,
    "h hr hrs hour hours": HOUR,
    "d day days": DAY,
    "w wk wks week weeks": WEEK,
    "M month months": MONTH,
    "y yr yrs year years": YEAR,
}
_DURATION_UNITS = {name: size for names, size in _SPELLINGS.items() for name in names.split()}
_DURATION_PART = re.compile(r"\s*([0-9]{1,20})(?:\.([0-9]{1,20}))?\s*([^\W\d_]+)\s*")
_WHOLE_UNITS = (("y", YEAR), ("M", MONTH), ("w", WEEK))
_PARTS = (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MILLISECOND), ("us", MICROSECOND), ("ns", 1))
_EXAMPLES = "write for example 10s, 1h30m or 0.5s"

_SIZE_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _SIZE_UNITS |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?\s*([A-Za-z]*)")
_SIZE_NAMES = tuple(
    (f"{letter}{suffix}", base**power)
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k"))
    for suffix, base in (("iB", 1024), ("B", 1000))
)

_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))?",
    re.ASCII,
)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str, *, what: str = "duration", minimum: int = 0, maximum: int = INT64_MAX) -> int:
    """Nanoseconds from a length of time as people write it.

    Known are InfluxDB's spellings (`ns us ms s m min h d w M y`, `minutes`, `days` and the like; `M` is a month of 30.44
    days, `m` a minute), sums of them (`1h30m`, `1m 30s`) and decimal fractions (`0.5s`).

    Args:
        text: The text.
        what: What it is, for the message.
        minimum: Least value allowed, ns.
        maximum: Greatest value allowed, ns.

    Returns:
        The duration, ns.

    Raises:
        InvalidRequest: It is no duration, has no unit, is finer than a nanosecond, or is out of bounds.
    """
    shown = _short(text)
    bare = text.strip()
    if _is_number(bare):
        raise InvalidRequest(
            f"the {what} {shown} has no unit: write {bare}s if you mean seconds, or {bare}ms, {bare}m, …"
        )
    total, place = 0, 0
    while match := _DURATION_PART.match(text, place):
        whole, fraction, unit = match.groups()
        size = _DURATION_UNITS.get(unit)
        if size is None:
            raise InvalidRequest(
                f"the {what} {shown} has the unknown unit {_short(unit)}: use ns, us, ms, s, m, h, d, w, M (month) or y"
            )
        value, rest = _scaled(whole, fraction, size)
        if rest:
            raise InvalidRequest(f"the {what} {shown} is finer than a nanosecond: use whole nanoseconds")
        total += value
        place = match.end()
    if place == 0 or place < len(text):
        raise InvalidRequest(f"the {what} {shown} is not a duration: {_EXAMPLES}")
    if not minimum <= total <= maximum:
        raise InvalidRequest(
            f"the {what} {shown} is out of bounds: it must be from {format_duration(minimum)} to {format_duration(maximum)}"
        )
    return total


def format_duration(nanoseconds: int) -> str:
    """The shortest exact text for a duration; `parse_duration` reads it back.

    Args:
        nanoseconds: Not negative.

    Returns:
        Whole years, months or weeks as `1y`, `3M`, `2w`; else days and below, as in `1d12h` or `1m30s`.
    """
    if nanoseconds == 0:
        return "0s"
    for name, size in _WHOLE_UNITS:
        if nanoseconds % size == 0:
            return f"{nanoseconds // size}{name}"
    parts, left = [], nanoseconds
    for name, size in _PARTS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts)


def parse_size(text: str, *, what: str = "size", minimum: int = 0, maximum: int = INT64_MAX) -> int:
    """Bytes from a size as people write it: `64MB`, `16GiB`, `1.5 kB`, or a plain number of bytes.

    `kB`, `MB`, `GB`, `TB` (and `k`, `M`, `G`, `T`) are powers of 1000, `KiB` to `TiB` powers of 1024. Case is free.

    Args:
        text: The text.
        what: What it is, for the message.
        minimum: Least value allowed, bytes.
        maximum: Greatest value allowed, bytes.

    Returns:
        The size, bytes.

    Raises:
        InvalidRequest: It is no size, not a whole number of bytes, or out of bounds.
    """
    shown = _short(text)
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"the {what} {shown} is not a size: write for example 64MB, 16GiB or 1048576")
    whole, fraction, unit = match.groups()
    factor = _SIZE_UNITS.get(unit.lower())
    if factor is None:
        raise InvalidRequest(
            f"the {what} {shown} has the unknown unit {unit!r}: use B, kB, MB, GB, TB or KiB, MiB, GiB, TiB"
        )
    value, rest = _scaled(whole, fraction, factor)
    if rest:
        raise InvalidRequest(f"the {what} {shown} is not a whole number of bytes: use a smaller unit")
    if not minimum <= value <= maximum:
        raise InvalidRequest(
            f"the {what} {shown} is out of bounds: it must be from {format_size(minimum)} to {format_size(maximum)}"
        )
    return value


def format_size(size: int) -> str:
    """The shortest exact text for a number of bytes (not negative); `parse_size` reads it back."""
    for name, factor in _SIZE_NAMES:
        if size and size % factor == 0:
            return f"{size // factor}{'K' + name[1:] if name == 'kiB' else name}"
    return f"{size}B"


def parse_time(text: str, *, what: str = "time") -> int:
    """Nanoseconds since the epoch from a time: RFC 3339 with a zone, or an integer of nanoseconds.

    Args:
        text: `2026-01-31T09:30:00Z`, `2026-01-31 10:30:00.25+01:00` or `1769851800000000000`.
        what: What it is, for the message.

    Returns:
        The instant, ns since the epoch.

    Raises:
        InvalidRequest: It is no time, has no zone, or is outside what int64 holds (the years 1677 to 2262).
    """
    shown = _short(text)
    bare = text.strip()
    if _INTEGER.fullmatch(bare):
        value = int(bare)
    else:
        match = _TIME.fullmatch(bare)
        if match is None:
            raise InvalidRequest(
                f"the {what} {shown} is not a time: write for example 2026-01-31T09:30:00Z, or nanoseconds since the epoch"
            )
        date, clock, fraction, utc, sign, hours, minutes = match.groups()
        if utc is None and sign is None:
            raise InvalidRequest(f"the {what} {shown} has no zone: append Z for UTC, or an offset such as +01:00")
        try:
            local = datetime.fromisoformat(f"{date}T{clock}+00:00")
        except ValueError as error:
            raise InvalidRequest(f"the {what} {shown} does not exist: {error}") from None
        offset = 0
        if sign is not None:
            if int(hours) > 23 or int(minutes) > 59:
                raise InvalidRequest(f"the {what} {shown} has an impossible offset: it must be within ±23:59")
            offset = (int(hours) * 60 + int(minutes)) * (60 if sign == "+" else -60)
        seconds = (local - _EPOCH) // timedelta(seconds=1) - offset
        value = seconds * SECOND + int((fraction or "0").ljust(9, "0"))
    if not INT64_MIN <= value <= INT64_MAX:
        raise InvalidRequest(
            f"the {what} {shown} is out of bounds: it must be from {format_time(INT64_MIN)} to {format_time(INT64_MAX)}"
        )
    return value


def format_time(instant: int) -> str:
    """An instant as RFC 3339 in UTC, with no, 3, 6 or 9 digits after the second; `parse_time` reads it back.

    Args:
        instant: ns since the epoch, within int64.
    """
    seconds, nanoseconds = divmod(instant, SECOND)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    if nanoseconds:
        digits = f"{nanoseconds:09}"
        while digits.endswith("000"):
            digits = digits[:-3]
        text += f".{digits}"
    return f"{text}Z"


def _scaled(whole: str, fraction: str | None, factor: int) -> tuple[int, int]:
    """`whole.fraction * factor`, exactly: the integer and what is left over."""
    digits = fraction or ""
    scale: int = 10 ** len(digits)
    return divmod(int(whole + digits) * factor, scale)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text))


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:76]}…{shown[-1]}"
