"""One worker process: what the engine says to it and hears from it. Everything happens on the mill's loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from walmill.context.local import Limits, RunState
from walmill.errors import PluginFailure, described, told
from walmill.isolation.base import Called, Gate
from walmill.isolation.calls import WAITING as COMMITS
from walmill.isolation.calls import Calls
from walmill.isolation.crossing import plain_values, result_of
from walmill.isolation.places import Known, Told, tell
from walmill.isolation.warden import Warden, Watched, cpu_of
from walmill.isolation.zygote import Ended
from walmill.observe.log import get_logger
from walmill.units import format_size
from walmill.wal.log import Log
from walmill_hookspecs import LimitExceeded, RunCancelled, TriggerInfo
from walmill_worker import PROTOCOL
from walmill_worker.errors import RemoteError
from walmill_worker.trouble import pack_error, unpack_error
from walmill_worker.wire import Gone, Nonsense, Receiver, close_all, pack, send

DEATH_SECONDS = 2.0
"""After its socket closed, so long it is waited for word of how a process ended."""
CANCEL_SECONDS = 5.0
"""A run that was asked to end and has not done so is killed."""
MESSAGES = 64
"""So many messages of one worker are taken before others have their turn."""
WAITING = 4096
"""More messages than this do not wait for a worker that does not read them: it is killed."""
ASKING = 1024
"""A worker may have asked so many questions whose answers it has not got."""
OUTPUT_BYTES = 64 * 1024
_GO, _STAY = pack({"op": "go"}), pack({"op": "stay"})

log = get_logger("walmill.workers")


class Process:
    """A worker process.

    Args:
        link: Its socket.
        output: Descriptor of what it prints around Python: its children, C code.
        watched: The process under watch.
        number: For names.
        trigger: What the plugin sees of the trigger.
        limits: What a run may use.
        wal: Where batches lie.
        warden: Keeps the limits.
        over: Called once, when it has ended.
    """

    def __init__(
        self,
        link: socket.socket,
        output: int,
        watched: Watched,
        number: int,
        *,
        trigger: TriggerInfo,
        limits: Limits,
        wal: Log | None,
        warden: Warden,
        over: Callable[[Process], None],
    ) -> None:
        self._link = link
        self._output = output
        self.watched = watched
        self.name = f"{number}:{watched.pid}"
        self.started = False
        self.idle_since = time.monotonic()
        self.alive = True
        self._trigger = trigger
        self._limits = limits
        self._wal = wal
        self._warden = warden
        self._over = over
        self._known = Known()
        self._receiver = Receiver(link, limits.answer_bytes + 2**20)
        self._waiting: asyncio.Future[dict[str, Any]] | None = None
        self._state: RunState | None = None
        self._calls: Calls | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox: deque[tuple[dict[str, Any], list[int]]] = deque()
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._wrong: str | None = None
        self._printed = b""
        self._lines = 0
        self._asking = 0
        self._sending = threading.Lock()
        loop = self._loop = asyncio.get_running_loop()
        loop.add_reader(link, self._readable)
        loop.add_reader(output, self._printable)

    # ---- opening

    async def open(
        self,
        plugin: str,
        value: str,
        wrappers: Sequence[tuple[str, str]],
        arguments: Mapping[str, Any],
        secrets: Mapping[str, str],
        timeout: float | None,
    ) -> Mapping[str, bool]:
        """Has it load the plugin.

        Args:
            plugin: Name of the plugin.
            value: Where its entry point points to.
            wrappers: Name and entry point of others that wrap its hooks.
            arguments: Of the trigger.
            secrets: The values of secrets among them, by reference.
            timeout: Seconds that it may take.

        Returns:
            Its hooks, and whether each is `async def`.

        Raises:
            PluginFailure: If it could not.
            BadSettings: If the arguments do not fit.
        """
        info = self._trigger
        shown = {
            "name": info.name,
            "database": info.database,
            "plugin": info.plugin,
            "spec": info.spec,
            "arguments": json.dumps(dict(info.arguments)),
        }
        message = {
            "op": "open",
            "protocol": PROTOCOL,
            "name": plugin,
            "value": value,
            "wrappers": [list(pair) for pair in wrappers],
            "arguments": json.dumps(dict(arguments)),
            "secrets": dict(secrets),
            "trigger": shown,
            "log_lines": self._limits.log_lines,
        }
        answer = await self._ask(message, timeout)
        if answer["op"] == "broken":
            error = unpack_error(answer["error"])
            if isinstance(error, RemoteError):
                raise PluginFailure(f"the plugin {plugin!r} could not be loaded: {described(error)}")
            raise error
        return {str(name): bool(is_async) for name, is_async in answer["hooks"].items()}

    async def describe(self, plugin: str, value: str, timeout: float | None) -> dict[str, Any]:
        """Has it describe a plugin, which it imports for that."""
        return await self._ask({"op": "describe", "name": plugin, "value": value}, timeout)

    async def _ask(self, message: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """Says something and waits for the answer.

        Raises:
            PluginFailure: If none came.
        """
        if not self.alive:
            raise PluginFailure("the worker has ended")
        self._waiting = asyncio.get_running_loop().create_future()
        self._send(message)
        self._warden.begin(self.watched)
        try:
            return await asyncio.wait_for(self._waiting, timeout)
        except TimeoutError:
            self.kill(f"it did not answer within {timeout:g} s")
            raise PluginFailure(f"the worker of the plugin did not answer within {timeout:g} s") from None
        except _Died as death:
            raise PluginFailure(f"the worker of the plugin ended: {self.watched.killed or death}") from None
        finally:
            self._waiting = None
            self._warden.finish(self.watched)

    # ---- calls

    async def call(self, hook: str, values: Mapping[str, Any], state: RunState, gate: Gate | None = None) -> Called:
        """See `Seat.call`."""
        if not self.alive:  # it ended between two hooks
            return Called(error=RemoteError("WorkerDied", "the worker ended before the run began"))
        self._state, self._calls = state, Calls(state, values.get("body"))
        self._lines = 0
        self.watched.limits = self._limits.of_hook(hook)
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        told_batch = Told({}, [])
        try:
            try:
                message = self._message(hook, state, held=gate is not None)
                if "batch" in values:
                    assert self._wal is not None
                    told_batch = tell(values["batch"], self._wal, self._known)
                    message["values"] = {"batch": told_batch.plain}
                    message["forget"] = self._known.forget()
                else:
                    message["values"] = plain_values(values)
                self._send(message, told_batch.descriptors)
            except MemoryError as error:
                return Called(error=error)
            finally:
                close_all(told_batch.descriptors)
            if gate is None:
                self._warden.begin(self.watched)
            else:
                gate.tell(self._opened)
                if not await gate.passed():
                    return Called(begun=False)
                self._warden.begin(self.watched)
            try:
                answer = await waiting
            except _Died as death:
                return self._dead(state, death)
            return self._called(hook, answer, state)
        finally:
            self._waiting = None
            self._warden.finish(self.watched)
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # it may have ended while nobody waited yet

    def _message(self, hook: str, state: RunState, *, held: bool) -> dict[str, Any]:
        run = state.run
        deadline = None if run.deadline is None else round(run.deadline.timestamp() * 1e6) * 1000
        return {
            "op": "run",
            "hook": hook,
            "run": [run.id, run.key, run.attempt, deadline, run.dry_run, run.source],
            "now": state.now,
            "stopping": state.stopping,
            "held": held,
        }

    def _opened(self, begin: bool) -> None:
        """The gate of a held run opens; from the committer's thread, or on the loop."""
        with self._sending:
            if not self.alive:
                return
            try:
                if not self._outbox:
                    self._link.send(_GO if begin else _STAY)
                    return
            except OSError:  # it is full, or nobody is there
                pass
        self._loop.call_soon_threadsafe(self._send, {"op": "go" if begin else "stay"})

    def _called(self, hook: str, answer: Mapping[str, Any], state: RunState) -> Called:
        """What a worker says of a run that it has ended."""
        try:
            started, ended = int(answer["started"]), int(answer["ended"])
            trace = str(answer.get("traceback", ""))
            error = unpack_error(answer["error"]) if "error" in answer else None
            result = None
            if error is None:
                result = result_of(hook, answer.get("result"), self._limits.answer_bytes, self)
                if answer.get("callbacks"):
                    state.callbacks.append(_there)
            elif isinstance(error, RunCancelled) and state.cancelled is None:
                error = RemoteError("RunCancelled", told(error))
            elif isinstance(error, MemoryError) and self._limits.memory is not None:
                error = RemoteError("MemoryError", f"memory limit of {format_size(self._limits.memory)} exceeded")
        except PluginFailure as wrong:
            error, trace, result = wrong, "", None
        except (KeyError, TypeError, ValueError, OverflowError) as wrong:
            self.kill("it sent something that is no answer")
            return Called(error=RemoteError("WorkerDied", f"the worker sent something that is no answer ({wrong!r})"))
        cpu = cpu_of(self.watched.pid) - self.watched.cpu_before
        return Called(
            result,
            error,
            trace,
            started=started,
            ended=ended,
            cpu_ns=round(max(0.0, cpu) * 1e9),
            memory=self.watched.peak or None,
        )

    def _dead(self, state: RunState, death: _Died) -> Called:
        now = time.perf_counter_ns()
        began = self.watched.began
        started = now if began is None else now - round((time.monotonic() - began) * 1e9)
        why = self.watched.killed
        error: BaseException
        if state.cancelled is not None:
            error = RunCancelled(state.cancelled)
        elif why is not None:
            error = LimitExceeded(why)
        else:
            error = RemoteError("WorkerDied", f"the worker ended during the run: {death}")
        return Called(error=error, started=started, ended=now, memory=self.watched.peak or None)

    async def call_back(self, state: RunState) -> None:
        """See `Seat.call_back`."""
        with contextlib.suppress(PluginFailure):
            await self._ask({"op": "committed"}, self._limits.seconds)

    async def pieces(self, body: Any, state: RunState) -> AsyncGenerator[Any, None]:
        """See `Seat.pieces`."""
        over = False
        try:
            while True:
                try:
                    answer = await self._ask({"op": "next"}, None)
                except PluginFailure as error:
                    over = True
                    raise LimitExceeded(self.watched.killed or error.message) from None
                if answer["op"] == "last":
                    over = True
                    return
                if "error" in answer:
                    over = True
                    self._say_traceback(state, str(answer.get("traceback", "")))
                    raise unpack_error(answer["error"])
                piece = answer["data"]
                if not isinstance(piece, bytes) or len(piece) > self._limits.answer_bytes:
                    raise PluginFailure("a piece of a streamed answer is too large, or no bytes")
                yield piece
        finally:
            if not over and self.alive:
                with contextlib.suppress(PluginFailure):
                    await self._ask({"op": "drop"}, self._limits.seconds)

    def _say_traceback(self, state: RunState, text: str) -> None:
        if text:
            state.voice.line("ERROR", text)

    def cancel(self, state: RunState, reason: str) -> None:
        """See `Seat.cancel`."""
        state.cancelled = reason
        if self._state is state and self.alive:
            self._send({"op": "cancel", "run": state.run.id, "reason": reason})
            asyncio.get_running_loop().call_later(CANCEL_SECONDS, self._insist, state)

    def _insist(self, state: RunState) -> None:
        if self._state is state and self._waiting is not None and self.alive:
            self.watched.kill()

    def stopping(self, state: RunState) -> None:
        """See `Seat.stopping`."""
        state.stopping = True
        if self._state is state and self.alive:
            self._send({"op": "cancel", "run": state.run.id, "soon": True})

    def over(self) -> None:
        """The run has ended, with all that belongs to it: nothing that it asks for is done any more."""
        if self._calls is not None:
            self._calls.close()
        for task in list(self._tasks):
            task.cancel()
        self._state = self._calls = None
        self.idle_since = time.monotonic()
        if self.alive:
            self._send({"op": "end"})

    # ---- the socket

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Sends a message, at once if the worker reads, else when it does."""
        if not self.alive:
            return
        try:
            if not self._outbox:
                send(self._link, message, descriptors)
                return
        except Gone:
            return
        except BlockingIOError:
            asyncio.get_running_loop().add_writer(self._link, self._writable)
        if len(self._outbox) >= WAITING:
            self.kill("it does not read what it is sent")
            return
        self._outbox.append((message, [os.dup(one) for one in descriptors]))

    def _writable(self) -> None:
        while self._outbox:
            message, descriptors = self._outbox[0]
            try:
                send(self._link, message, descriptors)
            except BlockingIOError:
                return
            except Gone:
                pass
            self._outbox.popleft()
            close_all(descriptors)
        asyncio.get_running_loop().remove_writer(self._link)

    def _readable(self) -> None:
        try:
            for _ in range(MESSAGES):
                message, descriptors = self._receiver.receive()
                self._heard(message, descriptors)
        except BlockingIOError:
            return
        except Gone:
            self._closed("its connection is closed")
        except Nonsense as error:
            self._closed(f"it sent something that is no message ({error})")

    def _heard(self, message: Any, descriptors: list[int]) -> None:
        op = message.get("op") if isinstance(message, dict) else None
        if op == "ask":
            self._asked(message, descriptors)
            return
        close_all(descriptors)
        if op == "log":
            self._said(str(message.get("level")), str(message.get("text")))
        elif op in ("done", "opened", "broken", "described", "piece", "last", "called"):
            waiting = self._waiting
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        else:
            raise Nonsense("a message of an unknown kind")

    def _said(self, level: str, text: str) -> None:
        self._lines += 1
        if self._lines > 2 * self._limits.log_lines + 1000:
            raise Nonsense(f"more than {self._limits.log_lines:,} lines of log")
        state = self._state
        if state is not None:
            state.voice.line(level, text)
        elif self._lines < self._limits.log_lines:
            log.info(text, database=self._trigger.database, trigger=self._trigger.name)

    def _asked(self, message: dict[str, Any], descriptors: list[int]) -> None:
        calls, number = self._calls, message.get("n")
        if calls is None or not isinstance(number, int):
            close_all(descriptors)
            self._send({"op": "answer", "n": number, "error": pack_error(RunCancelled("the run has ended"))})
            return
        try:
            done = calls.at_once(str(message.get("what")), message, descriptors)
        except BaseException as error:  # noqa: BLE001 - what it raises is raised where the plugin called it
            close_all(descriptors)
            self._send({"op": "answer", "n": number, "error": pack_error(error)})
            return
        if done is not None:
            close_all(descriptors)
            self._answer(number, *done)
            return
        if message.get("what") not in COMMITS:
            if self._asking >= ASKING:
                close_all(descriptors)
                raise Nonsense(f"more than {ASKING} questions at a time")
            self._asking += 1
            calls.state.host.pool.submit(self._in_thread, calls, number, message, descriptors)
            return
        task = self._loop.create_task(self._later(calls, number, message, descriptors))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _later(self, calls: Calls, number: int, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            done = await calls.later(str(message.get("what")), message, descriptors)
            if message.get("what") == "checkpoint":
                self._lines = 0
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            self._send({"op": "answer", "n": number, "error": pack_error(error)})
        else:
            self._answer(number, *done)
        finally:
            close_all(descriptors)  # those that were not taken

    def _in_thread(self, calls: Calls, number: int, message: dict[str, Any], descriptors: list[int]) -> None:
        """In a thread: does what was asked for, and answers from there, which saves two changes of threads."""
        descriptor = None
        try:
            value, descriptor = calls.in_thread(str(message.get("what")), message, descriptors)
            answer = {"op": "answer", "n": number, "ok": value}
        except BaseException as error:  # noqa: BLE001 - as above
            answer = {"op": "answer", "n": number, "error": pack_error(error)}
        finally:
            close_all(descriptors)
            self._asking -= 1
        beside = [] if descriptor is None else [descriptor]
        sent = False
        try:
            with self._sending:
                if self.alive and not self._outbox:
                    send(self._link, answer, beside)
                    sent = True
        except Gone:
            sent = True
        except BlockingIOError:
            pass
        except MemoryError as error:
            answer = {"op": "answer", "n": number, "error": pack_error(error)}
        if sent or not self.alive:
            close_all(beside)
        else:
            self._loop.call_soon_threadsafe(self._send_and_close, answer, beside)

    def _send_and_close(self, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            self._send(message, descriptors)
        finally:
            close_all(descriptors)

    def _answer(self, number: int, value: Any, descriptor: int | None) -> None:
        try:
            self._send({"op": "answer", "n": number, "ok": value}, () if descriptor is None else (descriptor,))
        except MemoryError as error:
            self._send({"op": "answer", "n": number, "error": pack_error(error)})
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _printable(self) -> None:
        """What was printed around Python: by children of the plugin, by C code."""
        try:
            data = os.read(self._output, OUTPUT_BYTES)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._output)
            data = b"\n" if self._printed else b""
        *lines, self._printed = (self._printed + data).split(b"\n")
        if len(self._printed) > OUTPUT_BYTES:
            lines, self._printed = [*lines, self._printed], b""
        for line in lines:
            if self._lines < self._limits.log_lines:
                with contextlib.suppress(Nonsense):
                    self._said("INFO", line.decode("utf-8", "replace"))

    # ---- the end

    def kill(self, why: str) -> None:
        """Ends the process."""
        self._wrong = self._wrong or why
        self.watched.kill()

    def _closed(self, why: str) -> None:
        """The conversation is over: whatever lives on there is ended."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._link)
        if not self.alive:
            return
        self._wrong = self._wrong or why
        self.watched.kill()
        loop.call_later(DEATH_SECONDS, self.died, Ended())

    def died(self, how: Ended) -> None:
        """The process has ended; called by the zygote, or when no word of it came."""
        if self._ended.done():
            return
        self.alive = False
        self._ended.set_result(how)
        loop = asyncio.get_running_loop()
        self._printable_rest()
        loop.remove_reader(self._link)
        loop.remove_writer(self._link)
        loop.remove_reader(self._output)
        self._warden.remove(self.watched)
        with self._sending:
            self._link.close()
        os.close(self._output)
        self.watched.close()
        for _, descriptors in self._outbox:
            close_all(descriptors)
        self._outbox.clear()
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            wrong = "" if self._wrong is None or "connection" in self._wrong else f"{self._wrong}; "
            waiting.set_exception(_Died(f"{wrong}{how.how}"))
        self._over(self)

    def _printable_rest(self) -> None:
        """What it printed last often says why it ended."""
        os.set_blocking(self._output, False)
        for _ in range(16):
            try:
                data = os.read(self._output, OUTPUT_BYTES)
            except OSError:
                break
            if not data:
                break
            self._printed += data
        for line in self._printed.split(b"\n"):
            if line and self._lines < self._limits.log_lines:
                with contextlib.suppress(Nonsense):
                    self._said("INFO", line.decode("utf-8", "replace"))
        self._printed = b""

    async def end(self, timeout: float) -> None:
        """Lets it go: it ends when its socket closes, and is killed if it does not."""
        if self._ended.done():
            return
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)
        try:
            await asyncio.wait_for(asyncio.shield(self._ended), timeout)
        except TimeoutError:
            self.watched.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._ended), DEATH_SECONDS)


class _Died(Exception):
    """The process ended while it was waited for."""


def _there() -> None:
    """Stands for callbacks that are in the worker; `Seat.call_back` calls them."""
