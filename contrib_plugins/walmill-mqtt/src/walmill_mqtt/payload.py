"""What a message says, as rows. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from attrs import frozen

from walmill_hookspecs import Line
from walmill_mqtt.topics import Pattern

_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DEEPEST = 8
"""Objects in objects, so many at most."""


class Unreadable(ValueError):
    """A payload is not what it should be; the message says why."""


@frozen(kw_only=True)
class Shape:
    """What payloads are; see the settings of the same names."""

    format: Literal["json", "line", "value"] = "json"
    table: str = "mqtt"
    field: str = "value"
    tags: frozenset[str] = frozenset()
    topic_tag: str = "topic"
    pattern: Pattern | None = None
    time: str | None = None
    time_unit: Literal["ns", "us", "ms", "s"] = "s"
    floats: bool = True
    id: str | None = None


@frozen
class Row:
    """A row of a message.

    Attributes:
        line: The row.
        id: What names the message; None if nothing does.
    """

    line: Line
    id: str | None = None


def text_of(payload: bytes) -> str:
    """A payload as text.

    Raises:
        Unreadable: If it is none.
    """
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"the payload is not UTF-8: byte {error.start} is wrong") from None


def rows_of(topic: str, payload: bytes, shape: Shape, came: int) -> list[Row]:
    """The rows of a message in JSON, or of one number.

    Args:
        topic: Its topic.
        payload: What it says.
        shape: What that is.
        came: When it came, ns: the time of rows that say none.

    Raises:
        Unreadable: If it is something else; the message says why.
    """
    tags = {shape.topic_tag: topic} if shape.topic_tag else {}
    if shape.pattern is not None:
        tags |= shape.pattern.match(topic)
    text = text_of(payload)
    if shape.format == "value":
        return [Row(Line(shape.table, tags, {shape.field: _number(text)}, came))]
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the payload is not JSON: {error}") from None
    items = said if isinstance(said, list) else [said]
    return [_row(item, tags, shape, came + place) for place, item in enumerate(items)]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Unreadable(f"the payload {text[:40]!r} is not a number") from None
    if not math.isfinite(value):
        raise Unreadable(f"the payload {text[:40]!r} is not a finite number")
    return value


def _row(item: Any, tags: Mapping[str, str], shape: Shape, came: int) -> Row:
    if not isinstance(item, dict):
        raise Unreadable(f"the payload has {json.dumps(item)[:40]} where an object was expected")
    members: dict[str, Any] = {}
    _flatten(item, "", members, DEEPEST)
    time = came if shape.time is None else _time(members.pop(shape.time, None), shape)
    found = members.get(shape.id) if shape.id is not None else None
    if shape.id is not None and (found is None or isinstance(found, bool)):
        raise Unreadable(f"the object has no member {shape.id!r} that names it")
    row_tags = dict(tags)
    fields: dict[str, int | float | bool | str | None] = {}
    for name, value in members.items():
        if value is None or name == "time":
            continue
        if name in shape.tags:
            if str(value):
                row_tags[name] = str(value)
        elif name == shape.id:
            fields[name] = str(value)  # a name, even if it is a number
        elif name not in row_tags:
            fields[name] = _value(name, value, floats=shape.floats)
    if not fields:
        raise Unreadable("the object has no member that could be a field")
    return Row(Line(shape.table, row_tags, fields, time), None if found is None else str(found))


def _flatten(item: Mapping[str, Any], before: str, members: dict[str, Any], deep: int) -> None:
    for name, value in item.items():
        if isinstance(value, dict):
            if deep == 0:
                raise Unreadable(f"the object has more than {DEEPEST} objects in each other")
            _flatten(value, f"{before}{name}_", members, deep - 1)
        else:
            members[f"{before}{name}"] = json.dumps(value) if isinstance(value, list) else value


def _value(name: str, value: Any, *, floats: bool) -> int | float | bool | str:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and not floats:
        if not -(2**63) <= value < 2**63:
            raise Unreadable(f"{name} is {value}, which is beyond 64 bits")
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unreadable(f"{name} is not a finite number")
    return number


def _time(value: Any, shape: Shape) -> int:
    if isinstance(value, bool) or value is None:
        raise Unreadable(f"the object has no member {shape.time!r} with its time")
    if isinstance(value, int):
        time = value * _UNITS[shape.time_unit]
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Unreadable(f"the time {value} is not finite")
        exact = value * _UNITS[shape.time_unit]
        time = round(exact) if math.isfinite(exact) else 2**63
    else:
        time = _time_of_text(str(value))
    if not -(2**63) < time < 2**63:
        raise Unreadable(f"the time {value} in {shape.time_unit} is beyond what can be stored (1677 to 2262)")
    return time


def _time_of_text(text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise Unreadable(f"the time {text[:40]!r} is not a date and time as ISO 8601 has it") from None
    aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1_000
