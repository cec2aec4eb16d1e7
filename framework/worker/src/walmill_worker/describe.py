"""What a plugin offers, as plain data: found out by importing it, which only a worker does, or an engine that runs it itself."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from walmill_hookspecs.settings import SettingInfo, describe, is_settings
from walmill_worker.binding import HOOKS, bind, has_wrappers, instantiate, new_manager
from walmill_worker.calling import call
from walmill_worker.errors import PluginFailure, cause


@frozen(kw_only=True)
class Described:
    """What was found out about a plugin.

    Attributes:
        hooks: Names of the hooks that it implements, and whether each is `async def`.
        settings: Its settings, if it describes them.
        broken: Why it cannot be used, in one sentence; None if it can.
        summary: First line of its documentation.
        wraps: Whether it has hook wrappers.
    """

    hooks: Mapping[str, bool] = field(factory=dict)
    settings: tuple[SettingInfo, ...] | None = None
    broken: str | None = None
    summary: str = ""
    wraps: bool = False

    def to_plain(self) -> dict[str, Any]:
        """As plain types."""
        return {
            "hooks": dict(self.hooks),
            "settings": None if self.settings is None else [info.to_json() for info in self.settings],
            "broken": self.broken,
            "summary": self.summary,
            "wraps": self.wraps,
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
                settings=None if settings is None else tuple(SettingInfo.from_json(info) for info in settings),
                broken=None if data["broken"] is None else str(data["broken"]),
                summary=str(data["summary"]),
                wraps=bool(data["wraps"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a description has another form: {error!r}") from None


def load(value: str) -> object:
    """What an entry point names: `module` or `module:attribute`.

    Raises:
        Exception: Whatever the import raises.
    """
    module, _, attribute = value.partition(":")
    found: object = importlib.import_module(module.strip())
    for name in filter(None, attribute.strip().split(".")):
        found = getattr(found, name)
    return found


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
        manager.register(plugin, name=name)
        manager.check_pending()
    except PluginFailure as error:
        return Described(broken=error.message)
    except Exception as error:  # noqa: BLE001 - anything that pluggy or a plugin's class says makes it broken
        return Described(broken=" ".join(str(error).split()))
    hooks: dict[str, bool] = {}
    wraps = False
    for hook in HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.wrapper or implementation.hookwrapper:
                wraps = True
            else:
                hooks[hook] = inspect.iscoroutinefunction(implementation.function)
    broken = None
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
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            broken = f"register_settings failed: {cause(error)}"
    summary = (inspect.getdoc(loaded) or "").strip().split("\n")[0]
    return Described(
        hooks=hooks, settings=settings, broken=broken, summary=summary, wraps=wraps and has_wrappers(loaded)
    )
