"""One value of a row: what Python objects may stand for a time, a tag or a field."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np

from walmill.ingest.errors import short
from walmill.ingest.names import size_problem
from walmill.ingest.precision import INT64_MAX, INT64_MIN
from walmill.model.schema import FieldType

Scalar: TypeAlias = int | float | str | bool

UINT64_MAX = 2**64 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = frozenset({"NAType", "NaTType"})  # pandas' own words for "no value"


class BadValue(ValueError):
    """The object cannot stand there; the argument is the message, without row and column."""


def to_nanos(time: object) -> int | None:
    """A time in nanoseconds since the epoch.

    Args:
        time: An aware datetime (also pandas' Timestamp, with its nanoseconds), an int of ns, or None.

    Returns:
        ns since the epoch, None for no time.

    Raises:
        BadValue: It is naive, out of range, or something else.
    """
    if is_missing(time):
        return None
    if isinstance(time, np.integer):
        time = int(time)
    if isinstance(time, int) and not isinstance(time, bool):
        nanos = int(time)
    elif isinstance(time, datetime):
        if time.utcoffset() is None:
            raise BadValue(f"the time {time.isoformat()} is naive: give it a time zone, such as tzinfo=UTC")
        since = time - _EPOCH
        nanos = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
        nanos += getattr(time, "nanosecond", 0)
    else:
        raise BadValue(
            f"{short(time)} is a {type(time).__name__} and not a time: use an aware datetime or an int of nanoseconds"
        )
    if not INT64_MIN <= nanos <= INT64_MAX:
        raise BadValue(f"the time {short(time)} is out of range: 64-bit nanoseconds reach from 1677 to 2262")
    return nanos


def to_tag(value: object) -> str | None:
    """The value of a tag; None if there is none.

    Raises:
        BadValue: It is not a string, empty, too long, or not valid Unicode.
    """
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise BadValue(f"{short(value)} is a {type(value).__name__} and tags are strings: use str()")
    if not value:
        raise BadValue("the value of a tag cannot be empty: use None for no value")
    return _checked(str(value), "tag value")


def to_field(value: object, expected: FieldType | None) -> tuple[FieldType, Scalar] | None:
    """Type and value of a field; None if there is no value (None, NaN, pandas' NA).

    Ints are int64; an int of class `UInt` (or with `walmill_type = "uint64"`) and numpy's uint64 are uint64. An int of
    any kind becomes the uint64, int64 or float64 that the column has when that changes nothing of its value: an int for
    a float64 column is accepted when the float is exactly it. A float never becomes an int, a bool never a number.

    Args:
        value: A Python or numpy scalar.
        expected: Type of the column if it has one.

    Raises:
        BadValue: The value is infinite, out of range, of no type that a field can have, or not of the column's type.
    """
    if type(value) is float:  # by far the most common
        number: object = value
    elif is_missing(value):
        return None
    else:
        number = value.item() if isinstance(value, np.bool_ | np.number) else value
    kind: FieldType
    if isinstance(number, bool):
        kind = "bool"
        result: Scalar = number
    elif isinstance(number, int):
        return _int_field(number, _is_unsigned(value), expected)
    elif isinstance(number, float):
        if math.isnan(number):
            return None
        if math.isinf(number):
            raise BadValue(f"the value {number} is infinite: leave it out, or use None")
        kind, result = "float64", float(number)
    elif isinstance(number, str):
        kind, result = "string", _checked(str(number), "string")
    else:
        raise BadValue(f"{short(value)} is a {type(value).__name__}: a field is an int, a float, a bool or a str")
    if expected is not None and kind != expected:
        raise BadValue(f"the value {short(value)} is {kind} and the column is {expected}{_remedy(kind, expected)}")
    return kind, result


def is_missing(value: object) -> bool:
    """Whether an object means "no value" whatever the column: None, pandas' NA and NaT."""
    return value is None or type(value).__name__ in _MISSING


def _int_field(number: int, unsigned: bool, expected: FieldType | None) -> tuple[FieldType, Scalar]:
    kind: FieldType = "uint64" if unsigned else "int64"
    number = int(number)
    wanted = expected or kind
    if wanted == "float64":
        try:
            exact = int(float(number)) == number
        except OverflowError:
            exact = False
        if not exact:
            raise BadValue(f"the int {short(number)} is not exactly a float64, and the column is float64: use float()")
        return wanted, float(number)
    if wanted == "uint64":
        if not 0 <= number <= UINT64_MAX:
            raise BadValue(f"the value {short(number)} is out of range: uint64 reaches from 0 to {UINT64_MAX}")
        return wanted, number
    if wanted == "int64":
        if INT64_MIN <= number <= INT64_MAX:
            return wanted, number
        remedy = "; a new column of UInt values can hold it" if expected is None and 0 < number <= UINT64_MAX else ""
        raise BadValue(
            f"the value {short(number)} is out of range: int64 reaches from {INT64_MIN} to {INT64_MAX}{remedy}"
        )
    raise BadValue(f"the value {short(number)} is {kind} and the column is {expected}{_remedy(kind, wanted)}")


def _is_unsigned(value: object) -> bool:
    return (
        isinstance(value, np.uint64)
        or getattr(value, "walmill_type", None) == "uint64"
        or type(value).__name__ == "UInt"
    )


def _remedy(kind: FieldType, expected: FieldType) -> str:
    if kind == "float64" and expected in {"int64", "uint64"}:
        return ": round it with int(), or choose another column"
    if expected == "float64" and kind == "int64":
        return ": use float()"
    if expected == "string":
        return ": use str(), or choose another column"
    return ": convert it, or choose another column"


def _checked(text: str, what: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadValue(f"the {what} {short(text)} holds a lone surrogate: it must be valid Unicode") from None
    problem = size_problem(text, what)
    if problem:
        raise BadValue(problem)
    return text
