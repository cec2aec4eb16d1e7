"""The shelf: every version of a plugin's files under its hash, never changed again.

Workers load from here and not from where people write: so no run sees half a file, and a run that has begun keeps what it began
with.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import py_compile
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from walmill.errors import InvalidRequest
from walmill.fs.whole import ASIDE, write_whole
from walmill.plugins.content import digest_of, paths_of

NAMES = "good.json"
KEPT = 50
"""So many versions of all plugins stay beside those that are used: processes that still run an older one may look for a file."""


class Shelf:
    """Versions of plugins in one directory.

    Args:
        root: The directory; made if it is not there.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root

    def keep(self, digest: str, files: Mapping[str, bytes]) -> Path:
        """Puts a version on the shelf, compiled; gives the directory in which its files are.

        Args:
            digest: Its hash.
            files: Its files by their path with slashes.

        Raises:
            OSError: If it cannot be written.
        """
        place = self.root / digest[:32]
        if self._has(place, files):
            os.utime(place)
            return place
        shutil.rmtree(place, ignore_errors=True)  # a power failure may leave less than was put there
        made = Path(tempfile.mkdtemp(prefix=ASIDE, dir=self.root))
        try:
            for name, data in files.items():
                path = made.joinpath(*name.split("/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            # once, for all workers; what cannot be compiled shows when it is loaded
            compileall.compile_dir(
                made, quiet=2, stripdir=str(made), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
            made.chmod(0o755)
            made.rename(place)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            if place.is_dir():  # another engine has made it meanwhile
                return place
            raise
        return place

    def find(self, digest: str, name: str) -> Path | None:
        """Where a version was put, if it still is what it was.

        Args:
            digest: Its hash.
            name: Name of its file or its directory.
        """
        path = self.root / digest[:32] / name
        try:
            whole = digest_of({file: one.read_bytes() for file, one in paths_of(path)}) == digest
        except (OSError, InvalidRequest):
            return None
        return path if whole else None

    def _has(self, place: Path, files: Mapping[str, bytes]) -> bool:
        try:
            return all(place.joinpath(*name.split("/")).read_bytes() == data for name, data in files.items())
        except OSError:
            return False

    def prune(self, used: Collection[str], kept: int = KEPT) -> None:
        """Removes versions that nobody needs.

        Args:
            used: Hashes that are needed.
            kept: So many others stay, those that came last.
        """
        needed = {digest[:32] for digest in used}
        others: list[tuple[float, Path]] = []
        for one in self.root.iterdir():
            with contextlib.suppress(OSError):
                if one.is_dir() and one.name not in needed:
                    others.append((one.stat().st_mtime, one))
        for _, place in sorted(others, reverse=True)[kept:]:
            shutil.rmtree(place, ignore_errors=True)

    def load(self) -> dict[str, Any]:
        """What `save` was given; empty if that cannot be read."""
        try:
            found = json.loads((self.root / NAMES).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, names: Mapping[str, Any]) -> None:
        """Notes which version of which plugin was good last, so that the next start has it even if a newer one is broken."""
        write_whole(self.root / NAMES, json.dumps(dict(names)))
