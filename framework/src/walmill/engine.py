"""The engine: the composition root. The only place that knows all parts; it builds them, starts and stops them in order.

Every method may be called from any thread. Those that end in `_async` are for an event loop of the caller's.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from attrs import evolve

from walmill import sqlfunctions
from walmill.auth.tokens import write_token_file
from walmill.backfill import Backfiller
from walmill.backup.copy import Told, quiet
from walmill.backup.description import Description
from walmill.begin import begin_view, open_objects
from walmill.buffer.looker import Looker
from walmill.dispatch.mill import Mill
from walmill.dispatch.tail import Tails
from walmill.environments.house import Environments
from walmill.erase import Erased, count_rows, delete_rows
from walmill.errors import Conflict, InvalidRequest, PluginFailure, WalmillError
from walmill.fs.local import LocalFS
from walmill.fs.lock import DirectoryLock
from walmill.fs.memory import MemoryFS
from walmill.fs.protocol import FileSystem
from walmill.ingest.precision import Precision
from walmill.isolation.builtin import ExecutorHost, gather
from walmill.isolation.inline import LoopWatch
from walmill.isolation.inspect import inspect_entries
from walmill.isolation.process import ProcessExecutor
from walmill.keeper import Keeper, KeeperFigures
from walmill.layout import check_layout
from walmill.logs import REMOTE_FLUSH_SECONDS, LogPlace, identity_of, open_log, open_place
from walmill.model.files import DataFile
from walmill.model.trigger import Trigger
from walmill.objects.cache import FileCache
from walmill.objects.protocol import ObjectStore
from walmill.observe.log import get_logger
from walmill.opening import Opening, follow
from walmill.options import EngineOptions
from walmill.plugins.registry import Registry
from walmill.query.desk import Desk
from walmill.query.engine import QueryEngine
from walmill.query_calls import PLUGIN, Queries
from walmill.room import Room
from walmill.snapshot.head import Head
from walmill.snapshot.manifest import Loaded, Manifest, load
from walmill.snapshot.sweep import damaged_files
from walmill.storage import describe_storage
from walmill.store.committer import Committer, Figures, Published
from walmill.store.draft import Draft
from walmill.store.replay import replay
from walmill.store.submission import Define, Submission, Ticket
from walmill.store.view import View
from walmill.values.keep import ValueCaches
from walmill.wal.log import Log
from walmill.wal.segment import Segment
from walmill.writer import Writer, WriteResult
from walmill_hookspecs.context import WriteData
from walmill_worker.capture import Capture

if TYPE_CHECKING:
    pass

log = get_logger("walmill.engine")


class Engine(Queries):
    """A processing engine on one data directory.

    Open it with `Engine.open`, close it with `close`, or use it in a `with` statement.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.delete_grace = options.delete_grace
        self._routes_changed: list[Callable[[Sequence[Trigger]], None]] = []
        self.request_triggers: tuple[Trigger, ...] = ()
        self._lock: DirectoryLock | None = None
        self._store: ObjectStore | None = None
        self._cache: FileCache | None = None
        self._log_place: str | None = None
        self._on_end: list[Callable[[WalmillError], None]] = []
        self._keeper: Keeper | None = None
        self._processes: ProcessExecutor | None = None
        self._environments: Environments | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._closed = False
        self._closing = threading.Lock()
        self._replaying = threading.Lock()
        self._backfiller = Backfiller(self)
        self._values = ValueCaches(self, options.value_cache)
        self.started_at = time.time()
        self.ready = False

    @classmethod
    def open(cls, options: EngineOptions | None = None, **changes: Any) -> Self:
        """Opens an engine: locks its directory, replays the log, starts its threads and its triggers.

        Args:
            options: How it works.
            **changes: Single members of the options, by name.

        Raises:
            Conflict: If another process, or another engine of this one, has the directory.
            DataCorruption: If the log is damaged before its tail.
            PluginFailure: If a plugin is broken and `strict_plugins` is set.
        """
        given = evolve(options or EngineOptions(), **changes)
        engine = cls(given)
        try:
            engine._start()
        except BaseException:
            engine._release()
            raise
        return engine

    def _start(self) -> None:
        options = self.options
        if options.data_dir is None:
            fs: FileSystem = options.fs or MemoryFS()
            if options.wal is not None:
                raise InvalidRequest(
                    "a log in an object store (wal) needs a data_dir on this machine, for what is read from"
                )
        else:
            fs = options.fs or LocalFS()
            root = Path(options.data_dir)
            root.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock.acquire(root)
            check_layout(root)
            if options.object_store is not None and options.object_store.lower().startswith("memory:"):
                log.warning("files are kept in memory only: what is in a snapshot is gone with this process")
            self._store, self._cache = open_objects(options.object_store, root, fs, options.object_cache)
        self.registry = Registry(
            disabled=options.disabled_plugins,
            allowed=options.allowed_plugins,
            wrappers=options.wrappers,
            discover=options.discover_plugins,
            inspector=self._inspect,
        )
        if options.data_dir is not None:
            self._environments = Environments(Path(options.data_dir), self._describe_there, self._free)
            self.open_environments()
        self._supply = self._new_supply()
        self._supply.open(inspect_entries)
        if options.strict_plugins:
            broken = [one for one in self.registry.inspect_all() if one.status == "broken"]
            if broken:
                raise PluginFailure("; ".join(f"the plugin {one.name!r} is broken: {one.cause}" for one in broken))
        began = time.perf_counter()
        loaded = self._load()
        place: LogPlace | None = None
        if loaded is None or self._store is None:
            self._wal = Log.open(fs, "wal", segment_bytes=options.segment_bytes, now_ns=options.clock.now_ns)
        else:
            assert options.data_dir is not None
            place = self._place(Path(options.data_dir), fs, self._store)
            loaded, self._wal = open_log(self._store, loaded, options.wal, place)
            self._log_place = str(place)
        covered = 0 if loaded is None else loaded.view.sequence
        frames = follow(self._wal.replay(after=covered), self._wal, covered, options.told)
        view = replay(frames, view=None if loaded is None else begin_view(loaded))
        for line in self._wal.report:
            log.warning(line)
        if view.sequence:
            log.info(
                "the log is replayed",
                commits=view.sequence - covered,
                behind=covered,
                seconds=round(time.perf_counter() - began, 3),
            )
        self._queries = QueryEngine(
            memory_limit=options.query_memory, most_rows=options.query_rows, most_files=options.query_files
        )
        self._queries.add_functions(
            sqlfunctions.gather(self.registry, options.function_plugins, self._queries.functions)
        )
        self._desk = Desk(options.query_concurrency, options.query_queue, options.clock.now_ns)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="walmill-pool")
        self._watch = LoopWatch()
        host = ExecutorHost(
            bind=self.registry.bind, source=self._source, wal=self._wal, workers=options.workers, watch=self._watch
        )
        executors = gather(self.registry, host, options.executor_plugins)
        self.executors = {name: executor.isolates for name, executor in executors.items()}
        process = executors.get(ProcessExecutor.name)
        self._processes = process if isinstance(process, ProcessExecutor) else None
        wanted = options.executor or "process"
        self.default_executor = wanted if wanted in executors else "inline"
        if wanted not in executors and wanted != ProcessExecutor.name:
            raise InvalidRequest(f"the executor {wanted!r} is not one of {', '.join(executors)}")
        if wanted not in executors:
            log.warning("this machine cannot run hooks in other processes: they run in this one, without limits")
        self._mill = Mill(
            wal=self._wal,
            registry=self.registry,
            executors=executors,
            clock=options.clock,
            query=partial(self._query, origin=PLUGIN),
            stream=partial(self._stream, origin=PLUGIN),
            cached=self.cached,
            pool=self._pool,
            limits=options.limits,
            plugin_limits=options.plugin_limits,
            on_routes=self._set_routes,
            place=self._file_place,
        )
        self._committer = Committer(
            self._wal,
            view,
            options.clock,
            self._published,
            prepare=self._mill.prepare,
            flush_interval=self._flush_interval(place),
            superseded=self._superseded,
        )
        self._tails = Tails(self._wal, self.view, self._pool)
        if loaded is not None and self._store is not None:
            assert options.data_dir is not None
            assert place is not None
            head = Head(
                self._store,
                loaded,
                epoch=self._wal.epoch + 1,
                now=options.clock.now_ns,
                shared=self._cache is not None,
                log=place.name,
            )
            if loaded.manifest is not None or place.store is not None:
                head.claim()
            self._keeper = Keeper(
                head=head,
                store=self._store,
                committer=self._committer,
                mill=self._mill,
                wal=self._wal,
                directory=Path(options.data_dir),
                clock=options.clock,
                limits=options.snapshots,
                retention=options.log_retention,
                join_rate=options.join_rate,
                joins=options.joins,
                superseded=self._superseded,
                room=Room(Path(options.data_dir), fs, options.disk),
                cache=self._cache,
                before=self._values.catch_up,
            )
        self._writer = Writer(
            self._committer,
            options.clock,
            processes=options.reader_processes,
            check_room=self._check_room,
            most_waiting=options.write_queue,
        )
        Capture.install()
        self._watch.start()
        self._looker = Looker()
        self._looker.grown(view.tables.values())
        self._looker.start()
        self._committer.start()
        self._mill.start(self._committer)
        self._supply.start()
        self.pass_lost()
        self._backfiller.wake()
        self._values.start()
        self._preparing = threading.Event()
        self._preparer = threading.Thread(target=self._prepare, name="walmill-prepare", daemon=True)
        self._preparer.start()
        if self._keeper is not None:
            self._keeper.start()
        if options.operator_token:
            self._ensure_operator_token()
        self.ready = True

    def _load(self) -> Loaded | None:
        """What the newest manifest says; None if there is no object store."""
        if self._store is None:
            return None
        self._store.sweep()
        loaded = load(self._store)
        for line in loaded.report:
            log.warning(line)
        for file, wrong in damaged_files(self._store, loaded.files):
            log.error("a query that needs this file will fail", table=file.table, error=wrong)
        return loaded

    def _place(self, root: Path, fs: FileSystem, objects: ObjectStore) -> LogPlace:
        """Where the log is to be, by the options."""
        options = self.options
        store = open_place(options.wal, fs)

        def tell(done: int, total: int) -> None:
            if options.told is not None:
                options.told(Opening(done, total, 0, reading=True))

        identity = partial(identity_of, objects)
        return LogPlace(root, fs, store, identity, options.segment_bytes, options.clock.now_ns, tell)

    def _file_place(self, file: DataFile) -> str:
        """Where a data file is: a path of this machine, or the address of an object."""
        assert self._store is not None
        return self._store.local_path(file.path) or f"{self._store.name}/{file.path}"

    def _flush_interval(self, place: LogPlace | None) -> float:
        """Seconds by which a frame may wait for others; for a log in an object store it says what that costs."""
        remote = place is not None and place.store is not None
        asked = self.options.flush_interval
        interval = asked if asked is not None else REMOTE_FLUSH_SECONDS if remote else 0.0
        if remote:
            log.info(
                "the log is in an object store: a write is acknowledged when a request to it is, and there is at most one in "
                "an interval",
                wal=str(place),
                interval_seconds=interval,
            )
        return interval

    def _check_room(self) -> None:
        """Whether a write has a chance now; see `Keeper.check_room` and `Committer.check`."""
        self._committer.check()
        if self._keeper is not None:
            self._keeper.check_room()

    def _superseded(self, error: Conflict) -> None:
        """Another process has taken the object store over: nothing that this one acknowledges would be seen again."""
        log.error("the engine stops taking writes", error=error.message)
        self.ready = False
        self._writer.stop()
        for told in self._on_end:
            told(error)

    @property
    def trouble(self) -> str | None:
        """Why this engine does not take what it is sent now; None if it does."""
        if not self.ready:
            return "the engine is shutting down"
        if self._committer.delay is not None:
            return self._committer.delay
        return None if self._keeper is None else self._keeper.room.trouble

    def on_end(self, told: Callable[[WalmillError], None]) -> None:
        """Has `told` called when the engine cannot go on, with the reason; from a thread of the engine's. Close it then."""
        self._on_end.append(told)

    def _published(self, published: Published) -> bool:
        tables = published.view.tables
        touched = {part.table for commit in published.commits for part in commit.rows}
        self._looker.grown(tables[table] for table in touched if table in tables)
        self._tails.wake()
        return self._mill.published(published)

    def _prepare(self) -> None:
        """Zero-fills the log ahead of its end, in small steps, while the committer writes."""
        while not self._preparing.wait(0.05 if self._wal.prepare() else 0.5):
            pass

    def _ensure_operator_token(self) -> None:
        if self.view().catalog.tokens or self.options.data_dir is None:
            return
        token = self.create_token("_operator")
        path = write_token_file(Path(self.options.data_dir), token)
        log.info("the first start made an operator token; the local command line finds it", file=str(path))

    # ---- reading

    def view(self) -> View:
        """The newest view: immutable, everything at one sequence."""
        return self._committer.view

    # ---- snapshots

    def snapshot(self, timeout: float | None = None) -> Manifest | None:
        """Takes everything from memory and log into files, now; the engine does it by itself when enough has gathered.

        Args:
            timeout: Seconds to wait.

        Returns:
            The newest manifest: what it says up to its sequence is in the object store. None if nothing was ever committed.

        Raises:
            Conflict: If this engine has no data directory.
            Unavailable: If the store cannot be written now.
        """
        if self._keeper is None:
            raise Conflict("this engine keeps everything in memory; open it with a data_dir to have snapshots")
        return self._keeper.snapshot(timeout)

    def tidy(self) -> int:
        """Joins files that are worth it and deletes objects that nobody needs, now; the engine does both by itself, slowly.

        Returns:
            How many objects were deleted.

        Raises:
            Conflict: If this engine has no data directory.
            Unavailable: If the store cannot be read or written now.
        """
        if self._keeper is None:
            raise Conflict("this engine keeps everything in memory; open it with a data_dir to have files")
        return self._keeper.tidy()

    def backup(self, target: ObjectStore, told: Told = quiet) -> Description:
        """Makes a backup of everything that is committed by now, beside the writes that go on.

        Args:
            target: Where it goes; `walmill.objects.open.open_store` opens a directory. Backups there share what they have in
                common.
            told: Told how far it is; what it raises ends the backup.

        Raises:
            Conflict: If this engine has no data directory, nothing was ever committed, or the target has backups of another one.
            Unavailable: If a store does not answer.
            DataCorruption: If a file of this engine is damaged.
        """
        if self._keeper is None:
            raise Conflict("this engine keeps everything in memory; open it with a data_dir to have backups")
        return self._keeper.backup(target, told)

    def storage(self) -> dict[str, Any]:
        """What is kept, and where: see `walmill.storage.describe_storage`."""
        return describe_storage(self.view(), self._wal.segments, self._keeper, self._log_place)

    @property
    def keeper_figures(self) -> KeeperFigures | None:
        """What was written to files since the start; None if this engine keeps everything in memory."""
        return None if self._keeper is None else self._keeper.figures

    # ---- writing

    def submit(self, submission: Submission, ticket: Ticket | None = None) -> Ticket:
        """Queues something for the committer."""
        return self._writer.submit(submission, ticket)

    def write(
        self,
        data: WriteData | bytes,
        *,
        database: str,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        precision: str | Precision = "nanosecond",
        accept_partial: bool = True,
        no_sync: bool = False,
    ) -> WriteResult:
        """Writes rows; when it returns, they are durable and visible.

        Args:
            data: Line protocol (str or bytes), Lines, mappings, or Arrow data.
            database: Name of the database; created if there is none.
            table: The table, for mappings and Arrow data.
            tags: Which columns are tags, for a new table.
            precision: What timestamps in line protocol mean.
            accept_partial: Whether good lines of line protocol are kept when others are bad.
            no_sync: Whether to return when it is written, before it is synced.

        Raises:
            InvalidRequest: For what can never be accepted.
            Unavailable: For what may be accepted later; nothing of it was kept.
        """
        submission = self._writer.submission(
            data,
            database,
            table=table,
            tags=tags,
            precision=precision,
            accept_partial=accept_partial,
            no_sync=no_sync,
        )
        return self._writer.write(submission)

    async def write_async(
        self,
        data: WriteData | bytes,
        *,
        database: str,
        table: str | None = None,
        tags: Sequence[str] | None = None,
        precision: str | Precision = "nanosecond",
        accept_partial: bool = True,
        no_sync: bool = False,
    ) -> WriteResult:
        """As `write`, for an event loop."""
        submission = self._writer.submission(
            data,
            database,
            table=table,
            tags=tags,
            precision=precision,
            accept_partial=accept_partial,
            no_sync=no_sync,
        )
        return await self._writer.write_async(submission)

    def entering(self, submission: Submission) -> AbstractContextManager[None]:
        """Counts a client's write while it is on its way.

        Raises:
            Unavailable: On entering, if there is no room for it, in memory or on the disk.
        """
        return self._writer.entering(submission)

    def delete_rows(self, database: str, table: str, where: str, *, dry_run: bool = False) -> Erased:
        """Deletes the rows that SQL finds; see `walmill.erase.delete_rows`.

        Args:
            database: Name of the database.
            table: Name of the table.
            where: What comes behind WHERE.
            dry_run: Whether only to count them.

        Raises:
            NotFound: If there is no such database or table.
            InvalidRequest: If the condition is empty or wrong.
            LimitReached: If it finds too many; then none is deleted.
            Conflict: If this engine has no data directory.
        """
        if self._keeper is None:
            raise Conflict("this engine keeps everything in memory; open it with a data_dir to delete rows")
        now = self.options.clock.now_ns()
        if dry_run:
            return count_rows(self._keeper, self._queries, self.view(), database, table, where, now=now)
        try:
            return delete_rows(self._keeper, self._queries, database, table, where, now=now)
        finally:
            catalog = self.view().catalog
            of = catalog.find_table(catalog.find_database(database), table)
            if of is not None:
                self._values.forget(of.id)

    # ---- definitions

    def define(self, decide: Callable[[Draft], Any]) -> Any:
        """Changes definitions, decided in the committer; waits until that is durable and the mill goes by it."""
        value = self.submit(Define(decide)).result().value
        self._mill.wait_until_current()
        return value

    # ---- figures and the end

    @property
    def figures(self) -> Figures:
        """What the committer counts."""
        return self._committer.figures

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of the log, oldest first."""
        return self._wal.segments

    @property
    def blocking_hooks(self) -> list[str]:
        """Async hooks that held the loop for more than 100 ms, as often as they did."""
        return list(self._watch.named)

    def worker_processes(self) -> dict[str, Any]:
        """The processes in which hooks run: `zygote` (a pid, or None), `count`, and `workers` (pid, trigger, whether a run
        is there, whether it is stopped for its share of a processor, and its control group, if it needed one)."""
        return {"zygote": None, "count": 0, "workers": []} if self._processes is None else self._processes.processes()

    @property
    def watchers(self) -> tuple[str, ...]:
        """The names of the plugins that watch runs (`on_run_end`)."""
        return self._mill.ledger.watchers

    @property
    def run_counts(self) -> Mapping[tuple[str, str, str], int]:
        """Runs since the start, by database, trigger and status."""
        return self._mill.ledger.counts

    def close(self, timeout: float | None = None) -> bool:
        """Stops in order: no new writes, runs finish, the log is synced, the lock is released. Safe to call twice.

        Args:
            timeout: Seconds that runs may take; None takes the engine's `shutdown_timeout`.

        Returns:
            Whether all runs finished.
        """
        with self._closing:
            if self._closed:
                return True
            self._closed = True
            self.ready = False
            self._writer.stop()
        self._supply.close()
        self._values.stop()
        self._backfiller.stop(30.0)
        if self._keeper is not None:
            self._keeper.stop(30.0)
        clean = self._mill.stop(self.options.shutdown_timeout if timeout is None else timeout)
        if not self._committer.stop(30.0 if self._committer.delay is None else 1.0):
            self._wal.give_up()
            self._committer.stop(30.0)
        self._mill.end()
        self._watch.stop()
        self._looker.stop()
        self._preparing.set()
        self._preparer.join(5.0)
        self._desk.close()
        self._queries.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._writer.close()
        Capture.uninstall()
        self._release()
        if not clean:
            log.warning("some runs did not end in time and were left behind")
        return clean

    def _release(self) -> None:
        wal = getattr(self, "_wal", None)
        if wal is not None:
            wal.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
