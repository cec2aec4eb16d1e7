"""What is in an environment or a source: the files of a distribution, plugins that are plain files, and what those need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from walmill.errors import InvalidRequest
from walmill.plugins.places import find_plugin


def installed_content(distribution: Any) -> dict[str, bytes]:
    """What identifies an installed distribution: its own list of files with hashes, without what differs from place to place."""
    record = (distribution.read_text("RECORD") or "").splitlines()
    own = sorted(
        line for line in record if not line.startswith("../") and ".pyc," not in line and ".dist-info/" not in line
    )
    return {"RECORD": "\n".join(own).encode()}


def requirements_of(project: Path | None) -> list[str]:
    """What files without a project need: the lines of their requirements.txt."""
    listed = None if project is None else project / "requirements.txt"
    if listed is None or not listed.is_file():
        return []
    lines = (line.split(" #")[0].strip() for line in listed.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def plain_plugins(files: Path) -> dict[str, str]:
    """The plugins of a directory without a project: it is a package itself, or has packages and files."""
    if (files / "__init__.py").is_file():
        raise InvalidRequest(
            "the directory is a package itself, and so has no name to import it by: name the one above it"
        )
    found = {}
    for one in sorted(files.iterdir()):
        if one.name.startswith((".", "_", "test")) or not (one.suffix == ".py" or (one / "__init__.py").is_file()):
            continue
        place = find_plugin(str(one))
        found[place.name] = place.value
    return found
