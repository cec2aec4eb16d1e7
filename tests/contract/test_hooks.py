"""Each hook, plain and async, on the real engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest, PluginFailure
from walmill.http.app import create_app
from walmill_hookspecs import Line, SnapshotRecord, SqlFunction, SuggestedTrigger, hookimpl, setting, settings, specs
from walmill_hookspecs._markers import PROJECT

Wait = Callable[[Callable[[], object]], None]
seen: list[Any] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    seen.clear()


class Plain:
    """All hooks, plain."""

    @hookimpl
    def on_startup(self, ctx: Any) -> None:
        seen.append(("startup", ctx.trigger.name))

    @hookimpl
    def on_shutdown(self) -> None:
        seen.append(("shutdown",))

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        rows = [row for table in batch.tables.values() for row in table.rows()]
        seen.append(("write", batch.origin, rows))
        ctx.write(Line("out", {"of": "write"}, {"rows": batch.num_rows}, 1))

    @hookimpl
    def on_schedule(self, tick: Any, ctx: Any) -> None:
        seen.append(("schedule", tick.scheduled_for.tzinfo is not None, tick.missed))
        ctx.write(Line("out", {"of": "schedule"}, {"rows": 0}, 1))

    @hookimpl
    def on_service(self, ctx: Any) -> None:
        ctx.write(Line("out", {"of": "service"}, {"rows": 0}, 1))
        ctx.on_commit(lambda: seen.append(("durable", ctx.trigger.spec)))
        ctx.checkpoint()
        while not ctx.stopping:
            time.sleep(0.005)

    @hookimpl
    def on_request(self, request: Any, ctx: Any) -> Any:
        ctx.write(Line("out", {"of": "request"}, {"rows": 0}, 1))
        return {"method": request.method, "id": request.path_params["id"], "body": request.json()}


class Async:
    """All hooks, async."""

    @hookimpl
    async def on_startup(self, ctx: Any) -> None:
        await asyncio.sleep(0)
        seen.append(("startup", ctx.trigger.name))

    @hookimpl
    async def on_shutdown(self) -> None:
        seen.append(("shutdown",))

    @hookimpl
    async def on_write(self, batch: Any, ctx: Any) -> None:
        await asyncio.sleep(0)
        rows = [row for table in batch.tables.values() for row in table.rows()]
        seen.append(("write", batch.origin, rows))
        ctx.write(Line("out", {"of": "write"}, {"rows": batch.num_rows}, 1))

    @hookimpl
    async def on_schedule(self, tick: Any, ctx: Any) -> None:
        seen.append(("schedule", tick.scheduled_for.tzinfo is not None, tick.missed))
        ctx.write(Line("out", {"of": "schedule"}, {"rows": 0}, 1))

    @hookimpl
    async def on_service(self, ctx: Any) -> None:
        ctx.write(Line("out", {"of": "service"}, {"rows": 0}, 1))
        ctx.on_commit(lambda: seen.append(("durable", ctx.trigger.spec)))
        await ctx.checkpoint()
        while not ctx.stopping:
            await asyncio.sleep(0.005)

    @hookimpl
    async def on_request(self, request: Any, ctx: Any) -> Any:
        ctx.write(Line("out", {"of": "request"}, {"rows": 0}, 1))
        return {"method": request.method, "id": request.path_params["id"], "body": request.json()}


both = pytest.mark.parametrize("plugin", [Plain, Async])


def out(engine: Engine) -> list[dict[str, Any]]:
    if "out" not in engine.view().catalog.database("d").tables:
        return []
    return list(engine.query('SELECT "of", rows FROM out', database="d").to_pylist())


def start(engine: Engine, plugin: type, spec: str, **more: Any) -> None:
    engine.register(plugin, name="p")
    engine.create_trigger(database="d", name="t", plugin="p", spec=spec, **more)


@both
def test_hook_on_write(engine: Engine, wait: Wait, plugin: type) -> None:
    start(engine, plugin, "table:cpu")
    engine.write("cpu,host=a v=1 1\ncpu,host=b w=2i 2", database="d")
    wait(lambda: out(engine))
    assert out(engine) == [{"of": "write", "rows": 2}]
    assert seen[-1] == (
        "write",
        "client",
        [{"host": "a", "v": 1.0, "w": None, "time": 1}, {"host": "b", "v": None, "w": 2, "time": 2}],
    )


@both
def test_hook_on_schedule(engine: Engine, plugin: type) -> None:
    start(engine, plugin, "every:1h")
    ran = engine.run_trigger("d", "t", timeout=10)
    assert ran["status"] == "ok"
    assert ran["sequence"] is not None
    assert seen[-1] == ("schedule", True, 0)
    assert out(engine) == [{"of": "schedule", "rows": 0}]


@both
def test_hook_on_request(engine: Engine, plugin: type) -> None:
    start(engine, plugin, "request:things/{id:int}")
    app = create_app(engine, without_auth=True, close_engine=False)

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://mill") as client:
            return await client.post("/api/v3/engine/things/7", json=[1])

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (200, {"method": "POST", "id": 7, "body": [1]})
    assert out(engine) == [{"of": "request", "rows": 0}], "the commit precedes the answer"


@both
def test_hook_on_service(engine: Engine, wait: Wait, plugin: type) -> None:
    """See tests/dispatch/test_services.py for all that may become of one."""
    start(engine, plugin, "service")
    wait(lambda: ("durable", "service") in seen)
    assert out(engine) == [{"of": "service", "rows": 0}]
    assert engine.trigger("d", "t")["running"] == 1
    assert engine.close()
    assert [one[0] for one in seen] == ["startup", "durable", "shutdown"]


@both
def test_hook_on_startup(engine: Engine, wait: Wait, plugin: type) -> None:
    start(engine, plugin, "table:cpu")
    for number in (1, 2):
        engine.write(f"cpu v=1 {number}", database="d")
        wait(lambda number=number: sum(len(one[2]) for one in seen if one[0] == "write") == number)
    assert [one[0] for one in seen] == ["startup", "write", "write"], "once, before the first event"


@both
def test_hook_on_shutdown(wait: Wait, plugin: type) -> None:
    engine = Engine.open(discover_plugins=False)
    start(engine, plugin, "table:cpu")
    engine.write("cpu v=1 1", database="d")
    wait(lambda: any(one[0] == "write" for one in seen))
    assert engine.close(5.0)
    assert [one[0] for one in seen] == ["startup", "write", "shutdown"]


@settings
class Chosen:
    """Two settings."""

    limit: float = setting("a number", minimum=0)
    words: list[str] = setting("some words", default=["a"])


class WithSettings:
    """A plugin with typed settings."""

    @hookimpl
    def register_settings(self) -> type:
        return Chosen

    @hookimpl
    def on_schedule(self, ctx: Any) -> None:
        seen.append(ctx.settings)


def test_hook_register_settings(engine: Engine) -> None:
    engine.register(WithSettings, name="p")
    arguments = {"limit": "2.5", "words": '["x, y", "=\\n"]'}
    engine.create_trigger(database="d", name="t", plugin="p", spec="every:1h", arguments=arguments)
    assert engine.run_trigger("d", "t", timeout=10)["status"] == "ok"
    assert seen == [Chosen(limit=2.5, words=["x, y", "=\n"])]
    with pytest.raises(ValueError, match=r"limit=-1.0 is below its minimum.*did you mean words") as raised:
        engine.create_trigger(database="d", name="u", plugin="p", spec="every:1h", arguments={"limit": -1, "word": "x"})
    assert "there is no argument 'word'" in str(raised.value), "all problems at once"


class Watcher:
    """Watches runs of every trigger."""

    @hookimpl
    def on_run_end(self, record: Any) -> None:
        seen.append((record.trigger, record.hook, record.status, record.rows_in, record.error))


class Fails:
    """Raises what a plugin should not."""

    @hookimpl
    def on_schedule(self) -> None:
        raise SystemExit(3)


def test_hook_on_run_end(wait: Wait) -> None:
    engine = Engine.open(discover_plugins=False)
    try:
        engine.register(Watcher, name="watcher")
        engine.register(Fails, name="fails")
        wait(lambda: engine.watchers)
        engine.create_trigger(database="d", name="t", plugin="fails", spec="every:1h")
        assert engine.run_trigger("d", "t", timeout=10)["status"] == "failed"
        assert seen == [("t", "on_schedule", "failed", 0, "SystemExit: 3")]
    finally:
        engine.close(5.0)


class Archivist:
    """Reads the files, which are there as long as it does."""

    @hookimpl
    def on_snapshot(self, record: SnapshotRecord, ctx: Any) -> None:
        for table in record.tables:
            rows = sum(pq.read_metadata(one.path).num_rows for one in table.files)
            new = record.previous_sequence < record.sequence
            seen.append((new, table.database, table.name, rows, table.time_range))


def test_hook_on_snapshot(tmp_path: Path, wait: Wait) -> None:
    engine = Engine.open(data_dir=tmp_path, discover_plugins=False)
    try:
        engine.register(Archivist, name="archivist")
        engine.create_trigger(database="d", name="t", plugin="archivist", spec="snapshot")
        engine.write("cpu,host=a v=1 7\ncpu,host=a v=2 9\nmem v=1 5", database="d")
        engine.write("cpu v=1 1", database="other")
        engine.snapshot()
        wait(lambda: len(seen) == 2)
        assert seen == [(True, "d", "cpu", 2, (7, 9)), (True, "d", "mem", 1, (5, 5))]
    finally:
        engine.close(5.0)


class Suggests:
    """Suggests what it was made with."""

    made: Any = ()

    @hookimpl
    def register_triggers(self) -> Any:
        return self.made

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        """Never called."""

    @hookimpl
    def on_request(self, request: Any, ctx: Any) -> None:
        """Never called."""


def test_hook_register_triggers(engine: Engine) -> None:
    Suggests.made = [
        SuggestedTrigger(name="a", spec="table:cpu", description="does a", arguments={"x": 1}, error_policy="skip"),
        SuggestedTrigger(name="b", spec="request:b/{id}", methods=["PUT"], max_concurrency=2),
    ]
    description = engine.register(Suggests, name="suggests")
    assert [one["name"] for one in description.suggests] == ["a", "b"]
    assert engine.triggers() == []  # nothing creates them by itself
    made = engine.enable_plugin("suggests", "d", only=["a"], arguments={"y": "2"})
    assert made == {"created": ["a"], "there": []}
    shown = engine.trigger("d", "a")
    assert (shown["trigger_specification"], shown["error_behavior"]) == ("table:cpu", "skip")
    assert shown["trigger_arguments"] == {"x": 1, "y": "2"}
    assert engine.enable_plugin("suggests", "d") == {"created": ["b"], "there": ["a"]}
    shown = engine.trigger("d", "b")
    assert (shown["methods"], shown["max_concurrency"]) == (["PUT"], 2)
    with pytest.raises(InvalidRequest, match="suggests not the trigger 'c'; it suggests a, b"):
        engine.enable_plugin("suggests", "d", only=["c"])
    engine.register(Plain, name="noted")
    with pytest.raises(InvalidRequest, match="suggests no trigger"):
        engine.enable_plugin("noted", "d")
    engine.create_trigger(database="e", name="b", plugin="noted", spec="table:x")
    with pytest.raises(Conflict, match="of another plugin"):
        engine.enable_plugin("suggests", "e")
    assert [one["trigger_name"] for one in engine.triggers("e")] == ["b"]
    Suggests.made = [
        SuggestedTrigger(name="c", spec="table:cpu"),
        SuggestedTrigger(name="d/e", spec="table:cpu", max_concurrency=0),
    ]
    engine.register(Suggests, name="badly")
    with pytest.raises(InvalidRequest, match=r"d/e: the trigger name.*max_concurrency"):
        engine.enable_plugin("badly", "f")
    assert engine.triggers("f") == []  # all or none
    for made_wrong in ("x", [1], [{"name": "a"}], None):
        Suggests.made = made_wrong
        with pytest.raises(PluginFailure, match="register_triggers failed"):
            engine.register(Suggests, name="wrong")


def test_every_hook_has_documentation_and_a_test() -> None:
    for name, hook in vars(specs).items():
        if not hasattr(hook, f"{PROJECT}_spec"):
            continue
        text = hook.__doc__ or ""
        for question in ("When:", "How often:", "Return value:", "Delivery:", "Runs where:", "May be async:", "Since:"):
            assert question in text, f"{name} does not say {question}"
        assert f"test_hook_{name}" in globals(), f"{name} has no test of its own"


def test_hook_register_executors() -> None:
    """Those that come along are asked through the hook; see tests/isolation/test_executors.py for others."""
    from walmill.isolation.builtin import BUILT_IN

    with Engine.open(discover_plugins=False) as engine:
        assert list(engine.executors) == list(BUILT_IN)
        for name in BUILT_IN:
            assert "register_executors" in engine.registry.inspect(f"walmill.builtin.executor.{name}").hooks


class Doubles:
    @hookimpl
    def register_functions(self) -> list[SqlFunction]:
        kind = pa.int64()
        return [SqlFunction(name="double", function=lambda a: pc.add(a, a), arguments=[kind], returns=kind)]


def test_hook_register_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named brings functions; see test_sql_functions.py for what they may be."""
    from walmill.plugins.registry import Registry

    make = Registry.__init__

    def with_one(self: Registry, **kwargs: Any) -> None:
        make(self, **kwargs)
        self.register(Doubles, name="doubles")

    monkeypatch.setattr(Registry, "__init__", with_one)
    with Engine.open(discover_plugins=False, function_plugins=("doubles",)) as engine:
        engine.write("cpu v=3i 1", database="d")
        assert engine.query("SELECT double(v) AS v FROM cpu", database="d").to_pylist() == [{"v": 6}]


class Wrapped:
    """An async hook with a wrapper around it in the same plugin's distribution."""

    @hookimpl
    async def on_schedule(self, ctx: Any) -> str:
        await asyncio.sleep(0)
        if ctx.cache.incr("runs") == 1:
            raise ValueError("the first time")
        return "done"


class Wrapper:
    """Sees the real result and the real exception of an async hook."""

    @hookimpl(wrapper=True)
    def on_schedule(self) -> Any:
        try:
            result = yield
        except ValueError as error:
            seen.append(("raised", str(error)))
            raise
        seen.append(("returned", result))
        return result


def test_a_wrapper_around_an_async_hook_sees_result_and_exception(wait: Wait) -> None:
    engine = Engine.open(discover_plugins=False, wrappers=["wrapper"])
    try:
        engine.register(Wrapper, name="wrapper")
        engine.register(Wrapped, name="p")
        engine.create_trigger(database="d", name="t", plugin="p", spec="every:1h")
        assert engine.run_trigger("d", "t", timeout=10)["status"] == "failed"
        assert seen == [("raised", "the first time")]
    finally:
        engine.close(5.0)
