"""`walmill.lock`: what is declared to be installed, so that another machine can be made the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from walmill.environments.tool import Pin
from walmill.errors import InvalidRequest
from walmill.fs.whole import write_whole

LOCK = "walmill.lock"
VERSION = 1


@frozen(kw_only=True)
class Locked:
    """What is installed in an environment, so that it can be made again.

    Attributes:
        source: Where it comes from, as it was written.
        distribution: The distribution of the plugins; None for files without one.
        version: Its version.
        commit: The commit, for a repository.
        tree: Git's hash of its files.
        hash: Hash of the plugin's files, as they are in the environment.
        python: Version of the interpreter for which it was resolved.
        packages: The distributions of an index that are there.
        plugins: Where each plugin is found, by its name.
    """

    source: str
    distribution: str | None = None
    version: str | None = None
    commit: str | None = None
    tree: str | None = None
    hash: str | None = None
    python: str = ""
    packages: tuple[Pin, ...] = ()
    plugins: Mapping[str, str] = field(factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a dict of JSON types, without what is not known."""
        found = {name: value for name, value in attrs.asdict(self, recurse=False).items() if value not in (None, "")}
        found["packages"] = [attrs.asdict(one) for one in self.packages]
        found["plugins"] = dict(self.plugins)
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Locked:
        """From what `to_json` gave.

        Raises:
            ValueError: If it is something else.
        """
        try:
            packages = tuple(Pin(one["name"], one["version"], tuple(one["hashes"])) for one in data["packages"])
            return cls(**{**data, "packages": packages, "plugins": dict(data["plugins"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it has another form: {error!r}") from None


def read_lock(path: Path) -> dict[str, Locked]:
    """What a lock file declares, by the name of the environment.

    Raises:
        FileNotFoundError: If there is none.
        InvalidRequest: If it cannot be read.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["version"] != VERSION:
            raise ValueError(f"it has the version {data['version']!r}, and this engine reads {VERSION}")
        return {name: Locked.from_json(one) for name, one in data["plugins"].items()}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"the lock file {path} cannot be read: {error}") from None


def write_lock(path: Path, plugins: Mapping[str, Locked]) -> None:
    """Writes a lock file."""
    declared = {name: one.to_json() for name, one in plugins.items()}
    write_whole(path, json.dumps({"version": VERSION, "plugins": declared}, indent=1, sort_keys=True) + "\n")
