"""The registry: plugins found through entry points, and objects that an application registered.

Entry points load one by one, when they are first needed. A broken one is a line in a table, not an engine that does not
start.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import importlib_metadata
from attrs import define, evolve

from walmill.errors import Conflict, InvalidRequest, NotFound, PluginFailure
from walmill.observe.log import get_logger
from walmill.plugins.content import installed_digest, installed_roots, paths_of
from walmill.plugins.contract import contract_problem
from walmill.plugins.description import OBJECT, PluginDescription, names
from walmill.plugins.edits import Edits
from walmill_hookspecs._markers import PROJECT
from walmill_worker.binding import Binding, bind
from walmill_worker.describe import Described, describe_entry, describe_loaded, load
from walmill_worker.errors import cause

Inspector = Callable[[Sequence[tuple[str, str]]], Mapping[str, Described]]
"""Finds out what plugins offer, given name and entry point of each."""

_found: dict[tuple[object, ...], Described] = {}
"""What was found out in this process; an installed distribution of one version stays what it is."""

BUILTIN_PREFIX = "walmill.builtin."

log = get_logger("walmill.plugins")


@define
class _Known:
    """What is known of a plugin.

    Attributes:
        description: Its description, as far as somebody has looked.
        entry_point: Of an installed package.
        loaded: What this process has imported.
        inspected: Whether somebody has looked.
        plain: The description before that, of an installed package.
        edits: What was seen of its files, of an installed package; None until `mark`.
    """

    description: PluginDescription
    entry_point: importlib_metadata.EntryPoint | None = None
    loaded: object | None = None
    inspected: bool = False
    plain: PluginDescription | None = None
    edits: Edits | None = None


class Registry:
    """All plugins that an engine can use.

    Args:
        disabled: Names of plugins that are not to be used.
        allowed: Names of the only ones that may be used; None allows all.
        wrappers: Names of plugins whose hook wrappers act on plugins of other distributions as well.
        discover: Whether installed plugins are looked for.
        inspector: Finds out what installed plugins offer; None imports them here.

    Attributes:
        shelf: Where versions of what is in the plugin directory are; None without one.
    """

    def __init__(
        self,
        *,
        disabled: Iterable[str] = (),
        allowed: Iterable[str] | None = None,
        wrappers: Iterable[str] = (),
        discover: bool = True,
        inspector: Inspector | None = None,
    ) -> None:
        self._inspector = inspector
        self._known: dict[str, _Known] = {}
        self._wrappers = tuple(wrappers)
        self._lock = threading.RLock()
        self._disabled = frozenset(disabled)
        self._allowed = None if allowed is None else frozenset(allowed)
        self._discover = discover
        self.shelf: Path | None = None
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
            taken = evolve(other, status="broken", cause=cause)
            self._known[entry_point.name] = _Known(taken, inspected=True)
            return
        if not self._may(entry_point.name):
            description = evolve(description, status="disabled")
        elif distribution is not None:
            problem = contract_problem(distribution.read_text("METADATA") or "")
            if problem is not None:
                description = evolve(description, status="broken", cause=problem)
        broken = description.status == "broken"
        self._known[entry_point.name] = _Known(description, entry_point, inspected=broken, plain=description)

    def _may(self, name: str) -> bool:
        """Whether the settings let a plugin be used."""
        return name not in self._disabled and (self._allowed is None or name in self._allowed)

    def rescan(self) -> set[str]:
        """Looks anew for installed plugins; gives the names of those that have come, gone, or are another version now."""
        with self._lock:
            if not self._discover:
                return set()
            before = {name: known for name, known in self._known.items() if known.entry_point is not None}
            others = {name: known for name, known in self._known.items() if name not in before}
            self._known = dict(others)
            for entry_point in importlib_metadata.entry_points(group=PROJECT):
                if entry_point.name not in others:
                    self._discovered(entry_point)
            changed = set()
            for name in before.keys() | (self._known.keys() - others.keys()):
                old, new = before.get(name), self._known.get(name)
                if old is None or new is None or _key(old) != _key(new):
                    changed.add(name)
                    if old is not None and old.loaded is not None and new is not None:
                        # what this process has imported stays: hooks that run here keep it until the next start
                        new.loaded = old.loaded
                        problem = f"hooks in the server's own process run version {old.description.version} until it starts again"
                        new.description = evolve(new.description, problem=problem)
                else:
                    self._known[name] = old
                    if old.edits is not None and old.edits.digest != installed_digest(old.edits.entry_point):
                        changed.add(name)  # the same version, built again
                        old.edits = None
                        self._look_anew(old)
        self.mark()
        return changed

    def mark(self) -> None:
        """Notes what the files of installed plugins look like, so that `edited` and `rescan` notice what becomes of them."""
        for known in list(self._known.values()):
            if known.entry_point is not None and known.edits is None:
                known.edits = Edits.of(known.entry_point)

    def edited(self) -> set[str]:
        """Looks at the files of editable installations; gives the names of plugins that are another version now."""
        found = set()
        for name, known in list(self._known.items()):
            if known.edits is not None and known.edits.look():
                with self._lock:
                    self._look_anew(known)
                found.add(name)
        return found

    def _look_anew(self, known: _Known) -> None:
        """A plugin is another version now. What this process has imported of it stays: hooks that run here keep it."""
        if known.plain is None:
            return
        _found.pop(_key(known), None)
        problem = None
        if known.loaded is not None:
            problem = "hooks in the server's own process run what it was before, until it starts again"
        known.description = evolve(known.plain, problem=problem)
        known.inspected = known.plain.status == "broken"

    def put(self, description: PluginDescription) -> bool:
        """Makes a version of a plugin the one that is used: of the plugin directory, or of an environment.

        Args:
            description: All about it.

        Returns:
            Whether that changes anything; not if another kind of plugin has the name.
        """
        with self._lock:
            old = self._known.get(description.name)
            if old is not None and (
                old.description.in_folder != description.in_folder
                or (old.description.environment is None) != (description.environment is None)
            ):
                log.warning(
                    "a plugin is not used: its name is taken",
                    plugin=description.name,
                    location=description.location,
                    by=old.description.value,
                )
                return False
            if not self._may(description.name):
                description = evolve(description, status="disabled")
            self._known[description.name] = _Known(description, inspected=True)
            return True

    def note_problem(self, name: str, problem: str | None) -> None:
        """Notes why what is there now of a plugin of the plugin directory is not used; None if it is."""
        with self._lock:
            known = self._known.get(name)
            if known is not None and known.description.in_folder:
                known.description = evolve(known.description, problem=problem)

    def discard(self, name: str, location: str) -> bool:
        """Forgets a plugin of the plugin directory or of an environment; whether there was one.

        Args:
            name: Its name.
            location: What its location begins with.
        """
        with self._lock:
            known = self._known.get(name)
            if known is None or not known.description.location.startswith(location):
                return False
            if not known.description.in_folder and known.description.environment is None:
                return False
            del self._known[name]
            return True

    def resolve(self, name: str) -> str:
        """The name of a plugin, also where people write its file: `NAME.py` is NAME, if there is one of that name only."""
        stem = name.removesuffix(".py").removesuffix("/__init__").rstrip("/")
        return stem if name not in self._known and stem in self._known else name

    def files(self, name: str) -> list[dict[str, Any]]:
        """The files of a plugin: `file_name`, `file_path`, `size_bytes`, `last_modified` (ns); none of an object."""
        known = self._known.get(name)
        if known is None or not known.description.installed:
            return []
        found = []
        with contextlib.suppress(OSError, InvalidRequest):
            here = known.description.in_folder
            roots = [Path(known.description.location)] if here else self._roots(known.description)
            for root in roots:
                for file, path in paths_of(root):
                    status = path.stat()
                    found.append(
                        {
                            "file_name": file,
                            "file_path": str(path),
                            "size_bytes": status.st_size,
                            "last_modified": status.st_mtime_ns,
                        }
                    )
        return found

    def _roots(self, description: PluginDescription) -> list[Path]:
        """Where the modules of an installed plugin are."""
        if description.environment is None:
            return installed_roots(description.value)
        place, _, entry = description.value.rpartition("#")
        if place:
            return [Path(place)]
        top = entry.split(":")[0].strip().split(".")[0]
        sites = Path(description.environment, "lib").glob("python3*/site-packages")
        return [found for site in sites for found in (site / top, site / f"{top}.py") if found.exists()]

    def code(self, name: str) -> tuple[str | None, str | None]:
        """Version and content hash of a plugin as it is now; reads its files. Nothing of one that is not there."""
        known = self._known.get(name)
        if known is None:
            return None, None
        if known.entry_point is None:
            return known.description.version, known.description.digest
        return known.description.version, installed_digest(known.entry_point)

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
            plain = PluginDescription(name=name, value=_place(plugin), installed=False, location=OBJECT)
            description = plain.with_found(describe_loaded(plugin, name))
            if description.status == "broken":
                raise PluginFailure(f"the plugin {name!r} cannot be registered: {description.cause}")
            self._known[name] = _Known(description, None, plugin, inspected=True)
            return description

    def add(self, name: str, value: str) -> PluginDescription:
        """Makes a plugin known that is not installed: a file, or a package in a directory; see `walmill.plugins.places`.

        Args:
            name: By which triggers name it.
            value: Where it is found, as `walmill_worker.describe.load` reads it.

        Raises:
            Conflict: If the name is taken.
        """
        with self._lock:
            if name in self._known:
                raise Conflict(f"a plugin named {name!r} is known already")
            known = _Known(PluginDescription(name=name, value=value))
            _found.pop(_key(known), None)  # it may have been edited
            self._known[name] = known
            self._inspect([known])
            return known.description

    def describe_here(self, name: str, value: str) -> Described:
        """What a version of a plugin of the plugin directory offers, which is imported here."""
        with self._lock:
            if self.shelf is None:
                return describe_entry(name, value)
            put_back = forget_modules(value, str(self.shelf))
            found = describe_entry(name, value)
            if found.broken is not None:
                put_back()
            return found

    def unregister(self, name: str) -> None:
        """Forgets an object that was registered; does nothing for other names."""
        with self._lock:
            known = self._known.get(name)
            if known is not None and known.entry_point is None:
                del self._known[name]

    def names(self) -> list[str]:
        """The names of all plugins but those that Walmill brings, sorted."""
        return sorted(name for name in self._known if not name.startswith(BUILTIN_PREFIX))

    def inspect(self, name: str) -> PluginDescription:
        """The description of a plugin: the only thing that the rest of the engine knows of one.

        Raises:
            NotFound: If it is not installed; the message names those that are, and the nearest.
        """
        with self._lock:
            known = self._known.get(name)
            if known is None:
                near = difflib.get_close_matches(name, self.names(), n=1)
                there = names([self._known[one].description for one in self.names()])
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {there}"
                raise NotFound(f"there is no plugin {name!r}; {hint}")
            self._inspect([known])
            return known.description

    def peek(self, name: str) -> PluginDescription | None:
        """What is known of a plugin by now, without finding out anything: for who must not wait. None if there is none."""
        known = self._known.get(name)
        return None if known is None else known.description

    def takes(self, name: str, hook: str, argument: str) -> bool | None:
        """Whether a plugin's hook names a parameter; None as long as nobody has looked at the plugin. Waits for nothing."""
        known = self._known.get(name)
        if known is None or not known.inspected:
            return None
        return argument in known.description.parameters.get(hook, ())

    def _inspect(self, asked: Sequence[_Known]) -> None:
        """Finds out what is not known yet of these plugins, of all of them at once."""
        fresh = [one for one in asked if not one.inspected and one.description.status == "active"]
        missing = [one for one in fresh if _key(one) not in _found]
        if missing:
            if self._inspector is None:
                for one in missing:
                    _found[_key(one)] = describe_entry(one.description.name, one.description.value)
            else:
                made = self._inspector([(one.description.name, one.description.value) for one in missing])
                for one in missing:
                    _found[_key(one)] = made[one.description.name]
        for one in fresh:
            one.description = one.description.with_found(_found[_key(one)])
        for one in asked:
            one.inspected = True

    def usable(self, name: str) -> bool:
        """Whether a plugin is there and active."""
        return name in self._known and self.inspect(name).status == "active"

    def inspect_all(self) -> list[PluginDescription]:
        """The descriptions of all plugins but those that Walmill brings, by name."""
        with self._lock:
            self._inspect([self._known[name] for name in self.names()])
            return [self._known[name].description for name in self.names()]

    def _load(self, known: _Known) -> object:
        """What a plugin's entry point names, imported here.

        Raises:
            PluginFailure: If that is not possible.
        """
        if known.loaded is None:
            try:
                if known.description.in_folder and self.shelf is not None:
                    forget_modules(known.description.value, str(self.shelf))
                known.loaded = load(known.description.value)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                raise PluginFailure(
                    f"the plugin {known.description.name!r} could not be imported: {cause(error)}"
                ) from error
        return known.loaded

    def entry(self, name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Where an installed plugin is found, and name and entry point of those that wrap its hooks.

        Raises:
            NotFound: If it is not installed.
            PluginFailure: If it is broken, or an object that an application registered.
        """
        with self._lock:
            description = self._active(name)
            if not description.installed:
                raise PluginFailure(
                    f"the plugin {name!r} is an object of this process, which no other one can have; take the executor 'inline'"
                )
            return description.value, tuple((one.name, one.value) for one in self._wrappers_for(description))

    def _active(self, name: str) -> PluginDescription:
        description = self.inspect(name)
        if description.status != "active":
            raise PluginFailure(
                f"the plugin {name!r} is {description.status}: {description.cause or 'by the settings'}"
            )
        return description

    def bind(self, name: str) -> Binding:
        """Binds a plugin to one trigger: an instance of its own, with the wrappers that act there.

        Raises:
            NotFound: If it is not installed.
            PluginFailure: If it is broken.
        """
        with self._lock:
            description = self._active(name)
            if description.environment is not None:
                raise PluginFailure(
                    f"the plugin {name!r} has an environment of its own, from which this process cannot import; take the "
                    "executor 'process'"
                )
            wrappers = [(one.name, self._load(self._known[one.name])) for one in self._wrappers_for(description)]
            return evolve(bind(self._load(self._known[name]), name, wrappers), code=self.code(name))

    def _wrappers_for(self, description: PluginDescription) -> list[PluginDescription]:
        found: list[PluginDescription] = []
        for other, known in self._known.items():
            if known.description.environment != description.environment:
                continue  # it cannot be imported there
            same = description.distribution is not None and known.description.distribution == description.distribution
            if other == description.name or not (same or other in self._wrappers):
                continue
            one = self.inspect(other)
            if one.status == "active" and one.wraps:
                found.append(one)
        return found

    def with_hook(self, hook: str) -> list[tuple[str, Binding]]:
        """The plugins that implement an engine-side hook, bound once for the engine; one that cannot be is told in the log."""
        found = []
        for one in self.inspect_all():
            if one.status == "active" and hook in one.hooks:
                try:
                    found.append((one.name, self.bind(one.name)))
                except PluginFailure as error:
                    log.warning("a hook of the engine is not called", hook=hook, plugin=one.name, error=error.message)
        return found


def _key(known: _Known) -> tuple[object, ...]:
    """What a description belongs to: another version of a distribution may be another plugin."""
    description = known.description
    place = (
        None if known.entry_point is None or known.entry_point.dist is None else known.entry_point.dist.locate_file("")
    )
    return (description.name, description.value, description.distribution, description.version, str(place))


def forget_modules(value: str, shelf: str) -> Callable[[], None]:
    """Has this process import the modules of a plugin of the plugin directory anew: it may have an older version of them.

    A run of the older version that imports something meanwhile finds the newer one, and never nothing.

    Args:
        value: Where it is found.
        shelf: Where all versions are.

    Returns:
        What has the older version imported again: the newer one may be broken.
    """
    place, _, entry = value.rpartition("#")
    if place.endswith(".py"):
        return lambda: None  # a file is executed anew each time
    top = entry.split(":")[0].split(".")[0]
    modules = {name: module for name, module in list(sys.modules.items()) if _is_below(module, shelf)}
    mine = [module for name, module in modules.items() if name.split(".")[0] == top and not _is_below(module, place)]
    paths = [one for one in sys.path if one.startswith(f"{shelf}/") and any(_is_below(module, one) for module in mine)]
    old = {
        name: module
        for name, module in modules.items()
        if module in mine or any(_is_below(module, path) for path in paths)  # what lies beside the package as well
    }
    sys.path[:] = [
        place,
        *(one for one in sys.path if one not in (place, *paths)),
    ]  # first: whoever imports finds something
    for name in old:
        sys.modules.pop(name, None)

    def put_back() -> None:
        sys.path[:] = [*paths, *(one for one in sys.path if one not in (place, *paths))]
        for name, module in list(sys.modules.items()):
            if _is_below(module, place):
                sys.modules.pop(name, None)
        sys.modules.update(old)

    return put_back


def _is_below(module: ModuleType, place: str) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(f"{place}/")


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
