"""SIGKILL at any moment loses no acknowledged write and doubles no effect: seen from outside, with real processes."""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.seaweed import BUCKET, seaweed, variables

from walmill.cache.state import trigger_space
from walmill_worker.values import decode

CHILD = Path(__file__).with_name("child.py")
ROUNDS = 8


def load_child() -> Any:
    spec = importlib.util.spec_from_file_location("crash_child", CHILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_round(directory: Path, start: int, writes: int, kind: str, bucket: str | None) -> set[tuple[str, int]]:
    """Starts a writer, kills it after so many acknowledged writes, and says which they were."""
    command = [sys.executable, str(CHILD), str(directory), str(start), kind, *([] if bucket is None else [bucket])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rescue = threading.Timer(30, process.kill)
        rescue.start()
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) >= writes:
                break
        process.kill()
        lines.extend(process.stdout)
        rescue.cancel()
    assert len(lines) >= writes, "the writer did not get going"
    found = (re.fullmatch(r"([abc]) (\d+);\n", line) for line in lines)
    return {(match[1], int(match[2])) for match in found if match}


@pytest.fixture
def bucket(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    if kind != "bucket":
        yield None
        return
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server, variables(server.environment):
        yield f"s3://{BUCKET}/plant"


LONG = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.may_leave("file", reason="obstore keeps connections, and a runtime, as long as the process lives")
@pytest.mark.parametrize(
    ("kind", "rounds"),
    [
        ("log", ROUNDS),
        pytest.param("snapshots", ROUNDS, marks=pytest.mark.slow),
        pytest.param("bucket", ROUNDS, marks=pytest.mark.slow),
        *(pytest.param(kind, 100, marks=LONG) for kind in ("log", "snapshots", "bucket")),
    ],
)
def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path, kind: str, rounds: int, bucket: str | None) -> None:
    """With `bucket` the log is in one, as are the files, and every round has a machine of its own."""
    machine = tmp_path
    chance = random.Random(20261124)
    acknowledged: set[tuple[str, int]] = set()
    start = 0
    for number in range(rounds):
        if bucket is not None:
            machine = tmp_path / f"machine-{number}"
        acknowledged |= one_round(machine, start, chance.randint(1, 120), kind, bucket)
        start = max(number for _, number in acknowledged) + 1000
    child = load_child()
    if bucket is not None:
        machine = tmp_path / "machine"
    with child.open_engine(machine, snapshots=kind != "log", bucket=bucket) as engine:
        until = time.monotonic() + 60
        while any(one["lag_commits"] or one["running"] for one in engine.triggers()):
            assert time.monotonic() < until, engine.triggers()
            time.sleep(0.02)

        def rows(table: str) -> list[tuple[str, int, int]]:
            found = engine.query(f"SELECT k, CAST(time AS BIGINT) AS t, v FROM {table}", database=child.DATABASE)
            return sorted(zip(*(column.to_pylist() for column in found.columns), strict=True))

        source = rows("src")
        assert {(key, value) for key, time_, value in source} >= acknowledged
        view = engine.view()
        database = view.catalog.database(child.DATABASE)
        for name in ("copy", "async_copy"):
            assert rows(name) == source
            number = database.tables[name]
            written = view.tables[number].num_rows + sum(file.rows for file in view.files.get(number, ()))
            assert written == len(source), "the copy was written once, not written again and merged"
            space = view.state.space(trigger_space(view.catalog.trigger(child.DATABASE, name).id))
            assert decode(space.entries["rows"].value) == len(source)
        if kind != "log":
            manifest = engine.snapshot()
            assert manifest is not None
            assert manifest.number > rounds, "each round made some"
            assert engine.segments[0].header.first_sequence > 1, "the log was released"
    if bucket is not None:
        return
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    known = r"lock|walmill\.json|wal/\d{10}\.seg|wal/newest|wal/torn-\d+-\d+|objects/(manifests|parts|tables)/.*"
    assert all(re.fullmatch(known, name) for name in names), names
