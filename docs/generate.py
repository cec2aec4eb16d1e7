"""Writes the generated pages of the reference: hooks, settings, commands, routes, metrics. `--check` tells which are stale."""

from __future__ import annotations

import inspect
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from walmill.cli.main import cli
from walmill.engine import Engine
from walmill.http.health import EngineCollector
from walmill.http.openapi import document
from walmill.http.operations import MEANINGS, OPERATIONS
from walmill.settings.model import SETTINGS
from walmill_hookspecs import specs
from walmill_hookspecs._markers import PROJECT

HERE = Path(__file__).parent / "reference"


def hooks() -> str:
    """The page of the hooks, from their docstrings."""
    parts = ["# Hooks\n\nGenerated from `walmill_hookspecs.specs` by `docs/generate.py`.\n"]
    for name, hook in vars(specs).items():
        if not hasattr(hook, f"{PROJECT}_spec"):
            continue
        arguments = ", ".join(inspect.signature(hook).parameters)
        summary, _, rest = (inspect.getdoc(hook) or "").partition("\n\n")
        parts.append(f"## {name}({arguments})\n\n{summary}\n")
        options = getattr(hook, f"{PROJECT}_spec")
        for gone in (options.get("warn_on_impl"), *(options.get("warn_on_impl_args") or {}).values()):
            if gone is not None:
                parts.append(f"**Deprecated**: {gone}.\n")
        for line in rest.split("\n"):
            if line and not line.startswith(" "):
                key, _, text = line.partition(":")
                parts.append(f"- **{key}**:{text}")
            elif line:
                parts[-1] += f" {line.strip()}"
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def settings() -> str:
    """The page of the server's settings."""
    rows = [
        "# Settings of the server\n\nGenerated from `walmill.settings.model` by `docs/generate.py`. A flag wins over the "
        "environment, which wins over\n`walmill.toml`, which wins over the default; `walmill config show --sources` says where "
        "each value came from.\n",
        "| setting | flag | environment | default | what |\n|---|---|---|---|---|",
    ]
    for info in SETTINGS.values():
        shown = info.show(info.default) or "–"
        rows.append(f"| `{info.name}` | `{info.flag}` | `{info.environment}` | `{shown}` | {info.description} |")
    return "\n".join(rows) + "\n"


def commands() -> str:
    """The page of the command line, from what the commands say of themselves."""
    parts = [
        "# The command line\n\nGenerated from the commands by `docs/generate.py`. Exit codes: 0; 1, it failed, or lines were "
        "refused; 2, it was\ncalled wrongly; 130, Ctrl-C.\n"
    ]
    for name, command in _leaves(cli, "walmill"):
        arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
        parts.append(f"## {' '.join([name, *arguments])}\n\n{inspect.cleandoc(command.help or '')}\n")
        if name == "walmill serve":
            parts.append("Its options are the [settings of the server](settings.md), and `--config PATH`.\n")
            continue
        rows = [_option(option) for option in command.params if isinstance(option, click.Option)]
        if rows:
            parts.append("\n".join(["| option | default | what |\n|---|---|---|", *rows]) + "\n")
    return "\n".join(parts).rstrip() + "\n"


def _leaves(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{path} {name}")
        elif command is not None:
            yield f"{path} {name}", command


def _option(option: click.Option) -> str:
    """A row for an option; the choices of one are part of what it is."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    what = option.help or ""
    if isinstance(option.type, click.Choice):
        what += f" One of {', '.join(map(str, option.type.choices))}."
    if option.envvar:
        what += f" Environment: {option.envvar}."
    default = option.default if option.show_default else None
    shown = option.opts[0] if default is True else option.secondary_opts[0] if default is False else default
    cells = (f"`{names}`", "–" if shown is None else f"`{shown}`", what)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def routes() -> str:
    """The page of all routes."""
    parts = [
        "# All routes\n\nGenerated from `walmill.http.operations` by `docs/generate.py`; [openapi.json](openapi.json) says the "
        "same to machines,\nand a server answers it to `GET /api/v3/openapi.json`. What a route takes stands in the query "
        "string, or, where the method\nhas a body, in a JSON object as well. **Bold** has to be there. [HTTP](http.md) tells "
        "what the answers mean.\n"
    ]
    for shelf, found in itertools.groupby(OPERATIONS, lambda one: one.shelf):
        parts.append(f"## {shelf}\n\n| route | what | takes |\n|---|---|---|")
        for one in found:
            takes = ", ".join(f"**`{name}`**" if name in one.required else f"`{name}`" for name in one.members)
            parts.append(f"| `{one.method} {one.path}` | {one.summary} | {takes or '–'} |")
        parts.append("")
    parts.append("## What they take\n\n| name | type | what |\n|---|---|---|")
    parts += [f"| `{name}` | {kind} | {what.replace('|', chr(92) + '|')} |" for name, (kind, what) in MEANINGS.items()]
    return "\n".join(parts) + "\n"


def openapi() -> str:
    """The routes for machines."""
    return json.dumps(document(), indent=1) + "\n"


def metrics() -> str:
    """The page of the metrics, from those of an engine."""
    with tempfile.TemporaryDirectory() as place, Engine.open(data_dir=place, discover_plugins=False) as engine:
        found = [
            (one.name + ("_total" if one.type == "counter" else ""), one.type, one._labelnames, one.documentation)
            for one in EngineCollector(engine).collect()
        ]
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '–'} | {text} |"
        for name, kind, labels, text in sorted(found)
    ]
    return "\n".join(
        [
            "# Metrics\n\nGenerated from `walmill.http.health` by `docs/generate.py`. `GET /metrics` answers them for "
            "Prometheus, with those of the\nprocess (`process_…`).\n\n| metric | type | labels | what |\n|---|---|---|---|",
            *rows,
            "",
        ]
    )


PAGES = {
    "hooks.md": hooks,
    "settings.md": settings,
    "cli.md": commands,
    "routes.md": routes,
    "metrics.md": metrics,
    "openapi.json": openapi,
}


def main() -> int:
    """Writes the pages, or checks them."""
    stale = []
    for name, make in PAGES.items():
        page = HERE / name
        if "--check" in sys.argv:
            if not page.exists() or page.read_text(encoding="utf-8") != make():
                stale.append(name)
        else:
            page.write_text(make(), encoding="utf-8")
    for name in stale:
        print(f"docs/reference/{name} is not current; run: uv run python docs/generate.py")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
