"""The keeper: takes what gathers in memory and in the log into files, keeps the files few, lets go of what nobody needs.

Two threads of its own. One makes snapshots and releases the log; the other joins files and deletes objects, slowly. What they
change about where rows lie becomes part of the view in the committer's thread, between two frames, so every view is whole.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from attrs import define

from walmill.backup.copy import Told
from walmill.backup.create import create_backup
from walmill.backup.description import Description
from walmill.buffer.source import Located
from walmill.buffer.table import TableBuffer
from walmill.clock import Clock
from walmill.collector import give_back
from walmill.databases import drop_overdue, overdue, periods
from walmill.dispatch.mill import Mill
from walmill.errors import Superseded, Unavailable, WalmillError
from walmill.model.files import DataFile
from walmill.model.trigger import RETENTION
from walmill.objects.cache import FileCache
from walmill.objects.protocol import ObjectStore
from walmill.observe.log import get_logger
from walmill.room import Room
from walmill.snapshot.compact import Bounds
from walmill.snapshot.due import Facts, Limits, snapshot_due, writers_wait
from walmill.snapshot.head import Head
from walmill.snapshot.jobs import Brake, Change, JoinPlanner, compact, cut, expire, remove_rows, sweep, write_snapshot
from walmill.snapshot.manifest import Loaded, Manifest
from walmill.snapshot.pace import Pace
from walmill.snapshot.release import LogRetention, describe_segments, find_holders, plan_release
from walmill.snapshot.retention import plan_retention
from walmill.snapshot.rows import Choice
from walmill.store.committer import Committer
from walmill.store.submission import Define, Exchange, Flush
from walmill.store.view import View
from walmill.triggers.manage import pause_trigger
from walmill.wal.log import Log
from walmill.wal.segment import Segment

TICK_SECONDS = 0.5
"""So often it is looked whether a snapshot is due."""
EXPIRE_SECONDS = 5.0
"""So often it is looked whether rows, or deleted databases and tables, are past their time."""
TIDY_SECONDS = 2.0
"""So often it is looked whether files are worth joining, if there are new ones."""
SWEEP_SECONDS = 30.0
"""At most so often objects are looked for that nobody needs: that lists all of them."""
LOOK_SECONDS = 5.0
"""So often it is looked whether another process has taken a remote store over."""
RELEASE_SECONDS = 30.0
"""So often it is looked whether triggers have held the log for too long, if no snapshot was made meanwhile."""
_POSITIONS_SECONDS = 2.0

log = get_logger("walmill.keeper")


@define
class KeeperFigures:
    """What the keeper counts; read by `/metrics`.

    Attributes:
        snapshots: Snapshots made.
        failures: Snapshots that failed.
        rows: Rows written to files by snapshots.
        joins: Joins made.
        swept: Objects deleted.
        released: Log segments removed.
        expired: Rows in files that went because their retention period had passed.
        seconds: How long the last snapshot took.
    """

    snapshots: int = 0
    failures: int = 0
    rows: int = 0
    joins: int = 0
    swept: int = 0
    released: int = 0
    expired: int = 0
    seconds: float = 0.0


class Keeper:
    """Keeps the files of one engine.

    Args:
        head: The newest manifest.
        store: Where the objects are.
        committer: The committer.
        mill: The mill: it knows which triggers nothing concerned lately.
        wal: The log.
        directory: Where the log is, to see how full its disk is.
        clock: The time.
        limits: When a snapshot is due.
        retention: How much log triggers may hold.
        join_rate: Bytes per second that joining may read and write; 0 for no limit.
        joins: Which files are joined.
        superseded: Called when another process has taken the store over.
        room: The disk of the log.
        watch: Told of each snapshot.
        cache: Copies of data files on this machine; None if the store is a directory of it.
        before: Called before rows of memory go over into files.
    """

    def __init__(
        self,
        *,
        head: Head,
        store: ObjectStore,
        committer: Committer,
        mill: Mill,
        wal: Log,
        directory: Path,
        clock: Clock,
        limits: Limits,
        retention: LogRetention,
        join_rate: int,
        joins: Bounds,
        superseded: Callable[[Superseded], None],
        room: Room,
        cache: FileCache | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._before = before
        self._head = head
        self.room = room
        self._cache = cache
        self._store = store
        self._committer = committer
        self._mill = mill
        self._wal = wal
        self._directory = directory
        self._clock = clock
        self._limits = limits
        self._retention = retention
        self._join_rate = join_rate
        self._joins = joins
        self._superseded = superseded
        self._covered = head.current.view.sequence
        self._taken: dict[int, View] = {}  # views whose snapshots may count, by sequence, all behind the same manifest
        self._since = 0
        self._failures = 0
        self._failed_at = 0
        self._released_at = self._looked_at = 0.0
        self._asked: list[Future[Manifest | None]] = []
        self._guard = threading.Lock()
        self._files = threading.Lock()  # held by whoever changes which files there are
        self._wake = threading.Event()
        self._fresh = threading.Event()
        self._ended = threading.Event()
        self.figures = KeeperFigures()
        self.full = False
        self._threads = [
            threading.Thread(target=self._keep, name="walmill-keeper", daemon=True),
            threading.Thread(target=self._tidy, name="walmill-tidy", daemon=True),
        ]

    def start(self) -> None:
        """Starts the threads."""
        self.room.look()
        self._fresh.set()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """Ends the threads; what they had not finished is not seen by anybody, and done again after the next start."""
        self._ended.set()
        self._wake.set()
        self._fresh.set()
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.1, until - time.monotonic()))
        self.room.close()
        with self._guard:
            asked, self._asked = self._asked, []
        for future in asked:
            future.set_exception(Unavailable("the engine is shutting down", retry_after=5))

    def snapshot(self, timeout: float | None = None) -> Manifest | None:
        """Makes a snapshot now and waits for it: when it returns, all that was committed before is in the object store.

        Args:
            timeout: Seconds.

        Returns:
            The newest manifest; None if nothing was ever committed.

        Raises:
            Unavailable: If the store does not answer, it takes longer, or the engine is shutting down.
        """
        future: Future[Manifest | None] = Future()
        with self._guard:
            if self._ended.is_set():
                raise Unavailable("the engine is shutting down", retry_after=5)
            self._asked.append(future)
        self._wake.set()
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done():  # the store's own
                raise
            raise Unavailable(
                f"the snapshot takes longer than {timeout:g} s; it goes on: `walmill show storage` says when it is there",
                retry_after=30,
            ) from None

    def backup(self, target: ObjectStore, told: Told) -> Description:
        """Makes a backup of all that is committed by now; see `create_backup`. Writes, snapshots and clean-up go on beside it."""
        self.snapshot()
        loaded = self._head.current  # as long as this is held, nothing that it names is deleted
        return create_backup(self._store, loaded, target, now=self._clock.now_ns(), told=told)

    def tidy(self) -> int:
        """Lets go of what is past its time, joins files and deletes objects that nobody needs, now, in the caller's thread.

        Returns:
            How many objects were deleted.

        Raises:
            Superseded: If another process has taken the store over.
            Exception: What the store raised; nothing is lost, and it is tried again with the next call.
        """
        planner = JoinPlanner(self._joins)
        brake = Brake(stop=self._ended)
        self._expire(brake)
        while self._join(planner, brake):
            pass
        swept = sweep(self._head, brake=brake)
        self.figures.swept += swept
        return swept

    def check_room(self) -> None:
        """Whether there is room for more rows, in memory and on the disk.

        Raises:
            Unavailable: If snapshots do not keep up with writers, or the disk is nearly full.
        """
        self.room.check()
        if self.full:
            raise Unavailable(
                f"{self._limits.memory_bytes:,} bytes of rows wait to be written to files, which is as much as is "
                "allowed; nothing of this write was kept: send it again later, or raise the limit of memory",
                retry_after=2,
            )

    # ---- snapshots

    def _keep(self) -> None:
        while not self._ended.is_set():
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
            if self._ended.is_set():
                return
            self.room.look()
            with self._guard:
                asked, self._asked = self._asked, []
            try:
                if self._cache is not None and time.monotonic() - self._looked_at > LOOK_SECONDS:
                    self._looked_at = time.monotonic()
                    with contextlib.suppress(Unavailable):
                        self._head.look()
                made = self._look(asked=bool(asked))
                for future in asked:
                    future.set_result(self._head.current.manifest)
                if made or time.monotonic() - self._released_at > RELEASE_SECONDS:
                    self._release()
            except Superseded as error:
                self._fail(asked, error)
                self._superseded(error)
                return
            except Exception as error:  # noqa: BLE001 - what was asked for is told; the rest is tried again
                self._fail(asked, error)

    def _fail(self, asked: list[Future[Manifest | None]], error: Exception) -> None:
        for future in asked:
            if not future.done():
                future.set_exception(error)
        if self._ended.is_set():
            return
        self._failures += 1
        self._failed_at = self._clock.now_ns()
        self.figures.failures += 1
        said = error.message if isinstance(error, WalmillError) else repr(error)
        log.warning("a snapshot could not be made; it is tried again", error=said, failures=self._failures)

    def _look(self, *, asked: bool) -> bool:
        """Makes a snapshot if one is due; says whether it did."""
        now = self._clock.now_ns()
        limits = self._limits
        sequence, covered = self._committer.view.sequence, self._covered
        if sequence <= covered:
            self._since, self.full = 0, False
            return False
        self._since = self._since or now
        gathered = self._wal.bytes_behind(covered)
        self.full = writers_wait(gathered, limits)
        facts = Facts(
            sequence=sequence,
            covered=covered,
            buffer_bytes=gathered,
            log_bytes=gathered,
            since=self._since,
            failures=self._failures,
            failed_at=self._failed_at,
            log_objects=self._wal.objects_behind(covered),
        )
        # the files of what was deleted go with the next snapshot: space should come back soon
        deleted = any(table not in self._committer.view.catalog.tables for table in self._head.current.files)
        cause = "asked" if asked else snapshot_due(facts, limits, now, deleted=deleted, disk_short=self.room.short)
        if cause is None:
            return False
        began = time.perf_counter()
        with self._files:
            change = self._snapshot()
        self._since, self._failures = 0, 0
        self.figures.snapshots += 1
        self.figures.rows += sum(file.rows for file in change.new)
        self.figures.seconds = time.perf_counter() - began
        self.full = writers_wait(self._wal.bytes_behind(self._covered), limits)
        self._fresh.set()
        give_back()
        log.info(
            "snapshot",
            cause=cause,
            sequence=change.current.view.sequence,
            files=len(change.new),
            rows=sum(file.rows for file in change.new),
            seconds=round(self.figures.seconds, 3),
        )
        return True

    def _snapshot(self) -> Change:
        self._note_positions()
        while True:
            view = self._committer.view
            with self._guard:
                self._taken[view.sequence] = view
            change = write_snapshot(self._head, view)
            self._take_over()
            if change is not None:
                self._mill.files_changed()
                return change

    def _note_positions(self) -> None:
        """Has the cursors written of triggers that nothing concerned lately: else they would hold the log for ever."""
        try:
            self._mill.run(self._mill.pass_by()).result(_POSITIONS_SECONDS)
        except TimeoutError:
            log.warning("a hook blocks the mill's loop: triggers on silent tables hold the log for now")
        self._committer.submit(Flush()).result()

    def _take_over(self) -> None:
        """Has the view go by the newest manifest."""
        self._before()
        self._committer.submit(Exchange(self._by_manifest)).result()

    def _by_manifest(self, view: View) -> View:
        """In the committer's thread: the view with the files of the newest manifest, and without the rows that are in them."""
        loaded = self._head.current
        sequence = loaded.view.sequence
        stored: Mapping[int, TableBuffer] = {}
        with self._guard:
            if sequence > self._covered:
                stored = self._taken[sequence].tables
                self._taken.clear()
                self._covered = sequence
        return view.store_files(loaded.files, loaded, stored, loaded.newest)

    # ---- the log

    def _release(self) -> None:
        """Removes segments of the log that are in files and that no trigger needs; pauses triggers that hold them too long."""
        self._released_at = time.monotonic()
        segments = self._wal.segments
        if len(segments) < 2 and not (segments and segments[0].file is None):
            return
        view = self._committer.view
        usage = shutil.disk_usage(self._directory)
        plan = plan_release(
            describe_segments(segments),
            self._covered,
            find_holders(view.catalog, view.cursors),
            self._retention,
            self._clock.now_ns(),
            disk_free=usage.free,
            disk_size=usage.total,
        )
        for number in (*plan.pause, *plan.lapsed):
            trigger = view.catalog.triggers[number]
            log.warning(
                "a trigger is paused: it is so far behind that the log it needs is too old or too large to be kept",
                trigger=trigger.name,
                reason=RETENTION,
            )
            pause = partial(pause_trigger, trigger=number, generation=trigger.generation, reason=RETENTION)
            self._committer.submit(Define(pause)).result()
        gone: list[Segment] = []

        def release(newest: View) -> View:
            # a trigger may have been enabled meanwhile
            needed = min((one.needs for one in find_holders(newest.catalog, newest.cursors)), default=plan.through + 1)
            gone.extend(self._wal.release(min(plan.through, needed - 1)))
            return newest

        self._committer.submit(Exchange(release)).result()
        self._wal.remove(gone)
        self.figures.released += len(gone)
        gone.clear()  # or what refers to them here would keep their maps, and with them space on the disk

    # ---- files

    def _tidy(self) -> None:
        planner = JoinPlanner(self._joins)
        brake = Brake(Pace(self._join_rate), self._ended)
        swept_at = -SWEEP_SECONDS
        known = 0  # its number: whoever keeps a manifest keeps its files
        while not self._ended.is_set():
            self._fresh.wait(EXPIRE_SECONDS)
            self._fresh.clear()
            if self._ended.wait(TIDY_SECONDS):
                return
            try:
                self._expire(brake)
                while self._join(planner, brake):
                    pass
                manifest = self._head.current.manifest
                number = 0 if manifest is None else manifest.number
                if number != known and time.monotonic() - swept_at >= SWEEP_SECONDS:
                    self.figures.swept += sweep(self._head, brake=brake)
                    swept_at, known = time.monotonic(), number
            except Superseded as error:
                self._superseded(error)
                return
            except Exception as error:  # noqa: BLE001 - nothing is lost: it is tried again
                if not self._ended.is_set():
                    said = error.message if isinstance(error, WalmillError) else repr(error)
                    log.warning("files could not be joined or cleaned up; it is tried again", error=said)

    def _expire(self, brake: Brake) -> None:
        """Lets go of rows, databases and tables whose time has passed."""
        now = self._clock.now_ns()
        view = self._committer.view
        if overdue(view.catalog, now):
            self._committer.submit(Define(drop_overdue)).result()
        current = self._head.current
        kept = periods(view.catalog)
        if not kept:
            return
        change = expire(self._head, kept, now)
        if change is not None:
            self._note_expired(change)
        for table in sorted(set(kept) & set(current.files)):
            if self._ended.is_set():
                return
            expiry = plan_retention(self._head.current.files.get(table, ()), kept[table], now)
            done = cut(self._head, table, expiry, brake)
            if done is not None:
                self._note_expired(done)

    def _note_expired(self, change: Change) -> None:
        self._take_over()
        give_back()
        rows = sum(one.rows for one in change.gone) - sum(one.rows for one in change.new)
        self.figures.expired += rows
        log.info("rows expired", rows=rows, files=len(change.gone))

    def _join(self, planner: JoinPlanner, brake: Brake) -> bool:
        """Makes the cheapest join that is worth it; says whether there was one."""
        for table, join in planner.plan(self._head.current):
            if self._ended.is_set():
                return False
            change = compact(self._head, table, join, brake, planner.bounds)
            if change is not None:
                self._take_over()
                self.figures.joins += 1
                give_back()
                return True
        return False

    @contextlib.contextmanager
    def still(self) -> Iterator[Loaded]:
        """Gives what the newest manifest says when all that is committed is in it; no snapshot is made until this ends.

        Raises:
            Unavailable: If the store does not answer.
        """
        with self._files:
            if self._committer.view.sequence > self._covered:
                self._snapshot()
            yield self._head.current

    def remove(self, table: int, low: int, high: int, gone: Choice) -> None:
        """Writes the files of a table with times between two, ns, again without some of their rows, inside of `still`.

        All of it is seen at once. If a join replaces some of the files meanwhile, it begins anew with what is there then.

        Raises:
            Unavailable: If the store does not answer, or the engine is shutting down; then nothing is gone.
        """
        brake = Brake(stop=self._ended)
        while not self._ended.is_set():
            listed = self._head.current.files.get(table, ())
            files = [one for one in listed if one.min_time <= high and one.max_time >= low]
            if remove_rows(self._head, table, files, gone, brake) is not None:
                self._take_over()
                return
        raise Unavailable("the engine is shutting down", retry_after=5)

    # ---- reading

    def locate(self, file: DataFile) -> Located:
        """A data file on this machine; see `Locate`."""
        if self._cache is not None:
            return self._cache.locate(file)
        path = self._store.local_path(file.path)
        assert path is not None  # a store without a cache is a directory
        return Located(path)

    @property
    def store_name(self) -> str:
        """The object store, for people."""
        return self._store.name

    def cached(self) -> dict[str, int] | None:
        """Number and bytes of the copies of files on this machine; None if the store is here."""
        return None if self._cache is None else {"files": self._cache.files, "bytes": self._cache.bytes}

    @property
    def behind_bytes(self) -> int:
        """Bytes of log that no manifest covers: what a restart replays, and about what the rows in memory take."""
        return self._wal.bytes_behind(self._covered)

    @property
    def pressure(self) -> float:
        """The part of the memory for rows that is used; from 1 on writers are told to come back later."""
        return self.behind_bytes / self._limits.memory_bytes

    @property
    def manifest(self) -> Manifest | None:
        """The newest manifest."""
        return self._head.current.manifest
