"""What a plugin may do to its worker, by accident or not: only its own run ends, and the engine goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.conftest import lines, runs, state, wait
from tests.isolation.test_process import make, run, write

from walmill.context.local import Limits
from walmill.engine import Engine
from walmill_worker.wire import pair

MIB = 2**20


def alive(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def goes_on(engine: Engine) -> None:
    """Another trigger of the same plugin works."""
    make(engine, "copy", name="other")
    write(engine, start=100)
    wait(lambda: state(engine, "other", "rows") == 3)


def opened(path: Path, **limits: Any) -> Engine:
    return Engine.open(data_dir=path, shutdown_timeout=5.0, limits=Limits(**limits))


@pytest.mark.parametrize("do", ["loop", "deaf", "sleep", "close_sockets"])
def test_a_run_that_does_not_end_is_ended(tmp_path: Path, place: Path, do: str) -> None:
    with opened(tmp_path, seconds=0.5, cpu=None) as engine:
        found = run(engine, do)
        assert found["status"] == "failed"
        if do == "close_sockets":
            assert "WorkerDied" in found["error"]
        else:
            assert found["error"] == "LimitExceeded: the run took longer than its limit of 0.5 s"
            assert found["duration_ns"] >= 0.5e9
        goes_on(engine)


def test_a_zygote_leaves_quietly_if_the_engine_was_killed_while_it_began() -> None:
    mine, theirs = pair()
    mine.close()
    with theirs:
        code = "import sys; from walmill_worker.zygote import main; main(int(sys.argv[1]), sys.argv[2:])"
        ended = subprocess.run(
            [sys.executable, "-c", code, str(theirs.fileno()), *sys.path],
            pass_fds=(theirs.fileno(),),
            capture_output=True,
            timeout=30,
            check=False,
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_an_engine_without_descriptors_loses_nothing_and_goes_on(tmp_path: Path, place: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.isolation.scarce_child", str(tmp_path), str(place)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout)
    assert told["write"] == ["ok"] * 5  # the log is open
    assert told["query"] == "ok"
    assert "Too many open files; raise the limit of open files (ulimit -n)" in told["snapshot"]
    assert told["run"].startswith("this process has as many files and connections open as it may, 256")
    assert told["lag"] == {"process": 5, "inline": 0}
    assert told["query of files"].startswith("Unavailable: this process has as many files and connections open")
    assert (told["rows"], told["failed"], told["state"]) == (6, [], ["enabled", "enabled"])


def test_memory_is_limited_with_an_error_that_python_can_say(tmp_path: Path, place: Path) -> None:
    with opened(tmp_path, memory=100 * MIB) as engine:
        found = run(engine, "allocate")
        assert found["status"] == "failed"
        assert "memory limit of 100MB exceeded" in found["error"] or "memory limit of 100MiB exceeded" in found["error"]
        goes_on(engine)


def test_memory_files_count_though_nobody_has_them_mapped(tmp_path: Path, place: Path) -> None:
    with opened(tmp_path, memory=200 * MIB) as engine:
        found = run(engine, "fill_files")
        assert found["status"] == "failed"
        assert found["error"].startswith("LimitExceeded: memory limit of 200M")
        goes_on(engine)


def test_memory_of_children_counts(tmp_path: Path, place: Path) -> None:
    with opened(tmp_path, memory=200 * MIB) as engine:
        found = run(engine, "allocate_in_children")
        assert found["status"] == "failed"
        assert found["error"].startswith("LimitExceeded: memory limit of 200M")
        goes_on(engine)


@pytest.mark.parametrize(
    ("do", "error"),
    [
        ("segfault", "SIGSEGV"),
        ("overflow", ""),
        ("os_exit", "the status 9"),
        ("garbage", "no message"),
        ("endless", "longer than 65,536 bytes"),
        ("pickle", "no message"),
        ("lie", "no answer"),
    ],
)
def test_a_worker_that_ends_or_talks_nonsense(tmp_path: Path, place: Path, do: str, error: str) -> None:
    with opened(tmp_path, seconds=20.0) as engine:
        mark = tmp_path / "exploded"
        found = run(engine, do, arguments={"text": str(mark)})
        assert found["status"] == "failed"
        assert error in found["error"], found
        assert not mark.exists()
        goes_on(engine)


@pytest.mark.parametrize(
    ("do", "error"), [("cut", "not sealed"), ("wrong_arrow", "WriteError: the Arrow data cannot be read")]
)
def test_memory_that_cannot_be_trusted(tmp_path: Path, place: Path, do: str, error: str) -> None:
    with opened(tmp_path, seconds=1.0 if do == "cut" else 30.0) as engine:
        found = run(engine, do)
        assert found["status"] == "failed"
        assert error in found["error"] or do == "cut"
        goes_on(engine)


@pytest.mark.parametrize("dies", [0, 1])
def test_what_a_plugin_has_started_ends_with_its_worker(engine: Engine, dies: int) -> None:
    make(engine, "fork", arguments={"amount": dies})
    write(engine)
    wait(lambda: "started" in lines(engine, "t"))
    if not dies:
        wait(lambda: state(engine, "t", "child"))
        assert alive(state(engine, "t", "child"))
        engine.disable_trigger("d", "t")
    wait(lambda: not sleepers())


def sleepers() -> list[str]:
    """The processes that `do_fork` starts."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdigit() and int(one.name) != os.getpid():
            try:
                command = (one / "cmdline").read_bytes()
            except OSError:
                continue
            if command in (b"sleep\x001000\0", b"sleep\x001001\0", b"sleep\x001002\0"):
                found.append(one.name)
    return found


@pytest.mark.parametrize("printed", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_run_that_says_too_much(tmp_path: Path, place: Path, printed: int) -> None:
    with opened(tmp_path, log_lines=50) as engine:
        found = run(engine, "shout", arguments={"amount": printed})
        assert found["status"] == "ok"
        said = wait(lambda: len(lines(engine, "t")) >= 50 and lines(engine, "t"))
        assert len(said) == 50
        assert "its limit" in said[-1]


def test_a_run_that_writes_too_much(tmp_path: Path, place: Path) -> None:
    with opened(tmp_path, rows=2) as engine:
        found = run(engine, "copy")
        assert found["error"].startswith("LimitExceeded: the run would write 3 rows; its limit is 2")


@pytest.mark.parametrize("do", ["change", "threads"])
def test_what_one_run_leaves_behind_does_not_stop_the_next_one(engine: Engine, do: str) -> None:
    make(engine, do)
    key = "changed" if do == "change" else "threads"
    for number in range(1, 4):
        write(engine)
        while state(engine, "t", key) != number:
            time.sleep(0.01)
    goes_on(engine)


def test_a_zygote_that_dies(engine: Engine) -> None:
    make(engine, "copy", policy="retry")
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 3)
    zygote = engine.worker_processes()["zygote"]
    os.kill(zygote, signal.SIGKILL)
    wait(lambda: not alive(zygote))
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 6)
    assert state(engine, "t", "startups") == 2


def test_processor_time_is_limited(tmp_path: Path, place: Path) -> None:
    with opened(tmp_path, cpu_seconds=0.3, cpu=None) as engine:
        found = run(engine, "loop")
        assert found["error"] == "LimitExceeded: the run used more than its limit of 0.3 s of processor time"


@pytest.mark.parametrize("grouped", [True, False])
def test_a_share_of_a_processor_is_kept(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    from walmill.isolation import cgroup

    there = cgroup.found()
    if grouped and there is None:
        pytest.skip("no control groups can be made here")
    if not grouped:
        monkeypatch.setattr(cgroup, "found", lambda: None)
    with opened(tmp_path, cpu=0.25, seconds=30.0) as engine:
        make(engine, "burn", arguments={"amount": 2})
        write(engine)
        wait(lambda: engine.worker_processes()["workers"])
        pid = wait(lambda: [one["pid"] for one in engine.worker_processes()["workers"] if one["running"]])[0]
        from walmill.isolation.warden import cpu_of

        if grouped:
            group = wait(lambda: engine.worker_processes()["workers"][0]["group"])
            assert str(pid) in Path(group, "cgroup.procs").read_text().split()
            wait(lambda: not engine.worker_processes()["workers"][0]["stopped"])
        before, began = cpu_of(pid), time.monotonic()
        time.sleep(1.0)  # a share is a share of some time
        used = (cpu_of(pid) - before) / (time.monotonic() - began)
        assert 0.1 < used < 0.45
        assert (engine.worker_processes()["workers"][0]["group"] is not None) is grouped
        wait(lambda: runs(engine, "t"))
    if grouped:
        assert there is not None
        assert not list(there.path.glob(f"{cgroup.PREFIX}{os.getpid()}-*"))


def test_idle_workers_end_and_come_back(tmp_path: Path, place: Path) -> None:
    from walmill.isolation.process import WorkerOptions

    with Engine.open(data_dir=tmp_path, workers=WorkerOptions(idle_seconds=0.1)) as engine:
        make(engine, "copy")
        write(engine)
        wait(lambda: state(engine, "t", "rows") == 3)
        wait(lambda: not engine.worker_processes()["workers"])
        assert state(engine, "t", "shutdowns") == 1
        write(engine)
        wait(lambda: state(engine, "t", "rows") == 6)
        assert state(engine, "t", "startups") == 2


def test_no_more_workers_than_allowed(tmp_path: Path, place: Path) -> None:
    from walmill.isolation.process import WorkerOptions

    with Engine.open(data_dir=tmp_path, workers=WorkerOptions(most=2)) as engine:
        for number in range(5):
            make(engine, "copy", name=f"t{number}")
        most = 0
        for turn in range(3):
            write(engine)
            for number in range(5):
                while state(engine, f"t{number}", "rows") != 3 * (turn + 1):
                    most = max(most, engine.worker_processes()["count"])
                    time.sleep(0.002)
        assert most <= 2


def test_workers_end_with_the_engine(tmp_path: Path, place: Path) -> None:
    with opened(tmp_path) as engine:
        make(engine, "sleep")
        write(engine)
        pid = wait(lambda: [one["pid"] for one in engine.worker_processes()["workers"] if one["running"]])[0]
        assert not engine.close(0.1)
        assert not alive(pid)


def test_a_spare_worker_is_kept_where_loading_takes_long(engine: Engine) -> None:
    make(engine, "copy", plugin="slow", policy="retry")
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 3)
    both = wait(lambda: len(found := engine.worker_processes()["workers"]) == 2 and found)
    used = state(engine, "t", "pid")
    (spare,) = {one["pid"] for one in both} - {used}
    os.kill(used, signal.SIGKILL)
    wait(lambda: used not in {one["pid"] for one in engine.worker_processes()["workers"]})
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 6)
    assert state(engine, "t", "pid") == spare


def test_a_spare_that_is_made_while_its_trigger_ends_ends_as_well(engine: Engine) -> None:
    make(engine, "copy", plugin="slow")
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 3)
    engine.delete_trigger("d", "t", force=True)
    wait(lambda: engine.worker_processes()["count"] == 0)
