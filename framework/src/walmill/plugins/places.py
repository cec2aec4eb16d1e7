"""Plugins that are not installed: where a file or a directory has one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from attrs import frozen

from walmill.errors import InvalidRequest
from walmill_hookspecs._markers import PROJECT


@frozen
class Place:
    """A plugin in a file or a directory.

    Attributes:
        name: What it is called.
        value: What `walmill_worker.describe.load` loads.
    """

    name: str
    value: str


def is_place(text: str) -> bool:
    """Whether a text means a file or a directory, and not the name of an installed plugin."""
    return text.endswith(".py") or "/" in text or text in (".", "..")


def find_plugin(text: str) -> Place:
    """The plugin in a file, in a directory with a `pyproject.toml`, or in a package directory.

    Args:
        text: The path; `PATH#NAME` chooses one of several entry points.

    Raises:
        InvalidRequest: If there is none, or there are several.
    """
    given, _, wanted = text.partition("#")
    path = Path(given).expanduser().resolve()
    if path.is_file():
        if path.suffix != ".py":
            raise InvalidRequest(f"{given} is no Python file; a plugin is a file NAME.py or a package")
        return Place(path.stem, f"{path}#")
    if not path.is_dir():
        raise InvalidRequest(f"there is no file or directory {given}")
    project = path / "pyproject.toml"
    if project.is_file():
        return _of_project(given, path, project, wanted)
    if (path / "__init__.py").is_file():
        return Place(path.name, f"{path.parent}#{path.name}")
    raise InvalidRequest(f"{given} has neither a pyproject.toml nor an __init__.py; name the directory of the package")


def entries_of(project: Path) -> dict[str, str]:
    """The plugins that a project has: names and entry points.

    Args:
        project: Its `pyproject.toml`.

    Raises:
        InvalidRequest: If it cannot be read, or names none.
    """
    try:
        data = tomllib.loads(project.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{project} cannot be read: {error}") from None
    entries = data.get("project", {}).get("entry-points", {}).get(PROJECT, {})
    if not isinstance(entries, dict) or not entries:
        raise InvalidRequest(f"{project} names no plugin; it needs a table [project.entry-points.{PROJECT}]")
    return {str(name): str(value) for name, value in entries.items()}


def _of_project(given: str, path: Path, project: Path, wanted: str) -> Place:
    entries = entries_of(project)
    if wanted and wanted not in entries:
        raise InvalidRequest(f"{given} has no plugin {wanted!r}; it has {', '.join(sorted(entries))}")
    if not wanted and len(entries) > 1:
        raise InvalidRequest(
            f"{given} has the plugins {', '.join(sorted(entries))}; choose one: {given}#{min(entries)}"
        )
    name = wanted or next(iter(entries))
    value = entries[name]
    package = re.split(r"[.:]", value.strip())[0]
    roots = [root for root in (path / "src", path) if (root / package).is_dir() or (root / f"{package}.py").is_file()]
    if not roots:
        raise InvalidRequest(f"the plugin {name!r} is in {package!r}, which is neither below {path / 'src'} nor {path}")
    return Place(name, f"{roots[0]}#{value}")
