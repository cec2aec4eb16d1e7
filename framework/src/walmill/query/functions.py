"""InfluxDB's functions that DataFusion lacks, as expressions that it has: selectors, time zones, bins by the wall clock."""

from __future__ import annotations

import zoneinfo

from walmill.errors import InvalidRequest
from walmill.query.syntax import Node, arguments_of, expression, function_of, literal_of, replace, text

SELECTORS = ("selector_first", "selector_last", "selector_min", "selector_max")
NAMES = (*SELECTORS, "tz", "date_bin_wallclock")


def expand(statement: Node) -> Node:
    """A statement in which no call of these functions is left.

    Raises:
        InvalidRequest: If one has the wrong arguments.
    """
    return replace(replace(statement, _outer), _inner)


def _outer(node: Node) -> Node | None:
    """What has to see calls of these functions in it as they were written."""
    if function_of(node) == "date_bin_wallclock":
        return expression(_wallclock(node))
    access = node.get("CompoundFieldAccess")
    if isinstance(access, dict) and function_of(access["root"]) in SELECTORS and len(access["access_chain"]) == 1:
        step = access["access_chain"][0]
        index = step.get("Subscript", {}).get("Index") if isinstance(step, dict) else None
        key = None if index is None else literal_of(index["index"])
        members = selected(access["root"])
        if key is not None and key not in members:
            raise InvalidRequest(f"{function_of(access['root'])} gives {', '.join(members)}, and no {key!r:.60}")
        return None if key is None else expression(members[key])
    return None


def _inner(node: Node) -> Node | None:
    name = function_of(node)
    if name in SELECTORS:
        members = ", ".join(f"'{key}', {value}" for key, value in selected(node).items())
        return expression(f"named_struct({members})")
    zone = zone_of(node)
    return None if zone is None else expression(zoned(*zone))


def _arguments(node: Node, least: int, most: int, form: str) -> list[str]:
    given = [text(one) for one in arguments_of(node)]
    if not least <= len(given) <= most:
        raise InvalidRequest(f"{function_of(node)} has {len(given)} arguments; it is {form}")
    return given


def selected(node: Node) -> dict[str, str]:
    """The members of what a selector gives, `value`, `time`, `other_1`, …: those of the chosen one of the rows with a value.

    Each one is a native aggregate, so a query that asks for one of them computes that one.
    """
    name = function_of(node) or ""
    value, time, *others = _arguments(node, 2, 100, f"{name}(expression, time, …)")
    present = f"FILTER (WHERE ({value}) IS NOT NULL)"
    match name:
        case "selector_first":
            order = f"({time})"
        case "selector_last":
            order = f"({time}) DESC"
        case "selector_min":
            order = f"({value}), ({time})"
        case _:
            order = f"({value}) DESC, ({time})"

    def chosen(what: str) -> str:
        return f"first_value({what} ORDER BY {order}) {present}"

    found = {"value": chosen(value), "time": chosen(time)}
    match name:
        case "selector_first":
            found["time"] = f"min({time}) {present}"
        case "selector_last":
            found["time"] = f"max({time}) {present}"
        case "selector_min":
            found["value"] = f"min({value}) {present}"
        case _:
            found["value"] = f"max({value}) {present}"
    return {**found, **{f"other_{number}": chosen(other) for number, other in enumerate(others, 1)}}


def zoned(time: str, zone: str) -> str:
    """An instant in a time zone: the same instant, shown by that zone's clocks."""
    return f"arrow_cast({cast(cast(time, None), 'UTC')}, {_kind(zone)})"


def cast(time: str, zone: str | None) -> str:
    """A time of any kind as one of a zone, or without."""
    return f"arrow_cast({time}, {_kind(zone)})"


def _kind(zone: str | None) -> str:
    inner = "None" if zone is None else f'Some("{zone}")'
    return f"'Timestamp(Nanosecond, {inner})'"


def local(time: str, zone: str) -> str:
    """What the clocks of a zone show at an instant, as a time without zone."""
    return f"to_local_time({zoned(time, zone)})"


def instant(clock: str, zone: str) -> str:
    """The instant at which the clocks of a zone show this, as a time without zone in UTC.

    A time that the clocks show twice is the later of the two; one that they leap over is as far behind the leap.
    """
    first = _minus_offset(clock, clock, zone)
    return _minus_offset(clock, first, zone)


def _minus_offset(clock: str, near: str, zone: str) -> str:
    """A clock's time minus what that zone is ahead of UTC at an instant near it."""
    ahead = f"(CAST({local(near, zone)} AS BIGINT) - CAST({near} AS BIGINT))"
    return f"to_timestamp_nanos(CAST({clock} AS BIGINT) - {ahead})"


def zone_of(node: Node) -> tuple[str, str] | None:
    """Time and zone of a call of `tz`; None if a node is something else.

    Raises:
        InvalidRequest: If there is no such zone.
    """
    if function_of(node) != "tz":
        return None
    given = _arguments(node, 1, 2, "tz(time, 'Area/City')")
    if len(given) == 1:
        return given[0], "UTC"
    name = literal_of(arguments_of(node)[1])
    if name is None:
        raise InvalidRequest(f"tz(time, {given[1]}): give the time zone as a text, such as 'Europe/Berlin'")
    return given[0], check_zone(name)


def check_zone(name: str) -> str:
    """The name of a time zone.

    Raises:
        InvalidRequest: If there is no such zone.
    """
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise InvalidRequest(
            f"there is no time zone {name!r:.60}; give one such as 'Europe/Berlin', or 'UTC'"
        ) from None
    return name


def _wallclock(node: Node) -> str:
    given = _arguments(node, 2, 3, "date_bin_wallclock(interval, tz(time, 'Area/City')[, origin])")
    zone = zone_of(arguments_of(node)[1])
    if zone is None:
        return f"date_bin({', '.join(given)})"
    time, name = zone
    clock = f"date_bin({', '.join([given[0], local(time, name), *given[2:]])})"
    return zoned(instant(clock, name), name)
