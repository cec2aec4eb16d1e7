"""What plugins offered when they were looked at last, in a file: a list of many must not import all of them each time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from walmill.fs.whole import write_whole
from walmill.plugins.content import digest_of, installed_roots, paths_of
from walmill.plugins.registry import Inspector
from walmill_worker import PROTOCOL
from walmill_worker.describe import Described

MOST = 500
"""So many descriptions are remembered."""


def cache_file() -> Path:
    """Where they are kept, by the rules of XDG."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base if base else Path.home() / ".cache") / "walmill" / "plugins.json"


def remembering(inspect: Inspector, path: Path) -> Inspector:
    """An inspector that looks at a plugin only if its files, the interpreter or what else is installed have changed since.

    Broken plugins are looked at each time: why they are may be somewhere else.

    Args:
        inspect: Looks at plugins.
        path: The file.
    """

    def look(entries: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
        known = _load(path)
        around = _surroundings()
        keys = {name: _key(name, value, around) for name, value in entries}
        found: dict[str, Described] = {}
        for name, key in keys.items():
            with contextlib.suppress(KeyError, ValueError):
                found[name] = Described.from_plain(known[key])
        missing = [(name, value) for name, value in entries if name not in found]
        if not missing:
            return found
        made = inspect(missing)
        fresh = {keys[name]: one.to_plain() for name, one in made.items() if one.broken is None}
        _save(path, {**known, **fresh})
        return {**found, **made}

    return look


def _surroundings() -> str:
    """What else decides what an import comes to: the interpreter, and the distributions that are installed."""
    names: list[str] = [sys.version, str(PROTOCOL)]
    for place in sys.path:
        with contextlib.suppress(OSError):
            names += sorted(f"{place}/{one.name}" for one in os.scandir(place or ".") if one.name.endswith("-info"))
    return "\n".join(names)


def _key(name: str, value: str, around: str) -> str:
    files: dict[str, bytes] = {}
    with contextlib.suppress(OSError):
        for root in installed_roots(value):
            files |= {str(path): path.read_bytes() for _, path in paths_of(root)}
    return hashlib.sha256("\0".join([name, value, around, digest_of(files)]).encode()).hexdigest()


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _save(path: Path, known: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(dict(list(known.items())[-MOST:])))
