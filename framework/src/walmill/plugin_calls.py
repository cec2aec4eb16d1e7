"""What an engine offers about plugins. Any thread may call it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from walmill.definitions import Definitions
from walmill.dispatch.mill import Mill
from walmill.errors import Conflict, InvalidRequest, NotFound, PluginFailure, Unavailable, described
from walmill.isolation.inspect import describe_all, inspect_entries
from walmill.isolation.process import ProcessExecutor, Source, secrets_of
from walmill.options import EngineOptions
from walmill.plugins import upload
from walmill.plugins.description import PACKAGE, PluginDescription
from walmill.plugins.folder import PluginFolder
from walmill.plugins.registry import Registry
from walmill.plugins.supply import Supply
from walmill_hookspecs import BadSettings
from walmill_hookspecs.settings import parse
from walmill_worker.calling import call
from walmill_worker.describe import Described


class Plugins(Definitions):
    """Plugins of an engine.

    Attributes:
        registry: The plugins.
        options: How the engine works.
    """

    registry: Registry
    options: EngineOptions
    _mill: Mill
    _supply: Supply
    _processes: ProcessExecutor | None
    _temporary: tempfile.TemporaryDirectory[str] | None

    def register(self, plugin: object, *, name: str) -> PluginDescription:
        """Registers an object as a plugin: a host application's own, a test's, a notebook's.

        Register it before triggers that name it are created. After a restart register it again; its triggers wait for it.

        Raises:
            Conflict: If the name is taken.
            PluginFailure: If its hooks do not fit.
        """
        description = self.registry.register(plugin, name=name)
        self._plugins_changed({name})
        return description

    def add_plugin(self, name: str, value: str) -> PluginDescription:
        """Makes a plugin known that is not installed, by where it can be imported from, so that workers can have it as well.

        Args:
            name: By which triggers name it.
            value: `module`, `module:Class`, `FILE.py#`, or `DIRECTORY#module:Class`.

        Raises:
            Conflict: If the name is taken.
        """
        description = self.registry.add(name, value)
        self._plugins_changed({name})
        return description

    def plugins(self) -> list[PluginDescription]:
        """All plugins, by name, broken ones as well."""
        return self.registry.inspect_all()

    def show_plugins(self) -> list[dict[str, Any]]:
        """All plugins as plain data, with the triggers that use each."""
        users = self._users()
        return [self._shown_plugin(one, users) for one in self.plugins()]

    def show_plugin(self, name: str) -> dict[str, Any]:
        """One plugin, as in `show_plugins`, with its files.

        Raises:
            NotFound: If there is none.
        """
        return {**self._shown_plugin(self.registry.inspect(name), self._users()), "files": self.registry.files(name)}

    def plugin_files(self) -> list[dict[str, Any]]:
        """The files of all plugins: `plugin_name`, `file_name`, `file_path`, `size_bytes`, `last_modified` (ns)."""
        return [{"plugin_name": name, **file} for name in self.registry.names() for file in self.registry.files(name)]

    def look_for_plugins(self) -> set[str]:
        """Looks now whether plugins have come, gone or changed, which the engine does by itself within seconds.

        Returns:
            The names of the installed plugins for which something has changed.
        """
        if self._supply.folder is not None:
            self._supply.folder.look()
        return self._supply.look()

    def _users(self) -> dict[str, list[str]]:
        catalog = self.view().catalog
        found: dict[str, list[str]] = {}
        for trigger in catalog.triggers.values():
            database = catalog.databases[trigger.database_id]
            if database.deleted is None:
                found.setdefault(trigger.plugin, []).append(f"{database.name}.{trigger.name}")
        return found

    def _shown_plugin(self, one: PluginDescription, users: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return {
            **one.to_json(),
            "hash": self.registry.code(one.name)[1],
            "triggers": sorted(users.get(one.name, ())),
        }

    # ---- uploads

    def _folder(self) -> PluginFolder:
        if self._supply.folder is None:
            raise InvalidRequest("No plugin directory configured: set plugin_dir, and start the server again")
        return self._supply.folder

    def upload_plugin(self, path: str, content: bytes | Mapping[str, bytes]) -> dict[str, Any]:
        """Puts a plugin, or a file of one, into the plugin directory, atomically; the next runs use it.

        Args:
            path: Where in the plugin directory, with slashes: `NAME.py`, `NAME/more.py`, or `NAME` for a directory.
            content: The bytes of the file, or those of each file of the directory, which is replaced as a whole.

        Returns:
            The plugin, as in `show_plugin`. Its `problem` or `cause` says why what came cannot be used. Of a project with several
            plugins, `name`, `status` and `cause` for all of them, and their names as `plugins`.

        Raises:
            InvalidRequest: If there is no plugin directory, or the path is not allowed.
            Conflict: If an installed plugin has the name.
            Unavailable: If it cannot be written.
        """
        folder = self._folder()
        top = upload.parts_of(path)[0]
        name = top.removesuffix(".py") if "/" not in path else top
        known = self.registry.peek(name)
        if known is not None and not known.in_folder:
            raise Conflict(f"a plugin named {name!r} is there already ({known.value}); upload it by another name")
        try:
            with folder.writing:
                if isinstance(content, Mapping):
                    upload.put_directory(folder.path, path, content)
                else:
                    upload.put_file(folder.path, path, content)
        except OSError as error:
            raise Unavailable(f"{path} cannot be written: {described(error)}") from None
        folder.look()
        several = self._below(folder, top)
        if name not in several and len(several) > 1:
            shown = [self.show_plugin(one) for one in several]
            causes = [
                f"{one['name']}: {one['cause'] or one['problem']}" for one in shown if one["cause"] or one["problem"]
            ]
            status = "broken" if any(one["status"] == "broken" for one in shown) else "active"
            return {"name": name, "status": status, "cause": "; ".join(causes) or None, "plugins": several}
        try:
            return self.show_plugin(name)
        except NotFound:
            return {
                "name": name,
                "status": "broken",
                "cause": f"{name} has neither an __init__.py nor a pyproject.toml, so it is no plugin yet",
            }

    def _below(self, folder: PluginFolder, top: str) -> list[str]:
        """The names of the plugins that are in a file or a directory of the plugin directory."""
        place = str(folder.path / top)
        known = {name: self.registry.peek(name) for name in self.registry.names()}
        return [name for name, one in known.items() if one is not None and one.location == place]

    def place_of(self, trigger: str, database: str | None = None) -> str | None:
        """Where in the plugin directory the plugin of a trigger is: the name of its file or directory there.

        Args:
            trigger: Name of the trigger.
            database: Name of its database; None looks in all of them.

        Returns:
            The name; None if there is no such trigger, or its plugin is somewhere else.

        Raises:
            Conflict: If triggers of that name in several databases have different plugins.
        """
        catalog = self.view().catalog
        places: dict[str, str] = {}
        for one in catalog.triggers.values():
            owner = catalog.databases[one.database_id]
            known = self.registry.peek(one.plugin)
            if one.name != trigger or database not in (None, owner.name) or owner.deleted is not None:
                continue
            if known is not None and known.in_folder:
                places[Path(known.location).name] = owner.name
        if len(places) > 1:
            raise Conflict(
                f"there are triggers {trigger!r} in {' and '.join(sorted(places.values()))}; say which with db"
            )
        return next(iter(places), None)

    def refuse_used(self, name: str, *, force: bool) -> None:
        """Whether a plugin may be removed.

        Raises:
            Conflict: If triggers use it, and `force` is not given.
        """
        users = self._users().get(name, [])
        if users and not force:
            raise Conflict(
                f"the plugin {name!r} is used by {', '.join(sorted(users)[:10])}; delete these triggers, or say --force: then "
                "they are paused until it is there again"
            )

    def remove_plugin(self, name: str, *, force: bool = False) -> None:
        """Removes a plugin from the plugin directory.

        Args:
            name: Its name.
            force: Whether it goes although triggers use it; they are paused then.

        Raises:
            NotFound: If there is none.
            InvalidRequest: If it is not in the plugin directory.
            Conflict: If triggers use it, and `force` is not given.
            Unavailable: If it cannot be removed.
        """
        description = self.registry.inspect(name)
        if description.location == PACKAGE:
            raise InvalidRequest(
                f"the plugin {name!r} is installed with {description.distribution}; `pip uninstall {description.distribution}` "
                "removes it"
            )
        folder = self._folder()
        place = Path(description.location).name
        for one in self._below(folder, place):  # a project may have several: they go together
            self.refuse_used(one, force=force)
        try:
            with folder.writing:
                upload.remove(folder.path, place)
        except OSError as error:
            raise Unavailable(f"{description.location} cannot be removed: {described(error)}") from None
        folder.look()

    # ---- how they are found out and found

    def _new_supply(self) -> Supply:
        root = self.options.data_dir
        if root is None and self.options.plugin_dir is not None:
            self._temporary = tempfile.TemporaryDirectory(prefix="walmill-code-")
        shelf = Path(self._temporary.name if self._temporary is not None else root or ".", "plugin-code")
        return Supply(
            self.registry,
            self.options.plugin_dir,
            shelf,
            self._describe,
            self._plugins_changed,
            installed=self.options.discover_plugins,
        )

    def _inspect(self, entries: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
        """What installed plugins offer: found out by the engine's own workers once it runs, which are made faster."""
        mill = getattr(self, "_mill", None)
        if self._processes is None or mill is None or not mill.may_wait:
            return inspect_entries(entries)
        return self._describe(entries)

    def _describe(self, entries: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
        """What plugins of the plugin directory offer: found out by workers, where there are any."""
        if self._processes is None:
            return {name: self.registry.describe_here(name, value) for name, value in entries}
        made: Mapping[str, Described] = self._mill.run(describe_all(self._processes, entries)).result()
        return made

    def _describe_there(self, plugin: str, value: str, python: str) -> Described:
        """What a plugin of an environment offers: found out by a worker there."""
        if self._processes is None:
            raise InvalidRequest(
                "this machine cannot run hooks in other processes, and an environment of its own needs that"
            )
        described: Described = self._mill.run(self._processes.describe(plugin, value, python)).result()
        return described

    def _check_settings(self, plugin: PluginDescription, arguments: Mapping[str, Any]) -> str | None:
        """What a plugin's own check of its settings says against arguments that fit each by itself; None if nothing.

        It is asked where the plugin may be imported: in a worker, or here if there are none.
        """
        if not plugin.checks or not self._mill.may_wait:
            return None
        try:
            if plugin.installed and self._processes is not None:
                found: str | None = self._mill.run(self._processes.check(plugin.name, arguments)).result()
                return found
            secrets_of(plugin.settings or (), arguments)
        except BadSettings:  # a secret is not there yet
            return None
        except PluginFailure as error:
            return error.message
        try:
            registers = self.registry.bind(plugin.name).hooks["register_settings"]
            parse(call(registers, {}), arguments)
        except BadSettings as error:
            return str(error)
        except PluginFailure as error:
            return error.message
        return None

    def _plugins_changed(self, names: Collection[str]) -> None:
        self._mill.plugins_changed(names)

    def _source(self, plugin: str) -> Source:
        """Where a worker finds a plugin."""
        value, wrappers = self.registry.entry(plugin)
        settings = self.registry.inspect(plugin).settings or ()
        known = self.registry.peek(plugin)
        return Source(
            value=value,
            wrappers=wrappers,
            settings=settings,
            code=self.registry.code(plugin),
            python=None if known is None else known.python,
        )
