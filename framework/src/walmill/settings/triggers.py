"""The `[[trigger]]` tables of `walmill.toml`: triggers that a server makes when it starts."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
from attrs import field, frozen

from walmill.settings.limits import parse_limits
from walmill.settings.nearest import did_you_mean

POLICIES = {"retry": "retry", "skip": "skip", "disable": "disable", "log": "skip"}
"""Error policies by name; `log` is InfluxDB's name for `skip`."""


def _show_arguments(arguments: Mapping[str, Any]) -> str:
    return repr(dict.fromkeys(arguments, "***"))


@frozen(kw_only=True)
class TriggerEntry:
    """One `[[trigger]]` table. The names are those of `walmill.triggers.manage.NewTrigger`.

    Attributes:
        database: Name of its database.
        name: Its name.
        plugin: Name of the entry point.
        spec: The event.
        arguments: What the plugin is told; JSON types (a TOML date or time becomes its text). Hidden in the `repr`.
        policy: `retry`, `skip` or `disable`.
        attempts: How many attempts `retry` makes; None takes the server's.
        max_concurrency: Runs at a time; None takes the default of its kind.
        max_batch_rows: About how many rows a batch holds; None takes the server's.
        max_batch_wait: How long a batch with fewer rows waits for more.
        breaker: After so many failures in a row it is paused; None takes the server's.
        methods: HTTP methods of a request trigger; None takes GET and POST.
        missed: What becomes of missed due times.
        grants: Other databases that its runs may use.
        derived: Whether `all_tables` and patterns see derived rows.
        jitter: Up to how long after its due time a schedule runs.
        executor: Where its hooks run; None takes the server's.
        limits: What its runs may use; what is left out is the server's.
        run_async: InfluxDB's setting.
        disabled: Whether it is made without being started.
        start: Where on_write begins: None (what is written after it is made), `start`, a sequence, or a time.
    """

    database: str
    name: str
    plugin: str
    spec: str
    arguments: Mapping[str, Any] = field(factory=dict, repr=_show_arguments)
    policy: str = "retry"
    attempts: int | None = None
    max_concurrency: int | None = None
    max_batch_rows: int | None = None
    max_batch_wait: str | int = 0
    breaker: int | None = None
    methods: tuple[str, ...] | None = None
    missed: str = "latest"
    grants: tuple[str, ...] = ()
    derived: bool = False
    jitter: str | int = 0
    executor: str | None = None
    limits: Mapping[str, Any] = field(factory=dict)
    run_async: bool = False
    disabled: bool = False
    start: str | int | None = None

    def members(self) -> dict[str, Any]:
        """All members by name, without those that are left to the server."""
        given = attrs.asdict(self, recurse=False)
        return {name: value for name, value in given.items() if value is not None}


_Check: TypeAlias = Callable[[Any], "tuple[Any, str | None]"]


def _text(value: Any) -> tuple[Any, str | None]:
    return value, None if isinstance(value, str) and value else "must be a text that is not empty"


def _flag(value: Any) -> tuple[Any, str | None]:
    return value, None if isinstance(value, bool) else "must be true or false"


def _count(low: int, high: int) -> _Check:
    def check(value: Any) -> tuple[Any, str | None]:
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return value, None if good else f"must be a whole number from {low:,} to {high:,}"

    return check


def _one_of(known: Mapping[str, str]) -> _Check:
    def check(value: Any) -> tuple[Any, str | None]:
        if isinstance(value, str) and value in known:
            return known[value], None
        return value, f"must be one of {', '.join(known)}"

    return check


def _texts(value: Any) -> tuple[Any, str | None]:
    good = isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)
    return (tuple(value), None) if good else (value, "must be a list of texts that is not empty")


def _methods(value: Any) -> tuple[Any, str | None]:
    given = value.split(",") if isinstance(value, str) else value
    found, problem = _texts(given)
    return (found, problem) if problem else (tuple(one.strip().upper() for one in found), None)


def _start(value: Any) -> tuple[Any, str | None]:
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.isoformat(), None
    if (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value, None
    return value, 'must be "start", a sequence (a whole number), or a time with a zone'


def _arguments(value: Any) -> tuple[Any, str | None]:
    if not isinstance(value, dict):
        return value, "must be a table, as in [trigger.arguments] or { name = value }"
    return {name: plain(one) for name, one in value.items()}, None


def _duration(value: Any) -> tuple[Any, str | None]:
    good = (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool) and value == 0)
    return value, None if good else "must be a duration, such as '500ms'"


def _limits(value: Any) -> tuple[Any, str | None]:
    _, problems = parse_limits(value)
    return value, "; ".join(problems) or None


_MEMBERS: Mapping[str, _Check] = {
    "database": _text,
    "name": _text,
    "plugin": _text,
    "spec": _text,
    "arguments": _arguments,
    "policy": _one_of(POLICIES),
    "attempts": _count(1, 1000),
    "max_concurrency": _count(1, 256),
    "max_batch_rows": _count(1, 10_000_000),
    "max_batch_wait": _duration,
    "breaker": _count(0, 1_000_000),
    "methods": _methods,
    "missed": _one_of({one: one for one in ("latest", "all", "skip")}),
    "grants": _texts,
    "derived": _flag,
    "executor": _text,
    "jitter": _duration,
    "limits": _limits,
    "run_async": _flag,
    "disabled": _flag,
    "start": _start,
}
_KEYS: Mapping[str, str] = {
    **{name: name for name in _MEMBERS if name not in ("policy", "start")},
    "error_policy": "policy",
    "from": "start",
    # InfluxDB's names
    "db": "database",
    "trigger_name": "name",
    "plugin_filename": "plugin",
    "trigger_specification": "spec",
    "trigger_arguments": "arguments",
    "error_behavior": "policy",
    "run_asynchronous": "run_async",
}
_REQUIRED = ("name", "database", "plugin", "spec")


def parse_triggers(tables: Any) -> tuple[tuple[TriggerEntry, ...], list[str]]:
    """Reads the `trigger` member of a settings file.

    Args:
        tables: What TOML made of it.

    Returns:
        The triggers, and all problems, one sentence each; with problems the triggers are incomplete.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return (), ["trigger must be a list of tables: write [[trigger]] above each one"]
    entries: list[TriggerEntry] = []
    problems: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for number, table in enumerate(tables, 1):
        named = table.get("name", table.get("trigger_name"))
        what = f"trigger {named!r}" if isinstance(named, str) else f"the trigger in table {number}"
        entry, wrong = _parse(table)
        problems += [f"{what}: {problem}" for problem in wrong]
        if entry is None:
            continue
        first = seen.setdefault((entry.database, entry.name), number)
        if first != number:
            problems.append(
                f"{what}: the database {entry.database!r} has a trigger of that name in table {first} already; take another name"
            )
        entries.append(entry)
    return tuple(entries), problems


def _parse(table: Mapping[str, Any]) -> tuple[TriggerEntry | None, list[str]]:
    members: dict[str, Any] = {}
    problems: list[str] = []
    used: dict[str, str] = {}
    for key, value in table.items():
        member = _KEYS.get(key)
        if member is None:
            problems.append(f"there is no key {key!r}; {did_you_mean(key, _KEYS)}")
            continue
        if member in used:
            problems.append(f"{used[member]} and {key} say the same thing; leave one of them away")
            continue
        used[member] = key
        members[member], problem = _MEMBERS[member](value)
        if problem is not None:
            shown = "" if member in ("arguments", "limits") else f" {_shown(value)}"
            problems.append(f"{key}{shown} {problem}")
    missing = [name for name in _REQUIRED if name not in used]
    if missing:
        problems.append(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return (None, problems) if problems else (TriggerEntry(**members), [])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain(value: Any) -> Any:
    """A TOML value as JSON types: dates and times become their RFC 3339 text."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value
