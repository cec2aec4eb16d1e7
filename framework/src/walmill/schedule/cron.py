"""Cron expressions: what they mean, and which instants they name. The only module that knows croniter.

croniter lists wall-clock times. What a wall-clock time is worth is decided here: UTC is cut where the zone changes its
offset, and each piece is searched by itself.

- A time that the clocks leap over is due at the first instant after the leap; one that they show twice is due the first time.
- If the hour field begins with `*`, the schedule follows the clock as it runs instead: what it shows twice is due twice, what
  it leaps over is not due. So `*/10 * * * *` keeps its ten minutes through the changed hour, and `0 * * * *` is due in both.

If day-of-month and day-of-week are both given, either one suffices, unless one of them begins with `*` (`*/2`): then both
must hold. That is the rule of Vixie cron.
"""

from __future__ import annotations

import calendar
import difflib
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from attrs import define, field, frozen
from croniter import CroniterBadDateError, croniter

from walmill.errors import InvalidRequest
from walmill.units import SECOND

COUNT_LIMIT = 1_000
"""So many missed due times are counted one by one; a greater number is told as this one."""

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_DAY_SECONDS = 86_400
_SEARCH_YEARS = 140
"""More than the years from 1970 to 2099 that a year field can name, and than the 40 between two 29 February on one weekday."""


@frozen
class _Field:
    name: str
    low: int
    high: int
    names: Sequence[str] = ()

    @property
    def allowed(self) -> str:
        text = f"{self.low}-{self.high}"
        return f"{text} or {self.names[0]}-{self.names[-1]}" if self.names else text


_MONTHS = tuple(name.lower() for name in calendar.month_abbr[1:])
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MINUTES = _Field("minute", 0, 59)
_HOURS = _Field("hour", 0, 23)
_DAYS = _Field("day-of-month", 1, 31)
_MONTH = _Field("month", 1, 12, _MONTHS)
_WEEKDAY = _Field("day-of-week", 0, 7, _WEEKDAYS)
_SECONDS = _Field("second", 0, 59)
_YEARS = _Field("year", 1970, 2099)

_ITEM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII)
_NEAREST = re.compile(r"(\d{1,2})w|w(\d{1,2})", re.ASCII)
_NTH = re.compile(r"(\w+)#(\d)", re.ASCII)
_LAST = re.compile(r"([0-7]|sun|mon|tue|wed|thu|fri|sat)l|l([0-7])")


class _Change(NamedTuple):
    """A moment at which a zone changes its offset: Unix time, and the offsets around it, all in seconds."""

    at: int
    before: int
    after: int


@define(eq=False)
class CronSchedule:
    """A cron expression in a time zone. Get one from `cron_schedule`, which shares them.

    Attributes:
        expression: As it was given, one space between the fields.
        zone: The time zone.
    """

    expression: str
    zone: ZoneInfo
    _follows_clock: bool
    _lister: croniter
    _lock: threading.Lock = field(factory=threading.Lock)
    _last: tuple[int, int, int | None] = (0, -1, None)

    @property
    def spacing(self) -> int:
        """Least distance between two due times, ns: one second."""
        return SECOND

    def next_after(self, instant: int) -> int | None:
        """The first due time strictly after an instant.

        The answer is kept, so that the schedules which share this object share the work. May be called from any thread.

        Args:
            instant: ns since the epoch.

        Returns:
            ns since the epoch; None if the expression names no later time.
        """
        second = instant // SECOND
        low, high, answer = self._last
        if low <= second < high:
            return answer
        found = self._search(second)
        answer = None if found is None else found * SECOND
        # every second from here up to the due time has the same answer
        self._last = (second, sys.maxsize if found is None else found, answer)
        return answer

    def newest(self, after: int, until: int) -> tuple[int, int] | None:
        """The newest due time in (after, until], and how many there are, at most `COUNT_LIMIT`; None without any.

        Args:
            after: ns since the epoch, not included.
            until: ns since the epoch, included.
        """
        newest, count = after, 0
        while count < COUNT_LIMIT:
            due = self.next_after(newest)
            if due is None or due > until:
                return (newest, count) if count else None
            newest, count = due, count + 1
        # too many to go through: `next_after` never falls, so halve the time in which the newest one lies
        end = until
        while end - newest > SECOND:
            middle = (newest + end) // 2
            due = self.next_after(middle)
            if due is not None and due <= until:
                newest = due
            else:
                end = middle
        return newest, count

    def _search(self, second: int) -> int | None:
        """The first due Unix second after the given one."""
        offset = self._offset(second)
        start = second + offset + 1
        if not self._follows_clock:
            recent = [change for change in self._changes(second - _DAY_SECONDS, second) if change.before > change.after]
            if recent:
                # what the clock showed before it was set back was due then
                start = max(start, recent[-1].at + recent[-1].before)
        place = second
        while True:
            wall = self._wall_from(start)
            if wall is None:
                return None
            change = next(self._changes(place, wall - offset), None)
            if change is None:
                # less than `place` only for a time that the clocks leapt over
                return max(wall - offset, place)
            place, offset = change.at, change.after
            start = change.at + (change.after if self._follows_clock else change.before)

    def _wall_from(self, wall: int) -> int | None:
        """The first wall-clock time at or after the given one; both in seconds since 1970 on the wall."""
        with self._lock:
            try:
                return int(self._lister.get_next(float, start_time=float(wall - 1)))
            except CroniterBadDateError:
                return None

    def _offset(self, second: int) -> int:
        return _offset(self.zone, second)

    def _changes(self, after: int, until: int) -> Iterator[_Change]:
        """The changes of offset in (after, until], in order."""
        if after < until:
            for year in range(_year(after), _year(until) + 1):
                yield from (change for change in _changes_of_year(self.zone, year) if after < change.at <= until)


@lru_cache(maxsize=4096)
def cron_schedule(expression: str, zone: str = "UTC") -> CronSchedule:
    """The schedule of an expression; equal arguments give the same object.

    Args:
        expression: 5 fields, 6 (seconds first) or 7 (and a year last), or one of `ALIASES`. Names of months and weekdays may
            be used, in any case; weekdays 0 and 7 are Sunday. Fields are `*`, values, ranges (`22-2` goes over the end),
            steps (`*/5`, `10-50/20`, `5/10`), lists; `?` for either day field; `L` and `15W` for day-of-month; `MON#2` and
            `FRIL` (the last Friday) for day-of-week.
        zone: Name of a time zone.

    Raises:
        InvalidRequest: The expression is wrong or names no time at all, or the zone is unknown.
    """
    shown = repr(expression)
    fields = ALIASES.get(expression.strip().lower(), expression).lower().split()
    if len(fields) not in (5, 6, 7):
        raise InvalidRequest(
            f"the cron expression {shown} has {len(fields)} fields: it needs 5 (minute hour day-of-month month day-of-week), "
            f"6 (second first) or 7 (year last), or is one of {', '.join(ALIASES)}"
        )
    seconds = fields.pop(0) if len(fields) > 5 else "0"
    minutes, hours, days, months, weekdays = fields[:5]
    years = fields[5:]
    try:
        explicit = [
            _values(_SECONDS, seconds),
            _values(_MINUTES, minutes),
            _values(_HOURS, hours),
            _days(days),
            _values(_MONTH, months),
            _weekdays(weekdays),
            *(_values(_YEARS, year) for year in years),
        ]
        _check_days(days, explicit[3], weekdays, explicit[5])
    except InvalidRequest as error:
        raise InvalidRequest(f"the cron expression {shown} is wrong: {error.message}") from None
    lister = croniter(
        " ".join(explicit),
        0.0,
        day_or=not (days.startswith("*") or weekdays.startswith("*")),
        max_years_between_matches=_SEARCH_YEARS,
        second_at_beginning=True,
    )
    schedule = CronSchedule(" ".join(expression.split()), _zone(zone), hours.startswith("*"), lister)
    if schedule.next_after(0) is None:
        raise InvalidRequest(
            f"the cron expression {shown} names no time at all: no date has this day, month, weekday and year together"
        )
    return schedule


def _values(kind: _Field, text: str) -> str:
    """A field as a list of plain numbers, or `*`: nothing is left to the dialect of a library."""
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise InvalidRequest(
                f"the {kind.name} field holds {item!r}: write *, a value, a range such as {kind.low}-{kind.low + 2}, "
                f"or a step such as */2; allowed are {kind.allowed}"
            )
        star, first, last, stride = match.groups()
        low = kind.low if star else _value(kind, first)
        high = kind.high if star or (stride and last is None) else low if last is None else _value(kind, last)
        size = 7 if kind is _WEEKDAY else kind.high - kind.low + 1
        step = int(stride) if stride else 1
        if not 1 <= step <= size:
            raise InvalidRequest(
                f"the step of {item!r} in the {kind.name} field must be from 1 to {size}; "
                "for an interval that crosses the field's end use every:DURATION"
            )
        if low > high:
            if kind is _YEARS:
                raise InvalidRequest(f"the range {item!r} in the year field ends before it begins: swap its ends")
            high += size
        if kind is _WEEKDAY:
            # 7 is Sunday again; a step over the whole week counts from Sunday to Saturday
            high = 6 if star or (stride and last is None) else high
            found |= {value % 7 for value in range(low, max(high, low) + 1, step)}
        else:
            found |= {(value - kind.low) % size + kind.low for value in range(low, high + 1, step)}
    full = len(found) == (7 if kind is _WEEKDAY else kind.high - kind.low + 1)
    # a day field that lists every day is one that is given: with the other one, either suffices
    if full and ("*" in text or kind not in (_DAYS, _WEEKDAY)):
        return "*"
    return ",".join(str(value) for value in sorted(found))


def _value(kind: _Field, text: str) -> int:
    if text in kind.names:
        return kind.names.index(text) + (1 if kind is _MONTH else 0)
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or not kind.low <= int(text) <= kind.high:
        raise InvalidRequest(f"the {kind.name} field holds {text!r}: allowed are {kind.allowed}")
    return int(text)


def _days(text: str) -> str:
    if text == "?":
        return "*"
    nearest = _NEAREST.fullmatch(text)
    if nearest:
        return f"{_value(_DAYS, nearest[1] or nearest[2])}w"
    items = text.split(",")
    plain = ",".join(item for item in items if item != "l")
    if len(plain) == len(text):
        return _values(_DAYS, text)
    values = _values(_DAYS, plain) if plain else ""
    return values if values == "*" else ",".join(part for part in (values, "l") if part)


def _weekdays(text: str) -> str:
    if text == "?":
        return "*"
    items = text.split(",")
    if not any("#" in item or _LAST.fullmatch(item) for item in items):
        return _values(_WEEKDAY, text)
    found = []
    for item in items:
        nth, last = _NTH.fullmatch(item), _LAST.fullmatch(item)
        if nth and 1 <= int(nth[2]) <= 5:
            found.append(f"{_value(_WEEKDAY, nth[1]) % 7}#{nth[2]}")
        elif last:
            found.append(f"l{_value(_WEEKDAY, last[1] or last[2]) % 7}")
        else:
            raise InvalidRequest(
                f"the day-of-week field holds {item!r} beside # or L: write only such items there, as in MON#1,MON#3 or FRIL"
            )
    return ",".join(found)


def _check_days(days: str, explicit_days: str, weekdays: str, explicit_weekdays: str) -> None:
    special = days if "w" in explicit_days else weekdays if set("#l") & set(explicit_weekdays) else None
    if special is not None and "*" not in (explicit_days, explicit_weekdays):
        raise InvalidRequest(
            f"{special!r} in one day field needs * or ? in the other, not {(weekdays if special is days else days)!r}: "
            "make two triggers"
        )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        near = difflib.get_close_matches(name, available_timezones(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "use a name such as Europe/Berlin or UTC"
        raise InvalidRequest(f"the time zone {name!r} is unknown: {hint}") from None


def _offset(zone: ZoneInfo, second: int) -> int:
    offset = datetime.fromtimestamp(second, zone).utcoffset()
    assert offset is not None
    return offset.days * _DAY_SECONDS + offset.seconds


def _year(second: int) -> int:
    return datetime.fromtimestamp(second, UTC).year


@lru_cache(maxsize=4096)
def _changes_of_year(zone: ZoneInfo, year: int) -> tuple[_Change, ...]:
    """All changes of a zone's offset in a year (UTC). No zone has changed twice within a day."""
    place = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    found = []
    before = _offset(zone, place - 1)
    # the day before the year ended with `place - 1`: a change at the first second is seen, one at `end` is the next year's
    place -= 1
    while place < end - 1:
        following = min(place + _DAY_SECONDS, end - 1)
        after = _offset(zone, following)
        if after != before:
            low, high = place, following
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
            found.append(_Change(high, before, after))
        place, before = following, after
    return tuple(found)
