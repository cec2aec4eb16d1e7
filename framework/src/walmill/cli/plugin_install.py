"""`plugin install|upgrade|rollback|outdated|sync`, `install package`: what plugins need, on the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from walmill.cli.options import format_option, server_options
from walmill.cli.output import Columns, clean, records, say

if TYPE_CHECKING:
    from walmill.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def wheels_option(command: F) -> F:
    """Adds `--wheels`."""
    return click.option(
        "--wheels",
        type=click.Path(path_type=Path),
        help="A directory of the server's machine with wheels: nothing is asked for over the network.",
    )(command)


def _followed(said: Iterator[dict[str, Any]]) -> Any:
    """What a piece of work came to; what it says meanwhile goes to standard error."""
    for one in said:
        if "done" in one:
            return one["done"]
        click.echo(clean(str(one.get("line", ""))), err=True)
    raise AssertionError("the client tells the end, or raises")


def _whole(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def _source(text: str) -> str:
    """A source as the server needs it: a path of this machine as a whole one."""
    here = "://" not in text and ("/" in text or text.endswith(".whl") or text in (".", ".."))
    return str(Path(text).expanduser().absolute()) if here else text


def _what(made: dict[str, Any]) -> str:
    version = made.get("version") or ""
    commit = f"commit {made['commit'][:12]}" if made.get("commit") else ""
    return " ".join(part for part in (version, commit) if part) or str(made["source"])


@click.command()
@wheels_option
@click.argument("source")
@server_options
def install_plugin(*, client: Client, wheels: Path | None, source: str) -> None:
    """Install the plugin at SOURCE on the server, in an environment of its own with what it needs.

    SOURCE is NAME or NAME==VERSION of an index, git+https://…@REF, file:///…@REF (with #subdirectory=…), or a path of the
    server's machine.
    """
    made = _followed(client.install(_source(source), _whole(wheels)))
    click.echo(
        f"Plugin{'' if len(made['plugins']) == 1 else 's'} {', '.join(made['plugins'])} installed ({_what(made)})"
    )


@click.command()
@wheels_option
@click.option("--all", "all_of_them", is_flag=True, help="All that are outdated.")
@click.argument("names", nargs=-1)
@server_options
def upgrade_plugin(*, client: Client, wheels: Path | None, all_of_them: bool, names: tuple[str, ...]) -> None:
    """Install what the sources of the environments NAMES have now. Runs that have begun end with what they began with."""
    if bool(names) == all_of_them:
        raise click.UsageError("name what is to be upgraded, or say --all")
    if all_of_them:
        names = tuple(one["name"] for one in _followed(client.outdated(_whole(wheels))))
    for name in names:
        made = _followed(client.upgrade(name, _whole(wheels)))
        click.echo(f"{name} is {'now ' if made['changed'] else 'still the newest: '}{_what(made)}")
    if not names:
        click.echo("Nothing is outdated.")


@click.command()
@click.argument("name")
@server_options
def rollback_plugin(*, client: Client, name: str) -> None:
    """Use the version again that the environment NAME had before its last upgrade."""
    made = client.rollback(name)
    click.echo(f"{name} is {_what(made)} again")


@click.command()
@wheels_option
@format_option
@server_options
def outdated_plugins(*, client: Client, wheels: Path | None, output_format: str) -> None:
    """List the environments whose sources have something newer."""
    columns: Columns = {"name": "name", "source": "source", "current": "current", "newest": "newest"}
    found = _followed(client.outdated(_whole(wheels)))
    say(records(found, columns, output_format, empty="Nothing is outdated."))


@click.command()
@wheels_option
@server_options
def sync_plugins(*, client: Client, wheels: Path | None) -> None:
    """Install what walmill.lock in the server's data directory declares, exactly so, where it is not there yet.

    Copy that file into the data directory of another server to have the same plugins there.
    """
    made = _followed(client.sync(_whole(wheels)))
    for one in made:
        click.echo(f"{one['name']} is {_what(one)}")
    if not made:
        click.echo("Everything is as walmill.lock says.")


@click.command()
@wheels_option
@click.argument("packages", nargs=-1, required=True)
@server_options
def install_package(*, client: Client, wheels: Path | None, packages: tuple[str, ...]) -> None:
    """Install PACKAGES into the server's own environment, for plugins of the plugin directory."""
    _followed(client.install_packages(list(packages), _whole(wheels)))
    click.echo(f"{', '.join(packages)} installed")
