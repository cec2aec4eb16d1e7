"""Edits of installed plugins: files that are changed where they are, and versions that are built again without another number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from importlib.util import cache_from_source
from pathlib import Path

import importlib_metadata
from attrs import define

from walmill.errors import InvalidRequest
from walmill.plugins.content import Signature, installed_digest, loose_roots, paths_of, signature_of


@define
class Edits:
    """What was seen of the files of an installed plugin.

    Attributes:
        entry_point: The plugin.
        digest: Hash of its files as they are used.
        roots: Where they are, if they may be edited where they are.
        used: What they looked like then.
        seen: What they looked like at the last look.
    """

    entry_point: importlib_metadata.EntryPoint
    digest: str | None
    roots: list[Path]
    used: Signature
    seen: Signature

    @classmethod
    def of(cls, entry_point: importlib_metadata.EntryPoint) -> Edits:
        """What there is now."""
        roots = loose_roots(entry_point)
        now: Signature = ()
        with contextlib.suppress(OSError, InvalidRequest):
            now = signature_of(_paths(roots))
        return cls(entry_point, installed_digest(entry_point), roots, now, now)

    def look(self) -> bool:
        """Looks at the files of an editable installation; whether they are another version now.

        What has changed is taken when it looks the same at two looks: somebody may be in the middle of it.
        """
        if not self.roots:
            return False
        try:
            paths = _paths(self.roots)
            now = signature_of(paths)
        except (OSError, InvalidRequest):
            return False  # an editor takes files away for a moment; what is gone for good is no installation any more
        if now != self.seen:
            self.seen = now
            return False
        if now == self.used:
            return False
        _forget_compiled(path for _, path in paths)
        self.used, self.digest = now, installed_digest(self.entry_point)
        return True


def _paths(roots: Iterable[Path]) -> list[tuple[str, Path]]:
    return [one for root in roots for one in paths_of(root)]


def _forget_compiled(paths: Iterable[Path]) -> None:
    """Removes what Python has compiled of these files: it knows an edit by size and whole second only."""
    for path in paths:
        if path.suffix == ".py":
            with contextlib.suppress(OSError):
                Path(cache_from_source(str(path))).unlink(missing_ok=True)
