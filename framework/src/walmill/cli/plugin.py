"""`plugin list|show|new` for this machine, `show plugins` for a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import format_option, server_options
from walmill.cli.output import Columns, pairs, records, say, table
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    from walmill.cli.client import Client
    from walmill.plugins import PluginDescription

HOOKS = ("write", "schedule", "request")


def _installed() -> list[PluginDescription]:
    """What is installed here, with what the settings say about it."""
    from walmill.cli.serve import settings_from
    from walmill.isolation.inspect import inspect_entries
    from walmill.plugins import Registry

    settings = settings_from(None, {})
    return Registry(
        disabled=settings.disabled_plugins, allowed=settings.allowed_plugins, inspector=inspect_entries
    ).inspect_all()


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
    "cause": "cause",
}
_EMPTY = "No plugin is installed; `walmill plugin new` starts one, and `pip install walmill-downsample` installs one."


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 if one is broken.")
@format_option
def list_plugins(*, strict: bool, output_format: str) -> int:
    """List the plugins that are installed here; a broken one says why."""
    found = _installed()
    say(records([one.to_json() for one in found], _COLUMNS, output_format, empty=_EMPTY))
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
    say(records(client.plugins(), _COLUMNS, output_format, empty="The server has no plugin."))


@click.command()
@click.option("--format", "output_format", type=click.Choice(("pretty", "json")), default="pretty", show_default=True)
@click.argument("name")
def show_plugin(*, output_format: str, name: str) -> int:
    """Show the installed plugin NAME with its settings. Exits with 1 if it is broken."""
    from walmill.cli.serve import settings_from
    from walmill.isolation.inspect import inspect_entries
    from walmill.plugins import Registry

    settings = settings_from(None, {})
    found = Registry(
        disabled=settings.disabled_plugins, allowed=settings.allowed_plugins, inspector=inspect_entries
    ).inspect(name)
    shown = found.to_json()
    if output_format == "json":
        click.echo(json.dumps(shown, ensure_ascii=False, indent=2, default=str))
    else:
        lines = {
            "name": found.name,
            "what": found.summary or None,
            "distribution": f"{found.distribution or 'none'} {found.version or ''}".strip(),
            "entry point": found.value,
            "hooks (* async)": _hooks(shown),
            "status": found.status,
            "cause": found.cause,
        }
        say(pairs((label, value) for label, value in lines.items() if value is not None))
        click.echo()
        say(_settings(shown.get("settings")))
    return 1 if found.status == "broken" else 0


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
