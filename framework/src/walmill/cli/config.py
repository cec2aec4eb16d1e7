"""`walmill config show`: the settings as a server started here would have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from walmill.cli.options import shown_format_option
from walmill.cli.output import pairs, say, table
from walmill.cli.serve import settings_from, settings_options
from walmill.settings.model import SETTINGS, Settings
from walmill.settings.triggers import TriggerEntry


@click.command()
@click.option("--sources", is_flag=True, help="Say where each value came from.")
@shown_format_option
@settings_options
def show(*, sources: bool, output_format: str, config: Path | None, **flags: Any) -> None:
    """Show the settings that `walmill serve` would have with the same flags, environment and file.

    What plugins are told in [[trigger]] tables may be secret and is hidden.
    """
    settings = settings_from(config, flags)
    if output_format == "json":
        click.echo(json.dumps(_as_json(settings, sources), ensure_ascii=False, indent=2))
        return
    rows = [(name, info.show(getattr(settings, name)), str(settings.source(name))) for name, info in SETTINGS.items()]
    if sources:
        say(table(["setting", "value", "source"], rows))
    else:
        say(pairs([(name, value) for name, value, _ in rows]))
    for trigger in settings.triggers:
        click.echo(f"\ntrigger {trigger.name!r}" + (f" ({settings.config_file})" if sources else ""))
        say(pairs([(f"  {name}", value) for name, value in _trigger(trigger).items()]))


def _trigger(entry: TriggerEntry) -> dict[str, Any]:
    """A trigger with its arguments hidden, but for references to where a secret is."""
    shown = {name: list(value) if isinstance(value, tuple) else value for name, value in entry.members().items()}
    shown["arguments"] = {
        name: value if isinstance(value, str) and value.startswith(("env:", "file:")) else "***"
        for name, value in entry.arguments.items()
    }
    return shown


def _as_json(settings: Settings, sources: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in SETTINGS:
        value = getattr(settings, name)
        value = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        source = settings.source(name)
        values[name] = {"value": value, "origin": source.origin, "from": source.name or None} if sources else value
    values["trigger"] = [_trigger(entry) for entry in settings.triggers]
    return values
