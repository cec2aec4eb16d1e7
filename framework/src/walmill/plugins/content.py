"""The content of a plugin: its files, read so that none of them is half written, and the hash that names them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import importlib_metadata
from attrs import frozen

from walmill.errors import InvalidRequest

MOST_FILES = 2000
MOST_BYTES = 64 * 2**20
"""A plugin has at most so many files and bytes; data belong somewhere else."""
QUIET_SECONDS = 0.015
"""Files that were changed less long ago may be about to be changed further."""
_TRIES = 40
_SKIPPED = ("__pycache__", "node_modules")
_SUFFIXES = (".pyc", ".pyo", ".swp", "~")

Signature = tuple[tuple[str, int, int, int], ...]
"""Path, time of change (ns), size and inode of each file."""


@frozen
class Tree:
    """The files of a plugin.

    Attributes:
        files: What is in them, by their path below its directory, with slashes.
        digest: Their hash.
        signature: What they looked like when they were read.
    """

    files: Mapping[str, bytes]
    digest: str
    signature: Signature


class Unsettled(Exception):
    """Files keep changing while they are read."""


def digest_of(files: Mapping[str, bytes]) -> str:
    """The hash of files: SHA-256 over their paths and contents, sorted by path; 64 hexadecimal digits."""
    made = hashlib.sha256()
    for name in sorted(files):
        data = name.encode("utf-8", "surrogateescape")
        made.update(b"%d:%d:" % (len(data), len(files[name])))
        made.update(data)
        made.update(files[name])
    return made.hexdigest()


def paths_of(root: Path) -> list[tuple[str, Path]]:
    """The files of a plugin by their path below its directory; a file alone is all that there is of it.

    Hidden files, bytecode and what editors leave are left out.

    Raises:
        OSError: If a directory cannot be read.
        InvalidRequest: If there are too many.
    """
    if root.is_file():
        return [(root.name, root)]
    found: list[tuple[str, Path]] = []
    for place, directories, names in os.walk(root, onerror=_raise):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and name not in _SKIPPED)
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and not name.endswith(_SUFFIXES) and path.is_file():
                found.append((f"{root.name}/{path.relative_to(root).as_posix()}", path))
        if len(found) > MOST_FILES:
            raise InvalidRequest(f"{root} has more than {MOST_FILES:,} files; is it the directory of a plugin?")
    return found


def _raise(error: OSError) -> None:
    raise error


def signature_of(paths: Iterable[tuple[str, Path]]) -> Signature:
    """What files look like from outside."""
    made = []
    for name, path in paths:
        status = path.stat()
        made.append((name, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(made)


def read_tree(root: Path, sleep: Callable[[float], None] = time.sleep) -> Tree:
    """Reads a plugin when nobody writes it.

    Args:
        root: A file or a directory.
        sleep: Waits for who writes.

    Raises:
        OSError: If it is not there, or cannot be read.
        InvalidRequest: If it is too large.
        Unsettled: If it does not come to rest.
    """
    for attempt in range(_TRIES):
        try:
            paths = paths_of(root)
            before = signature_of(paths)
            if sum(size for _, _, size, _ in before) > MOST_BYTES:
                raise InvalidRequest(f"{root} has more than {MOST_BYTES // 2**20} MiB; data belong somewhere else")
            youngest = max((changed for _, changed, _, _ in before), default=0)
            age = (time.time_ns() - youngest) / 1e9
            if 0 <= age < QUIET_SECONDS:
                sleep(QUIET_SECONDS - age)
                continue
            files = {name: _read(path) for name, path in paths}
            if before == signature_of(paths) and [name for name, _ in paths] == [n for n, _ in paths_of(root)]:
                return Tree(files, digest_of(files), before)
        except FileNotFoundError:
            if attempt == _TRIES - 1 or not root.exists():
                raise
        except _Writing:
            pass
        sleep(QUIET_SECONDS)
    raise Unsettled


class _Writing(Exception):
    """Somebody has the file open for writing."""


def _read(path: Path) -> bytes:
    """The bytes of a file that nobody has open for writing, as far as the file system can tell."""
    with path.open("rb") as file:
        # a lease for reading is given only while nobody writes; who begins to write meanwhile waits until it is given back,
        # and the kernel tells us by a signal that nobody listens to (the one that it would take by itself ends a process)
        with contextlib.suppress(OSError, AttributeError):  # not every system has leases, nor every file system
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            try:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    raise _Writing from None
        return file.read()  # and closing the file ends the lease


def _recorded(entry_point: importlib_metadata.EntryPoint) -> list[str]:
    """What a distribution says that it has installed, if its plugin's modules are among that."""
    top = entry_point.value.split(":")[0].strip().split(".")[0]
    record = None if entry_point.dist is None else entry_point.dist.read_text("RECORD")
    lines = [] if record is None else [line for line in record.splitlines() if ".pyc," not in line]
    return lines if any(line.startswith((f"{top}/", f"{top}.py,")) for line in lines) else []


def loose_roots(entry_point: importlib_metadata.EntryPoint) -> list[Path]:
    """Where the files of a plugin are that may be edited where they are: of an editable installation; none of another one."""
    return [] if _recorded(entry_point) else installed_roots(entry_point.value)


def installed_digest(entry_point: importlib_metadata.EntryPoint) -> str | None:
    """The hash of an installed plugin: of what its distribution says it has installed, or, where that does not hold its modules
    (an editable installation), of the files themselves. Nothing is imported.
    """
    if lines := _recorded(entry_point):
        return digest_of({"RECORD": "\n".join(sorted(lines)).encode()})
    try:
        roots = installed_roots(entry_point.value)
        return (
            digest_of({name: path.read_bytes() for root in roots for name, path in paths_of(root)}) if roots else None
        )
    except (OSError, InvalidRequest):
        return None


def installed_roots(value: str) -> list[Path]:
    """Where the modules of an entry point are, without importing anything: a file, or the directories of a package."""
    try:
        spec = find_spec(value.split(":", maxsplit=1)[0].strip().split(".")[0])
    except (ValueError, ImportError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    return [Path(place) for place in places if place]
