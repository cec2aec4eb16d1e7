"""A binding: one plugin bound to one trigger, with its own instance and the wrappers that act there."""

from __future__ import annotations

import inspect as python_inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy
from attrs import field, frozen

from walmill_hookspecs import specs
from walmill_hookspecs._markers import PROJECT
from walmill_worker.errors import PluginFailure, described

HOOKS = tuple(name for name, value in vars(specs).items() if hasattr(value, f"{PROJECT}_spec"))
"""The names of all hooks."""


@frozen
class BoundHook:
    """One hook of one plugin, ready to be called.

    Attributes:
        name: Name of the hook.
        function: The implementation.
        arguments: Names of the hook's parameters that it takes.
        wrappers: Wrappers around it, the outermost first: function and parameters.
        is_async: Whether the implementation is `async def`.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    wrappers: tuple[tuple[Callable[..., Any], tuple[str, ...]], ...] = ()
    is_async: bool = False

    def takes(self, argument: str) -> bool:
        """Whether the implementation or a wrapper names a parameter."""
        return argument in self.arguments or any(argument in names for _, names in self.wrappers)


@frozen
class Binding:
    """A plugin's instance for one trigger.

    Attributes:
        plugin: The instance.
        hooks: Its hooks by name.
        code: Version and content hash of what it is of, where they are known.
    """

    plugin: object
    hooks: Mapping[str, BoundHook] = field(factory=dict)
    code: tuple[str | None, str | None] = (None, None)


def new_manager() -> pluggy.PluginManager:
    """A pluggy registry that knows the hooks."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(specs)
    return manager


def instantiate(loaded: object, name: str) -> object:
    """What an entry point names, ready for one trigger: a module or an object as it is, a class without arguments.

    Raises:
        PluginFailure: If the class cannot be constructed.
    """
    if not isinstance(loaded, type):
        return loaded
    try:
        return loaded()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginFailure(f"the class of the plugin {name!r} could not be constructed: {described(error)}") from error


def bind(loaded: object, name: str, wrappers: Sequence[tuple[str, object]] = ()) -> Binding:
    """Binds a plugin.

    Args:
        loaded: What its entry point names.
        name: Name of the plugin.
        wrappers: Other plugins that may wrap its hooks, by name.

    Raises:
        PluginFailure: If it cannot be constructed, or its hooks do not fit the specification.
    """
    plugin = instantiate(loaded, name)
    manager = new_manager()
    try:
        manager.register(plugin, name=name)
        for other, wrapper in wrappers:
            if wrapper is not loaded:
                manager.register(
                    wrapper if not isinstance(wrapper, type) else instantiate(wrapper, other), name=f"wrapper:{other}"
                )
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError, TypeError) as error:
        raise PluginFailure(f"the hooks of the plugin {name!r} do not fit: {' '.join(str(error).split())}") from error
    hooks: dict[str, BoundHook] = {}
    for hook in HOOKS:
        caller = getattr(manager.hook, hook)
        implementations = caller.get_hookimpls()
        own = [one for one in implementations if one.plugin is plugin and not _wraps(one)]
        if not own:
            continue
        around = [one for one in reversed(implementations) if _wraps(one)]
        hooks[hook] = BoundHook(
            name=hook,
            function=own[0].function,
            arguments=tuple(own[0].argnames),
            wrappers=tuple((one.function, tuple(one.argnames)) for one in around),
            is_async=python_inspect.iscoroutinefunction(own[0].function),
        )
    return Binding(plugin, hooks)


def _wraps(implementation: Any) -> bool:
    return bool(implementation.wrapper or implementation.hookwrapper)


def has_wrappers(loaded: object) -> bool:
    """Whether a plugin has any hook wrapper."""
    for name in dir(loaded):
        options = getattr(getattr(loaded, name, None), f"{PROJECT}_impl", None)
        if isinstance(options, dict) and (options.get("wrapper") or options.get("hookwrapper")):
            return True
    return False
