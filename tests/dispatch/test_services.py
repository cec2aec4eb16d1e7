"""Sources run as long as their trigger is enabled, and what they acknowledged outside is in the log."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.context.state import RunCache
from walmill.dispatch.services import STABLE_SECONDS, after
from walmill.dispatch.station import Ended
from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.isolation.process import possible
from walmill_hookspecs import Line, hookimpl

Wait = Callable[[Callable[[], object]], None]
SOURCE = '''
"""Takes files out of a directory: the name is the id, the text a number. Deleting one acknowledges it."""
import asyncio
import time
from pathlib import Path

from walmill_hookspecs import DisableTrigger, Line, hookimpl

VERSION = {version}


{sync}def step(ctx, inbox):
    """What there is, at most ten at a time; whether there was anything."""
    found = sorted(inbox.glob("m*"))[:10]
    for path in found:
        if ctx.cache.get(path.name):
            ctx.log.warning("%s came again", path.name)
        else:
            ctx.cache.put(path.name, True)
            ctx.write(Line("came", {{"id": path.name}}, {{"value": int(path.read_text()), "version": VERSION}}))
        ctx.on_commit(path.unlink)
    for command in inbox.glob("do-*"):
        command.unlink()
        match command.name:
            case "do-fail":
                raise ValueError("as it was told")
            case "do-end":
                raise DisableTrigger("enough")
            case "do-die":
                import os
                os._exit(3)
            case "do-ask":
                found_rows = {wait}ctx.query("SELECT count(*) FROM cpu")
                rows = found_rows.column(0)[0].as_py()
                ctx.write(f"answer rows={{rows}}i")
                found = True
            case "do-return":
                return None
    return bool(found)


@hookimpl
def on_startup(ctx):
    ctx.log.info("startup %s", VERSION)


@hookimpl
def on_shutdown(ctx):
    ctx.log.info("shutdown %s", VERSION)


@hookimpl
{sync}def on_service(ctx):
    inbox = Path(ctx.trigger.arguments["inbox"])
    while not ctx.stopping:
        done = {wait}step(ctx, inbox)
        if done is None:
            return
        if done:
            {wait}ctx.checkpoint()
        else:
            {wait}{sleep}(0.005)
'''


def source(version: int, *, is_async: bool = False) -> str:
    """The text of the plugin."""
    if is_async:
        return SOURCE.format(version=version, sync="async ", wait="await ", sleep="asyncio.sleep")
    return SOURCE.format(version=version, sync="", wait="", sleep="time.sleep")


kinds = pytest.mark.parametrize(
    ("executor", "is_async"),
    [(one, other) for one in (["inline", "process"] if possible() else ["inline"]) for other in (False, True)],
)


class Place:
    """A directory that a source empties, and engines with that source."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path
        self.inbox = tmp_path / "inbox"
        self.plugins = tmp_path / "plugins"
        self.inbox.mkdir()
        self.plugins.mkdir()
        self.engine: Engine | None = None
        self.sent = 0

    def open(self) -> Any:
        self.close()
        self.engine = Engine.open(
            data_dir=self.home / "data", plugin_dir=self.plugins, discover_plugins=False, shutdown_timeout=5.0
        )
        return weakref.proxy(self.engine)

    def close(self) -> bool:
        engine, self.engine = self.engine, None
        return engine is None or engine.close()

    def write(self, text: str) -> None:
        temporary = self.home / "new.py"
        temporary.write_text(text)
        temporary.rename(self.plugins / "inbox.py")

    def create(self, engine: Engine, **more: Any) -> None:
        arguments = {"inbox": str(self.inbox)}
        engine.create_trigger(database="d", name="t", plugin="inbox", spec="service", arguments=arguments, **more)

    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            written = self.inbox / f".{self.sent}"
            written.write_text(str(self.sent))
            written.rename(self.inbox / f"m{self.sent:05}")

    def command(self, name: str) -> None:
        (self.inbox / f"do-{name}").touch()

    @property
    def empty(self) -> bool:
        return not any(self.inbox.glob("m*"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def came(engine: Engine) -> list[int]:
    """The numbers that are stored, as often as they are."""
    if "came" not in engine.view().catalog.database("d").tables:
        return []
    return sorted(engine.query("SELECT value FROM came", database="d").column(0).to_pylist())


def said(engine: Engine) -> list[str]:
    try:
        found = engine.query("SELECT text FROM logs WHERE trigger = 't' ORDER BY time", database="_internal")
    except LookupError:
        return []
    texts: list[str] = found.column(0).to_pylist()
    return texts


def last_run(engine: Engine) -> dict[str, Any]:
    sql = "SELECT status, error, rows_written FROM runs WHERE hook = 'on_service' ORDER BY time DESC LIMIT 1"
    try:
        found: list[dict[str, Any]] = engine.query(sql, database="_internal").to_pylist()
    except LookupError:
        return {}
    return found[0] if found else {}


@kinds
def test_what_comes_is_stored_and_then_acknowledged(place: Place, wait: Wait, executor: str, is_async: bool) -> None:
    place.write(source(1, is_async=is_async))
    engine = place.open()
    place.create(engine, executor=executor)
    place.send(25)
    wait(lambda: place.empty)
    assert came(engine) == list(range(1, 26))
    shown = engine.trigger("d", "t")
    assert (shown["running"], shown["rows_written"]) == (1, 25)
    first = engine.query("SELECT CAST(min(time) AS BIGINT) FROM came", database="d").column(0)[0].as_py()
    assert first >= engine.trigger("d", "t")["created_at"], "rows without a time have that of the moment"
    # it reads what was written after it began
    engine.write("cpu v=1 1\ncpu v=2 2", database="d")
    place.command("ask")
    wait(lambda: "answer" in engine.view().catalog.database("d").tables)
    assert engine.query("SELECT rows FROM answer", database="d").to_pylist() == [{"rows": 2}]
    # disabled, it ends; enabled, it goes on
    engine.disable_trigger("d", "t")
    wait(lambda: last_run(engine).get("status") in ("cancelled", "ok"))  # it may see that it is to end and return
    place.send(3)
    engine.enable_trigger("d", "t")
    wait(lambda: place.empty)
    assert came(engine) == list(range(1, 29))
    # a stop of the engine is no error
    assert place.close()
    engine = place.open()
    assert last_run(engine)["status"] == "ok"
    place.send(2)
    wait(lambda: place.empty)
    assert came(engine) == list(range(1, 31))
    assert not [text for text in said(engine) if "again" in text]


@kinds
def test_a_changed_plugin_takes_over(place: Place, wait: Wait, executor: str, is_async: bool) -> None:
    place.write(source(1, is_async=is_async))
    engine = place.open()
    place.create(engine, executor=executor)
    place.send(5)
    wait(lambda: place.empty)
    place.write(source(2, is_async=not is_async))
    wait(lambda: "startup 2" in said(engine))
    place.send(5)
    wait(lambda: place.empty)
    rows = engine.query("SELECT value, version FROM came ORDER BY value", database="d").to_pylist()
    assert [row["version"] for row in rows] == [1] * 5 + [2] * 5
    # one that is gone ends, and comes again with its plugin
    (place.plugins / "inbox.py").unlink()
    wait(lambda: engine.trigger("d", "t")["state"] == "paused" and not engine.trigger("d", "t")["running"])
    place.send(1)
    place.write(source(3, is_async=is_async))
    wait(lambda: place.empty)
    assert came(engine) == list(range(1, 12))


@pytest.mark.skipif(not possible(), reason="worker processes need Linux")
@pytest.mark.parametrize("command", ["fail", "die", "return"])
def test_one_that_ends_is_called_again(place: Place, wait: Wait, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walmill.dispatch.services.backoff", lambda count, chance: 0.05)
    place.write(source(1))
    engine = place.open()
    place.create(engine)
    place.command(command)
    wait(lambda: last_run(engine))
    found = last_run(engine)
    assert found["status"] == ("ok" if command == "return" else "failed")
    assert {"fail": "as it was told", "die": "ended during the run", "return": ""}[command] in (found["error"] or "")
    place.send(3)
    wait(lambda: place.empty)
    assert came(engine) == [1, 2, 3]


def test_what_was_not_committed_is_not_acknowledged(place: Place, wait: Wait) -> None:
    """A failing checkpoint: the table has another type by then."""
    place.write(source(1))
    engine = place.open()
    engine.write('came,id=x value="text" 1', database="d")
    place.create(engine, executor="inline", policy="disable")
    place.send(3)
    wait(lambda: engine.trigger("d", "t")["state"] == "disabled")
    assert "value" in engine.trigger("d", "t")["reason"]
    assert len(list(place.inbox.glob("m*"))) == 3


def test_a_plugin_ends_itself(place: Place, wait: Wait) -> None:
    place.write(source(1))
    engine = place.open()
    place.create(engine, executor="inline")
    place.command("end")
    wait(lambda: engine.trigger("d", "t")["state"] == "disabled")
    assert engine.trigger("d", "t")["reason"] == "enough"


class Deaf:
    """Ends when it likes."""

    free = False
    calls = active = most = 0

    @hookimpl
    def on_service(self, ctx: Any) -> None:
        Deaf.calls += 1
        Deaf.active += 1
        Deaf.most = max(Deaf.most, Deaf.active)
        while not Deaf.free:
            time.sleep(0.01)
        Deaf.active -= 1


ASLEEP = """
import asyncio
from walmill_hookspecs import hookimpl

@hookimpl
async def on_service(ctx):
    await asyncio.sleep(3600)
"""


def test_one_that_does_not_end_is_cancelled(place: Place, wait: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walmill.dispatch.services.STOP_SECONDS", 0.05)
    place.write(ASLEEP)
    engine = place.open()
    place.create(engine, executor="inline")
    wait(lambda: engine.trigger("d", "t")["running"] == 1)
    (place.plugins / "inbox.py").unlink()
    wait(lambda: not engine.trigger("d", "t")["running"])
    assert engine.trigger("d", "t")["state"] == "paused"
    wait(lambda: last_run(engine).get("status") == "cancelled")


class Once:
    """Writes a row, and waits."""

    @hookimpl
    async def on_service(self, ctx: Any) -> None:
        ctx.write("cpu v=1")
        await ctx.checkpoint()
        while not ctx.stopping:
            await asyncio.sleep(0.005)


def test_an_update_waits_for_the_one_before_it(engine: Engine, wait: Wait) -> None:
    Deaf.free, Deaf.calls, Deaf.active, Deaf.most = False, 0, 0, 0
    engine.register(Deaf, name="p")
    engine.create_trigger(database="d", name="t", plugin="p", spec="service")
    wait(lambda: Deaf.calls == 1)
    for _ in range(3):
        engine.disable_trigger("d", "t")
        engine.enable_trigger("d", "t")
    # the engine answers when the change has taken effect: another call would have begun by the time that a run of others ends
    engine.register(Once, name="once")
    engine.create_trigger(database="d", name="other", plugin="once", spec="service")
    wait(lambda: engine.trigger("d", "other")["rows_written"])
    assert Deaf.calls == 1, "two at a time would take what is the other's"
    Deaf.free = True
    wait(lambda: Deaf.calls >= 2)
    assert Deaf.most == 1


class Late:
    """Makes its checkpoint when it is told to."""

    began = free = over = False

    @hookimpl
    def on_service(self, ctx: Any) -> None:
        ctx.write("cpu v=1")
        Late.began = True
        while not Late.free:
            time.sleep(0.005)
        try:
            ctx.checkpoint()
        finally:
            Late.over = True


class Holding:
    """Holds the mill's loop up, so that nobody hears of a change."""

    began = False

    @hookimpl
    async def on_service(self, ctx: Any) -> None:
        Holding.began = True
        while not Late.over:
            time.sleep(0.005)
        while not ctx.stopping:
            await asyncio.sleep(0.005)


def test_a_checkpoint_that_a_change_has_overtaken_is_no_failure(engine: Engine, wait: Wait) -> None:
    Late.began = Late.free = Late.over = Holding.began = False
    engine.register(Late, name="p")
    engine.register(Holding, name="holding")
    engine.create_trigger(database="d", name="t", plugin="p", spec="service")
    wait(lambda: Late.began)
    engine.create_trigger(database="d", name="holding", plugin="holding", spec="service")
    wait(lambda: Holding.began)
    changing = threading.Thread(target=engine.disable_trigger, args=("d", "t"))
    changing.start()
    wait(lambda: not engine.view().catalog.trigger("d", "t").enabled)
    Late.free = True
    changing.join(20)
    wait(lambda: engine.view().catalog.find_database("_internal"))
    found = engine.query("SELECT status, error FROM runs WHERE trigger = 't'", database="_internal").to_pylist()
    assert [row["status"] for row in found] == ["refused"]
    assert "was changed while the run went on" in found[0]["error"]
    assert not engine.trigger("d", "t")["failures"]


def test_what_a_source_cannot_have(engine: Engine) -> None:
    engine.register(Once, name="p")
    for more, message in (
        ({"max_concurrency": 2}, "one call at a time"),
        ({"methods": ["GET"]}, "methods are for request"),
        ({"max_batch_wait": "1s"}, "max_batch_wait is for on_write"),
        ({"jitter": "1s"}, "jitter is for schedules"),
        ({"start": "start"}, "a start .* is for on_write"),
        ({"limits": {"timeout": "1s"}, "executor": "process"}, "timeout is not for a service"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            engine.create_trigger(database="d", name="t", plugin="p", spec="service", **more)
    with pytest.raises(InvalidRequest, match="lacks the hook on_write"):
        engine.create_trigger(database="d", name="t", plugin="p", spec="all_tables")
    engine.create_trigger(database="d", name="t", plugin="p", spec=" service ")
    with pytest.raises(InvalidRequest, match="a service all the time"):
        engine.run_trigger("d", "t")


class Seen:
    """Sees what a source wrote."""

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        ctx.cache.incr("rows", batch.num_rows)
        ctx.write(Line("echo", {}, {"rows": batch.num_rows, "origin": batch.origin}, 1))


def test_its_rows_are_seen_as_those_of_a_client(engine: Engine, wait: Wait) -> None:
    engine.register(Seen, name="seen")
    engine.register(Once, name="once")
    engine.create_trigger(database="d", name="watch", plugin="seen", spec="all_tables")
    engine.create_trigger(database="d", name="t", plugin="once", spec="service")
    wait(lambda: "echo" in engine.view().catalog.database("d").tables)
    assert engine.query("SELECT rows, origin FROM echo", database="d").to_pylist() == [{"rows": 1, "origin": "t"}]


class Both:
    """Goes on with its work while a checkpoint is made."""

    called: list[int]

    @hookimpl
    async def on_service(self, ctx: Any) -> None:
        Both.called = []

        async def work(number: int) -> None:
            for step in range(50):
                ctx.write(Line("did", {"who": str(number)}, {"step": step}, 1000 * number + step))
                ctx.cache.incr("steps")
                ctx.cache.put(f"last {number}", step)
                ctx.on_commit(lambda: Both.called.append(number))
                await asyncio.sleep(0)

        async def commit() -> None:
            for _ in range(20):
                await ctx.checkpoint()

        await asyncio.gather(work(1), work(2), commit())
        await ctx.checkpoint()
        assert ctx.cache.get("steps") == 100
        while not ctx.stopping:
            await asyncio.sleep(0.005)


def test_what_is_done_during_a_checkpoint_belongs_to_the_next(engine: Engine, wait: Wait) -> None:
    engine.register(Both, name="p")
    engine.create_trigger(database="d", name="t", plugin="p", spec="service", policy="disable")
    wait(lambda: len(getattr(Both, "called", ())) == 100 or engine.trigger("d", "t")["reason"])
    assert engine.trigger("d", "t")["reason"] is None
    assert engine.query("SELECT count(*) AS n FROM did", database="d").to_pylist() == [{"n": 100}]


@given(
    st.sampled_from(
        ["ok", "failed", "skip", "retry_later", "unavailable", "conflict", "cancelled", "disable", "stale"]
    ),
    st.sampled_from(["retry", "disable", "skip"]),
    st.booleans(),
    st.floats(0, 200),
    st.integers(0, 50),
    st.one_of(st.none(), st.floats(0, 100)),
)
def test_what_follows_an_end(
    end: Any, policy: str, asked: bool, lasted: float, failures: int, wanted: float | None
) -> None:
    ended = Ended(end=end, error="why", after=wanted)
    found = after(ended, policy=policy, asked=asked, lasted=lasted, failures=failures, chance=0.5)
    if end == "disable" or (end == "failed" and policy == "disable" and not asked):
        assert found.disable
        return
    assert found.disable is None
    if end == "stale":
        assert found.wait is None
        return
    assert found.wait is not None
    assert found.wait <= (100.0 if wanted is not None else 66.0)
    if asked:
        assert found.wait == 0
    elif end in ("retry_later", "unavailable") and wanted is not None:
        assert found.wait == wanted
    else:
        assert found.wait >= 1.3, "an end that was not asked for never spins"
    if lasted >= STABLE_SECONDS and not asked:
        assert found.failures == 1


@given(st.data())
def test_wishes_that_came_during_a_commit_stay(data: st.DataObject) -> None:
    """The state after a commit and the rest equals that of a dict on which everything was done."""
    from walmill.cache.state import State

    actions = st.lists(
        st.tuples(st.sampled_from(["put", "incr", "delete"]), st.sampled_from("ab"), st.integers(0, 5)), max_size=6
    )
    first, second = data.draw(actions), data.draw(actions)
    model: dict[str, int] = {}

    def act(cache: RunCache, what: str, key: str, value: int) -> None:
        if what == "put":
            cache.put(key, value)
            model[key] = value
        elif what == "incr":
            cache.incr(key, value)
            model[key] = model.get(key, 0) + value
        else:
            cache.delete(key)
            model.pop(key, None)

    state = State()
    cache = RunCache(state.space("s"), now=1, limit=2**20)
    for one in first:
        act(cache, *one)
    done = cache.wishes()
    for one in second:
        act(cache, *one)
    state = state.apply("s", state.resolve("s", done, 1), 1)
    cache.rebase(state.space("s"), 2, done)
    assert {key: cache.get(key) for key in cache.keys()} == model  # noqa: SIM118 - it is no dict
    state = state.apply("s", state.resolve("s", cache.wishes(), 2), 2)
    left = RunCache(state.space("s"), now=3, limit=2**20)
    assert {key: left.get(key) for key in left.keys()} == model  # noqa: SIM118 - it is no dict


NEEDS = """
import os
from walmill_hookspecs import BadSettings, hookimpl, setting, settings

@settings
class Settings:
    inbox: str = setting("a directory")

    def __attrs_post_init__(self):
        if os.path.exists(self.inbox + "/bad"):
            raise BadSettings("it is never right")

@hookimpl
def register_settings():
    return Settings

@hookimpl
def on_service(ctx):
    pass

@hookimpl
def on_write(batch, ctx):
    pass
"""


@pytest.mark.parametrize("spec", ["service", "all_tables"])
def test_arguments_that_are_never_right_are_tried_less_and_less_often(place: Place, wait: Wait, spec: str) -> None:
    place.write(NEEDS)
    engine = place.open()
    more: Any = {"plugin": "inbox", "spec": spec, "arguments": {"inbox": str(place.inbox)}, "executor": "inline"}
    engine.create_trigger(database="d", name="t", disabled=True, **more)
    (place.inbox / "bad").touch()
    # who creates one is told at once
    for executor in engine.executors:
        with pytest.raises(InvalidRequest, match="it is never right"):
            engine.create_trigger(database="d", name="u", **{**more, "executor": executor})
    engine.enable_trigger("d", "t")
    engine.write("cpu v=1", database="d")
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
    assert "it is never right" in engine.trigger("d", "t")["reason"]
    began = time.monotonic()
    wait(lambda: engine.trigger("d", "t")["runs"] >= 4)
    assert time.monotonic() - began >= 0.2, "longer and longer times lie between them"
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
