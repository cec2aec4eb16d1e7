"""DataFusion's sessions: one for each query, and used again when all of its answer was read."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datafusion import SessionContext

    from walmill.query.brake import Brake

MOST_KEPT = 4
"""So many of a kind are kept: they are small, and whoever needs one more makes it."""


class Sessions:
    """Makes sessions, and keeps some. For all threads.

    Args:
        partitions: So many cores may work for one query.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._lock = threading.Lock()
        self._kept: dict[tuple[int, int], list[SessionContext]] = {}
        self._functions: tuple[Any, ...] = ()

    def take(self, memory: int, partitions: int | None = None) -> tuple[SessionContext, tuple[int, int]]:
        """A session of nobody else, without tables, and what it is given back as.

        Args:
            memory: Bytes that sorts, joins and groups may use.
            partitions: So many cores may work for it; None for as many as may for any.
        """
        kind = memory, partitions or 0
        with self._lock:
            kept = self._kept.get(kind)
            if kept:
                return kept.pop(), kind
        return self.make(memory, partitions), kind

    def give_back(self, context: SessionContext, kind: tuple[int, int], schemas: Iterable[str]) -> None:
        """Keeps a session whose query has ended by itself: nothing of it goes on, and no memory is taken.

        Args:
            context: The session.
            kind: From `take`.
            schemas: Names of the schemas that it has; they are taken from it.
        """
        from walmill.query import provider

        catalog = context.catalog(provider.CATALOG)
        for name in schemas:
            catalog.deregister_schema(name)
        with self._lock:
            if len(self._kept) > MOST_KEPT and kind not in self._kept:
                self._kept.clear()  # limits of tokens: any number of them
            kept = self._kept.setdefault(kind, [])
            if len(kept) < MOST_KEPT:
                kept.append(context)

    def make(
        self, memory: int, partitions: int | None = None, *, files: bool = False, brake: Brake | None = None
    ) -> SessionContext:
        """A session; costs about 0.2 ms.

        Args:
            memory: As in `take`.
            partitions: As in `take`.
            files: Whether it is to plan well over sorted files.
            brake: What is to stop its joins.
        """
        from datafusion import RuntimeEnvBuilder, SessionConfig

        from walmill.query import provider

        runtime = RuntimeEnvBuilder().with_disk_manager_disabled().with_greedy_memory_pool(memory)
        config = SessionConfig().with_target_partitions(partitions or self._partitions)
        if partitions == 1:
            config = config.set("datafusion.optimizer.max_passes", "1")
        if files:
            # rows that are merged come and stay in order; and planning opens no file
            config = config.set("datafusion.optimizer.prefer_existing_sort", "true")
            config = config.set("datafusion.execution.collect_statistics", "false")
        context = provider.new_context(config, runtime)
        for function in self._functions:
            context.register_udf(function)
        if brake is not None:
            context.register_udf(brake.function())
        return context

    def add_functions(self, functions: Sequence[Any]) -> None:
        """Gives further functions to all sessions that are made or taken from now on."""
        with self._lock:
            self._functions += tuple(functions)
            self._kept.clear()

    @property
    def has_functions(self) -> bool:
        """Whether there are functions that are not DataFusion's own."""
        return bool(self._functions)
