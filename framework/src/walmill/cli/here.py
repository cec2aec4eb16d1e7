"""The plugins of this machine, as a server with these settings would find them; nothing of them is imported here."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from walmill.plugins import Registry
    from walmill.settings.model import Settings
    from walmill_worker.describe import Described


def registry_of(settings: Settings) -> Registry:
    """The plugins that are installed here, and those in the plugin directory."""
    from walmill.plugins import Registry
    from walmill.plugins.remembered import cache_file, remembering

    inspector = remembering(_inspect, cache_file())
    found = Registry(disabled=settings.no_plugin, allowed=settings.allowed_plugins, inspector=inspector)
    if settings.plugin_dir is not None:
        from walmill.plugins.folder import PluginFolder
        from walmill.plugins.shelf import Shelf

        with tempfile.TemporaryDirectory(prefix="walmill-code-") as place:
            folder = PluginFolder(settings.plugin_dir, Shelf(Path(place)), found, _inspect, lambda names: None)
            folder.open(_inspect)
    return found


def _inspect(entries: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
    from walmill.isolation.inspect import inspect_entries  # which takes Arrow along

    return inspect_entries(entries)
