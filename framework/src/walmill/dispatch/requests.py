"""on_request: requests of one trigger, up to so many at a time, a bounded queue behind them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

from attrs import define, field

from walmill.dispatch.station import Ended, Event, Station
from walmill.errors import InvalidRequest, PluginFailure, Unavailable, WalmillError, described
from walmill.isolation.arriving import Arriving
from walmill.observe.log import get_logger
from walmill_hookspecs import HTTPError, Request
from walmill_worker.replies import Answer, answer_of, piece_of

QUEUE = 64
"""So many requests wait for a place at a trigger; the next one is answered 503."""

log = get_logger("walmill.dispatch")


@define(eq=False)
class Exchange:
    """One request on its way; the server cancels it when the caller goes away.

    Attributes:
        request: The request.
        body: Its body, if that still comes: for a hook that names the parameter `body`.
        cancelled: Whether the caller went away.
        done: Set when its place is free again.
    """

    request: Request
    body: Arriving | None = None
    cancelled: bool = False
    cancel: Callable[[str], None] | None = None
    done: asyncio.Event = field(factory=asyncio.Event)


class Pieces:
    """The pieces of a streamed answer; its place is free again after the last one, or when it is closed, begun or not.

    Args:
        pieces: Makes them.
        release: Called once.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None], release: Callable[[], None]) -> None:
        self._pieces = pieces
        self._release: Callable[[], None] | None = release

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._pieces.__anext__()
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        """Ends it before its last piece."""
        await self._pieces.aclose()
        self._end()

    def _end(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()


class RequestDesk:
    """The requests of one trigger. Everything happens on the mill's loop.

    Args:
        station: The trigger.
        disable: Has the trigger disabled: reason, traceback.
    """

    def __init__(self, station: Station, disable: Callable[[str, str], None]) -> None:
        self.station = station
        self._disable = disable
        self._slots = asyncio.Semaphore(station.trigger.max_concurrency)
        self._waiting = 0

    async def handle(self, exchange: Exchange) -> Answer:
        """Answers one request. The commit precedes the answer; a refused commit is the answer.

        Raises:
            WalmillError: What is answered instead.
        """
        if self.station.retired:
            raise Unavailable("the trigger is being changed; send it again", retry_after=1)
        if self._slots.locked() and self._waiting >= QUEUE:
            raise Unavailable(
                f"{self.station.trigger.max_concurrency} requests are being answered by the trigger "
                f"{self.station.trigger.name!r} and {QUEUE} wait; send it again later",
                retry_after=1,
            )
        arrived = time.perf_counter_ns()
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        streaming = False
        try:
            if exchange.cancelled:
                raise Unavailable("the caller went away before its turn came")
            answer, ended = await self._run(exchange, arrived)
            if answer.stream is not None:
                streaming = True
                pieces = Pieces(self._stream(answer.stream, ended), lambda: self._over(ended))
                return Answer(answer.status, answer.headers, stream=pieces)
            return answer
        finally:
            if not streaming:
                self._slots.release()

    def _over(self, ended: Ended) -> None:
        """A streamed answer is out, or nobody wants it any more."""
        self.station.give_back(ended)
        self._slots.release()

    async def _run(self, exchange: Exchange, arrived: int) -> tuple[Answer, Ended]:
        station = self.station
        values: dict[str, Any] = {"request": exchange.request}
        if exchange.body is not None:
            values["body"] = exchange.body
        event = Event(
            hook="on_request",
            values=values,
            key=station.key(uuid.uuid4().hex),
            at=arrived,
            source="request",
            accept=_accepted,
        )
        for attempt in range(20):
            watch = asyncio.ensure_future(self._perform(event))
            station.tasks.add(watch)
            watch.add_done_callback(station.tasks.discard)
            exchange.cancel = self._canceller(station, event.key)
            ended = await watch
            if ended.end != "conflict" or (exchange.body is not None and exchange.body.begun):
                break
            await asyncio.sleep(0.002 * (attempt + 1))
        return self._answer(ended), ended

    async def _perform(self, event: Event) -> Ended:
        return await self.station.perform(event)

    def _canceller(self, station: Station, key: str) -> Callable[[str], None]:
        def cancel(reason: str) -> None:
            for state in list(station.runs.values()):
                if state.run.key == key:
                    station.cancel_run(state, reason)

        return cancel

    def _answer(self, ended: Ended) -> Answer:
        match ended.end:
            case "ok":
                assert isinstance(ended.result, Answer)
                return ended.result
            case "answered":
                assert isinstance(ended.exception, HTTPError)
                problem = ended.exception
                return answer_of(({"error": problem.detail}, problem.status, problem.headers))
            case "skip":
                return Answer(204)
            case "retry_later":
                raise Unavailable(
                    ended.error or "the plugin asks to send it again later", retry_after=max(1, round(ended.after or 1))
                )
            case "unavailable":
                raise Unavailable(ended.error or "send it again", retry_after=max(1, round(ended.after or 1)))
            case "disable":
                self._disable(ended.error or "the plugin asked for it", "")
                raise Unavailable(
                    f"the trigger {self.station.trigger.name!r} disabled itself: {ended.error}", retry_after=60
                )
            case "cancelled" | "stale":
                raise Unavailable(ended.error or "the run was cancelled", retry_after=1)
            case "conflict":
                raise Unavailable("other runs kept changing the same state; send it again", retry_after=1)
        if self.station.blocked is not None:
            log.warning("a request cannot be answered", trigger=self.station.trigger.name, error=self.station.blocked)
            raise Unavailable(
                f"the trigger {self.station.trigger.name!r} is paused, because its plugin cannot be used; "
                "`walmill show triggers` says why",
                retry_after=5,
            )
        if self.station.trigger.policy == "disable":
            self._disable(ended.error or "failed", ended.traceback)
        raise self._failure(ended, ended.error or "failed")

    def _failure(self, ended: Ended, why: str) -> WalmillError:
        """The caller gets the run's id, never the plugin's own words or a traceback; those are in the log."""
        log.warning("a request could not be answered", trigger=self.station.trigger.name, run=ended.run_id, error=why)
        if ended.exception is not None and isinstance(ended.exception, InvalidRequest):
            return ended.exception
        return PluginFailure(
            f"the plugin of the trigger {self.station.trigger.name!r} failed in run {ended.run_id}; "
            f"_internal.logs and _internal.runs say more"
        )

    async def _stream(self, body: Any, ended: Ended) -> AsyncGenerator[bytes, None]:
        """The pieces of a streamed answer."""
        state, seat = ended.state, ended.seat
        assert state is not None
        try:
            if seat is None:
                return
            async with contextlib.aclosing(seat.pieces(body, state)) as pieces:
                async for piece in pieces:
                    yield piece_of(piece)
        except (GeneratorExit, asyncio.CancelledError, WalmillError):
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin must not end the mill's loop
            raise self._failure(ended, described(error)) from None


def _accepted(result: Any) -> Answer:
    """What a hook returned as an answer; what a process made of it is one already."""
    return result if isinstance(result, Answer) else answer_of(result)
