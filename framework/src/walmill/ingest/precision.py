"""Units of the timestamps in line protocol, and their way to nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from walmill.errors import InvalidRequest

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Precision(StrEnum):
    """Unit of a timestamp; `AUTO` guesses it for each line from the size of the number.

    Minutes and hours are for v1 clients only: `parse_precision` does not know them.
    """

    AUTO = "auto"
    SECOND = "second"
    MILLISECOND = "millisecond"
    MICROSECOND = "microsecond"
    NANOSECOND = "nanosecond"
    MINUTE = "minute"
    HOUR = "hour"


NANOS = {
    Precision.SECOND: 1_000_000_000,
    Precision.MILLISECOND: 1_000_000,
    Precision.MICROSECOND: 1_000,
    Precision.NANOSECOND: 1,
    Precision.MINUTE: 60_000_000_000,
    Precision.HOUR: 3_600_000_000_000,
}
"""Nanoseconds in one unit; `AUTO` has no entry."""

_SHORT_NAMES = {
    "s": Precision.SECOND,
    "ms": Precision.MILLISECOND,
    "us": Precision.MICROSECOND,
    "u": Precision.MICROSECOND,
    "ns": Precision.NANOSECOND,
    "n": Precision.NANOSECOND,
}
_NAMES = {
    **{p.value: p for p in Precision if p not in (Precision.MINUTE, Precision.HOUR)},
    **_SHORT_NAMES,
}
_V1_NAMES = {**_NAMES, "m": Precision.MINUTE, "h": Precision.HOUR}


def parse_precision(name: str) -> Precision:
    """The precision of that name.

    Args:
        name: `auto`, a full name (`second`) or a short one (`s`), in lower case.

    Raises:
        InvalidRequest: No precision has that name.
    """
    return _find(name, _NAMES)


def parse_v1_precision(name: str) -> Precision:
    """As `parse_precision`, and with `m` for minutes and `h` for hours, which InfluxDB 1 has and InfluxDB 3 has not.

    Raises:
        InvalidRequest: No precision has that name.
    """
    return _find(name, _V1_NAMES)


def _find(name: str, names: Mapping[str, Precision]) -> Precision:
    found = names.get(name)
    if found is None:
        raise InvalidRequest(f"unrecognized precision unit: {name[:40]!r}; use one of {', '.join(names)}")
    return found


def guess_precision(timestamp: int) -> Precision:
    """The unit that a bare number most likely has.

    In each unit, the numbers that stand for the years 1811 to 2128 have a size of their own; below them the next larger
    unit is taken, so that 0 and small numbers are seconds.

    Args:
        timestamp: Number as it stands in the line; its sign does not matter.

    Returns:
        A unit, never `AUTO`.
    """
    size = abs(timestamp)
    if size < 5_000_000_000:
        return Precision.SECOND
    if size < 5_000_000_000_000:
        return Precision.MILLISECOND
    if size < 5_000_000_000_000_000:
        return Precision.MICROSECOND
    return Precision.NANOSECOND


def to_nanos(timestamp: int, precision: Precision) -> int:
    """A timestamp in nanoseconds since the epoch.

    Args:
        timestamp: Number in units of `precision`, within int64.
        precision: Its unit; `AUTO` guesses it.

    Raises:
        InvalidRequest: The instant is outside what 64-bit nanoseconds can hold (the years 1677 to 2262).
    """
    unit = guess_precision(timestamp) if precision is Precision.AUTO else precision
    nanos = timestamp * NANOS[unit]
    if not INT64_MIN <= nanos <= INT64_MAX:
        raise InvalidRequest(
            f"timestamp {timestamp} in {unit}s is out of range: "
            f"64-bit nanoseconds reach from {INT64_MIN // NANOS[unit] + 1} to {INT64_MAX // NANOS[unit]} {unit}s"
        )
    return nanos


def truncate(nanos: int, precision: Precision) -> int:
    """A time cut to whole units, toward zero: what a line without timestamp gets.

    Args:
        nanos: Time in nanoseconds since the epoch.
        precision: The unit; `AUTO` and `NANOSECOND` leave the time as it is.
    """
    unit = NANOS.get(precision, 1)
    return nanos // unit * unit if nanos >= 0 else -(-nanos // unit * unit)
