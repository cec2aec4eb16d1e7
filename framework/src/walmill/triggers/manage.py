"""Creating, enabling, disabling and deleting triggers: decided in the committer, against the catalog as it is then."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from attrs import evolve, field, frozen

from walmill.errors import Conflict, InvalidRequest
from walmill.ingest.names import check_database_name
from walmill.model.catalog import INTERNAL, Catalog
from walmill.model.cursor import Cursor
from walmill.model.trigger import BY_A_PERSON, CREATED_DISABLED, ErrorPolicy, MissedPolicy, Trigger
from walmill.plugins.description import PluginDescription
from walmill.settings.limits import LIMITS, parse_limits
from walmill.store.draft import Draft
from walmill.triggers.paths import paths_overlap
from walmill.triggers.spec import (
    CronSpec,
    EverySpec,
    RequestSpec,
    ServiceSpec,
    SnapshotSpec,
    Spec,
    calendar_problem,
    fire_times,
    parse_spec,
)
from walmill.units import HOUR, format_duration, parse_duration

POLICIES: Mapping[str, ErrorPolicy] = {"retry": "retry", "skip": "skip", "disable": "disable", "log": "skip"}
"""The error policies by name; `log` is InfluxDB's name for `skip`."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ASYNC_CONCURRENCY = 4
"""What InfluxDB's `run_async` becomes."""


@frozen(kw_only=True)
class NewTrigger:
    """What a person asks for when a trigger is created; the rest is filled in.

    Attributes:
        database: Name of its database.
        name: Its name.
        plugin: Name of the entry point.
        spec: The event.
        arguments: Text or JSON types.
        policy: `retry`, `skip` (or `log`), `disable`.
        attempts: How many attempts `retry` makes.
        max_concurrency: Runs at a time; None takes 1, or 4 for requests and for `run_async`.
        max_batch_rows: About how many rows a batch holds.
        max_batch_wait: How long a batch with fewer rows waits for more: a duration as text, or ns.
        breaker: After so many failures of different batches in a row it is paused; 0 for never.
        methods: HTTP methods of a request trigger.
        missed: What becomes of missed due times.
        grants: Other databases that its runs may use.
        derived: Whether `all_tables` and patterns see derived rows.
        jitter: Up to how long after its due time a schedule runs, so that many do not run at once: a duration as text, or ns.
        executor: Where its hooks run; None takes the default of the server, or `inline` for an object of the application.
        limits: What its runs may use: names and values as in `walmill.settings.limits`; what is left out is the server's.
        run_async: InfluxDB's setting.
        disabled: Whether it is created without being started.
        start: Where on_write begins: None (what is written after it), `start`, a sequence, or a time.
    """

    database: str
    name: str
    plugin: str
    spec: str
    arguments: Mapping[str, Any] = field(factory=dict)
    policy: str = "retry"
    attempts: int = 5
    max_concurrency: int | None = None
    max_batch_rows: int = 100_000
    max_batch_wait: str | int = 0
    breaker: int = 20
    methods: Sequence[str] | None = None
    missed: str = "latest"
    grants: Sequence[str] = ()
    derived: bool = False
    jitter: str | int = 0
    executor: str | None = None
    limits: Mapping[str, Any] = field(factory=dict)
    run_async: bool = False
    disabled: bool = False
    start: str | int | None = None


def check_new(new: NewTrigger, plugin: PluginDescription, executors: Mapping[str, bool]) -> tuple[Spec, list[str]]:
    """Checks what can be checked without the catalog: all problems at once.

    Returns:
        The parsed spec, and the problems, one sentence each.

    Raises:
        InvalidRequest: If the spec cannot be parsed.
        WalmillError: If the plugin cannot be used for it.
    """
    spec = parse_spec(new.spec)
    plugin.require(spec)
    problems = plugin.check_arguments(new.arguments)
    calendar = calendar_problem(new.spec)
    if calendar is not None:
        problems.append(calendar)
    if not new.name or len(new.name.encode()) > 255 or re.search(r"[\x00-\x1f\x7f/]", new.name):
        problems.append(f"the trigger name {new.name!r} must have 1 to 255 bytes, without control characters and '/'")
    if new.policy not in POLICIES:
        problems.append(f"the error policy {new.policy!r} is not one of retry, skip (or log), disable")
    if new.missed not in ("latest", "all", "skip"):
        problems.append(f"missed={new.missed!r} is not one of latest, all, skip")
    if new.executor is None or new.executor not in executors:
        problems.append(f"the executor {new.executor!r} is not one of {', '.join(executors)}")
    elif plugin.environment is not None and new.executor != "process":
        problems.append(f"the plugin {plugin.name!r} has an environment of its own, so its executor is 'process'")
    elif executors[new.executor] and not plugin.installed:
        problems.append(
            f"the plugin {new.plugin!r} is an object of the application's own process, so no other process can have it: take "
            "the executor 'inline'"
        )
    limits, wrong = parse_limits(new.limits)
    problems += wrong
    if isinstance(spec, ServiceSpec):
        problems += _service_problems(new, limits)
    if isinstance(spec, SnapshotSpec) and new.max_concurrency not in (None, 1):
        problems.append(
            f"max_concurrency={new.max_concurrency!r} is not for snapshots, which are told one after the other"
        )
    apart = [name for name in limits if LIMITS[name].isolated]
    if apart and new.executor is not None and executors.get(new.executor) is False:
        problems.append(
            f"the limit {' and '.join(apart)} cannot be enforced by the executor {new.executor!r}, which runs hooks in the "
            "server's own process: take the executor 'process', or leave it away"
        )
    bounded: tuple[tuple[str, Any, int, int], ...] = (
        ("attempts", new.attempts, 1, 1000),
        ("max_concurrency", 1 if new.max_concurrency is None else new.max_concurrency, 1, 256),
        ("max_batch_rows", new.max_batch_rows, 1, 10_000_000),
        ("breaker", new.breaker, 0, 1_000_000),
    )
    for name, value, low, high in bounded:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            problems.append(f"{name}={value!r} must be a whole number from {low:,} to {high:,}")
    try:
        wait = _wait(new.max_batch_wait)
    except InvalidRequest as error:
        problems.append(f"max_batch_wait: {error.message}")
    else:
        if wait and spec.kind != "write":
            problems.append(f"max_batch_wait is for on_write triggers; the spec is {str(spec)!r}")
    try:
        jitter = _wait(new.jitter)
    except InvalidRequest as error:
        problems.append(f"jitter: {error.message}")
    else:
        problems += _jitter_problems(jitter, spec)
    for method in new.methods or ():
        if method.upper() not in METHODS:
            problems.append(f"the method {method!r} is not one of {', '.join(METHODS)}")
    if new.methods is not None and not isinstance(spec, RequestSpec):
        problems.append(f"methods are for request triggers; the spec is {str(spec)!r}")
    if new.methods is not None and not new.methods:
        problems.append("the list of methods is empty; name at least one, or leave it out for GET and POST")
    if new.start is not None and spec.kind == "snapshot" and new.start != "start":
        problems.append(
            f"a start {new.start!r} is not for snapshots; start tells all files that are there, else those to come"
        )
    elif new.start is not None and spec.kind not in ("write", "snapshot"):
        problems.append(f"a start ({new.start!r}) is for on_write and on_snapshot triggers; the spec is {str(spec)!r}")
    for grant in new.grants:
        if grant not in ("*", INTERNAL):
            try:
                check_database_name(grant)
            except InvalidRequest as error:
                problems.append(f"grant {grant!r}: {error.message}")
    try:
        json.dumps(dict(new.arguments))
    except (TypeError, ValueError) as error:
        problems.append(f"the arguments are not JSON types: {error}")
    return spec, problems


def create_trigger(
    draft: Draft, new: NewTrigger, spec: Spec, start_at: Callable[[str | int], int], first: int = 0
) -> Trigger:
    """Creates a trigger.

    Args:
        draft: The commit that it becomes part of.
        new: What was asked for, checked.
        spec: Its parsed spec.
        start_at: The first sequence for a start that was asked for.
        first: The first sequence that the log still has; a trigger that is to start before it starts there, with a warning.

    Raises:
        Conflict: If the name is taken in the database, or another trigger answers the same method and path.
        InvalidRequest: If the name of the database breaks the rules.
    """
    if new.database == INTERNAL and new.database not in draft.catalog.names:
        database = draft.database(INTERNAL)
    else:
        database = draft.database(new.database)
    if new.name in database.triggers:
        raise Conflict(
            f"the database {new.database!r} has a trigger {new.name!r} already; delete it first, or take another name"
        )
    files = spec.kind == "snapshot"  # which need no log
    start = draft.view.sequence + 2 if new.start is None else 1 if files else start_at(new.start)
    trigger = trigger_of(draft, new, spec, database.id)
    if new.start is not None and max(1, start) < first and not files:
        trigger = evolve(trigger, warning=_lost(max(1, start), first))
    if isinstance(spec, RequestSpec):
        check_path(draft.catalog, trigger, spec)
    draft.define({"op": "put_trigger", "trigger": trigger.to_json()})
    draft.move(trigger.id, Cursor(through=max(0, start - 1, first - 1 if trigger.warning else 0)))
    return trigger


def trigger_of(draft: Draft, new: NewTrigger, spec: Spec, database: int) -> Trigger:
    """The definition that was asked for; nobody knows of it yet.

    Args:
        draft: The commit that it is to become part of.
        new: What was asked for, checked.
        spec: Its parsed spec.
        database: Id of its database.
    """
    concurrency = new.max_concurrency
    if concurrency is None:
        several = spec.kind == "request" or (new.run_async and spec.kind not in ("service", "snapshot"))
        concurrency = ASYNC_CONCURRENCY if several else 1
    return Trigger(
        id=draft.catalog.next_id,
        database_id=database,
        name=new.name,
        plugin=new.plugin,
        spec=str(spec),
        arguments=dict(new.arguments),
        policy=POLICIES[new.policy],
        attempts=new.attempts,
        max_concurrency=concurrency,
        max_batch_rows=new.max_batch_rows,
        max_batch_wait=_wait(new.max_batch_wait),
        jitter=_wait(new.jitter),
        breaker=new.breaker,
        methods=tuple(dict.fromkeys(method.upper() for method in new.methods or ("GET", "POST"))),
        missed=_missed(new.missed),
        grants=tuple(new.grants),
        derived=new.derived,
        executor=new.executor or "inline",
        limits=parse_limits(new.limits)[0],
        run_async=new.run_async,
        state="disabled" if new.disabled else "enabled",
        reason=CREATED_DISABLED if new.disabled else None,
        created_at=draft.time,
        changed_at=draft.time,
    )


def _wait(value: str | int) -> int:
    """How long a batch waits for more rows, ns.

    Raises:
        InvalidRequest: It is no such duration.
    """
    if isinstance(value, str):
        return 0 if value.strip() == "0" else parse_duration(value, minimum=0, maximum=HOUR)
    if isinstance(value, bool) or not 0 <= value <= HOUR:
        raise InvalidRequest(f"{value!r} must be a duration of at most an hour, such as '500ms'")
    return value


def _service_problems(new: NewTrigger, limits: Mapping[str, Any]) -> list[str]:
    """What a source that runs for ever cannot have."""
    problems = []
    if new.max_concurrency not in (None, 1):
        problems.append(
            f"max_concurrency={new.max_concurrency!r} is not for a service, of which there is one call at a time"
        )
    timed = [name for name in ("timeout", "cpu_time") if name in limits]
    if timed:
        problems.append(f"the limit {' and '.join(timed)} is not for a service, which runs until it is asked to end")
    return problems


def _jitter_problems(jitter: int, spec: Spec) -> list[str]:
    """Why a schedule cannot have this jitter."""
    if not jitter:
        return []
    if not isinstance(spec, EverySpec | CronSpec):
        return [f"jitter is for schedules; the spec is {str(spec)!r}"]
    times = fire_times(spec, 0, 60)
    spacing = min((later - earlier for earlier, later in pairwise(times)), default=jitter + 1)
    if jitter >= spacing:
        return [
            f"the jitter {format_duration(jitter)} must be shorter than the {format_duration(spacing)} between two due times of "
            f"{str(spec)!r}"
        ]
    return []


def _missed(text: str) -> MissedPolicy:
    return "all" if text == "all" else "skip" if text == "skip" else "latest"


def check_path(catalog: Catalog, trigger: Trigger, spec: RequestSpec) -> None:
    """Refuses a request trigger whose method and path another one has already.

    Raises:
        Conflict: Naming the other one.
    """
    for other in sorted(catalog.triggers.values(), key=lambda one: one.id):
        if other.id == trigger.id or catalog.databases[other.database_id].deleted is not None:
            continue
        theirs = parse_spec(other.spec)
        if not isinstance(theirs, RequestSpec):
            continue
        both = [method for method in trigger.methods if method in other.methods]
        if both and paths_overlap(spec.path, theirs.path):
            where = catalog.databases[other.database_id].name
            raise Conflict(
                f"{'/'.join(both)} {spec.path!r} overlaps {theirs.path!r} of the trigger {other.name!r} in {where!r}; "
                "take another path or other methods"
            )


def enable_trigger(draft: Draft, database: str, name: str, first: int = 0) -> Trigger:
    """Enables a trigger, whoever stopped it; nothing happens to one that is enabled.

    Args:
        draft: The commit that it becomes part of.
        database: Name of its database.
        name: Its name.
        first: The first sequence that the log still has. One that stopped before it goes on there, and its warning says so.
    """
    trigger = draft.catalog.trigger(database, name)
    if trigger.enabled:
        return trigger
    warning = _pass_lost(draft, trigger, first)
    return _put(draft, evolve(trigger, state="enabled", reason=None, traceback=None, warning=warning))


def warn_of_lost(draft: Draft, trigger: int, first: int) -> Trigger | None:
    """Has an enabled trigger go on where the log begins, and its warning say so; None if it has lost nothing."""
    current = draft.catalog.triggers.get(trigger)
    warning = _pass_lost(draft, current, first) if current is not None and current.enabled else None
    return None if current is None or warning is None else _put(draft, evolve(current, warning=warning))


def _pass_lost(draft: Draft, trigger: Trigger, first: int) -> str | None:
    """Moves a cursor to where the log begins if it is before that; what is passed by, as a sentence."""
    if parse_spec(trigger.spec).kind != "write":
        return None
    cursor = draft.view.cursors.get(trigger.id) or Cursor()
    if cursor.through + 1 >= first:
        return None
    moved = cursor.move(first - 1, ())
    draft.move(trigger.id, moved)
    return _lost(cursor.through + 1, first)


def _lost(start: int, first: int) -> str:
    which = f"the commit {start} is" if start == first - 1 else f"the commits {start} to {first - 1} are"
    return (
        f"{which} not in the log any more: rows in them were not given to this trigger, which begins with the commit {first}; "
        "the tables still have them"
    )


def replay_trigger(draft: Draft, database: str, name: str, start: int, to: int | None, first: int) -> Trigger:
    """Has an on_write trigger go through a part of the log again; then it goes on where it is now.

    Args:
        draft: The commit that it becomes part of.
        database: Name of its database.
        name: Its name.
        start: The first sequence that it is given again.
        to: The last one; None for all that it has had, which is as far as it goes.
        first: The first sequence that the log still has.

    Raises:
        InvalidRequest: If it is no on_write trigger, or there is nothing to be done again.
        Conflict: If it is not enabled, or the log has not got all of it any more.
    """
    trigger = draft.catalog.trigger(database, name)
    spec = parse_spec(trigger.spec)
    if spec.kind != "write":
        raise InvalidRequest(f"a replay is for on_write triggers; the spec of {name!r} is {trigger.spec!r}")
    if not trigger.enabled:
        raise Conflict(f"the trigger {name!r} is {trigger.state}; enable it first, then replay it")
    done = has_had(trigger, draft.view.cursors.get(trigger.id) or Cursor())
    last = done if to is None else min(to, done)
    if start < first:
        raise Conflict(
            f"the log begins with the commit {first}, and the replay is to begin with {start}: what is before is in files only; "
            f"begin with {first}, or give the trigger those rows by a query"
        )
    if start > last:
        raise InvalidRequest(
            f"there is nothing from {start} to {last} that the trigger {name!r} has had: it is at {done}; begin at or before it"
        )
    draft.move(trigger.id, Cursor(through=start - 1))
    return _put(draft, evolve(trigger, replay=(start, last, done)))


def has_had(trigger: Trigger, cursor: Cursor) -> int:
    """The last commit that a trigger has had, also while it goes through a part of the log again."""
    replay = trigger.replay
    return max(cursor.through, replay[2]) if replay is not None and cursor.through < replay[1] else cursor.through


def stop_replay(draft: Draft, database: str, name: str) -> bool:
    """Has a trigger that goes through the log again go on where it was before; whether it did."""
    trigger = draft.catalog.trigger(database, name)
    cursor = draft.view.cursors.get(trigger.id) or Cursor()
    if trigger.replay is None or cursor.through >= trigger.replay[1]:
        return False
    draft.move(trigger.id, Cursor(through=trigger.replay[2], fired=cursor.fired))
    _put(draft, evolve(trigger, replay=None))
    return True


def disable_by_person(draft: Draft, database: str, name: str) -> Trigger:
    """Disables a trigger; nothing happens to one that is disabled."""
    trigger = draft.catalog.trigger(database, name)
    if trigger.state == "disabled":
        return trigger
    return _put(draft, evolve(trigger, state="disabled", reason=BY_A_PERSON, traceback=None))


def disable_trigger(draft: Draft, trigger: int, generation: int, reason: str, traceback: str) -> None:
    """Disables a trigger because of a failure, unless it was changed meanwhile."""
    current = draft.catalog.triggers.get(trigger)
    if current is not None and current.generation == generation and current.enabled:
        _put(draft, evolve(current, state="disabled", reason=reason[:4096], traceback=traceback[:65536] or None))


def pause_trigger(draft: Draft, trigger: int, generation: int, reason: str) -> None:
    """Pauses a trigger, which the engine does and no person, unless it was changed meanwhile."""
    current = draft.catalog.triggers.get(trigger)
    if current is not None and current.generation == generation:
        _put(draft, evolve(current, state="paused", reason=reason))


def resume_trigger(draft: Draft, trigger: int) -> None:
    """Enables a trigger that the engine has paused, unless another one has its path by now: then it says so and stays paused."""
    found = draft.catalog.triggers[trigger]
    spec = parse_spec(found.spec)
    try:
        if isinstance(spec, RequestSpec):
            check_path(draft.catalog, found, spec)
    except Conflict as error:
        _put(draft, evolve(found, reason=error.message))
    else:
        _put(draft, evolve(found, state="enabled", reason=None))


def delete_trigger(draft: Draft, database: str, name: str, *, force: bool) -> None:
    """Deletes a trigger with its cursor and its state.

    Raises:
        Conflict: If it is enabled and `force` is not given, as InfluxDB has it.
    """
    trigger = draft.catalog.trigger(database, name)
    if trigger.enabled and not force:
        raise Conflict(f"Cannot delete running plugin {name}. Disable it first or use --force.")
    draft.define({"op": "drop_trigger", "id": trigger.id})


def _put(draft: Draft, trigger: Trigger) -> Trigger:
    changed = evolve(trigger, generation=trigger.generation + 1, changed_at=draft.time)
    draft.define({"op": "put_trigger", "trigger": changed.to_json()})
    return changed
