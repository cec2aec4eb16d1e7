"""The two pluggy markers, and the one name that they share with the entry-point group."""

from __future__ import annotations

from typing import Final

import pluggy

PROJECT: Final = "walmill"
"""pluggy's project name, and the entry-point group in which plugins are found."""

hookspec: Final = pluggy.HookspecMarker(PROJECT)
hookimpl: Final = pluggy.HookimplMarker(PROJECT)
"""Marks a function or method as the implementation of the hook whose name it bears."""


class ContractDeprecationWarning(DeprecationWarning):
    """A plugin uses a hook, or a parameter of one, that the contract is going to lose.

    A specification says so with pluggy's own means, and every plugin that implements it is told where it is looked at:

        @hookspec(
            warn_on_impl=ContractDeprecationWarning("the hook on_old", since="0.2", removed="1.0", use="on_new"),
            warn_on_impl_args={"body": ContractDeprecationWarning("the parameter body", since="0.3", removed="1.0", use="…")},
        )

    Args:
        what: The hook or the parameter.
        since: Version of the contract in which it is deprecated.
        removed: Version in which it is gone.
        use: What takes its place.
    """

    def __init__(self, what: str, *, since: str, removed: str, use: str) -> None:
        super().__init__(f"{what} is deprecated since {since} and goes with {removed}; use {use}")
        self.what, self.since, self.removed, self.use = what, since, removed, use
