"""Arrow columns as text: a list with one string, or None, for each row.

Works on whole columns, for speed, and never through Python's datetime, which has no nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from json import JSONEncoder
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Texts = list[str | None]

_quote: Callable[[Any], str] = JSONEncoder(ensure_ascii=False).encode
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_RAW_IN_JSON = (*_LISTS, *_NUMBERS, pa.types.is_nested)


def json_texts(column: pa.Array) -> Texts:
    """Each value as JSON; None where it is null, NaN or infinite."""
    column = _plain(column)
    if pa.types.is_floating(column.type):
        finite = pc.is_finite(column)
        if pc.all(finite, skip_nulls=True).as_py() is False:
            column = pc.if_else(finite, column, pa.scalar(None, column.type))
    found = texts(column)
    if any(check(column.type) for check in _RAW_IN_JSON):
        return found
    if None in found:
        return [None if text is None else _quote(text) for text in found]
    return list(map(_quote, found))


def texts(column: pa.Array) -> Texts:
    """Each value as text without quotes; None where it is null. Nested values are JSON."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _list(column)
    if pa.types.is_boolean(kind):
        return _list(pc.if_else(column, "true", "false"))
    if pa.types.is_floating(kind):
        if kind == pa.float64():
            return _each(column, _float_text)
        # as float64 they would show digits that they do not have
        singles = column.cast(pa.float32()).to_numpy(zero_copy_only=False)
        return _masked(column, ["NaN" if text == "nan" else text for text in map(str, singles)])
    if pa.types.is_integer(kind):
        return _each(column, str)
    if pa.types.is_timestamp(kind):
        return _timestamps(column)
    if pa.types.is_date(kind):
        days = column.cast(pa.date32()).view(pa.int32())
        return _masked(column, _dates(days))
    if pa.types.is_time(kind):
        unit = _PER_SECOND[kind.unit]
        clock = column.view(pa.int32() if pa.types.is_time32(kind) else pa.int64())
        return _each(clock, lambda ticks: _clock(ticks, unit))
    if pa.types.is_duration(kind):
        unit = _PER_SECOND[kind.unit]
        return _each(column.view(pa.int64()), lambda ticks: _duration(ticks, unit))
    if pa.types.is_interval(kind):
        return _each(column, _interval)
    if _is_binary(kind):
        return _each(column, bytes.hex)
    if pa.types.is_struct(kind):
        return _structs(column)
    if pa.types.is_map(kind):
        return _maps(column)
    if any(check(kind) for check in _LISTS):
        return _lists(column)
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_decimal(kind):
        return _each(column, lambda number: format(number, "f"))
    return _each(column, str)


def _plain(column: pa.Array) -> pa.Array:
    """The column without dictionary, runs, or views."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(column))
    if kind == pa.string_view():
        return column.cast(pa.string())
    if kind == pa.binary_view():
        return column.cast(pa.binary())
    return column


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _list(column: pa.Array) -> list[Any]:
    found: list[Any] = column.to_pylist()
    return found


def _each(column: pa.Array, write: Callable[[Any], str]) -> Texts:
    values = _list(column)
    if column.null_count:
        return [None if value is None else write(value) for value in values]
    return list(map(write, values))


def _masked(column: pa.Array, found: Sequence[str]) -> Texts:
    """The texts, with None where the column is null."""
    if column.null_count == 0:
        return list(found)
    valid = pc.is_valid(column).to_pylist()
    return [text if good else None for text, good in zip(found, valid, strict=True)]


def _float_text(number: float) -> str:
    text = repr(number)
    return "NaN" if text == "nan" else text


def _dates(days: pa.Array) -> list[str]:
    moments = days.fill_null(0).to_numpy().astype("datetime64[D]")
    return [_year(text) for text in np.datetime_as_string(moments).tolist()]


def _year(text: str) -> str:
    """A date of numpy's with at least four digits of the year."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    year, _, rest = digits.partition("-")
    return f"{sign}{year:0>4}-{rest}"


def _timestamps(column: pa.Array) -> Texts:
    """ISO 8601, with as many groups of three digits behind the second as are needed; with a zone the distance to UTC."""
    kind = column.type
    unit = _PER_SECOND[kind.unit]
    ticks = column.view(pa.int64()).fill_null(0).to_numpy()
    zones: list[str] = []
    if kind.tz is not None:
        try:
            local = pc.local_timestamp(column).view(pa.int64()).fill_null(0).to_numpy()
        except pa.ArrowInvalid:  # a zone that this machine does not know: the instant in UTC is right as well
            local = ticks
        zones = list(map(_zone, ((local - ticks) // unit).tolist()))
        ticks = local
    seconds, rest = np.divmod(ticks, unit)
    found: list[str] = np.datetime_as_string(seconds.astype("datetime64[s]")).tolist()
    if len(ticks) and (seconds.min() < -62_135_596_800 or seconds.max() > 253_402_300_799):
        found = [_year(text) for text in found]
    if rest.any():
        parts = (rest * (10**9 // unit)).tolist()
        found = [text if part == 0 else text + _fraction(part) for text, part in zip(found, parts, strict=True)]
    if zones:
        found = [text + zone for text, zone in zip(found, zones, strict=True)]
    return _masked(column, found)


def _zone(seconds: int) -> str:
    if seconds == 0:
        return "Z"
    minutes = abs(seconds) // 60
    return f"{'-' if seconds < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def _fraction(nanoseconds: int) -> str:
    """Nanoseconds below a second as `.123`, `.123456` or `.123456789`; nothing for 0."""
    if nanoseconds == 0:
        return ""
    if nanoseconds % 1_000_000 == 0:
        return f".{nanoseconds // 1_000_000:03d}"
    if nanoseconds % 1_000 == 0:
        return f".{nanoseconds // 1_000:06d}"
    return f".{nanoseconds:09d}"


def _clock(ticks: int, unit: int) -> str:
    seconds, rest = divmod(ticks, unit)
    fraction = _fraction(rest * (10**9 // unit))
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}"


def _duration(ticks: int, unit: int) -> str:
    """ISO 8601: `PT1.5S`, `-PT3S`."""
    seconds, rest = divmod(abs(ticks), unit)
    return f"{'-' if ticks < 0 else ''}PT{seconds}{_fraction(rest * (10**9 // unit))}S"


def _interval(value: Any) -> str:
    """ISO 8601 with months, days and seconds, each with its own sign: `P1M2DT3.5S`."""
    months, days, nanoseconds = value
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    date = f"{f'{months}M' if months else ''}{f'{days}D' if days else ''}"
    if nanoseconds:
        return f"P{date}T{'-' if nanoseconds < 0 else ''}{seconds}{_fraction(rest)}S"
    return f"P{date}" if date else "PT0S"


def _structs(column: pa.StructArray) -> Texts:
    names = [_quote(field.name) for field in column.type]
    members = [json_texts(member) for member in column.flatten()]
    found = [
        "{" + ",".join([f"{name}:{text}" for name, text in zip(names, row, strict=True) if text is not None]) + "}"
        for row in (zip(*members, strict=True) if members else [()] * len(column))
    ]
    return _masked(column, found)


def _maps(column: pa.MapArray) -> Texts:
    low, high = column.offsets[0].as_py(), column.offsets[-1].as_py()
    keys = [_quote("" if key is None else key) for key in texts(column.keys.slice(low, high - low))]
    values = ["null" if text is None else text for text in json_texts(column.items.slice(low, high - low))]
    pairs = [f"{key}:{value}" for key, value in zip(keys, values, strict=True)]
    spans = pairwise(column.offsets.to_pylist())
    return _masked(column, ["{" + ",".join(pairs[start - low : end - low]) + "}" for start, end in spans])


def _lists(column: pa.Array) -> Texts:
    lengths = [length or 0 for length in pc.list_value_length(column).to_pylist()]
    # flatten() leaves out what lies behind nulls, so the lengths of the others tell where each list is
    values = ["null" if text is None else text for text in json_texts(column.flatten())]
    valid = pc.is_valid(column).to_pylist()
    found: Texts = []
    place = 0
    for length, good in zip(lengths, valid, strict=True):
        found.append("[" + ",".join(values[place : place + length]) + "]" if good else None)
        place += length if good else 0
    return found
