"""Which plugins there are, kept current while an engine runs: installed packages, and what is in the plugin directory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from walmill.observe.log import get_logger
from walmill.plugins.folder import PluginFolder
from walmill.plugins.registry import Inspector, Registry
from walmill.plugins.shelf import Shelf

LOOK_SECONDS = 1.0
"""So often it is looked whether packages were installed, uninstalled, or edited where they are."""

log = get_logger("walmill.plugins")


class Supply:
    """Keeps a registry current.

    Args:
        registry: The plugins.
        directory: The plugin directory; None without one.
        shelf: Where versions of what is in there are kept.
        inspect: Finds out what plugins offer, while the engine runs.
        changed: Called, from a thread, with the names of plugins that have changed, come or gone.
        installed: Whether it is looked for packages.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Path | None,
        shelf: Path,
        inspect: Inspector,
        changed: Callable[[Collection[str]], None],
        *,
        installed: bool,
    ) -> None:
        self._registry = registry
        self._changed = changed
        self.folder = None if directory is None else PluginFolder(directory, Shelf(shelf), registry, inspect, changed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="walmill-packages", daemon=True) if installed else None

    def open(self, inspect: Inspector) -> None:
        """Finds what is in the plugin directory; returns when all is known.

        Args:
            inspect: Finds out what plugins offer, before the engine runs.
        """
        if self.folder is not None:
            self.folder.open(inspect)

    def start(self) -> None:
        """Watches from now on."""
        if self.folder is not None:
            self.folder.start()
        if self._thread is not None:
            self._thread.start()

    def close(self) -> None:
        """Watches no longer."""
        self._stop.set()
        if self.folder is not None:
            self.folder.close()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        known = seen = _places()
        self._registry.mark()
        while not self._stop.wait(LOOK_SECONDS):
            self._edited()
            now = _places()
            if now != seen:  # it goes on: pip takes the old one away before it puts the new one there
                seen = now
            elif now != known:
                known = now
                self.look()

    def _edited(self) -> None:
        try:
            edited = self._registry.edited()
        except Exception:
            log.exception("the files of installed plugins could not be looked at")
            return
        if edited:
            log.info("installed plugins were edited", plugins=sorted(edited))
            self._changed(edited)

    def look(self) -> set[str]:
        """Looks for packages that have come, gone or changed; gives the names of their plugins."""
        try:
            changed = self._registry.rescan()
        except Exception:
            log.exception("it could not be looked for installed plugins")
            return set()
        if changed:
            log.info("installed plugins have changed", plugins=sorted(changed))
            self._changed(changed)
        return changed


def _places() -> list[tuple[str, int]]:
    """The directories of packages, and when something came into one or went."""
    found = []
    for place in list(sys.path):
        try:
            found.append((place, Path(place or ".").stat().st_mtime_ns))
        except OSError:
            continue
    return found
