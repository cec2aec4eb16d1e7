"""Hooks in worker processes: what they are given, what they may do, how they end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.isolation.conftest import lines, runs, state, wait

from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.snapshot.due import Limits as SnapshotLimits


def make(engine: Engine, do: str, name: str = "t", plugin: str = "trouble", **more: Any) -> None:
    arguments = {"do": do, **more.pop("arguments", {})}
    spec = more.pop("spec", "table:cpu")
    engine.create_trigger(
        database="d",
        name=name,
        plugin=plugin,
        spec=spec,
        arguments=arguments,
        policy=more.pop("policy", "skip"),
        **more,
    )


def write(engine: Engine, rows: int = 3, start: int = 0) -> None:
    engine.write("\n".join(f"cpu,host=h{n % 3} v={n} {n + 1}" for n in range(start, start + rows)), database="d")


def run(engine: Engine, do: str, **more: Any) -> dict[str, Any]:
    """One run of a trigger that does this."""
    make(engine, do, **more)
    write(engine)
    found: dict[str, Any] = wait(lambda: runs(engine, "t"))[0]
    return found


def test_a_hook_runs_in_a_worker_and_commits_what_it_wrote(engine: Engine) -> None:
    found = run(engine, "copy")
    assert found["status"] == "ok"
    assert found["rows_in"] == found["rows_written"] == 3
    assert engine.query("SELECT sum(v) AS s FROM copy", database="d").column("s")[0].as_py() == 3.0
    assert state(engine, "t", "rows") == 3
    assert state(engine, "t", "startups") == 1
    assert state(engine, "t", "pid") not in (None, __import__("os").getpid())
    assert engine.trigger("d", "t")["executor"] == "process"


def test_the_engine_does_not_import_the_plugin(engine: Engine) -> None:
    assert run(engine, "copy")["status"] == "ok"
    assert "trouble" not in sys.modules


def test_rows_cross_without_a_copy(engine: Engine) -> None:
    assert run(engine, "where")["status"] == "ok"
    assert state(engine, "t", "inside") >= 3
    assert state(engine, "t", "outside") == 0
    assert state(engine, "t", "sum") == 3.0


def test_an_engine_in_memory_gives_copies(place: Path) -> None:
    with Engine.open() as engine:
        assert run(engine, "where")["status"] == "ok"
        assert state(engine, "t", "inside") == 0
        assert state(engine, "t", "sum") == 3.0


def test_the_whole_context(engine: Engine) -> None:
    found = run(engine, "context")
    assert found["status"] == "ok", (found, lines(engine, "t"))
    assert state(engine, "t", "count") == 3
    assert state(engine, "t", "streamed") == 3
    assert state(engine, "t", "big") == 2**70
    assert state(engine, "t", "table").column("n").to_pylist() == [3]
    assert "gone" not in state(engine, "t", "keys")
    assert state(engine, "t", "query error")[0] == "TableNotFound"
    assert state(engine, "t", "write error strFalse")[0] == "WriteError"
    assert "got a int" in state(engine, "t", "write error intFalse")[1]
    assert engine.query("SELECT * FROM arrow", database="d").column("n").to_pylist() == [3]
    assert engine.query("SELECT * FROM now", database="d").num_rows == 1
    said = wait(lambda: (found := lines(engine, "t")) and "called back" in found and found)
    assert {"said by log", "printed", "logged", "from a child", "called back"} <= set(said)


def test_an_asynchronous_plugin_has_one_loop_for_the_life_of_its_worker(engine: Engine) -> None:
    make(engine, "all", plugin="asynchronous")
    write(engine)
    wait(lambda: state(engine, "t", "runs") == 1)
    assert state(engine, "t", "counts") == [3, 2]
    assert state(engine, "t", "streamed") == 3
    wait(lambda: write(engine) or state(engine, "t", "ticks") > 3)
    assert engine.query("SELECT * FROM after", database="d").num_rows == 1


def test_tools_and_environment(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    found = run(engine, "tools")
    assert found["status"] == "ok", found
    assert state(engine, "t", "lines") == 2
    assert state(engine, "t", "git") == [0, ""]
    directory = state(engine, "t", "directory")
    assert directory != str(Path.cwd())
    assert not {"AWS_SECRET_ACCESS_KEY", "WALMILL_TOKEN"} & set(state(engine, "t", "environment"))
    assert {"PATH", "TMPDIR"} <= set(state(engine, "t", "environment"))
    engine.disable_trigger("d", "t")
    wait(lambda: not Path(directory).exists())


@pytest.mark.parametrize(
    ("do", "status", "error"),
    [
        ("skip", "skipped", "not this one"),
        ("raise", "failed", "KeyError: 'wrong'"),
        ("exit", "failed", "SystemExit: 3"),
        ("disable", "disabled", "enough"),
        ("nonsense", "failed", "AttributeError: 'Trouble' object has no attribute 'do_nonsense'"),
    ],
)
def test_what_a_hook_may_say(engine: Engine, do: str, status: str, error: str) -> None:
    found = run(engine, do)
    assert (found["status"], found["error"]) == (status, error)
    if status == "failed":
        assert "Traceback" in "".join(wait(lambda: lines(engine, "t")))


def test_later(engine: Engine) -> None:
    make(engine, "later", policy="retry")
    write(engine)
    wait(lambda: state(engine, "t", "attempt") == 2)


def test_a_checkpoint(engine: Engine) -> None:
    assert run(engine, "checkpoint")["status"] == "ok"
    assert engine.query("SELECT * FROM before", database="d").num_rows == 1
    assert engine.query("SELECT * FROM after", database="d").num_rows == 1


def test_a_plugin_whose_worker_ends_while_it_is_loaded(engine: Engine) -> None:
    description = {one.name: one for one in engine.plugins()}["broken-worker"]
    assert description.status == "broken"
    assert "status 5" in str(description.cause)


def test_an_object_of_the_application_cannot_run_in_a_process(engine: Engine) -> None:
    from walmill_hookspecs import hookimpl

    class Mine:
        @hookimpl
        def on_write(self) -> None:
            pass

    engine.register(Mine, name="mine")
    with pytest.raises(InvalidRequest, match="object of the application"):
        engine.create_trigger(database="d", name="m", plugin="mine", spec="table:cpu", executor="process")
    assert engine.create_trigger(database="d", name="m", plugin="mine", spec="table:cpu").executor == "inline"


def test_a_batch_that_is_kept_stays_as_it_is_when_its_log_is_released(tmp_path: Path, place: Path) -> None:
    with Engine.open(data_dir=tmp_path, segment_bytes=2**16, shutdown_timeout=5.0) as engine:
        make(engine, "keep")
        for turn in range(12):
            write(engine, 300, 1000 * turn)
            wait(lambda turn=turn: (state(engine, "t", "same") or [0])[0] > turn)  # type: ignore[misc]
            engine.snapshot()
        wait(lambda: engine.snapshot() and engine.segments[0].header.first_sequence > 5)
        write(engine, 3)
        wait(lambda: state(engine, "t", "same")[0] > 12)  # all in one process: a second one would begin to count anew
        assert state(engine, "t", "same")[1] is True


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_batch_that_is_kept_stays_as_it_is_while_ten_gigabytes_are_written(tmp_path: Path, place: Path) -> None:
    with Engine.open(data_dir=tmp_path, shutdown_timeout=5.0) as engine:
        make(engine, "keep")
        write(engine, 300)
        wait(lambda: state(engine, "t", "same"))
        text = pa.array(["x" * 4096] * 1024)
        for turn in range(10 * 256):
            time = pa.array(range(turn * 1024, (turn + 1) * 1024), pa.timestamp("ns"))
            engine.write(pa.table({"s": text, "time": time}), database="d", table="big", tags=[])
        engine.snapshot()
        wait(lambda: engine.segments[0].header.first_sequence > 1000)
        write(engine, 3)
        wait(lambda: state(engine, "t", "same")[0] == 2)
        assert state(engine, "t", "same")[1] is True


@pytest.mark.parametrize(
    ("mebibytes", "limit"),
    [(120, "32MiB"), pytest.param(1024, "300MiB", marks=[pytest.mark.long, pytest.mark.timeout(600)])],
)
def test_the_log_that_a_plugin_reads_is_not_its_memory(tmp_path: Path, place: Path, mebibytes: int, limit: str) -> None:
    """It is behind, reads more mapped log than it may have memory, keeps all of it, and is not killed."""
    later = SnapshotLimits(buffer_bytes=2**40, log_bytes=2**40, memory_bytes=2**40)
    with Engine.open(data_dir=tmp_path, shutdown_timeout=5.0, snapshots=later) as engine:
        text = pa.array(["x" * 4096] * 1024)
        for turn in range(mebibytes // 4):
            time = pa.array(range(turn * 1024, (turn + 1) * 1024), pa.timestamp("ns"))
            engine.write(pa.table({"s": text, "time": time}), database="d", table="cpu", tags=[])
        make(engine, "touch", start="start", limits={"memory": limit, "timeout": "5m"}, max_batch_rows=5000)
        wait(lambda: (state(engine, "t", "bytes") or 0) >= mebibytes * 2**20, 400)
        assert not [one for one in runs(engine, "t") if one["status"] != "ok"]


def test_secrets_are_resolved_by_the_engine_also_in_lists(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE_SECRET", "first")
    monkeypatch.setenv("TWO_SECRET", "second")
    given = {"key": "env:ONE_SECRET", "keys": ["env:TWO_SECRET", "plain"]}
    assert run(engine, "secrets", arguments=given)["status"] == "ok"
    assert state(engine, "t", "secrets") == ["first", "second", "plain"]
    assert "first" not in state(engine, "t", "told")
