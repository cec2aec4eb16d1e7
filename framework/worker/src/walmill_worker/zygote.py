"""The zygote: a clean interpreter with Arrow imported, from which workers are forked in milliseconds.

The engine executes it (a fork of an engine with threads would hang), tells it over a socket to make workers, and hears from it
how each one ended. It has one thread and no loop. When the engine is gone, it kills what there is and ends; when it is gone
itself, the kernel kills its workers. What a worker has started belongs to it: when the worker ends, its descendants end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import shutil
import signal
import socket
import sys
import threading
from typing import Any

from attrs import define

from walmill_worker import PROTOCOL
from walmill_worker.processes import adopt_orphans, children, descendants, die_with_parent, kill_tree, set_name
from walmill_worker.wire import Gone, Receiver, close_all, send

OPEN_FILES = 1024
_LAST_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@define
class _Worker:
    number: int
    directory: str


class Zygote:
    """Makes workers, and tells how they end.

    Args:
        link: The socket to the engine.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._receiver = Receiver(link)
        self._workers: dict[int, _Worker] = {}
        self._place: str | None = None
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)

    def serve(self) -> None:
        """Does what the engine says until it goes away."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number in _LAST_SIGNALS:  # Ctrl-C in a terminal is for the engine, which ends us
            signal.signal(number, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        gc.collect()
        gc.freeze()
        try:
            send(self._link, {"op": "ready", "protocol": PROTOCOL, "pid": os.getpid()})
            while True:
                for descriptor, _ in poll.poll():
                    if descriptor == self._wake.fileno():
                        with contextlib.suppress(BlockingIOError):
                            while self._wake.recv(4096):
                                pass
                        self._reap()
                    else:
                        self._obey(*self._receiver.receive())
        except Gone:
            pass
        finally:
            kill_tree_below()
            for worker in self._workers.values():  # an engine that was killed cannot do it
                shutil.rmtree(worker.directory, ignore_errors=True)
            if self._place is not None:
                with contextlib.suppress(OSError):
                    os.rmdir(self._place)  # noqa: PTH106

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            match message["op"]:
                case "fork":
                    self._fork(message, descriptors)
                case "kill":
                    self._kill(message["n"])
        finally:
            close_all(descriptors)

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
        number, directory = message["n"], message["directory"]
        self._place = os.path.dirname(directory)  # noqa: PTH120
        try:
            os.mkdir(directory, 0o700)  # noqa: PTH102
            if threading.active_count() != 1:
                raise RuntimeError("the zygote has more than one thread; a process forked from it would hang")
            child = os.fork()
        except (OSError, RuntimeError) as error:
            send(self._link, {"op": "failed", "n": number, "why": str(error)})
            return
        if child == 0:
            self._become(message, descriptors)
        pidfd = os.pidfd_open(child)  # it cannot be reaped before: only we do that
        try:
            self._workers[child] = _Worker(number, directory)
            send(self._link, {"op": "forked", "n": number, "pid": child}, [pidfd])
        finally:
            os.close(pidfd)

    def _become(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """The rest of a worker's life."""
        status = 70
        try:
            parent = os.getppid()
            die_with_parent(parent)
            os.setsid()
            adopt_orphans()
            set_name(message["name"])
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (*_LAST_SIGNALS, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python itself has it
            link, output = (os.dup(one) for one in descriptors)
            for one in (self._link, self._wake, self._woken):
                one.close()
            close_all(descriptors)
            with open(os.devnull, "rb") as nothing:  # noqa: PTH123
                os.dup2(nothing.fileno(), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            os.set_inheritable(link, False)
            os.chdir(message["directory"])
            os.environ["TMPDIR"] = message["directory"]
            os.nice(message["nice"])
            limit_resources(message["memory"])
            from walmill_worker.child import main

            main(socket.socket(fileno=link))
            status = 0
        except BaseException as error:  # noqa: BLE001 - nothing may come back into the zygote's loop
            with contextlib.suppress(OSError):
                os.write(2, f"the worker could not start: {error!r}\n".encode())
        finally:
            os._exit(status)

    def _kill(self, number: int) -> None:
        for child, worker in self._workers.items():
            if worker.number == number:
                kill_tree(child)

    def _reap(self) -> None:
        """Takes leave of all that ended, and ends what they left behind."""
        while True:
            try:
                child, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if child == 0:
                break
            worker = self._workers.pop(child, None)
            if worker is None:
                continue  # an orphan
            shutil.rmtree(worker.directory, ignore_errors=True)
            send(
                self._link,
                {
                    "op": "ended",
                    "n": worker.number,
                    "status": status,
                    "cpu": usage.ru_utime + usage.ru_stime,
                    "peak": usage.ru_maxrss * 1024,
                },
            )
        # whatever is a child of ours now and no worker was started by a worker that has ended
        for orphan in children(os.getpid()):
            if orphan not in self._workers:
                kill_tree(orphan)


def kill_tree_below() -> None:
    """Kills all that descends from this process."""
    for _ in range(100):
        below = list(descendants(os.getpid()))
        if not below:
            return
        for one in below:
            kill_tree(one)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, 0)[0]:
                pass


def limit_resources(memory: int | None) -> None:
    """Limits that the system keeps in this process and in all that it starts.

    Args:
        memory: Bytes that it may allocate beyond what it has now; None for no limit. Files that are mapped do not count.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if memory is not None:
        limit = memory + data_bytes()
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def data_bytes() -> int:
    """The bytes of this process that RLIMIT_DATA counts."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def main(descriptor: int, path: list[str]) -> None:
    """Runs the zygote.

    Args:
        descriptor: Of its socket to the engine.
        path: The engine's `sys.path`: what can be imported there can be imported here. Empty in an environment of its own.
    """
    if path:
        sys.path[:] = path
    adopt_orphans()
    set_name("walmill-zygote")
    # what every worker needs, so that each fork shares it
    import numpy  # noqa: F401
    import pyarrow
    import pyarrow.compute  # noqa: F401

    import walmill_hookspecs  # noqa: F401
    import walmill_worker.child  # noqa: F401

    Zygote(socket.socket(fileno=descriptor)).serve()
