"""The two pluggy markers, and the one name that they share with the entry-point group."""

from __future__ import annotations

from typing import Final

import pluggy

PROJECT: Final = "walmill"
"""pluggy's project name, and the entry-point group in which plugins are found."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function or method as the implementation of the hook whose name it bears."""
