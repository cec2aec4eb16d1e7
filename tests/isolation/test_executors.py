"""Executors are plugins: those that Walmill brings, and others that are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from walmill.engine import Engine
from walmill.errors import InvalidRequest, NotFound, PluginFailure, WalmillError
from walmill.isolation.builtin import ExecutorHost
from walmill.isolation.inline import InlineExecutor
from walmill.plugins.registry import Registry
from walmill_hookspecs import hookimpl


class Careful(InlineExecutor):
    """Runs hooks in this process, and counts the triggers that it has opened."""

    name = "careful"

    def __init__(self, host: ExecutorHost) -> None:
        super().__init__(host.bind, host.watch)
        self.opened = 0

    async def open(self, *args: Any, **kwargs: Any) -> Any:
        self.opened += 1
        return await super().open(*args, **kwargs)


class Brings:
    made: Careful | None = None

    @hookimpl
    def register_executors(self, host: ExecutorHost) -> Mapping[str, Any]:
        Brings.made = Careful(host)
        return {"careful": Brings.made}


class Counts:
    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        ctx.cache.incr("rows", batch.num_rows)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Plugins that the registry of an engine finds, as if they were installed."""
    plugins: dict[str, Any] = {}
    make = Registry.__init__

    def with_more(self: Registry, **kwargs: Any) -> None:
        make(self, **{**kwargs, "discover": False})
        for name, plugin in plugins.items():
            self.register(plugin, name=name)

    monkeypatch.setattr(Registry, "__init__", with_more)
    return plugins


def test_those_that_come_along_are_plugins() -> None:
    with Engine.open(discover_plugins=False) as engine:
        assert dict(engine.executors) == {"inline": False, "process": True}
        assert engine.plugins() == []
        assert engine.registry.inspect("walmill.builtin.executor.process").hooks == {"register_executors": False}


def test_another_one_runs_a_trigger(known: dict[str, Any]) -> None:
    known.update(brings=Brings, counts=Counts)
    with Engine.open(executor_plugins=("brings",)) as engine:
        assert dict(engine.executors) == {"inline": False, "process": True, "careful": False}
        engine.create_trigger(database="d", name="t", plugin="counts", spec="table:cpu", executor="careful")
        with pytest.raises(InvalidRequest, match=r"memory cannot be enforced by the executor 'careful'"):
            engine.create_trigger(
                database="d", name="u", plugin="counts", spec="table:cpu", executor="careful", limits={"memory": "1GB"}
            )
        engine.write("cpu v=1", database="d")
        while engine.trigger("d", "t")["runs"] == 0:
            pass
        assert Brings.made is not None
        assert Brings.made.opened == 1
        with pytest.raises(InvalidRequest, match=r"the executor 'cautious' is not one of inline, process, careful"):
            engine.create_trigger(database="d", name="u", plugin="counts", spec="table:cpu", executor="cautious")


class Takes:
    @hookimpl
    def register_executors(self, host: Any) -> Any:
        return {"inline": Careful(host)}


class Nothing:
    @hookimpl
    def register_executors(self) -> Any:
        return {"odd": object()}


class Fails:
    @hookimpl
    def register_executors(self) -> Any:
        raise ValueError("no")


class Wrong:
    @hookimpl
    def register_executors(self) -> Any:
        return 7


@pytest.mark.parametrize(
    ("plugin", "error", "text"),
    [
        (Takes, PluginFailure, "brings an executor 'inline', and there is one"),
        (Nothing, PluginFailure, "the executor 'odd' of the plugin 'p' lacks name, isolates, open, close"),
        (Fails, PluginFailure, "failed: ValueError: no"),
        (Wrong, PluginFailure, "returned 7; return executors by name"),
        (Counts, PluginFailure, "lacks the hook register_executors"),
        (None, NotFound, "there is no plugin 'p'"),
    ],
)
def test_what_brings_none(known: dict[str, Any], plugin: Any, error: type[WalmillError], text: str) -> None:
    if plugin is not None:
        known["p"] = plugin
    with pytest.raises(error, match=text):
        Engine.open(executor_plugins=("p",))


def test_a_default_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest, match="the executor 'cluster' is not one of"):
        Engine.open(discover_plugins=False, executor="cluster")
