"""The registry: plugins found through entry points, and objects that an application registered.

Entry points load one by one, when they are first needed. A broken one is a line in a table, not an engine that does not
start.
"""

from __future__ import annotations

import difflib
import inspect as python_inspect
import threading
import traceback
from collections.abc import Iterable, Sequence

import importlib_metadata
from attrs import define, evolve

from walmill.errors import Conflict, NotFound, PluginFailure, described
from walmill.plugins.binding import HOOKS, Binding, bind, has_wrappers, instantiate, new_manager
from walmill.plugins.call import call
from walmill.plugins.description import PluginDescription, names
from walmill_hookspecs._markers import PROJECT
from walmill_hookspecs.settings import describe, is_settings

BUILTIN_PREFIX = "walmill.builtin."


@define
class _Known:
    description: PluginDescription
    entry_point: importlib_metadata.EntryPoint | None = None
    loaded: object | None = None
    inspected: bool = False


class Registry:
    """All plugins that an engine can use.

    Args:
        disabled: Names of plugins that are not to be used.
        allowed: Names of the only ones that may be used; None allows all.
        wrappers: Names of plugins whose hook wrappers act on plugins of other distributions as well.
        discover: Whether installed plugins are looked for.
    """

    def __init__(
        self,
        *,
        disabled: Iterable[str] = (),
        allowed: Iterable[str] | None = None,
        wrappers: Iterable[str] = (),
        discover: bool = True,
    ) -> None:
        self._known: dict[str, _Known] = {}
        self._wrappers = tuple(wrappers)
        self._lock = threading.RLock()
        self._disabled = frozenset(disabled)
        self._allowed = None if allowed is None else frozenset(allowed)
        if discover:
            for entry_point in importlib_metadata.entry_points(group=PROJECT):
                self._discovered(entry_point)

    def _discovered(self, entry_point: importlib_metadata.EntryPoint) -> None:
        distribution = entry_point.dist
        description = PluginDescription(
            name=entry_point.name,
            distribution=None if distribution is None else distribution.name,
            version=None if distribution is None else distribution.version,
            value=entry_point.value,
        )
        if entry_point.name in self._known:
            other = self._known[entry_point.name].description
            if (other.distribution, other.value) == (description.distribution, description.value):
                return  # the same distribution seen twice on the path
            cause = f"the name is taken twice: by {other.distribution} and by {description.distribution}; uninstall one of them"
            self._known[entry_point.name] = _Known(evolve(other, status="broken", cause=cause), inspected=True)
            return
        if entry_point.name in self._disabled or (self._allowed is not None and entry_point.name not in self._allowed):
            description = evolve(description, status="disabled")
        self._known[entry_point.name] = _Known(description, entry_point)

    def register(self, plugin: object, *, name: str) -> PluginDescription:
        """Registers an object: a host application's own plugin, a test, a notebook.

        Args:
            plugin: A module, a class (constructed for each trigger), or an instance (shared by its triggers).
            name: By which triggers name it.

        Raises:
            Conflict: If the name is taken.
            PluginFailure: If its hooks do not fit.
        """
        with self._lock:
            if name in self._known:
                raise Conflict(f"a plugin named {name!r} is registered already")
            description = _describe(plugin, PluginDescription(name=name, value=_place(plugin)))
            if description.status == "broken":
                raise PluginFailure(f"the plugin {name!r} cannot be registered: {description.cause}")
            self._known[name] = _Known(description, None, plugin, inspected=True)
            return description

    def unregister(self, name: str) -> None:
        """Forgets an object that was registered; does nothing for other names."""
        with self._lock:
            known = self._known.get(name)
            if known is not None and known.entry_point is None:
                del self._known[name]

    def names(self) -> list[str]:
        """The names of all plugins, sorted."""
        return sorted(self._known)

    def inspect(self, name: str) -> PluginDescription:
        """The description of a plugin: the only thing that the rest of the engine knows of one.

        Raises:
            NotFound: If it is not installed; the message names those that are, and the nearest.
        """
        with self._lock:
            known = self._known.get(name)
            if known is None:
                near = difflib.get_close_matches(name, self._known, n=1)
                hint = (
                    f"did you mean {near[0]!r}?"
                    if near
                    else f"installed are: {names([k.description for k in self._known.values()])}; a server that runs finds what "
                    "is installed later when it starts again"
                )
                raise NotFound(f"there is no plugin {name!r}; {hint}")
            if not known.inspected and known.description.status == "active":
                self._load(known)
            known.inspected = True
            return known.description

    def usable(self, name: str) -> bool:
        """Whether a plugin is there and active."""
        return name in self._known and self.inspect(name).status == "active"

    def inspect_all(self) -> list[PluginDescription]:
        """The descriptions of all plugins, by name."""
        return [self.inspect(name) for name in self.names()]

    def _load(self, known: _Known) -> None:
        assert known.entry_point is not None
        try:
            known.loaded = known.entry_point.load()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            known.description = evolve(known.description, status="broken", cause=_cause(error))
            return
        known.description = _describe(known.loaded, known.description)

    def bind(self, name: str) -> Binding:
        """Binds a plugin to one trigger: an instance of its own, with the wrappers that act there.

        Raises:
            NotFound: If it is not installed.
            PluginFailure: If it is broken.
        """
        with self._lock:
            description = self.inspect(name)
            if description.status != "active":
                raise PluginFailure(
                    f"the plugin {name!r} is {description.status}: {description.cause or 'by the settings'}"
                )
            known = self._known[name]
            assert known.loaded is not None
            return bind(known.loaded, name, self._wrappers_for(description))

    def _wrappers_for(self, description: PluginDescription) -> list[tuple[str, object]]:
        found: list[tuple[str, object]] = []
        for other, known in self._known.items():
            same = description.distribution is not None and known.description.distribution == description.distribution
            if other == description.name or not (same or other in self._wrappers):
                continue
            if self.inspect(other).status == "active" and known.loaded is not None and has_wrappers(known.loaded):
                found.append((other, known.loaded))
        return found

    def with_hook(self, hook: str) -> list[tuple[str, Binding]]:
        """The plugins that implement an engine-side hook, bound once for the engine."""
        return [
            (one.name, self.bind(one.name))
            for one in self.inspect_all()
            if one.status == "active" and hook in one.hooks
        ]


def _describe(loaded: object, description: PluginDescription) -> PluginDescription:
    """A description from a loaded plugin: hooks, settings, or why it is broken."""
    broken = None
    try:
        plugin = instantiate(loaded, description.name)
        manager = new_manager()
        manager.register(plugin, name=description.name)
        manager.check_pending()
    except PluginFailure as error:
        return evolve(description, status="broken", cause=error.message)
    except Exception as error:  # noqa: BLE001 - anything that pluggy or a plugin's class says makes it broken
        return evolve(description, status="broken", cause=" ".join(str(error).split()))
    hooks: dict[str, bool] = {}
    wraps = False
    for hook in HOOKS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.wrapper or implementation.hookwrapper:
                wraps = True
            else:
                hooks[hook] = python_inspect.iscoroutinefunction(implementation.function)
    if not hooks and not wraps:
        unmarked = [hook for hook in HOOKS if callable(getattr(loaded, hook, None))]
        found = f"it has {' and '.join(unmarked)} without @hookimpl" if unmarked else "it has no hook"
        broken = f"{found}; put @hookimpl on the functions that implement one"
    settings = None
    if "register_settings" in hooks:
        try:
            made = call(bind(plugin, description.name).hooks["register_settings"], {})
            if not is_settings(made):
                broken = f"register_settings returned {made!r}; return a class made with @settings"
            else:
                settings = describe(made)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            broken = f"register_settings failed: {_cause(error)}"
    summary = (python_inspect.getdoc(loaded) or "").strip().split("\n")[0]
    return evolve(
        description,
        hooks=hooks,
        settings=settings,
        status="broken" if broken else "active",
        cause=broken,
        summary=summary,
    )


def _cause(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    # a frame of Python's own import machinery tells its reader nothing: it is there when the entry point's module is missing
    known = frames and not frames[-1].filename.startswith("<frozen ")
    place = f" ({frames[-1].filename.rsplit('/', 1)[-1]}, line {frames[-1].lineno})" if known else ""
    return f"{described(error)}{place}"


def _place(plugin: object) -> str:
    kind = plugin if isinstance(plugin, type) else type(plugin)
    name = getattr(plugin, "__name__", kind.__qualname__)
    return f"{kind.__module__}:{name}" if isinstance(plugin, type) else str(name)


def inspect(name: str) -> PluginDescription:
    """The description of an installed plugin, in this process.

    Raises:
        NotFound: If it is not installed.
    """
    return Registry().inspect(name)


def inspect_all() -> Sequence[PluginDescription]:
    """The descriptions of all installed plugins, by name, in this process."""
    return Registry().inspect_all()
