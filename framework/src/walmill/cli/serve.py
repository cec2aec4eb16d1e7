"""`walmill serve`: settings from all their sources, logs, then the server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from walmill.settings.load import CONFIG_VARIABLE, load_settings, unknown_variables
from walmill.settings.model import CONFIG_FILE, SETTINGS, SettingInfo, Settings

F = TypeVar("F", bound=Callable[..., Any])

_METAVARS = {
    "part": "SHARE",
    "path": "PATH",
    "store": "PATH|URL",
    "address": "HOST:PORT",
    "name": "NAME",
    "int": "N",
    "size": "SIZE",
    "share": "SIZE|PERCENT",
    "duration": "DURATION",
    "names": "NAMES",
}


def settings_options(command: F) -> F:
    """Adds `--config` and a flag for each setting; the command gets them as `config` and by name."""
    for info in reversed(list(SETTINGS.values())):
        command = _option(info)(command)
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"Settings file; else {CONFIG_VARIABLE}, else {CONFIG_FILE} in the current directory if it is there.",
    )(command)


def _option(info: SettingInfo) -> Callable[[F], F]:
    text = f"{info.description} [{info.environment}; default: {info.show(info.default) or 'none'}]"
    if info.kind == "bool":
        return click.option(f"{info.flag}/{info.negative}", info.name, default=None, help=text)
    if info.kind == "names":
        return click.option(info.flag, info.name, multiple=True, metavar="NAME[,NAME...]", help=text)
    metavar = "|".join(info.choices) if info.choices else _METAVARS[info.kind]
    return click.option(info.flag, info.name, metavar=metavar, help=text)


def settings_from(config: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings of this process: flags, environment, file, defaults.

    Raises:
        InvalidRequest: With all problems at once.
    """
    return load_settings(flags=flags, environ=os.environ, config_file=config, directory=Path.cwd())


@click.command()
@settings_options
def serve(*, config: Path | None, **flags: Any) -> int | None:
    """Start the server.

    A flag goes before the environment, the environment before the settings file, and that before the default.
    """
    settings = settings_from(config, flags)
    from walmill.observe.log import configure, get_logger

    configure(level=settings.log_level, style=settings.log_format)
    for problem in unknown_variables(os.environ):
        get_logger("walmill.serve").warning("a variable of the environment is no setting", problem=problem)
    from walmill.http.server import run

    return run(settings)
