"""Which versions of the contract a plugin was made for: what `walmill-hookspecs>=0.1,<0.2` in its package says."""

from __future__ import annotations

import re
from functools import lru_cache

import importlib_metadata

from walmill_hookspecs import API_VERSION

NAME = "walmill-hookspecs"
_LINE = re.compile(rf"^Requires-Dist:\s*({NAME}(?![-\w.]).*?)\s*$", re.MULTILINE | re.IGNORECASE)


def contract_problem(metadata: str, version: str | None = None) -> str | None:
    """Why a plugin does not fit the contract that is installed here; None if it does, or says nothing about it.

    Args:
        metadata: The METADATA of its distribution, as text. To parse all of it would take most of the time of a list of plugins.
        version: The version of the contract; the installed one if None.
    """
    here = version or contract_version()
    for line in _LINE.findall(metadata.split("\n\n", 1)[0]):
        problem = _problem(line, here)
        if problem is not None:
            return problem
    return None


@lru_cache(1)
def contract_version() -> str:
    """The version of the contract that is installed."""
    try:
        return str(importlib_metadata.version(NAME))
    except importlib_metadata.PackageNotFoundError:  # imported from a path
        return API_VERSION


@lru_cache(256)
def _problem(line: str, here: str) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        asked = Requirement(line)
    except InvalidRequirement:
        return f"its package says {line[:80]!r}, which is no requirement"
    if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
        return None
    if asked.specifier.contains(here, prereleases=True):
        return None
    made_for = f"{NAME}{asked.specifier}"
    return f"it is made for {made_for}, and this is {here}: upgrade the plugin, or take the Walmill that it is made for"
