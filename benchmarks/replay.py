"""How fast a log is replayed at start: rows of the wide shape in large commits, and commits of one row.

    uv run python benchmarks/replay.py [--rounds 5]

Each round writes a log of its own, closes it, and opens it in a fresh process; the time is that of `Engine.open`, with series ids
and newest times rebuilt. The bare loop in the same round reads and checks the frames and does nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import quiet, table
from shapes import shapes

from walmill.collector import calm_collector
from walmill.engine import Engine
from walmill.store.submission import Ticket

ROWS = 500_000
COMMITS = 30_000


def fill(directory: Path, kind: str, round_number: int) -> int:
    """Writes a log; returns what there is to replay of its kind: rows, or commits."""
    with Engine.open(data_dir=directory, discover_plugins=False) as engine:
        if kind == "rows":
            shape = shapes(1.0)["wide"]._replace(requests=ROWS // 5000)
            for body in shape.bodies(round_number):
                engine.write(body, database="d")
            return ROWS
        waiting: list[Ticket] = []
        for number in range(COMMITS):
            # of a size that is not joined with others: each is a commit
            body = f'cpu,host=h{number % 1000} text="",v={number} {1_700_000_000_000_000_000 + number}'
            waiting.append(engine.submit(engine._writer.submission(body, "d")))
        for ticket in waiting:
            ticket.result(60)
        assert engine.figures.commits >= COMMITS, engine.figures
        return COMMITS


def timed(directory: str, bare: bool) -> None:
    """What the fresh process does."""
    quiet()
    calm_collector()
    if bare:
        from walmill.fs.local import LocalFS
        from walmill.wal.log import Log

        started = time.perf_counter()
        log = Log.open(LocalFS(), str(Path(directory, "wal")), now_ns=time.time_ns)
        for _ in log.replay():
            pass
        print(time.perf_counter() - started)
        log.close()
        return
    started = time.perf_counter()
    engine = Engine.open(data_dir=Path(directory), discover_plugins=False)
    for rows in engine.view().tables.values():
        assert rows.overlaps is not None  # the newest time of each series is known then
    print(time.perf_counter() - started)
    engine.close()


def measure(directory: Path, *, bare: bool) -> float:
    """Seconds in a fresh process."""
    command = [sys.executable, __file__, "--open", str(directory), *(["--bare"] if bare else [])]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return float(out.stdout)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open")
    parser.add_argument("--bare", action="store_true")
    given = parser.parse_args()
    if given.open:
        timed(given.open, given.bare)
        return
    quiet()
    rows = []
    for kind, unit in (("rows", "rows of 10 tags + 10 fields, 5,000 a commit"), ("commits", "commits of one row")):
        rates: list[float] = []
        loops: list[float] = []
        for turn in range(given.rounds):
            with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
                count = fill(Path(directory), kind, turn)
                loops.append(count / measure(Path(directory), bare=True))
                rates.append(count / measure(Path(directory), bare=False))
        rate, base = statistics.median(rates), statistics.median(loops)
        rows.append([unit, f"{rate:,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", f"{rate / base:.2f}"])
    table("Replay at start, a second", ("what", "replayed, median", "range", "of reading the frames only"), rows)


if __name__ == "__main__":
    main()
