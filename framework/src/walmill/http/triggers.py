"""Triggers over HTTP: InfluxDB's routes and bodies, with defaults, and the list, show and run that it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.http.body import read_body
from walmill.http.fields import parse_object, read_fields, required
from walmill.http.resource import json_response, resource
from walmill.http.site import Site
from walmill.model.trigger import Trigger
from walmill.settings.nearest import did_you_mean
from walmill.settings.triggers import parse_triggers
from walmill.triggers.manage import NewTrigger
from walmill.triggers.spec import CronSpec, EverySpec, fire_times, parse_spec
from walmill.units import format_time, parse_time

PATH = "/api/v3/configure/processing_engine_trigger"
NAMED = {"db": str, "trigger_name": str}
SETTINGS = ("run_async", "error_behavior")
MEMBERS = (
    "db",
    "plugin",
    "plugin_filename",
    "trigger_name",
    "trigger_specification",
    "trigger_settings",
    "trigger_arguments",
    "disabled",
    "methods",
    "max_concurrency",
    "max_batch_rows",
    "max_batch_wait",
    "jitter",
    "breaker",
    "attempts",
    "missed",
    "grants",
    "derived",
    "from",
    "executor",
    "limits",
    "run_async",
    "error_behavior",
)
"""What the body of a new trigger may hold."""


def new_trigger(body: Mapping[str, Any], defaults: Mapping[str, Any]) -> NewTrigger:
    """The trigger that a body asks for.

    Args:
        body: The JSON object, without members that are null.
        defaults: Members of `NewTrigger` for what it leaves open.

    Raises:
        InvalidRequest: With all problems at once.
    """
    problems = [f"there is no member {name!r}; {did_you_mean(name, MEMBERS)}" for name in body if name not in MEMBERS]
    table = {name: value for name, value in body.items() if name in MEMBERS and name != "trigger_settings"}
    settings = body.get("trigger_settings", {})
    if not isinstance(settings, Mapping):
        problems.append(f"trigger_settings must be an object, not {settings!r:.60}")
        settings = {}
    for name, value in settings.items():
        if name not in SETTINGS:
            problems.append(f"there is no member {name!r} in trigger_settings; {did_you_mean(name, SETTINGS)}")
        elif value is not None and table.setdefault(name, value) != value:
            problems.append(f"{name} is in trigger_settings and beside it, and they differ; leave one of them away")
    if isinstance(table.get("error_behavior"), str):
        table["error_behavior"] = table["error_behavior"].lower()
    if table.get("grants") == []:
        del table["grants"]
    missing = [name for name in ("db", "trigger_name", "trigger_specification") if name not in table]
    if "plugin" not in table and "plugin_filename" not in table:
        missing.append("plugin")
    if missing:
        problems.append(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        raise InvalidRequest("; ".join(problems))
    entries, wrong = parse_triggers([table])
    if problems or wrong:
        raise InvalidRequest("; ".join([*problems, *wrong]))
    return NewTrigger(**{**defaults, **entries[0].members()})


def routes(site: Site, defaults: Mapping[str, Any]) -> list[BaseRoute]:
    """The routes.

    Args:
        site: The engine.
        defaults: Members of `NewTrigger` for what a body leaves open.
    """

    async def named(request: Request, **more: type) -> dict[str, Any]:
        fields = await read_fields(request.scope, request.receive, site.body_limit, {**NAMED, **more})
        required(fields, "db", "trigger_name")
        return fields

    async def create(request: Request) -> Response:
        engine = site.engine
        if request.url.query:
            raise InvalidRequest("a new trigger is described by a JSON body, not by the query string; move it there")
        body = parse_object(await read_body(request.scope, request.receive, site.body_limit))
        made = await site.call(engine.create_trigger, new_trigger(body, defaults))
        spec = parse_spec(made.spec)
        times = fire_times(spec, engine.options.clock.now_ns()) if made.enabled else []
        if not times:
            return _done(made)
        zone = spec.schedule().zone if isinstance(spec, CronSpec | EverySpec) else UTC
        answer: dict[str, Any] = {"next": [_both(instant, zone) for instant in times]}
        return json_response(answer if made.warning is None else {**answer, "warning": made.warning})

    async def show(request: Request) -> Response:
        engine = site.engine
        fields = await read_fields(request.scope, request.receive, site.body_limit, NAMED)
        if "trigger_name" in fields:
            required(fields, "db", "trigger_name")
            return json_response(await site.call(engine.trigger, fields["db"], fields["trigger_name"]))
        return json_response(await site.call(_list, engine, fields.get("db")))

    async def delete(request: Request) -> Response:
        engine = site.engine
        fields = await named(request, force=bool)
        force = fields.get("force", False)
        await site.call(engine.delete_trigger, fields["db"], fields["trigger_name"], force=force)
        return Response(status_code=200)

    async def enable(request: Request) -> Response:
        engine = site.engine
        fields = await named(request)
        return _done(await site.call(engine.enable_trigger, fields["db"], fields["trigger_name"]))

    async def disable(request: Request) -> Response:
        engine = site.engine
        fields = await named(request)
        await site.call(engine.disable_trigger, fields["db"], fields["trigger_name"])
        return Response(status_code=200)

    async def run(request: Request) -> Response:
        engine = site.engine
        fields = await named(request, at=object)
        at = _instant(fields.get("at"))

        def wait() -> dict[str, Any]:
            return engine.run_trigger(fields["db"], fields["trigger_name"], at=at)

        return json_response(await anyio.to_thread.run_sync(wait, limiter=site.runs))

    async def replay(request: Request) -> Response:
        engine = site.engine
        fields = await named(request, to=object, stop=bool, **{"from": object})
        if fields.get("stop"):
            if len(fields) > 3:
                raise InvalidRequest("stop ends a replay; leave from and to out")
            ended = await site.call(engine.stop_replay, fields["db"], fields["trigger_name"])
            return json_response({"stopped": ended})
        required(fields, "from")
        bounds = [fields["from"], fields.get("to")]
        for name, value in zip(("from", "to"), bounds, strict=True):
            if isinstance(value, bool) or not isinstance(value, int | str | None):
                raise InvalidRequest(f"{name}={value!r:.60} is no place in the log; give start, a sequence, or a time")
        return json_response(
            await site.call(engine.replay_trigger, fields["db"], fields["trigger_name"], bounds[0], bounds[1] or None)
        )

    return [
        resource(PATH, GET=show, POST=create, DELETE=delete),
        resource(f"{PATH}/enable", POST=enable),
        resource(f"{PATH}/disable", POST=disable),
        resource(f"{PATH}/run", POST=run),
        resource(f"{PATH}/replay", POST=replay),
    ]


def _done(trigger: Trigger) -> Response:
    """The answer to a change: empty, as InfluxDB has it, unless there is something to be warned of."""
    return Response(status_code=200) if trigger.warning is None else json_response({"warning": trigger.warning})


def _both(instant: int, zone: tzinfo) -> dict[str, str]:
    """A due time in UTC, and as a clock in the schedule's zone shows it."""
    when = datetime.fromtimestamp(instant / 1e9, UTC)
    return {"utc": format_time(instant), "local": when.astimezone(zone).isoformat()}


def _list(engine: Engine, database: str | None) -> list[dict[str, Any]]:
    if database:
        engine.view().catalog.database(database)
    return engine.triggers(database or None)


def _instant(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidRequest(f"at={value!r:.60} is no time; give RFC 3339, or whole nanoseconds since 1970")
    return parse_time(str(value), what="at")
