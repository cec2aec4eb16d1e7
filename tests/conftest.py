"""What tests share: a watch for what they leave behind; wheels of this checkout, fresh environments and servers in them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# No test depends on how fast the machine is, and each run tries the same examples; `--hypothesis-profile explore` tries others.
settings.register_profile("walmill", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("walmill")

SETTLE = 2.0  # seconds in which what is about to end may end; only a test that seems to leak waits
SOON = 0.05


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that are slow anyway have more time on a machine that is busy."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(400))


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: the collector need not look at it after each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _runtimes() -> None:
    """DataFusion starts two, one to plan and one for loops, and obstore one, at their first use, for the life of the process."""
    import obstore
    from datafusion import SessionContext
    from obstore.store import MemoryStore

    async def stream() -> list[Any]:
        return [batch async for batch in SessionContext().sql("SELECT 1").execute_stream()]

    assert asyncio.run(stream())
    assert obstore.put(MemoryStore(), "a", b"b")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands remember between two calls does not go where the person who runs the tests has it."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves an open file, a thread, a task or a child process behind.

    It is the first of a test's own fixtures, so it sees what they leave as well; what fixtures of a module or a session
    opened is there before it looks. What a library of others leaves is marked at the test: `may_leave("thread", reason="…")`.
    """
    marks = request.node.iter_markers("may_leave")
    allowed = tuple(
        f"{start} {kind}" for mark in marks for kind in mark.args for start in ("an open", "the", "the child")
    )
    if "_opened" in request.fixturenames:  # the tests of `plugin_suite` share an engine, which keeps its own
        allowed += ("an open file, /memfd:walmill", "the thread 'walmill-pool")
    before = (_files(), _threads(), _tasks(), _children())
    yield
    begun = time.monotonic()
    while leaks := [leak for leak in _leaks(*before) if not leak.startswith(allowed)]:
        lasted = time.monotonic() - begun
        if lasted > SETTLE:
            pytest.fail(f"the test left behind: {'; '.join(leaks)}", pytrace=False)
        if lasted > SOON:  # most end by themselves, and the collector takes a third of a second by the end of the suite
            gc.collect()
        time.sleep(0.002)


def _leaks(files: Counter[str], threads: set[threading.Thread], tasks: set[Any], children: dict[str, str]) -> list[str]:
    """What is there now and was not there before, each in words."""
    return [
        *(f"an open file, {target}" for target in sorted((_files() - files).elements())),
        *(f"the thread {thread.name!r}" for thread in _threads() - threads),
        *(f"the task {task.get_name()!r} of {task.get_coro()!r}" for task in _tasks() - tasks),
        *(f"the child process {command}" for command in _new(_children(), children)),
    ]


def _new(children: dict[str, str], before: dict[str, str]) -> list[str]:
    """The commands of new children. A server of the module's that a test ended and started again is no new one."""
    added = Counter(command for child, command in children.items() if child not in before)
    return sorted((added - Counter(command for child, command in before.items() if child not in children)).elements())


def _files() -> Counter[str]:
    """What the open file descriptors point to. The same file under another number is no leak."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a path object for each would cost more than all else here
        with contextlib.suppress(OSError):  # the one that listed them
            found[os.readlink(f"/proc/self/fd/{number}")] += 1  # noqa: PTH115 - the same
    return found


def _threads() -> set[threading.Thread]:
    """Threads that hold up the end of the process, and those of an engine."""
    return {one for one in threading.enumerate() if not one.daemon or one.name.startswith("walmill")}


def _tasks() -> set[Any]:
    """Tasks of all loops that are not done. `asyncio.all_tasks` wants to be told the loop, and leaked loops are unknown."""
    kept = getattr(asyncio.tasks, "_scheduled_tasks", None) or getattr(asyncio.tasks, "_all_tasks", ())
    return {task for task in list(kept) if not task.done()}


def _children() -> dict[str, str]:
    """The child processes by number, with their commands; ended ones that nobody waited for as well."""
    found: dict[str, str] = {}
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # none: the usual case, found out at once
        return found
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            for child in (thread / "children").read_text().split():
                with contextlib.suppress(OSError):  # a child that did
                    found[child] = _command(Path("/proc", child))
    return found


def _command(process: Path) -> str:
    command = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return command or f"{(process / 'comm').read_text().strip()}, which has ended and was not waited for"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with wheels of the contract and the engine, built without network."""
    made = tmp_path_factory.mktemp("wheels")
    for package in (ROOT / "hookspecs", ROOT / "framework" / "worker", ROOT):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that shows the third-party packages of the running environment, and nothing of Walmill."""
    shown = tmp_path_factory.mktemp("third-party")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if entry.suffix != ".pth" and not entry.name.startswith(("walmill", "_walmill", "__pycache__", "pip")):
                (shown / entry.name).symlink_to(entry)
    return shown


@pytest.fixture
def fresh(tmp_path: Path, wheels: Path, third_party: Path) -> Mapping[str, str]:
    """The environment variables of a fresh virtual environment: Walmill from its wheels, pip without network."""
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "third_party.pth").write_text(f"{third_party}\n")
    pip = [str(home / "bin" / "pip"), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, *map(str, wheels.glob("*.whl"))], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WALMILL_", "PYTHON", "VIRTUAL"))}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        **kept,
        "PATH": f"{home / 'bin'}:{kept['PATH']}",
        "VIRTUAL_ENV": str(home),
        "WALMILL_HTTP_BIND": f"127.0.0.1:{port}",
        "WALMILL_HOST_URL": f"http://127.0.0.1:{port}",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "NO_COLOR": "1",
    }


Start = Callable[[list[str]], None]


@pytest.fixture
def start(tmp_path: Path, fresh: Mapping[str, str]) -> Iterator[Start]:
    """Starts a server in the fresh environment and waits until it is ready; in the end it must stop in order."""
    running: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "server.log"

    def run(command: list[str]) -> None:
        with log.open("ab") as told:
            server = subprocess.Popen(command, cwd=tmp_path, env=dict(fresh), stderr=told)
        running.append(server)
        until = time.monotonic() + 60
        while True:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, f"the server does not get ready\n{log.read_text()}"
            try:
                with urllib.request.urlopen(f"{fresh['WALMILL_HOST_URL']}/ready", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)

    yield run
    for server in running:
        server.send_signal(signal.SIGTERM)
    assert [server.wait(30) for server in running] == [0] * len(running), log.read_text()


Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, fresh: Mapping[str, str]) -> Run:
    """Runs a command in the fresh environment until it succeeds and says all of `expected`.

    Only a query is asked again, for a while: a plugin runs after the acknowledgement.
    """

    def once(command: str, *expected: str, directory: Path = tmp_path) -> str:
        until = time.monotonic() + 60
        while True:
            done = subprocess.run(
                command, shell=True, cwd=directory, env=dict(fresh), capture_output=True, text=True, check=False
            )
            said = done.stdout + done.stderr
            if done.returncode == 0 and all(line in said for line in expected):
                return said
            again = command.startswith("walmill query") and time.monotonic() < until
            assert again, f"$ {command}\n{said}\nexpected: {expected}"
            time.sleep(0.1)

    return once
