"""An on_write trigger goes through a part of the log again, and then on where it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest
from walmill_hookspecs import hookimpl

Wait = Callable[[Callable[[], object]], None]


class Notes:
    """Notes what it is given."""

    gate = threading.Event()
    seen: list[tuple[float, str, str]] = []  # noqa: RUF012 - shared by all of a test

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        self.gate.wait(20)
        for row in batch.tables["cpu"].rows():
            self.seen.append((row["v"], batch.kind, ctx.run.source))
        if ctx.settings.get("counts"):
            ctx.cache.incr("rows", batch.num_rows)


@pytest.fixture(autouse=True)
def _forget() -> None:
    Notes.seen.clear()
    Notes.gate.set()


def made(engine: Engine, **more: Any) -> None:
    engine.register(Notes, name="notes")
    engine.create_trigger(database="d", name="t", plugin="notes", spec="table:cpu", **more)


def write(engine: Engine, *values: int) -> list[int]:
    """The sequences of the commits."""
    return [engine.write(f"cpu v={value} {value}", database="d").sequence or 0 for value in values]


def values() -> list[float]:
    return [value for value, _, _ in Notes.seen]


def idle(engine: Engine) -> bool:
    found = engine.trigger("d", "t")
    return not found["running"] and not found["lag_commits"]


def through(engine: Engine) -> int:
    return int(engine.trigger("d", "t")["through"])


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("rows", [1, 100_000])
def test_everything_again(engine: Engine, wait: Wait, counts: bool, rows: int) -> None:
    made(engine, arguments={"counts": counts}, max_batch_rows=rows)
    write(engine, *range(10))
    wait(lambda: len(values()) == 10 and idle(engine))
    Notes.seen.clear()
    asked = engine.replay_trigger("d", "t", "start")
    assert asked["to"] == asked["resume"]
    wait(lambda: len(values()) == 10)
    write(engine, 10, 11)
    wait(lambda: len(values()) == 12)
    assert Notes.seen == [(float(v), "replay", "replay") for v in range(10)] + [
        (float(v), "live", "live") for v in (10, 11)
    ]


def test_a_part_again_and_then_on_where_it_was(engine: Engine, wait: Wait) -> None:
    made(engine, max_batch_rows=2)
    places = write(engine, *range(20))
    wait(lambda: len(values()) == 20 and idle(engine))
    Notes.seen.clear()
    asked = engine.replay_trigger("d", "t", places[3], places[7])
    assert asked == {
        "from": places[3],
        "to": places[7],
        "resume": engine.trigger("d", "t")["replay"]["resume"],
        "backfill": 0,
    }
    write(engine, 20, 21)
    wait(lambda: len(values()) >= 7)
    assert [kind for _, kind, _ in Notes.seen] == ["replay"] * 5 + ["live"] * 2
    assert values()[-2:] == [20.0, 21.0]
    assert values()[:5] == [3.0, 4.0, 5.0, 6.0, 7.0]
    wait(lambda: idle(engine) and through(engine) > places[-1])


def test_it_survives_a_restart(tmp_path: Path, wait: Wait) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        made(engine, max_batch_rows=1)
        places = write(engine, *range(10))
        wait(lambda: len(values()) == 10 and idle(engine))
        Notes.seen.clear()
        Notes.gate.clear()
        engine.replay_trigger("d", "t", places[0], places[5])
        wait(lambda: engine.trigger("d", "t")["running"] == 1)
        assert not engine.close(0.1)
        Notes.gate.set()
    Notes.seen.clear()
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        engine.register(Notes, name="notes")
        write(engine, 10)
        wait(lambda: 10.0 in values())
        # the hook that was left behind has noted its row as well
        assert sorted(set(values())) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0]
        assert [kind for _, kind, _ in Notes.seen][-1] == "live"


def test_what_cannot_be_replayed(engine: Engine, wait: Wait) -> None:
    made(engine)
    write(engine, 1)
    wait(lambda: len(values()) == 1)
    with pytest.raises(InvalidRequest, match="there is nothing from 1000"):
        engine.replay_trigger("d", "t", 1000)
    with pytest.raises(InvalidRequest, match="there is nothing"):
        engine.replay_trigger("d", "t", 3, 2)
    with pytest.raises(Conflict, match="the log begins with the commit 1"):
        engine.replay_trigger("d", "t", 0)
    engine.disable_trigger("d", "t")
    with pytest.raises(Conflict, match="is disabled; enable it first"):
        engine.replay_trigger("d", "t", "start")


def test_a_replay_during_a_replay_goes_on_where_the_trigger_was(engine: Engine, wait: Wait) -> None:
    made(engine, max_batch_rows=1)
    places = write(engine, *range(10))
    wait(lambda: len(values()) == 10 and idle(engine))
    was = through(engine)
    Notes.seen.clear()
    Notes.gate.clear()
    engine.replay_trigger("d", "t", places[0], places[5])
    wait(lambda: engine.trigger("d", "t")["running"] == 1)
    asked = engine.replay_trigger("d", "t", places[2], 10 * places[9])  # all that it has had, and no more
    assert asked["from"] == places[2]
    assert asked["resume"] == asked["to"] >= was
    Notes.gate.set()
    write(engine, 10)
    wait(lambda: 10.0 in values() and idle(engine))
    # the run that the second one overtook notes its row as well, whenever its thread comes to it
    assert [value for value in values() if value != 0.0] == [*map(float, range(2, 11))]
    assert [kind for value, kind, _ in Notes.seen if value == 10.0] == ["live"]
