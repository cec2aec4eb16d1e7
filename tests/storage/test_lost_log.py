"""Triggers whose log is gone: they go on where the log begins, and say what they did not see."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from walmill.engine import Engine
from walmill.model.trigger import RETENTION
from walmill.snapshot.release import LogRetention
from walmill_hookspecs import Context, WriteBatch, hookimpl

BIG = "w" * 40_000  # one row of it for each segment of the log


class See:
    """Notes the numbers that it is given."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    @hookimpl
    def on_write(self, batch: WriteBatch, ctx: Context[Any]) -> None:
        self.seen += [row["n"] for row in batch.tables["t"].rows()]


def wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def open_engine(directory: Path, seen: list[int] | None, retention: LogRetention | None = None) -> Engine:
    engine = Engine.open(
        data_dir=directory,
        discover_plugins=False,
        segment_bytes=2**16,
        log_retention=retention or LogRetention(free_part=0.0),
    )
    if seen is not None:
        engine.register(See(seen), name="see")
    return engine


def write(engine: Engine, *numbers: int) -> None:
    for number in numbers:
        engine.write(f't n={number}i,s="{BIG}" {number}', database="d")


def released(engine: Engine) -> None:
    """A snapshot, and all of the log that may go is gone."""
    figures = engine.keeper_figures
    assert figures is not None
    before = figures.released
    engine.snapshot(10)
    wait(lambda: figures.released > before)


def test_a_trigger_that_was_disabled_goes_on_where_the_log_begins(tmp_path: Path) -> None:
    seen: list[int] = []
    with open_engine(tmp_path, seen) as engine:
        engine.create_trigger(database="d", name="see", plugin="see", spec="table:t")
        write(engine, 1)
        wait(lambda: seen == [1])
        engine.disable_trigger("d", "see")
        write(engine, 2, 3, 4)
        released(engine)
        through = engine.trigger("d", "see")["through"]
        first = engine.segments[0].header.first_sequence
        assert first > through + 1
    with open_engine(tmp_path, seen) as engine:
        made = engine.enable_trigger("d", "see")
        assert made.warning is not None
        assert f"{through + 1} to {first - 1} are not in the log any more" in made.warning
        assert engine.trigger("d", "see")["warning"] == made.warning
        write(engine, 5)
        wait(lambda: seen[-1] == 5)
        assert not {2, 3} & set(seen)
        assert seen == sorted(set(seen)), "nothing twice"
        engine.disable_trigger("d", "see")
        write(engine, 6)
        assert engine.enable_trigger("d", "see").warning is None, "this time nothing is lost"
        wait(lambda: seen[-1] == 6)
    with open_engine(tmp_path, seen) as engine:
        assert engine.trigger("d", "see")["warning"] is None
        write(engine, 7)
        wait(lambda: seen[-1] == 7)
        assert seen == sorted(set(seen))


def test_a_trigger_that_holds_the_log_for_too_long_is_paused_and_can_be_enabled(tmp_path: Path) -> None:
    seen: list[int] = []
    with open_engine(tmp_path, seen) as engine:
        engine.create_trigger(database="d", name="see", plugin="see", spec="table:t")
        write(engine, 1)
        wait(lambda: seen == [1])
    # its plugin is gone: it waits, and holds the log
    with open_engine(tmp_path, None, LogRetention(bytes=100_000, free_part=0.0)) as engine:
        write(engine, 2, 3, 4)
        released(engine)
        shown = engine.trigger("d", "see")
        assert (shown["state"], shown["reason"]) == ("paused", RETENTION)
        through, first = shown["through"], engine.segments[0].header.first_sequence
        assert through + 1 < first
    with open_engine(tmp_path, seen) as engine:
        shown = engine.trigger("d", "see")
        assert (shown["state"], shown["reason"], shown["warning"]) == ("paused", RETENTION, None)
        warning = engine.enable_trigger("d", "see").warning
        assert warning is not None
        assert f"which begins with the commit {first}" in warning
        write(engine, 5)
        wait(lambda: seen[-1] == 5)
        assert not {2, 3} & set(seen)
        assert engine.query("SELECT count(*) FROM t", database="d").column(0).to_pylist() == [5]


@pytest.mark.parametrize(("start", "warned"), [("start", False), (1, True)])
def test_a_trigger_from_the_start_begins_with_what_the_log_still_has(
    tmp_path: Path, start: str | int, warned: bool
) -> None:
    seen: list[int] = []
    with open_engine(tmp_path, None) as engine:
        write(engine, 1, 2, 3, 4)
        released(engine)
        write(engine, 5)
    with open_engine(tmp_path, seen) as engine:
        first = engine.segments[0].header.first_sequence
        assert first > 1
        made = engine.create_trigger(database="d", name="see", plugin="see", spec="table:t", start=start)
        assert (made.warning is not None) == warned
        wait(lambda: seen[-1:] == [5])
        assert seen == list(range(first, 6)), "each commit has the number of its sequence"


def test_a_start_without_the_log_says_so(tmp_path: Path) -> None:
    """The log was removed by hand, although a trigger needed it; a manifest has the rows."""
    seen: list[int] = []
    with open_engine(tmp_path, seen) as engine:
        engine.create_trigger(database="d", name="see", plugin="see", spec="table:t")
    with open_engine(tmp_path, None) as engine:
        write(engine, 1, 2)
        engine.snapshot(10)
    for segment in (tmp_path / "wal").iterdir():
        segment.unlink()
    with open_engine(tmp_path, seen) as engine:
        assert "not in the log any more" in engine.trigger("d", "see")["warning"]
        write(engine, 3)
        wait(lambda: seen == [3])
