"""What a 10 MB body, made only of lines that the fast parser leaves to the slow one, adds to the waits of other writers.

    uv run python benchmarks/slow_body.py [--rounds 5]

Four senders write one line at a time to a server, alone and then while another connection sends such bodies without a pause. One
kind of body is refused line by line; in the other every line is good, and has other fields than those around it.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import threading
from collections.abc import Callable

import load
from common import micro, percentile, table
from ingest import walmill
from shapes import shapes

BODY_BYTES = 10 * 2**20
SENDERS = 4
PATH = "/api/v3/write_lp?db=bench&precision=ns"


def malformed() -> bytes:
    """Lines without a value."""
    line = b"weather,station=a temp=1.5,wind= 1700000000000000000\n"
    return line * (BODY_BYTES // len(line))


def uneven() -> bytes:
    """Good lines, of which no two neighbours have the same fields."""
    lines = []
    size = number = 0
    while size < BODY_BYTES - 400:
        chosen = [f"f{place}={number % 97}" for place in range(12) if (number * 2_654_435_761 >> place) & 1] or ["f0=1"]
        lines.append(f"uneven,station=s{number % 50} {','.join(chosen)} {1_700_000_000_000_000_000 + number}".encode())
        size += len(lines[-1]) + 1
        number += 1
    return b"\n".join(lines)


def measure(round_number: int, body: bytes | None) -> tuple[load.Load, int]:
    """The senders' waits, and how many bodies were answered meanwhile."""
    one = shapes(0.25)["one"]._replace(connections=SENDERS)
    requests = [load.request(PATH, line) for line in one.bodies(round_number)]
    answered = 0
    with walmill() as (port, _):
        load.run(port, requests[:200], SENDERS)
        ended = threading.Event()

        def send() -> None:
            nonlocal answered
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            while not ended.is_set():
                connection.request("POST", PATH, body)
                answer = connection.getresponse()
                answer.read()
                assert answer.status in (204, 400), answer.status
                answered += 1
            connection.close()

        sender = threading.Thread(target=send)
        if body is not None:
            sender.start()
        done = load.run(port, requests[200:], SENDERS, probe=True)
        ended.set()
        if body is not None:
            sender.join()
    return done, answered


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    kinds: list[tuple[str, Callable[[], bytes | None]]] = [
        ("alone", lambda: None),
        ("10 MB of malformed lines", malformed),
        ("10 MB of uneven lines", uneven),
    ]
    rows = []
    for name, make in kinds:
        body = make()
        runs = [measure(turn, body) for turn in range(given.rounds)]
        found = [one for one, _ in runs]
        rows.append(
            [
                name,
                micro(statistics.median(percentile(one.waits, 0.5) for one in found)),
                micro(statistics.median(percentile(one.waits, 0.99) for one in found)),
                micro(statistics.median(max(one.waits) for one in found)),
                micro(statistics.median(percentile(one.probes, 0.99) for one in found)),
                f"{statistics.median(count for _, count in runs):g}",
            ]
        )
    table(
        "Acknowledgement of one-line writes beside large bodies for the slow parser",
        ("beside", "p50", "p99", "longest", "/health p99", "bodies answered"),
        rows,
    )


if __name__ == "__main__":
    main()
