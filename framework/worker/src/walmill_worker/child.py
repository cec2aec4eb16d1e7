"""A worker: one process for one trigger. It loads the plugin, calls its hooks when it is told to, and says what came of it.

Everything happens in its main thread. If the plugin has an `async def` hook, an event loop runs there for the life of the
process; plain hooks of the same plugin are called on it as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

from attrs import define

from walmill_hookspecs import (
    AsyncBody,
    Body,
    MultiMapping,
    Request,
    Run,
    RunCancelled,
    SnapshotFile,
    SnapshotRecord,
    SnapshotTable,
    Tick,
    TriggerInfo,
    WriteBatch,
)
from walmill_hookspecs.body import async_body_of, body_file, body_of
from walmill_hookspecs.settings import is_settings, parse
from walmill_worker import PROTOCOL
from walmill_worker.batches import columns_of, table_batch
from walmill_worker.binding import Binding, BoundHook, bind
from walmill_worker.calling import call, call_async, call_back_async
from walmill_worker.capture import Capture, Voice, current
from walmill_worker.context import RunHere, WorkerAsyncContext, WorkerContext, to_datetime
from walmill_worker.describe import describe_entry, load
from walmill_worker.errors import PluginFailure, described, shown, told
from walmill_worker.given import unpack_given
from walmill_worker.replies import answer_of, piece_of
from walmill_worker.rows import decode_rows
from walmill_worker.segments import Segments
from walmill_worker.trouble import pack_error, unpack_error
from walmill_worker.wire import BULK_BYTES, Gone, Receiver, map_file, send

Message = dict[str, Any]
SPIN_SECONDS = 0.001
"""An answer of the engine is looked for so long before this process sleeps: to be woken takes as long as most answers do."""
HELD_SPIN_SECONDS = 0.001
"""The same for the word that a run which is ready may begin, as long as the log takes no longer to be synced."""


@define(eq=False)
class _Asked:
    """A question that waits for its answer."""

    answer: Any = None
    error: BaseException | None = None
    here: bool = False
    future: asyncio.Future[Any] | None = None


class Child:
    """The process's side of the conversation with the engine.

    Args:
        link: The socket to the engine.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._receiver = Receiver(link, BULK_BYTES)
        self._inbox: deque[tuple[Message, list[int]]] = deque()
        self._asked: dict[int, _Asked] = {}
        self._numbers = 0
        self._lock = threading.RLock()
        self._segments = Segments()
        self._binding: Binding | None = None
        self._settings: Any = None
        self._trigger: TriggerInfo | None = None
        self._log_lines = 10_000
        self._run: RunHere | None = None
        self._body: Any = None
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._holds = 0.0
        self._held: tuple[str, Mapping[str, Any], RunHere] | None = None

    # ---- the conversation

    def serve(self) -> None:
        """Does what the engine says until it goes away."""
        with contextlib.suppress(Gone):
            while self._loop is None:
                self._do(*self._next())
            self._loop.add_reader(self._link, self._readable)
            self._loop.call_soon(self._readable)
            self._loop.run_forever()

    def _next(self) -> tuple[Message, list[int]]:
        """The next message that begins something; waits for it."""
        while not self._inbox:
            self._receive(wait=True)
        return self._inbox.popleft()

    def _receive(self, *, wait: bool) -> bool:
        """Takes one message: an answer goes to who asked, a wish to end to the run, and what begins something is kept."""
        try:
            message, descriptors = self._receiver.receive(0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        match message["op"]:
            case "answer":
                self._answered(message, descriptors)
            case "cancel":
                self._cancel(message)
            case _:
                self._inbox.append((message, descriptors))
        return True

    def _answered(self, message: Message, descriptors: list[int]) -> None:
        asked = self._asked.pop(message["n"])
        if "error" in message:
            asked.error = unpack_error(message["error"])
        else:
            asked.answer = map_file(descriptors[0]) if descriptors else message["ok"]
        asked.here = True
        future = asked.future
        if future is not None and not future.done():
            if asked.error is not None:
                future.set_exception(_wrapped(asked.error))
            else:
                future.set_result(asked.answer)

    def _cancel(self, message: Message) -> None:
        run = self._run
        if run is None or run.run.id != message["run"]:
            return
        if message.get("soon"):
            run.stopping = True
            return
        run.cancelled = message["reason"]
        if self._task is not None:
            self._task.cancel()

    def _readable(self) -> None:
        try:
            while self._receive(wait=False):
                pass
        except Gone:
            assert self._loop is not None
            self._loop.stop()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Does what was kept, until something of it takes its time."""
        while self._task is None and self._inbox:
            self._do(*self._inbox.popleft())

    def _send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        with self._lock:
            send(self._link, message, descriptors)

    def _ask(self, what: str, arguments: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, _Asked]:
        run = self._run
        if run is not None and run.cancelled is not None:
            raise RunCancelled(run.cancelled)
        self._numbers += 1
        asked = self._asked[self._numbers] = _Asked()
        self._send({"op": "ask", "n": self._numbers, "what": what, **arguments}, descriptors)
        return self._numbers, asked

    def ask(self, what: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """See `Way.ask`."""
        with self._lock:
            _, asked = self._ask(what, arguments, descriptors)
            until = time.monotonic() + SPIN_SECONDS
            while not asked.here:
                if not self._receive(wait=time.monotonic() > until):
                    os.sched_yield()
        if asked.error is not None:
            raise asked.error
        return asked.answer

    async def ask_async(self, what: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """See `Way.ask_async`."""
        _, asked = self._ask(what, arguments, descriptors)
        asked.future = asyncio.get_running_loop().create_future()
        try:
            return await asked.future
        except _Wrapped as wrapped:
            raise wrapped.error from None

    def look(self) -> None:
        """See `Way.look`."""
        with self._lock:
            while self._receive(wait=False):
                pass

    # ---- what it is told to do

    def _do(self, message: Message, descriptors: list[int]) -> None:
        match message["op"]:
            case "describe":
                found = describe_entry(message["name"], message["value"])
                self._send({"op": "described", **found.to_plain()})
            case "open":
                self._open(message)
            case "run":
                self._begin(message, descriptors)
            case "next":
                self._start(self._piece())
            case "drop":
                self._start(self._drop())
            case "committed":
                self._start(self._call_back())
            case "end":
                self._run = None
                self._body = None
            case "go" | "stay":
                held, self._held = self._held, None
                if held is not None and message["op"] == "go":
                    self._call(*held)

    def _start(self, coroutine: Any) -> None:
        """Runs a coroutine: on the loop if there is one, else to its end here, for then it never waits."""
        if self._loop is None:
            _finish(coroutine)
            return
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if not task.cancelled() and isinstance(task.exception(), Gone):
            assert self._loop is not None
            self._loop.stop()
        else:
            self._go_on()

    def _open(self, message: Message) -> None:
        """Imports the plugin and binds it."""
        name = message["name"]
        try:
            if message["protocol"] != PROTOCOL:
                raise PluginFailure(
                    f"the engine speaks version {message['protocol']} and this walmill-worker version {PROTOCOL}; install the "
                    "one that belongs to the engine"
                )
            loaded = load(message["value"])
            wrappers = [(other, load(value)) for other, value in message["wrappers"]]
            binding = self._binding = bind(loaded, name, wrappers)
            arguments = json.loads(message["arguments"])
            registers = binding.hooks.get("register_settings")
            made = call(registers, {}) if registers is not None else None
            # secrets were resolved by the engine: what they refer to need not be reachable from here
            secrets = message["secrets"]
            if made is not None and is_settings(made):
                self._settings = parse(made, arguments, secret=lambda reference: secrets.get(reference, reference))
            else:
                self._settings = arguments
        except BaseException as error:  # noqa: BLE001 - told to the engine, whatever it is
            self._send({"op": "broken", "error": pack_error(error), "traceback": shown(error)})
            return
        trigger = message["trigger"]
        self._trigger = TriggerInfo(**{**trigger, "arguments": json.loads(trigger["arguments"])})
        self._log_lines = message["log_lines"]
        if any(bound.is_async for bound in binding.hooks.values()):
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        gc.collect()
        gc.freeze()
        self._send({"op": "opened", "hooks": {hook: bound.is_async for hook, bound in binding.hooks.items()}})

    def _begin(self, message: Message, descriptors: list[int]) -> None:
        try:
            self._segments.forget(message.get("forget", ()))
            values = self._values(message, descriptors)
        except MemoryError as error:
            self._end(error, "", 0)
            return
        assert self._trigger is not None
        id_, key, attempt, deadline, dry_run, source = message["run"]
        voice = Voice(self._say, left=self._log_lines, limit=self._log_lines)
        run = self._run = RunHere(
            engine=self,
            database=self._trigger.database,
            info=self._trigger,
            run=Run(
                id=id_,
                key=key,
                attempt=attempt,
                deadline=None if deadline is None else to_datetime(deadline),
                dry_run=dry_run,
                source=source,
            ),
            settings=self._settings,
            now=message["now"],
            voice=voice,
            stopping=message["stopping"],
            lasting=message["hook"] == "on_service",
        )
        if message["held"]:
            if self._loop is not None:  # it goes on with the plugin's own tasks meanwhile
                self._held = (message["hook"], values, run)
                return
            if not self._released():
                self._run = None
                return
        self._call(message["hook"], values, run)

    def _call(self, hook: str, values: Mapping[str, Any], run: RunHere) -> None:
        assert self._binding is not None
        bound = self._binding.hooks[hook]
        if self._loop is not None:
            self._start(self._call_on_loop(hook, values, run))
            return
        # what the loop would do, without one: a plain hook never waits, and this is the shortest way to its first line
        given = {**values, "ctx": WorkerContext(run)}
        speaking = current.set(run.voice)
        started = time.perf_counter_ns()
        result: Any = None
        error: BaseException | None = None
        trace = ""
        try:
            result = call(bound, given)
        except BaseException as raised:  # noqa: BLE001 - SystemExit of a plugin is an error of its run
            error, trace = raised, shown(raised)
        ended = time.perf_counter_ns()
        del given, values
        run.voice.end()
        self._end(error, trace, started, result, hook, ended)
        current.reset(speaking)

    def _released(self) -> bool:
        """Waits until the run may begin; False if it must not."""
        began = time.monotonic()
        until = began + (HELD_SPIN_SECONDS if self._holds < HELD_SPIN_SECONDS else 0.0)
        while True:
            for place, (message, _) in enumerate(self._inbox):
                if message["op"] in ("go", "stay"):
                    del self._inbox[place]
                    self._holds += ((time.monotonic() - began) - self._holds) / 4
                    return bool(message["op"] == "go")
            if not self._receive(wait=time.monotonic() > until):
                os.sched_yield()

    async def _call_on_loop(self, hook: str, values: Mapping[str, Any], run: RunHere) -> None:
        assert self._binding is not None
        bound = self._binding.hooks[hook]
        context = WorkerAsyncContext(run) if bound.is_async else WorkerContext(run)
        given = {**values, "ctx": context}
        current.set(run.voice)
        started = time.perf_counter_ns()
        result: Any = None
        error: BaseException | None = None
        trace = ""
        try:
            result = await call_async(bound, given) if bound.is_async else call(bound, given)
        except asyncio.CancelledError as raised:
            error = raised if run.cancelled is None else RunCancelled(run.cancelled)
            trace = shown(raised)
        except BaseException as raised:  # noqa: BLE001 - SystemExit of a plugin is an error of its run
            error, trace = raised, shown(raised)
        ended = time.perf_counter_ns()
        del given, values
        run.voice.end()
        self._end(error, trace, started, result, hook, ended)

    def _end(
        self,
        error: BaseException | None,
        trace: str,
        started: int,
        result: Any = None,
        hook: str = "",
        ended: int = 0,
    ) -> None:
        """Says what came of a hook."""
        message: Message = {"op": "done", "started": started, "ended": ended}
        if error is None:
            try:
                message["result"] = self._result(hook, result)
            except PluginFailure as wrong:
                error = wrong
            except BaseException as raised:  # noqa: BLE001 - what a plugin returned may do anything when it is looked at
                error, trace = raised, shown(raised)
        if error is not None:
            message |= {"error": pack_error(error), "described": described(error), "traceback": trace}
        if self._run is not None and self._run.callbacks:
            message["callbacks"] = len(self._run.callbacks)
        try:
            self._send(message)
        except MemoryError as short:
            self._send(
                {"op": "done", "started": started, "ended": ended, "error": pack_error(short), "traceback": trace}
            )

    def _result(self, hook: str, result: Any) -> Any:
        """What a hook returned, as far as it means something."""
        if hook == "on_request":
            answer = answer_of(result)
            self._body = answer.stream
            return [answer.status, list(answer.headers), answer.body, answer.stream is not None]
        if inspect.iscoroutine(result):
            result.close()
            return "coroutine"
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            return "generator"
        return None

    async def _piece(self) -> None:
        """The next piece of a streamed answer."""
        body, run = self._body, self._run
        message: Message
        if run is not None:
            current.set(run.voice)
        try:
            piece: Any
            if isinstance(body, AsyncIterator):
                piece = await anext(body)
            else:
                assert isinstance(body, Iterator)
                piece = next(body)
            message = {"op": "piece", "data": piece_of(piece)}
        except (StopIteration, StopAsyncIteration):
            message = {"op": "last"}
        except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin is an error of its run
            message = {
                "op": "piece",
                "error": pack_error(error),
                "described": described(error),
                "traceback": shown(error),
            }
        if run is not None:
            run.voice.end()
        self._send(message)

    async def _drop(self) -> None:
        """Nobody wants the rest of a streamed answer."""
        body, self._body = self._body, None
        with contextlib.suppress(BaseException):
            if hasattr(body, "aclose"):
                await body.aclose()
            elif hasattr(body, "close"):
                body.close()
        self._send({"op": "last"})

    async def _call_back(self) -> None:
        run = self._run
        if run is not None:
            current.set(run.voice)
            await call_back_async(run.callbacks, run.voice.callback_failed)
            run.voice.end()
        self._send({"op": "called"})

    def _say(self, level: str, text: str) -> None:
        with contextlib.suppress(Gone):
            self._send({"op": "log", "level": told(level), "text": told(text)})

    # ---- what hooks are given

    def _values(self, message: Message, descriptors: list[int]) -> dict[str, Any]:
        given = message["values"]
        if "batch" in given:
            return {"batch": self._batch(given["batch"], descriptors)}
        if "tick" in given:
            return {"tick": _tick(given["tick"])}
        if "record" in given:
            return {"record": _record(given["record"])}
        if "request" in given:
            request = _request(given["request"])
            assert self._binding is not None
            hook = self._binding.hooks[message["hook"]]
            if not hook.takes("body"):
                return {"request": request}
            if given["request"]["arrives"]:
                return {"request": request, "body": self._arriving(hook)}
            return {"request": request, "body": (async_body_of if hook.is_async else body_of)(request.body)}
        return {}

    def _arriving(self, hook: BoundHook) -> Body | AsyncBody:
        """The body of a request that still comes to the engine."""
        if not hook.is_async:
            return body_file(lambda: self.ask("body", {}))

        async def piece() -> bytes:
            return bytes(await self.ask_async("body", {}))

        return AsyncBody(piece)

    def _batch(self, given: Message, descriptors: list[int]) -> WriteBatch:
        new = given["segments"]
        self._segments.learn(new, descriptors[: len(new)])
        copied = map_file(descriptors[-1]) if len(descriptors) > len(new) else None
        tables = []
        for name, tags, fields, parts in given["tables"]:
            batches = [
                decode_rows(
                    self._segments.part(segment, offset, size)
                    if copied is None or segment >= 0
                    else copied.slice(offset, size)
                )
                for segment, offset, size in parts
            ]
            tables.append(table_batch(columns_of(name, tuple(tags), fields), batches))
        return WriteBatch(
            database=given["database"],
            first_sequence=given["first"],
            last_sequence=given["last"],
            origin=given["origin"],
            kind=given["kind"],
            tables={table.name: table for table in tables},
        )


class _Wrapped(Exception):
    """An error for a future: one that is no `Exception` would end the loop."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _wrapped(error: BaseException) -> _Wrapped:
    return _Wrapped(error)


def _finish(coroutine: Any) -> None:
    """Runs a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise PluginFailure("a plain hook waited for an event loop")


def _tick(given: Message) -> Tick:
    zone = given["timezone"]
    return Tick(
        scheduled_for=to_datetime(given["scheduled_for"]),
        fired_at=to_datetime(given["fired_at"]),
        previous=None if given["previous"] is None else to_datetime(given["previous"]),
        missed=given["missed"],
        since=None if given["since"] is None else to_datetime(given["since"]),
        timezone=UTC if zone == "UTC" else ZoneInfo(zone),
    )


def _record(given: Message) -> SnapshotRecord:
    return SnapshotRecord(
        sequence=given["sequence"],
        previous_sequence=given["previous_sequence"],
        tables=tuple(
            SnapshotTable(
                database=table["database"],
                name=table["name"],
                tags=tuple(table["tags"]),
                fields=table["fields"],
                files=tuple(
                    SnapshotFile(
                        path=path,
                        rows=rows,
                        bytes=size,
                        time_range=(low, high),
                        sequences=(first, last),
                        late=tuple((start, end) for start, end in late),
                    )
                    for path, rows, size, low, high, first, last, late in table["files"]
                ),
                time_range=tuple(table["time_range"]),
            )
            for table in given["tables"]
        ),
    )


def _request(given: Message) -> Request:
    client = given["client"]
    return Request(
        method=given["method"],
        path=given["path"],
        path_params=unpack_given(given["path_params"]),
        query_params=MultiMapping([tuple(pair) for pair in given["query_params"]]),
        headers=MultiMapping([tuple(pair) for pair in given["headers"]], ignore_case=True),
        client=None if client is None else (client[0], client[1]),
        identity=given["identity"],
        body=given["body"],
    )


def main(link: socket.socket) -> None:
    """Serves the engine at the other end of a socket; returns when it is gone."""
    Capture.install()
    try:
        Child(link).serve()
    except Gone:
        pass
    except BaseException as error:  # noqa: BLE001 - the engine sees that the process ended, and this line
        os.write(2, f"the worker met an error of its own: {shown(error)}\n".encode())
        os._exit(70)
