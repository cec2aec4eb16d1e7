"""What `walmill doctor` looks at: each check turns facts into a line with a result and a remedy. Pure but for the gathering."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from attrs import frozen

from walmill.errors import WalmillError
from walmill.settings.load import unknown_variables
from walmill.settings.model import Settings, is_loopback
from walmill.units import format_size

Status = Literal["ok", "note", "warning", "failed"]

MIN_PYTHON = (3, 11)
EARLIEST = 1_735_689_600
"""2025-01-01: no clock that runs right shows less."""
NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "fuse.glusterfs"}
)
VOLATILE_TYPES = frozenset({"tmpfs", "ramfs"})


@frozen
class Check:
    """One line of the table.

    Attributes:
        name: What was looked at.
        status: `ok`; `note` (worth knowing); `warning` (works, but); `failed` (a server cannot run, or not safely).
        result: What was found.
        remedy: What to do; empty if there is nothing.
    """

    name: str
    status: Status
    result: str
    remedy: str = ""


def check_python(version: Sequence[int]) -> Check:
    """Whether the interpreter is new enough."""
    shown = ".".join(str(part) for part in version[:3])
    if tuple(version[:2]) >= MIN_PYTHON:
        return Check("python", "ok", shown)
    return Check("python", "failed", shown, "install Python 3.11 or newer and Walmill into it")


def check_packages(required: Sequence[str], version_of: Callable[[str], str | None]) -> Check:
    """Whether what Walmill needs is installed.

    Args:
        required: Requirements of the distribution, as in its metadata.
        version_of: Version of a distribution; None if it is not installed.
    """
    names = [match[0] for text in required if "extra ==" not in text and (match := re.match(r"[A-Za-z0-9._-]+", text))]
    missing = [name for name in names if version_of(name) is None]
    if not names:
        return Check("packages", "warning", "walmill is not installed as a package", "pip install walmill")
    if missing:
        return Check("packages", "failed", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Check("packages", "ok", f"{len(names)} needed, all installed")


def check_directory(path: Path) -> Check:
    """Whether the data directory can be used or made."""
    name = "data directory"
    if path.is_dir():
        if os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return Check(name, "ok", str(path))
        return Check(
            name,
            "failed",
            f"{path} cannot be read and written by this user",
            f"chown or chmod {path}, or take another --data-dir",
        )
    if os.path.lexists(path):
        return Check(name, "failed", f"{path} is no directory", "take another --data-dir")
    parent = _existing(path)
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Check(name, "ok", f"{path} will be made")
    return Check(name, "failed", f"{path} is not there, and {parent} cannot be written", "take another --data-dir")


def check_space(free: int, total: int, segment_size: int) -> Check:
    """Whether there is room for the log.

    Args:
        free: Bytes free for this user.
        total: Bytes of the file system.
        segment_size: Bytes of a segment.
    """
    shown = f"{_size(free)} of {_size(total)} free"
    if free < 4 * segment_size:
        return Check(
            "disk space", "failed", shown, f"free at least {format_size(4 * segment_size)} (four segments of the log)"
        )
    if free * 20 < total:
        return Check("disk space", "warning", shown, "less than 5 % is free: writes will soon be refused; free some")
    return Check("disk space", "ok", shown)


def check_file_system(kind: str | None) -> Check:
    """Whether the file system keeps what is synced."""
    if kind is None:
        return Check("file system", "note", "unknown", "")
    if kind in VOLATILE_TYPES:
        return Check("file system", "warning", kind, "it is memory: all data is gone after a restart; take a disk")
    if kind in NETWORK_TYPES:
        return Check(
            "file system", "warning", kind, "locks and syncs over a network are not to be trusted; take a local disk"
        )
    if kind == "overlay":
        return Check(
            "file system", "warning", kind, "a container's own layer is gone with it; mount a volume for the data"
        )
    return Check("file system", "ok", kind)


def check_log(place: str | None, problem: str | None) -> Check:
    """Whether the object store for the log can be used.

    Args:
        place: What `wal` says; None or `local` for the data directory.
        problem: What it answered, if it cannot; None if it can, or was not asked.
    """
    name = "log"
    if place is None or place == "local":
        return Check(name, "ok", "wal in the data directory")
    if problem is not None:
        return Check(name, "failed", problem, "mend the bucket or the credentials, or name another with --wal")
    return Check(name, "ok", place)


def check_store(place: str | None, problem: str | None) -> Check:
    """Whether the object store can be used.

    Args:
        place: A directory or a URL; None for the directory in the data directory.
        problem: What it answered, if it cannot; None if it can, or was not asked.
    """
    name = "object store"
    if place is None:
        return Check(name, "ok", "objects in the data directory")
    if problem is not None:
        return Check(name, "failed", problem, "mend the bucket or the credentials, or name another with --object-store")
    if place.lower().startswith("memory:"):
        return Check(
            name, "warning", "memory://: what is in it is gone with the server", "name a directory or a bucket"
        )
    return Check(name, "ok", place)


def store_problem(place: str | None) -> str | None:
    """What an object store answers when it is asked to read, write, list, and create only if absent; None if all is well."""
    if place is None or "://" not in place:
        return None
    from walmill.objects.open import open_store

    try:
        open_store(place).close()
    except WalmillError as error:
        return error.message
    return None


def check_clock(now: float, newest: float | None) -> Check:
    """Whether the clock can be right.

    Args:
        now: Seconds since the epoch.
        newest: When something in the data directory was last written.
    """
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if now < EARLIEST:
        return Check("clock", "failed", shown, "the clock is years behind: set it, and run a time service")
    if newest is not None and newest > now + 5:
        ahead = newest - now
        return Check(
            "clock",
            "warning",
            f"{shown}, {ahead:,.0f} s before the newest data",
            "the clock went back: run a time service",
        )
    return Check("clock", "ok", shown)


def check_token(path: Path, uid: int) -> Check:
    """Whether only its owner reads the operator token."""
    from walmill.auth.tokens import file_problem

    if not os.path.lexists(path):
        return Check("operator token", "note", f"{path} is not there", "the first start of `walmill serve` writes it")
    problem = file_problem(path, uid)
    if problem is None:
        return Check("operator token", "ok", str(path))
    return Check(
        "operator token",
        "failed",
        problem,
        f"chmod 600 {path}; if others may have read it, make a new token and delete the old",
    )


def check_plugins(broken: Sequence[tuple[str, str]], count: int) -> Check:
    """Whether all plugins load.

    Args:
        broken: Name and cause of those that do not.
        count: How many there are.
    """
    if broken:
        shown = "; ".join(f"{name}: {cause}" for name, cause in broken)
        return Check("plugins", "failed", shown, "mend or uninstall it, or set no_plugin")
    return Check("plugins", "ok", f"{count} installed, none broken")


def check_variables(environ: Mapping[str, str]) -> Check:
    """Whether all `WALMILL_…` variables mean something."""
    unknown = unknown_variables(environ)
    if unknown:
        return Check("environment", "warning", "; ".join(unknown), "mend or unset it")
    return Check("environment", "ok", "no unknown WALMILL_ variable")


def check_lock(holder: str | None, held: bool) -> Check:
    """Whether a server runs on the directory.

    Args:
        holder: What is known of the process that holds the lock.
        held: Whether it is held.
    """
    if held:
        return Check("lock", "note", f"held by {holder or 'another process'}", "a server runs on this data directory")
    return Check("lock", "ok", "free")


def check_port(host: str, port: int, *, held: bool, answer: str | None, bind_error: str | None) -> Check:
    """Whether the port is free, or our server answers there.

    Args:
        host: The host of `http_bind`.
        port: Its port.
        held: Whether a server runs on the data directory.
        answer: What a Walmill said there; None if none answered.
        bind_error: Why the port cannot be taken; None if it can.
    """
    shown = f"{host}:{port}"
    if answer is not None:
        if held:
            return Check("port", "ok", f"{shown} is served: {answer}")
        return Check("port", "failed", f"{shown} is served by another Walmill: {answer}", "take another --http-bind")
    if bind_error is not None:
        return Check("port", "failed", f"{shown}: {bind_error}", "end what uses it, or take another --http-bind")
    if held:
        return Check(
            "port",
            "warning",
            f"nothing answers on {shown}",
            "the running server has another http_bind, or is just starting",
        )
    return Check("port", "ok", f"{shown} is free")


def gather(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Looks at this machine.

    Args:
        settings: As a server would have them.
        environ: The environment.

    Yields:
        The lines in the order of the table.
    """
    yield check_python(sys.version_info[:3])
    yield _packages()
    yield check_variables(environ)
    yield check_directory(settings.data_dir)
    place = _existing(settings.data_dir)
    usage = shutil.disk_usage(place)
    yield check_space(usage.free, usage.total, settings.segment_size)
    yield check_file_system(file_system_of(place, _mounts()))
    yield check_store(settings.object_store, store_problem(settings.object_store))
    yield check_log(settings.wal, store_problem(settings.wal))
    yield check_clock(time.time(), _newest(settings.data_dir))
    held, holder = lock_state(settings.data_dir)
    yield check_lock(holder, held)
    yield check_port(
        settings.host,
        settings.port,
        held=held,
        answer=_answer(settings),
        bind_error=None if held else _bind_error(settings.host, settings.port),
    )
    yield check_token(settings.token_file, os.getuid())
    yield _plugins(settings)


def _packages() -> Check:
    from importlib import metadata

    def version_of(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    try:
        required = metadata.requires("walmill") or []
    except metadata.PackageNotFoundError:
        required = []
    check = check_packages(required, version_of)
    if check.status != "ok":
        return check
    for name in ("pyarrow", "datafusion"):
        try:
            __import__(name)
        except ImportError as error:
            return Check(
                "packages", "failed", f"{name} does not load: {error}", f"pip install --force-reinstall {name}"
            )
    return check


def _plugins(settings: Settings) -> Check:
    from walmill.cli.here import registry_of

    found = registry_of(settings).inspect_all()
    return check_plugins([(one.name, one.cause or "") for one in found if one.status == "broken"], len(found))


def _existing(path: Path) -> Path:
    """The nearest directory above that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def file_system_of(path: Path, mounts: str) -> str | None:
    """The type of the file system that holds a path.

    Args:
        path: Absolute or not.
        mounts: What `/proc/self/mounts` says.
    """
    wanted = path.resolve()
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1]))
        if wanted.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), fields[2])
    return None if best is None else best[1]


def _newest(directory: Path) -> float | None:
    """When something in the directory was last written."""
    times = [entry.stat().st_mtime for entry in directory.rglob("*") if entry.is_file()] if directory.is_dir() else []
    return max(times, default=None)


def lock_state(directory: Path) -> tuple[bool, str | None]:
    """Whether a process has the directory, and what its lock says of it."""
    from walmill.fs.lock import holder

    try:
        found = holder(directory)
    except OSError:  # not ours to look at: the check of the directory says so
        found = None
    return found is not None, found


def _answer(settings: Settings) -> str | None:
    """What a Walmill on that port says of itself."""
    from walmill.cli.client import Client

    host, port = settings.host, settings.port
    if port == 0:
        return None
    scheme = "http" if settings.tls_cert is None else "https"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    try:
        with Client(
            f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}",
            timeout=3.0,
            verify=False,  # whether that port is taken by a Walmill; nothing secret is sent
        ) as client:
            said = client.ping()
    except WalmillError:
        return None
    return f"{said.get('product_name', 'a server')} {said.get('version', '')}, instance {said.get('process_id', 'unknown')}"


def _bind_error(host: str, port: int) -> str | None:
    """Why a port cannot be taken; None if it can."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None


def exposed(settings: Settings) -> Check | None:
    """A warning if everybody may do everything from elsewhere; None if not."""
    if settings.without_auth and not is_loopback(settings.host):
        return Check(
            "authentication",
            "warning",
            f"{settings.http_bind} is served without tokens",
            "leave --force-without-auth away",
        )
    return None
