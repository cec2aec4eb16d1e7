"""A start that takes a while: it says how far it is, requests are put off meanwhile, and it can be stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient
from tests.cli.conftest import clean_environment

from walmill.engine import Engine
from walmill.errors import DataCorruption, Unavailable
from walmill.http.app import build
from walmill.http.site import Site
from walmill.opening import Opening, Stopped

DEADLINE = 60.0
# a server that waits for no start before it answers
SERVE = "import walmill.http.server as s; s.PATIENCE_SECONDS = 0.0; from walmill.cli.main import main; main()"


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_requests_are_put_off_until_the_log_is_replayed() -> None:
    go = threading.Event()

    def slow() -> Engine:
        assert go.wait(DEADLINE)
        return Engine.open(discover_plugins=False)

    site = Site(slow, patience=0.0, status=lambda: "43 % of 256 MiB of log are replayed, 1,000 commits")
    with TestClient(build(site, without_auth=True)) as client:
        assert client.get("/health").status_code == 200
        calls = (
            client.get("/ready"),
            client.get("/metrics"),
            client.post("/api/v3/write_lp?db=d", content="cpu v=1"),
            client.post("/api/v2/write?bucket=d", content="cpu v=1"),
            client.get("/api/v3/query_sql?db=d&q=SELECT%201"),
            client.get("/api/v3/configure/database"),
        )
        for answer in calls:
            assert answer.status_code == 503, answer.text
            assert answer.headers["retry-after"].isdigit()
            assert "43 % of 256 MiB of log are replayed" in answer.text
        go.set()
        until(lambda: client.get("/ready").status_code == 200)
        assert client.post("/api/v3/write_lp?db=d", content="cpu v=1").status_code == 204


def test_an_engine_that_cannot_be_opened_after_all_is_told() -> None:
    go = threading.Event()
    told: list[Exception] = []

    def broken() -> Engine:
        assert go.wait(DEADLINE)
        raise DataCorruption("the log is damaged at byte 7")

    with TestClient(build(Site(broken, patience=0.0, failed=told.append), without_auth=True)) as client:
        assert client.get("/ready").status_code == 503
        go.set()
        until(lambda: bool(told))
        assert isinstance(told[0], DataCorruption)
        assert "the log is damaged at byte 7" in client.get("/ready").json()["error"]


def test_a_replay_tells_how_far_it_is_and_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        for number in range(50):
            engine.write(f"cpu v={number}i {number}", database="d")
    clock = iter(range(10**6))
    monkeypatch.setattr("walmill.opening.time.monotonic", lambda: float(next(clock)))
    said: list[Opening] = []
    with Engine.open(data_dir=tmp_path, discover_plugins=False, told=said.append) as engine:
        assert engine.query("SELECT count(*) AS n FROM cpu", database="d")["n"].to_pylist() == [50]
    assert [one.commits for one in said] == sorted(one.commits for one in said)
    assert said[-1].bytes <= said[-1].total_bytes
    assert said[-1].commits >= 50
    assert str(Opening(2**20, 2**22, 1000)) == "25 % of 4 MiB of log are replayed, 1,000 commits"

    def stop(opening: Opening) -> None:
        raise Stopped("the server is stopping")

    with pytest.raises(Unavailable, match="is stopping"):
        Engine.open(data_dir=tmp_path, discover_plugins=False, told=stop)
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        assert engine.query("SELECT count(*) AS n FROM cpu", database="d")["n"].to_pylist() == [50]


def serve(directory: Path, *flags: str) -> subprocess.Popen[bytes]:
    with (directory / "server.log").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", "--http-bind", "127.0.0.1:0", "--without-auth", *flags],
            cwd=directory,
            env=clean_environment(),
            stdout=output,
            stderr=output,
        )


def events(directory: Path) -> dict[str, dict[str, str]]:
    text = (directory / "server.log").read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]
    return {line["event"]: line for line in lines}


def test_a_server_answers_before_its_engine_is_open(tmp_path: Path) -> None:
    process = serve(tmp_path)
    try:
        until(lambda: "listening" in events(tmp_path) or process.poll() is not None)
        with httpx2.Client(base_url=events(tmp_path)["listening"]["url"], trust_env=False, timeout=30) as client:
            assert client.post("/api/v3/write_lp?db=d", content="cpu v=1").status_code == 204
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_a_server_whose_engine_cannot_be_opened_ends_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "walmill-data").mkdir()
    (tmp_path / "walmill-data" / "walmill.json").write_text('{"format": 99, "engine": "9.9"}')
    process = serve(tmp_path)
    try:
        assert process.wait(DEADLINE) == 1
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "server.log").read_text()
    assert "has the format 99, written by Walmill 9.9" in said
    assert "Traceback" not in said


def test_a_second_server_on_a_directory_ends_with_a_sentence(tmp_path: Path) -> None:
    with Engine.open(data_dir=tmp_path / "walmill-data", discover_plugins=False):
        process = serve(tmp_path)
        try:
            assert process.wait(DEADLINE) == 1
        finally:
            process.kill()
            process.wait()
    said = (tmp_path / "server.log").read_text()
    assert "is in use by process" in said
    assert "Traceback" not in said
