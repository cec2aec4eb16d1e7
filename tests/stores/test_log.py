"""An engine whose log is in a bucket of a real S3 server: lost machines, networks that go away, take-overs, moves of the log."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import WALMILL, clean_environment
from tests.seaweed import Seaweed, variables
from tests.stores.proxy import Proxy, proxied
from tests.stores.test_engine import DEADLINE, Process, objects, values, write

from walmill.backup.description import choose
from walmill.backup.restore import restore
from walmill.engine import Engine
from walmill.errors import Conflict, DataCorruption, InvalidRequest, Unavailable, WalmillError
from walmill.objects.local import LocalStore
from walmill.objects.remote import RemoteStore
from walmill_hookspecs import Context, WriteBatch, hookimpl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave("file", reason="obstore keeps connections, and a runtime, as long as the process lives"),
]


def opened(directory: Path, url: str, **more: Any) -> Engine:
    given = {"object_store": url, "wal": url, "flush_interval": 0.0, "discover_plugins": False, **more}
    return Engine.open(data_dir=directory, **given)


class Copy:
    """Copies rows of `cpu`; from 100 on it fails, so that its cursor stays behind."""

    broken = False

    @hookimpl
    def on_write(self, batch: WriteBatch, ctx: Context[Any]) -> None:
        if self.broken:
            raise RuntimeError("not now")
        rows = [{"v": row["v"], "time": row["time"]} for row in batch.tables["cpu"].rows()]
        ctx.cache.incr("rows", len(rows))
        ctx.write(rows, table="copy", tags=())


def copied(engine: Engine, count: int) -> list[int]:
    until = time.monotonic() + DEADLINE
    while True:
        found: list[Any] = []
        with contextlib.suppress(WalmillError):
            found = engine.query("SELECT v FROM copy ORDER BY time", database="d")["v"].to_pylist()
        if len(found) >= count:
            return [int(one) for one in found]
        assert time.monotonic() < until, engine.triggers()
        time.sleep(0.02)


def test_a_machine_is_lost_and_nothing_with_it(tmp_path: Path, url: str) -> None:
    with opened(tmp_path / "a", url) as engine:
        engine.register(Copy, name="copy")
        write(engine, 1, 2)
        engine.create_trigger(database="d", name="copy", plugin="copy", spec="table:cpu", start="start")
        write(engine, 3)
        assert copied(engine, 3) == [1, 2, 3]
        assert not (tmp_path / "a" / "wal").exists()
    shutil.rmtree(tmp_path / "a")
    with opened(tmp_path / "b", url) as engine:
        engine.register(Copy, name="copy")
        assert values(engine) == [1, 2, 3]
        write(engine, 4)
        assert copied(engine, 4) == [1, 2, 3, 4]
        engine.snapshot()
        write(engine, 5)
        assert engine.storage()["log"]["place"] == url
    with opened(tmp_path / "c", url) as engine:
        engine.register(Copy, name="copy")
        assert values(engine) == [1, 2, 3, 4, 5]
        assert copied(engine, 5) == [1, 2, 3, 4, 5]
        assert engine.view().catalog.trigger("d", "copy").name == "copy"


def test_objects_of_the_log_go_when_files_have_it(tmp_path: Path, url: str) -> None:
    with opened(tmp_path / "a", url, segment_bytes=2**16) as engine:
        for number in range(1, 30):
            engine.write(f'cpu v={number}i,s="{"x" * 9000}" {number}', database="d")
        before = [path for path in objects(url) if path.startswith("log/")]
        engine.snapshot()
        until = time.monotonic() + DEADLINE
        while len([path for path in objects(url) if path.startswith("log/")]) > len(before) // 2:
            assert time.monotonic() < until
            time.sleep(0.05)
    with opened(tmp_path / "b", url) as engine:
        assert values(engine) == list(range(1, 30))


def test_two_engines_on_one_log(tmp_path: Path, url: str) -> None:
    told: list[WalmillError] = []
    with opened(tmp_path / "a", url) as first:
        first.on_end(told.append)
        write(first, 1)
        with opened(tmp_path / "b", url) as second:
            with pytest.raises(Unavailable, match="it has taken the log over"):
                write(first, 2)
            until = time.monotonic() + DEADLINE
            while not told:
                assert time.monotonic() < until
                time.sleep(0.01)
            assert not first.ready
            write(second, 3)
            assert values(second) == [1, 3]
    with opened(tmp_path / "c", url) as third:
        assert values(third) == [1, 3]


@pytest.fixture
def network(server: Seaweed) -> Iterator[Proxy]:
    with proxied(server.endpoint) as proxy, variables({**server.environment, "AWS_ENDPOINT_URL": proxy.url}):
        yield proxy


@pytest.mark.parametrize("arrives", [True, False])
def test_a_network_that_goes_away(tmp_path: Path, url: str, network: Proxy, arrives: bool) -> None:
    with opened(tmp_path / "a", url) as engine:
        engine.register(Copy, name="copy")
        write(engine, 1)
        engine.create_trigger(database="d", name="copy", plugin="copy", spec="table:cpu", start="start")
        assert copied(engine, 1) == [1]
        quiet = engine.view().sequence
        until = time.monotonic() + DEADLINE
        while engine.view().cursors and any(one["running"] for one in engine.triggers()):
            assert time.monotonic() < until
        if arrives:
            network.lose_answers()
        else:
            network.cut()
        raised: list[WalmillError] = []

        def late() -> None:
            try:
                write(engine, 2)
            except WalmillError as error:
                raised.append(error)

        writer = threading.Thread(target=late)
        writer.start()
        writer.join(DEADLINE)
        assert not writer.is_alive(), "a client is told after some seconds, however long it takes"
        assert "it is not known whether this write is kept" in raised[0].message
        assert isinstance(raised[0], Unavailable)
        with pytest.raises(Unavailable, match=r"does not answer.*nothing of this write was kept"):
            write(engine, 3)
        assert "the log does not answer" in (engine.trouble or "")
        assert values(engine) == [1], "what is not known to be durable is not shown"
        network.mend()
        until = time.monotonic() + DEADLINE
        while engine.trouble is not None:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert values(engine) == [1, 2]
        assert copied(engine, 2) == [1, 2]
        write(engine, 4)
        assert engine.view().sequence > quiet
    with opened(tmp_path / "b", url) as engine:
        assert values(engine) == [1, 2, 4]


def test_a_server_that_stops_while_nobody_answers(tmp_path: Path, url: str, network: Proxy) -> None:
    engine = opened(tmp_path / "a", url, shutdown_timeout=1.0)
    write(engine, 1)
    network.cut()
    with pytest.raises(Unavailable, match="not known"):
        write(engine, 2)
    engine.close()
    with pytest.raises(WalmillError):
        opened(tmp_path / "b", url)
    network.mend()
    with opened(tmp_path / "b", url) as engine:
        assert values(engine) in ([1], [1, 2])


def test_the_log_moves_with_what_triggers_need(tmp_path: Path, new_url: Callable[[], str]) -> None:
    files, first, second = new_url(), new_url(), new_url()
    machine = tmp_path / "a"

    def at(place: str | None, directory: Path = machine) -> Engine:
        return opened(directory, files, wal=place)

    Copy.broken = False
    with at(None) as engine:
        engine.register(Copy, name="copy")
        write(engine, 1)
        engine.create_trigger(database="d", name="copy", plugin="copy", spec="table:cpu", start="start")
        engine.create_trigger(database="d", name="silent", plugin="copy", spec="table:other")
        assert copied(engine, 1) == [1]
        Copy.broken = True
        write(engine, 2)
        engine.snapshot()
        write(engine, 3)
    for number, place in enumerate((first, second, "local"), 4):
        with at(place) as engine:
            assert values(engine) == list(range(1, number))
            write(engine, number)
            if place == second:
                engine.snapshot()
        if place != "local":
            said = f"the log of this object store is in {place}: start with --wal {place}"
            with pytest.raises(Conflict, match=said):
                at(None)
    at(None).close()
    Copy.broken = False
    with at(first) as engine:
        engine.register(Copy, name="copy")
        engine.enable_trigger("d", "copy")
        assert copied(engine, 6) == [1, 2, 3, 4, 5, 6], "it found in the log what it had not done, in each place"
    with at(first, tmp_path / "b") as engine:
        assert values(engine) == [1, 2, 3, 4, 5, 6]


def test_refusals(tmp_path: Path, new_url: Callable[[], str]) -> None:
    files, log = new_url(), new_url()
    with opened(tmp_path / "a", files, wal=log) as engine:
        write(engine, 1)
    with pytest.raises(Conflict, match="belongs to another object store"):
        opened(tmp_path / "b", new_url(), wal=log)
    with pytest.raises(InvalidRequest, match="cannot be in memory://"):
        opened(tmp_path / "b", files, wal="memory://")
    with pytest.raises(InvalidRequest, match="needs a data_dir"):
        Engine.open(wal=log)
    for path in objects(log):
        RemoteStore(log).delete(path)
    with pytest.raises(DataCorruption, match=r"the log in .* is empty, and the newest snapshot says that it is there"):
        opened(tmp_path / "b", files, wal=log)
    with opened(tmp_path / "b", files, wal="local") as engine:
        assert engine.view().sequence == 0


def test_a_backup_has_a_log_of_its_own(tmp_path: Path, url: str) -> None:
    place = LocalStore(str(tmp_path / "backup"))
    with opened(tmp_path / "a", url) as engine:
        write(engine, 1, 2)
        engine.backup(place)
    restore(place, choose(place), tmp_path / "b")
    with Engine.open(data_dir=tmp_path / "b", discover_plugins=False) as engine:
        assert values(engine) == [1, 2]
        write(engine, 3)
    with Engine.open(data_dir=tmp_path / "b", discover_plugins=False) as engine:
        assert values(engine) == [1, 2, 3]
    with opened(tmp_path / "c", url) as engine:
        assert values(engine) == [1, 2]


def walmill(*arguments: str, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [*WALMILL, *arguments],
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_log_is_looked_into(tmp_path: Path, url: str, server: Seaweed) -> None:
    with opened(tmp_path / "a", url) as engine:
        for number in range(1, 5):
            write(engine, number)
        code, said = walmill("wal", "verify", url, "--format", "json", environment=server.environment)
        assert code == 0
        assert [(one["status"], one["frames"], one["last_sequence"]) for one in json.loads(said)] == [("ok", 5, 4)]
    opened(tmp_path / "b", url).close()
    code, said = walmill("wal", "dump", url, "--rows", "--from", "3", environment=server.environment)
    assert code == 0
    shown = [json.loads(line) for line in said.splitlines()]
    assert [one["sections"][-1]["data"][0]["v"] for one in shown if one["sequence"]] == [3, 4]
    store = RemoteStore(url)
    data = bytearray(store.get("log/000000000003"))
    data[200] ^= 1
    store.put("log/000000000003", bytes(data))
    code, said = walmill("wal", "verify", url, environment=server.environment)
    assert code == 1
    assert "| log/000000000003 " in said
    assert "the checksum is" in said
    assert "log/000000000004 to 000000000005" in said
    code, said = walmill("wal", "dump", url, environment=server.environment)
    assert code == 0
    assert [json.loads(line)["sequence"] for line in said.splitlines()][:4] == [None, 1, 3, 4]
    code, said = walmill("wal", "verify", f"{url}-not", environment=server.environment)
    assert (code, "there is no log in" in said) == (1, True)
    code, said = walmill("wal", "verify", str(tmp_path / "nothing"), environment=server.environment)
    assert (code, "there is no directory" in said) == (1, True)
    flags = ["--data-dir", str(tmp_path / "d"), "--object-store", url, "--wal", f"{url}-log", "--format", "json"]
    _, said = walmill("doctor", *flags, environment=server.environment)
    assert any(
        one["name"] == "log" and one["status"] == "ok" and one["result"] == f"{url}-log" for one in json.loads(said)
    ), said
    code, said = walmill("serve", "--wal", url, environment=server.environment)
    assert code == 1
    assert "name a bucket for them as well, with --object-store" in said


@pytest.fixture
def start(tmp_path: Path, url: str, server: Seaweed) -> Iterator[Callable[[str], Process]]:
    started: list[Process] = []

    def run(name: str) -> Process:
        started.append(Process(tmp_path / name, url, server.environment, wal=url))
        started[-1].wait(started[0].token if len(started) > 1 else "")
        return started[-1]

    yield run
    for one in started:
        one.kill()


def test_a_stopped_process_acknowledges_nothing_after_the_take_over(start: Callable[[str], Process]) -> None:
    first = start("a")
    assert first.write(1)
    os.kill(first.process.pid, signal.SIGSTOP)
    second = start("b")
    assert second.write(2)
    assert second.rows() == [1, 2]
    os.kill(first.process.pid, signal.SIGCONT)
    assert not first.write(3)
    assert first.process.wait(DEADLINE) == 1
    said = first.log.read_text()
    assert "has taken the" in said
    assert "Traceback" not in said
    assert second.write(4)
    second.kill()
    third = start("c")
    assert third.rows() == [1, 2, 4]
