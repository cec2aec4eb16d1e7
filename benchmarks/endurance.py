"""Whether ingest keeps its rate: minutes of writes over HTTP with snapshots and joins, against one minute without.

    uv run python benchmarks/endurance.py [--minutes 10] [--shape wide]

The generator runs on the same two cores; it changes the times in ready bodies, so it costs the same all the time.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Sequence
from typing import overload

import load
from common import percentile, table
from ingest import _get, _resident, _rows, walmill
from shapes import shapes

STEPS = 5
"""Times of each series in a request, ten seconds apart."""
BEGIN = 1_700_000_000


class Bodies(Sequence[bytes]):
    """Requests that are made when they are sent."""

    def __init__(self, templates: list[bytes], start: int, count: int) -> None:
        self._templates = templates
        self._start = start
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._count)
            return Bodies(self._templates, self._start + start, stop - start)
        number = self._start + place
        body = self._templates[number % len(self._templates)]
        for step in range(STEPS):
            at = b"%010d" % (BEGIN + 10 * (STEPS * number + step))
            body = body.replace(b"@%d00000000" % step, at)
        return load.request("/api/v3/write_lp?db=bench&precision=ns", body)


def templates(shape: str) -> list[bytes]:
    """Bodies of 5,000 lines with a mark of ten bytes for the seconds of each of five times."""
    found = []
    for template in (one for _ in range(10) for one in shapes(1.0)[shape].templates):
        lines = template.decode().splitlines()
        assert len(lines) == 5000
        made = (line.replace("%d", f"@{place // 1000}00000000{0:09d}") for place, line in enumerate(lines))
        found.append(("\n".join(made) + "\n").encode())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--shape", default="wide", choices=["wide", "narrow"])
    given = parser.parse_args()
    bodies = templates(given.shape)
    connections = 4
    with walmill("--never") as (port, _):
        load.run(port, Bodies(bodies, 0, 8), connections)
        short = load.run(port, Bodies(bodies, 8, 2000), connections)
        first = 2000 * 5000 / short.seconds
    with walmill() as (port, pid):
        load.run(port, Bodies(bodies, 0, 8), connections)
        place = 8
        peak = 0.0
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(1.0):
                peak = max(peak, _resident(pid))

        threading.Thread(target=watch, daemon=True).start()
        began = time.perf_counter()
        windows: list[float] = []
        waits: list[int] = []
        statuses: dict[int, int] = {}
        sent = 0
        while time.perf_counter() - began < 60 * given.minutes:
            count = max(connections, int(20 * first / 5000))  # about 20 seconds
            done = load.run(port, Bodies(bodies, place, count), connections)
            place += count
            sent += count
            windows.append(count * 5000 / done.seconds)
            waits += done.waits
            for status, number in done.statuses.items():
                statuses[status] = statuses.get(status, 0) + number
        seconds = time.perf_counter() - began
        ended.set()
        rows = _rows(port)
        stored = json.loads(_get(port, "/api/v3/storage"))
    rate = sent * 5000 / seconds
    refused = sum(number for status, number in statuses.items() if status != 204)
    assert rows == (place - refused) * 5000, (rows, place, statuses)
    milliseconds = [one / 1e6 for one in waits]
    kept = stored["tables"]
    size = sum(one["file_bytes"] for one in kept) / 2**30
    table(
        f"{given.minutes:g} minutes of {shapes(1.0)[given.shape].name}",
        ("what", "measured"),
        [
            (f"lines/s for {short.seconds:.0f} s without a snapshot, another server", f"{first:,.0f}"),
            ("lines/s over all of it", f"{rate:,.0f}"),
            ("ratio", f"{rate / first:.2f}"),
            ("slowest and fastest 20 s, lines/s", f"{min(windows):,.0f} and {max(windows):,.0f}"),
            (
                "request p50 and p99",
                f"{percentile(milliseconds, 0.5):.0f} ms and {percentile(milliseconds, 0.99):.0f} ms",
            ),
            ("answers", ", ".join(f"{number:,} x {status}" for status, number in sorted(statuses.items()))),
            ("rows read back", f"{rows:,}"),
            ("snapshots, joins", f"{stored['work']['snapshots']}, {stored['work']['joins']}"),
            ("files, bytes of files", f"{sum(one['files'] for one in kept):,}, {size:.2f} GiB"),
            ("memory, anonymous, highest", f"{peak:,.0f} MiB"),
        ],
    )


if __name__ == "__main__":
    main()
