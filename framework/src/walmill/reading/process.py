"""A process that reads bodies of line protocol, so that the engine's interpreter is free for everything else meanwhile.

It is started with the first body, which is still read here, and again whenever it has ended. Whatever happens to it, nothing is
lost: a body that it does not answer is read here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

import structlog
from attrs import define, field, frozen

from walmill.ingest.assemble import Assembled
from walmill.ingest.errors import SlowBody
from walmill.ingest.precision import Precision
from walmill.model.schema import TableSchema
from walmill.reading.wire import Arena, Gone, pack_schema, receive, send, unpack

SLOTS = 2
"""While one body is read, the next one lies ready."""
_MOST_SCHEMAS = 1024  # so many schemas the process is told; then it forgets all
_OUTDATED = TableSchema("")  # stands for a schema that is forgotten: it is none that a table has
_START_SECONDS = 10.0
_RETRY_SECONDS = 60.0  # after a process could not be started

log = structlog.get_logger("walmill.reading")


@frozen
class Asked:
    """A body, and how it is to be read.

    Attributes:
        database: Id of the database; 0 if there is none yet.
        body: The body.
        precision: Unit of its timestamps.
        default_time: Time of lines without one, ns.
        accept_partial: Whether good lines are kept when others are bad.
        slow_limit: As for `ingest.reader.scan`.
    """

    database: int
    body: bytes
    precision: Precision
    default_time: int
    accept_partial: bool
    slow_limit: int | None


@frozen
class Answered:
    """What a body holds.

    Attributes:
        made: Rows and refused lines; None if there is nothing but comments and blank lines.
        schemas: The schema that was used, for each of its tables; None for one that was not there.
    """

    made: Assembled | None
    schemas: dict[str, TableSchema | None]


@define(eq=False)
class Slot:
    """A place for one body in a process: a socket to it, and memory that it maps as well."""

    channel: socket.socket
    bodies: Arena
    rows: Arena
    descriptors: tuple[int, int]
    running: _Running
    busy: bool = False

    def close(self) -> None:
        self.channel.close()
        self.bodies.close()
        self.rows.close()
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


@define(eq=False)
class _Running:
    """One process, and what it knows."""

    process: subprocess.Popen[bytes]
    lock: threading.Lock = field(factory=threading.Lock)
    known: dict[int, dict[str, TableSchema | None]] = field(factory=dict)
    versions: dict[int, TableSchema | None] = field(factory=dict)
    next_version: int = 1
    slots: list[Slot] = field(factory=list)
    ended: bool = False

    def changed(self, database: int, schema_of: Callable[[str], TableSchema | None]) -> dict[str, TableSchema | None]:
        """The schemas that are others than those that the process was told."""
        known = self.known.get(database, {})
        found = {name: (schema_of(name), schema) for name, schema in known.items()}
        return {name: now for name, (now, told) in found.items() if now is not told}

    def tell(self, database: int, schemas: Mapping[str, TableSchema | None]) -> dict[str, list[Any]]:
        """Schemas for a message; each gets a version, by which the process says what it used.

        What it knows then is a guess, since two messages may overtake each other; what it used is never one.
        """
        packed = {}
        self.known.setdefault(database, {}).update(schemas)
        for name, schema in schemas.items():
            self.versions[self.next_version] = schema
            packed[name] = [self.next_version, pack_schema(schema)]
            self.next_version += 1
        return packed


def possible() -> bool:
    """Whether this machine can do it, and gains by it: it needs memory files, and a second processor."""
    return hasattr(os, "memfd_create") and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1


class ReaderProcess:
    """Reads bodies in one process; for all threads.

    Args:
        name: For the log.
        slots: So many bodies may be with it at a time; it reads one after the other.
    """

    def __init__(self, name: str, slots: int = SLOTS) -> None:
        self._name = name
        self._count = slots
        self._free: SimpleQueue[Slot] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._keeper: threading.Thread | None = None
        self._not_before = 0.0
        self._closed = False

    def take(self, *, wait: float = 0.0) -> Slot | None:
        """A slot for one body, to be given to `read`; None if all are taken, or if the process is not there (yet).

        Args:
            wait: Seconds to wait for one.
        """
        while True:
            if self._running is None:
                self._start()
                return None
            try:
                slot = self._free.get(timeout=wait) if wait else self._free.get_nowait()
            except Empty:
                return None
            with self._lock:
                if not slot.running.ended:
                    slot.busy = True
                    return slot

    def give_back(self, slot: Slot) -> None:
        """Gives a slot back that was not used."""
        with self._lock:
            slot.busy = False
            ended = slot.running.ended
        if ended:
            slot.close()
        else:
            self._free.put(slot)

    def read(self, slot: Slot, asked: Asked, schema_of: Callable[[str], TableSchema | None]) -> Answered | None:
        """Has a body read; takes as long as that takes.

        Args:
            slot: From `take`; given back by this.
            asked: The body.
            schema_of: The schema of a table as it is now, None if there is none.

        Returns:
            What it holds; None if the process could not say, and the body has to be read here.

        Raises:
            SlowBody: If it has more slow lines than it may.
        """
        try:
            return self._read(slot, asked, schema_of)
        except Gone:
            self._end(slot.running)
            return None
        finally:
            self.give_back(slot)

    def _read(self, slot: Slot, asked: Asked, schema_of: Callable[[str], TableSchema | None]) -> Answered | None:
        running, database = slot.running, asked.database
        with running.lock:
            forget = len(running.versions) > _MOST_SCHEMAS
            if forget:
                running.known.clear()
                running.versions.clear()
            schemas = running.tell(database, running.changed(database, schema_of))
        slot.bodies.reserve(len(asked.body))
        slot.bodies.write([asked.body])
        request = {
            "size": len(asked.body),
            "database": database,
            "precision": asked.precision.value,
            "default_time": asked.default_time,
            "accept_partial": asked.accept_partial,
            "slow_limit": asked.slow_limit,
            "schemas": schemas,
            "forget": forget,
        }
        send(slot.channel, request)
        reply = receive(slot.channel)
        if "need" in reply:
            found = {name: schema_of(name) for name in reply["need"]}
            with running.lock:
                schemas = running.tell(database, found)
            send(slot.channel, {"schemas": schemas})
            reply = receive(slot.channel)
        if "slow" in reply:
            raise SlowBody(reply["slow"])
        if "failed" in reply:
            log.warning(
                "a body is read by the engine, since its reader could not", reader=self._name, reason=reply["failed"]
            )
            return None
        if "empty" in reply:
            return Answered(None, {})
        with running.lock:
            used = {name: running.versions.get(version, _OUTDATED) for name, version in reply["used"].items()}
            running.known.setdefault(database, {}).update(used)
        return Answered(unpack(reply, slot.rows), used)

    def _start(self) -> None:
        with self._lock:
            if self._closed or (self._keeper is not None and self._keeper.is_alive()):
                return
            if time.monotonic() < self._not_before:
                return
            self._keeper = threading.Thread(target=self._keep, name=f"walmill-{self._name}", daemon=True)
            self._keeper.start()

    def _keep(self) -> None:
        """Starts a process, hands out its slots, and stays with it until it ends."""
        running = self._launch()
        if running is None:
            self._not_before = time.monotonic() + _RETRY_SECONDS
            return
        with self._lock:
            closed = self._closed
            if not closed:
                self._running = running
        if not closed:
            for slot in running.slots:
                self._free.put(slot)
            running.process.wait()
        self._end(running)

    def _launch(self) -> _Running | None:
        links: list[tuple[socket.socket, socket.socket]] = []
        memory: list[tuple[int, int]] = []
        process = None
        try:
            for _ in range(self._count):
                links.append(socket.socketpair())
                memory.append((os.memfd_create("walmill-bodies"), os.memfd_create("walmill-rows")))
            given = [(other.fileno(), *pair) for (_, other), pair in zip(links, memory, strict=True)]
            process = subprocess.Popen(  # noqa: S603 - our own module, in our own interpreter
                [sys.executable, "-P", "-m", "walmill.reading.child", *(",".join(map(str, one)) for one in given)],
                pass_fds=[one for slot in given for one in slot],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            for _, other in links:
                other.close()
            running = _Running(process)
            for (mine, _), pair in zip(links, memory, strict=True):
                mine.settimeout(_START_SECONDS)
                receive(mine)  # it is there
                mine.settimeout(None)
                running.slots.append(Slot(mine, Arena(pair[0]), Arena(pair[1]), pair, running))
        except (OSError, Gone) as error:
            log.warning("a reader process could not be started; the engine reads by itself", reason=repr(error))
            for ends in links:
                for end in ends:
                    end.close()
            for descriptors in memory:
                for descriptor in descriptors:
                    os.close(descriptor)
            if process is not None:
                process.kill()
                process.wait()
            return None
        return running

    def _end(self, running: _Running) -> None:
        """Ends a process; what is still with it is answered with nothing."""
        with self._lock:
            if self._running is running:
                self._running = None
            if running.ended:
                return
            running.ended = True
            idle = [slot for slot in running.slots if not slot.busy]
        running.process.kill()
        running.process.wait()
        for slot in running.slots:
            with contextlib.suppress(OSError):
                slot.channel.shutdown(socket.SHUT_RDWR)
        for slot in idle:
            slot.close()

    def close(self) -> None:
        """Ends it."""
        with self._lock:
            self._closed = True
            running, keeper = self._running, self._keeper
        if running is not None:
            self._end(running)
        if keeper is not None:
            keeper.join(_START_SECONDS)
