"""The engine's side of a zygote: executes it, has it fork workers, and hears how they end. On the mill's loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from walmill.errors import PluginFailure
from walmill.observe.log import get_logger
from walmill_worker import PROTOCOL
from walmill_worker.processes import kill_tree
from walmill_worker.wire import Gone, Nonsense, Receiver, close_all, pair, send

START_SECONDS = 30.0
"""A zygote that has not said that it is ready after so long is given up."""
_CODE = "import sys; from walmill_worker.zygote import main; main(int(sys.argv[1]), sys.argv[2:])"

log = get_logger("walmill.workers")


@frozen
class Ended:
    """How a worker ended.

    Attributes:
        status: As `os.wait` gives it; None if the zygote ended before it could say.
        cpu: Seconds of processor time.
        peak: Most resident memory that it had, bytes.
    """

    status: int | None = None
    cpu: float = 0.0
    peak: int = 0

    @property
    def how(self) -> str:
        """In words."""
        if self.status is None:
            return "its process is gone"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            with contextlib.suppress(ValueError):
                return f"its process was ended by {signal.Signals(number).name}"
            return f"its process was ended by the signal {number}"
        return f"its process ended with the status {os.WEXITSTATUS(self.status)}"


@frozen
class Forked:
    """A worker that was made.

    Attributes:
        pid: Its process.
        pidfd: A descriptor of the process, the receiver's to close.
    """

    pid: int
    pidfd: int


class Zygote:
    """One zygote.

    Args:
        python: The interpreter.
        path: What it looks for modules in.
        environment: Its environment variables, and those of all that is forked from it.
    """

    def __init__(self, python: str, path: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = [python, "-P", "-c", _CODE]
        self._path = list(path)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._receiver: Receiver | None = None
        self._forking: dict[int, asyncio.Future[Forked]] = {}
        self._living: dict[int, tuple[int, Callable[[Ended], None]]] = {}
        self._ready: asyncio.Future[None] | None = None
        self._starting = asyncio.Lock()
        self._number = 0
        self._asked = 0
        self._directory: Path | None = None
        self._cleared: weakref.finalize[..., Zygote] | None = None

    @property
    def busy(self) -> bool:
        """Whether it has workers, or is about to make one."""
        return bool(self._living or self._forking or self._asked)

    @property
    def pid(self) -> int | None:
        """Its process; None if it does not run."""
        return None if self._process is None else self._process.pid

    async def _start(self) -> None:
        async with self._starting:
            if self._link is not None:
                return
            loop = asyncio.get_running_loop()
            mine, theirs = pair()
            mine.setblocking(False)
            try:
                self._process = await loop.run_in_executor(None, self._execute, theirs)
            except OSError as error:
                mine.close()
                raise PluginFailure(f"the process from which workers are made could not be started: {error}") from None
            finally:
                theirs.close()
            self._link, self._receiver = mine, Receiver(mine)
            self._ready = loop.create_future()
            loop.add_reader(mine, self._readable)
            try:
                await asyncio.wait_for(self._ready, START_SECONDS)
            except TimeoutError:
                self._over()
                raise PluginFailure(
                    f"the process from which workers are made was not ready after {START_SECONDS:.0f} s"
                ) from None

    def _execute(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [*self._command, str(theirs.fileno()), *self._path],
            pass_fds=[theirs.fileno()],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def fork(
        self,
        link: socket.socket,
        output: int,
        *,
        directory: str,
        name: str,
        nice: int,
        memory: int | None,
        ended: Callable[[Ended], None],
    ) -> Forked:
        """Has a worker made.

        Args:
            link: Its socket.
            output: Descriptor of what becomes its standard output and error.
            directory: Name of its working directory, which must not exist.
            name: What `ps` shows.
            nice: How far it stands behind the engine.
            memory: Bytes that it may allocate; None for no limit.
            ended: Called on the loop, once, when it has ended.

        Raises:
            PluginFailure: If that is not possible now.
        """
        self._asked += 1
        try:
            await self._start()
        finally:
            self._asked -= 1
        assert self._link is not None
        self._number += 1
        number = self._number
        future: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._forking[number] = future
        message = {
            "op": "fork",
            "n": number,
            "directory": str(self._place() / directory),
            "name": name,
            "nice": nice,
            "memory": memory,
        }
        try:
            send(self._link, message, [link.fileno(), output])
        except (Gone, BlockingIOError) as error:
            self._forking.pop(number, None)
            raise PluginFailure(f"a worker could not be made: {error}") from None
        forked = await future
        self._living[number] = (forked.pid, ended)
        return forked

    def _readable(self) -> None:
        assert self._receiver is not None
        try:
            while True:
                message, descriptors = self._receiver.receive()
                self._heard(message, descriptors)
        except BlockingIOError:
            return
        except (Gone, Nonsense):
            log.warning(
                "the process from which workers are made has ended; its workers end with it, and others are made"
            )
            self._over()

    def _heard(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message["op"]:
            case "ready":
                assert self._ready is not None
                if message["protocol"] != PROTOCOL:
                    self._ready.set_exception(
                        PluginFailure(
                            "walmill-worker has another version than the engine; install the one that belongs to it"
                        )
                    )
                elif not self._ready.done():
                    self._ready.set_result(None)
            case "forked":
                future = self._forking.pop(message["n"], None)
                if future is None or future.done():
                    close_all(descriptors)
                else:
                    future.set_result(Forked(message["pid"], descriptors[0]))
            case "failed":
                future = self._forking.pop(message["n"], None)
                if future is not None and not future.done():
                    future.set_exception(PluginFailure(f"a worker could not be made: {message['why']}"))
            case "ended":
                # `fork` may be about to note it: what it waits for was set in this round of the loop
                asyncio.get_running_loop().call_soon(
                    self._ended, message["n"], Ended(message["status"], message["cpu"], message["peak"])
                )

    def _ended(self, number: int, how: Ended) -> None:
        found = self._living.pop(number, None)
        if found is not None:
            found[1](how)

    def _over(self) -> None:
        """It is gone, and with it all that was forked from it."""
        link, self._link = self._link, None
        if link is not None:
            asyncio.get_running_loop().remove_reader(link)
            link.close()
        process, self._process = self._process, None
        if process is not None:
            kill_tree(process.pid)
            process.wait()
        sessions = {pid for pid, _ in self._living.values()}
        if sessions:
            kill_sessions(sessions)
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(PluginFailure("the process from which workers are made ended while it started"))
        for future in self._forking.values():
            if not future.done():
                future.set_exception(PluginFailure("a worker could not be made: its zygote ended"))
        self._forking.clear()
        living, self._living = self._living, {}
        for _, ended in living.values():
            ended(Ended())

    def _place(self) -> Path:
        """Where workers have their working directories; the process removes it as well when it ends in order."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="walmill-workers-"))
            # also when this process ends while plugins are still looked at
            self._cleared = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    def close(self) -> None:
        """Ends it, and all that was forked from it."""
        self._over()
        if self._cleared is not None:
            self._cleared()


def kill_sessions(leaders: set[int]) -> None:
    """Kills what workers have started whose zygote is gone: it cannot do that any more."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - all processes of the machine
        if entry.isdigit():
            with contextlib.suppress(OSError, ProcessLookupError):
                if os.getsid(int(entry)) in leaders:
                    os.kill(int(entry), signal.SIGKILL)


def interpreter() -> tuple[str, list[str]]:
    """The engine's own interpreter, and what it looks for modules in."""
    return sys.executable, [place for place in sys.path if place]
