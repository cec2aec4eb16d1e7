"""What tests share that need an installation of their own: wheels of this checkout, fresh environments, servers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with wheels of the contract and the engine, built without network."""
    made = tmp_path_factory.mktemp("wheels")
    for package in (ROOT / "hookspecs", ROOT):
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
        until = time.monotonic() + 30
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
        until = time.monotonic() + 20
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
