"""Plugins that are installed on disk, in real processes: slow ones while the server stops, and broken ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

pytestmark = pytest.mark.slow

DEADLINE = 60.0
Install = Callable[..., dict[str, str]]

SLOW = """
import asyncio, time
from pathlib import Path
from walmill_hookspecs import hookimpl

HERE = Path(__file__).parent

class Async:
    @hookimpl
    async def on_request(self, request, ctx):
        (HERE / "began").touch()
        while not (HERE / "go").exists():
            await asyncio.sleep(0.01)
        await ctx.write_now("done n=1i 1")
        return {"answered": "in the end"}

class Plain:
    @hookimpl
    def on_request(self, request, ctx):
        (HERE / "began").touch()
        while not (HERE / "go").exists():
            time.sleep(0.01)
        ctx.write_now("done n=1i 1")
        return {"answered": "in the end"}
"""


def _until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["Async", "Plain"])
def test_a_request_in_flight_is_answered_though_the_server_stops(
    tmp_path: Path, start: Callable[..., Any], install: Install, kind: str
) -> None:
    """Breaks if the engine stops before the server has answered, or if the server still takes callers while it waits."""
    found = install("slow-plugins", {"slow": f"slow_plugins:{kind}"}, {"slow_plugins": SLOW})
    server = start("--without-auth", **found)
    port = urlsplit(server.url).port

    def refuses() -> bool:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return False
        return True

    with httpx2.Client(base_url=server.url, trust_env=False, timeout=DEADLINE) as client, ThreadPoolExecutor(1) as pool:
        body = {"db": "d", "plugin": "slow", "trigger_name": "t", "trigger_specification": "request:slow"}
        assert client.post("/api/v3/configure/processing_engine_trigger", json=body).status_code == 200
        asked = pool.submit(client.get, "/api/v3/engine/slow")
        _until((tmp_path / "site" / "began").exists, "the plugin is not asked")
        server.process.send_signal(signal.SIGTERM)
        _until(refuses, "new connections are not refused")
        assert server.process.poll() is None
        assert not asked.done()
        (tmp_path / "site" / "go").touch()
        answer = asked.result(DEADLINE)
    assert (answer.status_code, answer.json()) == (200, {"answered": "in the end"})
    assert server.process.wait(DEADLINE) == 0
    assert "Traceback" not in server.log.read_text()
    again = start("--without-auth", **found)
    with httpx2.Client(base_url=again.url, trust_env=False, timeout=DEADLINE) as client:
        rows = client.get("/api/v3/query_sql", params={"db": "d", "q": "SELECT n FROM done"})
        assert rows.json() == [{"n": 1}]
    assert again.end() == 0


BROKEN = {
    "missing-module": ("there_is_none:Plugin", "ModuleNotFoundError: No module named 'there_is_none'"),
    "raises": ("raises_on_import:Plugin", "ZeroDivisionError: division by zero (raises_on_import.py, line 2)"),
    "missing-attribute": ("no_plugin:Plugin", "module 'no_plugin' has no attribute 'Plugin'"),
    "wrong-syntax": ("wrong_syntax:Plugin", "SyntaxError"),
    "ends-the-process": ("ends:Plugin", "SystemExit"),
}
MODULES = {
    "raises_on_import": "one = 1\none / 0\n",
    "no_plugin": "",
    "wrong_syntax": "def (:\n",
    "ends": "raise SystemExit(3)\n",
    "good": "from walmill_hookspecs import hookimpl\n\n@hookimpl\ndef on_write(batch, ctx):\n    pass\n",
}


def test_plugins_that_are_broken_on_disk(tmp_path: Path, start: Callable[..., Any], install: Install) -> None:
    """Breaks if one of them keeps a server from starting or hides the others, or if its cause is not told.

    A trigger for one is refused as a conflict with what is installed, not as an error of the server.
    """
    plugins = {**{name: value for name, (value, _) in BROKEN.items()}, "good": "good"}
    found = install("broken-plugins", plugins, MODULES)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WALMILL_")}

    def walmill(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from walmill.cli.main import main; main()", *arguments],
            cwd=tmp_path,
            env={**kept, **found, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def check(shown: list[dict[str, Any]]) -> None:
        ours = {one["name"]: (one["status"], one["cause"]) for one in shown if one["distribution"] == "broken-plugins"}
        assert ours.pop("good") == ("active", None)
        assert set(ours) == set(BROKEN)
        for name, (_, cause) in BROKEN.items():
            assert ours[name][0] == "broken"
            assert cause in ours[name][1]

    done = walmill("plugin", "list", "--format", "json")
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))
    strict = walmill("plugin", "list", "--strict")
    assert strict.returncode == 1
    for name in BROKEN:
        assert name in strict.stderr
    assert "Traceback" not in done.stderr + strict.stdout + strict.stderr

    server = start("--without-auth", **found)
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=DEADLINE) as client:
        check(client.get("/api/v3/plugins").json())
        body = {"db": "d", "trigger_name": "t", "trigger_specification": "table:cpu"}
        for name, (_, cause) in BROKEN.items():
            refused = client.post("/api/v3/configure/processing_engine_trigger", json={**body, "plugin": name})
            assert refused.status_code == 409
            said = refused.json()["error"]
            assert said.startswith(f"the plugin {name!r} is broken: ")
            assert cause in said
        made = client.post("/api/v3/configure/processing_engine_trigger", json={**body, "plugin": "good"})
        assert made.status_code == 200, made.text
    assert server.end() == 0
    assert "Traceback" not in server.log.read_text()
    refused = walmill("serve", "--http-bind", "127.0.0.1:0", "--strict")
    assert refused.returncode == 1
    *_, last = refused.stderr.splitlines()
    assert last.startswith("Error: ")
    for name, (_, cause) in BROKEN.items():
        assert name in last
        assert cause in last
