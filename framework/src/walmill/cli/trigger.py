"""`create|show|enable|disable|run|delete trigger`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import database_option, format_option, server_options, shown_format_option
from walmill.cli.output import Columns, cell, clean, pairs, records, say
from walmill.cli.progress import Bar
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    from walmill.cli.client import Client

_SEVERAL = re.compile(r",\s*[A-Za-z_][\w-]*=")


def parse_arguments(given: Sequence[str]) -> dict[str, str]:
    """Arguments from `name=value`, split at the first `=` only: the value arrives as it is given.

    Raises:
        UsageError: One lacks its `=` or its name, or a name comes twice.
    """
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        name = name.strip()
        if not equals or not name:
            raise click.UsageError(f"the argument {one!r} is not NAME=VALUE")
        if name in found:
            raise click.UsageError(f"the argument {name!r} is given twice")
        found[name] = value
    return found


@click.command()
@database_option()
@click.option(
    "--plugin",
    "--plugin-filename",
    "plugin",
    metavar="NAME",
    help="The plugin, by name, or its file in the plugin directory.",
)
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    help="The same, by InfluxDB's name; with --upload a file or a directory on this machine.",
)
@click.option("--upload", is_flag=True, help="Upload what --path names into the server's plugin directory first.")
@click.option(
    "--trigger-spec",
    required=True,
    metavar="SPEC",
    help="The event: table:NAME, all_tables, every:DURATION, cron:EXPRESSION, request:PATH, service, snapshot.",
)
@click.option("--arg", "args", multiple=True, metavar="NAME=VALUE", help="An argument for the plugin. May be repeated.")
@click.option(
    "--trigger-arguments",
    "more_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="The same, by InfluxDB's name: one argument each.",
)
@click.option(
    "--error-policy",
    "--error-behavior",
    "error_policy",
    type=click.Choice(("retry", "skip", "disable", "log")),
    help="What a failed run means; log is skip. Else retry.",
)
@click.option("--executor", metavar="process|inline", help="Where its hooks run; else as the server is set.")
@click.option("--jitter", metavar="DURATION", help="Up to how long after its due time a schedule runs; else 0.")
@click.option("--timeout", metavar="DURATION|none", help="How long a run may take; then its process is killed.")
@click.option("--memory", metavar="SIZE|none", help="Memory that a run may use, with all that it starts.")
@click.option("--cpu", metavar="SHARE|none", help="Share of one processor that it may use, such as 0.5.")
@click.option("--cpu-time", metavar="DURATION|none", help="Processor time that a run may use.")
@click.option("--max-rows", "rows", metavar="N", help="Rows that a run may write.")
@click.option("--max-log-lines", "log_lines", metavar="N", help="Lines that a run may log.")
@click.option("--max-answer-size", "answer_size", metavar="SIZE", help="Bytes that an answer to a request may have.")
@click.option("--methods", metavar="GET,POST", help="HTTP methods of a request trigger; else GET,POST.")
@click.option("--max-concurrency", type=click.IntRange(1, 256), help="Runs at a time; else 1, and 4 for requests.")
@click.option("--max-batch-rows", type=click.IntRange(1, 10_000_000), help="About how many rows a batch holds.")
@click.option("--max-batch-wait", metavar="DURATION", help="How long a batch with fewer rows waits for more; else 0.")
@click.option("--attempts", type=click.IntRange(1, 1000), help="Attempts that the policy retry makes.")
@click.option(
    "--breaker", type=click.IntRange(0), metavar="N", help="Failures in a row after which it is paused; 0 for never."
)
@click.option("--run-asynchronous", is_flag=True, help="InfluxDB's way to say --max-concurrency 4.")
@click.option(
    "--from", "start", metavar="start|SEQ|TIME", help="Where on_write begins; else with what is written from now on."
)
@click.option(
    "--derived", is_flag=True, help="Let all_tables and patterns see rows that other on_write triggers wrote."
)
@click.option("--disabled", is_flag=True, help="Create it without starting it.")
@click.argument("name")
@server_options
def create_trigger(
    *,
    client: Client,
    database: str,
    plugin: str | None,
    path: Path | None,
    upload: bool,
    trigger_spec: str,
    args: tuple[str, ...],
    more_args: tuple[str, ...],
    error_policy: str | None,
    executor: str | None,
    jitter: str | None,
    methods: str | None,
    max_concurrency: int | None,
    max_batch_rows: int | None,
    max_batch_wait: str | None,
    attempts: int | None,
    breaker: int | None,
    run_asynchronous: bool,
    start: str | None,
    derived: bool,
    disabled: bool,
    name: str,
    **limits: str | None,
) -> int:
    """Create the trigger NAME: bind a plugin to an event in a database."""
    arguments = parse_arguments([*args, *more_args])
    for one in more_args:
        if _SEVERAL.search(one):
            first = one.partition("=")[0]
            click.echo(
                f"Note: the argument {first!r} got all of {one.partition('=')[2]!r}; for more arguments repeat the option",
                err=True,
            )
    if (plugin is None) == (path is None):
        raise click.UsageError("say which plugin it is with --plugin or with --path")
    if upload:
        if path is None:
            raise click.UsageError("--upload needs --path, which says what is uploaded")
        from walmill.cli import plugin_files

        uploaded = plugin_files.upload(client, path)
        code = plugin_files.say(uploaded)
        if code:
            return code
        if "plugins" in uploaded:
            raise InvalidRequest(
                f"{path} has the plugins {', '.join(uploaded['plugins'])}; create the trigger with --plugin and one of them"
            )
        plugin = str(uploaded["name"])
    body: dict[str, Any] = {
        "db": database,
        "plugin": str(path) if plugin is None else plugin,
        "trigger_name": name,
        "trigger_specification": trigger_spec,
        "disabled": disabled,
    }
    settings: dict[str, Any] = {}
    if run_asynchronous:
        settings["run_async"] = True
    if error_policy is not None:
        settings["error_behavior"] = error_policy
    if settings:
        body["trigger_settings"] = settings
    if arguments:
        body["trigger_arguments"] = arguments
    if methods is not None:
        body["methods"] = [method.strip().upper() for method in methods.split(",") if method.strip()]
    if max_concurrency is not None:
        body["max_concurrency"] = max_concurrency
    more = {
        "max_batch_rows": max_batch_rows,
        "max_batch_wait": max_batch_wait,
        "jitter": jitter,
        "attempts": attempts,
        "breaker": breaker,
    }
    body.update({member: value for member, value in more.items() if value is not None})
    if start is not None:
        body["from"] = start
    if derived:
        body["derived"] = True
    if executor is not None:
        body["executor"] = executor
    asked = {limit: value for limit, value in limits.items() if value is not None}
    if asked:
        body["limits"] = asked
    made = client.create_trigger(body)
    click.echo(f"Trigger {name} created successfully")
    for number, due in enumerate(made.get("next", ())):
        same = due["local"].removesuffix("+00:00") == due["utc"].removesuffix("Z")
        click.echo(f"{'next' if number == 0 else '    '}  {due['utc']}" + ("" if same else f"  ({due['local']})"))
    _warn(made.get("warning"))
    return 0


def _warn(warning: str | None) -> None:
    if warning:
        click.echo(f"Warning: {clean(warning)}", err=True)


def _event(row: Mapping[str, Any]) -> str:
    methods = row.get("methods")
    return f"{row.get('trigger_specification')}" + (f" ({','.join(methods)})" if methods else "")


def _state(row: Mapping[str, Any]) -> str:
    reason = row.get("reason")
    state = str(row.get("state") or ("disabled" if row.get("disabled") else "enabled"))
    return f"{state}: {_first_line(str(reason))}" if reason else state


def _behind(row: Mapping[str, Any]) -> str:
    seconds = row.get("lag_seconds")
    return "" if seconds is None else f"{seconds:.1f} s"


def _first_line(text: str) -> str:
    line = text.strip().split("\n")[0]
    return line if len(line) <= 60 else f"{line[:59]}…"


@click.command()
@database_option(required=False)
@format_option
@server_options
def show_triggers(*, client: Client, database: str | None, output_format: str) -> None:
    """List the triggers of a database, or of all."""
    columns: Columns = {
        "database": "database",
        "trigger": "trigger_name",
        "plugin": "plugin",
        "event": _event,
        "state": _state,
        "executor": "executor",
        "errors": "error_behavior",
        "running": "running",
        "lag": "lag_commits",
        "behind": _behind,
    }
    where = "" if database is None else f" in the database {database!r}"
    say(records(client.triggers(database), columns, output_format, empty=f"There is no trigger{where}."))


@click.command()
@database_option()
@shown_format_option
@click.argument("name")
@server_options
def show_trigger(*, client: Client, database: str, output_format: str, name: str) -> None:
    """Show all about the trigger NAME. Secrets among its arguments are hidden."""
    found = client.trigger(database, name)
    if output_format == "json":
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    lines: list[tuple[str, Any]] = []
    for member, value in found.items():
        if member == "traceback" or value is None:
            continue
        if member in ("trigger_arguments", "limits") and isinstance(value, dict):
            what = "argument" if member == "trigger_arguments" else "limit"
            lines += [(f"{what} {name}", one) for name, one in value.items()]
        elif member in ("created_at", "last_fired", "next_due", "last_error_at") and isinstance(value, int):
            from walmill.units import format_time

            lines.append((member, format_time(value)))
        elif isinstance(value, list):
            lines.append((member, ", ".join(cell(one) for one in value) or "none"))
        else:
            lines.append((member, value))
    say(pairs(lines))
    if found.get("traceback"):
        click.echo(f"\n{clean(str(found['traceback'])).rstrip()}")


@click.command()
@database_option()
@click.argument("name")
@server_options
def enable_trigger(*, client: Client, database: str, name: str) -> None:
    """Enable the trigger NAME, whether a person, its error policy or the engine stopped it."""
    warning = client.enable_trigger(database, name)
    click.echo(f"Trigger {name} enabled successfully")
    _warn(warning)


@click.command()
@database_option()
@click.argument("name")
@server_options
def disable_trigger(*, client: Client, database: str, name: str) -> None:
    """Disable the trigger NAME; it goes on from the same place when it is enabled again."""
    client.disable_trigger(database, name)
    click.echo(f"Trigger {name} disabled successfully")


@click.command()
@database_option()
@click.option("--force", is_flag=True, help="Delete it even if it is enabled.")
@click.argument("name")
@server_options
def delete_trigger(*, client: Client, database: str, force: bool, name: str) -> None:
    """Delete the trigger NAME with what its plugin remembers."""
    client.delete_trigger(database, name, force=force)
    click.echo(f"Trigger {name} deleted successfully")


@click.command()
@database_option()
@click.option(
    "--at", metavar="TIME", help="The due time that a schedule is told, such as 2026-01-31T09:30:00Z; else now."
)
@click.option("-X", "--method", help="The HTTP method of a request; else the first one of the trigger.")
@click.option("--path", metavar="PATH", help="The path of a request, with its query string; else that of the trigger.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of a request. May be repeated."
)
@click.option("--body", metavar="TEXT|@FILE", help="The body of a request.")
@shown_format_option
@click.argument("name")
@server_options
def run_trigger(
    *,
    client: Client,
    database: str,
    at: str | None,
    method: str | None,
    path: str | None,
    headers: tuple[str, ...],
    body: str | None,
    output_format: str,
    name: str,
) -> int:
    """Run the trigger NAME now: a schedule, or one that answers requests. Exits with 1 if that fails.

    What a request trigger answers is printed as it is; `plugin test request` shows what a request would do.
    """
    found = client.trigger(database, name)
    spec = str(found["trigger_specification"])
    if not spec.startswith("request:"):
        if method or path or headers or body is not None:
            raise click.UsageError(
                f"the trigger {name!r} is bound to {spec!r}; --method, --path, --header, --body are for requests"
            )
        return _run_schedule(client, database, name, at, output_format)
    if at is not None:
        raise click.UsageError(f"the trigger {name!r} answers requests; --at is for schedules")
    below = path if path is not None else spec.removeprefix("request:")
    if "{" in below:
        raise click.UsageError(f"the path {below!r} has parameters; give one that fits it with --path")
    with client.stream(
        method or found["methods"][0],
        f"/api/v3/engine/{below.lstrip('/')}",
        content=None if body is None else body_of(body),
        headers=dict(headers_of(headers)),
        refuse=False,
    ) as response:
        for piece in client.pieces(response):
            click.echo(piece, nl=False)
    if response.status_code >= 400:
        click.echo(f"Error: the trigger {name} answered {response.status_code}", err=True)
        return 1
    return 0


def headers_of(given: Sequence[str]) -> list[tuple[str, str]]:
    """Headers from `NAME:VALUE`.

    Raises:
        UsageError: One is something else.
    """
    pairs = []
    for one in given:
        name, colon, value = one.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"the header {one!r} is not NAME:VALUE")
        pairs.append((name.strip(), value.strip()))
    return pairs


def body_of(given: str) -> bytes:
    """A body from text, or from a file behind `@`."""
    return Path(given[1:]).read_bytes() if given.startswith("@") else given.encode("utf-8", "surrogateescape")


def _run_schedule(client: Client, database: str, name: str, at: str | None, output_format: str) -> int:
    ran = client.run_trigger(database, name, at=at)
    succeeded = ran.get("status") == "ok"
    if output_format == "json":
        click.echo(json.dumps(ran, ensure_ascii=False, indent=2))
    elif succeeded:
        sequence = ran.get("sequence")
        wrote = "it changed nothing" if sequence is None else f"committed as {sequence}"
        click.echo(f"Trigger {name} ran successfully ({wrote}, run {ran.get('run_id')})")
    else:
        said = f": {_first_line(str(ran['error']))}" if ran.get("error") else ""
        text = (
            f"the run {ran.get('run_id')} of the trigger {name} ended as {ran.get('status')}{said}; "
            "see the table runs in _internal"
        )
        click.echo(f"Error: {clean(text)}", err=True)
    return 0 if succeeded else 1


@click.command()
@database_option()
@click.option("--from", "start", metavar="start|SEQ|TIME|dead-letters", help="Where it begins.")
@click.option(
    "--to", metavar="SEQ|TIME", help="Where it ends, and goes on where the trigger is now; else all it has had."
)
@click.option("--detach", is_flag=True, help="Do not wait for its end. It goes on in the server, also after a restart.")
@click.option("--stop", is_flag=True, help="End a replay where it is; the trigger goes on with what is new.")
@click.argument("name")
@server_options
def replay_trigger(
    *, client: Client, database: str, start: str | None, to: str | None, detach: bool, stop: bool, name: str
) -> None:
    """Have the on_write trigger NAME go through rows again. The plugin is told that it is a replay.

    What the log has comes commit by commit; what it has not got any more comes from files, as the tables have it. Rows that were
    given up are given again from the dead letters, once.
    """
    if stop:
        if start or to or detach:
            raise click.UsageError("--stop ends a replay; leave the other options out")
        ended = client.stop_replay(database, name)
        click.echo(f"Trigger {name} replays no more" if ended else f"Trigger {name} was not replaying")
        return
    if start is None:
        raise click.UsageError("say where it begins: --from start, a sequence, a time, or dead-letters")
    asked = client.replay_trigger(database, name, start=start, to=to)
    if "letters" in asked:
        for why in asked["refused"][:20]:
            click.echo(f"cannot be given again: {clean(why)}", err=True)
        count = f"{asked['rows']:,} row{'' if asked['rows'] == 1 else 's'}"
        click.echo(f"Trigger {name} is given {count} again from {asked['letters']:,} dead batches")
        if not detach and asked["through"] is not None:
            _wait(client, database, name, asked["through"] - 1, asked["through"])
        return
    first, last = int(asked["from"]), int(asked["to"])
    click.echo(f"Trigger {name} replays the commits {first} to {last}")
    if detach:
        return
    if asked["backfill"]:
        with Bar(asked["backfill"], "files") as bar:
            while (job := _enabled(client, database, name).get("backfill")) is not None:
                bar.at(min(asked["backfill"], job["rows"]))
                time.sleep(0.1)
            bar.at(asked["backfill"])
    _wait(client, database, name, first, last)
    click.echo(f"Trigger {name} has replayed the commits {first} to {last}")


def _enabled(client: Client, database: str, name: str) -> dict[str, Any]:
    """The trigger, as long as it goes on."""
    found = client.trigger(database, name)
    if found["state"] != "enabled":
        raise click.ClickException(
            f"the trigger {name} is {found['state']} at the commit {found['through']}: {found['reason']}; "
            "the replay goes on when it is enabled again"
        )
    return found


def _wait(client: Client, database: str, name: str, first: int, last: int) -> None:
    """Waits until a trigger is through a part of the log."""
    with Bar(last - first + 1, "replay") as bar:
        while True:
            found = _enabled(client, database, name)
            bar.at(max(0, min(last, found["through"]) - first + 1))
            # without commits that concern it its cursor may stay before the last one
            if found["through"] >= last or (not found["running"] and not found["lag_commits"]):
                return
            time.sleep(0.1)
