"""An engine whose files are in a bucket of a real S3 server: as on a disk, also over restarts, take-overs and SIGKILL."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import WALMILL, clean_environment
from tests.seaweed import Seaweed
from tests.stores.conftest import count

from walmill.backup.description import choose
from walmill.backup.keep import verify
from walmill.backup.restore import restore
from walmill.cli.client import Client
from walmill.databases import Gone
from walmill.engine import Engine
from walmill.errors import Conflict, Unavailable, WalmillError
from walmill.objects.open import open_store
from walmill.objects.remote import RemoteStore
from walmill.snapshot.compact import Bounds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_leave("file", reason="obstore keeps connections, and a runtime, as long as the process lives"),
]

DAY = 86_400 * 10**9
DEADLINE = 60.0


def opened(directory: Path, url: str, **more: Any) -> Engine:
    return Engine.open(
        data_dir=directory, object_store=url, discover_plugins=False, join_rate=0, joins=Bounds(files=3), **more
    )


def values(engine: Engine, where: str = "") -> list[int]:
    found = engine.query(f"SELECT v FROM cpu {where} ORDER BY time", database="d")["v"].to_pylist()
    return [int(one) for one in found]


def write(engine: Engine, *numbers: int) -> None:
    engine.write("\n".join(f"cpu v={number}i {number * 40 * DAY}" for number in numbers), database="d")


def objects(url: str) -> set[str]:
    return {path for path, _ in RemoteStore(url).list()}


def test_rows_are_in_the_bucket_and_come_from_it(tmp_path: Path, url: str) -> None:
    with opened(tmp_path / "a", url) as engine:
        for number in range(8):
            write(engine, number)
            engine.snapshot()
        engine.write(f"cpu v=77i {3 * 40 * DAY}", database="d")
        engine.snapshot()
        assert values(engine) == [0, 1, 2, 77, 4, 5, 6, 7]
        engine.tidy()
        gc.collect()
        engine.tidy()
        assert values(engine) == [0, 1, 2, 77, 4, 5, 6, 7]
        assert not (tmp_path / "a" / "objects").exists()
        assert sum(path.endswith(".parquet") for path in objects(url)) == 8
    # the log and the copies are gone with the machine; what was in a snapshot is there
    with opened(tmp_path / "b", url) as engine:
        assert count(tmp_path / "b" / "cache") == 0
        assert values(engine, f"WHERE time = to_timestamp_nanos({2 * 40 * DAY})") == [2]
        assert count(tmp_path / "b" / "cache") == 1, "only what a query needs is fetched"
        assert values(engine) == [0, 1, 2, 77, 4, 5, 6, 7]
        assert count(tmp_path / "b" / "cache") == 8
        engine.delete_table("d", "cpu", Gone(after=0))
        engine.snapshot()
        gc.collect()
        engine.tidy()
        assert not any(path.endswith(".parquet") for path in objects(url))


def test_copies_stay_within_their_bound_and_damaged_ones_are_fetched_again(tmp_path: Path, url: str) -> None:
    with opened(tmp_path, url) as engine:
        for number in range(6):
            write(engine, number)
            engine.snapshot()
        sizes = [size for path, size in RemoteStore(url).list("tables")]
    with opened(tmp_path, url, object_cache=sum(sizes[:3]) + 100) as engine:
        for number in range(6):
            assert values(engine, f"WHERE time = to_timestamp_nanos({number * 40 * DAY})") == [number]
        assert 1 <= count(tmp_path / "cache") <= 3
        with pytest.raises(Unavailable, match="raise object_cache_size"):
            values(engine)
        assert values(engine, f"WHERE time < to_timestamp_nanos({2 * 40 * DAY})") == [0, 1]
    for copy in (tmp_path / "cache").iterdir():
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
    (tmp_path / "cache" / "left.part").write_bytes(b"x")
    with opened(tmp_path, url) as engine:
        assert values(engine) == [0, 1, 2, 3, 4, 5]
        assert not (tmp_path / "cache" / "left.part").exists()


def test_a_query_reads_on_though_its_copies_would_have_to_go(tmp_path: Path, url: str) -> None:
    with opened(tmp_path, url) as engine:
        for start in (0, 1):
            lines = "\n".join(f"cpu,host=h{n} v={n}i {start * 40 * DAY + n}" for n in range(60_000))
            engine.write(lines, database="d")
            engine.snapshot()
        size = max(size for _, size in RemoteStore(url).list("tables"))
    with opened(tmp_path, url, object_cache=size + 100) as engine:
        where = f"WHERE time < to_timestamp_nanos({DAY})"
        # one within another: a simple one of so few rows would need its copy for a moment only
        nested = f"SELECT * FROM (SELECT * FROM cpu {where}) ORDER BY host, time"
        with engine.stream(nested, database="d") as stream:
            rows = next(stream).num_rows
            with pytest.raises(Unavailable, match="raise object_cache_size"):
                engine.query(f"SELECT * FROM cpu WHERE time > to_timestamp_nanos({DAY})", database="d")
            rows += sum(batch.num_rows for batch in stream)
        assert rows == 60_000
        del stream
        gc.collect()
        assert (
            engine.query(f"SELECT * FROM cpu WHERE time > to_timestamp_nanos({DAY})", database="d").num_rows == 60_000
        )


def test_backups_to_and_from_a_bucket(tmp_path: Path, new_url: Callable[[], str]) -> None:
    url, place = new_url(), open_store(new_url())
    with opened(tmp_path / "a", url) as engine:
        write(engine, 1, 2)
        engine.backup(place)
        write(engine, 3)
    assert [problems for _, problems in verify(place)] == [[]]
    restore(place, choose(place), tmp_path / "b")
    with Engine.open(data_dir=tmp_path / "b", discover_plugins=False) as engine:
        assert values(engine) == [1, 2]


def test_a_second_engine_takes_the_bucket_over_and_the_first_stops(tmp_path: Path, url: str) -> None:
    told: list[WalmillError] = []
    with opened(tmp_path / "a", url) as first:
        first.on_end(told.append)
        write(first, 1)
        first.snapshot()
        write(first, 2)
        with opened(tmp_path / "b", url) as second:
            for number in (10, 11, 12):
                write(second, number)
                second.snapshot()
                gc.collect()
                second.tidy()  # and so the number that the first would take is free again
            with pytest.raises(Conflict, match="has taken the store over"):
                first.snapshot()
            until = time.monotonic() + DEADLINE
            while not told:
                assert time.monotonic() < until
                time.sleep(0.01)
            with pytest.raises(Unavailable):
                write(first, 3)
            assert not first.ready
            second.snapshot()
            assert values(second) == [1, 10, 11, 12]
    with opened(tmp_path / "c", url) as third:
        assert values(third) == [1, 10, 11, 12]


class Process:
    """A `walmill serve` with its files in a bucket."""

    def __init__(self, directory: Path, url: str, environment: dict[str, str], wal: str = "") -> None:
        self.client: Client | None = None
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.log = directory / "server.log"
        flags = ["--http-bind", "127.0.0.1:0", "--object-store", url, "--snapshot-interval", "1s"]
        flags += ["--wal", wal, "--wal-flush-interval", "10ms"] if wal else []
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*WALMILL, "serve", *flags],
                cwd=directory,
                env=clean_environment(**environment),
                stdout=output,
                stderr=output,
            )

    def wait(self, token: str) -> None:
        """Waits until it listens.

        Args:
            token: Of the first process that used the bucket; empty for that one.
        """
        until = time.monotonic() + DEADLINE
        while not (found := [one for one in self.events() if one["event"] == "listening"]):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)
        self.client = Client(str(found[0]["url"]), token or self.token)

    @property
    def token(self) -> str:
        """The operator token, if this process has made it."""
        return (self.directory / "walmill-data" / "operator-token").read_text().strip()

    def events(self) -> list[dict[str, Any]]:
        text = self.log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def write(self, number: int) -> bool:
        try:
            self.client.write("d", f"cpu v={number}i {number}".encode(), precision="nanosecond")
        except WalmillError:
            return False
        return True

    def rows(self) -> list[int]:
        return [one["v"] for one in self.client.query_rows("d", "SELECT v FROM cpu ORDER BY time")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        if self.client is not None:
            self.client.close()


@pytest.fixture
def start(tmp_path: Path, url: str, server: Seaweed) -> Iterator[Callable[[str], Process]]:
    started: list[Process] = []

    def run(name: str) -> Process:
        started.append(Process(tmp_path / name, url, server.environment))
        started[-1].wait(started[0].token if len(started) > 1 else "")
        return started[-1]

    yield run
    for one in started:
        one.kill()


def test_what_a_stopped_process_writes_after_the_take_over_is_never_seen(start: Callable[[str], Process]) -> None:
    first = start("a")
    assert first.write(1)
    first.client.snapshot()
    os.kill(first.process.pid, signal.SIGSTOP)
    second = start("b")
    assert second.write(2)
    second.client.snapshot()
    assert second.rows() == [1, 2]
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.process.wait(DEADLINE) == 1
    said = first.log.read_text()
    assert "has taken the store over, and only one engine may use a store" in said
    assert "Traceback" not in said
    assert second.write(3)
    second.client.snapshot()
    second.kill()
    third = start("c")
    assert third.rows() == [1, 2, 3]


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_sigkill_loses_nothing(start: Callable[[str], Process], rounds: int) -> None:
    acknowledged: set[int] = set()
    number = 0
    for turn in range(rounds):
        process = start("a")
        for _ in range(20 + 7 * turn % 50):
            number += 1
            if process.write(number):
                acknowledged.add(number)
            if number % 9 == 0:
                process.client.snapshot()
        process.kill()
    process = start("a")
    assert set(process.rows()) >= acknowledged
    assert len(acknowledged) == number
