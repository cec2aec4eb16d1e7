"""The environments of an engine: built beside each other, switched in one step, and kept for a way back.

`environments/NAME/GENERATION`, called after when it was made in ms, is a virtual environment with a file that says what it is;
`environments/NAME/current` names the one that is used. What is declared, so that another machine can be made the same, is in
`walmill.lock`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import importlib_metadata
from attrs import frozen

from walmill.environments.contents import installed_content, plain_plugins, requirements_of
from walmill.environments.git import Commit, Repository
from walmill.environments.lock import LOCK, Locked, read_lock, write_lock
from walmill.environments.source import PluginSource, parse_source, requirement_name
from walmill.environments.tool import InstallFailed, Pin, Say, Tool
from walmill.environments.wheels import OWN, own_wheels, same_name
from walmill.errors import Conflict, InvalidRequest, NotFound
from walmill.fs.whole import write_whole
from walmill.observe.log import get_logger
from walmill.plugins.content import digest_of, paths_of
from walmill_hookspecs._markers import PROJECT
from walmill_worker import PROTOCOL
from walmill_worker.describe import Described

KEPT = 3
"""So many generations of an environment stay: the one that is used, and those before it."""
_ABOUT = "walmill.json"
_CURRENT = "current"

log = get_logger("walmill.environments")

Describe = Callable[[str, str, str], Described]
"""Finds out what a plugin offers: its name, where it is, and the interpreter that can import it."""


@frozen(kw_only=True)
class Environment:
    """One generation of an environment.

    Attributes:
        name: Name of the environment.
        place: Its directory.
        locked: What is in it.
        found: What its plugins offer, by name.
        fits: Whether this engine can talk to its workers.
    """

    name: str
    place: Path
    locked: Locked
    found: Mapping[str, Described]
    fits: bool = True

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.place / "bin" / "python")


class Environments:
    """The environments below a directory. One thread at a time changes them.

    Args:
        root: The data directory.
        describe: Finds out what a plugin of an environment offers.
        check: Whether an environment may bring plugins of these names; raises if not.
        tool: Makes the tool that installs, given a directory with wheels, or None for an index.
    """

    def __init__(
        self,
        root: Path,
        describe: Describe,
        check: Callable[[str, Collection[str]], None] = lambda name, plugins: None,
        tool: Callable[[Path | None], Tool] = lambda wheels: Tool(wheels=wheels),
    ) -> None:
        self._root = root / "environments"
        self._lock_file = root / LOCK
        self._describe = describe
        self._check = check
        self._tool = tool
        self._changing = threading.Lock()

    # ---- what there is

    def names(self) -> list[str]:
        """The names of the environments, sorted."""
        try:
            return sorted(one.name for one in self._root.iterdir() if (one / _CURRENT).is_file())
        except OSError:
            return []

    def current(self, name: str) -> Environment:
        """The generation of an environment that is used.

        Raises:
            NotFound: If there is none.
        """
        generation = self._used(name)
        if generation is None:
            raise NotFound(f"there is no environment {name!r}; there are: {', '.join(self.names()) or 'none'}")
        return self._read(name, self._root / name / generation)

    def _read(self, name: str, place: Path) -> Environment:
        """A generation, as its file says.

        Raises:
            NotFound: If that cannot be read.
        """
        try:
            data = json.loads((place / _ABOUT).read_text("utf-8"))
            found = {plugin: Described.from_plain(one) for plugin, one in data["found"].items()}
            fits = data["protocol"] == PROTOCOL and (place / "bin" / "python").exists()
            return Environment(name=name, place=place, locked=Locked.from_json(data["locked"]), found=found, fits=fits)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotFound(
                f"the environment {name!r} in {place} cannot be read ({error!r}); `walmill plugin sync` makes it anew"
            ) from None

    def all(self) -> list[Environment]:
        """The generations that are used; what cannot be read is told in the log."""
        found = []
        for name in self.names():
            try:
                found.append(self.current(name))
            except NotFound as error:
                log.error("an environment is left out", error=error.message)
        return found

    # ---- changes

    def install(self, text: str, say: Say, *, wheels: Path | None = None) -> Environment:
        """Makes an environment for the plugins of a source.

        Args:
            text: The source.
            say: Takes what is said meanwhile.
            wheels: A directory with wheels, in place of an index.

        Returns:
            The environment, which is used from now on.

        Raises:
            InvalidRequest: If the source means nothing, or has no plugin.
            Conflict: If it is installed already.
            InstallFailed: If it cannot be installed.
        """
        source = parse_source(text)
        with self._changing:
            name = self._name_of(source)
            if name in self.names():
                raise Conflict(
                    f"{name} is installed already; `walmill plugin upgrade {name}` looks for a newer version"
                )
            return self._build(name, source, say, wheels)

    def upgrade(self, name: str, say: Say, *, wheels: Path | None = None) -> tuple[Environment, bool]:
        """Makes an environment anew from its source, as that is now.

        Returns:
            The environment, and whether anything in it has changed; if nothing has, it is the one that was there.

        Raises:
            NotFound: If there is none of that name.
            InstallFailed: If that is not possible; then what is there stays.
        """
        with self._changing:
            old = self.current(name)
            made = self._build(
                name, parse_source(old.locked.source), say, wheels, unless=old.locked if old.fits else None
            )
            return made, made.place != old.place

    def rollback(self, name: str) -> Environment:
        """Uses the generation again that was used before.

        Raises:
            NotFound: If there is none.
        """
        with self._changing:
            current = self.current(name)
            older = [one for one in self._generations(name) if int(one.name) < int(current.place.name)]
            for place in reversed(older):
                with contextlib.suppress(NotFound):  # one that cannot be read is none
                    found = self._read(name, place)
                    if found.fits:
                        self._use(found)
                        return found
            raise NotFound(f"there is no older version of {name} here that could be used")

    def remove(self, name: str) -> None:
        """Removes an environment with all generations.

        Raises:
            NotFound: If there is none.
        """
        with self._changing:
            if name not in self.names():
                self.current(name)  # which says what there is
            gone = Path(tempfile.mkdtemp(prefix=".old-", dir=self._root))
            (self._root / name).rename(gone / name)
            self._declare(name, None)
        shutil.rmtree(gone, ignore_errors=True)

    def outdated(self, say: Say, *, wheels: Path | None = None) -> list[dict[str, Any]]:
        """What could be upgraded: `name`, `source`, `current`, `newest`, each of the latter a version or a commit.

        Raises:
            InstallFailed: If a source cannot be asked.
        """
        found = []
        for one in self.all():
            source, locked = parse_source(one.locked.source), one.locked
            now, then = locked.version, None
            if source.kind == "git":
                now, then = locked.commit, self._repository(source).find(source.ref, source.subdirectory, say).commit
            elif source.kind == "index":
                own = self._own()
                tool = attrs.evolve(self._tool(wheels), own=own[0].parent)
                for pin in tool.resolve(Path(one.python), [source.address, *OWN], say):
                    if same_name(pin.name) == same_name(requirement_name(source.address)):
                        then = pin.version
            if then is not None and then != now:
                found.append({"name": one.name, "source": locked.source, "current": now, "newest": then})
        return found

    def sync(self, say: Say, *, wheels: Path | None = None) -> Iterator[Environment]:
        """Makes the environments that the lock file declares and that are not there as it says.

        Yields:
            Each that was made, which is used from then on, also if the next one fails.

        Raises:
            FileNotFoundError: If there is no lock file.
            InvalidRequest: If it cannot be read.
            InstallFailed: If one cannot be made as it was.
        """
        with self._changing:
            for name, wanted in self.declared().items():
                with contextlib.suppress(NotFound):
                    there = self.current(name)
                    # another version of Python is no other plugin
                    if there.fits and attrs.evolve(there.locked, python=wanted.python) == wanted:
                        continue
                say(f"{name}: {wanted.version or wanted.commit or wanted.source}")
                yield self._build(name, parse_source(wanted.source), say, wheels, wanted=wanted)

    def declared(self) -> dict[str, Locked]:
        """What the lock file declares.

        Raises:
            FileNotFoundError: If there is none.
            InvalidRequest: If it cannot be read.
        """
        return read_lock(self._lock_file)

    # ---- building

    def _name_of(self, source: PluginSource) -> str:
        if source.kind == "index":
            return same_name(requirement_name(source.address))
        last = (source.subdirectory or source.address).rstrip("/").rsplit("/", 1)[-1]
        name = same_name(last.removesuffix(".git").removesuffix(".whl").split("-py3")[0]).strip("-")
        if not name:
            raise InvalidRequest(f"{source.text!r:.100} gives the plugin no name")
        return name

    def _repository(self, source: PluginSource) -> Repository:
        place = self._root / ".git"
        place.mkdir(parents=True, exist_ok=True)
        return Repository(place, source.address)

    def _own(self) -> list[Path]:
        return own_wheels(self._root / ".wheels")

    def _build(
        self,
        name: str,
        source: PluginSource,
        say: Say,
        wheels: Path | None,
        *,
        unless: Locked | None = None,
        wanted: Locked | None = None,
    ) -> Environment:
        """Builds a generation and has it used.

        Args:
            name: Of the environment.
            source: What is installed.
            say: Takes what is said.
            wheels: A directory with wheels, in place of an index.
            unless: Nothing is built if it would come to this.
            wanted: What it has to come to exactly.
        """
        with contextlib.suppress(FileNotFoundError):
            self.declared()  # a lock file that cannot be read is not written over
        before = self._used(name)
        commit = None
        if source.kind == "git":
            repository = self._repository(source)
            if wanted is not None and wanted.commit and wanted.tree:
                commit = Commit(wanted.commit, wanted.tree)
            if commit is None or not repository.has(commit):
                asked = source.ref if wanted is None else wanted.commit
                commit_now = repository.find(asked, source.subdirectory, say)
                if wanted is not None and commit_now.tree != wanted.tree:
                    raise InstallFailed(
                        f"{source.address} has other files at {commit_now.commit[:12]} than the lock file says"
                    )
                commit = commit_now
            if unless is not None and commit.tree == unless.tree:
                return self.current(name)
            say(f"{source.address} is at {commit.commit}")
        own = self._own()
        tool = attrs.evolve(self._tool(wheels), own=own[0].parent)
        # never a number again: who still runs what was removed would find something else in its place
        place = self._root / name / str(time.time_ns() // 1_000_000)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        try:
            python = tool.make(place, say)
            project = self._project(source, commit, place)
            packaged = project is None or project.suffix == ".whl" or (project / "pyproject.toml").is_file()
            asked_for = [source.address if project is None else str(project)] if packaged else requirements_of(project)
            if wanted is None:
                pins = [one for one in tool.resolve(python, [*asked_for, *OWN], say) if same_name(one.name) not in OWN]
            else:
                pins = list(wanted.packages)
            if unless is not None and source.kind == "index" and tuple(pins) == unless.packages:
                shutil.rmtree(place, ignore_errors=True)
                return self.current(name)
            say(f"installing {len(pins)} distributions into {place}")
            tool.install(python, pins, project if packaged else None, say)
            tool.install_files(python, own, say)
            locked, found = self._look(source, commit, place, project if not packaged else None, pins)
            if wanted is not None and source.kind == "path" and locked.hash != wanted.hash:
                raise InstallFailed(f"{source.address} has other files than the lock file says")
            self._check(name, list(locked.plugins))
            made = Environment(name=name, place=place, locked=locked, found=found)
            (place / _ABOUT).write_text(
                json.dumps(
                    {
                        "protocol": PROTOCOL,
                        "locked": locked.to_json(),
                        "found": {plugin: one.to_plain() for plugin, one in found.items()},
                    }
                ),
                "utf-8",
            )
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            with contextlib.suppress(OSError):
                place.parent.rmdir()  # if there was none before
            raise
        self._use(made)
        # the way back leads to what was used before, and not to what was taken back itself
        kept = [one for one in self._generations(name) if before is not None and int(one.name) <= int(before)][
            1 - KEPT :
        ]
        for old in made.place.parent.iterdir():
            if old.name.isdigit() and old not in (made.place, *kept):
                shutil.rmtree(old, ignore_errors=True)
        return made

    def _project(self, source: PluginSource, commit: Commit | None, place: Path) -> Path | None:
        """The files of a source that is no requirement, where they stay as they are."""
        if source.kind == "index":
            return None
        if commit is not None:
            target = place / "source"
            self._repository(source).export(commit.tree, target)
            return target
        given = Path(source.address)
        if given.suffix == ".whl":
            return given
        target = place / "source"
        if given.is_file():
            target.mkdir()
            shutil.copy2(given, target / given.name)
        else:
            for file, path in paths_of(given):
                copy = target.joinpath(*file.split("/")[1:])
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
        return target

    def _look(
        self, source: PluginSource, commit: Commit | None, place: Path, files: Path | None, pins: Sequence[Pin]
    ) -> tuple[Locked, dict[str, Described]]:
        """What is there now: the plugins, and what they offer."""
        site = next((place / "lib").glob("python3*")) / "site-packages"
        distribution: Any = None
        plugins: dict[str, str] = {}
        if files is not None:
            plugins = plain_plugins(files)
        else:
            wanted = same_name(requirement_name(source.address)) if source.kind == "index" else None
            for one in importlib_metadata.distributions(path=[str(site)]):
                entries = {entry.name: entry.value for entry in one.entry_points if entry.group == PROJECT}
                direct = one.read_text("direct_url.json") is not None and same_name(one.name) not in OWN
                if entries and (same_name(one.name) == wanted if wanted is not None else direct):
                    distribution, plugins = one, entries
        if not plugins:
            raise InvalidRequest(
                f"{source.text} has no plugin: it needs an entry point in the group {PROJECT!r}, or, without a pyproject.toml, "
                "files with hooks"
            )
        python = str(place / "bin" / "python")
        found = {name: self._describe(name, value, python) for name, value in plugins.items()}
        for name, offered in found.items():
            if offered.broken is not None:
                raise InstallFailed(f"the plugin {name!r} is broken: {offered.broken}")
        if files is None:
            content = installed_content(distribution)
        else:
            content = {name: path.read_bytes() for name, path in paths_of(files)}
        return (
            Locked(
                source=source.text,
                distribution=None if distribution is None else distribution.name,
                version=None if distribution is None else distribution.version,
                commit=None if commit is None else commit.commit,
                tree=None if commit is None else commit.tree,
                hash=digest_of(content),
                python=f"{sys.version_info.major}.{sys.version_info.minor}",
                packages=tuple(pins),
                plugins={name: _relative(value, place) for name, value in plugins.items()},
            ),
            found,
        )

    def _used(self, name: str) -> str | None:
        """The name of the generation that is used; None if there is none."""
        try:
            return (self._root / name / _CURRENT).read_text("utf-8").strip()
        except (OSError, ValueError):
            return None

    def _generations(self, name: str) -> list[Path]:
        """The generations of an environment that were finished, the oldest first."""
        try:
            found = [one for one in (self._root / name).iterdir() if one.name.isdigit() and (one / _ABOUT).is_file()]
        except OSError:
            return []
        return sorted(found, key=lambda one: int(one.name))

    def _use(self, made: Environment) -> None:
        write_whole(self._root / made.name / _CURRENT, made.place.name)
        self._declare(made.name, made.locked)

    def _declare(self, name: str, locked: Locked | None) -> None:
        """Notes in the lock file what an environment has, or that it is gone; what it says of others stays."""
        declared: dict[str, Locked] = {}
        with contextlib.suppress(FileNotFoundError):
            declared = self.declared()
        declared.pop(name, None)
        if locked is not None:
            declared[name] = locked
        write_lock(self._lock_file, declared)


def value_in(environment: Environment, plugin: str) -> str:
    """Where a plugin of an environment is found, as `walmill_worker.describe.load` reads it."""
    return environment.locked.plugins[plugin].replace("{environment}", str(environment.place))


def _relative(value: str, place: Path) -> str:
    return value.replace(str(place), "{environment}")
