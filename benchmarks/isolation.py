"""Hooks in worker processes beside inline ones: from durable to the first line, throughput, what a run asks for, starts."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import uvicorn
from common import micro, percentile, quiet, table
from hook_latency import bodies
from load import request, run
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from walmill import create_app
from walmill.collector import calm_collector, short_turns
from walmill.engine import Engine
from walmill.errors import WalmillError

CODE = '''
import time
from typing import Any
from walmill_hookspecs import hookimpl

class Nothing:
    """Does nothing."""
    @hookimpl
    def on_write(self, batch):
        pass

class Reads:
    """Reads a column."""
    @hookimpl
    def on_write(self, batch):
        for one in batch.tables.values():
            one.data.column("user").chunk(0).to_numpy()[-1]

class Asks:
    """Measures what it asks for."""
    @hookimpl
    def on_write(self, batch, ctx):
        rows = batch.tables["cpu"].data
        for name, ask in (
            ("trivial query", lambda: ctx.query("SELECT 1 AS one")),
            ("write of 5,000 rows", lambda: ctx.write(rows, table="copy", tags=["host"])),
            ("cache.get", lambda: ctx.cache.get("nothing")),
            ("large query", lambda: ctx.query("SELECT user, system, n, host, time FROM big")),
        ):
            taken = []
            for _ in range(8 if name == "large query" else 60):
                began = time.perf_counter_ns()
                ask()
                taken.append(time.perf_counter_ns() - began)
            taken.sort()
            ctx.log.info("%s %d %d", name, taken[len(taken) // 2], taken[int(len(taken) * 0.99)])

class Burns:
    """Uses a processor for ever."""
    @hookimpl
    def on_write(self, batch):
        while True:
            pass

class Slow:
    """Takes a second."""
    @hookimpl
    def on_write(self, batch):
        time.sleep(1.0)

class Deaf:
    """Sleeps in C with signals blocked."""
    @hookimpl
    def on_write(self, batch):
        import ctypes, signal
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        ctypes.CDLL(None).sleep(60)

class Ticks:
    """Does nothing when it is due."""
    @hookimpl
    async def on_schedule(self):
        pass

class Answers:
    """Answers a request."""
    @hookimpl
    async def on_request(self, request):
        return "hello"
'''
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "walmill-apart"
version = "1.0"
dependencies = ["walmill-hookspecs>=0.1,<0.2"]
[project.entry-points.walmill]
apart = "walmill_apart"
[tool.hatch.build]
include = ["walmill_apart.py"]
"""
APART = '''
"""Does nothing, in an environment of its own."""
from walmill_hookspecs import hookimpl

@hookimpl
def on_write(batch):
    pass
'''
NAMES = ("Nothing", "Reads", "Asks", "Burns", "Slow", "Answers", "Deaf", "Ticks")


@contextmanager
def plugins() -> Iterator[None]:
    """The plugins as an installed distribution."""
    with tempfile.TemporaryDirectory(prefix="walmill-bench-") as directory:
        place = Path(directory)
        (place / "walmill_bench_isolation.py").write_text(CODE)
        about = place / "walmill_bench_isolation-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: walmill-bench-isolation\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(
            "[walmill]\n" + "".join(f"{name.lower()} = walmill_bench_isolation:{name}\n" for name in NAMES)
        )
        sys.path.append(directory)
        try:
            yield
        finally:
            sys.path.remove(directory)


@contextmanager
def engine(**more: Any) -> Iterator[Engine]:
    """An engine on a fresh directory on this disk."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
        opened = Engine.open(data_dir=Path(directory), **more)
        calm_collector()
        short_turns()
        try:
            yield opened
        finally:
            opened.close(1.0)


def trigger(mill: Engine, plugin: str, executor: str, spec: str = "table:cpu", **more: Any) -> None:
    """A trigger of one of the plugins."""
    mill.create_trigger(database="bench", name=plugin, plugin=plugin, spec=spec, executor=executor, **more)


def waits(mill: Engine) -> list[int]:
    """From durable to the first line of the hook, of all runs, ns."""
    time.sleep(0.6)  # history is written a quarter of a second late
    found = mill.query(
        "SELECT wait_ns FROM runs WHERE database = 'bench' AND status = 'ok' AND hook = 'on_write' ORDER BY time",
        database="_internal",
    )
    return list(found.column(0).to_pylist())


def latency(executor: str, rows: int, rate: float, count: int) -> list[Any]:
    """One row of the table of latencies."""
    with engine() as mill:
        trigger(mill, "nothing", executor)
        prepared = bodies(rows, count + 3)
        for body in prepared[:3]:
            mill.write(body, database="bench")
            time.sleep(0.3)  # the worker is there, and the code has been used once
        due = time.perf_counter()
        for body in prepared[3:]:
            mill.write(body, database="bench")
            due += 1 / rate
            time.sleep(max(0.0, due - time.perf_counter()))
        found = waits(mill)[3:]
        syncs = list(mill.figures.sync_ns)[-count:]
    return [
        executor,
        f"{rows:,}",
        len(found),
        micro(percentile(found, 0.5)),
        micro(percentile(found, 0.99)),
        micro(percentile(syncs, 0.5)),
        micro(percentile(syncs, 0.99)),
    ]


def throughput(executor: str, count: int) -> float:
    """Rows a second through a hook that reads a column, in batches of 5,000 rows that are there already."""
    with engine() as mill:
        rows = 5000
        for body in bodies(rows, count):
            mill.write(body, database="bench")
        began = time.perf_counter()
        trigger(mill, "reads", executor, start="start", max_batch_rows=rows)
        while mill.run_counts.get(("bench", "reads", "ok"), 0) < count:
            time.sleep(0.01)
        return rows * count / (time.perf_counter() - began)


def asks(executor: str) -> dict[str, tuple[float, float]]:
    """Medians and p99 of what a run asks for, ns."""
    with engine() as mill:
        for number, body in enumerate(bodies(5000, 200)):
            mill.write(body.replace(b"cpu,", b"big,"), database="bench")
            del number
        trigger(mill, "asks", executor, limits={} if executor == "inline" else {"memory": "4GiB"})
        mill.write(bodies(5000, 1)[0], database="bench")
        for _ in range(600):
            time.sleep(0.1)
            if mill.run_counts.get(("bench", "asks", "ok")):
                break
        time.sleep(0.6)
        said = mill.query("SELECT text FROM logs ORDER BY time", database="_internal").column(0).to_pylist()
    found = {}
    for line in said:
        name, middle, most = line.rsplit(" ", 2)
        found[name] = (float(middle), float(most))
    return found


def ingest(mill: Engine, seconds: float) -> tuple[float, float]:
    """Lines a second of one writer with bodies of 5,000 lines, and the p99 of its acknowledgements, ns."""
    prepared = bodies(5000, 40)
    taken = []
    lines = 0
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        mill.write(prepared[len(taken) % 40], database="bench")
        taken.append((time.perf_counter() - began) * 1e9)
        lines += 5000
    return lines / seconds, percentile(taken, 0.99)


def beside(plugin: str | None, executor: str = "process") -> tuple[float, float]:
    """The same beside a trigger."""
    with engine() as mill:
        mill.write(bodies(1, 1)[0], database="bench")
        if plugin is not None:
            trigger(mill, plugin, executor, limits={} if executor == "inline" else {"timeout": "none"})
            mill.write(bodies(1, 1)[0], database="bench")
            time.sleep(1.0)
        return ingest(mill, 5.0)


def apart(mill: Engine) -> str:
    """Installs a plugin into an environment of its own, and gives its name."""
    with tempfile.TemporaryDirectory(prefix="walmill-bench-") as directory:
        place = Path(directory)
        (place / "pyproject.toml").write_text(PROJECT)
        (place / "walmill_apart.py").write_text(APART)
        mill.install_plugin(directory, lambda line: None)
    return "apart"


def starts(name: str) -> list[list[Any]]:
    """How long it takes until a worker answers, and until another one has taken the place of one that was killed.

    Args:
        name: What is said of the environment in the table.
    """
    import os
    import signal

    made, replaced = [], []
    with engine() as mill:
        plugin = apart(mill) if name == "its own" else "nothing"
        trigger(mill, plugin, "process")
        body = bodies(1, 200)
        mill.write(body[0], database="bench")
        while not mill.run_counts.get(("bench", plugin, "ok")):
            time.sleep(0.001)
        executor = mill._processes
        assert executor is not None
        worker = next(iter(executor._workers))

        async def take() -> float:
            began = time.perf_counter_ns()
            process = await executor.make(worker)
            spent = time.perf_counter_ns() - began
            await process.end(1.0)
            return spent

        async def replace() -> float:
            process = await executor.make(worker)
            gone = process._ended
            began = time.perf_counter_ns()
            os.kill(process.watched.pid, signal.SIGKILL)
            await gone
            other = await executor.make(worker)
            spent = time.perf_counter_ns() - began
            await other.end(1.0)
            return spent

        for _ in range(100):
            made.append(mill._mill.run(take()).result())
            replaced.append(mill._mill.run(replace()).result())
    return [
        ["start", name, micro(percentile(made, 0.5)), micro(percentile(made, 0.99))],
        ["kill and replacement", name, micro(percentile(replaced, 0.5)), micro(percentile(replaced, 0.99))],
    ]


def idle(count: int) -> list[list[Any]]:
    """Memory and processor time of idle workers."""
    from walmill.isolation.warden import cpu_of

    with engine() as mill:
        for number in range(count):
            mill.create_trigger(
                database="bench", name=f"t{number}", plugin="nothing", spec=f"table:t{number}", executor="process"
            )
        mill.write("\n".join(f"t{number} v=1" for number in range(count)), database="bench")
        while len(mill.worker_processes()["workers"]) < count or any(
            one["running"] for one in mill.worker_processes()["workers"]
        ):
            time.sleep(0.05)
        time.sleep(2.0)
        found = mill.worker_processes()
        pids = [one["pid"] for one in found["workers"]]
        sizes = [pss(pid) for pid in pids]

        def used() -> float:
            return time.process_time() + sum(cpu_of(pid) for pid in [*pids, found["zygote"]])

        before, began = used(), time.perf_counter()
        time.sleep(10.0)
        share = (used() - before) / (time.perf_counter() - began)
    return [[count, f"{sum(sizes) / len(sizes) / 2**20:.1f} MiB", f"{share:.2%}"]]


def pss(pid: int) -> int:
    """The proportional share of memory of a process, bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {}


def part(act: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """One part of this benchmark."""
    PARTS[act.__name__] = act
    return act


@part
def first_line(given: argparse.Namespace) -> None:
    """Durable to the first line."""
    rows = []
    for size, rate, count in ((1, 100, 400), (5000, 20, 150), (100_000, 2, 30)):
        for _ in range(given.rounds):
            rows += [latency(executor, size, rate, count) for executor in ("inline", "process")]
    head = ("executor", "rows a write", "runs", "p50", "p99", "fdatasync p50", "fdatasync p99")
    table("Durable to the first line of a plain hook", head, rows)


@part
def rate(given: argparse.Namespace) -> None:
    """Throughput."""
    rows = []
    for _ in range(given.rounds):
        inline, process = throughput("inline", 1000), throughput("process", 1000)
        rows.append([f"{inline:,.0f}", f"{process:,.0f}", f"{process / inline:.2f}"])
    table("Rows a second through a hook that reads a column, 5,000 a batch", ("inline", "process", "ratio"), rows)


@part
def ask(given: argparse.Namespace) -> None:
    """What a run asks for."""
    inline, process = asks("inline"), asks("process")
    rows = [
        [name, micro(inline[name][0]), micro(process[name][0]), micro(process[name][0] - inline[name][0])]
        for name in inline
    ]
    table("What a run asks the engine for, medians", ("call", "inline", "process", "difference"), rows)


@part
def noise(given: argparse.Namespace) -> None:
    """Ingest beside a plugin that burns, or that is slow."""
    rows = []
    for _ in range(given.rounds):
        for plugin in (None, "burns", "slow"):
            lines, most = beside(plugin)
            rows.append([plugin or "nothing", f"{lines:,.0f}", micro(most)])
    table("One writer, 5,000 lines a request, beside a plugin", ("beside", "lines/s", "p99"), rows)


@part
def life(given: argparse.Namespace) -> None:
    """Starts."""
    rows = [row for name in ("the server's", "its own") for row in starts(name)]
    table("Workers", ("what", "environment", "p50", "p99"), rows)


@part
def many(given: argparse.Namespace) -> None:
    """Idle workers."""
    table("Idle workers", ("workers", "PSS each", "of one core, engine and all workers"), idle(200))


def serve(mill: Engine) -> tuple[uvicorn.Server, threading.Thread, int]:
    """A server in a thread: the engine below /w, and a bare route beside it."""

    async def bare(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    routes = [
        Route("/bare", bare, methods=["POST"]),
        Mount("/w", create_app(mill, without_auth=True, close_engine=False)),
    ]
    config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, thread, server.servers[0].sockets[0].getsockname()[1]


def ask_often(port: int, path: str, connections: int, count: int) -> tuple[float, float, float]:
    """Requests a second, and what one took (p50, p99), ns."""
    found = run(port, [request(path, b"x")] * count, connections)
    assert set(found.statuses) == {200}, found.statuses
    return count / found.seconds, percentile(found.waits, 0.5), percentile(found.waits, 0.99)


@part
def requests(given: argparse.Namespace) -> None:
    """Requests: isolated, inline, and a bare route of Starlette, in one server; the load comes from another process."""
    rows = []
    with engine() as mill, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for executor in ("inline", "process"):
            mill.create_trigger(
                database="bench",
                name=executor,
                plugin="answers",
                spec=f"request:{executor}",
                executor=executor,
                max_concurrency=4,
                methods=["POST"],
            )
        server, thread, port = serve(mill)
        paths = {"bare": "/bare", "inline": "/w/api/v3/engine/inline", "process": "/w/api/v3/engine/process"}
        for _ in range(given.rounds):
            for connections, count in ((1, 1500), (16, 6000), (32, 6000)):
                for path in paths.values():
                    pool.submit(ask_often, port, path, connections, 300).result()
                found = {
                    name: pool.submit(ask_often, port, path, connections, count).result()
                    for name, path in paths.items()
                }
                rows += [
                    [
                        connections,
                        name,
                        f"{rate:,.0f}",
                        micro(middle),
                        micro(most),
                        f"{rate / found['inline'][0]:.2f}",
                        f"{rate / found['bare'][0]:.2f}",
                    ]
                    for name, (rate, middle, most) in found.items()
                ]
        server.should_exit = True
        thread.join()
    head = ("connections", "route", "requests/s", "p50", "p99", "of inline", "of bare")
    table("Answering requests", head, rows)


@part
def deadline(given: argparse.Namespace) -> None:
    """From the deadline of a run that blocks in C to its recorded end."""
    late = []
    with engine() as mill:
        trigger(mill, "deaf", "process", attempts=1, limits={"timeout": "300ms"})
        for turn in range(15 * given.rounds):
            mill.write(f"cpu v={turn} {turn}", database="bench")
            while mill.run_counts.get(("bench", "deaf", "failed"), 0) <= turn:
                time.sleep(0.001)
        time.sleep(0.6)
        found = mill.query(
            "SELECT duration_ns FROM runs WHERE trigger = 'deaf' AND status = 'failed'", database="_internal"
        )
        late = [one - 300_000_000 for one in found.column(0).to_pylist()]
    rows = [[len(late), micro(percentile(late, 0.5)), micro(percentile(late, 0.99)), micro(max(late))]]
    table(
        "A run of 300 ms that is deaf: how long after its deadline it had ended", ("runs", "p50", "p99", "most"), rows
    )


@part
def schedules(given: argparse.Namespace) -> None:
    """Schedules that are due at one instant: how long after it their hooks begin. APScheduler beside it, if it is there."""
    rows = []
    for count in (1000, 10_000):
        for _ in range(given.rounds):
            with engine() as mill:
                for number in range(count):
                    mill.create_trigger(
                        database="bench", name=f"t{number}", plugin="ticks", spec="every:20s", executor="inline"
                    )
                whole: list[list[int]] = []
                while len(whole) < 2:  # the second time everything is bound and warm
                    time.sleep(1.0)
                    whole = waits_of_ticks(mill, count)
                rows.append(["walmill", *late(whole[1])])
        if find_spec("apscheduler"):
            rows.append(["APScheduler, asyncio", *late(asyncio.run(other_ticks(count)))])
    table(
        "Schedules due at one instant, inline: from it to the first line",
        ("who", "schedules", "p50", "p99", "last"),
        rows,
    )


def late(waits: list[int]) -> list[object]:
    """What the table says of the waits after one due time, ns."""
    waits = sorted(waits)
    return [len(waits), micro(percentile(waits, 0.5)), micro(percentile(waits, 0.99)), micro(waits[-1])]


def waits_of_ticks(mill: Engine, count: int) -> list[list[int]]:
    """From the due time to the first line of the hook, ns: a list for each due time that all triggers had."""
    try:
        found = mill.query(
            "SELECT array_agg(wait_ns) FROM runs WHERE database = 'bench' AND hook = 'on_schedule' "
            f"GROUP BY scheduled_for HAVING count(*) = {count} ORDER BY scheduled_for",
            database="_internal",
        )
    except WalmillError:
        return []
    return list(found.column(0).to_pylist())


async def other_ticks(count: int) -> list[int]:
    """The same of APScheduler 3 with asynchronous jobs."""
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    waits: list[int] = []

    async def job() -> None:
        waits.append(time.time_ns() % (5 * 10**9))

    jobs = AsyncIOScheduler()
    for _ in range(count):
        jobs.add_job(job, "cron", second="*/5", misfire_grace_time=None)
    jobs.start()
    while len(waits) < 2 * count:
        await asyncio.sleep(0.1)
    jobs.shutdown()
    return waits[count : 2 * count]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with plugins():
        for name in given.parts or PARTS:
            PARTS[name](given)


if __name__ == "__main__":
    main()
