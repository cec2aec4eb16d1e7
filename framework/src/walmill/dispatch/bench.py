"""The worker of one trigger through all versions of its plugin: made at its first event, and anew when the plugin changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from walmill.errors import Unavailable, WalmillError, described, told
from walmill.isolation.base import Worker
from walmill.observe.log import get_logger
from walmill_hookspecs import BadSettings

log = get_logger("walmill.dispatch")


class Bench:
    """Holds the worker of a trigger. Everything happens on the mill's loop.

    Args:
        make: Makes a worker of the plugin as it is now.
        on_blocked: Called when it cannot be made.
        trigger: Name of the trigger, for the log.

    Attributes:
        worker: The worker that the next run has; None if there is none yet, or none can be made.
        blocked: Why no worker can be made; None if nothing is known to be in the way.
        retired: Whether the trigger is not this one's any more; set by its owner.
    """

    def __init__(self, make: Callable[[], Awaitable[Worker]], on_blocked: Callable[[], None], trigger: str) -> None:
        self.worker: Worker | None = None
        self.blocked: str | None = None
        self.retired = False
        self._make = make
        self._on_blocked = on_blocked
        self._trigger = trigger
        self._old: dict[Worker, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()
        self._renewing = asyncio.Lock()
        self._changes = 0
        self._made_at = 0

    async def open(self) -> Exception | None:
        """Makes the worker if there is none; what kept it from that, or None."""
        async with self._opening:
            if self.worker is not None:
                return None
            try:
                while True:
                    made_at = self._changes
                    worker = await self._make()
                    if not self.retired and made_at == self._changes:
                        break
                    await worker.close()
                    if self.retired:  # nobody would close it later
                        return Unavailable("the trigger is being changed; send it again", retry_after=1)
            except Exception as error:  # noqa: BLE001 - a plugin's constructor may raise anything
                self._block(_reason(error))
                return error
            self.worker, self._made_at, self.blocked = worker, made_at, None
            return None

    async def renew(self) -> None:
        """The plugin has changed: the next run has what it is now, and runs under way end with what they began with.

        One that cannot be bound any more, or does not take the trigger's arguments, blocks the trigger.
        """
        self._changes += 1
        async with self._renewing:
            made_at = self._changes
            if self.worker is None or self.retired or self._made_at == made_at:
                return  # who opens one now, or has opened one since, has it as it is
            worker, reason = None, None
            try:
                worker = await self._make()
            except Unavailable as error:  # nothing is wrong with the plugin: the next event looks for a place again
                log.warning("a worker could not be made", trigger=self._trigger, error=error.message)
            except Exception as error:  # noqa: BLE001 - as above
                reason = _reason(error)
            if self.retired:
                if worker is not None:
                    await worker.close()
                return
            self._made_at = made_at
            self._replace(worker)
            if reason is not None:
                self._block(reason)
            elif worker is not None:
                self.blocked = None

    def block(self, reason: str) -> None:
        """The plugin is gone: runs under way end, and no other one begins until it is looked at again."""
        self._changes += 1
        self._replace(None)
        self._block(reason)

    def _block(self, reason: str) -> None:
        self.blocked = reason
        self._on_blocked()

    def _replace(self, worker: Worker | None) -> None:
        """Has the next run take another worker; the one before ends with its last run."""
        old, self.worker = self.worker, worker
        if old is not None:
            task = self._old[old] = asyncio.get_running_loop().create_task(old.drain())
            task.add_done_callback(lambda _: self._old.pop(old, None))

    async def close(self) -> None:
        """Lets go of all workers, those that drain as well."""
        workers = [*self._old, *([] if self.worker is None else [self.worker])]
        self.worker = None
        for task in self._old.values():
            task.cancel()
        for worker in workers:
            await worker.close()


def _reason(error: Exception) -> str:
    """An error of the engine or of settings speaks for itself; one of a plugin needs its kind."""
    return told(error) if isinstance(error, WalmillError | BadSettings) else described(error)
