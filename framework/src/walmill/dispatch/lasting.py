"""Tasks that go on as long as their trigger does, and runs of it that were asked to end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine

from walmill.context.local import RunState
from walmill.dispatch.station import Station
from walmill.observe.log import get_logger

STOP_SECONDS = 10.0
"""A run that was asked to end and has not done so is cancelled."""

log = get_logger("walmill.dispatch")


def begin(station: Station, work: Coroutine[None, None, None], lost: str) -> asyncio.Task[None]:
    """Begins such a task. From the mill's loop.

    Args:
        station: Of the trigger; the task is among its tasks until it ends.
        work: What it does.
        lost: What is said if it ends with an error, which is ours: what does not happen any more, and until when.
    """

    def ended(task: asyncio.Task[None]) -> None:
        station.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error(
                f"the dispatcher met an error of its own; {lost}",
                database=station.database,
                trigger=station.trigger.name,
                exc_info=task.exception(),
            )

    task = asyncio.get_running_loop().create_task(work)
    station.tasks.add(task)
    task.add_done_callback(ended)
    return task


def insist(station: Station, states: Collection[RunState]) -> None:
    """Cancels those of some runs that were asked to end `STOP_SECONDS` ago, and have not done so."""
    for state in list(station.runs.values()):
        if state in states:
            station.cancel_run(state, f"it was asked to end and did not within {STOP_SECONDS:g} s")
