"""The committer: the one thread that changes anything.

It takes what has queued, decides on each submission against everything decided before it, writes one frame, syncs it,
publishes the view, wakes the mill, and then answers. An answer never waits for a plugin, and no plugin runs here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import structlog
from attrs import define, field, frozen

from walmill.clock import Clock
from walmill.errors import Internal, Superseded, Unavailable, WalmillError
from walmill.model.cursor import Cursor
from walmill.scarcity import scarce
from walmill.store.commit import Commit, from_entry, to_entry
from walmill.store.draft import Draft
from walmill.store.lines import LineWrite, prepare_together, together
from walmill.store.submission import Exchange, Flush, Outcome, RowsWrite, Submission, Ticket, Written, settle_all
from walmill.store.view import View
from walmill.wal.entry import Entry
from walmill.wal.frame import check_entry
from walmill.wal.log import Log

FRAME_BYTES = 8 * 2**20
"""A frame gathers about this much, unless one commit alone is larger."""
MOVE_SECONDS = 1.0
"""Cursors that moved without a commit are written at most this much later."""

YIELD_SECONDS = 5e-5
"""How long the committer leaves the interpreter to the hooks that it woke, before it goes on to the next frame."""

COMPANY_BYTES = 64 * 2**10
"""Submissions up to this size wait for company: a larger one costs more by itself than a frame does."""
COMPANY_SECONDS = 0.004
"""At most so long a frame waits for as many small submissions as the one before it had, and only if that was just now."""
COMPANY_GAP_SECONDS = 0.002
"""Nobody came for so long: no more are expected."""
COMPANY_STALE_SECONDS = 0.05
"""After a pause of so long, what the last frame had says nothing about who comes now."""

log = structlog.get_logger("walmill.committer")


@frozen
class Published:
    """What the committer tells the mill after a sync.

    Attributes:
        view: The new view.
        commits: The commits that it has and the one before had not, in order; their rows lie in the log's mapping.
        moves: Cursors that are durable now though no commit moved them.
        at: `time.perf_counter_ns()` right after the sync.
    """

    view: View
    commits: tuple[Commit, ...]
    moves: Mapping[int, Cursor]
    at: int


@define
class _Item:
    submission: Submission
    ticket: Ticket
    due: float = 0.0


@define
class _Decided:
    """A commit with its form in the log, or none, and what those who asked for it are told."""

    commit: Commit | None
    entry: Entry | None
    answers: Sequence[tuple[_Item, object]]

    def outcomes(self, *, early: bool | None = None) -> list[tuple[Ticket, Outcome]]:
        """The answers; only those with `no_sync` if `early`."""
        sequence = None if self.commit is None else self.commit.sequence
        return [
            (item.ticket, Outcome(None if isinstance(value, Written) and not value.rows else sequence, value))
            for item, value in self.answers
            if early is None or item.submission.no_sync == early
        ]

    def failed(self, error: WalmillError, *, clients: bool = False) -> list[tuple[Ticket, Outcome]]:
        """The same error for all of them; only for writes of clients if `clients`."""
        return [
            (item.ticket, Outcome(error=error))
            for item, _ in self.answers
            if not clients or _is_client(item.submission)
        ]


@define
class Figures:
    """What the committer counts; read by `/metrics`.

    Attributes:
        frames: Frames written.
        commits: Commits written.
        rows: Rows written.
        failures: Frames that could not be written or synced.
        sync_ns: How long the newest syncs took, ns.
        sync_total_ns: How long all syncs took together, ns; there is one for each frame.
    """

    frames: int = 0
    commits: int = 0
    rows: int = 0
    failures: int = 0
    sync_ns: deque[int] = field(factory=lambda: deque(maxlen=4096))
    sync_total_ns: int = 0


class Committer:
    """Owns the log and everything that changes.

    Args:
        wal: The log, replayed.
        view: The view after the replay.
        clock: For commit times.
        publish: Called in the committer's thread after each sync, before the answers; it must not block. Says whether hooks
            were woken.
        prepare: Called right before each sync with the view, the commits and the moved cursors of the frame, so that the
            mill can get ready while the disk works; with no commits if the sync failed after all. It must not block, and
            nothing of it may be shown to anybody before `publish`.
        flush_interval: Seconds by which a frame may wait for others; 0 commits at once when idle.
        superseded: Called when the log is not this process's any more.

    Attributes:
        view: The newest view: all of it is durable.
        figures: What was counted.
        delay: Why nobody knows whether the newest frame is durable; None while all is well.
    """

    def __init__(
        self,
        wal: Log,
        view: View,
        clock: Clock,
        publish: Callable[[Published], bool],
        *,
        prepare: Callable[[View, Sequence[Commit], Mapping[int, Cursor]], None] = lambda view, commits, moves: None,
        flush_interval: float = 0.0,
        superseded: Callable[[Superseded], None] = lambda error: None,
    ) -> None:
        self._wal = wal
        self._clock = clock
        self._publish = publish
        self._prepare = prepare
        self._interval = flush_interval
        self._superseded = superseded
        self.delay: str | None = None
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._held: deque[_Item] = deque()
        self._lazy: list[_Item] = []
        self._moves: dict[int, _Move] = {}
        self._flush_asked = False
        self._moves_lock = threading.Lock()
        self._decided = view
        self._stopping = False
        self._closed = False
        self._gate = threading.Lock()
        self._last_flush = 0.0
        self._company = 0
        self.view = view
        self.figures = Figures()
        self._thread = threading.Thread(target=self._run, name="walmill-committer", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, submission: Submission, ticket: Ticket | None = None) -> Ticket:
        """Queues a submission; from any thread.

        Args:
            submission: What to commit.
            ticket: How it is answered; a ticket for a thread if None.

        Raises:
            Unavailable: If the engine is shutting down.
        """
        mine = ticket if ticket is not None else Ticket()
        with self._gate:
            if self._stopping:
                raise Unavailable("the engine is shutting down; send it again when it is back", retry_after=5)
            due = time.monotonic() + submission.lazy if submission.lazy else 0.0
            self._queue.put(_Item(submission, mine, due))
        return mine

    def move(self, trigger: int, cursor: Cursor, generation: int | None = None) -> None:
        """Notes that a cursor moved without a commit; written with the next frame, or a second later; from any thread.

        Args:
            trigger: Its trigger.
            cursor: Where it is.
            generation: Of the trigger that was run; when the trigger has another one by then, this does not count, nor does it
                if a run of a newer one has moved the cursor already.
        """
        with self._moves_lock:
            self._moves[trigger] = _newer(self._moves.get(trigger), (cursor, generation))
        self._ask_flush()

    def stop(self, timeout: float | None = None) -> bool:
        """Commits what has queued, writes the cursors, and ends the thread; says whether it ended in time."""
        with self._gate:
            if not self._stopping:
                self._stopping = True
                self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            items = self._take()
            if items:
                self._flush(items)
            # while nobody writes, nothing of the last frame may keep maps of the log, and with them space on the disk
            del items
            if self._closed and not self._held:
                break
        rest = list(self._lazy)
        self._lazy.clear()
        if rest or self._moves:
            self._flush(rest)

    def _take(self) -> list[_Item]:
        """What goes into the next frame: waits until there is something that wants one."""
        taken: list[_Item] = []
        size = small = 0
        patience = 0.0
        while not self._closed or self._held:
            item = self._next(block=not taken and not self._held)
            if item is None and small == len(taken) and 0 < small < self._company and not self._closed:
                # Senders that wait for their answers come back together; a frame for the first of them alone costs as much
                # as one for all.
                now = time.monotonic()
                patience = patience or (
                    now if now - self._last_flush > COMPANY_STALE_SECONDS else now + COMPANY_SECONDS
                )
                if now < patience:
                    item = self._next(block=True, timeout=min(COMPANY_GAP_SECONDS, patience - now))
            if item is None:
                break
            if item.submission.lazy and item.due > time.monotonic():
                self._lazy.append(item)
                continue
            taken.append(item)
            size += item.submission.size
            small += item.submission.size <= COMPANY_BYTES
            if size >= FRAME_BYTES:
                break
            if len(taken) == 1 and self._interval:
                self._linger()
        if taken:
            self._company = small if small == len(taken) else 0
        now = time.monotonic()
        taken += [item for item in self._lazy if item.due <= now]
        self._lazy = [item for item in self._lazy if item.due > now]
        return taken

    def _next(self, *, block: bool, timeout: float | None = None) -> _Item | None:
        if self._held:
            return self._held.popleft()
        try:
            if timeout is not None:
                item = self._queue.get(timeout=timeout)
            elif block:
                due = min((item.due for item in self._lazy), default=None)
                item = self._queue.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            else:
                item = self._queue.get_nowait()
        except queue.Empty:
            return None
        if item is None:
            self._closed = True
            while not self._queue.empty():
                rest = self._queue.get_nowait()
                if rest is not None:
                    self._held.append(rest)
            return self._held.popleft() if self._held else None
        return item

    def _linger(self) -> None:
        wait = self._last_flush + self._interval - time.monotonic()
        if wait > 0 and not self._stopping:
            time.sleep(wait)

    def _flush(self, items: list[_Item]) -> None:
        """Decides, writes, syncs, publishes, wakes, answers."""
        answers: list[tuple[Ticket, Outcome]] = []
        if any(isinstance(item.submission, Exchange) for item in items):
            items = self._exchange(items, answers)
        with self._moves_lock:
            taken, self._moves = self._moves, {}
            if any(isinstance(item.submission, Flush) for item in items):
                self._flush_asked = False
        before = self._decided
        now = max(before.time, self._clock.now_ns())
        there = before.catalog.triggers
        moves = {
            trigger: cursor
            for trigger, (cursor, generation) in taken.items()
            if trigger in there and generation in (None, there[trigger].generation)
        }
        self._decided = before.move_cursors(moves)
        decided = list(self._decide_all(items, now, answers))
        commits = [one.commit for one in decided if one.commit is not None]
        if commits or moves:
            try:
                published = self._write(commits, moves, now, decided)
            except Exception as error:  # noqa: BLE001 - whatever happened, nothing of it is published and all are told
                self._decided = before
                self.figures.failures += 1
                self._keep_moves(taken)
                refusal = self._refusal(error)
                answers += [answer for one in decided for answer in one.failed(refusal)]
                settle_all(answers)
                if isinstance(error, Superseded):
                    self._superseded(error)
                return
            woken = self._publish(published)
            # The mill waits for the interpreter's lock: let it run its hooks before the answers are sent.
            time.sleep(YIELD_SECONDS if woken else 0)
        answers += [answer for one in decided for answer in one.outcomes()]
        settle_all(answers)

    def _exchange(self, items: list[_Item], answers: list[tuple[Ticket, Outcome]]) -> list[_Item]:
        """Takes over what changed where things lie, and shows it; gives what else there is to do."""
        rest = []
        for item in items:
            if not isinstance(item.submission, Exchange):
                rest.append(item)
                continue
            try:
                self._decided = self.view = item.submission.change(self.view)
            except WalmillError as error:
                answers.append((item.ticket, Outcome(error=error)))
            except Exception as error:
                log.exception("the view could not be exchanged")
                answers.append((item.ticket, Outcome(error=Internal(f"the engine met an error of its own: {error!r}"))))
            else:
                answers.append((item.ticket, Outcome()))
        self._publish(Published(self.view, (), {}, time.perf_counter_ns()))
        return rest

    def _decide_all(
        self, items: Sequence[_Item], now: int, answers: list[tuple[Ticket, Outcome]]
    ) -> Iterator[_Decided]:
        for places in together([item.submission for item in items]):
            group = [items[place] for place in places]
            decided = self._decide_joined(group, now, answers) if len(group) > 1 else None
            if decided is not None:
                yield decided
                continue
            for item in group:
                decided = self._decide(item, now, answers)
                if decided is not None:
                    yield decided

    def _decide(self, item: _Item, now: int, answers: list[tuple[Ticket, Outcome]]) -> _Decided | None:
        draft = Draft(self._decided, now)
        try:
            value = item.submission.prepare(draft)
            decided = self._built(draft, [(item, value)])
        except WalmillError as error:
            answers.append((item.ticket, Outcome(error=error)))
            return None
        except Exception as error:
            short = scarce(error)
            if short is not None:
                answers.append((item.ticket, Outcome(error=short)))
                return None
            log.exception("a submission could not be decided", submission=type(item.submission).__name__)
            answers.append((item.ticket, Outcome(error=Internal(f"the engine met an error of its own: {error!r}"))))
            return None
        return decided

    def _built(self, draft: Draft, answers: Sequence[tuple[_Item, object]]) -> _Decided:
        """The commit of a draft; what comes after it is decided on top of it."""
        commit = draft.build()
        if commit is None:
            return _Decided(None, None, answers)
        entry = to_entry(commit)
        check_entry(entry)  # here, where it is refused alone, and not with the frame and all its neighbours
        self._decided = self._decided.decide(commit)
        return _Decided(commit, entry, answers)

    def _decide_joined(
        self, items: Sequence[_Item], now: int, answers: list[tuple[Ticket, Outcome]]
    ) -> _Decided | None:
        """Many small writes as one commit; None if that does not work, and nothing is decided."""
        draft = Draft(self._decided, now)
        try:
            found = prepare_together([cast(LineWrite, item.submission) for item in items], draft)
            pairs = list(zip(items, found, strict=True))
            decided = self._built(draft, [(item, one) for item, one in pairs if not isinstance(one, WalmillError)])
        except (WalmillError, MemoryError):
            return None
        except Exception:
            log.exception("joined writes could not be decided; they are decided one by one")
            return None
        answers += [(item.ticket, Outcome(error=one)) for item, one in pairs if isinstance(one, WalmillError)]
        return decided

    def _write(
        self, commits: list[Commit], moves: Mapping[int, Cursor], now: int, decided: Sequence[_Decided]
    ) -> Published:
        notes = {"cursors": {str(trigger): cursor.to_json() for trigger, cursor in moves.items()}} if moves else {}
        receipt = self._wal.append([one.entry for one in decided if one.entry is not None], notes, now)
        early = [answer for one in decided for answer in one.outcomes(early=True)]
        if early:
            settle_all(early)
        frame = self._wal.mapped(receipt)
        durable = [
            from_entry(entry, frame.first_sequence + place, frame.commit_time)
            if commit.rows or commit.given
            else commit
            for place, (entry, commit) in enumerate(zip(frame.entries, commits, strict=True))
        ]
        view = self._decided.store_rows(durable)
        if durable:
            self._prepare(view, durable, moves)
        started = time.perf_counter_ns()
        try:
            self._wal.sync(lambda why: self._delayed(why, decided))
        except BaseException:
            self._prepare(view, (), {})
            self.delay = None
            raise
        at = time.perf_counter_ns()
        self.figures.sync_ns.append(at - started)
        self.figures.sync_total_ns += at - started
        self.figures.frames += 1
        self.figures.commits += len(commits)
        self.figures.rows += sum(commit.num_rows for commit in commits)
        self._last_flush = time.monotonic()
        self._decided = self.view = view
        if self.delay is not None:  # only now: who sees that all is well sees what was kept as well
            self.delay = None
            log.info("the log answers again")
        return Published(view, tuple(durable), moves, at)

    def _delayed(self, why: WalmillError, decided: Sequence[_Decided]) -> None:
        """Tells clients that wait; what is in the frame may be kept or not, and what is behind it is not. The rest waits on."""
        if self.delay is None:
            log.warning("the log does not answer: it is tried again", error=why.message)
        self.delay = f"the log does not answer ({why.message})"
        unknown = Unavailable(
            f"{self.delay}; it is not known whether this write is kept: send it again, the same rows change nothing",
            retry_after=5,
        )
        answers = [answer for one in decided for answer in one.failed(unknown, clients=True)]
        waiting, self._held = list(self._held), deque()
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._closed = True
            else:
                waiting.append(item)
        refusal = Unavailable(f"{self.delay}; nothing of this write was kept, send it again later", retry_after=5)
        for item in waiting:
            if _is_client(item.submission):
                answers.append((item.ticket, Outcome(error=refusal)))
            else:
                self._held.append(item)
        settle_all(answers)

    def check(self) -> None:
        """Whether a write has a chance now.

        Raises:
            Unavailable: If the log does not answer.
        """
        delay = self.delay
        if delay is not None:
            raise Unavailable(f"{delay}; nothing of this write was kept, send it again later", retry_after=5)

    def _keep_moves(self, moves: Mapping[int, _Move]) -> None:
        with self._moves_lock:
            for trigger, move in moves.items():
                since = self._moves.get(trigger)
                self._moves[trigger] = move if since is None else _newer(move, since)
            if not self._moves:
                return
        if not self._stopping:
            self._ask_flush()

    def _ask_flush(self) -> None:
        """Has the moved cursors written in a second, if no frame takes them along before."""
        with self._moves_lock:
            if self._flush_asked:
                return
            self._flush_asked = True
        self._queue.put(_Item(Flush(lazy=MOVE_SECONDS), Ticket(), time.monotonic() + MOVE_SECONDS))

    def _refusal(self, error: Exception) -> WalmillError:
        if isinstance(error, Superseded):  # the server ends: another one will take what is sent again
            return Unavailable(error.message, retry_after=5)
        if isinstance(error, WalmillError):
            log.warning("a frame could not be written", error=error.message)
            return error
        log.error("a frame could not be written", error=repr(error))
        short = scarce(error)
        if short is not None:
            return short
        if isinstance(error, OSError):
            return Unavailable(
                f"the log could not be written ({error.strerror or error}); nothing of this write was kept, send it again",
                retry_after=5,
            )
        return Internal(f"the engine met an error of its own while writing the log: {error!r}")


def _is_client(submission: Submission) -> bool:
    """Whether a client waits for it: it can be told to send it again."""
    return isinstance(submission, LineWrite) or (isinstance(submission, RowsWrite) and submission.source == "client")


_Move = tuple[Cursor, int | None]
"""Where a cursor is without a commit, and of which generation of its trigger the run was."""


def _newer(before: _Move | None, move: _Move) -> _Move:
    """Of two moves the later one, unless its run was of a generation that the other one had followed: such a run may end late."""
    if before is None or before[1] is None or move[1] is None or move[1] >= before[1]:
        return move
    return before
