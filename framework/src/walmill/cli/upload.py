"""Sending pieces: one thread reads and cuts, others send, and the caller hears what became of each piece."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

from walmill.cli.checkpoint import Done, Tail
from walmill.cli.connection import CannotReach, Refused
from walmill.cli.pieces import Piece, halves, lines
from walmill.cli.retry import budget, may_be_done, may_pass_later, pause
from walmill.cli.source import Source
from walmill.errors import WalmillError

Send: TypeAlias = Callable[[bytes], None]
_TICK = 0.1


@frozen
class Job:
    """A piece to send.

    Attributes:
        source: What it is of.
        piece: The piece.
        place: How many bytes of the file were read for it, compressed as they are.
    """

    source: Source
    piece: Piece
    place: int = 0


@frozen
class Refusal:
    """What the server never accepts.

    Attributes:
        line: Number of the line in its source.
        message: What is wrong with it.
        text: The line without its end; all lines of the request, if that was refused whole.
        lines: How many lines these are.
    """

    line: int
    message: str
    text: bytes
    lines: int = 1


@frozen
class Answered:
    """A piece is settled: the server answered.

    Attributes:
        job: The piece, without its data.
        done: What a checkpoint keeps of it.
        refusals: What was refused of it.
        untimed: How many of its lines have no timestamp.
    """

    source: Source
    place: int
    done: Done
    refusals: tuple[Refusal, ...]
    untimed: int


@frozen
class Waiting:
    """A request failed, and is sent again in a while.

    Attributes:
        message: Why.
        budget: For how many seconds it is tried.
        twice: Whether lines without timestamp may be written twice by that.
    """

    message: str
    budget: float
    twice: bool


@frozen
class Ended:
    """A source was read to its end.

    Attributes:
        source: The source.
        pieces: How many pieces there were; each has an answer of its own, before or after this.
    """

    source: Source
    pieces: int


Event: TypeAlias = Answered | Waiting | Ended


class Stopped(WalmillError):
    """A piece was not sent, because everything is to stop."""


class Upload:
    """Sends pieces with a number of requests at a time. It holds at most twice as many pieces, and two.

    Args:
        send: Writes a body; raises as `Client.write`. Called from several threads at a time.
        parallel: How many requests are under way at most.
        retry_for: For how many seconds a request is tried again; None for what is usual.
        whole: Whether a request with a bad line is refused whole.
    """

    def __init__(self, send: Send, *, parallel: int = 1, retry_for: float | None = None, whole: bool = False) -> None:
        self._send = send
        self._parallel = parallel
        self._retry_for = retry_for
        self._whole = whole
        self._jobs: queue.Queue[Job | None] = queue.Queue(parallel)
        self._events: queue.Queue[Event | BaseException | None] = queue.Queue()
        self._stopping = threading.Event()
        self._reached = False

    def stop(self) -> None:
        """Sends nothing more; requests under way get their answers."""
        self._stopping.set()

    def run(self, jobs: Iterable[Job | Ended]) -> Iterator[Event | None]:
        """Sends.

        Args:
            jobs: The pieces, and the ends of the sources; read in a thread of its own.

        Yields:
            What happens, in the order in which it does, and None from time to time when nothing does.

        Raises:
            WalmillError, OSError: What went wrong first, after all that can be known is told: a source that cannot be read,
                a server that does not want it, or is not there for too long.
        """
        threads = [threading.Thread(target=self._read, args=(jobs,), daemon=True)]
        threads += [threading.Thread(target=self._work, daemon=True) for _ in range(self._parallel)]
        for thread in threads:
            thread.start()
        working = self._parallel
        problem: BaseException | None = None
        try:
            while working:
                try:
                    event = self._events.get(timeout=_TICK)
                except queue.Empty:
                    yield None
                    continue
                if event is None:
                    working -= 1
                elif isinstance(event, BaseException):
                    problem = problem or event
                else:
                    yield event
        finally:
            self.stop()
        if problem is not None:
            raise problem

    # ---- the thread that reads

    def _read(self, jobs: Iterable[Job | Ended]) -> None:
        try:
            for job in jobs:
                if isinstance(job, Ended):
                    self._events.put(job)
                elif not self._put(job):
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised where it is heard
            self._events.put(error)
        self._put(None)

    def _put(self, job: Job | None) -> bool:
        while not self._stopping.is_set():
            try:
                self._jobs.put(job, timeout=_TICK)
            except queue.Full:
                continue
            return True
        return False

    # ---- the threads that send

    def _work(self) -> None:
        try:
            while (job := self._take()) is not None:
                self._events.put(self._settle(job))
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where it is heard
            self._events.put(error)
            self.stop()
        finally:
            self._events.put(None)

    def _take(self) -> Job | None:
        while not self._stopping.is_set():
            try:
                job = self._jobs.get(timeout=_TICK)
            except queue.Empty:
                continue
            if job is None:
                self._put(None)  # for the next thread
            return job
        return None

    def _settle(self, job: Job) -> Answered:
        piece = job.piece
        refusals = self._deliver(piece)
        refused = sum(one.lines for one in refusals)
        done = Done(piece.start, piece.end, Tail.of(piece.data), max(piece.lines - refused, 0), refused)
        return Answered(job.source, job.place, done, refusals, piece.untimed)

    def _deliver(self, piece: Piece) -> tuple[Refusal, ...]:
        if piece.refusal is not None:
            return (Refusal(piece.start.line, piece.refusal, _without_end(piece.data)),)
        if not piece.lines:
            return ()
        try:
            self._try(piece)
        except Refused as error:
            if error.code == 413:
                parts = halves(piece)
                if parts is None:
                    return (Refusal(piece.start.line, error.message, _without_end(piece.data)),)
                return self._deliver(parts[0]) + self._deliver(parts[1])
            wrong = line_errors(error.body)
            if not wrong:
                raise
            return refusals_of(piece, wrong, whole=self._whole)
        return ()

    def _try(self, piece: Piece) -> None:
        """Sends a piece until it is answered for good, or time is up."""
        attempt, since = 0, 0.0
        while True:
            try:
                self._send(piece.data)
            except (CannotReach, Refused) as error:
                if isinstance(error, Refused) or error.arrived:
                    self._reached = True
                if not may_pass_later(error):
                    raise
                attempt += 1
                since = since or time.monotonic()
                elapsed = time.monotonic() - since
                total = budget(error, given=self._retry_for, reached=self._reached)
                asked = error.retry_after if isinstance(error, Refused) else None
                wait = pause(attempt, elapsed, total, asked, random.random())  # noqa: S311 - no secret
                if wait is None:
                    if total:
                        raise WalmillError(f"{error.message}; tried for {elapsed:,.0f} s, see --retry-for") from None
                    raise
                self._events.put(Waiting(error.message, total, bool(piece.untimed) and may_be_done(error)))
                if self._stopping.wait(wait):
                    raise Stopped("stopped") from None
            else:
                self._reached = True
                return


def line_errors(body: Any) -> Sequence[Mapping[str, Any]]:
    """The lines that an answer refuses; none if it is another kind of error.

    Args:
        body: Of the answer, as JSON.
    """
    data = body.get("data") if isinstance(body, dict) else None
    found = [data] if isinstance(data, dict) else data
    if not isinstance(found, list) or not all(isinstance(one, dict) and "error_message" in one for one in found):
        return ()
    return found


def refusals_of(piece: Piece, wrong: Sequence[Mapping[str, Any]], *, whole: bool) -> tuple[Refusal, ...]:
    """What was refused of a piece, with whole lines and their numbers in the source.

    Args:
        piece: The piece.
        wrong: The lines, as the server's answer has them: with numbers in the piece, and cut.
        whole: Whether one of them made it refuse all.
    """
    numbers = {one["line_number"] for one in wrong if isinstance(one.get("line_number"), int)}
    texts = {one.number: piece.data[one.start : one.end] for one in lines(piece.data) if one.number in numbers}
    found = []
    for one in wrong:
        number = one.get("line_number")
        number = number if isinstance(number, int) else 1
        text = texts.get(number, str(one.get("original_line", "")).encode())
        found.append(Refusal(piece.start.line - 1 + number, str(one["error_message"]), _without_end(text)))
    if not whole:
        return tuple(found)
    first = found[0]
    return (Refusal(first.line, first.message, _without_end(piece.data), piece.lines),)


def _without_end(text: bytes) -> bytes:
    return text.removesuffix(b"\n").removesuffix(b"\r")
