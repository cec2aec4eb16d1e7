"""The plugins of this machine, as a server with these settings would find them; nothing of them is imported here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from walmill.plugins import Registry
    from walmill.settings.model import Settings


def registry_of(settings: Settings) -> Registry:
    """The plugins that are installed here, and those in the plugin directory."""
    from walmill.isolation.inspect import inspect_entries
    from walmill.plugins import Registry

    found = Registry(disabled=settings.no_plugin, allowed=settings.allowed_plugins, inspector=inspect_entries)
    if settings.plugin_dir is not None:
        from walmill.plugins.folder import PluginFolder
        from walmill.plugins.shelf import Shelf

        with tempfile.TemporaryDirectory(prefix="walmill-code-") as place:
            folder = PluginFolder(settings.plugin_dir, Shelf(Path(place)), found, inspect_entries, lambda names: None)
            folder.open(inspect_entries)
    return found
