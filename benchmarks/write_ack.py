"""How long a lone one-line write takes to be acknowledged."""

from __future__ import annotations

import time
from typing import Any

import httpx2
from common import engine, micro, percentile, table

from walmill.http.server import serving

COUNT = 500


def measure_python() -> list[Any]:
    """From Python, in the same process."""
    with engine() as mill:
        waits = []
        for turn in range(COUNT):
            started = time.perf_counter_ns()
            mill.write(f"cpu,host=a value={turn} {turn + 1}", database="bench")
            waits.append(time.perf_counter_ns() - started)
            time.sleep(0.005)
        syncs = list(mill.figures.sync_ns)
    return [
        "Engine.write",
        COUNT,
        micro(percentile(waits, 0.5)),
        micro(percentile(waits, 0.99)),
        micro(percentile(syncs, 0.5)),
        micro(percentile(syncs, 0.99)),
    ]


def measure_http() -> list[Any]:
    """Over HTTP on loopback; the client is in the same process, and its time is part of the figure."""
    with (
        engine() as mill,
        serving(mill, "127.0.0.1", 0, without_auth=True) as url,
        httpx2.Client(base_url=url) as client,
    ):
        waits = []
        for turn in range(COUNT):
            body = f"cpu,host=a value={turn} {turn + 1}"
            started = time.perf_counter_ns()
            answer = client.post("/api/v3/write_lp", params={"db": "bench", "precision": "ns"}, content=body)
            waits.append(time.perf_counter_ns() - started)
            assert answer.status_code == 204, answer.text
            time.sleep(0.005)
        syncs = list(mill.figures.sync_ns)
    return [
        "POST /api/v3/write_lp",
        COUNT,
        micro(percentile(waits, 0.5)),
        micro(percentile(waits, 0.99)),
        micro(percentile(syncs, 0.5)),
        micro(percentile(syncs, 0.99)),
    ]


if __name__ == "__main__":
    table(
        "A lone one-line write, until it is acknowledged",
        ("way", "writes", "p50", "p99", "fdatasync p50", "fdatasync p99"),
        [measure_python(), measure_http()],
    )
