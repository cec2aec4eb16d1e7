r"""What a trigger waits for, as text and as a value.

    table:cpu                         rows of one table
    table:cpu,mem,sensor_*            of several, and of those that match a pattern
    all_tables                        of every table
    every:1h30m                       a due time at each multiple of the duration since the epoch
    cron:0 9 * * MON-FRI@Europe/Berlin    a due time at each time that the expression names, UTC unless a zone is given
    request:devices/{id:int}          an HTTP request below the engine's route
    service                           none: it runs as long as the engine does, and brings rows from elsewhere

In table names a backslash takes the meaning from a comma, a star, a backslash, or white space at an end: `\,` `\*` `\\` `\ `.
InfluxDB strips a repeated prefix; here `table:table:x` is the table `table:x`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import define, field, frozen

from walmill.errors import InvalidRequest
from walmill.ingest.names import check_table_name
from walmill.triggers.paths import normalise_path, paths_overlap
from walmill.units import MILLISECOND, YEAR, format_duration, parse_duration

__all__ = [
    "AllTables",
    "CronSpec",
    "EverySpec",
    "RequestSpec",
    "ServiceSpec",
    "SnapshotSpec",
    "Spec",
    "TablePattern",
    "TableSpec",
    "parse_spec",
    "paths_overlap",
]

if TYPE_CHECKING:
    from walmill.schedule.cron import CronSchedule
    from walmill.schedule.interval import IntervalSchedule

Kind = Literal["write", "schedule", "request", "service", "snapshot"]
Hook = Literal["on_write", "on_schedule", "on_request", "on_service", "on_snapshot"]

MIN_EVERY = MILLISECOND
"""Timers are no finer than about a millisecond (and InfluxDB divides by zero below it)."""
MAX_EVERY = YEAR
"""InfluxDB's bound."""

_FORMS = (
    "'table:<TABLE_NAME>', 'all_tables', 'cron:<CRON_EXPRESSION>', 'every:<DURATION>', 'request:<PATH>', 'service', 'snapshot', "
    "or 'snapshot:<TABLE_NAME>'"
)


@frozen(slots=False)
class TablePattern:
    """A table name with stars.

    Attributes:
        parts: The texts around the stars: `("sensor_", "")` for `sensor_*`. A star stands for any text, also none.
    """

    parts: tuple[str, ...]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(".*".join(re.escape(part) for part in self.parts), re.DOTALL)

    def matches(self, table: str) -> bool:
        """Whether the whole name matches."""
        return self._regex.fullmatch(table) is not None

    def __str__(self) -> str:
        return _guard_ends("*".join(_escape(part) for part in self.parts))


@frozen
class TableSpec:
    """Rows of named tables, and of those that match a pattern.

    Attributes:
        tables: Names, each once, in the order given.
        patterns: Patterns, each once, in the order given.
    """

    tables: tuple[str, ...] = ()
    patterns: tuple[TablePattern, ...] = ()

    kind: ClassVar[Kind] = "write"
    hook: ClassVar[Hook] = "on_write"

    @property
    def broad(self) -> bool:
        """Whether it holds a pattern, so that tables which nobody named can match."""
        return bool(self.patterns)

    def names(self, table: str) -> bool:
        """Whether the table is named in full. Such a table's derived rows are seen; those of others only on request."""
        return table in self.tables

    def matches(self, table: str) -> bool:
        """Whether rows of the table concern the trigger."""
        return table in self.tables or any(pattern.matches(table) for pattern in self.patterns)

    def __str__(self) -> str:
        names = [_guard_ends(_escape(table)) for table in self.tables]
        return "table:" + ",".join([*names, *(str(pattern) for pattern in self.patterns)])


@frozen
class AllTables:
    """Rows of every table."""

    kind: ClassVar[Kind] = "write"
    hook: ClassVar[Hook] = "on_write"

    @property
    def broad(self) -> bool:
        """True: no table is named."""
        return True

    def names(self, table: str) -> bool:
        """False: no table is named, so derived rows are seen only on request."""
        return False

    def matches(self, table: str) -> bool:
        """True: rows of every table concern the trigger."""
        return True

    def __str__(self) -> str:
        return "all_tables"


@frozen
class EverySpec:
    """A due time at each multiple of a duration since the epoch: `every:1h` is due on the hour, UTC.

    Attributes:
        duration: ns, from `MIN_EVERY` to `MAX_EVERY`.
    """

    duration: int

    kind: ClassVar[Kind] = "schedule"
    hook: ClassVar[Hook] = "on_schedule"

    def schedule(self) -> IntervalSchedule:
        """What computes the due times."""
        from walmill.schedule.interval import IntervalSchedule

        return IntervalSchedule(self.duration)

    def __str__(self) -> str:
        return f"every:{format_duration(self.duration)}"


@frozen
class CronSpec:
    """A due time at each time that a cron expression names.

    Attributes:
        expression: 5 fields, 6 (seconds first) or 7 (and a year last), or `@hourly` and the like, one space between.
        zone: Name of the time zone.
    """

    expression: str
    zone: str = "UTC"

    kind: ClassVar[Kind] = "schedule"
    hook: ClassVar[Hook] = "on_schedule"

    def schedule(self) -> CronSchedule:
        """What computes the due times; equal specs share one."""
        from walmill.schedule.cron import cron_schedule

        return cron_schedule(self.expression, self.zone)

    def __str__(self) -> str:
        return f"cron:{self.expression}" + ("" if self.zone == "UTC" else f"@{self.zone}")


@frozen
class RequestSpec:
    """HTTP requests to a path below the engine's route.

    Attributes:
        path: Without slashes at its ends; may hold parameters, `{id}` or `{id:int}`.
    """

    path: str

    kind: ClassVar[Kind] = "request"
    hook: ClassVar[Hook] = "on_request"

    def __str__(self) -> str:
        return f"request:{self.path}"


@frozen
class ServiceSpec:
    """No event: a source that runs as long as its trigger is enabled."""

    kind: ClassVar[Kind] = "service"
    hook: ClassVar[Hook] = "on_service"

    def __str__(self) -> str:
        return "service"


@frozen
class SnapshotSpec:
    """Rows of tables are in files now.

    Attributes:
        tables: Which tables; None for all.
    """

    tables: TableSpec | None = None

    kind: ClassVar[Kind] = "snapshot"
    hook: ClassVar[Hook] = "on_snapshot"

    def matches(self, table: str) -> bool:
        """Whether files of the table concern the trigger."""
        return self.tables is None or self.tables.matches(table)

    def __str__(self) -> str:
        return "snapshot" if self.tables is None else f"snapshot:{str(self.tables).removeprefix('table:')}"


Spec = TableSpec | AllTables | EverySpec | CronSpec | RequestSpec | ServiceSpec | SnapshotSpec


@lru_cache(65_536)  # whoever looks through all triggers, as each change of one does, asks for all of them
def parse_spec(text: str) -> Spec:
    """A spec from its text. `str()` of the result is the canonical text, and parses to an equal spec.

    Args:
        text: As a person wrote it; white space around it and after the colon does not count.

    Returns:
        The spec.

    Raises:
        InvalidRequest: It is none; the message begins as InfluxDB's does and goes on with the remedy. A cron expression
            that can never fire is refused as well.
    """
    bare = text.strip()
    prefix, colon, rest = text.lstrip().partition(":")
    try:
        if bare == "all_tables":
            return AllTables()
        if bare == "service":
            return ServiceSpec()
        if bare == "snapshot":
            return SnapshotSpec()
        if colon:
            match prefix:
                case "table":
                    return _parse_tables(rest)
                case "every":
                    return _parse_every(rest.strip())
                case "cron":
                    return _parse_cron(rest.strip())
                case "snapshot":
                    return SnapshotSpec(_parse_tables(rest))
                case "request":
                    return RequestSpec(normalise_path(rest.strip()))
        raise InvalidRequest(f"expect one of the following forms: {_FORMS}")
    except InvalidRequest as error:
        shown = bare if len(bare) <= 200 else f"{bare[:199]}…"
        raise InvalidRequest(f"failed to parse trigger from {shown}: {error.message}") from None


def _parse_every(text: str) -> EverySpec:
    try:
        duration = parse_duration(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"couldn't parse to duration: {error.message}") from None
    if duration > MAX_EVERY:
        raise InvalidRequest(
            f"don't support every schedules of over 1 year: {text} is more than {format_duration(MAX_EVERY)} "
            "(365.25 days); use cron, for example cron:0 0 1 1 *"
        )
    if duration < MIN_EVERY:
        raise InvalidRequest(
            f"don't support every schedules of under {format_duration(MIN_EVERY)}: {text} is shorter than a timer can be; "
            "use every:1ms or longer"
        )
    return EverySpec(duration)


_CALENDAR = re.compile(r"\s*every:\s*(\d+)\s*(M|months?|y|years?)\s*")


def calendar_problem(text: str) -> str | None:
    """Why a spec of months or years is not what it says: they differ in length. What is meant, as cron; None for other specs.

    Args:
        text: A spec that can be parsed.
    """
    found = _CALENDAR.fullmatch(text)
    if found is None:
        return None
    count, unit = int(found[1]), found[2]
    if unit.lower().startswith("y"):
        meant = "0 0 1 1 *" if count == 1 else None
    else:
        meant = "0 0 1 * *" if count == 1 else f"0 0 1 */{count} *" if 12 % count == 0 else None
    advice = f"use cron:{meant}" if meant is not None else "use cron for dates of a calendar"
    days = count * (365.25 if unit.lower().startswith("y") else 30.44)
    return (
        f"{text.strip()!r} would be due every {days:g} days and not at the beginning of one: {advice}, or say days, "
        "such as every:30d"
    )


def fire_times(spec: Spec, now: int, count: int = 5) -> list[int]:
    """The next due times of a schedule, ns since the epoch; none for another spec.

    Args:
        spec: The spec.
        now: Times after it, ns.
        count: At most so many.
    """
    if not isinstance(spec, EverySpec | CronSpec):
        return []
    schedule, instant = spec.schedule(), now
    found: list[int] = []
    while len(found) < count and (following := schedule.next_after(instant)) is not None:
        found.append(following)
        instant = following
    return found


def _parse_cron(text: str) -> CronSpec:
    at = text.rfind("@")
    expression, zone = (text[:at], text[at + 1 :].strip()) if at > 0 else (text, "UTC")
    if not zone:
        raise InvalidRequest("the time zone after @ is empty: write for example cron:0 9 * * *@Europe/Berlin")
    spec = CronSpec(" ".join(expression.split()), zone)
    spec.schedule()
    return spec


@define
class _Name:
    """One element of a list of tables while it is read: texts between stars, and where white space is meant."""

    parts: list[str] = field(factory=lambda: [""])
    keep: int = 0
    """So many characters of the last part stay when white space at its end is stripped."""

    def add(self, character: str, *, meant: bool) -> None:
        """Appends a character; white space that was not meant is left out at the start."""
        if not meant and character.isspace() and len(self.parts) == 1 and not self.parts[0]:
            return
        self.parts[-1] += character
        if meant or not character.isspace():
            self.keep = len(self.parts[-1])

    def star(self) -> None:
        """Begins the next part."""
        self.parts.append("")
        self.keep = 0

    def finish(self) -> tuple[str, ...]:
        """The parts, without white space at the end that was not meant."""
        return (*self.parts[:-1], self.parts[-1][: self.keep])


def _parse_tables(text: str) -> TableSpec:
    names = [_Name()]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            if following and (following in ",*\\" or following.isspace()):
                names[-1].add(following, meant=True)
            else:
                names[-1].add("\\", meant=True)
                if following:
                    names[-1].add(following, meant=True)
        elif character == ",":
            names.append(_Name())
        elif character == "*":
            names[-1].star()
        else:
            names[-1].add(character, meant=False)
    return _tables_of([name.finish() for name in names])


def _tables_of(elements: Sequence[tuple[str, ...]]) -> TableSpec:
    tables: dict[str, None] = {}
    patterns: dict[TablePattern, None] = {}
    for parts in elements:
        if parts == ("",):
            raise InvalidRequest(
                "table name is empty: write table:cpu, several as table:cpu,mem, or all_tables for every table"
            )
        if len(parts) == 1:
            tables[check_table_name(parts[0])] = None
            continue
        # neighbouring stars mean what one star means
        kept = (parts[0], *(part for part in parts[1:-1] if part), parts[-1])
        patterns[TablePattern(kept)] = None
    return TableSpec(tuple(tables), tuple(patterns))


def _escape(text: str) -> str:
    return re.sub(r"([\\,*])", r"\\\1", text)


def _guard_ends(escaped: str) -> str:
    """Puts a backslash before white space at either end."""
    if escaped[:1].isspace():
        escaped = "\\" + escaped
    if escaped[-1:].isspace() and not (len(escaped) == 2 and escaped[0] == "\\"):
        escaped = escaped[:-1] + "\\" + escaped[-1]
    return escaped
