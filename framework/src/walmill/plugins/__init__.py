"""Finding plugins, describing them, binding them to triggers, and calling their hooks."""

from __future__ import annotations

from walmill.plugins.description import PluginDescription
from walmill.plugins.registry import Registry, inspect, inspect_all

__all__ = ["PluginDescription", "Registry", "inspect", "inspect_all"]
