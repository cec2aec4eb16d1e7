"""`plugin list|show|new` for this machine, `show plugins` for a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import database_option, format_option, server_options, shown_format_option
from walmill.cli.output import Columns, pairs, records, say, table
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    from walmill.cli.client import Client
    from walmill.plugins import Registry

HOOKS = ("write", "schedule", "request", "service", "snapshot")


def _here() -> Registry:
    """What is here, with what the settings say about it."""
    from walmill.cli.here import registry_of
    from walmill.cli.serve import settings_from

    return registry_of(settings_from(None, {}))


def _hooks(row: Mapping[str, Any]) -> str:
    """The hooks of a plugin; `*` marks those that are `async def`."""
    hooks = row.get("hooks") or {}
    return ", ".join(f"{name}*" if hooks[name] is True else name for name in hooks)


_COLUMNS: Columns = {
    "name": "name",
    "distribution": "distribution",
    "version": "version",
    "hooks (* async)": _hooks,
    "status": "status",
    "cause": lambda row: row.get("cause") or row.get("problem") or "; ".join(row.get("deprecated") or ()) or None,
}
_OF_SERVER: Columns = {**_COLUMNS, "used by": lambda row: ", ".join(row.get("triggers") or ())}
_EMPTY = "No plugin is installed; `walmill plugin new` starts one, and `pip install walmill-downsample` installs one."


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 if one is broken.")
@format_option
def list_plugins(*, strict: bool, output_format: str) -> int:
    """List the plugins that are installed here or in the plugin directory; a broken one says why."""
    registry = _here()
    found = registry.inspect_all()
    rows = [{**one.to_json(), "hash": registry.code(one.name)[1]} for one in found]
    say(records(rows, _COLUMNS, output_format, empty=_EMPTY))
    broken = [one.name for one in found if one.status == "broken"]
    if strict and broken:
        click.echo(
            f"Error: {', '.join(broken)} {'is' if len(broken) == 1 else 'are'} broken; the cause stands in the list",
            err=True,
        )
        return 1
    return 0


@click.command()
@format_option
@server_options
def show_plugins(*, client: Client, output_format: str) -> None:
    """List the plugins that the server knows."""
    say(records(client.plugins(), _OF_SERVER, output_format, empty="The server has no plugin."))


@click.command()
@shown_format_option
@click.argument("name")
@server_options
def show_of_server(*, client: Client, output_format: str, name: str) -> int:
    """Show the plugin NAME as the server has it: its files, and the triggers that use it. Exits with 1 if it is broken."""
    shown = client.plugin(name)
    if output_format == "json":
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2))
    else:
        _say_plugin(shown)
    return 1 if shown["status"] == "broken" else 0


@click.command()
@shown_format_option
@click.argument("name")
def show_plugin(*, output_format: str, name: str) -> int:
    """Show the installed plugin NAME with its settings. Exits with 1 if it is broken."""
    registry = _here()
    found = registry.inspect(name)
    shown = {**found.to_json(), "hash": registry.code(name)[1]}
    if output_format == "json":
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2, default=str))
    else:
        _say_plugin(shown)
    return 1 if found.status == "broken" else 0


def _say_plugin(shown: Mapping[str, Any]) -> None:
    parameters = shown.get("parameters") or {}
    hooks = shown.get("hooks") or {}
    lines: list[tuple[str, Any]] = [
        ("name", shown["name"]),
        ("what", shown.get("summary") or None),
        ("distribution", f"{shown.get('distribution') or 'none'} {shown.get('version') or ''}".strip()),
        ("location", shown.get("location")),
        ("entry point", shown.get("value")),
        ("hash", shown.get("hash")),
        *(
            ("hook", f"{'async ' if hooks[name] is True else ''}{name}({', '.join(parameters.get(name, ()))})")
            for name in hooks
        ),
        *(
            ("suggests", f"{one['name']} ({one['spec']})" + (f": {one['description']}" if one["description"] else ""))
            for one in shown.get("suggests") or ()
        ),
        ("status", shown.get("status")),
        ("cause", shown.get("cause")),
        ("problem", shown.get("problem")),
        *(("deprecated", one) for one in shown.get("deprecated") or ()),
        *(("used by", one) for one in shown.get("triggers") or ()),
        *(("file", f"{one['file_path']} ({one['size_bytes']:,} bytes)") for one in shown.get("files") or ()),
    ]
    say(pairs((label, value) for label, value in lines if value is not None))
    click.echo()
    say(_settings(shown.get("settings")))


@click.command()
@database_option()
@click.option(
    "--arg", "args", multiple=True, metavar="NAME=VALUE", help="An argument for all of them. May be repeated."
)
@click.option("--only", multiple=True, metavar="TRIGGER", help="Only this one. May be repeated.")
@click.argument("name")
@server_options
def enable_plugin(*, client: Client, database: str, args: tuple[str, ...], only: tuple[str, ...], name: str) -> None:
    """Create the triggers that the plugin NAME suggests, those that are not there yet. `show plugin` says what they are."""
    from walmill.cli.trigger import parse_arguments

    made = client.enable_plugin(name, database, parse_arguments(args), only)
    for one in made["created"]:
        click.echo(f"Trigger {one} created successfully")
    for one in made["there"]:
        click.echo(f"Trigger {one} is there already")


def _settings(settings: Sequence[Mapping[str, Any]] | None) -> str:
    if settings is None:
        return "It does not say which settings it has: all arguments reach it as text."
    if not settings:
        return "It has no settings."
    rows = []
    for one in settings:
        kind = f"list of {one['kind']}" if one.get("many") else str(one["kind"])
        if one.get("choices"):
            kind += f" ({'|'.join(one['choices'])})"
        default = "required" if one.get("required") else json.dumps(one.get("default"), ensure_ascii=False, default=str)
        rows.append([str(one["name"]), kind, default, str(one.get("description") or "")])
    return table(["setting", "type", "default", "description"], rows)


@click.command()
@click.option(
    "--name",
    default="my-plugin",
    show_default=True,
    help="Its name, such as spike-filter; the package is walmill-NAME.",
)
@click.option(
    "--hooks",
    default="write",
    show_default=True,
    metavar="HOOK[,HOOK...]",
    help=f"What it reacts to: {', '.join(HOOKS)}.",
)
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the directory of the package is made; else here.",
)
@click.option("--no-input", is_flag=True, help="Ask nothing; take what is given here, and the defaults.")
def new_plugin(*, name: str, hooks: str, output_dir: Path, no_input: bool) -> None:
    """Start a plugin package from the template: code, tests, and all that pip needs."""
    wanted = tuple(dict.fromkeys(hook.strip() for hook in hooks.split(",") if hook.strip()))
    wrong = [hook for hook in wanted if hook not in HOOKS]
    if wrong or not wanted:
        raise InvalidRequest(
            f"the hooks {hooks!r} are not of {', '.join(HOOKS)}; give one or several, separated by commas"
        )
    from walmill.scaffold import plugin_name, render

    made = render(name=name, hooks=wanted, output_dir=output_dir, no_input=no_input)
    name = plugin_name(made)
    pip = "pip" if find_spec("pip") else "uv pip"  # what uv makes has no pip, and another one would install elsewhere
    click.echo(
        f"Plugin {name} created in {made}\n\n  {pip} install -e {made}\n  walmill plugin show {name}\n  pytest {made}"
    )
