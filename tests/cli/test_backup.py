"""Backups by command, of a real server that is written to and killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import WALMILL, Command, Server, clean_environment

from walmill.cli.client import Client
from walmill.engine import Engine
from walmill.errors import WalmillError
from walmill.objects.open import open_store

pytestmark = pytest.mark.slow

DEADLINE = 60.0


class Load:
    """Writes one row after the other, and knows which were acknowledged."""

    def __init__(self, server: Server, first: int) -> None:
        self.acknowledged = self.sent = first
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with Client(self._server.url, self._server.token) as client:
            while not self._stop.is_set():
                self.sent += 1
                try:
                    client.write("d", f"cpu v={self.sent}i {self.sent}".encode(), precision="nanosecond")
                except WalmillError:  # it was killed
                    return
                self.acknowledged = self.sent

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)


def begin(server: Server, *arguments: str) -> subprocess.Popen[bytes]:
    where = ("--host", server.url, "--token", server.token) if server.url else ()
    return subprocess.Popen(
        [*WALMILL, *arguments, *where],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=server.directory,
    )


def until(found: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Waits until something is there, or a process has ended before."""
    end = time.monotonic() + DEADLINE
    while not found() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.001)


def count(directory: Path) -> int:
    return sum(1 for one in directory.rglob("*") if one.is_file())


def rows(directory: Path) -> list[int]:
    with Engine.open(data_dir=directory, discover_plugins=False) as engine:
        found: list[int] = engine.query("SELECT v FROM cpu ORDER BY time", database="d")["v"].to_pylist()
        return found


def test_backups_of_a_server_that_is_written_to_and_killed(
    start: Callable[..., Server], walmill: Command, tmp_path: Path
) -> None:
    place = tmp_path / "backups"
    marks: dict[int, tuple[int, Load]] = {}
    first = 0
    for turn in range(4):
        server = start("--snapshot-interval", "1s")
        load = Load(server, first)
        made = begin(server, "backup", "create", str(place))
        until(lambda load=load, first=first: load.acknowledged > first + 5, made)
        if turn % 2:
            before = load.acknowledged
            said = made.communicate(timeout=DEADLINE)[0].decode()
            again = begin(server, "backup", "create", str(place)).communicate(timeout=DEADLINE)[0].decode()
            found = re.search(r"Backup (\d+) holds everything up to sequence", again)
            assert found, (said, again)
            marks[int(found[1])] = (before, load)
        else:
            goal = count(place) + turn
            until(lambda goal=goal: count(place) > goal, made)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(DEADLINE)
        made.communicate(timeout=DEADLINE)
        load.stop()
        first = load.sent
    assert len(marks) == 2
    verified = walmill("backup", "verify", str(place))
    assert verified.code == 0, verified
    listed = {one["backup"]: one for one in json.loads(walmill("backup", "list", str(place), "--format", "json").out)}
    assert set(marks) <= set(listed)
    for number, (least, load) in marks.items():
        directory = tmp_path / f"restored-{number}"
        at = str(listed[number]["sequence"])
        restored = walmill("backup", "restore", str(place), "--at", at, "--data-dir", str(directory))
        assert restored.code == 0, restored
        found_rows = rows(directory)
        assert found_rows[-1] <= load.sent
        missing = set(range(1, found_rows[-1] + 1)) - set(found_rows)
        # a row that was sent when the server was killed may be there or not: one for each time at most
        assert len(missing) <= 4
        assert found_rows[-1] >= least


def test_a_restore_that_is_killed_is_gone_on_with(
    start: Callable[..., Server], walmill: Command, tmp_path: Path
) -> None:
    server = start()
    where = ("--host", server.url, "--token", server.token)
    for number in range(1, 13):
        assert (
            walmill(
                "write", "--database", "d", "-p", "ns", *where, f"cpu v={number}i {number * 40 * 86400 * 10**9}"
            ).code
            == 0
        )
    place, directory = tmp_path / "backups", tmp_path / "restored"
    assert walmill("backup", "create", str(place), *where).code == 0
    assert server.end() == 0
    nowhere = Server(server.process, tmp_path, server.log)
    for goal in (1, 4, 8):
        process = begin(nowhere, "backup", "restore", str(place), "--data-dir", str(directory))
        until(lambda goal=goal: count(directory) >= goal + 2, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE)
        if (directory / "walmill.json").exists():
            break
        refused = begin(nowhere, "serve", "--data-dir", str(directory), "--http-bind", "127.0.0.1:0")
        said = refused.communicate(timeout=DEADLINE)[0].decode()
        assert (refused.returncode, "run the same `walmill backup restore` again" in said) == (1, True), said
    if not (directory / "walmill.json").exists():
        assert walmill("backup", "restore", str(place), "--data-dir", str(directory)).code == 0
    assert rows(directory) == list(range(1, 13))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with Engine.open(data_dir=tmp_path / "data", discover_plugins=False) as engine:
        for number in (1, 2, 3):
            engine.write(f"cpu v={number}", database="d")
            engine.backup(open_store(str(tmp_path / "place")))
    return tmp_path / "place"


def test_backups_are_listed_pruned_and_deleted(walmill: Command, place: Path) -> None:
    assert [line.split("|")[1].strip() for line in walmill("backup", "list", str(place)).out.splitlines()[3:-1]] == [
        "1",
        "2",
        "3",
    ]
    assert walmill("backup", "delete", str(place), "1").out.startswith("Backup 1 deleted")
    assert walmill("backup", "prune", "--keep", "1", str(place)).out.startswith("Backup 2 deleted")
    assert walmill("backup", "prune", "--keep", "1", str(place)).out == "Nothing to delete.\n"
    assert walmill("backup", "verify", "--backup", "3", str(place)).out.startswith("Backup 3 is whole")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("backup", "verify", "--backup", "9", "{place}"), 1, "there is no backup 9"),
        (("backup", "verify", "nowhere"), 1, "There is no backup in nowhere"),
        (("backup", "restore", "nowhere", "--data-dir", "new"), 1, "there is no backup in"),
        (("backup", "restore", "{place}", "--data-dir", "new", "--at", "0"), 1, "ends at the sequence"),
        (("backup", "restore", "{place}", "--data-dir", "new", "--at", "soon"), 2, "neither a sequence nor a time"),
        (("backup", "restore", "{place}", "--data-dir", "{data}"), 1, "not empty"),
        (("backup", "restore", "ftp://x/y", "--data-dir", "new"), 1, "none of s3://"),
        (("backup", "restore", "{place}"), 2, "--data-dir"),
        (("backup", "delete", "{place}", "7"), 1, "there is no backup 7"),
        (("backup", "delete", "{place}"), 2, "NUMBERS"),
        (("backup", "prune", "--keep", "0", "{place}"), 2, "keep"),
        (("backup", "create", "x", "--host", "http://127.0.0.1:9"), 1, "127.0.0.1:9"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    walmill: Command, place: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    given = [one.format(place=place, data=place.parent / "data") for one in arguments]
    answer = walmill(*given)
    assert (answer.code, said in answer.err + answer.out) == (code, True), answer


def test_a_place_that_cannot_be_written_is_a_sentence(local: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert local("write", "--database", "b", "m v=1").code == 0
    answer: Any = local("backup", "create", str(tmp_path / "file" / "backups"))
    assert answer.code == 1
    assert "file/backups" in answer.err
