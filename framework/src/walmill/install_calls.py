"""What an engine offers to install plugins into environments of their own. Any thread may call it; it takes its time."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from walmill.environments.house import Environment, Environments, value_in
from walmill.environments.source import PluginSource, parse_source, requirement_name
from walmill.environments.tool import Say, Tool
from walmill.environments.wheels import same_name
from walmill.errors import Conflict, Forbidden, InvalidRequest, NotFound
from walmill.plugin_calls import Plugins
from walmill.plugins.description import PluginDescription
from walmill_worker.describe import Described

_PREFIX = "environment "


class Installs(Plugins):
    """Plugins with environments of their own."""

    _environments: Environments | None

    def _house(self) -> Environments:
        if self._environments is None:
            raise InvalidRequest("plugins are installed below the data directory, and this engine has none")
        return self._environments

    def _allow(self, source: PluginSource) -> None:
        """Whether the settings allow to install from a source.

        Raises:
            Forbidden: If they do not.
        """
        policy, listed = self.options.package_installs, self.options.package_allowlist
        if policy == "disabled":
            raise Forbidden("nothing may be installed: package_installs is disabled on this server")
        if policy == "allowlist":
            if source.kind == "index":
                allowed = same_name(requirement_name(source.address)) in {
                    same_name(one) for one in listed if "/" not in one
                }
            else:
                allowed = any("/" in one and _is_below(source.address, one) for one in listed)
            if not allowed:
                raise Forbidden(
                    f"{source.address} may not be installed: package_installs is allowlist, and package_allowlist has "
                    f"{', '.join(listed) or 'nothing'}"
                )

    def open_environments(self) -> None:
        """Makes the plugins of all environments known; nothing is asked for and nothing imported."""
        if self._environments is not None:
            for one in self._environments.all():
                self._adopt(one)

    def _adopt(self, environment: Environment) -> set[str]:
        """Has the plugins of an environment used as they are there; gives the names for which that changes anything."""
        locked = environment.locked
        changed = set()
        for name in self._of(environment.name) - set(locked.plugins):
            if self.registry.discard(name, self._location(environment.name)):
                changed.add(name)
        for name in locked.plugins:
            plain = PluginDescription(
                name=name,
                distribution=locked.distribution,
                version=locked.version,
                value=value_in(environment, name),
                location=self._location(environment.name),
                environment=str(environment.place),
                digest=locked.hash,
                source=locked.source,
                commit=locked.commit,
            )
            found = environment.found[name]
            if not environment.fits:
                found = Described(
                    broken="its environment belongs to another version of Walmill or Python; `walmill plugin sync` makes it anew"
                )
            if self.registry.put(plain.with_found(found)):
                changed.add(name)
        return changed

    def _location(self, name: str) -> str:
        return f"{_PREFIX}{name}"

    def _of(self, environment: str) -> set[str]:
        names = self.registry.names()
        known = {name: self.registry.peek(name) for name in names}
        return {name for name, one in known.items() if one is not None and one.location == self._location(environment)}

    def _free(self, environment: str, plugins: Collection[str]) -> None:
        """Whether an environment may bring these plugins.

        Raises:
            Conflict: If one of the names is taken.
        """
        for name in plugins:
            known = self.registry.peek(name)
            if known is not None and known.location != self._location(environment):
                raise Conflict(
                    f"a plugin named {name!r} is there already ({known.location} {known.value}); remove that one first"
                )

    def install_plugin(self, source: str, say: Say, *, wheels: str | None = None) -> dict[str, Any]:
        """Installs a plugin into an environment of its own, with what it needs; its workers run the interpreter there.

        Args:
            source: `NAME`, `NAME==1.2`, `git+https://…@REF#subdirectory=…`, `file:///…@REF`, or a path on this machine.
            say: Takes what is said meanwhile, line by line.
            wheels: A directory of this machine with wheels, in place of an index.

        Returns:
            `name`, `source`, `version`, `commit`, `hash`, `packages` and `plugins` of the environment.

        Raises:
            InvalidRequest: If the source means nothing, or has no plugin.
            Forbidden: If the settings do not allow it.
            Conflict: If it is installed already, or the name of one of its plugins is taken.
            InstallFailed: If it cannot be installed; nothing is left of it then.
        """
        self._allow(parse_source(source))
        made = self._house().install(source, say, wheels=_directory(wheels))
        self._plugins_changed(self._adopt(made))
        return _told(made)

    def upgrade_plugin(self, name: str, say: Say, *, wheels: str | None = None) -> dict[str, Any]:
        """Installs the newest version that a plugin's source has now; see `install_plugin`.

        Returns:
            As `install_plugin`, and `changed`: whether there was a newer one.

        Raises:
            NotFound: If there is no such environment.
            InstallFailed: If it cannot be installed; what is there stays in use.
        """
        house, name = self._house(), self._environment_of(name)
        self._allow(parse_source(house.current(name).locked.source))
        made, changed = house.upgrade(name, say, wheels=_directory(wheels))
        if changed:
            self._plugins_changed(self._adopt(made))
        return {**_told(made), "changed": changed}

    def rollback_plugin(self, name: str) -> dict[str, Any]:
        """Uses the version again that a plugin had before its last upgrade.

        Raises:
            NotFound: If there is none.
        """
        made = self._house().rollback(self._environment_of(name))
        self._plugins_changed(self._adopt(made))
        return _told(made)

    def outdated_plugins(self, say: Say, *, wheels: str | None = None) -> list[dict[str, Any]]:
        """Which plugins with an environment could be upgraded: `name`, `source`, `current`, `newest`."""
        return self._house().outdated(say, wheels=_directory(wheels))

    def sync_plugins(self, say: Say, *, wheels: str | None = None) -> list[dict[str, Any]]:
        """Installs what `walmill.lock` in the data directory declares and what is not there as it says.

        Raises:
            InvalidRequest: If there is no lock file, or it cannot be read.
            InstallFailed: If something cannot be installed as it was.
        """
        house = self._house()
        try:
            declared = house.declared()
        except FileNotFoundError as error:
            raise InvalidRequest(f"there is no lock file {error.filename}") from None
        for one in declared.values():
            self._allow(parse_source(one.source))
        told = []
        for made in house.sync(say, wheels=_directory(wheels)):
            self._plugins_changed(self._adopt(made))
            told.append(_told(made))
        return told

    def install_packages(self, requirements: Collection[str], say: Say, *, wheels: str | None = None) -> None:
        """Installs packages into the server's own environment, for plugins that are files; see `install_plugin`.

        Raises:
            InstallFailed: If that is not possible.
        """
        for one in requirements:
            self._allow(parse_source(one))
        Tool(wheels=_directory(wheels)).install_here(list(requirements), say)
        self.look_for_plugins()

    def _environment_of(self, name: str) -> str:
        """The name of an environment, given that, or one of its plugins."""
        known = self.registry.peek(name)
        return name if known is None or known.environment is None else known.location.removeprefix(_PREFIX)

    def remove_plugin(self, name: str, *, force: bool = False) -> None:
        """Removes a plugin from the plugin directory, or an environment with all its plugins.

        Args:
            name: Its name, or that of the environment.
            force: Whether it goes although triggers use it; they are paused then.

        Raises:
            NotFound: If there is none.
            InvalidRequest: If it is installed in the server's environment.
            Conflict: If triggers use it, and `force` is not given.
        """
        environment = self._environment_of(name)
        if self._environments is None or environment not in self._environments.names():
            super().remove_plugin(name, force=force)
            return
        plugins = self._of(environment)
        for one in sorted(plugins):
            self.refuse_used(one, force=force)
        self._environments.remove(environment)
        for one in plugins:
            self.registry.discard(one, self._location(environment))
        self._plugins_changed(plugins)


def _is_below(address: str, prefix: str) -> bool:
    prefix = prefix.rstrip("/")
    return address == prefix or address.startswith(f"{prefix}/") or address == f"{prefix}.git"


def _directory(wheels: str | None) -> Path | None:
    """A directory with wheels.

    Raises:
        NotFound: If it is not there.
    """
    if wheels is None:
        return None
    path = Path(wheels)
    if not path.is_absolute() or not path.is_dir():
        raise NotFound(f"there is no directory {wheels} on the server's machine; give the whole path")
    return path


def _told(made: Environment) -> dict[str, Any]:
    locked = made.locked
    return {
        "name": made.name,
        "source": locked.source,
        "version": locked.version,
        "commit": locked.commit,
        "hash": locked.hash,
        "packages": [f"{one.name}=={one.version}" for one in locked.packages],
        "plugins": sorted(locked.plugins),
    }
