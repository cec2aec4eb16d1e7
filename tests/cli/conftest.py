"""One real server, `walmill serve`, for all tests of the command line; and commands that are run in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from attrs import define

from walmill.cli.main import run as command_line

DEADLINE = 60.0
WALMILL = (sys.executable, "-c", "from walmill.cli.main import main; main()")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what steers Walmill."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WALMILL_")}
    return {**kept, "NO_COLOR": "1", **more}


@define
class Server:
    """A server process.

    Attributes:
        process: The process.
        directory: In which it was started; its data is in `walmill-data`.
        log: Its standard error.
        url: Where it listens.
    """

    process: subprocess.Popen[bytes]
    directory: Path
    log: Path
    url: str = ""

    @property
    def token(self) -> str:
        """The operator token."""
        return (self.directory / "walmill-data" / "operator-token").read_text().strip()

    def events(self) -> list[dict[str, object]]:
        """The whole lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def end(self) -> int:
        """Ends it in order."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


def serve(directory: Path, *flags: str, **environment: str) -> Server:
    """Starts `walmill serve` on a free port, and waits until it listens."""
    # its own: a child of a server that a test killed could still be writing into that one's
    log = directory / f"server-{len(list(directory.glob('server-*.log')))}.log"
    with log.open("xb") as output:
        process = subprocess.Popen(
            [*WALMILL, "serve", "--http-bind", "127.0.0.1:0", *flags],
            cwd=directory,
            env=clean_environment(**environment),
            stdout=output,
            stderr=output,
        )
    server = Server(process, directory, log)
    until = time.monotonic() + DEADLINE
    while not server.url:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
        text = log.read_text()
        for line in text[: text.rfind("\n") + 1].splitlines():
            event = json.loads(line)
            if event["event"] == "listening":
                server.url = event["url"]
    return server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of a test's own; what still runs in the end is killed."""
    started: list[Server] = []

    def run(*flags: str, **environment: str) -> Server:
        started.append(serve(tmp_path, *flags, **environment))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait(DEADLINE)


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Puts a distribution of plugins on disk, as pip would; gives the variables with which a process finds it."""
    site = tmp_path / "site"

    def put(name: str, plugins: Mapping[str, str], modules: Mapping[str, str]) -> dict[str, str]:
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "".join(f"{plugin} = {value}\n" for plugin, value in plugins.items())
        (info / "entry_points.txt").write_text(f"[walmill]\n{lines}")
        for module, text in modules.items():
            (site / f"{module}.py").write_text(text)
        return {"PYTHONPATH": str(site)}

    return put


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with authentication, for all tests of the session; each test takes names of its own."""
    found = serve(tmp_path_factory.mktemp("server"))
    yield found
    assert found.end() == 0, found.log.read_text()


@define
class Said:
    """What a command said."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def walmill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command in this process, in an empty directory and a clean environment; its error is one sentence."""
    for name in [name for name in os.environ if name.startswith("WALMILL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        capfd.readouterr()
        code = command_line(arguments)
        said = Said(code, *capfd.readouterr())
        assert "Traceback" not in said.out + said.err
        assert "should not happen" not in said.err
        return said

    return run


@pytest.fixture
def local(walmill: Command, server: Server, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The same, as its user has it on the machine of the server, in the directory in which it was started."""
    monkeypatch.chdir(server.directory)
    monkeypatch.setenv("WALMILL_HOST_URL", server.url)
    return walmill
