"""Every block of the tutorial, in a fresh environment: wheels of this checkout, no network."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial" / "first-plugin.md"
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of the contract and the engine, built without network."""
    made = tmp_path_factory.mktemp("wheels")
    for package in (ROOT / "hookspecs", ROOT):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(made), str(package)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def fresh(tmp_path: Path, wheels: Path) -> Iterator[dict[str, str]]:
    """The environment variables of a fresh virtual environment that sees this one's third-party packages."""
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    # third-party packages come from the environment of the tests; what is installed there in editable form does not
    (site / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(home / "bin" / "pip"), "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, *map(str, wheels.glob("*.whl"))], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WALMILL_", "PYTHON", "VIRTUAL"))}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield {
        **kept,
        "PATH": f"{home / 'bin'}:{kept['PATH']}",
        "VIRTUAL_ENV": str(home),
        "WALMILL_HTTP_BIND": f"127.0.0.1:{port}",
        "WALMILL_HOST_URL": f"http://127.0.0.1:{port}",
        "WALMILL_DATA_DIR": str(tmp_path / "data"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as "no isolation": the build back end is here already
        "NO_COLOR": "1",
    }
    shutil.rmtree(home, ignore_errors=True)


def ready(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while True:
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < until, "the server does not get ready"
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)


def run(command: str, expected: list[str], directory: Path, environment: dict[str, str]) -> None:
    """Runs one command; a query may be asked again for a while, since a plugin runs after the acknowledgement."""
    until = time.monotonic() + 20
    while True:
        done = subprocess.run(
            command, shell=True, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        if done.returncode == 0 and all(line in said for line in expected):
            return
        assert "walmill query" in command and time.monotonic() < until, f"{command}\n{said}\nexpected: {expected}"  # noqa: PT018
        time.sleep(0.1)


@pytest.mark.timeout(180)
def test_every_block_of_the_tutorial(tmp_path: Path, fresh: dict[str, str]) -> None:
    servers: list[subprocess.Popen[bytes]] = []
    ran = 0
    try:
        for block in BLOCK.finditer(TUTORIAL.read_text(encoding="utf-8")):
            if block["file"] is not None:
                place = tmp_path / block["file"]
                assert place.exists(), f"the template made no {block['file']}"
                place.write_text(block["text"], encoding="utf-8")
            elif block["kind"] == "toml":
                assert block["text"].strip() in (tmp_path / "walmill-overheat" / "pyproject.toml").read_text()
            elif block["kind"] == "console":
                for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                    command, *expected = part.strip().split("\n")
                    ran += 1
                    if command.startswith(("python3 -m venv", ". env/", "pip install walmill ")):
                        continue  # the fixture has done it, from wheels
                    if command.endswith("&"):
                        servers.append(
                            subprocess.Popen(
                                command.removesuffix("&").split(), cwd=tmp_path, env=fresh, stderr=subprocess.DEVNULL
                            )
                        )
                        ready(fresh["WALMILL_HOST_URL"], servers[-1])
                        continue
                    if command.startswith("pip install -e"):
                        command += " --no-deps --no-build-isolation"
                    run(command, expected, tmp_path, fresh)
        assert ran >= 12
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
