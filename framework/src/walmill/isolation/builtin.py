"""The executors that Walmill brings, as plugins; and how all executors are gathered when an engine opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from walmill.errors import PluginFailure, described
from walmill.isolation.base import Executor
from walmill.isolation.inline import InlineExecutor, LoopWatch
from walmill.isolation.process import ProcessExecutor, Source, WorkerOptions, possible
from walmill.plugins.registry import BUILTIN_PREFIX, Registry
from walmill.wal.log import Log
from walmill_hookspecs import hookimpl
from walmill_worker.binding import Binding
from walmill_worker.calling import call

HOOK = "register_executors"


@frozen(kw_only=True)
class ExecutorHost:
    """What executors may use of the engine.

    Attributes:
        bind: Binds a plugin in this process, by name.
        source: Finds a plugin for a process that is to import it, by name.
        wal: The log, in which the rows of batches lie.
        workers: How worker processes are kept.
        watch: Names hooks that hold up the mill's loop.
    """

    bind: Callable[[str], Binding]
    source: Callable[[str], Source]
    wal: Log
    workers: WorkerOptions
    watch: LoopWatch


class Inline:
    """`inline`: hooks run in the engine's process."""

    @hookimpl
    def register_executors(self, host: ExecutorHost) -> Mapping[str, Executor]:
        """The executor."""
        return {InlineExecutor.name: InlineExecutor(host.bind, host.watch)}


class Processes:
    """`process`: hooks run in worker processes, on machines that can do that."""

    @hookimpl
    def register_executors(self, host: ExecutorHost) -> Mapping[str, Executor]:
        """The executor; none where it is not possible."""
        return {ProcessExecutor.name: ProcessExecutor(host.source, host.wal, host.workers)} if possible() else {}


BUILT_IN: Mapping[str, type] = {"inline": Inline, "process": Processes}


def gather(registry: Registry, host: ExecutorHost, named: Sequence[str]) -> dict[str, Executor]:
    """All executors of an engine, by name.

    Args:
        registry: The plugins; those that Walmill brings are registered there.
        host: What executors may use.
        named: Plugins that bring executors as well.

    Raises:
        NotFound: If one of them is not installed.
        PluginFailure: If one of them is broken, brings something that is no executor, or takes a name that is taken.
    """
    for name, plugin in BUILT_IN.items():
        registry.register(plugin, name=f"{BUILTIN_PREFIX}executor.{name}")
    found: dict[str, Executor] = {}
    for plugin_name in (*(f"{BUILTIN_PREFIX}executor.{name}" for name in BUILT_IN), *named):
        binding = registry.bind(plugin_name)
        if HOOK not in binding.hooks:
            raise PluginFailure(f"the plugin {plugin_name!r} brings no executor: it lacks the hook {HOOK}")
        try:
            made: Any = call(binding.hooks[HOOK], {"host": host})
        except Exception as error:
            raise PluginFailure(f"{HOOK} of the plugin {plugin_name!r} failed: {described(error)}") from error
        if not isinstance(made, Mapping):
            raise PluginFailure(f"{HOOK} of the plugin {plugin_name!r} returned {made!r:.80}; return executors by name")
        for name, executor in made.items():
            lacking = [one for one in ("name", "isolates", "open", "close") if not hasattr(executor, one)]
            if lacking:
                raise PluginFailure(
                    f"the executor {name!r} of the plugin {plugin_name!r} lacks {', '.join(lacking)}; see "
                    "walmill.isolation.base.Executor"
                )
            if name in found:
                raise PluginFailure(
                    f"the plugin {plugin_name!r} brings an executor {name!r}, and there is one; name it otherwise"
                )
            found[name] = executor
    return found
