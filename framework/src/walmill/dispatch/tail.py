"""Following the log: who wants to see commits as they become durable reads them from there, at its own pace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor

from attrs import evolve

from walmill.errors import Conflict
from walmill.store.commit import Commit, from_entry
from walmill.store.view import View
from walmill.wal.log import Log

READ_COMMITS = 256
READ_BYTES = 8 * 2**20
"""So much is read from the log at a time."""


class Tails:
    """All who follow the log. None of them holds it, and none can delay a writer.

    Args:
        wal: The log.
        view: Gives the newest view.
        pool: Threads that read.
    """

    def __init__(self, wal: Log, view: Callable[[], View], pool: Executor) -> None:
        self._wal = wal
        self._view = view
        self._pool = pool
        self._lock = threading.Lock()
        self._sleepers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def wake(self) -> None:
        """There are new commits; from any thread."""
        if not self._sleepers:
            return
        with self._lock:
            sleepers = list(self._sleepers.items())
        for event, loop in sleepers:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # its loop is closed: nobody waits any more
                continue

    async def follow(
        self, database: str, tables: frozenset[str] | None = None, after: int | None = None
    ) -> AsyncGenerator[Commit, None]:
        """The commits that hold rows of a database, as they become durable, in the order of the log, without end.

        Args:
            database: Name of the database; it may be created later.
            tables: Only rows of these tables; None for all.
            after: Commits after this sequence; None for those to come.

        Raises:
            Conflict: If the log has not got what comes next any more: whoever reads slower than is written falls behind.
        """
        at = self._view().sequence if after is None else after
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._sleepers[event] = loop
        try:
            while True:
                event.clear()
                if self._view().sequence <= at:
                    await event.wait()
                found, at = await loop.run_in_executor(self._pool, self._read, database, tables, at)
                for commit in found:
                    yield commit
        finally:
            with self._lock:
                del self._sleepers[event]

    def _read(self, database: str, tables: frozenset[str] | None, after: int) -> tuple[list[Commit], int]:
        """Some commits after one, as far as they concern it, and up to where it has looked."""
        view, found, size = self._view(), list[Commit](), 0
        if after + 1 < self._wal.first_sequence:
            raise Conflict(
                f"the log begins at the commit {self._wal.first_sequence} by now, and {after + 1} is what comes next: what lies "
                "between is in files; query it"
            )
        owner = view.catalog.find_database(database)
        wanted: frozenset[int] = frozenset()
        if owner is not None:
            wanted = frozenset(number for name, number in owner.tables.items() if tables is None or name in tables)
        for frame in self._wal.read(after + 1, through=view.sequence):
            for place, entry in enumerate(frame.entries):
                number = frame.first_sequence + place
                if number <= after:
                    continue
                after = number
                if any(one.kind == "rows" and one.meta["table"] in wanted for one in entry.sections):
                    commit = from_entry(entry, number, frame.commit_time)
                    parts = tuple(part for part in commit.rows if part.table in wanted)
                    found.append(evolve(commit, rows=parts))
                    size += sum(part.batch.nbytes for part in parts)
            if len(found) >= READ_COMMITS or size >= READ_BYTES:
                break
        return found, after
