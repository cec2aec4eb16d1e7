"""The desk: every query is noted here, waits its turn, can be stopped, and is remembered for a while."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, Self

from attrs import define, field

from walmill.errors import Unavailable, WalmillError
from walmill.model.catalog import QueryLimits
from walmill.query.errors import QueryStopped, out_of_time

KEPT = 1000
"""So many ended queries are remembered."""
TEXT = 4096
"""So much of a statement is remembered."""

Phase = Literal["waiting", "planning", "running", "ended"]


@define(eq=False)
class Asked:
    """One query, from its arrival to its end. Any thread may look at it and stop it.

    Attributes:
        id: Its number since the start.
        database: The database that it names.
        text: The statement.
        kind: How it was asked: `sql`, `influxql`, `flight`.
        origin: Who asked: a token, `trigger NAME`, or nothing for Python.
        issued: When it came, ns.
        phase: What it is doing.
        rows: Rows given so far.
        files: Files that it reads.
        times: `time.monotonic()` when it came, got its turn, was planned, and ended; as far as it came.
        error: Why it failed.
        cancelled: Whether it was stopped before its end.
        limits: Of who asks.
    """

    id: int
    database: str
    text: str
    kind: str
    origin: str
    issued: int
    phase: Phase = "waiting"
    rows: int = 0
    files: int = 0
    times: list[float] = field(factory=list)
    error: str | None = None
    cancelled: bool = False
    limits: QueryLimits | None = None
    _desk: Desk | None = None
    _stop: Callable[[], None] | None = None
    _guard: threading.Lock = field(factory=threading.Lock)

    def cancel(self) -> None:
        """Stops it, wherever it is; nothing happens to one that has ended."""
        with self._guard:
            if self.phase == "ended":
                return
            self.cancelled = True
            stop, desk = self._stop, self._desk
        if desk is not None:
            desk.wake()
        if stop is not None:
            stop()

    def allowed(self, timeout: float | None) -> float | None:
        """Seconds that it may take: `timeout`, or less if who asks may not ask for so long."""
        theirs = None if self.limits is None else self.limits.timeout
        if theirs is None:
            return timeout
        return theirs / 1e9 if timeout is None else min(timeout, theirs / 1e9)

    def left(self, timeout: float | None) -> float | None:
        """Seconds that are left of what it may take."""
        return None if timeout is None else max(0.001, timeout - (time.monotonic() - self.times[0]))

    def check(self) -> None:
        """Ends it here if it was stopped.

        Raises:
            QueryStopped: Saying so.
        """
        if self.cancelled:
            raise QueryStopped(f"the query {self.id} was cancelled")

    def planned(self, files: int) -> None:
        """It is planned and begins to run."""
        self.files = files
        self.phase = "running"
        self.times.append(time.monotonic())
        self.check()

    def started(self, stop: Callable[[], None]) -> None:
        """Says how what runs is stopped."""
        with self._guard:
            self._stop = stop
            cancelled = self.cancelled
        if cancelled:
            stop()

    def end(self, error: BaseException | None = None) -> None:
        """It has ended: its place is free. A second call does nothing."""
        with self._guard:
            if self.phase == "ended":
                return
            self.phase, self._stop = "ended", None
            self.times.append(time.monotonic())
            if error is not None:
                self.error = error.message if isinstance(error, WalmillError) else str(error)
                self.cancelled = self.cancelled or isinstance(error, QueryStopped)
            desk, self._desk = self._desk, None
        if desk is not None:
            desk.leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


class Desk:
    """All queries of an engine.

    Args:
        most: So many run at a time; the others wait for their turn, in the order in which they came.
        queue: So many wait; a further one is put off.
        now: Gives the time, ns.
    """

    def __init__(self, most: int, queue: int, now: Callable[[], int]) -> None:
        self._most = most
        self._queue = queue
        self._now = now
        self._numbers = itertools.count(1)
        self._turn = threading.Condition()
        self._waiting: deque[Asked] = deque()
        self._running: dict[int, Asked] = {}
        self._ended: deque[Asked] = deque(maxlen=KEPT)
        self._closed = False

    def ask(
        self, database: str, text: str, *, kind: str = "sql", origin: str = "", limits: QueryLimits | None = None
    ) -> Asked:
        """Notes a query that came; it has no place yet."""
        return Asked(
            next(self._numbers),
            database,
            text[:TEXT],
            kind,
            origin,
            self._now(),
            times=[time.monotonic()],
            limits=limits,
        )

    def enter(self, asked: Asked, timeout: float | None, *, waits: bool = True) -> None:
        """Waits until it is its turn.

        Args:
            asked: From `ask`.
            timeout: Seconds that it may take, from its arrival on.
            waits: Whether it has to wait; else it runs at once, whatever else does.

        Raises:
            Unavailable: If too many wait.
            QueryTimeout: If its time is over before its turn.
            QueryStopped: If it was cancelled, or the engine closes.
        """
        deadline = None if timeout is None else asked.times[0] + timeout
        with self._turn:
            if not waits:
                self._may_wait(asked, deadline, timeout)
                self._begin(asked)
                return
            if len(self._running) >= self._most and len(self._waiting) >= self._queue:
                raise Unavailable(
                    f"{len(self._running)} queries run and {len(self._waiting)} wait for their turn (query_concurrency, "
                    "query_queue); send it again later",
                    retry_after=1,
                )
            asked._desk = self
            self._waiting.append(asked)
            try:
                while not (self._waiting[0] is asked and len(self._running) < self._most):
                    self._may_wait(asked, deadline, timeout)
                    self._turn.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                self._may_wait(asked, deadline, timeout)
            except BaseException:
                self._waiting.remove(asked)
                self._turn.notify_all()
                raise
            self._waiting.popleft()
            self._begin(asked)
            self._turn.notify_all()

    def _begin(self, asked: Asked) -> None:
        asked._desk = self
        self._running[asked.id] = asked
        asked.phase = "planning"
        asked.times.append(time.monotonic())

    def _may_wait(self, asked: Asked, deadline: float | None, timeout: float | None) -> None:
        asked.check()
        if self._closed:
            raise QueryStopped("the engine is closing and takes no more queries")
        if deadline is not None and time.monotonic() >= deadline:
            raise out_of_time(timeout)

    def wake(self) -> None:
        """Somebody who waits was stopped."""
        with self._turn:
            self._turn.notify_all()

    def leave(self, asked: Asked) -> None:
        """A query has ended."""
        with self._turn:
            self._running.pop(asked.id, None)
            self._ended.append(asked)
            self._turn.notify_all()

    def cancel(self, number: int) -> bool:
        """Stops a query; False if none of that number waits or runs."""
        found = next((one for one in self.open() if one.id == number), None)
        if found is not None:
            found.cancel()
        return found is not None

    def open(self) -> list[Asked]:
        """The queries that wait or run, in the order in which they came."""
        with self._turn:
            return sorted([*self._waiting, *self._running.values()], key=lambda one: one.id)

    def all(self) -> list[Asked]:
        """The queries that wait or run, and the last ones that have ended."""
        with self._turn:
            return sorted([*self._ended, *self._waiting, *self._running.values()], key=lambda one: one.id)

    def close(self) -> None:
        """Lets nobody wait any more."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()


def shown(one: Asked) -> dict[str, Any]:
    """A query as plain data; durations in seconds, as far as it came."""
    times = [*one.times, *([] if one.phase == "ended" else [time.monotonic()])]
    steps = [later - earlier for earlier, later in pairwise(times)]
    waited, planned, ran = ([*steps, None, None, None])[:3]
    if (
        one.phase == "ended" and len(times) < 4
    ):  # it came no further: its last step is not the one that it would have been
        planned, ran = (steps[1] if len(steps) > 1 else None), None
    return {
        "id": one.id,
        "phase": one.phase
        if one.phase != "ended"
        else "success"
        if one.error is None and not one.cancelled
        else "fail",
        "issue_time": one.issued,
        "query_type": one.kind,
        "query_text": one.text,
        "database": one.database,
        "origin": one.origin,
        "files": one.files,
        "rows": one.rows,
        "permit_seconds": waited,
        "plan_seconds": planned,
        "execute_seconds": ran,
        "seconds": times[-1] - times[0],
        "success": None if one.phase != "ended" else one.error is None and not one.cancelled,
        "running": one.phase != "ended",
        "cancelled": one.cancelled,
        "error": one.error,
    }
