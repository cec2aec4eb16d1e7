"""What becomes of runs that fail, hang, or write what they read."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from walmill import create_app
from walmill.dispatch import writes
from walmill.dispatch.mill import Mill
from walmill.dispatch.station import Station
from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest, NotFound, PluginFailure, Unavailable
from walmill.fs.local import LocalFile, LocalFS
from walmill_hookspecs import DisableTrigger, Line, RetryLater, SkipBatch, hookimpl
from walmill_worker.batches import zeros

Wait = Callable[[Callable[[], object]], None]


def plugin_of(function: Callable[..., Any]) -> type:
    """A plugin whose on_write is this function of batch and context."""

    class Made:
        @hookimpl
        def on_write(self, batch: Any, ctx: Any) -> None:
            function(batch, ctx)

    return Made


def trigger(
    engine: Engine, function: Callable[..., Any], spec: str = "table:cpu", name: str = "t", **more: Any
) -> None:
    engine.register(plugin_of(function), name=name)
    engine.create_trigger(database="d", name=name, plugin=name, spec=spec, **more)


def settled(engine: Engine) -> bool:
    return all(not one["lag_commits"] and not one["running"] for one in engine.triggers())


def fail(batch: Any, ctx: Any) -> None:
    ctx.write(Line("never", fields={"x": 1}))
    ctx.cache.put("never", 1)
    raise ValueError(f"no good: {batch.num_rows} rows")


def test_a_batch_that_is_given_up_is_in_the_dead_letters(engine: Engine, wait: Wait) -> None:
    trigger(engine, fail, attempts=1)
    engine.write('cpu,host=a v=1.5,n=2u 7\ncpu,host=b s="x y" 8', database="d")
    wait(lambda: "_internal" in engine.databases() and settled(engine))
    rows = engine.query('SELECT line, error, attempts, "table", first_sequence FROM dead_letters', database="_internal")
    assert sorted(rows.column("line").to_pylist()) == ["cpu,host=a v=1.5,n=2u 7", 'cpu,host=b s="x y" 8']
    assert set(rows.column("error").to_pylist()) == {"ValueError: no good: 2 rows"}
    assert "never" not in engine.view().catalog.database("d").tables
    shown = engine.trigger("d", "t")
    assert (shown["state"], shown["through"]) == ("enabled", rows.column("first_sequence")[0].as_py())


def test_dead_letters_that_are_too_large_for_one_commit_go_in_several(engine: Engine, wait: Wait) -> None:
    """Ten thousand rows, each with a long error, are 40 MB; in one commit the log would refuse them, and the trigger stand."""

    def talkative(batch: Any, ctx: Any) -> None:
        raise ValueError("no " * 2000)

    trigger(engine, talkative, attempts=1)
    engine.write("\n".join(f"cpu v={number} {number}" for number in range(10_000)), database="d")
    wait(lambda: "_internal" in engine.databases() and settled(engine))
    sql = "SELECT count(DISTINCT line) AS lines, count(*) AS letters FROM dead_letters"
    assert engine.query(sql, database="_internal").to_pylist() == [{"lines": 10_000, "letters": 10_000}]
    engine.write("cpu v=1 20000", database="d")
    wait(lambda: engine.run_counts.get(("d", "t", "failed")) == 2)


def test_skip_drops_the_batch_and_goes_on(engine: Engine, wait: Wait) -> None:
    seen: list[int] = []

    def sometimes(batch: Any, ctx: Any) -> None:
        seen.append(batch.num_rows)
        if len(seen) == 1:
            raise KeyError("once")

    trigger(engine, sometimes, policy="log")
    for number in (1, 2):
        engine.write(f"cpu v=1 {number}", database="d")
        wait(lambda: settled(engine) and seen)
    wait(lambda: len(seen) == 2)
    assert engine.trigger("d", "t")["error_behavior"] == "skip"


def test_disable_is_kept_with_reason_and_traceback_over_a_restart(tmp_path: Path, wait: Wait) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        trigger(engine, fail, policy="disable")
        engine.write("cpu v=1 1", database="d")
        wait(lambda: engine.trigger("d", "t")["disabled"])
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        shown = engine.trigger("d", "t")
        assert shown["state"] == "disabled"
        assert shown["lag_commits"] is None, "0 would say that nothing waits for it"
        metrics = TestClient(create_app(engine, without_auth=True)).get("/metrics").text
        assert 'walmill_trigger_enabled{database="d",trigger="t"} 0.0' in metrics
        assert "walmill_trigger_lag_commits{" not in metrics
        assert shown["reason"] == "ValueError: no good: 1 rows"
        assert "in fail" in shown["traceback"]
        seen: list[int] = []
        engine.register(plugin_of(lambda batch, ctx: seen.append(batch.first_sequence)), name="t")
        engine.enable_trigger("d", "t")
        wait(lambda: seen)
        assert len(seen) == 1, "the batch that failed comes again, the cursor had stayed before it"


@pytest.mark.parametrize(
    ("signal", "status"),
    [
        (SkipBatch("not mine"), "skipped"),
        (RetryLater("later", after=0.01), "retry_later"),
        (DisableTrigger("enough"), "disabled"),
    ],
)
def test_what_a_plugin_says(engine: Engine, wait: Wait, signal: Exception, status: str) -> None:
    keys: list[tuple[str, int]] = []

    def speak(batch: Any, ctx: Any) -> None:
        keys.append((ctx.run.key, ctx.run.attempt))
        if len(keys) < 3:
            raise signal

    trigger(engine, speak)
    engine.write("cpu v=1 1", database="d")
    expected = {"skipped": 1, "retry_later": 3, "disabled": 1}[status]
    wait(lambda: len(keys) == expected and any(key[2] == status for key in engine.run_counts))
    if status == "retry_later":
        assert {key for key, _ in keys} == {keys[0][0]}, "the key is the same for every attempt"
        assert [attempt for _, attempt in keys] == [1, 2, 3]
    if status == "disabled":
        wait(lambda: engine.trigger("d", "t")["reason"] == "enough")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "exception",
    [
        SystemExit(1), KeyboardInterrupt(), GeneratorExit(), BaseException("odd"), StopIteration(), Mute(),
        ValueError("a lone surrogate: \ud800"), RetryLater(after=float("nan")), RetryLater(after="soon"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_plugin_may_raise_anything(engine: Engine, wait: Wait, exception: BaseException) -> None:
    def odd(batch: Any, ctx: Any) -> None:
        ctx.log.info("said \udc80")
        raise exception

    trigger(engine, odd, attempts=1)
    engine.write("cpu v=1 1", database="d")
    wait(lambda: engine.run_counts.get(("d", "t", "failed")) == 1)
    wait(lambda: settled(engine) and "_internal" in engine.databases())
    assert engine.write("cpu v=1 2", database="d").rows == 1
    wait(lambda: {"logs", "runs"} <= set(engine.view().tables_of("_internal")))
    assert "said ?" in engine.query("SELECT text FROM logs", database="_internal").column(0).to_pylist()
    errors = engine.query("SELECT error FROM runs", database="_internal").column(0).to_pylist()
    assert errors[0].startswith((type(exception).__name__, "RetryLater(after="))


async def helper() -> None:
    pass


@pytest.mark.parametrize("kind", ["coroutine", "generator", "async generator"])
def test_a_hook_of_which_nothing_ran_has_failed(engine: Engine, wait: Wait, kind: str) -> None:
    """Else its batch would be done with, and nobody would know."""

    class Coroutine:
        @hookimpl
        def on_write(self, batch: Any, ctx: Any) -> Any:
            return helper()

    class Generator:
        @hookimpl
        def on_write(self, batch: Any, ctx: Any) -> Any:
            yield batch

    class AsyncGenerator:
        @hookimpl
        async def on_write(self, batch: Any, ctx: Any) -> Any:
            yield batch

    plugins = {"coroutine": Coroutine, "generator": Generator, "async generator": AsyncGenerator}
    engine.register(plugins[kind], name="t")
    engine.create_trigger(database="d", name="t", plugin="t", spec="table:cpu", policy="disable")
    engine.write("cpu v=1 1", database="d")
    wait(lambda: engine.trigger("d", "t")["disabled"])
    assert ("async def" if kind == "coroutine" else "yield") in engine.trigger("d", "t")["reason"]


def test_two_triggers_on_all_tables_come_to_rest(engine: Engine, wait: Wait) -> None:
    counts = {"a": 0, "b": 0}

    def echo(name: str) -> Callable[..., Any]:
        def run(batch: Any, ctx: Any) -> None:
            counts[name] += 1
            ctx.write(Line(f"out_{name}", fields={"n": counts[name]}))

        return run

    for name in counts:
        trigger(engine, echo(name), "all_tables", name)
    engine.write("cpu v=1 1", database="d")
    wait(lambda: settled(engine) and all(counts.values()))
    before = engine.view().sequence
    wait(lambda: engine.figures.frames)
    assert counts == {"a": 1, "b": 1}
    assert {"out_a", "out_b"} <= set(engine.view().catalog.database("d").tables)
    assert engine.view().sequence - before <= 1, "nothing but a block of history"


def test_triggers_that_name_each_others_tables_are_stopped_by_the_chain(engine: Engine, wait: Wait) -> None:
    """A trigger never sees what came through itself, so two that feed each other end after one round."""
    seen: list[str] = []

    def pass_on(to: str) -> Callable[..., Any]:
        def run(batch: Any, ctx: Any) -> None:
            seen.append(to)
            ctx.write(Line(to, fields={"n": 1}))

        return run

    trigger(engine, pass_on("b"), "table:a", "ab")
    trigger(engine, pass_on("a"), "table:b", "ba")
    engine.write("a n=1 1", database="d")
    wait(lambda: len(seen) == 2 and settled(engine))
    assert seen == ["b", "a"]


def test_a_thousand_silent_triggers_add_no_commit_and_no_sync(engine: Engine) -> None:
    engine.register(plugin_of(lambda batch, ctx: None), name="p")
    for number in range(1000):
        engine.create_trigger(database="d", name=f"t{number}", plugin="p", spec=f"table:other{number}")
    engine.write("cpu v=1 1", database="d")
    frames, commits = engine.figures.frames, engine.figures.commits
    for number in range(50):
        engine.write(f"cpu v=1 {number + 2}", database="d")
    assert engine.figures.frames - frames == 50
    assert engine.figures.commits - commits == 50


def test_the_log_of_an_idle_engine_does_not_grow(engine: Engine, wait: Wait) -> None:
    trigger(engine, lambda batch, ctx: None)
    engine.create_trigger(database="d", name="hourly", plugin="t", spec="table:other")
    engine.write("cpu v=1 1", database="d")
    quiet_since, frames = time.monotonic(), -1
    until = time.monotonic() + 60
    while time.monotonic() - quiet_since < 1.5:
        assert time.monotonic() < until, "the engine never comes to rest"
        if engine.figures.frames != frames:
            quiet_since, frames = time.monotonic(), engine.figures.frames
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_plugin_that_sleeps_for_ever_holds_up_nobody(kind: str, wait: Wait) -> None:
    release = threading.Event()

    class Plain:
        @hookimpl
        def on_write(self) -> None:
            release.wait()

    class Async:
        @hookimpl
        async def on_write(self) -> None:
            await asyncio.Event().wait()

    engine = Engine.open(discover_plugins=False)
    seen: list[int] = []
    try:
        engine.register(Plain if kind == "plain" else Async, name="sleeper")
        engine.create_trigger(database="d", name="sleeper", plugin="sleeper", spec="table:cpu")
        trigger(engine, lambda batch, ctx: seen.append(batch.num_rows), name="other")
        for number in range(20):
            engine.write(f"cpu v=1 {number}", database="d")
        wait(lambda: sum(seen) == 20)
        assert engine.trigger("d", "sleeper")["lag_commits"] == 20
        began = time.monotonic()
        assert not engine.close(0.2), "it says that a run was left behind"
        assert time.monotonic() - began < 10
    finally:
        release.set()
        engine.close(0.2)


def test_an_async_hook_that_blocks_the_loop_is_named(engine: Engine, wait: Wait) -> None:
    class Blocks:
        @hookimpl
        async def on_write(self) -> None:
            time.sleep(0.4)

    engine.register(Blocks, name="blocks")
    engine.create_trigger(database="d", name="t", plugin="blocks", spec="table:cpu")
    engine.write("cpu v=1 1", database="d")
    wait(lambda: engine.blocking_hooks == ["blocks.on_write"])


def test_a_trigger_far_behind_gets_everything_once(engine: Engine, wait: Wait) -> None:
    for number in range(3000):
        engine.write(f"cpu v=1 {number}", database="d", no_sync=True)
    seen: list[int] = []
    trigger(engine, lambda batch, ctx: seen.extend(row["time"] for row in batch.tables["cpu"].rows()), start="start")
    for number in range(3000, 3010):
        engine.write(f"cpu v=1 {number}", database="d")
    wait(lambda: len(seen) >= 3010)
    assert seen == list(range(3010)), "in order, each once"


def test_a_slow_trigger_reads_back_from_the_log(engine: Engine, wait: Wait) -> None:
    release, seen = threading.Event(), []

    def slow(batch: Any, ctx: Any) -> None:
        release.wait(20)
        seen.extend(row["time"] for row in batch.tables["cpu"].rows())

    trigger(engine, slow)
    for number in range(2500):
        engine.write(f"cpu v=1 {number}", database="d", no_sync=True)
    release.set()
    wait(lambda: len(seen) >= 2500)
    assert seen == list(range(2500))


@pytest.mark.parametrize(("start", "first"), [("start", 1), (3, 3), (None, None)])
def test_where_a_new_trigger_begins(engine: Engine, wait: Wait, start: Any, first: int | None) -> None:
    for number in range(1, 6):
        engine.write(f"cpu v=1 {number}", database="d")
    seen: list[int] = []
    trigger(engine, lambda batch, ctx: seen.extend(row["time"] for row in batch.tables["cpu"].rows()), start=start)
    engine.write("cpu v=1 6", database="d")
    wait(lambda: 6 in seen)
    assert seen == ([6] if first is None else list(range(first, 7)))


def test_the_batch_is_not_copied(engine: Engine, wait: Wait) -> None:
    """The buffers that a hook sees lie in the log's mapping, or in the zero page for a column that a commit does not have."""
    release, found = threading.Event(), []

    def look(batch: Any, ctx: Any) -> None:
        release.wait(10)
        table = batch.tables["cpu"]
        found.append(
            (
                table.data.num_rows,
                table.data.column("v").num_chunks,
                addresses(table.data),
                table.tags,
                dict(table.fields),
            )
        )

    trigger(engine, look)
    engine.write("cpu,host=zero v=0 1", database="d")
    wait(lambda: engine.trigger("d", "t")["running"])
    engine.write("\n".join(f"cpu,host=a v={n} {n}" for n in range(500)), database="d")
    engine.write("\n".join(f"cpu,host=b,rack=r v={n},w={n}i {n + 1000}" for n in range(500)), database="d")
    before = pa.total_allocated_bytes()
    release.set()
    wait(lambda: sum(one[0] for one in found) == 1001)
    rows, chunks, places, tags, fields = found[-1]
    assert (rows, chunks, tags, fields) == (1000, 2, ("host", "rack"), {"v": "float64", "w": "int64"})
    maps = [(segment.data.address, segment.data.size) for segment in engine.segments]
    maps.append((zeros().address, zeros().size))
    assert all(any(low <= start and start + size <= low + length for low, length in maps) for start, size in places)
    assert pa.total_allocated_bytes() - before < 100_000, "nothing of the size of the batch was allocated"


def addresses(table: pa.Table) -> list[tuple[int, int]]:
    return [
        (buffer.address, buffer.size if buffer.size < 2**20 else 0)
        for column in table.columns
        for chunk in column.chunks
        for buffer in chunk.buffers()
        if buffer is not None
    ]


class Full(LocalFS):
    """A disk that can be full."""

    full = False

    def create(self, path: str) -> LocalFile:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return super().create(path)


def test_a_full_disk_and_space_again(tmp_path: Path, wait: Wait) -> None:
    disk = Full()
    with Engine.open(data_dir=tmp_path, discover_plugins=False, segment_bytes=64 * 1024, fs=disk) as engine:
        seen: list[int] = []
        trigger(engine, lambda batch, ctx: seen.append(batch.num_rows))
        engine.write("cpu v=1 1", database="d")
        disk.full = True
        written = 1
        refused = None
        while refused is None:
            try:
                engine.write(f'cpu s="{"x" * 1000}" {written + 1}', database="d")
                written += 1
            except Unavailable as error:
                refused = error
        assert "no room for a log segment" in refused.message
        assert refused.retry_after >= 1
        with pytest.raises(Unavailable):
            engine.write(f'big s="{"x" * 60_000}" 1', database="d")
        assert "big" not in engine.view().catalog.database("d").tables, "nothing of it was kept"
        assert engine.query("SELECT count(*) AS n FROM cpu", database="d").column(0)[0].as_py() == written
        disk.full = False
        engine.write("cpu v=1 99999", database="d")
        wait(lambda: sum(seen) == written + 1)


def test_what_cannot_be_created(engine: Engine) -> None:
    engine.register(plugin_of(fail), name="writes")
    make = engine.create_trigger
    with pytest.raises(NotFound, match="no plugin 'write'; did you mean 'writes'"):
        make(database="d", name="t", plugin="write", spec="all_tables")
    with pytest.raises(InvalidRequest, match=r"lacks the hook on_schedule.*it has on_write"):
        make(database="d", name="t", plugin="writes", spec="every:1s")
    with pytest.raises(InvalidRequest, match="failed to parse trigger"):
        make(database="d", name="t", plugin="writes", spec="sometimes")
    with pytest.raises(InvalidRequest, match="names no time at all"):
        make(database="d", name="t", plugin="writes", spec="cron:0 0 30 2 *")
    with pytest.raises(InvalidRequest, match=r"attempts=0.*max_batch_rows=0"):
        make(database="d", name="t", plugin="writes", spec="all_tables", attempts=0, max_batch_rows=0)
    make(database="d", name="t", plugin="writes", spec="all_tables")
    with pytest.raises(Conflict, match="has a trigger 't' already"):
        make(database="d", name="t", plugin="writes", spec="all_tables")

    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no key")

        @hookimpl
        def on_write(self) -> None:
            """Never called."""

    with pytest.raises(PluginFailure, match="could not be constructed: RuntimeError: no key"):
        engine.register(Broken, name="broken")


def test_two_triggers_on_one_method_and_path(engine: Engine) -> None:
    class Answers:
        @hookimpl
        def on_request(self) -> str:
            return "x"

    engine.register(Answers, name="p")
    engine.create_trigger(database="d", name="one", plugin="p", spec="request:a/{x}", methods=["GET"])
    engine.create_trigger(database="d", name="two", plugin="p", spec="request:a/{x}", methods=["POST"])
    with pytest.raises(Conflict, match="of the trigger 'one' in 'd'"):
        engine.create_trigger(database="e", name="three", plugin="p", spec="request:a/b")


def test_one_bad_commit_among_many_is_the_only_one_that_is_given_up(engine: Engine, wait: Wait) -> None:
    def picky(batch: Any, ctx: Any) -> None:
        values = [row["v"] for table in batch.tables.values() for row in table.rows()]
        ctx.cache.incr("rows", len(values))
        ctx.write([Line("good", fields={"v": value}, time=int(value)) for value in values])
        if 7.0 in values:
            raise ValueError("seven")

    engine.write("cpu v=0", database="d")
    trigger(engine, picky, attempts=1, disabled=True, start="start")
    for number in range(1, 20):
        engine.write(f"cpu v={number} {number}", database="d")
    engine.enable_trigger("d", "t")
    wait(lambda: settled(engine) and engine.trigger("d", "t")["through"] >= 20)
    letters = engine.query("SELECT line FROM dead_letters", database="_internal").column("line").to_pylist()
    assert letters == ["cpu v=7.0 7"]
    good = engine.query("SELECT v FROM good WHERE v > 0 ORDER BY v", database="d").column("v").to_pylist()
    assert good == [float(number) for number in range(1, 20) if number != 7]


def test_a_trigger_is_paused_after_many_failures_in_a_row_and_goes_on_where_it_was(engine: Engine, wait: Wait) -> None:
    broken = threading.Event()
    broken.set()

    def depends(batch: Any, ctx: Any) -> None:
        if broken.is_set():
            raise OSError("the other server is down")
        ctx.cache.incr("rows", batch.num_rows)

    trigger(engine, depends, policy="skip", breaker=3, max_batch_rows=1)
    for number in range(6):
        engine.write(f"cpu v={number} {number}", database="d")
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
    shown = engine.trigger("d", "t")
    assert shown["reason"] == "3 batches in a row failed, the last one with: OSError: the other server is down"
    broken.clear()
    engine.enable_trigger("d", "t")
    wait(lambda: engine.run_counts.get(("d", "t", "ok"), 0) >= 4)
    assert engine.run_counts["d", "t", "failed"] == 3


def test_batches_are_gathered_for_a_while(engine: Engine, wait: Wait) -> None:
    sizes: list[int] = []
    trigger(engine, lambda batch, ctx: sizes.append(batch.num_rows), max_batch_wait="200ms")
    for number in range(5):
        engine.write(f"cpu v={number} {number}", database="d")
    wait(lambda: sum(sizes) == 5)
    assert len(sizes) <= 2


@pytest.mark.parametrize("derived", [False, True])
def test_triggers_on_all_tables_that_all_write_end(engine: Engine, wait: Wait, derived: bool) -> None:
    """Six of them make six runs of a client's commit; with derived rows each of those goes through the other five at most."""

    def write(batch: Any, ctx: Any) -> None:
        ctx.write(Line(f"made_{ctx.trigger.name}", fields={"n": 1}))

    for number in range(6):
        trigger(engine, write, "all_tables", f"t{number}", derived=derived)
    engine.write("cpu v=1", database="d")
    wait(lambda: settled(engine) and sum(engine.run_counts.values()) >= 6)
    expected = 6 if not derived else 6 + 6 * 5 + 6 * 5 * 4 + 6 * 5 * 4 * 3 + 2 * 6 * 5 * 4 * 3 * 2
    wait(lambda: settled(engine) and sum(engine.run_counts.values()) >= (6 if not derived else 100))
    assert sum(engine.run_counts.values()) <= expected


def test_a_plugin_that_says_that_its_run_is_cancelled_has_failed(engine: Engine, wait: Wait) -> None:
    from walmill_hookspecs import RunCancelled

    def leave(batch: Any, ctx: Any) -> None:
        raise RunCancelled("I say so")

    trigger(engine, leave, attempts=1)
    engine.write("cpu v=1 1", database="d")
    wait(lambda: "_internal" in engine.databases() and settled(engine))
    letters = engine.query("SELECT error FROM dead_letters", database="_internal").column("error").to_pylist()
    assert letters == ["RunCancelled: I say so"]


@pytest.mark.parametrize("broken", ["perform", "fetch"])
def test_an_error_of_the_engine_itself_stops_no_trigger(
    engine: Engine, wait: Wait, broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever breaks between a commit and its hook: the batch is tried again, the trigger goes on, and the log says why."""
    monkeypatch.setattr(writes, "RETRY_SECONDS", 0.02)
    seen: list[int] = []
    left = [1, 1, 1]
    owner, name = (Station, "perform") if broken == "perform" else (Mill, "fetch")
    real = getattr(owner, name)

    def maybe(self: Any, *args: Any) -> Any:
        if left and seen:  # the first one goes well, so that the next are made ready ahead
            left.pop()
            raise ZeroDivisionError("the engine's own")
        return real(self, *args)

    async def maybe_later(self: Any, *args: Any) -> Any:
        return await maybe(self, *args)

    monkeypatch.setattr(owner, name, maybe_later if broken == "perform" else maybe)
    trigger(engine, lambda batch, ctx: seen.append(batch.num_rows))
    for number in range(6):
        engine.write(f"cpu v={number} {number}", database="d")
        if number == 0:
            wait(lambda: seen)
            if broken == "fetch":
                wait(lambda: settled(engine))  # a run that is overtaken is done again
                engine.disable_trigger("d", "t")
    if broken == "fetch":
        engine.enable_trigger("d", "t")
    wait(lambda: sum(seen) >= 6 and settled(engine))
    assert (sum(seen), left) == (6, [])
    assert "is tried again" in caplog.text
