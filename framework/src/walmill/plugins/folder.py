"""The plugin directory: single files and packages that are plugins as soon as they are there, and change when they are edited."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import define, frozen
from watchfiles import watch

from walmill.errors import InvalidRequest, described
from walmill.observe.log import get_logger
from walmill.plugins.content import Signature, Tree, Unsettled, paths_of, read_tree, signature_of
from walmill.plugins.description import PluginDescription
from walmill.plugins.places import Place, entries_of, find_plugin
from walmill.plugins.registry import Inspector, Registry
from walmill.plugins.shelf import Shelf
from walmill.plugins.upload import sweep
from walmill_worker import PROTOCOL
from walmill_worker.describe import Described

STEP_MS = 5
"""So long nothing more has to happen in the directory before it is looked at, but never longer than `DEBOUNCE_MS`. That files are
left alone for a while is seen to when they are read."""
DEBOUNCE_MS = 60
GONE_SECONDS = 0.15
"""What is not there for so long is gone; editors take files away for a moment."""
POLL_SECONDS = 2.0
"""The directory is looked at so often anyway: not every file system tells of changes."""

logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts changes
log = get_logger("walmill.plugins")


@frozen
class _Candidate:
    """What may be a plugin.

    Attributes:
        path: Its file or its directory.
        entry: The entry point, of a project that has several; else empty.
    """

    path: Path
    entry: str = ""

    @property
    def place(self) -> str:
        """Which part of a copy of it is meant, below where the copy is."""
        return f"{self.path.name}#{self.entry}" if self.entry else self.path.name


@frozen
class _Version:
    """A version of a plugin that may come to be used.

    Attributes:
        name: Name of the plugin.
        candidate: Where people see it.
        seen: What was seen of it before.
        digest: Hash of the version.
        value: Where it is on the shelf.
        known: What is known of it already.
    """

    name: str
    candidate: _Candidate
    seen: _Seen
    digest: str
    value: str
    known: Described | None


@define
class _Seen:
    """What was last seen of a plugin.

    Attributes:
        signature: Of its files.
        digest: Hash of the version that is used; None if none ever could be.
        tried: Hash of the version that was looked at last.
        plain: Description of the version that is used.
        missing: Since when it is not there, `time.monotonic()`.
    """

    signature: Signature = ()
    digest: str | None = None
    tried: str | None = None
    plain: dict[str, Any] | None = None
    missing: float | None = None


class PluginFolder:
    """A plugin directory.

    Args:
        path: The directory; it need not exist yet.
        shelf: Where versions are kept.
        registry: Is told what there is.
        inspect: Finds out what plugins offer.
        changed: Called, from the thread that watches, with the names of plugins that have changed, come or gone.

    Attributes:
        path: The directory.
        writing: Held by who writes into it for others.
    """

    def __init__(
        self,
        path: Path,
        shelf: Shelf,
        registry: Registry,
        inspect: Inspector,
        changed: Callable[[Collection[str]], None],
    ) -> None:
        self.path = path
        self._shelf = shelf
        self._registry = registry
        registry.shelf = shelf.root
        self._inspect = inspect
        self._changed = changed
        self._seen: dict[str, _Seen] = {}
        self._scanning = threading.Lock()
        self.writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, inspect: Inspector) -> None:
        """Finds what is there, and remembers which versions were good; returns when all is known.

        Args:
            inspect: Finds out what plugins offer, as long as the engine is not there for it.
        """
        sweep(self.path)
        kept = self._shelf.load()
        if kept.get("protocol") == PROTOCOL:
            for name, one in kept.get("plugins", {}).items():
                self._seen[name] = _Seen(digest=one["hash"], plain=one["description"])
        later, self._inspect = self._inspect, inspect
        try:
            while self.scan(tell=False) and not self._stop.wait(GONE_SECONDS):
                pass
        finally:
            self._inspect = later
        self._shelf.prune(self._used())

    def start(self) -> None:
        """Watches from now on."""
        self._thread = threading.Thread(target=self._watch, name="walmill-plugins", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watches no longer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            if not self.path.is_dir():
                self.look()
                self._stop.wait(0.25)
                continue
            try:
                for _ in watch(
                    self.path,
                    watch_filter=None,
                    debounce=DEBOUNCE_MS,
                    step=STEP_MS,
                    stop_event=self._stop,
                    rust_timeout=round(POLL_SECONDS * 1000),
                    yield_on_timeout=True,
                    raise_interrupt=False,
                ):
                    self.look()
                    if not self.path.is_dir():
                        break
            except (OSError, RuntimeError) as error:  # gone, or no watches left: it is looked at now and then
                log.warning("the plugin directory cannot be watched", directory=str(self.path), error=str(error))
                self._stop.wait(POLL_SECONDS)
                self.look()

    def look(self) -> None:
        """Looks through the directory until it has come to rest; from any thread. Never raises."""
        try:
            again = self.scan()
            while again and not self._stop.wait(GONE_SECONDS):
                again = self.scan()
        except Exception:
            log.exception("the plugin directory could not be looked through", directory=str(self.path))

    def scan(self, *, tell: bool = True) -> bool:
        """Looks through the directory once.

        Args:
            tell: Whether `changed` is called.

        Returns:
            Whether something has to be looked at again soon: it was being written, or has just vanished.
        """
        with self._scanning:
            there = self._candidates()
            again = False
            changed: set[str] = set()
            versions: list[_Version] = []
            for name, one in there.items():
                seen = self._seen.setdefault(name, _Seen())
                seen.missing = None
                try:
                    if signature_of(paths_of(one.path)) == seen.signature:
                        continue
                    tree = read_tree(one.path, self._sleep)
                except (FileNotFoundError, Unsettled):
                    again = True
                    continue
                except (OSError, InvalidRequest) as error:
                    self._bad(name, one, seen, described(error) if isinstance(error, OSError) else str(error))
                    continue
                version = self._version(name, one, seen, tree)
                if version is not None:
                    versions.append(version)
            changed |= self._take(versions)
            for name, seen in list(self._seen.items()):
                if name in there:
                    continue
                now = time.monotonic()
                if seen.missing is None:
                    seen.missing = now
                if now - seen.missing < GONE_SECONDS and seen.signature:
                    again = True
                    continue
                del self._seen[name]
                if self._registry.discard(name, str(self.path)):
                    changed.add(name)
            if changed and tell:
                self._changed(changed)
            if changed:  # after that, as it waits for the disk; what was not noted is looked at again by the next start
                self._save()
        return again

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _candidates(self) -> dict[str, _Candidate]:
        found: dict[str, _Candidate] = {}
        try:
            entries = sorted(self.path.iterdir())
        except OSError:
            return {}
        for path in entries:
            if path.name.startswith((".", "_")) or path.name.endswith(".egg-info"):
                continue
            if path.suffix == ".py" and path.is_file():
                found.setdefault(path.stem, _Candidate(path))  # a directory of that name goes before it
            elif path.is_dir() and (path / "pyproject.toml").is_file():
                several = self._entries(path)
                found |= {f"{path.name}.{entry}": _Candidate(path, entry) for entry in several}
                if not several:
                    found[path.name] = _Candidate(path)
            elif path.is_dir() and (path / "__init__.py").is_file():
                found[path.name] = _Candidate(path)
        return found

    def _entries(self, path: Path) -> list[str]:
        """The entry points of a project that has several; those that it had, while that cannot be read."""
        try:
            entries = sorted(entries_of(path / "pyproject.toml"))
        except InvalidRequest:
            begins = f"{path.name}."
            return [name.removeprefix(begins) for name in self._seen if name.startswith(begins)]
        return entries if len(entries) > 1 else []

    def _version(self, name: str, candidate: _Candidate, seen: _Seen, tree: Tree) -> _Version | None:
        """What was read, on the shelf; None if there is nothing to be done about it."""
        seen.signature = tree.signature
        known = self._registry.peek(name)
        current = tree.digest == seen.digest
        if current and known is not None:  # an edit that was bad was taken back, or a file was touched
            seen.tried = tree.digest
            self._registry.note_problem(name, None)
            return None
        if tree.digest == seen.tried:
            return None
        seen.tried = tree.digest
        try:
            place = find_plugin(str(self._shelf.keep(tree.digest, tree.files) / candidate.place))
        except InvalidRequest as error:
            self._bad(name, candidate, seen, error.message)
            return None
        except OSError as error:
            seen.signature, seen.tried = (), None  # it is tried again
            self._bad(name, candidate, seen, f"its files could not be kept: {described(error)}")
            return None
        shadowed = _shadowed(place, self._shelf.root)
        if shadowed is not None:
            self._bad(name, candidate, seen, shadowed)
            return None
        found = Described.from_plain(seen.plain) if current and seen.plain is not None else None
        return _Version(name, candidate, seen, tree.digest, place.value, found)

    def _take(self, versions: Sequence[_Version]) -> set[str]:
        """Has versions used that can be; gives the names of the plugins for which that changes anything."""
        unknown = [(one.name, one.value) for one in versions if one.known is None]
        made = self._inspect(unknown) if unknown else {}
        changed = set()
        for one in versions:
            found = made[one.name] if one.known is None else one.known
            if found.broken is not None:
                if self._bad(one.name, one.candidate, one.seen, found.broken):
                    changed.add(one.name)
                continue
            one.seen.digest, one.seen.plain = one.digest, found.to_plain()
            path = one.candidate.path
            if self._registry.put(self._described(one.name, one.value, path, one.digest, found)):
                changed.add(one.name)
                log.info("a plugin is used as it is now", plugin=one.name, file=str(path), hash=one.digest[:12])
        return changed

    def _bad(self, name: str, candidate: _Candidate, seen: _Seen, cause: str) -> bool:
        """A version cannot be used: the one before it stays; without one, the plugin is broken."""
        path = candidate.path
        log.warning("a plugin was edited and cannot be used so", plugin=name, file=str(path), error=cause)
        if seen.digest is None or seen.plain is None:
            return self._registry.put(self._described(name, "", path, seen.tried, Described(broken=cause)))
        if self._registry.peek(name) is None:  # a start that finds a broken edit
            last = self._shelf.find(seen.digest, path.name)
            if last is None:
                return self._registry.put(self._described(name, "", path, seen.tried, Described(broken=cause)))
            place = find_plugin(str(last.with_name(candidate.place)))
            known = Described.from_plain(seen.plain)
            self._registry.put(self._described(name, place.value, path, seen.digest, known))
            self._registry.note_problem(name, cause)
            return True
        self._registry.note_problem(name, cause)
        return False

    def _described(self, name: str, value: str, path: Path, digest: str | None, found: Described) -> PluginDescription:
        plain = PluginDescription(name=name, value=value, location=str(path), digest=digest)
        return plain.with_found(found)

    def _used(self) -> list[str]:
        return [digest for seen in self._seen.values() for digest in (seen.digest, seen.tried) if digest is not None]

    def _save(self) -> None:
        good = {
            name: {"hash": seen.digest, "description": seen.plain}
            for name, seen in self._seen.items()
            if seen.digest is not None
        }
        try:
            self._shelf.save({"protocol": PROTOCOL, "plugins": good})
            self._shelf.prune(self._used())
        except OSError as error:
            log.warning("it cannot be noted which plugins are good", error=described(error))


def _shadowed(place: Place, shelf: Path) -> str | None:
    """Why a package would hide an installed module of the same name from everything else in its process; None if it does not."""
    entry = place.value.rpartition("#")[2]
    if not entry:
        return None
    top = entry.split(":")[0].split(".")[0]
    if top in sys.stdlib_module_names:
        return f"its package is called {top!r} as a module of Python; give it another name"
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    origin = "" if spec is None else (spec.origin or "".join(spec.submodule_search_locations or ()))
    if origin and not origin.startswith(str(shelf)):
        return f"its package is called {top!r} as one that is installed; give it another name, or uninstall that one"
    return None
