"""Writes rows until it is killed, while it kills its own workers and their zygote at random. Run by test_kill.py."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import structlog

from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.isolation.process import WorkerOptions

DATABASE = "d"
PLUGINS = {"copy": "Copy", "async_copy": "AsyncCopy", "wild": "Wild"}


def open_engine(directory: Path, *, idle: float = 300.0) -> Engine:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    place = directory / "plugins"
    if not place.exists():
        about = place / "walmill_crash_plugins-1.0.dist-info"
        about.mkdir(parents=True)
        (place / "crash_plugins.py").write_text((Path(__file__).parent / "plugins" / "crash_plugins.py").read_text())
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: walmill-crash-plugins\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(
            "[walmill]\n" + "".join(f"{name} = crash_plugins:{value}\n" for name, value in PLUGINS.items())
        )
    if str(place) not in sys.path:
        sys.path.append(str(place))
    engine = Engine.open(
        data_dir=directory / "data",
        allowed_plugins=tuple(PLUGINS),
        segment_bytes=2**18,
        workers=WorkerOptions(idle_seconds=idle),
    )
    there = {one["trigger_name"] for one in engine.triggers()}
    for name in PLUGINS.keys() - there:
        wild = name == "wild"
        engine.create_trigger(
            database=DATABASE,
            name=name,
            plugin=name,
            spec="table:src",
            executor="process",
            attempts=1 if wild else 1000,
            max_concurrency=4 if wild else 1,
            max_batch_rows=50,
            start="start",
        )
    return engine


def write(engine: Engine, key: str, start: int) -> None:
    number = start
    while True:
        engine.write(f"src,k={key} v={number}i {number}", database=DATABASE)
        sys.stdout.write(f"{key} {number};\n")
        sys.stdout.flush()
        number += 1


def murder(engine: Engine, chance: random.Random) -> None:
    while True:
        time.sleep(chance.uniform(0.005, 0.1))
        found = engine.worker_processes()
        victims = [one["pid"] for one in found["workers"]]
        victim = found["zygote"] if chance.random() < 0.1 else chance.choice(victims) if victims else None
        if victim is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)


def replay(engine: Engine, chance: random.Random) -> None:
    """Has dead letters given again, which fail again."""
    while True:
        time.sleep(chance.uniform(0.02, 0.1))
        with contextlib.suppress(InvalidRequest):
            engine.replay_trigger(DATABASE, "wild", "dead-letters")


if __name__ == "__main__":
    opened = open_engine(Path(sys.argv[1]))
    start = int(sys.argv[2])
    threading.Thread(target=murder, args=(opened, random.Random(start)), daemon=True).start()
    threading.Thread(target=replay, args=(opened, random.Random(-start)), daemon=True).start()
    for letter in "abc":
        threading.Thread(target=write, args=(opened, letter, start), daemon=True).start()
    threading.Event().wait()
