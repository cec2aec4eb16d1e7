"""Writes rows until it is killed, and says which were acknowledged; two plugins copy and count them. Run by test_kill.py."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any

import structlog

from walmill.engine import Engine
from walmill_hookspecs import AsyncContext, Context, WriteBatch, hookimpl

DATABASE = "d"


def copies(batch: WriteBatch) -> list[dict[str, Any]]:
    return [{"k": row["k"], "v": row["v"], "time": row["time"]} for row in batch.tables["src"].rows()]


class Copy:
    """A plain hook: rows to another table, and their number to the state, in one commit."""

    @hookimpl
    def on_write(self, batch: WriteBatch, ctx: Context[Any]) -> None:
        ctx.cache.incr("rows", batch.num_rows)
        ctx.write(copies(batch), table="copy", tags=["k"])


class AsyncCopy:
    """The same, async."""

    @hookimpl
    async def on_write(self, batch: WriteBatch, ctx: AsyncContext[Any]) -> None:
        ctx.cache.incr("rows", batch.num_rows)
        ctx.write(copies(batch), table="async_copy", tags=["k"])


def open_engine(directory: Path, *, snapshots: bool = False, bucket: str | None = None) -> Engine:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    engine = Engine.open(
        data_dir=directory,
        discover_plugins=False,
        segment_bytes=2**16 if snapshots else 2**20,
        object_store=bucket,
        wal=bucket,
        flush_interval=0.0,
    )
    engine.register(Copy, name="copy")
    engine.register(AsyncCopy, name="async_copy")
    if not engine.triggers():
        for name in ("copy", "async_copy"):
            engine.create_trigger(database=DATABASE, name=name, plugin=name, spec="table:src")
    return engine


def write(engine: Engine, key: str, start: int) -> None:
    number = start
    while True:
        engine.write(f"src,k={key} v={number}i {number}", database=DATABASE)
        sys.stdout.write(f"{key} {number};\n")
        sys.stdout.flush()
        number += 1


def take_snapshots(engine: Engine) -> None:
    while True:
        engine.snapshot()


if __name__ == "__main__":
    wanted = sys.argv[3] != "log"
    opened = open_engine(Path(sys.argv[1]), snapshots=wanted, bucket=sys.argv[4] if len(sys.argv) > 4 else None)
    if wanted:
        threading.Thread(target=take_snapshots, args=(opened,), daemon=True).start()
    for letter in "abc":
        threading.Thread(target=write, args=(opened, letter, int(sys.argv[2])), daemon=True).start()
    threading.Event().wait()
