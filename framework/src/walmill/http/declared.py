"""The triggers that a settings file declares: made when the server starts, compared when they are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from walmill.engine import Engine
from walmill.errors import WalmillError
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.settings.limits import parse_limits
from walmill.settings.triggers import TriggerEntry
from walmill.triggers.manage import POLICIES
from walmill.triggers.spec import parse_spec
from walmill.units import parse_duration

log = get_logger("walmill.serve")


def create_declared(
    engine: Engine, entries: Sequence[TriggerEntry], defaults: Mapping[str, Any], *, strict: bool = False
) -> None:
    """Creates what is missing, and reports what is there with another definition; that is left as it is.

    Args:
        engine: An open engine.
        entries: The `[[trigger]]` tables.
        defaults: Members of `NewTrigger` for what a table leaves open.
        strict: Whether one that cannot be created keeps the server from starting; else it is an error in the log.

    Raises:
        WalmillError: One cannot be created, with `strict`.
    """
    for entry in entries:
        catalog = engine.view().catalog
        database = catalog.find_database(entry.database)
        number = None if database is None else database.triggers.get(entry.name)
        try:
            if number is None:
                engine.create_trigger(**{**defaults, **entry.members()})
                log.info("a trigger of the settings file is created", database=entry.database, trigger=entry.name)
                continue
        except WalmillError as error:
            if strict:
                raise
            log.error(
                "a trigger of the settings file cannot be created",
                database=entry.database,
                trigger=entry.name,
                error=error.message,
            )
            continue
        changed = differences(entry, catalog.triggers[number])
        if changed:
            log.warning(
                "a trigger of the settings file is there with another definition, and is left as it is; delete it to have it "
                "made anew",
                database=entry.database,
                trigger=entry.name,
                differs=", ".join(changed),
            )


def differences(entry: TriggerEntry, trigger: Trigger) -> list[str]:
    """Names of the members in which a declared trigger differs from the one that is there.

    What the file leaves to the server's defaults is not compared, nor whether it is disabled: people switch that by hand.

    Args:
        entry: The table of the settings file.
        trigger: The trigger of that name.
    """
    spec = parse_spec(entry.spec)
    wanted: dict[str, tuple[Any, Any]] = {
        "plugin": (entry.plugin, trigger.plugin),
        "spec": (str(spec), trigger.spec),
        "arguments": (dict(entry.arguments), dict(trigger.arguments)),
        "error_policy": (POLICIES[entry.policy], trigger.policy),
        "missed": (entry.missed, trigger.missed),
        "grants": (sorted(entry.grants), sorted(trigger.grants)),
        "derived": (entry.derived, trigger.derived),
        "run_async": (entry.run_async, trigger.run_async),
        "attempts": (entry.attempts, trigger.attempts),
        "max_concurrency": (entry.max_concurrency, trigger.max_concurrency),
        "max_batch_rows": (entry.max_batch_rows, trigger.max_batch_rows),
        "breaker": (entry.breaker, trigger.breaker),
        "executor": (entry.executor, trigger.executor),
        "jitter": (_nanoseconds(entry.jitter), trigger.jitter),
        "limits": (parse_limits(entry.limits)[0] or None, dict(trigger.limits)),
    }
    if spec.kind == "request" and entry.methods is not None:
        wanted["methods"] = (sorted(entry.methods), sorted(trigger.methods))
    return [name for name, (asked, there) in wanted.items() if asked is not None and asked != there]


def _nanoseconds(jitter: str | int) -> int:
    return jitter if isinstance(jitter, int) else parse_duration(jitter, minimum=0)
