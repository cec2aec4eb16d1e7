"""The nearest known name, for messages about unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The second half of a message about an unknown name.

    Args:
        name: The name that is not known.
        known: The names that are.

    Returns:
        `did you mean 'x'?` if one is near, else the list of all.
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
