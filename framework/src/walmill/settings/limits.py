"""Limits of runs by name: what a person writes, checked, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import frozen

from walmill import units
from walmill.errors import InvalidRequest
from walmill.settings.nearest import did_you_mean

Kind = Literal["duration", "size", "share", "int"]


@frozen(kw_only=True)
class LimitInfo:
    """One limit as data.

    Attributes:
        name: By which people and definitions call it.
        kind: How it is written.
        minimum: Least value (a duration in ns, a size in bytes).
        maximum: Greatest value.
        optional: Whether `none` is a value: no limit.
        isolated: Whether only an executor that runs hooks in other processes can hold a run to it.
        description: One sentence.
    """

    name: str
    kind: Kind
    minimum: float
    maximum: float
    optional: bool
    isolated: bool
    description: str


LIMITS: Mapping[str, LimitInfo] = {
    info.name: info
    for info in (
        LimitInfo(
            name="timeout",
            kind="duration",
            minimum=units.MILLISECOND,
            maximum=7 * units.DAY,
            optional=True,
            isolated=True,
            description="How long a run may take; then its process is killed.",
        ),
        LimitInfo(
            name="memory",
            kind="size",
            minimum=16 * 2**20,
            maximum=2**50,
            optional=True,
            isolated=True,
            description="Memory that a worker may use beyond what an empty one has, with all that it starts.",
        ),
        LimitInfo(
            name="cpu",
            kind="share",
            minimum=0.01,
            maximum=1024,
            optional=True,
            isolated=True,
            description="Share of one processor that a worker may use: 0.5 is half of one.",
        ),
        LimitInfo(
            name="cpu_time",
            kind="duration",
            minimum=units.MILLISECOND,
            maximum=7 * units.DAY,
            optional=True,
            isolated=True,
            description="Processor time that a run may use.",
        ),
        LimitInfo(
            name="rows",
            kind="int",
            minimum=1,
            maximum=1_000_000_000,
            optional=False,
            isolated=False,
            description="Rows that a run may write.",
        ),
        LimitInfo(
            name="log_lines",
            kind="int",
            minimum=1,
            maximum=10_000_000,
            optional=False,
            isolated=False,
            description="Lines that a run may log.",
        ),
        LimitInfo(
            name="answer_size",
            kind="size",
            minimum=1024,
            maximum=2**30,
            optional=False,
            isolated=True,
            description="Bytes that the answer to a request may have, or one piece of it.",
        ),
    )
}
"""All limits by name. Values are whole numbers (ns, bytes), a share is a float, and None is no limit."""


def parse_limits(given: Any) -> tuple[dict[str, Any], list[str]]:
    """Limits from text or JSON types.

    Args:
        given: A mapping from names to values: durations and sizes as text (or a size as bytes), counts and shares as numbers.

    Returns:
        The limits that are good, and what is wrong with the others, one sentence each.
    """
    if not isinstance(given, Mapping):
        return {}, [f"limits must be a table of names and values, not {given!r:.60}"]
    found: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in given.items():
        info = LIMITS.get(name)
        if info is None:
            problems.append(f"there is no limit {name!r}; {did_you_mean(str(name), LIMITS)}")
            continue
        try:
            found[name] = _parse(info, value)
        except InvalidRequest as error:
            problems.append(f"the limit {name}: {error.message}")
    return found, problems


def _parse(info: LimitInfo, value: Any) -> Any:
    if info.optional and (value is None or (isinstance(value, str) and value.strip().lower() == "none")):
        return None
    low, high = int(info.minimum), int(info.maximum)
    if isinstance(value, str):
        if info.kind == "duration":
            return units.parse_duration(value, minimum=low, maximum=high)
        if info.kind == "size":
            return units.parse_size(value, minimum=low, maximum=high)
        try:
            value = float(value) if info.kind == "share" else int(value.replace("_", ""))
        except ValueError:
            raise InvalidRequest(f"{value!r} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{value!r:.60} is not a number")
    if info.kind == "duration":
        raise InvalidRequest(f"{value!r} has no unit: write for example '{value}s' if you mean seconds")
    if info.kind != "share" and not isinstance(value, int):
        raise InvalidRequest(f"{value!r} is not a whole number")
    if not info.minimum <= value <= info.maximum:
        raise InvalidRequest(f"{value!r} must be from {show(info, info.minimum)} to {show(info, info.maximum)}")
    return float(value) if info.kind == "share" else value


def show(info: LimitInfo, value: float | None) -> str:
    """A limit as a person would write it."""
    if value is None:
        return "none"
    if info.kind == "duration":
        return units.format_duration(int(value))
    if info.kind == "size":
        return units.format_size(int(value))
    return f"{value:g}" if info.kind == "share" else f"{int(value):,}"


def show_all(limits: Mapping[str, Any]) -> dict[str, str]:
    """Limits as a person would write them, by name."""
    return {name: show(LIMITS[name], value) for name, value in limits.items() if name in LIMITS}
