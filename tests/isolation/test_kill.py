"""Engine, workers and zygote are killed at random: what was acknowledged is there, and each effect once."""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.conftest import state

CHILD = Path(__file__).with_name("crash_child.py")


def load_child() -> Any:
    spec = importlib.util.spec_from_file_location("isolation_crash_child", CHILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_round(directory: Path, start: int, writes: int) -> set[tuple[str, int]]:
    """Starts a writer, kills it after so many acknowledged writes, and says which they were."""
    command = [sys.executable, str(CHILD), str(directory), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rescue = threading.Timer(60, process.kill)
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


def processes_of(directory: Path) -> list[str]:
    """Zygotes and workers of the engines of a test: the directory is on their path."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdigit():
            try:
                command = (one / "cmdline").read_bytes()
            except OSError:
                continue
            if b"walmill_worker" in command and str(directory).encode() in command:
                found.append(one.name)
    return found


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_source_copy_and_count_agree(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(20261128)
    acknowledged: set[tuple[str, int]] = set()
    start = 1
    for _ in range(rounds):
        acknowledged |= one_round(tmp_path, start, chance.randint(200, 1500))
        start = max(number for _, number in acknowledged) + 1000
    until = time.monotonic() + 60
    while left := processes_of(tmp_path):
        assert time.monotonic() < until, f"workers outlive their engine: {left}"
        time.sleep(0.05)
    child = load_child()
    try:
        with child.open_engine(tmp_path) as engine:

            def settle() -> None:
                until = time.monotonic() + 60
                while any(one["lag_commits"] or one["running"] for one in engine.triggers()):
                    assert time.monotonic() < until, engine.triggers()
                    time.sleep(0.02)

            settle()
            engine.replay_trigger(child.DATABASE, "wild", "dead-letters")  # they fail again
            settle()

            def rows(table: str) -> list[tuple[str, int]]:
                found = engine.query(f"SELECT k, v FROM {table}", database=child.DATABASE)
                return sorted(zip(*(column.to_pylist() for column in found.columns), strict=True))

            source = rows("src")
            assert set(source) >= acknowledged
            view = engine.view()
            database = view.catalog.database(child.DATABASE)
            for name in ("copy", "async_copy"):
                assert rows(name) == source
                assert view.tables[database.tables[name]].num_rows == len(source), "written once, not merged"
                assert state(engine, name, "rows", child.DATABASE) == len(source)
            sql = "SELECT line, replayed_at FROM dead_letters WHERE trigger = 'wild'"
            letters = engine.query(sql, database="_internal").to_pylist()
            assert any(one["replayed_at"] is not None for one in letters), "some were given again, and failed again"
            lines = [one["line"] for one in letters if one["replayed_at"] is None]
            found = (re.match(r"src,k=([abc]) v=(\d+)i ", line) for line in lines)
            dead = [(match[1], int(match[2])) for match in found if match]
            wild = rows("wild")
            assert sorted([*wild, *dead]) == source
            assert view.tables[database.tables["wild"]].num_rows == len(wild)
            assert state(engine, "wild", "rows", child.DATABASE) == len(wild)
            assert any(number % 97 == 0 for _, number in dead)
    finally:
        sys.path.remove(str(tmp_path / "plugins"))
    names = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert not [name for name in names if "worker" in name]
