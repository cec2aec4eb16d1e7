"""Functions that plugins bring to SQL: gathered when an engine opens, checked at each call."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pyarrow as pa

from walmill.errors import InvalidRequest, PluginFailure, described
from walmill.plugins.registry import Registry
from walmill_hookspecs import SqlFunction
from walmill_worker.calling import call

HOOK = "register_functions"
VOLATILITIES = ("immutable", "stable", "volatile")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def gather(registry: Registry, named: Sequence[str], taken: Callable[[], Collection[str]]) -> list[SqlFunction]:
    """The functions of the plugins that are named.

    Args:
        registry: The plugins.
        named: Names of plugins.
        taken: Gives the names that SQL has already.

    Returns:
        The functions; a call of one that fails, or gives something else than it says, raises `InvalidRequest`.

    Raises:
        NotFound: If a plugin is not installed.
        PluginFailure: If one is broken, or brings something that is no function, or a name that is taken.
    """
    if not named:
        return []
    known = set(taken())
    found = []
    for plugin in named:
        binding = registry.bind(plugin)
        if HOOK not in binding.hooks:
            raise PluginFailure(f"the plugin {plugin!r} brings no SQL function: it lacks the hook {HOOK}")
        try:
            made: Any = call(binding.hooks[HOOK], {})
        except Exception as error:
            raise PluginFailure(f"{HOOK} of the plugin {plugin!r} failed: {described(error)}") from error
        if not isinstance(made, Iterable) or isinstance(made, str | bytes):
            raise PluginFailure(f"{HOOK} of the plugin {plugin!r} returned {made!r:.80}; return a list of SqlFunction")
        for one in made:
            problem = _problem(one, known)
            if problem:
                raise PluginFailure(f"the plugin {plugin!r} brings an SQL function that cannot be used: {problem}")
            known.add(one.name)
            found.append(_checked(one, plugin))
    return found


def _problem(one: Any, known: Collection[str]) -> str | None:
    if not isinstance(one, SqlFunction):
        return f"{one!r:.80} is no SqlFunction"
    if not _NAME.fullmatch(str(one.name)):
        return f"the name {one.name!r:.60} is not made of lower-case letters, digits and _"
    if one.name in known:
        return f"there is a function {one.name!r}; name it otherwise"
    if not callable(one.function):
        return f"{one.name}: {one.function!r:.60} cannot be called"
    types = (*one.arguments, one.returns)
    if not one.arguments:
        return f"{one.name} has no argument, by which it would know how many rows there are"
    if not all(isinstance(kind, pa.DataType) for kind in types):
        return f"{one.name}: arguments and returns must be types of pyarrow, such as pa.float64()"
    if one.volatility not in VOLATILITIES:
        return f"{one.name}: volatility={one.volatility!r:.40} is not one of {', '.join(VOLATILITIES)}"
    return None


def _checked(one: SqlFunction, plugin: str) -> SqlFunction:
    """The function, of which DataFusion gets nothing that it did not expect."""
    function, returns = one.function, one.returns
    what = f"the SQL function {one.name!r} of the plugin {plugin!r}"

    def checked(*arguments: pa.Array) -> pa.Array:
        try:
            found = function(*arguments)
        except Exception as error:
            raise InvalidRequest(f"{what} failed: {described(error)}") from error
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if not isinstance(found, pa.Array):
            raise InvalidRequest(f"{what} returned {found!r:.60}, and not a pyarrow.Array")
        if len(found) != len(arguments[0]):
            raise InvalidRequest(f"{what} returned {len(found):,} values for {len(arguments[0]):,} rows")
        if found.type != returns:
            try:
                return found.cast(returns)
            except pa.ArrowException:
                raise InvalidRequest(f"{what} returned {found.type}, and not {returns}") from None
        return found

    return SqlFunction(
        name=one.name, function=checked, arguments=one.arguments, returns=returns, volatility=one.volatility
    )
