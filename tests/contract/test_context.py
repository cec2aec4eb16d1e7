"""What `ctx` promises, on a real engine: state, grants, views, writes, words."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from walmill.context.local import Limits
from walmill.engine import Engine
from walmill.testing.clock import ManualClock
from walmill_hookspecs import LimitExceeded, Line, QueryError, TableNotFound, WriteError, hookimpl

Wait = Callable[[Callable[[], object]], None]
Hook = Callable[[Any], Any]


class Bench:
    """Triggers on schedules that run when the test says so, each with a function for its hook."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._hooks: dict[str, Hook] = {}

    def make(self, name: str = "t", database: str = "d", **more: Any) -> None:
        hooks = self._hooks

        class Made:
            @hookimpl
            def on_schedule(self, tick: Any, ctx: Any) -> None:
                hooks[name](ctx)

        self.engine.register(Made, name=f"p-{database}-{name}")
        self.engine.create_trigger(database=database, name=name, plugin=f"p-{database}-{name}", spec="every:1h", **more)

    def run(self, hook: Hook, name: str = "t", database: str = "d") -> Any:
        """Runs the hook once; what it returned."""
        got: list[Any] = []
        self._hooks[name] = lambda ctx: got.append(hook(ctx))
        ran = self.engine.run_trigger(database, name, timeout=20)
        assert ran["status"] == "ok", ran["error"]
        return got[0]

    def fails(self, hook: Hook, name: str = "t") -> str:
        """Runs the hook once; the error of the run."""
        self._hooks[name] = hook
        ran = self.engine.run_trigger("d", name, timeout=20)
        assert ran["status"] not in ("ok", "running"), ran
        return str(ran["error"])


@pytest.fixture
def bench(engine: Engine) -> Bench:
    made = Bench(engine)
    made.make(attempts=1)
    return made


# ---- state


VALUES = [
    None, True, 0, -(2**63), 2**70, 1.5, "", "é", b"\0", [1, [2]], (1, (2,)), {"a": {1: 2}}, {1, 2}, frozenset({3}),
    datetime(2026, 1, 1, tzinfo=UTC), timedelta(microseconds=1),
]  # fmt: skip


def test_state_comes_back_as_it_was_put(bench: Bench) -> None:
    bench.run(lambda ctx: [ctx.cache.put(f"k{place}", value) for place, value in enumerate(VALUES)])
    got = bench.run(lambda ctx: [ctx.cache.get(f"k{place}", "nothing") for place in range(len(VALUES))])
    assert got == VALUES
    assert [type(value) for value in got] == [type(value) for value in VALUES]


def test_arrow_and_numpy_come_back(bench: Bench) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    array = np.arange(6).reshape(2, 3)
    bench.run(lambda ctx: (ctx.cache.put("table", table), ctx.cache.put("array", array)))
    assert bench.run(lambda ctx: ctx.cache.get("table")).equals(table)
    assert np.array_equal(bench.run(lambda ctx: ctx.cache.get("array")), array)


def test_what_is_got_is_a_copy(bench: Bench) -> None:
    bench.run(lambda ctx: ctx.cache.put("k", [1]))
    bench.run(lambda ctx: ctx.cache.get("k").append(2))
    assert bench.run(lambda ctx: ctx.cache.get("k")) == [1]


@pytest.mark.parametrize("value", [object(), threading.Lock, lambda: 1, [object()], {"a": {1, (object(),)}}, 1j])
def test_what_cannot_be_kept_is_said_where_it_is_put(bench: Bench, value: Any) -> None:
    assert "keep it on self" in bench.fails(lambda ctx: ctx.cache.put("k", value))
    assert bench.run(lambda ctx: ctx.cache.keys()) == []


@pytest.mark.parametrize(
    ("key", "said"), [("", "0 bytes"), ("x" * 1025, "1 to 1,024"), ("é" * 513, "1 to 1,024"), (7, "is a int")]
)
def test_bad_keys(bench: Bench, key: Any, said: str) -> None:
    assert said in bench.fails(lambda ctx: ctx.cache.put(key, 1))
    assert said in bench.fails(lambda ctx: ctx.cache.get(key))


@pytest.mark.parametrize("ttl", [-1, float("nan"), 1e18, timedelta(seconds=-1)])
def test_bad_times_to_live(bench: Bench, ttl: Any) -> None:
    assert "ttl=" in bench.fails(lambda ctx: ctx.cache.put("k", 1, ttl=ttl))


def test_a_time_to_live_ends() -> None:
    clock = ManualClock(1_700_000_000_000_000_000)
    with Engine.open(discover_plugins=False, clock=clock) as engine:
        bench = Bench(engine)
        bench.make()
        bench.run(lambda ctx: (ctx.cache.put("short", 1, ttl=10), ctx.cache.put("long", 2, ttl=timedelta(minutes=1))))
        clock.advance(9_000_000_000)
        assert bench.run(lambda ctx: ctx.cache.keys()) == ["long", "short"]
        clock.advance(2_000_000_000)
        assert bench.run(lambda ctx: (ctx.cache.keys(), ctx.cache.get("short"), ctx.cache.incr("short"))) == (
            ["long"], None, 1,
        )  # fmt: skip


def test_the_limit_of_bytes() -> None:
    with Engine.open(discover_plugins=False, limits=Limits(state_bytes=10_000)) as engine:
        bench = Bench(engine)
        bench.make(attempts=1)
        bench.run(lambda ctx: ctx.cache.put("a", b"x" * 6000))
        said = bench.fails(lambda ctx: ctx.cache.put("b", b"x" * 6000))
        assert "LimitExceeded" in said
        assert "the limit is 10,000" in said

        def swap(ctx: Any) -> None:
            with pytest.raises(LimitExceeded):
                ctx.cache.put("b", b"x" * 6000)
            ctx.cache.delete("a")
            ctx.cache.put("b", b"x" * 6000)

        bench.run(swap)
        assert bench.run(lambda ctx: ctx.cache.keys()) == ["b"]


def test_state_of_a_failed_run_is_not_kept(bench: Bench) -> None:
    def bad(ctx: Any) -> None:
        ctx.cache.put("k", 1)
        ctx.cache.incr("n", 5)
        assert ctx.cache.get("k") == 1, "a run sees its own changes"
        raise ValueError("no")

    bench.fails(bad)
    assert bench.run(lambda ctx: ctx.cache.keys()) == []


def test_shared_state_and_own_state(bench: Bench) -> None:
    bench.make("other")
    bench.make("elsewhere", database="e")
    bench.run(lambda ctx: (ctx.cache.put("k", "own"), ctx.cache.shared.put("k", "shared")))
    look: Hook = lambda ctx: (ctx.cache.get("k"), ctx.cache.shared.get("k"))  # noqa: E731
    assert bench.run(look) == ("own", "shared")
    assert bench.run(look, "other") == (None, "shared")
    assert bench.run(look, "elsewhere", "e") == (None, None)


def test_additions_of_concurrent_runs_merge_and_other_changes_make_one_of_them_repeat(bench: Bench, wait: Wait) -> None:
    """Two runs overlap: each has read before the other commits."""
    engine = bench.engine
    both = threading.Barrier(2, timeout=10)
    runs: list[str] = []

    class Counts:
        @hookimpl
        def on_write(self, batch: Any, ctx: Any) -> None:
            name = ctx.trigger.name
            runs.append(name)
            seen = ctx.cache.shared.get("last", [])
            ctx.cache.shared.incr("n", 10)
            if runs.count(name) == 1:
                both.wait()
            ctx.cache.shared.put("last", [*seen, name])

    engine.register(Counts, name="counts")
    for name in ("one", "two"):
        engine.create_trigger(database="d", name=name, plugin="counts", spec="table:cpu")
    engine.write("cpu v=1 1", database="d")
    wait(lambda: all(not one["lag_commits"] and not one["running"] for one in engine.triggers()))
    count, last = bench.run(lambda ctx: (ctx.cache.shared.get("n"), ctx.cache.shared.get("last")))
    assert count == 20, "additions merge"
    assert sorted(last) == ["one", "two"]
    assert len(runs) == 3, "one run was repeated"


@pytest.mark.parametrize("value", ["text", 1.5, True, None])
def test_incr_wants_an_int(bench: Bench, value: Any) -> None:
    bench.run(lambda ctx: ctx.cache.put("k", value))
    assert "incr needs an int" in bench.fails(lambda ctx: ctx.cache.incr("k"))
    assert "give an int" in bench.fails(lambda ctx: ctx.cache.incr("n", 1.5))


# ---- grants


def test_other_databases_want_a_grant(bench: Bench) -> None:
    bench.engine.write("cpu v=1 1", database="e")
    bench.make("granted", grants=["e"])
    for call in (
        lambda ctx: ctx.query("SELECT * FROM cpu", database="e"),
        lambda ctx: ctx.stream("SELECT * FROM cpu", database="e"),
        lambda ctx: ctx.write("cpu v=1 1", database="e"),
        lambda ctx: ctx.write_now("cpu v=1 1", database="e"),
    ):
        said = bench.fails(call)
        assert "the database 'e'" in said
        assert "--grant e" in said
    rows = bench.run(
        lambda ctx: (ctx.write("cpu v=2 2", database="e"), ctx.query("SELECT v FROM cpu", database="e"))[1], "granted"
    )
    assert rows.column("v").to_pylist() == [1.0]
    assert bench.engine.query("SELECT v FROM cpu ORDER BY time", database="e").column("v").to_pylist() == [1.0, 2.0]


def test_nobody_writes_to_the_engines_own_database(bench: Bench) -> None:
    said = bench.fails(lambda ctx: ctx.write("x v=1 1", database="_internal"))
    assert "_internal" in said


# ---- one view


def test_all_queries_of_a_run_see_one_view(bench: Bench) -> None:
    engine = bench.engine
    engine.write("cpu v=1 1", database="d")
    sql = "SELECT count(*) AS n FROM cpu"

    def count(ctx: Any) -> list[int]:
        found = [ctx.query(sql)["n"][0].as_py()]
        engine.write("cpu v=2 2", database="d")
        ctx.write("cpu v=3 3")
        found.append(ctx.query(sql)["n"][0].as_py())
        found.append(sum(batch.num_rows for batch in ctx.stream("SELECT * FROM cpu")))
        return found

    assert bench.run(count) == [1, 1, 1]
    assert bench.run(lambda ctx: ctx.query(sql)["n"][0].as_py()) == 3


def test_the_time_of_a_run_stands_still(bench: Bench) -> None:
    def look(ctx: Any) -> tuple[datetime, datetime]:
        first = ctx.now()
        end = datetime.now(UTC) + timedelta(milliseconds=2)
        while datetime.now(UTC) < end:
            pass
        return first, ctx.now()

    first, second = bench.run(look)
    assert first == second
    assert first.tzinfo is UTC


# ---- queries


def test_query_errors_are_said_where_they_are_made(bench: Bench) -> None:
    bench.engine.write("humidity v=1 1", database="d")

    def ask(ctx: Any) -> None:
        with pytest.raises(TableNotFound) as missing:
            ctx.query("SELECT * FROM humidty")
        assert missing.value.near == ["humidity"] or list(missing.value.near) == ["humidity"]
        for sql in ("SELECT nothing FROM humidity", "SELEC", "DROP TABLE humidity", "SELECT 1; SELECT 2", ""):
            with pytest.raises(QueryError):
                ctx.query(sql)
        with pytest.raises(QueryError):
            ctx.query("SELECT $a", {"b": 1})
        assert ctx.query("SELECT v FROM humidity WHERE v = $v", {"v": 1.0}).num_rows == 1

    bench.run(ask)


# ---- writes


BAD_WRITES: list[tuple[Any, dict[str, Any], str]] = [
    ("cpu", {}, "line 1"),
    ("cpu v=1\ncpu v=", {}, "line 2"),
    ("cpu v=1", {"table": "cpu"}, "names its table itself"),
    ("known v=1i 1", {}, "float"),
    (Line("known", fields={"v": True}), {}, "'v'"),
    ([Line("cpu", fields={"v": 1}), Line("known", fields={"v": "s"})], {}, "'v'"),
    (Line("cpu", fields={"v": 1}), {"table": "cpu"}, "names its table itself"),
    ([{"v": 1.0}], {}, "need table="),
    ([{"v": "text"}], {"table": "known"}, "v"),
    ([{}], {"table": "cpu"}, ""),
    ([1, 2], {"table": "cpu"}, ""),
    (7, {"table": "cpu"}, "got a int"),
    ({"v": 1}, {"table": "cpu"}, "got a dict"),
    (pa.table({"v": [1.0]}), {}, "need table="),
    (pa.table({"v": ["s"]}), {"table": "known"}, "v"),
    (pa.table({"v": [1.0]}), {"table": "cpu"}, "say which columns are tags"),
    (pa.table({"v": [[1]]}), {"table": "cpu", "tags": ()}, "'v'"),
]


@pytest.mark.parametrize(("data", "more", "said"), BAD_WRITES)
def test_a_bad_write_is_said_where_it_is_made_and_nothing_of_it_is_kept(
    bench: Bench, data: Any, more: dict[str, Any], said: str
) -> None:
    bench.engine.write("known v=1 1", database="d")

    def write(ctx: Any) -> None:
        ctx.write("good v=1 1")
        with pytest.raises(WriteError) as refused:
            ctx.write(data, **more)
        assert said in str(refused.value)
        ctx.write("good v=2 2")

    bench.run(write)
    assert bench.engine.query("SELECT v FROM good ORDER BY v", database="d").column("v").to_pylist() == [1.0, 2.0]
    assert "cpu" not in bench.engine.view().catalog.database("d").tables
    assert bench.engine.query("SELECT v FROM known", database="d").num_rows == 1


def test_a_run_may_write_so_many_rows() -> None:
    with Engine.open(discover_plugins=False, limits=Limits(rows=100)) as engine:
        bench = Bench(engine)
        bench.make(attempts=1)
        bench.run(lambda ctx: ctx.write([Line("ok", fields={"v": row}, time=row) for row in range(100)]))
        lines = "\n".join(f"no v={row} {row}" for row in range(101))
        assert "LimitExceeded" in bench.fails(lambda ctx: ctx.write(lines))
        assert "no" not in engine.view().catalog.database("d").tables


@pytest.mark.parametrize("count", [3, 3000])
def test_line_protocol_of_a_plugin_small_and_large(bench: Bench, count: int) -> None:
    text = "\n".join(f"cpu,host=h{row % 7} v={row}" for row in range(count))
    bench.run(lambda ctx: ctx.write(text))
    found = bench.engine.query("SELECT v, time FROM cpu ORDER BY time", database="d")
    assert found.column("v").to_pylist() == [float(row) for row in range(count)], "in order, none over another"


def test_write_now_stays_and_checkpoint_commits_what_is_there(bench: Bench) -> None:
    def work(ctx: Any) -> None:
        sequence = ctx.write_now("now v=1 1")
        assert sequence <= bench.engine.view().sequence
        ctx.write("kept v=1 1")
        ctx.cache.put("k", 1)
        ctx.checkpoint()
        ctx.write("lost v=1 1")
        ctx.cache.put("k", 2)
        raise ValueError("after the checkpoint")

    bench.fails(work)
    assert set(bench.engine.view().catalog.database("d").tables) == {"now", "kept"}
    assert bench.run(lambda ctx: ctx.cache.get("k")) == 1


def test_on_commit_is_called_after_the_commit_and_not_after_a_failure(bench: Bench, wait: Wait) -> None:
    called: list[int] = []

    def good(ctx: Any) -> None:
        ctx.on_commit(lambda: called.append(bench.engine.query("SELECT * FROM cpu", database="d").num_rows))
        ctx.write("cpu v=1 1")

    def bad(ctx: Any) -> None:
        ctx.on_commit(lambda: called.append(-1))
        raise ValueError

    bench.fails(bad)
    bench.run(good)
    wait(lambda: called)
    assert called == [1]
    assert "give a function" in bench.fails(lambda ctx: ctx.on_commit(7))


@pytest.mark.parametrize(
    "late",
    [
        lambda ctx: ctx.write("cpu v=1 1"),
        lambda ctx: ctx.cache.put("k", 1),
        lambda ctx: ctx.cache.shared.incr("k"),
        lambda ctx: ctx.cache.delete("k"),
        lambda ctx: ctx.checkpoint(),
    ],
)
def test_what_comes_after_the_commit_is_refused_and_not_forgotten(bench: Bench, late: Hook) -> None:
    """A callback of on_commit, or a thread that the plugin left behind, would think that it was kept."""
    refused: list[str] = []

    def callback(ctx: Any) -> None:
        with pytest.raises(WriteError) as caught:
            late(ctx)
        refused.append(str(caught.value))

    bench.run(lambda ctx: (ctx.cache.put("k", 0), ctx.on_commit(lambda: callback(ctx))))
    assert "the hook has returned" in refused[0]
    assert bench.run(lambda ctx: (ctx.cache.get("k"), ctx.cache.shared.get("k"))) == (0, None)


# ---- words


def test_what_a_plugin_says_is_in_the_log_while_it_runs(wait: Wait) -> None:
    # opened here: pytest puts its own streams in place again after a fixture
    with Engine.open(discover_plugins=False) as engine:
        _talk(engine, wait)


def _talk(engine: Engine, wait: Wait) -> None:
    bench = Bench(engine)
    bench.make()
    said: list[tuple[str, str, str]] = []

    def logs() -> list[tuple[str, str, str]]:
        if "_internal" not in engine.databases() or "logs" not in engine.view().catalog.database("_internal").tables:
            return []
        found = engine.query("SELECT level, text, run_id FROM logs ORDER BY time", database="_internal")
        return [(row["level"], row["text"], row["run_id"]) for row in found.to_pylist()]

    def talk(ctx: Any) -> str:
        ctx.log.info("by ctx %d", 1)
        print("by print")
        print("to stderr", file=sys.stderr)
        logging.getLogger("some.library").error("by logging")
        print("a part", end="")
        inner = threading.Thread(target=lambda: ctx.log.warning("from a thread"))
        inner.start()
        inner.join()
        wait(lambda: len(logs()) >= 5)
        said.extend(logs())
        return str(ctx.run.id)

    run = bench.run(talk)
    assert {(level, text) for level, text, _ in said} == {
        ("INFO", "by ctx 1"),
        ("INFO", "by print"),
        ("INFO", "to stderr"),
        ("ERROR", "by logging"),
        ("WARNING", "from a thread"),
    }
    assert {one for _, _, one in said} == {run}
    wait(lambda: ("INFO", "a part", run) in logs())


def test_warnings_of_a_plugin_are_captured(tmp_path: Path) -> None:
    """In a process of its own: pytest keeps the warnings of this one for itself."""
    program = tmp_path / "program.py"
    program.write_text(
        "import warnings\n"
        "from walmill.engine import Engine\n"
        "from walmill_hookspecs import hookimpl\n"
        "class Warns:\n"
        "    @hookimpl\n"
        "    def on_schedule(self, tick, ctx):\n"
        "        warnings.warn('old thing')\n"
        "with Engine.open(discover_plugins=False) as engine:\n"
        "    engine.register(Warns, name='p')\n"
        "    engine.create_trigger(database='d', name='t', plugin='p', spec='every:1h')\n"
        "    ran = engine.run_trigger('d', 't', timeout=10)\n"
        "    engine.define(lambda draft: None)\n"
        "    rows = []\n"
        "    while not rows:\n"
        "        if '_internal' in engine.databases():\n"
        "            rows = engine.query('SELECT text, run_id FROM logs', database='_internal').to_pylist()\n"
        "    assert 'UserWarning: old thing' in rows[0]['text'], rows\n"
        "    assert rows[0]['run_id'] == ran['run_id']\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_may_say_so_many_lines(wait: Wait) -> None:
    with Engine.open(discover_plugins=False, limits=Limits(log_lines=5)) as engine:
        bench = Bench(engine)
        bench.make()
        bench.run(lambda ctx: [print(f"line {number}") for number in range(50)])

        def lines() -> list[str]:
            if (
                "_internal" not in engine.databases()
                or "logs" not in engine.view().catalog.database("_internal").tables
            ):
                return []
            return list(engine.query("SELECT text FROM logs", database="_internal").column(0).to_pylist())

        wait(lambda: len(lines()) == 5)
        assert any("its limit" in line for line in lines())


def test_many_long_lines_are_all_kept(wait: Wait) -> None:
    """Together they are larger than a commit may be: they go in several blocks."""
    with Engine.open(discover_plugins=False) as engine:
        bench = Bench(engine)
        bench.make()
        bench.run(lambda ctx: [print("y" * 60_000) for _ in range(700)])
        wait(lambda: "_internal" in engine.databases() and "logs" in engine.view().tables_of("_internal"))
        wait(lambda: engine.view().tables_of("_internal")["logs"].buffer.num_rows == 700)


def test_a_bad_log_call_does_not_fail_the_run(bench: Bench) -> None:
    bench.run(lambda ctx: ctx.log.info("%d rows", "many"))


# ---- instances


def test_each_trigger_has_an_instance_of_its_own(tmp_path: Path) -> None:
    made: list[object] = []

    class Keeps:
        def __init__(self) -> None:
            made.append(self)
            self.runs = 0

        @hookimpl
        def on_schedule(self, tick: Any, ctx: Any) -> None:
            self.runs += 1
            ctx.cache.put("runs", self.runs)

    with Engine.open(discover_plugins=False, data_dir=tmp_path) as engine:
        engine.register(Keeps, name="keeps")
        for name in ("a", "b"):
            engine.create_trigger(database="d", name=name, plugin="keeps", spec="every:1h")
        for name in ("a", "a", "b"):
            assert engine.run_trigger("d", name, timeout=10)["status"] == "ok"
        state = engine.view().state
        kept = {trigger.name: state.space(f"t:{trigger.id}") for trigger in engine.view().catalog.triggers.values()}
        assert {name: space.entries["runs"].value for name, space in kept.items()} == {"a": b"\x02", "b": b"\x01"}
    assert len({id(one) for one in made}) >= 2
