"""`plugin upload|remove`, `update trigger`: files of plugins, from this machine into the server's plugin directory."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import database_option, server_options
from walmill.cli.output import clean
from walmill.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from walmill.cli.client import Client


def read_plugin(path: Path) -> tuple[str, str | list[dict[str, str]]]:
    """What is to be uploaded: the name, and the text of a file, or the files of a directory.

    Raises:
        NotFound: If there is nothing.
        InvalidRequest: If it is no plugin, or too large.
    """
    from walmill.plugins.content import paths_of

    if not path.exists():
        raise NotFound(f"File not found: {path}")
    name = path.resolve().name
    if path.is_file():
        if path.suffix != ".py":
            raise InvalidRequest(f"{path} is no Python file; upload NAME.py, or the directory of a package")
        return name, _text(path)["content"]
    if not (path / "__init__.py").is_file() and not (path / "pyproject.toml").is_file():
        raise InvalidRequest(
            f"{path} has neither an __init__.py nor a pyproject.toml; name the directory of the package"
        )
    root = path.resolve()
    return name, [{"relative_path": file.relative_to(root).as_posix(), **_text(file)} for _, file in paths_of(root)]


def _text(path: Path) -> dict[str, str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    try:
        return {"content": data.decode("utf-8")}
    except UnicodeDecodeError:
        if path.suffix == ".py":
            raise InvalidRequest(f"{path} is not UTF-8") from None
        return {"content_base64": base64.b64encode(data).decode()}


def upload(client: Client, path: Path, name: str | None = None) -> dict[str, Any]:
    """Uploads a plugin; gives what the server says of it."""
    own, content = read_plugin(path)
    if name is not None:
        own = f"{name.removesuffix('.py')}.py" if isinstance(content, str) else name
    return client.upload_plugin(own, content)


def say(made: dict[str, Any]) -> int:
    """Says what became of an upload; the exit code."""
    name, wrong = made["name"], made.get("problem") or made.get("cause")
    if wrong:
        version = "the version before it is used" if made.get("status") == "active" else "it cannot be used"
        click.echo(f"Error: the plugin {name} is uploaded, and {version}: {clean(str(wrong))}", err=True)
        return 1
    if "plugins" in made:
        click.echo(f"Plugins {', '.join(made['plugins'])} uploaded successfully")
    else:
        click.echo(f"Plugin {name} uploaded successfully ({str(made.get('hash'))[:12]})")
    return 0


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="What it is called there; else as here.")
@server_options
def upload_plugin(*, client: Client, path: Path, name: str | None) -> int:
    """Upload the plugin at PATH, a file or a directory, into the server's plugin directory. The next runs use it.

    Exits with 1 if what came cannot be used; the version before it stays then.
    """
    return say(upload(client, path, name))


@click.command()
@click.option("--force", is_flag=True, help="Remove it although triggers use it; they are paused.")
@click.argument("name")
@server_options
def remove_plugin(*, client: Client, force: bool, name: str) -> None:
    """Remove the plugin NAME from the server's plugin directory, or with its environment."""
    client.remove_plugin(name, force=force)
    click.echo(f"Plugin {name} removed successfully")


@click.command()
@database_option()
@click.option("-t", "--trigger-name", required=True, metavar="NAME", help="The trigger.")
@click.option(
    "-p", "--path", required=True, type=click.Path(path_type=Path), help="A file or a directory on this machine."
)
@server_options
def update_trigger(*, client: Client, database: str, trigger_name: str, path: Path) -> int:
    """Replace the code of a trigger whose plugin is in the server's plugin directory."""
    client.trigger(database, trigger_name)
    _, content = read_plugin(path)
    made = client.update_plugin(database, trigger_name, content)
    code = say(made)
    if not code:
        click.echo(f"Trigger {trigger_name} updated successfully")
    return code
