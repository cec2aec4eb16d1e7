"""A log in a bucket: what an acknowledgement costs by interval, and a start behind many objects, beside a log on the disk.

    uv run python benchmarks/remote_log.py [ack] [restart] [--share 1.0]

The bucket is one of SeaweedFS on this machine, so a request takes about 2 ms here, and 10 to 50 ms on S3 itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import percentile, quiet, table

from walmill.collector import calm_collector, short_turns
from walmill.engine import Engine
from walmill.objects.remote import RemoteStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.seaweed import BUCKET, seaweed, variables

INTERVALS = (None, 0.0, 0.1, 1.0)
"""Seconds; None for a log on the disk."""
SENDERS = (1, 20)


def opened(directory: Path, url: str | None, interval: float) -> Engine:
    return Engine.open(data_dir=directory, object_store=url, wal=url, flush_interval=interval, discover_plugins=False)


def ack(share: float, directory: Path) -> None:
    """Latency of one-line writes from senders that each wait for their answer, and frames a second."""
    rows = []
    for number, (interval, senders) in enumerate((one, many) for one in INTERVALS for many in SENDERS):
        url = None if interval is None else f"s3://{BUCKET}/ack-{number}"
        taken: list[float] = []
        with opened(directory / f"ack-{number}", url, interval or 0.0) as engine:
            engine.write("cpu v=0i 1", database="d")
            end = time.perf_counter() + 10 * share
            frames = engine.figures.frames

            def send(sender: int, engine: Engine = engine, end: float = end, taken: list[float] = taken) -> None:
                count = 0
                while time.perf_counter() < end:
                    count += 1
                    began = time.perf_counter()
                    engine.write(f"cpu,sender=s{sender} v={count}i {count}", database="d")
                    taken.append(time.perf_counter() - began)

            threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            frames = engine.figures.frames - frames
        rows.append(
            (
                "disk" if interval is None else f"bucket, {interval:g} s",
                senders,
                f"{1e3 * percentile(taken, 0.5):.1f}",
                f"{1e3 * percentile(taken, 0.99):.1f}",
                f"{len(taken) / (10 * share):,.0f}",
                f"{frames / (10 * share):,.1f}",
            )
        )
    table(
        "One-line writes, each waited for",
        ("log, interval", "senders", "p50 ms", "p99 ms", "writes/s", "frames/s"),
        rows,
    )


def restart(share: float, directory: Path) -> None:
    """Seconds until an engine is open again on a fresh machine, behind objects of 5,000 rows and behind small ones."""
    rows = []
    for name, count, lines in (("5,000 rows each", int(400 * share), 5000), ("one row each", int(10_000 * share), 1)):
        url = f"s3://{BUCKET}/restart-{lines}"
        with opened(directory / f"fill-{lines}", url, 0.0) as engine:
            for number in range(count):
                body = "\n".join(
                    f"cpu,host=h{line % 100} a={line}.5,b={line}i {number * lines + line}" for line in range(lines)
                )
                engine.write(body, database="d")
        size = sum(size for path, size in RemoteStore(url).list("log"))
        began = time.perf_counter()
        with opened(directory / f"again-{lines}", url, 0.0) as engine:
            taken = time.perf_counter() - began
            assert engine.view().sequence == count
        rows.append((name, f"{count:,}", f"{size / 2**20:,.0f}", f"{taken:.2f}"))
    table("A start on a fresh machine", ("objects", "number", "MiB", "seconds to open"), rows)


def main() -> None:
    quiet()
    calm_collector()
    short_turns()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=["ack", "restart", []])
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as temporary:
        directory = Path(temporary)
        (directory / "weed").mkdir()
        with seaweed(directory / "weed") as server, variables(server.environment):
            for name, run in (("ack", ack), ("restart", restart)):
                if name in (given.what or ["ack", "restart"]):
                    run(given.share, directory)


if __name__ == "__main__":
    main()
