"""The server that the ingest benchmark writes to: as `walmill serve`, with one on_write trigger that reads a column."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pyarrow.compute as pc
from common import quiet

from walmill.collector import calm_collector, short_turns
from walmill.engine import Engine
from walmill.http.server import serving
from walmill.snapshot.due import Limits
from walmill_hookspecs import AsyncContext, WriteBatch, hookimpl


class Reader:
    """Reads a column of each table and keeps what it found."""

    rows = 0
    latest = 0

    @hookimpl
    async def on_write(self, batch: WriteBatch, ctx: AsyncContext[dict[str, str]]) -> None:
        """The newest time of each batch."""
        del ctx
        for table in batch.tables.values():
            Reader.latest = max(Reader.latest, pc.max(table.data["time"]).value)
            Reader.rows += table.num_rows


NEVER = Limits(buffer_bytes=2**50, log_bytes=2**50, age=2**62, memory_bytes=2**60)


def main(directory: str, *, snapshots: bool = True) -> None:
    """Serves until SIGTERM; prints the port."""
    quiet()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    limits = Limits() if snapshots else NEVER
    with Engine.open(
        data_dir=Path(directory), discover_plugins=False, reader_processes=True, snapshots=limits
    ) as engine:
        engine.register(Reader, name="reader")
        engine.create_database("bench")
        engine.create_trigger(database="bench", name="read", plugin="reader", spec="all_tables")
        calm_collector()
        short_turns()
        with serving(engine, without_auth=True) as url:
            print(url.rsplit(":", 1)[1], flush=True)
            ended.wait()
        print(Reader.rows, engine.figures.frames, engine.figures.commits, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], snapshots="--never" not in sys.argv)
