"""A trigger as it is shown: its definition, its cursor and what it is doing, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from walmill.errors import NotFound
from walmill.model.cursor import Cursor
from walmill.model.trigger import Trigger
from walmill.plugins.registry import Registry
from walmill.settings.limits import show_all
from walmill.units import format_duration


def show(
    trigger: Trigger,
    database: str,
    cursor: Cursor | None,
    status: Mapping[str, Any],
    figures: Mapping[str, Any],
    registry: Registry,
) -> dict[str, Any]:
    """What HTTP, the command line and `Engine.triggers` give of a trigger.

    Args:
        trigger: Its definition.
        database: Name of its database.
        cursor: Where it is in the log; None before its first run.
        status: What the mill says of it: `blocked`, `running`, `lag_commits` (None while it is disabled) and, for a
            schedule, `next_due`.
        figures: What its runs came to since the start.
        registry: Knows which of its arguments are secret; all are hidden when its plugin is not installed.
    """
    try:
        arguments = registry.inspect(trigger.plugin).hide_secrets(trigger.arguments)
    except NotFound:
        arguments = dict.fromkeys(trigger.arguments, "***")
    state, reason = trigger.state, trigger.reason
    if trigger.enabled and status["blocked"]:
        state, reason = "paused", status["blocked"]
    return {
        "database": database,
        "trigger_name": trigger.name,
        "plugin": trigger.plugin,
        "trigger_specification": trigger.spec,
        "trigger_arguments": arguments,
        "state": state,
        "disabled": trigger.state == "disabled",
        "reason": reason,
        "traceback": trigger.traceback,
        "warning": trigger.warning,
        "error_behavior": trigger.policy,
        "attempts": trigger.attempts,
        "run_async": trigger.run_async,
        "max_concurrency": trigger.max_concurrency,
        "max_batch_rows": trigger.max_batch_rows,
        "max_batch_wait": format_duration(trigger.max_batch_wait),
        "jitter": format_duration(trigger.jitter),
        "breaker": trigger.breaker,
        "methods": list(trigger.methods) if trigger.spec.startswith("request:") else None,
        "missed": trigger.missed,
        "grants": list(trigger.grants),
        "derived": trigger.derived,
        "executor": trigger.executor,
        "limits": show_all(trigger.limits),
        "created_at": trigger.created_at,
        "through": None if cursor is None else cursor.through,
        "last_fired": None if cursor is None else cursor.fired,
        "replay": None if trigger.replay is None else dict(zip(("from", "to", "resume"), trigger.replay, strict=True)),
        "running": status["running"],
        "lag_commits": None if trigger.state == "disabled" else status["lag_commits"],
        "lag_rows": None if trigger.state == "disabled" else status.get("lag_rows", 0),
        "lag_seconds": None if trigger.state == "disabled" else status.get("lag_seconds", 0.0),
        "next_due": status.get("next_due"),
        **figures,
        # a source goes on for weeks: what it has committed counts before it ends
        "rows_written": figures["rows_written"] + status.get("writing", 0),
    }
