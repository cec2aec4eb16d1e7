"""How fast writes are taken in over HTTP: lines a second, acknowledged after fdatasync, with one trigger reading a column.

    uv run python benchmarks/ingest.py [SHAPE ...] [--rounds 5] [--share 1.0] [--peers]

Each shape is sent by a generator on the same two cores to a fresh server; in the same round, a bare loop in a process of its
own parses the same bodies, writes and syncs frames, and does nothing else. With `--peers`, VictoriaMetrics and InfluxDB 1.x
(from Debian's packages `victoria-metrics` and `influxdb`) get the same bodies of the two plain shapes in the same rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import load
import pyarrow as pa
from common import micro, percentile, table
from shapes import Shape, shapes

HERE = Path(__file__).parent
PEERED = ("wide", "narrow")


class Run(NamedTuple):
    """One run of one target."""

    rate: float
    waits: list[int]
    probes: list[int]
    cpu: float
    memory: float


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / 100  # its own and what its ended children took


def _family(pid: int) -> list[int]:
    """A process and what it started."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def _resident(pid: int) -> float:
    """Anonymous memory of a process, MiB; the mapped log is not counted."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def _get(port: int, path: str, method: str = "GET") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse().read()
    connection.close()
    return answer


@contextlib.contextmanager
def walmill(*flags: str) -> Iterator[tuple[int, int]]:
    """Port and process of a fresh Walmill; with `--never` it makes no snapshots."""
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "ingest_server.py"), directory, *flags], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()
            process.communicate(timeout=60)


@contextlib.contextmanager
def victoria() -> Iterator[tuple[int, int]]:
    """Port and process of a fresh VictoriaMetrics."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
        command = ["victoria-metrics", f"-storageDataPath={directory}", f"-httpListenAddr=127.0.0.1:{port}"]
        process = subprocess.Popen([*command, "-retentionPeriod=100y"], stderr=subprocess.DEVNULL)
        try:
            _wait(port, "/health")
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(60)


@contextlib.contextmanager
def influx() -> Iterator[tuple[int, int]]:
    """Port and process of a fresh InfluxDB 1.x with its default durability."""
    port, rpc = _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
        config = Path(directory, "influxdb.conf")
        config.write_text(
            f'reporting-disabled = true\nbind-address = "127.0.0.1:{rpc}"\n[meta]\ndir = "{directory}/meta"\n'
            f'[data]\ndir = "{directory}/data"\nwal-dir = "{directory}/wal"\nmax-series-per-database = 0\n'
            f'max-values-per-tag = 0\n[http]\nbind-address = "127.0.0.1:{port}"\nlog-enabled = false\n'
        )
        process = subprocess.Popen(
            ["influxd", "-config", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait(port, "/ping")
            _get(port, "/query?q=CREATE%20DATABASE%20bench", "POST")
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(60)


def _wait(port: int, path: str) -> None:
    ends = time.monotonic() + 20
    while True:
        try:
            _get(port, path)
            return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)


PATHS: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[tuple[int, int]]], str]] = {
    "walmill": (walmill, "/api/v3/write_lp?db=bench&precision=ns"),
    "VictoriaMetrics": (victoria, "/write?db=bench"),
    "InfluxDB 1.x": (influx, "/write?db=bench"),
}


def measure(target: str, shape: Shape, round_number: int, *, arrow: bool = False) -> Run:
    """Sends a shape to a fresh server, and reads back how many rows it has."""
    make, path = PATHS[target]
    kind = "text/plain"
    bodies: Iterator[bytes] = shape.bodies(round_number)
    if arrow:
        path, kind = "/api/v3/write_arrow?db=bench&table=cpu&tags=" + ",".join(arrow_tags()), "application/octet-stream"
        bodies = (as_arrow(body) for body in bodies)
    requests = [load.request(path, body, content_type=kind) for body in bodies]
    with make() as (port, pid):
        load.run(port, requests[: shape.connections], shape.connections)  # the server is warm and knows the series
        before = sum(map(_cpu, _family(pid)))
        done = load.run(port, requests[shape.connections :], shape.connections, probe=target == "walmill")
        spent = sum(map(_cpu, _family(pid))) - before
        memory = sum(map(_resident, _family(pid)))
        sent = len(requests) * shape.lines
        expected = {400} if shape.bad and target == "walmill" else {200, 204}
        assert set(done.statuses) <= expected, done.statuses
        if target == "walmill":
            read = _rows(port)
            accepted = sent - len(requests) * shape.bad
            assert read == accepted, f"{read} rows read back, {accepted} acknowledged"
    lines = len(done.waits) * shape.lines
    return Run(lines / done.seconds, done.waits, done.probes, spent / lines * 1e6, memory)


def _rows(port: int) -> int:
    """All rows of the database."""

    def ask(sql: str) -> list[dict[str, object]]:
        from urllib.parse import quote

        found = json.loads(_get(port, f"/api/v3/query_sql?db=bench&q={quote(sql)}"))
        assert isinstance(found, list), found
        return found

    names = [
        row["table_name"]
        for row in ask("SHOW TABLES")
        if row["table_schema"] == "public" or row["table_schema"] == "iox"
    ]
    return sum(int(str(ask(f'SELECT count(*) AS n FROM "{name}"')[0]["n"])) for name in names)


def arrow_tags() -> list[str]:
    """The tags of the wide shape."""
    from shapes import wide

    return [pair.split("=")[0] for pair in wide(0).split(" ")[0].split(",")[1:]]


def as_arrow(body: bytes) -> bytes:
    """A body of the wide shape as an Arrow IPC stream."""
    from walmill.ingest.precision import Precision
    from walmill.ingest.reader import read_rows, scan

    scanned = scan(body, precision=Precision.NANOSECOND, default_time=0)
    batch = read_rows(scanned, lambda _: None, accept_partial=False).tables["cpu"].batch
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def bare(shape: Shape, round_number: int) -> float:
    """Lines a second of the bare loop: parse, frame, sync."""
    out = subprocess.run(
        [sys.executable, __file__, "--bare", shape.name, str(round_number), str(shape.requests)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    return float(out.stdout)


def bare_loop(name: str, round_number: int, requests: int) -> None:
    """What the bare loop's process does."""
    from walmill.fs.local import LocalFS
    from walmill.ingest.precision import Precision
    from walmill.ingest.reader import read_rows, scan
    from walmill.wal.entry import Entry, Section
    from walmill.wal.log import Log
    from walmill.wal.rows import encode_rows

    shape = next(one for one in shapes().values() if one.name == name)._replace(requests=requests)
    bodies = list(shape.bodies(round_number))
    joined = max(1, 16 if shape.lines <= 100 else 1)
    work = [b"".join(bodies[place : place + joined]) for place in range(0, len(bodies), joined)]
    schemas: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
        log = Log.open(LocalFS(), directory, now_ns=time.time_ns)
        list(log.replay())
        began = 0.0
        warm = max(1, shape.connections // joined)
        for place, body in enumerate(work):
            if place == warm:
                began = time.perf_counter()
            made = read_rows(
                scan(body, precision=Precision.NANOSECOND, default_time=0),
                schemas.get,
                accept_partial=True,  # type: ignore[arg-type]
            )
            for rows in made.tables.values():
                if rows.name not in schemas:
                    from walmill.model.schema import TableSchema

                    schemas[rows.name] = TableSchema(rows.name).with_columns(rows.new_tags, rows.new_fields)
            sections = [
                Section("rows", {"table": 1, "rows": rows.batch.num_rows}, encode_rows(rows.batch))
                for rows in made.tables.values()
            ]
            log.append([Entry({"source": "client"}, tuple(sections))], {}, time.time_ns())
            log.sync()
        seconds = time.perf_counter() - began
        log.close()
    print((len(work) - warm) * joined * shape.lines / seconds)


def main() -> None:
    """Runs what is asked for and prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--arrow", action="store_true")
    parser.add_argument("--bare", nargs=3)
    given = parser.parse_args()
    if given.bare:
        bare_loop(given.bare[0], int(given.bare[1]), int(given.bare[2]))
        return
    known = shapes(given.share)
    wanted = [name for name in known if not given.shapes or name in given.shapes]
    peers = [one for one in PATHS if one != "walmill" and given.peers]
    for peer, binary in (("VictoriaMetrics", "victoria-metrics"), ("InfluxDB 1.x", "influxd")):
        if peer in peers and shutil.which(binary) is None:
            sys.exit(f"{peer} is not installed: apt-get install {binary.replace('influxd', 'influxdb')}")
    rows = []
    for name in wanted:
        shape = known[name]
        runs: dict[str, list[Run]] = {}
        loops: list[float] = []
        for turn in range(given.rounds):
            for target in ["walmill", *(peers if name in PEERED else [])]:
                runs.setdefault(target, []).append(measure(target, shape, turn))
            if name == "wide" and given.arrow:
                runs.setdefault("walmill, Arrow", []).append(measure("walmill", shape, turn, arrow=True))
            loops.append(bare(shape, turn))
        base = statistics.median(loops)
        for target, found in runs.items():
            rate = statistics.median(one.rate for one in found)
            waits = [wait for one in found for wait in one.waits]
            probes = [wait for one in found for wait in one.probes]
            rows.append(
                [
                    shape.name,
                    target,
                    f"{rate:,.0f}",
                    f"{min(one.rate for one in found):,.0f} to {max(one.rate for one in found):,.0f}",
                    f"{rate / base:.2f}" if target == "walmill" else "",
                    micro(percentile(waits, 0.5)),
                    micro(percentile(waits, 0.99)),
                    micro(percentile(probes, 0.99)) if probes else "",
                    f"{statistics.median(one.cpu for one in found):.2f}",
                    f"{statistics.median(one.memory for one in found):,.0f}",
                ]
            )
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        rows.append([shape.name, "bare loop", f"{base:,.0f}", "", "1.00", "", "", "", "", ""])
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    table(
        "Lines a second over HTTP, acknowledged after fdatasync",
        (
            "work",
            "target",
            "lines/s, median",
            "range",
            "of the bare loop",
            "p50",
            "p99",
            "/health p99",
            "cpu-s per million",
            "anonymous MiB",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
