"""Inspection: what plugins offer, found out in fresh worker processes, so that nothing of them is imported here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence

from walmill.errors import PluginFailure
from walmill.isolation.process import ProcessExecutor, Source, WorkerOptions, possible
from walmill_worker.describe import Described, describe_entry

AT_A_TIME = 4
"""So many plugins are imported at a time, each in a process of its own."""


def inspect_entries(entries: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
    """Descriptions of plugins; from any thread that may wait a second.

    Args:
        entries: Name and entry point of each.

    Returns:
        What was found out, by name. One that cannot be loaded is broken, and so is one that ends its process.
    """
    if not entries:
        return {}
    if not possible():
        return {name: describe_entry(name, value) for name, value in entries}
    found: dict[str, Described] = {}
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.update(asyncio.run(_inspect(entries)))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed.append(error)

    # a thread of its own: the caller may be a thread that has an event loop
    thread = threading.Thread(target=work, name="walmill-inspect", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found


async def _inspect(entries: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
    executor = ProcessExecutor(_nowhere, None, WorkerOptions(nice=0))
    try:
        return await describe_all(executor, entries)
    finally:
        await executor.close()


async def describe_all(executor: ProcessExecutor, entries: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
    """Descriptions of plugins, some of them at a time; on the loop of the executor.

    Args:
        executor: Makes the workers.
        entries: Name and entry point of each.
    """
    turns = asyncio.Semaphore(AT_A_TIME)

    async def one(name: str, value: str) -> Described:
        async with turns:
            try:
                return await executor.describe(name, value)
            except PluginFailure as error:
                return Described(broken=error.message)

    found = await asyncio.gather(*(one(name, value) for name, value in entries))
    return {name: made for (name, _), made in zip(entries, found, strict=True)}


def _nowhere(name: str) -> Source:
    raise PluginFailure(f"the plugin {name!r} is only inspected")
