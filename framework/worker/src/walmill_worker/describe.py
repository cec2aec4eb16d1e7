"""What a plugin offers, as plain data: found out by importing it, which only a worker does, or an engine that runs it itself."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from attrs import field, frozen

from walmill_hookspecs import ContractDeprecationWarning, SuggestedTrigger
from walmill_hookspecs._markers import PROJECT
from walmill_hookspecs.settings import SettingInfo, describe, is_settings
from walmill_worker.binding import HOOKS, bind, has_wrappers, instantiate, new_manager
from walmill_worker.calling import call
from walmill_worker.errors import PluginFailure, cause

MARK = f"{PROJECT}_impl"
"""What `@hookimpl` leaves on a function."""


@frozen(kw_only=True)
class Described:
    """What was found out about a plugin.

    Attributes:
        hooks: Names of the hooks that it implements, and whether each is `async def`.
        parameters: Names of the parameters that each of them takes.
        settings: Its settings, if it describes them.
        triggers: The triggers that it suggests, as JSON types.
        broken: Why it cannot be used, in one sentence; None if it can.
        summary: First line of its documentation.
        wraps: Whether it has hook wrappers.
        checks: Whether its settings check more than each by itself, which only the plugin can do.
        deprecated: What it uses that the contract is going to lose, one sentence each.
    """

    hooks: Mapping[str, bool] = field(factory=dict)
    parameters: Mapping[str, tuple[str, ...]] = field(factory=dict)
    settings: tuple[SettingInfo, ...] | None = None
    triggers: tuple[Mapping[str, Any], ...] = ()
    broken: str | None = None
    summary: str = ""
    wraps: bool = False
    checks: bool = False
    deprecated: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """As plain types."""
        return {
            "hooks": dict(self.hooks),
            "parameters": {hook: list(names) for hook, names in self.parameters.items()},
            "settings": None if self.settings is None else [info.to_json() for info in self.settings],
            "triggers": [dict(one) for one in self.triggers],
            "broken": self.broken,
            "summary": self.summary,
            "wraps": self.wraps,
            "checks": self.checks,
            "deprecated": list(self.deprecated),
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Described:
        """From what `to_plain` gave.

        Raises:
            ValueError: If it is something else: a worker may send anything.
        """
        try:
            settings = data["settings"]
            return cls(
                hooks={str(name): bool(is_async) for name, is_async in data["hooks"].items() if name in HOOKS},
                parameters={
                    str(hook): tuple(str(name) for name in names)
                    for hook, names in data["parameters"].items()
                    if hook in HOOKS
                },
                settings=None if settings is None else tuple(SettingInfo.from_json(info) for info in settings),
                triggers=tuple(_suggested(one) for one in data["triggers"]),
                broken=None if data["broken"] is None else str(data["broken"]),
                summary=str(data["summary"]),
                wraps=bool(data["wraps"]),
                checks=bool(data.get("checks", False)),
                deprecated=tuple(str(one) for one in data.get("deprecated", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a description has another form: {error!r}") from None


def load(value: str) -> object:
    """What an entry point names: `module` or `module:attribute`; or, for what is not installed, `FILE.py#`, or
    `DIRECTORY#module:attribute` with the directory in which the module is found.

    A file without hooks of its own stands for the only class in it that has some.

    Raises:
        Exception: Whatever the import raises.
    """
    place, _, entry = value.rpartition("#")
    if place.endswith(".py"):
        return _plugin_in(_module_of(place))
    if place and place not in sys.path:
        sys.path.insert(0, place)
    module, _, attribute = entry.partition(":")
    found: object = importlib.import_module(module.strip())
    for name in filter(None, attribute.strip().split(".")):
        found = getattr(found, name)
    return found if place == "" or attribute or not isinstance(found, ModuleType) else _plugin_in(found)


def _module_of(path: str) -> ModuleType:
    """A file as a module; files beside it can be imported."""
    directory, name = os.path.split(path)
    if directory not in sys.path:
        sys.path.insert(0, directory)
    name = f"walmill_file_{name.removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _plugin_in(module: ModuleType) -> object:
    def marked(found: object) -> bool:
        return any(hasattr(getattr(found, hook, None), MARK) for hook in HOOKS)

    if marked(module):
        return module
    classes = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == module.__name__ and marked(one)
    ]
    if len(classes) > 1:
        names = ", ".join(one.__name__ for one in classes)
        raise ImportError(f"it has several plugins ({names}), and a file is one; put each into a file of its own")
    return classes[0] if classes else module


def describe_entry(name: str, value: str) -> Described:
    """The description of what an entry point names, which is imported here."""
    try:
        loaded = load(value)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Described(broken=cause(error))
    return describe_loaded(loaded, name)


def describe_loaded(loaded: object, name: str) -> Described:
    """The description of what an entry point named: hooks, settings, or why it is broken."""
    try:
        plugin = instantiate(loaded, name)
        manager = new_manager()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            manager.register(plugin, name=name)
        manager.check_pending()
    except PluginFailure as error:
        return Described(broken=error.message)
    except Exception as error:  # noqa: BLE001 - anything that pluggy or a plugin's class says makes it broken
        return Described(broken=" ".join(str(error).split()))
    hooks: dict[str, bool] = {}
    parameters: dict[str, tuple[str, ...]] = {}
    wraps = False
    for hook in HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.wrapper or implementation.hookwrapper:
                wraps = True
            else:
                hooks[hook] = inspect.iscoroutinefunction(implementation.function)
                parameters[hook] = tuple(implementation.argnames)
    broken, checks = None, False
    if not hooks and not wraps:
        unmarked = [hook for hook in HOOKS if callable(getattr(loaded, hook, None))]
        found = f"it has {' and '.join(unmarked)} without @hookimpl" if unmarked else "it has no hook"
        broken = f"{found}; put @hookimpl on the functions that implement one"
    settings = None
    if "register_settings" in hooks:
        try:
            made = call(bind(plugin, name).hooks["register_settings"], {})
            if not is_settings(made):
                broken = f"register_settings returned {made!r}; return a class made with @settings"
            else:
                settings = describe(made)
                checks = hasattr(made, "__attrs_post_init__")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            broken = f"register_settings failed: {cause(error)}"
    triggers: tuple[Mapping[str, Any], ...] = ()
    if "register_triggers" in hooks and broken is None:
        try:
            made = call(bind(plugin, name).hooks["register_triggers"], {})
            triggers = tuple(_suggested(_plain_trigger(one)) for one in made)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            broken = f"register_triggers failed: {cause(error)}"
    summary = (inspect.getdoc(loaded) or "").strip().split("\n")[0]
    return Described(
        hooks=hooks,
        parameters=parameters,
        settings=settings,
        triggers=triggers,
        broken=broken,
        summary=summary,
        wraps=wraps and has_wrappers(loaded),
        checks=checks,
        deprecated=_deprecated(warned),
    )


def _deprecated(warned: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """What was warned of, each once: a wrapper and an implementation may use the same."""
    said = [str(one.message) for one in warned if issubclass(one.category, ContractDeprecationWarning)]
    return tuple(dict.fromkeys(" ".join(one.split("\n")[0].split()) for one in said))


def _plain_trigger(one: object) -> dict[str, Any]:
    """A suggested trigger as plain types.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(one, SuggestedTrigger):
        raise TypeError(f"it returned {one!r:.80}, which is no SuggestedTrigger")
    return {
        "name": one.name,
        "spec": one.spec,
        "description": one.description,
        "arguments": dict(one.arguments),
        "methods": None if one.methods is None else list(one.methods),
        "max_concurrency": one.max_concurrency,
        "error_policy": one.error_policy,
    }


def _suggested(data: Any) -> Mapping[str, Any]:
    """A suggested trigger, checked: a worker may send anything.

    Raises:
        ValueError: If it is something else.
    """
    try:
        name, spec, description = str(data["name"]), str(data["spec"]), str(data["description"])
        arguments = json.loads(json.dumps(dict(data["arguments"])))
        methods = None if data["methods"] is None else [str(one) for one in data["methods"]]
        concurrency = None if data["max_concurrency"] is None else int(data["max_concurrency"])
        policy = None if data["error_policy"] is None else str(data["error_policy"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a suggested trigger has another form: {error}") from None
    return {
        "name": name,
        "spec": spec,
        "description": description,
        "arguments": arguments,
        "methods": methods,
        "max_concurrency": concurrency,
        "error_policy": policy,
    }
