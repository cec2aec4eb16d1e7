"""on_snapshot: files that are new for a trigger become a run. Which ones are is asked of the view, so that none is missed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from attrs import frozen

from walmill.dispatch.consumer import backoff
from walmill.dispatch.lasting import begin
from walmill.dispatch.station import Ended, Event, Station
from walmill.model.cursor import Cursor
from walmill.model.files import DataFile
from walmill.model.trigger import Trigger
from walmill.store.view import View
from walmill.triggers.spec import SnapshotSpec
from walmill_hookspecs.types import SnapshotFile, SnapshotRecord, SnapshotTable

MOST_FILES = 1000
"""About so many files are told at a time: a trigger that begins with all that is there makes its way in steps."""


def new_files(view: View, database: int, spec: SnapshotSpec, after: int) -> dict[int, list[DataFile]]:
    """The files of a database that hold rows of later commits, by id of table. Pure.

    Args:
        view: What there is.
        database: Id of the database.
        spec: Which of its tables.
        after: Sequence of the commit up to which all is known.
    """
    found: dict[int, list[DataFile]] = {}
    for number, files in view.files.items():
        table = view.catalog.tables.get(number)
        if table is None or table.database_id != database or not spec.matches(table.schema.name):
            continue
        later = [one for one in files if one.last_sequence > after]
        if later:
            found[number] = later
    return found


def portion(found: dict[int, list[DataFile]], most: int) -> dict[int, list[DataFile]]:
    """The oldest of new files, about so many, and all of the same age as the last of them. Pure.

    Args:
        found: The files, by id of table.
        most: About so many.
    """
    ages = sorted(one.last_sequence for files in found.values() for one in files)
    if len(ages) <= most:
        return found
    bound = ages[most - 1]
    kept = {number: [one for one in files if one.last_sequence <= bound] for number, files in found.items()}
    return {number: files for number, files in kept.items() if files}


def record_of(
    view: View, found: dict[int, list[DataFile]], after: int, place: Callable[[DataFile], str]
) -> SnapshotRecord:
    """What a plugin is told of new files. Pure.

    Args:
        view: What there is.
        found: The files, at least one, by id of table.
        after: Sequence of the commit up to which it knows all.
        place: Says where a file is.
    """
    tables = []
    for number, files in found.items():
        table = view.catalog.tables[number]
        tables.append(
            SnapshotTable(
                database=view.catalog.databases[table.database_id].name,
                name=table.schema.name,
                tags=table.schema.tags,
                fields=dict(table.schema.fields),
                files=tuple(
                    SnapshotFile(
                        path=place(one),
                        rows=one.rows,
                        bytes=one.bytes,
                        time_range=(one.min_time, one.max_time),
                        sequences=(one.first_sequence, one.last_sequence),
                        late=one.late,
                    )
                    for one in files
                ),
                time_range=(min(one.min_time for one in files), max(one.max_time for one in files)),
            )
        )
    return SnapshotRecord(
        sequence=max(one.last_sequence for files in found.values() for one in files),
        previous_sequence=after,
        tables=tuple(sorted(tables, key=lambda one: one.name)),
    )


@frozen
class Step:
    """What to do when a run has ended.

    Attributes:
        wait: Seconds until the same files are told again; None if they are done with, or nobody is to be told any more.
        failures: So many failures in a row by now.
        move: Whether the cursor moves without a commit.
        disable: Why the trigger is disabled, if it is.
    """

    wait: float | None = None
    failures: int = 0
    move: bool = False
    disable: str | None = None


def step(ended: Ended, *, policy: str, failures: int, chance: float) -> Step:
    """What follows the end of a run. Pure.

    Args:
        ended: How it ended.
        policy: The trigger's error policy. `retry` goes on until it succeeds: what comes meanwhile is told with it.
        failures: Failures in a row before it.
        chance: From 0 to 1.
    """
    match ended.end:
        case "disable":
            return Step(disable=ended.error or "the plugin asked for it")
        case "failed" if policy == "disable":
            return Step(disable=ended.error or "failed")
        case "failed" if policy == "skip":
            return Step(move=True)
        case "ok" | "skip":
            return Step(move=not ended.committed)
        case "conflict":
            return Step(0.01 * chance, failures)
        case "retry_later" | "unavailable" if ended.after is not None:
            return Step(ended.after, failures)
    return Step(backoff(failures + 1, chance), failures + 1)


class SnapshotHost(Protocol):
    """What the desk needs of the engine."""

    def view(self) -> View:
        """The newest view."""

    def place(self, file: DataFile) -> str:
        """Where a file is: a path of this machine, or the address of an object."""

    def move(self, trigger: Trigger, cursor: Cursor) -> None:
        """Notes that a cursor moved without a commit."""

    def disable(self, trigger: Trigger, reason: str, traceback: str) -> None:
        """Has a trigger disabled, with a commit."""


class SnapshotDesk:
    """The way of one trigger through the files: one run at a time. Everything happens on the mill's loop.

    Args:
        station: The trigger.
        host: The engine.
        before: The end of what the trigger ran before it was changed, if that still goes on.
    """

    def __init__(self, station: Station, host: SnapshotHost, before: Awaitable[object] | None = None) -> None:
        self.station = station
        self._host = host
        self._before = before
        self._through = 0  # what is done without a commit stands in a view only after a while
        self._stopped = False
        self._wake = asyncio.Event()
        self.waits = False
        station.on_change = self.look
        lost = "snapshots are not told any more until the trigger is enabled again"
        self.task = begin(station, self._keep(), lost)

    def look(self) -> None:
        """There are other files, or another version of the plugin."""
        self._wake.set()

    def stop(self) -> None:
        """No run begins any more."""
        self._stopped = True
        self._wake.set()

    def pending(self) -> tuple[int, int]:
        """Rows of files that are still to be told, and the commits up to the last of them."""
        found, after = self._found(self._host.view())
        files = [one for some in found.values() for one in some]
        return sum(one.rows for one in files), max((one.last_sequence - after for one in files), default=0)

    def _found(self, view: View) -> tuple[dict[int, list[DataFile]], int]:
        trigger, spec = self.station.trigger, self.station.spec
        assert isinstance(spec, SnapshotSpec)
        after = max(self._through, (view.cursors.get(trigger.id) or Cursor()).through)
        return new_files(view, trigger.database_id, spec, after), after

    def _over(self) -> bool:
        return self._stopped or self.station.retired or self.station.blocked is not None

    async def _keep(self) -> None:
        if self._before is not None:
            await asyncio.wait([asyncio.ensure_future(self._before)])
            self._before = None
        failures = 0
        while not self._over():
            self._wake.clear()
            view = self._host.view()  # held as long as the run goes on, and its files with it
            found, after = self._found(view)
            if not found:
                del view
                await self._wake.wait()
                continue
            record = record_of(view, portion(found, MOST_FILES), after, self._host.place)
            ended = await self.station.perform(self._event(record, failures + 1), view=view)
            del view
            if ended.end in ("stale", "cancelled") or self.station.blocked is not None:
                return
            after_it = step(ended, policy=self.station.trigger.policy, failures=failures, chance=random.random())  # noqa: S311 - jitter
            failures = after_it.failures
            if after_it.disable is not None:
                self._host.disable(self.station.trigger, after_it.disable, ended.traceback)
                return
            if after_it.wait is None:
                self._through = record.sequence
            if after_it.move:
                cursor = self._host.view().cursors.get(self.station.trigger.id) or Cursor()
                self._host.move(self.station.trigger, cursor.move(record.sequence, ()))
            if after_it.wait is not None:
                await self._rest(after_it.wait)

    async def _rest(self, seconds: float) -> None:
        """Waits for the next attempt; a new version of the plugin, and the end, cut that short."""
        self.waits = True
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            self.waits = False

    def _event(self, record: SnapshotRecord, attempt: int) -> Event:
        first, last = record.previous_sequence + 1, record.sequence
        return Event(
            hook="on_snapshot",
            values={"record": record},
            key=self.station.key(f"{first}"),
            attempt=attempt,
            at=time.perf_counter_ns(),
            source="snapshot",
            consumed=(first, last),
            through=lambda: last,
            rows_in=sum(one.rows for table in record.tables for one in table.files),
        )
