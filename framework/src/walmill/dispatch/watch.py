"""Tells plugins of snapshots (`on_snapshot`): in a thread of its own, so that a hook which uploads files holds up nothing."""

from __future__ import annotations

import queue
import threading

from attrs import frozen

from walmill.errors import described
from walmill.observe.log import get_logger
from walmill.plugins.registry import Registry
from walmill_hookspecs.types import SnapshotRecord
from walmill_worker.calling import call

log = get_logger("walmill.watch")


@frozen
class _Told:
    """A record, and what keeps its files from being deleted until all plugins have seen it."""

    record: SnapshotRecord
    held: object


class SnapshotWatch:
    """Calls `on_snapshot` of all plugins that have it, one snapshot after the other, in their order.

    Args:
        registry: The plugins.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queue: queue.SimpleQueue[_Told | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, record: SnapshotRecord, held: object) -> None:
        """Has all plugins told; called by one thread only.

        Args:
            record: What there is to tell.
            held: Kept until they were told.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="walmill-watch", daemon=True)
            self._thread.start()
        self._queue.put(_Told(record, held))

    def stop(self, timeout: float) -> None:
        """Lets what is queued be told, for so many seconds, and ends."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while (told := self._queue.get()) is not None:
            self._call(told.record)
            del told  # while nothing comes, nothing is held

    def _call(self, record: SnapshotRecord) -> None:
        try:
            watchers = self._registry.with_hook("on_snapshot")
        except Exception as error:  # noqa: BLE001 - a plugin that cannot be bound watches nothing
            log.warning("a plugin that watches snapshots could not be bound", error=str(error))
            return
        for name, binding in watchers:
            try:
                call(binding.hooks["on_snapshot"], {"record": record})
            except BaseException as error:  # noqa: BLE001 - whatever a plugin raises
                log.warning("on_snapshot failed", plugin=name, error=described(error))
