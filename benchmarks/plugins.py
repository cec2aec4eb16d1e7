"""Plugins: how long it takes to list many, to start with many, to reload one."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import percentile, quiet, table

from walmill.engine import Engine
from walmill.options import EngineOptions

WALMILL = (sys.executable, "-c", "from walmill.cli.main import main; main()")
MODULE = '''
"""Plugin {number}."""
from walmill_hookspecs import hookimpl, setting, settings

@settings
class Settings:
    into: str = setting("a table", default="x")

@hookimpl
def register_settings():
    return Settings

@hookimpl
def on_write(batch, ctx):
    pass
'''


def install(site: Path, count: int) -> None:
    """Puts so many distributions, one plugin each, into a directory, as pip would."""
    for number in range(count):
        (site / f"benched_{number}.py").write_text(MODULE.format(number=number))
        about = site / f"benched_{number}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: benched-{number}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[walmill]\nbenched-{number} = benched_{number}\n")
        (about / "RECORD").write_text(f"benched_{number}.py,sha256={number},{len(MODULE)}\n")


def timed(rounds: int, ask: Callable[[], Any]) -> list[float]:
    """Seconds that each call took."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        found.append(time.perf_counter() - began)
    return found


def listing(rounds: int) -> list[list[str]]:
    """`walmill plugin list` in a process of its own, beside one that only says which version it is."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        site = Path(place, "site")
        site.mkdir()
        install(site, 50)
        environ = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(Path(place, "cache"))}

        def run(*command: str, **more: str) -> None:
            subprocess.run([*WALMILL, *command], env={**environ, **more}, check=True, capture_output=True, cwd=place)

        rows.append(["walmill --version", *shown(timed(rounds, lambda: run("--version")))])
        few = {"PYTHONPATH": ""}
        rows.append(["plugin list, 5 plugins", *shown(timed(rounds, lambda: run("plugin", "list", **few)))])
        rows.append(["plugin list, 55 plugins, first time", *shown(timed(1, lambda: run("plugin", "list")))])
        rows.append(["plugin list, 55 plugins", *shown(timed(rounds, lambda: run("plugin", "list")))])
    return rows


def shown(seconds: list[float]) -> list[str]:
    """Median and p99 as milliseconds."""
    return [f"{percentile(seconds, 0.5) * 1e3:.0f}", f"{percentile(seconds, 0.99) * 1e3:.0f}"]


def starting(rounds: int) -> list[list[str]]:
    """`walmill serve` from its start until it is ready: with nothing, and with 50 plugins and 200 triggers."""
    rows = []
    for plugins, triggers in ((0, 0), (50, 200)):
        with tempfile.TemporaryDirectory() as place:
            site = Path(place, "site")
            site.mkdir()
            install(site, plugins)
            environ = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(Path(place, "cache"))}
            sys.path.append(str(site))
            with Engine.open(EngineOptions(data_dir=Path(place, "walmill-data"))) as engine:
                for number in range(triggers):
                    engine.create_trigger(
                        database="d", name=f"t{number}", plugin=f"benched-{number % 50}", spec=f"table:m{number}"
                    )
            sys.path.remove(str(site))

            rows.append(
                [f"{plugins} plugins, {triggers} triggers", *shown([listening(environ, place) for _ in range(rounds)])]
            )
    return rows


def listening(environ: dict[str, str], place: str) -> float:
    """Seconds from the start of a server until it listens."""
    began = time.perf_counter()
    command = [*WALMILL, "serve", "--http-bind", "127.0.0.1:0", "--without-auth"]
    with subprocess.Popen(command, env=environ, cwd=place, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if json.loads(line)["event"] == "listening":
                break
        seconds = time.perf_counter() - began
        process.terminate()
        process.stderr.read()
    return seconds


RELOADED = """
from walmill_hookspecs import hookimpl
VERSION = {version}
@hookimpl
def on_write(batch, ctx):
    ctx.write(f"seen version={{VERSION}}i")
"""


def reloading(rounds: int) -> list[list[str]]:
    """From the end of the save of a file until a run begins that has the new code; a row comes each 2 ms."""
    rows = []
    for executor in ("process", "inline"):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "plugins")
            folder.mkdir()
            path = folder / "one.py"
            path.write_text(RELOADED.format(version=0))
            saved: dict[int, int] = {}
            with Engine.open(EngineOptions(data_dir=Path(place, "data"), plugin_dir=folder)) as engine:
                engine.create_trigger(database="d", name="t", plugin="one", spec="table:cpu", executor=executor)
                stop = threading.Event()

                def write(engine: Engine = engine, stop: threading.Event = stop) -> None:
                    while not stop.wait(0.002):
                        engine.write("cpu v=1", database="d")

                writer = threading.Thread(target=write)
                writer.start()
                for version in range(1, rounds + 1):
                    time.sleep(0.3)
                    path.write_text(RELOADED.format(version=version))
                    saved[version] = time.time_ns()
                time.sleep(1)
                stop.set()
                writer.join()
                sql = "SELECT version, CAST(min(time) AS BIGINT) AS t FROM seen WHERE version > 0 GROUP BY version"
                first = {row["version"]: row["t"] for row in engine.query(sql, database="d").to_pylist()}
            assert len(first) == rounds
            rows.append([executor, *shown([(first[version] - saved[version]) / 1e9 for version in saved])])
    return rows


def making(rounds: int) -> list[list[str]]:
    """`walmill plugin new`, and the tests of what it made: the unit tests and the contract tests, one process."""
    rows = []
    for hooks in ("write", "write,schedule,request,service"):
        made, tested = [], []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as place:
                ask = [*WALMILL, "plugin", "new", "--name", "benched", "--hooks", hooks, "--no-input", "-o", place]
                began = time.perf_counter()
                subprocess.run(ask, check=True, stdout=subprocess.DEVNULL)
                made.append(time.perf_counter() - began)
                project = Path(place, "walmill-benched")
                environ = {**os.environ, "PYTHONPATH": str(project / "src")}
                began = time.perf_counter()
                test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
                subprocess.run(test, check=True, cwd=project, env=environ, stdout=subprocess.DEVNULL)
                tested.append(time.perf_counter() - began)
        rows.append([f"plugin new --hooks {hooks}", *shown(made)])
        rows.append(["its tests", *shown(tested)])
    return rows


PARTS: dict[str, tuple[Callable[[int], list[list[str]]], str, list[str], int]] = {
    "list": (listing, "Listing plugins, ms", ["command", "p50", "p99"], 10),
    "start": (starting, "`walmill serve` until it listens, ms", ["with", "p50", "p99"], 5),
    "new": (making, "A new plugin and its tests, ms", ["command", "p50", "p99"], 5),
    "reload": (reloading, "From a save to the first run that has it, ms", ["executor", "p50", "p99"], 30),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which; else all")
    quiet()
    for part in parser.parse_args().parts or PARTS:
        measure, title, head, rounds = PARTS[part]
        table(title, head, measure(rounds))


if __name__ == "__main__":
    main()
