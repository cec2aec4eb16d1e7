"""The reader process: reads one body after the other, against the schemas that the engine tells it.

It ends when the engine closes its sockets (also by dying), or when nothing came for a while. It keeps no state that matters.
"""

from __future__ import annotations

import gc
import selectors
import signal
import socket
import sys
from typing import Any

from walmill.ingest.errors import SlowBody
from walmill.ingest.precision import Precision
from walmill.ingest.reader import read_rows, scan
from walmill.model.schema import TableSchema
from walmill.reading.wire import Arena, Gone, pack, receive, send, unpack_schema

IDLE_SECONDS = 60.0
"""After so long without a body the process ends; the next body starts another one."""

Schemas = dict[int, dict[str, tuple[int, TableSchema | None]]]
"""What the engine told of each database: by table a version, and the schema; None for a table that is not there."""


def main(arguments: list[str]) -> None:
    """Serves the slots whose descriptors the arguments name: `socket,bodies,rows`, each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the engine, which ends us
    gc.freeze()
    schemas: Schemas = {}
    with selectors.DefaultSelector() as waiting:
        for argument in arguments:
            descriptor, *memory = map(int, argument.split(","))
            link = socket.socket(fileno=descriptor)
            waiting.register(link, selectors.EVENT_READ, (link, *map(Arena, memory)))
            try:
                send(link, {"ready": True})
            except Gone:
                return  # the engine was killed while we began
        while ready := waiting.select(IDLE_SECONDS):
            for key, _ in ready:
                link, bodies, rows = key.data
                try:
                    _answer(link, bodies, rows, schemas)
                except Gone:
                    return


def _answer(channel: socket.socket, bodies: Arena, rows: Arena, schemas: Schemas) -> None:
    request = receive(channel)
    try:
        reply = _read(request, channel, bodies.read(request["size"]), rows, schemas)
    except MemoryError:
        reply = {"memory": True}
    except SlowBody as slow:
        reply = {"slow": slow.lines}
    except Gone:
        raise
    except Exception as error:  # noqa: BLE001 - the engine reads the body itself then, and says what it says
        reply = {"failed": repr(error)}
    send(channel, reply)


def _read(
    request: dict[str, Any], channel: socket.socket, body: bytes, rows: Arena, schemas: Schemas
) -> dict[str, Any]:
    if request.get("forget"):
        schemas.clear()
    known = schemas.setdefault(request["database"], {})
    _learn(known, request["schemas"])
    scanned = scan(
        body,
        precision=Precision(request["precision"]),
        default_time=request["default_time"],
        slow_limit=request["slow_limit"],
    )
    if scanned.is_empty:
        return {"empty": True}
    tables = {group.table for group in scanned.groups} | {point.measurement for point in scanned.points}
    missing = sorted(tables - known.keys())
    if missing:
        send(channel, {"need": missing})
        _learn(known, receive(channel)["schemas"])
    made = read_rows(scanned, lambda name: known[name][1], accept_partial=request["accept_partial"])
    return {**pack(made, rows), "used": {name: known[name][0] for name in tables}}


def _learn(known: dict[str, tuple[int, TableSchema | None]], schemas: dict[str, Any]) -> None:
    for name, (version, schema) in schemas.items():
        known[name] = version, unpack_schema(name, schema)


if __name__ == "__main__":
    main(sys.argv[1:])
