"""The command line as a process: what it imports, what a server logs, how it refuses to start, what the demo says."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from walmill.cli.client import Client

pytestmark = pytest.mark.slow

DEADLINE = 60.0
HEAVY = ("pyarrow", "datafusion", "starlette", "numpy", "httpx2", "uvicorn", "structlog", "cookiecutter", "rich")
COMMANDS = ("", "serve", "demo", "write", "query", "create trigger", "show tokens", "plugin list", "wal dump", "doctor")


def command(*arguments: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `walmill ARGUMENTS` in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WALMILL_")}
    return subprocess.run(
        [sys.executable, "-c", "from walmill.cli.main import main; main()", *arguments],
        cwd=directory,
        env={**kept, "NO_COLOR": "1", "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """What makes `--help` fast; how fast it is belongs to a benchmark."""
    code = f"""
import sys
from walmill.cli.main import run
for command in {COMMANDS!r}:
    assert run([*command.split(), "--help"]) == 0, command
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, (command, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: walmill") == len(COMMANDS)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--http-bind", "0.0.0.0:0", "--without-auth"), "add --force-without-auth"),
        (("--http-bind", "nowhere.invalid:0"), "the address nowhere.invalid:0 cannot be served"),
        (("--http-bind", "127.0.0.1"), "is not HOST:PORT"),
        (("--http-bind", "127.0.0.1:0", "--data-dir", "file"), "the data directory"),
        (("--http-bind", "127.0.0.1:0", "--data-dir", "file/x"), "name another with --data-dir"),
        (("--http-bind", "127.0.0.1:0", "--config", "bad.toml"), "did you mean 'log_level'?"),
    ],
)
def test_a_server_that_cannot_start_says_why(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "bad.toml").write_text('log_levl = "info"\n')
    done = command("serve", *flags, directory=tmp_path)
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("Error: ")
    assert said in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_token_is_in_the_log_of_a_server(start: Callable[..., Any], level: str) -> None:
    server = start("--log-format", "json", "--log-level", level)
    basic = base64.b64encode(f"me:{server.token}".encode()).decode()
    wrong = "wm_" + "A" * 43
    with httpx2.Client(base_url=server.url, trust_env=False) as http, Client(server.url, server.token) as client:
        made = client.create_token("second")["token"]
        for given in (f"Bearer {server.token}", f"Token {made}", f"Basic {basic}", f"Bearer {wrong}", f"Digest {made}"):
            headers = {"authorization": given}
            for method, path in (
                ("GET", f"/api/v3/query_sql?db=d&q=SELECT+1&p={made}"),
                ("POST", f"/api/v3/write_lp?db=d&token={server.token}"),
                ("GET", f"/no/{made}"),
            ):
                http.request(method, path, headers=headers, content=b"cpu v=" if method == "POST" else None)
        http.post("/api/v3/configure/token", content=made.encode(), headers={"authorization": f"Bearer {made}"})
        # a body that a plugin cannot use, and a header that no server takes
        http.get("/api/v3/engine/x", headers={"authorization": f"Bearer {made}", "cookie": f"t={made}"})
    assert server.end() == 0
    text = server.log.read_text()
    for secret in (server.token, made, basic, wrong):
        assert secret not in text
        assert secret.removeprefix("wm_") not in text


def test_the_lines_of_a_log(start: Callable[..., Any]) -> None:
    server = start("--data-dir", "data", WALMILL_SHUTDOWN_TIMEOT="1s")
    assert server.end() == 0
    events = server.events()
    for one in events:
        assert list(one)[:4] == ["timestamp", "level", "logger", "event"]
        assert one["timestamp"].endswith("Z")
    told = {one["event"]: one for one in events}
    assert told["a variable of the environment is no setting"]["problem"] == (
        "nothing reads WALMILL_SHUTDOWN_TIMEOT; did you mean WALMILL_SHUTDOWN_TIMEOUT?"
    )
    assert told["listening"]["url"] == server.url
    assert Path(told["listening"]["data_dir"]).name == "data"
    assert told["the operator token is made"]["level"] == "info"
    assert events[-1]["event"] == "stopped"


def test_two_servers_on_one_data_directory(server: Any, tmp_path: Path) -> None:
    done = command(
        "serve", "--http-bind", "127.0.0.1:0", "--data-dir", str(server.directory / "walmill-data"), directory=tmp_path
    )
    assert done.returncode == 1
    assert f"in use by process {server.process.pid}" in done.stderr
    with Client(server.url, server.token) as client:
        assert client.ping()["product_name"] == "Walmill"


class _Receiver(BaseHTTPRequestHandler):
    """Refuses the first posts for a while, then takes them."""

    refusals = 0
    taken: list[tuple[str, dict[str, Any]]]
    refused: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        cls, key = type(self), self.headers["idempotency-key"]
        ill = len(cls.refused) < cls.refusals
        if ill:
            cls.refused.append(key)
        else:
            cls.taken.append((key, body))
        self.send_response(503 if ill else 204)
        self.send_header("retry-after", "0.01")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def receiving(port: int, refusals: int) -> Iterator[type[_Receiver]]:
    """A receiver on a port."""
    handler = type("Receiver", (_Receiver,), {"refusals": refusals, "taken": [], "refused": []})
    with HTTPServer(("127.0.0.1", port), handler) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield handler
        made.shutdown()
        thread.join()


def _until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_an_alert_reaches_a_receiver_that_was_down(start: Callable[..., Any]) -> None:
    """Down (nothing listens), then ill (503) more often than a failed run is repeated: each alert arrives, by its own key."""
    with HTTPServer(("127.0.0.1", 0), _Receiver) as probe:
        port = probe.server_port
    server = start()
    with Client(server.url, server.token) as client:
        for name, plugin, spec, arguments in (
            ("hot", "alerts", "table:room", {"field": "temp", "above": 30}),
            ("tell", "webhook", "table:alerts", {"url": f"http://127.0.0.1:{port}/", "token": "hush-hush-hush-hush"}),
        ):
            body = {"db": "d", "plugin": plugin, "trigger_name": name, "trigger_specification": spec}
            client.create_trigger({**body, "trigger_arguments": arguments, "attempts": 2})
        client.write(
            "d", b"room,at=attic temp=31 1000\nroom,at=hall temp=35 1000\nroom,at=attic temp=20 2000", precision="ns"
        )
        runs = "SELECT count(*) AS n FROM runs WHERE trigger = 'tell' AND status <> 'ok'"

        def failed() -> bool:
            if not client.trigger("d", "tell")["lag_commits"] or "_internal" not in {
                one["db"] for one in client.databases()
            }:
                return False
            return client.query_rows("_internal", runs) != [{"n": 0}]

        _until(failed, "the webhook is not tried")
        with receiving(port, refusals=8) as receiver:
            _until(lambda: len(receiver.taken) >= 3, "the alerts do not arrive")
            _until(lambda: client.trigger("d", "tell")["lag_commits"] == 0, "the trigger is not done")
        told = {key: (body["tags"]["at"], body["state"]) for key, body in receiver.taken}
        assert sorted(told.values()) == [("attic", "firing"), ("attic", "resolved"), ("hall", "firing")]
        assert len(receiver.refused) == 8
        assert set(receiver.refused) <= set(told)
        kept = client.query_rows("d", "SELECT count(*) AS n FROM alerts")
        assert kept == [{"n": 3}]
        assert client.trigger("d", "tell")["state"] == "enabled"
    assert server.end() == 0
    assert "hush-hush" not in server.log.read_text()


def test_the_demo_reads_back_what_it_wrote_and_says_why_it_cannot(tmp_path: Path) -> None:
    done = command("demo", "--exit", "--data-dir", "kept[/b]", "-o", "chart.png", directory=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything read back is what was written." in done.stdout
    assert "│ rows written                   │ 26,115 " in done.stdout
    assert re.search(
        r"1,09\d, equal to plain Python's", done.stdout
    )  # days begin at midnight, wherever in the day now is
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    # It compares with all that is there, so a directory that holds a demo cannot be used again.
    again = command("demo", "--exit", "--data-dir", "kept[/b]", directory=tmp_path)
    assert again.returncode == 1
    assert "The demo failed: kept[/b] has a database 'demo' already" in again.stdout
    nowhere = command("demo", "--exit", "-o", "no/chart.png", directory=tmp_path)
    assert nowhere.returncode == 1
    assert "The demo failed: the picture cannot be put into 'no', which is no directory" in nowhere.stdout
