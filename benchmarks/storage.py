"""Storage: how fast snapshots are and how small their files, what they cost others, memory with much on disk, restarts.

    uv run python benchmarks/storage.py [snapshot] [order] [beside] [memory] [restart] [--share 1.0] [--rounds 3]

Without names all of them run, about twenty minutes and 20 GB of disk. `--share 0.05` is a try.
"""

from __future__ import annotations

import argparse
import gc
import io
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import percentile, quiet, table
from shapes import HOSTS, STEP, shapes, wide

from walmill.collector import calm_collector, short_turns
from walmill.engine import Engine
from walmill.snapshot.due import Limits

NEVER = Limits(buffer_bytes=2**50, log_bytes=2**50, age=2**62, memory_bytes=2**60)
GIB = 2**30
TAGS = {
    "hostname",
    "region",
    "datacenter",
    "rack",
    "os",
    "arch",
    "team",
    "service",
    "service_version",
    "service_environment",
}


@contextmanager
def place() -> Iterator[Path]:
    """A fresh directory on this disk."""
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
        yield Path(directory)


def opened(directory: Path, **more: Any) -> Engine:
    """An engine as `walmill serve` has it."""
    calm_collector()
    short_turns()
    return Engine.open(data_dir=directory, discover_plugins=False, **more)


def fill(engine: Engine, rows: int, round_number: int, *, mix: bool = False, kind: str = "wide") -> float:
    """Writes rows of a shape, 5,000 a request; `mix` gives them in random order of time. Seconds."""
    shape = shapes(1.0)[kind]._replace(requests=max(1, rows // 5000))
    bodies = list(shape.bodies(round_number))
    if mix:
        chance = random.Random(round_number)
        lines = b"\n".join(bodies).split(b"\n")
        chance.shuffle(lines)
        bodies = [b"\n".join(lines[place : place + 5000]) for place in range(0, len(lines), 5000)]
    began = time.perf_counter()
    for body in bodies:
        engine.write(body, database="d")
    return time.perf_counter() - began


# ---- snapshot


def by_series(rows: pa.Table) -> pa.Table:
    """The rows sorted as files are: by tags, then time."""
    tags = [name for name in rows.column_names if name in TAGS]
    return rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in (*tags, "time")]))


def snapshot(share: float, rounds: int) -> None:
    """Rows a second, and bytes a row against pyarrow and DuckDB writing the same rows, sorted, with zstd."""
    for kind, name, what in (("narrow", "mem", "2 tags + 3 fields"), ("wide", "cpu", "10 tags + 10 fields")):
        _snapshot(share, rounds, kind, name, what)


def _snapshot(share: float, rounds: int, kind: str, name: str, what: str) -> None:
    rows = int(2_000_000 * share)
    rates, loops, sizes = [], [], {"walmill": 0, "pyarrow": 0, "DuckDB": 0}
    count = 0
    for turn in range(rounds):
        with place() as directory, opened(directory, snapshots=NEVER) as engine:
            fill(engine, rows, turn, kind=kind)
            plain = by_series(engine.query(f"SELECT * FROM {name}", database="d"))
            count = plain.num_rows
            gc.collect()
            began = time.perf_counter()
            engine.snapshot()
            rates.append(count / (time.perf_counter() - began))
            sizes["walmill"] = sum(one.stat().st_size for one in directory.rglob("*.parquet"))
            shuffled = plain.take(pa.array(np.random.default_rng(turn).permutation(count)))
            began = time.perf_counter()
            sink = io.BytesIO()
            pq.write_table(by_series(shuffled), sink, compression="zstd")
            loops.append(count / (time.perf_counter() - began))
            sizes["pyarrow"] = sink.tell()
            target = directory / "duckdb.parquet"
            duckdb.sql(f"COPY (FROM plain) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
            sizes["DuckDB"] = target.stat().st_size
    rate, loop = statistics.median(rates), statistics.median(loops)
    table(
        f"A snapshot of {count:,} rows of {what}",
        ("what", "rows/s, median", "range", "bytes/row", "of pyarrow's", "of DuckDB's"),
        [
            [
                "walmill",
                f"{rate:,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"{sizes['walmill'] / count:.2f}",
                f"{sizes['walmill'] / sizes['pyarrow']:.2f}",
                f"{sizes['walmill'] / sizes['DuckDB']:.2f}",
            ],
            [
                "pyarrow, sort and write",
                f"{loop:,.0f}",
                f"{min(loops):,.0f} to {max(loops):,.0f}",
                f"{sizes['pyarrow'] / count:.2f}",
                "1.00",
                "",
            ],
            ["DuckDB, write", "", "", f"{sizes['DuckDB'] / count:.2f}", "", "1.00"],
        ],
    )


# ---- order


def order(share: float, rounds: int) -> None:
    """Writing at random out of order, against in order, until all of it is in files and joined."""
    rows = int(1_500_000 * share)
    small = Limits(buffer_bytes=64 * 2**20, log_bytes=64 * 2**20)
    found: dict[bool, list[float]] = {False: [], True: []}
    written: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(rounds):
        for mix in (False, True):
            with place() as directory, opened(directory, snapshots=small, join_rate=0) as engine:
                began = time.perf_counter()
                written[mix].append(rows / fill(engine, rows, turn, mix=mix))
                engine.snapshot()
                engine.tidy()
                found[mix].append(rows / (time.perf_counter() - began))
    plain, mixed = statistics.median(found[False]), statistics.median(found[True])
    table(
        f"{rows:,} rows of 10 tags + 10 fields in order of time, and at random, one sender",
        ("order", "acknowledged rows/s", "rows/s until all are in files and joined", "cost"),
        [
            ["in order", f"{statistics.median(written[False]):,.0f}", f"{plain:,.0f}", "1.00"],
            ["at random", f"{statistics.median(written[True]):,.0f}", f"{mixed:,.0f}", f"{plain / mixed:.2f}"],
        ],
    )


# ---- beside


def _times(work: Callable[[int], object], seconds: float, until: Callable[[], bool] | None = None) -> list[float]:
    """How long each call takes, ms."""
    found = []
    end = time.perf_counter() + seconds
    number = 0
    while (time.perf_counter() < end) if until is None else not until():
        began = time.perf_counter()
        work(number)
        found.append((time.perf_counter() - began) * 1e3)
        number += 1
        time.sleep(0.001)
    return found


def beside(share: float, rounds: int) -> None:
    """Acknowledgements and queries while a snapshot and joins run, against an idle engine."""
    rows = int(1_000_000 * share)
    results: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds):
        with place() as directory, opened(directory, snapshots=NEVER, join_rate=64 * 2**20) as engine:
            for part in range(3):
                fill(engine, rows, 3 * turn + part, mix=True)
                if part < 2:
                    engine.snapshot()

            def write(number: int) -> None:
                engine.write(f"one,host=h{number % 100} v={number}i {number * STEP}", database="d")

            def query(number: int) -> None:
                sql = f"SELECT max(usage_user) FROM cpu WHERE hostname = 'host_{number % HOSTS}' AND time < now()"
                engine.query(sql, database="d")

            works = (("one-line write", write), ("query of one series", query))
            query(0)  # who asks first finds out which of the rows in memory repeat each other: no snapshot's doing
            for what, work in works:
                results.setdefault((what, "idle"), []).extend(_times(work, 5 * share + 1))
            for what, work in works:
                done = threading.Event()

                fill(engine, rows // 2, 50 + turn, mix=True)
                query(0)
                snapshotting = threading.Thread(
                    target=lambda finished=done: (engine.snapshot(), engine.tidy(), finished.set())
                )
                snapshotting.start()
                results.setdefault((what, "snapshot and joins"), []).extend(_times(work, 0, done.is_set))
                snapshotting.join()
    lines = []
    for what in ("one-line write", "query of one series"):
        idle, loaded = results[what, "idle"], results[what, "snapshot and joins"]
        for name, values in (("idle", idle), ("snapshot and joins", loaded)):
            ratio = percentile(values, 0.99) / percentile(idle, 0.99)
            added = percentile(values, 0.99) - percentile(idle, 0.99)
            lines.append(
                [
                    what,
                    name,
                    len(values),
                    f"{percentile(values, 0.5):.2f} ms",
                    f"{percentile(values, 0.99):.2f} ms",
                    f"{max(values):.1f} ms",
                    f"{ratio:.2f}",
                    f"{added:+.1f} ms",
                ]
            )
    table(
        "Beside a snapshot and joins",
        ("what", "beside", "calls", "p50", "p99", "longest", "p99 of idle", "added"),
        lines,
    )


# ---- memory


def memory(share: float, rounds: int) -> None:
    """Resident memory of an engine that has just started on 100 million rows, and after a query over some of them."""
    del rounds
    rows = int(100_000_000 * share)
    with place() as directory:
        piece = 200_000
        limits = Limits(buffer_bytes=256 * 2**20, log_bytes=256 * 2**20)
        with opened(directory, snapshots=limits, join_rate=0) as engine:
            hosts = pa.array([f"host_{number}" for number in range(HOSTS)]).take(pa.array(np.arange(piece) % HOSTS))
            chance = np.random.default_rng(1)
            for start in range(0, rows, piece):
                times = 1_600_000_000 * 10**9 + (start + np.arange(piece)) // HOSTS * 10 * 10**9
                batch = pa.table(
                    {
                        "host": hosts,
                        "v": chance.normal(50, 10, piece).round(2),
                        "w": chance.integers(0, 100, piece),
                        "time": pa.array(times, pa.timestamp("ns", "UTC")),
                    }
                )
                engine.write(batch, table="cpu", tags=["host"], database="d")
            engine.snapshot()
            engine.tidy()
        files = list(directory.rglob("*.parquet"))
        size = sum(one.stat().st_size for one in files)
        out = subprocess.run(
            [sys.executable, __file__, "--resident", str(directory)], capture_output=True, text=True, check=False
        )
        assert out.returncode == 0, out.stderr
        idle, asked, count = out.stdout.split()
        table(
            "Resident memory with much on disk",
            ("rows", "files", "bytes", "idle", "after a query of a day"),
            [
                [
                    f"{int(count):,}",
                    len(files),
                    f"{size / GIB:.2f} GiB",
                    f"{int(idle) / 2**20:.0f} MiB",
                    f"{int(asked) / 2**20:.0f} MiB",
                ]
            ],
        )


def resident(directory: str) -> None:
    """What the fresh process does: it starts, settles, says its memory; then it asks for a day."""
    quiet()
    with opened(Path(directory)) as engine:
        time.sleep(3)
        idle = psutil.Process().memory_info().rss
        sql = "SELECT host, avg(v) FROM cpu WHERE time < to_timestamp_seconds(1600086400) GROUP BY host"
        engine.query(sql, database="d")
        asked = psutil.Process().memory_info().rss
        count = engine.query("SELECT count(*) AS n FROM cpu", database="d")["n"].to_pylist()[0]
        print(idle, asked, count)


# ---- restart


def restart(share: float, rounds: int) -> None:
    """How long a start takes, from the fork of a process to an engine that is ready."""
    lines = []
    body = "\n".join(wide(host) % (1_700_000_000_000_000_000 + host) for host in range(5000))

    def large(engine: Engine, size: int) -> None:
        number = 0
        while sum(one.end for one in engine.segments) < size:
            number += 1
            lines = body.replace("17000000", f"17{number:06d}")
            engine.write(lines, database="d")

    def many_files(engine: Engine) -> None:
        engine.write("\n".join(f"t{number} v=1 1" for number in range(int(10_000 * share))), database="d")
        engine.snapshot()
        large(engine, int(250 * 2**20 * share))

    def gigabyte(engine: Engine) -> None:
        large(engine, int(GIB * share))

    def commits(engine: Engine) -> None:
        waiting = []
        for number in range(int(100_000 * share)):
            one = f'cpu,host=h{number % 1000} text="",v={number} {1_700_000_000_000_000_000 + number}'
            waiting.append(engine.submit(engine._writer.submission(one, "d")))
        for ticket in waiting:
            ticket.result(600)

    cases = (
        ("250 MiB of log, 10,000 files", many_files, 2),
        ("1 GiB of log, 5,000 rows a commit", gigabyte, 4),
        ("100,000 commits of one row", commits, 6),
    )
    for name, make, floor in cases:
        with place() as directory:
            with opened(directory, snapshots=NEVER) as engine:
                make(engine)
            found = []
            peak = 0
            for _ in range(rounds):
                out = subprocess.run(
                    [sys.executable, __file__, "--start", str(directory)], capture_output=True, text=True, check=False
                )
                assert out.returncode == 0, out.stderr
                seconds, highest = out.stdout.split()
                found.append(float(seconds))
                peak = max(peak, int(highest))
            lines.append(
                [
                    name,
                    f"{statistics.median(found):.2f} s",
                    f"{min(found):.2f} to {max(found):.2f} s",
                    f"{floor} s",
                    f"{peak / 2**20:.0f} MiB",
                ]
            )
    table("Restart", ("behind", "ready after, median", "range", "asked", "resident"), lines)


def start(directory: str) -> None:
    """What the fresh process does; the log is mapped, so what is resident includes what the kernel has cached of it."""
    quiet()
    began = time.perf_counter()
    with opened(Path(directory), snapshots=NEVER):
        print(time.perf_counter() - began, psutil.Process().memory_info().rss)


PARTS = {"snapshot": snapshot, "order": order, "beside": beside, "memory": memory, "restart": restart}


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resident")
    parser.add_argument("--start")
    given = parser.parse_args()
    if given.resident:
        resident(given.resident)
        return
    if given.start:
        start(given.start)
        return
    quiet()
    for name in given.parts or PARTS:
        PARTS[name](given.share, given.rounds)


if __name__ == "__main__":
    main()
