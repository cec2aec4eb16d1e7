"""The mill: a thread with an event loop of its own that carries out what consumers, schedules, requests and sources ask.

It learns of durable commits from the committer, hands them to the consumers of the triggers that they concern, ticks the
schedules, and runs inline async hooks. No hook runs in the committer, and none on the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Executor as Pool
from typing import TYPE_CHECKING, Any

from walmill.clock import Clock
from walmill.context.local import CachedValues, Limits
from walmill.dispatch.backlog import COUNT_SECONDS, catch_up, fetch, items_of
from walmill.dispatch.consumer import Item
from walmill.dispatch.history import RunRow
from walmill.dispatch.ledger import Ledger
from walmill.dispatch.requests import Exchange, RequestDesk
from walmill.dispatch.schedules import Schedules
from walmill.dispatch.services import ServiceDesk
from walmill.dispatch.snapshots import SnapshotDesk
from walmill.dispatch.station import Station, StationHost
from walmill.dispatch.subscriptions import Subscriptions, Triggers
from walmill.dispatch.thread import LoopThread
from walmill.dispatch.waiting import Waiting, hindrance
from walmill.dispatch.writes import WriteLine
from walmill.errors import NotFound, Unavailable, WalmillError
from walmill.isolation.base import Executor, Gate
from walmill.isolation.batch import BatchSource
from walmill.model.cursor import Cursor
from walmill.model.files import DataFile
from walmill.model.trigger import Trigger
from walmill.observe.log import get_logger
from walmill.plugins.registry import Registry
from walmill.store.commit import Commit
from walmill.store.committer import Committer, Published
from walmill.store.draft import Draft
from walmill.store.submission import Define, Flush, Submission, Ticket
from walmill.store.view import View
from walmill.triggers.manage import disable_trigger, pause_trigger
from walmill.triggers.spec import parse_spec
from walmill.wal.log import Log
from walmill_worker.replies import Answer

if TYPE_CHECKING:
    import pyarrow as pa

    from walmill.query.results import ResultStream

PREPARED_RUNS = 16
"""So many runs are made ready while the disk syncs; more would hold the interpreter and with it the writers' answers."""
CURRENT_SECONDS = 1.0
"""A change of definitions is answered after so long even if a hook blocks the loop."""
LEFT_BEHIND_SECONDS = 2.0
"""What cancelling runs and closing plugins may take when the time of a shutdown is over."""

log = get_logger("walmill.mill")
Ask = Callable[[View, str, str, Mapping[str, Any] | None], Any]


class Mill:
    """Dispatches events to triggers.

    Args:
        wal: The log, for what has to be read again.
        registry: The plugins.
        executors: Where hooks run, by name.
        clock: The time.
        query: Runs SQL on a view.
        stream: The same, batch by batch.
        cached: Looks into a cache of values.
        pool: Threads for what async hooks wait for.
        limits: What runs may use.
        plugin_limits: What runs of single plugins may use instead, by plugin and name.
        on_routes: Called with the request triggers whenever they change; on the mill's loop.
        place: Says where a data file is.
    """

    def __init__(
        self,
        *,
        wal: Log,
        registry: Registry,
        executors: Mapping[str, Executor],
        clock: Clock,
        query: Ask,
        stream: Ask,
        cached: Callable[[View, str, CachedValues], pa.Table],
        pool: Pool,
        limits: Limits,
        plugin_limits: Mapping[str, Mapping[str, Any]],
        on_routes: Callable[[Sequence[Trigger], View], None],
        place: Callable[[DataFile], str],
    ) -> None:
        self._wal = wal
        self._registry = registry
        self._executors = executors
        self._clock = clock
        self._query = query
        self._stream = stream
        self._cached = cached
        self._pool = pool
        self._limits = limits
        self._plugin_limits = plugin_limits
        self._on_routes = on_routes
        self.place = place
        self._committer: Committer | None = None
        self._view = View()
        self._generation = -1
        self._triggers = Triggers()
        self._subscriptions = Subscriptions(self._view.catalog)
        self._lines: dict[int, WriteLine] = {}
        self._desks: dict[int, RequestDesk] = {}
        self._services: dict[int, ServiceDesk] = {}
        self._snapshots: dict[int, SnapshotDesk] = {}
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._stations: dict[int, Station] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._memo: dict[Any, BatchSource] = {}
        self._matched: dict[int, list[tuple[int, Item]]] = {}
        self._waiting = Waiting(self, registry, pool)
        self._held: tuple[int, list[Gate]] | None = None
        self._saves: list[Callable[[], None]] = []
        self._stopping = False
        self._blocked = False
        self.ledger = Ledger(self.submit, registry, clock)
        self._schedules: Schedules | None = None
        self._thread = LoopThread("walmill-mill")
        self.loop = self._thread.loop

    # ---- the thread

    def start(self, committer: Committer) -> None:
        """Starts the loop, and the triggers of the committer's view."""
        self._committer = committer
        self._view = committer.view
        self._thread.start()
        self.run(self._begin()).result()

    async def _begin(self) -> None:
        self._schedules = Schedules(self)
        self._refresh(self._view)
        self.loop.run_in_executor(self._pool, self._find_watchers)

    def _find_watchers(self) -> None:
        try:
            self.ledger.find_watchers()
        except Exception as error:  # noqa: BLE001 - a plugin that cannot be bound watches nothing
            if not self._stopping:
                log.warning("a plugin that watches runs could not be bound", error=str(error))

    async def pass_by(self) -> None:
        """Moves the cursors of triggers that nothing concerned lately, so that they hold no log; on the mill's loop."""
        for line in self._lines.values():
            cursor = None if line.prepared else line.consumer.pass_by(self._view.sequence)
            if cursor is not None:
                self.move(line.station.trigger, cursor)

    @property
    def may_wait(self) -> bool:
        """Whether the loop runs, and this thread may wait for what happens there."""
        return self._thread.alive and not self._thread.here and not self._stopping

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the mill's loop; a concurrent future of its result, or of the end of the loop."""
        return self._thread.run(coroutine)

    # ---- what stations need of the engine

    @property
    def pool(self) -> Pool:
        """Threads for what async hooks wait for."""
        return self._pool

    def view(self) -> View:
        """The newest view."""
        assert self._committer is not None
        return self._committer.view

    def submit(self, submission: Submission, ticket: Ticket | None = None) -> Ticket:
        """Queues a submission."""
        assert self._committer is not None
        return self._committer.submit(submission, ticket)

    def query(self, view: View, database: str, sql: str, params: Mapping[str, Any] | None) -> pa.Table:
        """Runs SQL on a view."""
        return self._query(view, database, sql, params)

    def stream(self, view: View, database: str, sql: str, params: Mapping[str, Any] | None) -> ResultStream:
        """Runs SQL on a view, batch by batch."""
        found: ResultStream = self._stream(view, database, sql, params)
        return found

    def cached(self, view: View, database: str, asked: CachedValues) -> pa.Table:
        """What a cache of values has."""
        return self._cached(view, database, asked)

    def now_ns(self) -> int:
        """Wall-clock time, ns."""
        return self._clock.now_ns()

    def move(self, trigger: Trigger, cursor: Cursor) -> None:
        """Notes that a cursor moved without a commit."""
        assert self._committer is not None
        self._committer.move(trigger.id, cursor, trigger.generation)

    def record(self, row: RunRow) -> None:
        """Takes what became of a run."""
        self.ledger.record(row)

    def say(self, database: str, trigger: str, run_id: str, level: str, text: str) -> None:
        """Takes a line that a run said."""
        self.ledger.say(database, trigger, run_id, level, text)

    def disable(self, trigger: Trigger, reason: str, traceback: str) -> None:
        """Has a trigger disabled, with a commit."""

        def decide(draft: Draft) -> None:
            disable_trigger(draft, trigger.id, trigger.generation, reason, traceback)

        log.error("a trigger is disabled", trigger=trigger.name, reason=reason)
        try:
            self.submit(Define(decide))
        except Unavailable:
            log.warning("the engine stops before the trigger was disabled", trigger=trigger.name)

    def pause(self, trigger: Trigger, reason: str) -> None:
        """Has a trigger paused, with a commit."""

        def decide(draft: Draft) -> None:
            pause_trigger(draft, trigger.id, trigger.generation, reason[:4096])

        log.error("a trigger is paused", trigger=trigger.name, reason=reason)
        try:
            self.submit(Define(decide))
        except Unavailable:
            log.warning("the engine stops before the trigger was paused", trigger=trigger.name)

    def save(self, failed: Callable[[], None]) -> None:
        """Has the cursors that moved written now: one frame for all that ask in the same round of the loop."""
        self._saves.append(failed)
        if len(self._saves) == 1:
            self.keep(self._save())

    async def _save(self) -> None:
        asking, self._saves = self._saves, []
        try:
            await self.submit(Flush(), Ticket(self.loop))
        except WalmillError as error:
            await asyncio.sleep(error.retry_after if isinstance(error, Unavailable) else 1.0)
            for failed in asking:
                failed()

    def tables_of(self, trigger: Trigger, tables: Sequence[int]) -> frozenset[int]:
        """Which of these tables concern a trigger."""
        return self._subscriptions.tables_of(trigger, tables)

    def batch_memo(self) -> dict[Any, BatchSource]:
        """Batches built for this round."""
        if len(self._memo) > 64:
            self._memo.clear()
        return self._memo

    def fetch(self, trigger: Trigger, sequence: int) -> tuple[list[Item], int | None]:
        """Commits for a trigger from the log: some of them, and where to go on."""
        return fetch(self._wal, self._subscriptions, trigger, sequence, self._view.sequence)

    # ---- commits

    def published(self, published: Published) -> bool:
        """From the committer's thread: commits are durable. Says whether triggers may concern themselves with them."""
        held = self._held
        if held is not None and published.commits and held[0] == published.commits[-1].sequence:
            for gate in held[1]:
                gate.fire(published.at)
        try:
            self.loop.call_soon_threadsafe(self._published, published)
        except RuntimeError:  # the loop is closed: the log has it, and the next start will find it
            return False
        return bool(self._lines) and any(commit.rows or commit.given for commit in published.commits)

    def wait_until_current(self) -> None:
        """Waits until the mill has seen what is published: routes are swapped then, stations made. From any thread.

        A hook that blocks the loop is not waited for: what was asked is durable, and takes effect once the loop is free.
        """
        if self._thread.here:
            return
        seen = threading.Event()
        try:
            self.loop.call_soon_threadsafe(seen.set)  # after `_published`, which was called before any answer
        except RuntimeError:
            return
        seen.wait(CURRENT_SECONDS)

    def prepare(self, view: View, commits: Sequence[Commit], moves: Mapping[int, Cursor]) -> None:
        """From the committer's thread: these commits are being synced; without commits: they failed after all."""
        if self._lines and (not commits or any(commit.rows for commit in commits)):
            try:
                self.loop.call_soon_threadsafe(self._prepare, view, commits, moves)
            except RuntimeError:
                return

    def _prepare(self, view: View, commits: Sequence[Commit], moves: Mapping[int, Cursor]) -> None:
        """Makes runs ready while the disk works, for triggers that one of these commits concerns."""
        self._memo.clear()
        self._matched.clear()
        if not commits:
            for line in self._lines.values():
                line.unprepare()
            return
        if view.catalog.generation != self._generation:
            return
        found: dict[int, Item | None] = {}
        for commit in commits:
            items = self._matched[commit.sequence] = self._items(commit)
            for trigger, item in items:
                found[trigger] = None if trigger in found else item
        gates = []
        for trigger, single in itertools.islice(found.items(), PREPARED_RUNS):
            if single is not None:
                gate = self._lines[trigger].prepare(single, view, moves.get(trigger))
                if gate is not None:
                    gates.append(gate)
        # their runs get as far as they can before the committer may look for them
        self.loop.call_soon(self._hold, commits[-1].sequence, gates)

    def _hold(self, sequence: int, gates: list[Gate]) -> None:
        self._held = (sequence, gates)

    def _published(self, published: Published) -> None:
        self._view = published.view
        if published.view.catalog.generation != self._generation:
            self._matched.clear()
            self._refresh(published.view, [one for commit in published.commits for one in commit.definitions])
        woken: dict[int, WriteLine] = {}
        for commit in published.commits:
            items = self._matched.pop(commit.sequence, None)
            for trigger, item in self._items(commit) if items is None else items:
                line = self._lines.get(trigger)
                if line is not None and line.offer(item, published.at, published.moves.get(trigger)):
                    woken[trigger] = line
        for trigger, cursor in published.moves.items():
            moved = self._lines.get(trigger)
            if moved is not None:
                moved.saved(cursor)
        for line in woken.values():
            line.step()

    def _items(self, commit: Commit) -> list[tuple[int, Item]]:
        """What a commit is for the triggers that it concerns."""
        if not (commit.rows or commit.given) or not self._lines:
            return []
        return [pair for pair in items_of(commit, self._subscriptions) if pair[0] in self._lines]

    # ---- triggers

    def _refresh(self, view: View, definitions: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Starts, stops and replaces stations so that they are those of the catalog."""
        catalog = view.catalog
        self._generation = catalog.generation
        self._triggers.follow(catalog, definitions)
        triggers = self._triggers.by_id
        self._subscriptions = Subscriptions(catalog, triggers.values())
        assert self._schedules is not None
        for number, station in list(self._stations.items()):
            now = triggers.get(number)
            if now is None or now.generation != station.trigger.generation:
                self._retire(station, "the trigger was changed" if now is not None else "the trigger was deleted")
        if self._stopping:
            return
        fresh: list[int] = []
        starts = not self._stations
        for trigger in triggers.values():
            if trigger.enabled and trigger.id not in self._stations:
                self._open(trigger, view)
                fresh.append(trigger.id)
        lines = [self._lines[number] for number in fresh if number in self._lines]
        if lines:
            # while the engine runs, the hooks of others do not wait for a count
            seconds = COUNT_SECONDS if starts else 0.0
            catch_up(self._wal, self._subscriptions, lines, view.sequence, seconds=seconds)
            for line in lines:
                line.step()
        self._on_routes([desk.station.trigger for desk in self._desks.values()], view)
        self._schedules.arm()

    def plugins_changed(self, names: Collection[str]) -> None:
        """From any thread: plugins were registered, or have changed, come or gone. Runs under way end as they began."""
        if self._thread.alive:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._waiting.changed, frozenset(names))
                self._pool.submit(self._find_watchers)

    def blocked(self) -> None:
        """A trigger cannot run because its plugin cannot be bound."""
        self._waiting.blocked()

    @property
    def stations(self) -> Collection[Station]:
        """See `WaitingHost`."""
        return self._stations.values()

    @property
    def stopping(self) -> bool:
        """See `WaitingHost`."""
        return self._stopping

    def start_anew(self, stations: Collection[Station]) -> None:
        """See `WaitingHost`."""
        for station in stations:
            self._retire(station, "its plugin is here now")
        self._refresh(self._view)

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs something that the end of the mill waits for; on the loop."""
        task = self.loop.create_task(coroutine)
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def station(self, trigger: Trigger, database: str, host: StationHost, *, dry: bool = False) -> Station:
        """What performs the runs of a trigger; from any thread.

        Args:
            trigger: The trigger.
            database: Name of its database.
            host: The engine, or what stands for it.
            dry: Whether the host keeps nothing of what they commit.
        """

        def hide() -> Mapping[str, Any]:
            try:
                return self._registry.inspect(trigger.plugin).hide_secrets(trigger.arguments)
            except NotFound:
                return dict.fromkeys(trigger.arguments, "***")

        limits = self._limits.with_named(self._plugin_limits.get(trigger.plugin, {})).with_named(trigger.limits)
        executor = self._executors.get(trigger.executor)
        if executor is None:  # made on a machine that could do more than this one
            log.warning("this machine lacks the trigger's executor", trigger=trigger.name, executor=trigger.executor)
            executor = self._executors["inline"]
        return Station(trigger, parse_spec(trigger.spec), database, host, executor, limits, hide, dry=dry)

    def _open(self, trigger: Trigger, view: View) -> None:
        station = self.station(trigger, view.catalog.databases[trigger.database_id].name, self)
        spec = station.spec
        station.blocked = hindrance(self._registry.peek(trigger.plugin), trigger, spec)
        self._stations[trigger.id] = station
        cursor = view.cursors.get(trigger.id) or Cursor()
        if spec.kind == "write":
            self._lines[trigger.id] = WriteLine(station, cursor, self)
        elif spec.kind == "schedule":
            assert self._schedules is not None
            self._schedules.add(station, cursor)
        elif spec.kind == "service":
            self._services[trigger.id] = ServiceDesk(station, self, self._leaving.pop(trigger.id, None))
        elif spec.kind == "snapshot":
            self._snapshots[trigger.id] = SnapshotDesk(station, self, self._leaving.pop(trigger.id, None))
        else:
            self._desks[trigger.id] = RequestDesk(
                station, lambda reason, traceback: self.disable(trigger, reason, traceback)
            )

    def _retire(self, station: Station, reason: str) -> None:
        number = station.trigger.id
        station.retire()
        self._stations.pop(number, None)
        line = self._lines.pop(number, None)
        if line is not None:
            line.stop()
        self._desks.pop(number, None)
        lasting = self._services.pop(number, None) or self._snapshots.pop(number, None)
        if lasting is not None:
            lasting.stop()
            self._leaving[number] = lasting.task
            lasting.task.add_done_callback(lambda _: self._leaving.pop(number, None))
        assert self._schedules is not None
        self._schedules.remove(number)
        station.cancel(reason)
        self.keep(station.close())

    def files_changed(self) -> None:
        """Rows are in files now that were not: tells the triggers that wait for it; from any thread."""

        def look() -> None:
            for desk in self._snapshots.values():
                desk.look()

        with contextlib.suppress(RuntimeError):  # the loop is closed: the next start looks by itself
            self.loop.call_soon_threadsafe(look)

    # ---- requests, runs by hand, what is asked about triggers

    async def answer(self, trigger: int, exchange: Exchange) -> Answer:
        """Answers a request; on the mill's loop."""
        desk = self._desks.get(trigger)
        if desk is None:
            raise NotFound("there is no trigger for this path any more")
        return await desk.handle(exchange)

    async def next_piece(self, stream: AsyncIterator[bytes]) -> bytes | None:
        """The next piece of a streamed answer; None at its end."""
        try:
            return await stream.__anext__()
        except StopAsyncIteration:
            return None

    async def run_now(self, trigger: Trigger, at: int | None) -> dict[str, Any]:
        """Runs a schedule trigger by hand; on the mill's loop."""
        assert self._schedules is not None
        return await self._schedules.run_now(trigger, at)

    def status(self, trigger: int) -> dict[str, Any]:
        """What a trigger is doing: for lists; from any thread.

        Its lag is None as long as it is disabled: which commits are for it is found out when it is enabled.
        """
        station, line = self._stations.get(trigger), self._lines.get(trigger)
        if station is None:
            return {"running": 0, "lag_commits": None, "blocked": None}
        found: dict[str, Any] = {
            "running": len(station.runs),
            "blocked": station.blocked,
            "lag_commits": 0,
            "writing": sum(run.committed_rows for run in list(station.runs.values())),
        }
        if line is not None:
            found["lag_commits"] = line.lag(self._view.sequence)
            found["lag_rows"] = line.consumer.lag_rows
            oldest = line.oldest()
            if oldest is None and line.consumer.behind is not None:
                oldest = self._wal.time_of(line.consumer.behind)
            found["lag_seconds"] = 0.0 if oldest is None else max(0.0, (self.now_ns() - oldest) / 1e9)
            found["waiting_for_retry"] = len(line.consumer.waiting)
        service, desk = self._services.get(trigger), self._snapshots.get(trigger)
        if service is not None:
            found["waiting_for_retry"] = int(service.waits)
        if desk is not None:
            found["waiting_for_retry"] = int(desk.waits)
            found["lag_rows"], found["lag_commits"] = desk.pending()
        assert self._schedules is not None
        due = self._schedules.next_due(trigger)
        if due is not None:
            found["next_due"] = due
        return found

    # ---- the end

    def stop(self, timeout: float) -> bool:
        """Starts nothing more, lets runs finish, then leaves those behind that do not; says whether all finished."""
        if not self._thread.alive:
            return True
        try:
            clean: bool = self.run(self._stop(timeout)).result(timeout + LEFT_BEHIND_SECONDS)
        except TimeoutError:  # a hook blocks the loop itself: nothing that is asked of it will be done
            self._blocked = True
            return False
        return clean

    def end(self) -> None:
        """Ends the loop and its thread; what still runs there is a daemon's business."""
        self._thread.end(0.0 if self._blocked else 2.0)

    async def _stop(self, timeout: float) -> bool:
        self._stopping = True
        self._waiting.stop()
        assert self._schedules is not None
        self._schedules.stop()
        for line in self._lines.values():
            line.stop()
        for service in self._services.values():
            service.stop()
        for desk in self._snapshots.values():
            desk.stop()
        for station in self._stations.values():
            station.retire()
            station.stop_soon()
        until = self.loop.time() + timeout
        clean = await self._drain(until)
        if not clean:
            for station in self._stations.values():
                station.cancel("the engine is shutting down")
            await self._drain(self.loop.time() + 0.5)
        closing = [self.loop.create_task(station.close()) for station in self._stations.values()]
        if closing:
            _, late = await asyncio.wait([*closing, *self._retiring], timeout=max(0.5, until - self.loop.time()))
            for task in late:
                task.cancel()
        for executor in self._executors.values():
            await executor.close()
        return clean

    async def _drain(self, until: float) -> bool:
        while True:
            tasks = [task for station in self._stations.values() for task in station.tasks]
            if not tasks:
                return True
            left = until - self.loop.time()
            if left <= 0:
                return False
            await asyncio.wait(tasks, timeout=left)
