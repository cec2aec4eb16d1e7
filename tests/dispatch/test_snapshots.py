"""Files are told once they count: in order, all of them, whatever stops in between."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.dispatch.snapshots import Step, portion, step
from walmill.dispatch.station import Ended
from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.isolation.process import possible
from walmill.model.files import DataFile
from walmill.options import EngineOptions
from walmill.snapshot.due import Limits
from walmill_hookspecs import DisableTrigger, SkipBatch, SnapshotRecord, hookimpl

Wait = Callable[[Callable[[], object]], None]
CODE = '''
"""Counts what it is told, in its state and in a table."""
from pathlib import Path
import pyarrow.parquet as pq
from walmill_hookspecs import Line, hookimpl

@hookimpl
{sync}def on_snapshot(record, ctx):
    place = Path(ctx.settings["place"])
    if (place / "fail").exists():
        raise OSError("as it was told")
    for table in record.tables:
        assert table.tags == ("host",) and table.fields == {{"v": "int64"}}, table
        for one in table.files:
            rows = pq.read_metadata(one.path).num_rows
            assert rows == one.rows
            ctx.cache.incr(table.name, rows)
            assert record.previous_sequence < one.sequences[1] <= record.sequence
    ctx.write(Line("told", {{}}, {{"through": record.sequence, "key": ctx.run.key}}))
'''
EXECUTORS = ["inline", *(["process"] if possible() else [])]
# nothing is written to files but when a test says so
OPTIONS = {"discover_plugins": False, "shutdown_timeout": 5.0}


@pytest.fixture(params=[f"{one}-{kind}" for one in EXECUTORS for kind in ("plain", "async")])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(place: Path, kind: str) -> Engine:
    engine = Engine.open(EngineOptions(data_dir=place / "data", **OPTIONS))  # type: ignore[arg-type]
    code = place / "count.py"
    code.write_text(CODE.format(sync="async " if kind.endswith("async") else ""))
    engine.add_plugin("count", f"{code}#")
    return engine


def create(engine: Engine, place: Path, kind: str, **more: Any) -> None:
    more = {"spec": "snapshot:cpu,mem", "executor": kind.split("-", maxsplit=1)[0], "plugin": "count", **more}
    engine.create_trigger(database="d", name="t", arguments={"place": str(place)}, **more)


def write(engine: Engine, table: str, start: int, count: int) -> None:
    engine.write("\n".join(f"{table},host=a v={n}i {n + 1}" for n in range(start, start + count)), database="d")


def counted(engine: Engine, table: str) -> int:
    from walmill.cache.state import trigger_space
    from walmill_worker.values import decode

    view = engine.view()
    entry = view.state.space(trigger_space(view.catalog.trigger("d", "t").id)).entries.get(table)
    return 0 if entry is None else int(decode(entry.value))


def test_new_files_are_told_in_one_commit_with_the_cursor(tmp_path: Path, kind: str, wait: Wait) -> None:
    with opened(tmp_path, kind) as engine:
        write(engine, "cpu", 0, 3)
        engine.snapshot()
        create(engine, tmp_path, kind)
        write(engine, "cpu", 10, 4)
        write(engine, "mem", 0, 2)
        engine.write("disk,host=a v=1i 1", database="d")
        engine.write("cpu,host=a v=1i 1", database="other")
        engine.snapshot()
        wait(lambda: counted(engine, "cpu"))
        assert (counted(engine, "cpu"), counted(engine, "mem")) == (4, 2), "what was in files before is not told"
        wait(lambda: engine.trigger("d", "t")["rows_in"] == 6)  # counted after the commit
        assert (engine.trigger("d", "t")["lag_rows"], engine.trigger("d", "t")["lag_commits"]) == (0, 0)
        engine.snapshot()  # its own row: not its table
        write(engine, "cpu", 20, 1)
        engine.snapshot()
        wait(lambda: counted(engine, "cpu") == 5)
        assert engine.query("SELECT count(*) AS n FROM told", database="d").to_pylist() == [{"n": 2}]
        wait(lambda: engine.trigger("d", "t")["runs"] == 2)


def test_what_was_missed_is_told_after_a_restart(tmp_path: Path, kind: str, wait: Wait) -> None:
    (tmp_path / "fail").touch()
    with opened(tmp_path, kind) as engine:
        create(engine, tmp_path, kind)
        write(engine, "cpu", 0, 3)
        engine.snapshot()
        wait(lambda: engine.trigger("d", "t")["failures"])
        assert engine.trigger("d", "t")["lag_rows"] == 3
        assert "as it was told" in engine.trigger("d", "t")["last_error"]
    with opened(tmp_path, kind) as engine:
        engine.enable_trigger("d", "t")  # it would not find its plugin before this
        wait(lambda: engine.trigger("d", "t")["failures"])
        engine.disable_trigger("d", "t")
        write(engine, "cpu", 10, 2)
        engine.snapshot()
        (tmp_path / "fail").unlink()
        engine.enable_trigger("d", "t")
        wait(lambda: counted(engine, "cpu") == 5)
        assert engine.query("SELECT count(*) AS n FROM told", database="d").to_pylist() == [{"n": 1}]


@pytest.mark.parametrize("policy", ["skip", "disable"])
def test_policies(tmp_path: Path, policy: str, wait: Wait) -> None:
    (tmp_path / "fail").touch()
    with opened(tmp_path, "inline-plain") as engine:
        create(engine, tmp_path, "inline", policy=policy)
        write(engine, "cpu", 0, 3)
        engine.snapshot()
        wait(lambda: engine.trigger("d", "t")["failures"])
        if policy == "disable":
            wait(lambda: engine.trigger("d", "t")["state"] != "enabled")
            assert "as it was told" in engine.trigger("d", "t")["reason"]
            return
        (tmp_path / "fail").unlink()
        write(engine, "cpu", 10, 2)
        engine.snapshot()
        wait(lambda: counted(engine, "cpu") == 2)


def test_a_new_trigger_may_begin_with_what_is_there(tmp_path: Path, wait: Wait) -> None:
    with opened(tmp_path, "inline-plain") as engine:
        write(engine, "cpu", 0, 3)
        engine.snapshot()
        write(engine, "cpu", 10, 2)
        create(engine, tmp_path, "inline", start="start")
        wait(lambda: counted(engine, "cpu") == 3)
        engine.snapshot()
        wait(lambda: counted(engine, "cpu") == 5)
        assert engine.trigger("d", "t")["warning"] is None


def test_what_it_cannot_have(tmp_path: Path) -> None:
    with opened(tmp_path, "inline-plain") as engine:
        for more, message in (
            ({"max_concurrency": 2}, "told one after the other"),
            ({"methods": ["GET"]}, "methods are for request"),
            ({"max_batch_wait": "1s"}, "max_batch_wait is for on_write"),
            ({"start": "2026-01-01T00:00:00Z"}, "is not for snapshots; start tells all"),
            ({"spec": "snapshot:"}, "expect one of the following|table"),
            ({"spec": "all_tables"}, "lacks the hook on_write"),
        ):
            with pytest.raises(InvalidRequest, match=message):
                create(engine, tmp_path, "inline", **more)
        create(engine, tmp_path, "inline", spec=" snapshot: cpu , m* ")
        assert engine.trigger("d", "t")["trigger_specification"] == "snapshot:cpu,m*"
        with pytest.raises(InvalidRequest, match="on_snapshot when rows are in files"):
            engine.run_trigger("d", "t")


class Copies:
    """Keeps what it was told, as somebody outside would: newest sequences win."""

    rows: dict[tuple[str, int], int] = {}  # noqa: RUF012 - of the test
    chance = random.Random(0)

    @hookimpl
    def on_snapshot(self, record: SnapshotRecord) -> None:
        for table in record.tables:
            for one in sorted(table.files, key=lambda file: file.sequences):
                if self.chance.random() < 0.2:
                    raise OSError("a bad day")
                for row in pq.read_table(one.path, columns=["host", "time", "v"]).to_pylist():
                    Copies.rows[row["host"], row["time"].value] = row["v"]


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_outside_has_what_the_table_has(tmp_path: Path, seed: int, wait: Wait) -> None:
    Copies.rows, Copies.chance = {}, random.Random(seed)
    chance = random.Random(seed)

    def begin() -> Engine:
        options = EngineOptions(data_dir=tmp_path, snapshots=Limits(), **OPTIONS)  # type: ignore[arg-type]
        engine = Engine.open(options)
        engine.register(Copies, name="copies")
        return engine

    engine = begin()
    try:
        engine.create_trigger(database="d", name="t", plugin="copies", spec="snapshot:cpu")
        for _ in range(30):
            match chance.choice(["write", "write", "snapshot", "tidy", "restart", "pause"]):
                case "write":
                    times = [chance.randrange(40) for _ in range(5)]
                    lines = [f"cpu,host=h{chance.randrange(3)} v={chance.randrange(10**6)}i {time}" for time in times]
                    engine.write("\n".join(lines), database="d")
                case "snapshot":
                    engine.snapshot()
                case "tidy":
                    assert engine._keeper is not None
                    engine._keeper.tidy()
                case "restart":
                    engine.close(5.0)
                    engine = begin()
                    engine.enable_trigger("d", "t")
                case "pause":
                    engine.disable_trigger("d", "t")
                    engine.enable_trigger("d", "t")
        engine.write("cpu,host=h0 v=1i 1", database="d")
        engine.snapshot()
        wait(lambda: engine.trigger("d", "t")["lag_commits"] == 0)
        found = engine.query("SELECT host, time, v FROM cpu", database="d").to_pylist()
        assert Copies.rows == {(row["host"], row["time"].value): row["v"] for row in found}
    finally:
        engine.close(5.0)


def file(sequence: int, table: int = 1) -> DataFile:
    return DataFile(f"{table}/{sequence}", table, 1, 1, 0, 0, sequence, sequence, 0)


@given(st.dictionaries(st.integers(1, 3), st.lists(st.integers(1, 30), min_size=1, max_size=10)), st.integers(1, 12))
def test_many_files_come_in_steps(ages: dict[int, list[int]], most: int) -> None:
    left = {table: [file(age, table) for age in found] for table, found in ages.items()}
    told: list[DataFile] = []
    while left:
        some = portion(left, most)
        new = [one for files in some.values() for one in files]
        bound = max(one.last_sequence for one in new)
        assert sum(one.last_sequence < bound for one in new) < most, "only those of one age may be more"
        told += new
        left = {table: [one for one in files if one.last_sequence > bound] for table, files in left.items()}
        left = {table: files for table, files in left.items() if files}
    assert sorted(one.path for one in told) == sorted(
        f"{table}/{age}" for table, found in ages.items() for age in found
    )


class Signals:
    """Says what it is told to say."""

    raises: BaseException | None = None
    calls = 0

    @hookimpl
    def on_snapshot(self, record: SnapshotRecord) -> None:
        Signals.calls += 1
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def signalling(tmp_path: Path) -> Iterator[Engine]:
    Signals.calls = 0
    with Engine.open(EngineOptions(data_dir=tmp_path, **OPTIONS)) as engine:  # type: ignore[arg-type]
        engine.register(Signals, name="p")
        engine.create_trigger(database="d", name="t", plugin="p", spec="snapshot")
        yield weakref.proxy(engine)  # pytest keeps what a fixture gave for longer than its test
    Signals.raises = None


def test_a_plugin_may_pass_or_end_it(signalling: Engine, wait: Wait) -> None:
    Signals.raises = SkipBatch("not these")
    write(signalling, "cpu", 0, 1)
    signalling.snapshot()
    wait(lambda: Signals.calls == 1 and signalling.trigger("d", "t")["lag_rows"] == 0)
    Signals.raises = DisableTrigger("enough")
    write(signalling, "cpu", 10, 1)
    signalling.snapshot()
    wait(lambda: signalling.trigger("d", "t")["state"] != "enabled")
    assert signalling.trigger("d", "t")["reason"] == "enough"
    assert Signals.calls == 2


@pytest.mark.parametrize(
    ("end", "policy", "committed", "after", "expected"),
    [
        ("ok", "retry", True, None, Step()),
        ("ok", "retry", False, None, Step(move=True)),
        ("skip", "retry", False, None, Step(move=True)),
        ("failed", "retry", False, None, Step(wait=40.5, failures=4)),
        ("failed", "skip", False, None, Step(move=True)),
        ("failed", "disable", False, None, Step(disable="why")),
        ("disable", "retry", False, None, Step(disable="why")),
        ("retry_later", "skip", False, 7.0, Step(wait=7.0, failures=3)),
        ("unavailable", "disable", False, 2.0, Step(wait=2.0, failures=3)),
        ("conflict", "disable", False, None, Step(wait=0.005, failures=3)),
    ],
)
def test_what_follows_a_run(end: Any, policy: str, committed: bool, after: float | None, expected: Step) -> None:
    ended = Ended(end=end, error="why", after=after)
    ended.committed = committed
    assert step(ended, policy=policy, failures=3, chance=0.5) == expected
