"""What `walmill demo` does: start, replay, read back, compare, show."""

from __future__ import annotations

import io
import os
import shlex
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from walmill.cli.client import Client
from walmill.collector import calm_collector, short_turns
from walmill.demo.weather import TABLE, Observation, daily_means, days, observations
from walmill.engine import Engine
from walmill.errors import WalmillError
from walmill.http.server import serving
from walmill.options import EngineOptions
from walmill.units import format_time

DATABASE = "demo"
SETTLE_SECONDS = 60.0
DAY_SECONDS = 0.1
"""A day of weather is replayed in this time at speed 1."""
TRIGGERS: tuple[dict[str, Any], ...] = (
    {
        "trigger_name": "daily",
        "plugin": "downsample",
        "trigger_specification": f"table:{TABLE}",
        "trigger_arguments": {"window": "1d", "target": "weather_1d", "aggregates": "mean,min,max,count"},
    },
    {
        "trigger_name": "heat",
        "plugin": "alerts",
        "trigger_specification": f"table:{TABLE}",
        "trigger_arguments": {"field": "temp", "above": 90, "clear": 85, "severity": "warning"},
    },
    {
        "trigger_name": "silence",
        "plugin": "deadman",
        "trigger_specification": "every:5s",
        "trigger_arguments": {"table": TABLE, "timeout": "400d"},
    },
    {
        "trigger_name": "refresh",
        "plugin": "downsample",
        "trigger_specification": "every:10s",
        "trigger_arguments": {
            "source": TABLE,
            "window": "7d",
            "target": "weather_7d",
            "aggregates": "mean",
            "lookback": 60,
        },
    },
    {
        "trigger_name": "picture",
        "plugin": "chart",
        "trigger_specification": "request:chart",
        "trigger_arguments": {"record_table": "pictures"},
    },
)


class DemoFailure(Exception):
    """Something that the demo promises did not happen."""


@define
class _Show:
    """The demo's figures, all of them read back."""

    acknowledged: int = 0
    problems: list[str] = field(factory=list)


def run(
    *, exit: bool = False, speed: float = 1.0, port: int = 0, data_dir: Path | None = None, output: Path | None = None
) -> int:
    """Runs the demo.

    Args:
        exit: Whether to go as fast as possible and end; else it replays at `speed` and serves until Ctrl-C.
        speed: Days of weather per tenth of a second.
        port: Where to listen on loopback; 0 takes a free one.
        data_dir: Where the data goes; None takes a directory that is removed at the end.
        output: Where the picture goes; None puts it into the data directory.

    Returns:
        0 if everything that was read back is as it should be, else 1.
    """
    console = Console()
    with tempfile.TemporaryDirectory(prefix="walmill-demo-") as temporary:
        directory = data_dir if data_dir is not None else Path(temporary)
        try:
            if output is not None and not output.parent.is_dir():
                raise DemoFailure(f"the picture cannot be put into {str(output.parent)!r}, which is no directory")
            return _run(console, directory, output or directory / "chart.png", exit=exit, speed=speed, port=port)
        except (DemoFailure, WalmillError, OSError) as error:
            console.print(f"[bold red]The demo failed:[/] {escape(str(error))}", soft_wrap=True)
            return 1


def _run(console: Console, directory: Path, picture: Path, *, exit: bool, speed: float, port: int) -> int:
    options = EngineOptions(data_dir=directory, operator_token=True, shutdown_timeout=10.0)
    with Engine.open(options) as engine, serving(engine, "127.0.0.1", port) as url:
        calm_collector()
        short_turns()
        client = Client.local(url, directory)
        console.print(f"[bold]Walmill[/] serves [cyan]{url}[/], data in {escape(str(directory))}", soft_wrap=True)
        data = observations(time.time_ns())
        _create(client, console, directory)
        show = _Show()
        _replay(client, console, data, show, None if exit else DAY_SECONDS / max(speed, 1e-6))
        if exit:
            for name in ("silence", "refresh"):
                client.run_trigger(DATABASE, name)
        _settle(client, show)
        points = _draw(client, picture, show)
        _wait(lambda: _drawn(client), "the run that drew is not recorded", client, show)
        _report(client, console, data, show, points, picture)
        if show.problems:
            for problem in show.problems:
                console.print(f"[bold red]Failed:[/] {escape(problem)}", soft_wrap=True)
            return 1
        console.print("[bold green]Everything read back is what was written.[/]")
        if not exit:
            _serve_on(console, url, directory, picture)
    return 0


def _create(client: Client, console: Console, directory: Path) -> None:
    if any(one["db"] == DATABASE for one in client.databases()):
        raise DemoFailure(
            f"{directory} has a database {DATABASE!r} already, and the demo compares what it writes with all that is there: name "
            f"another --data-dir, or look at this one with `walmill serve --data-dir {shlex.quote(str(directory))}`"
        )
    client.create_database(DATABASE)
    for trigger in TRIGGERS:
        client.create_trigger({"db": DATABASE, **trigger})
    console.print(f"Triggers: {', '.join(str(one['trigger_name']) for one in TRIGGERS)}")


def _replay(client: Client, console: Console, data: list[Observation], show: _Show, pace: float | None) -> None:
    columns = (
        TextColumn("Replaying the weather of a year"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TextColumn("{task.fields[day]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("rows", total=len(data), day="")
        due = time.monotonic()
        for day in days(data):
            client.write(DATABASE, "\n".join(one.line() for one in day).encode(), precision="ns")
            show.acknowledged += len(day)
            progress.update(bar, advance=len(day), day=format_time(day[0].time)[:10])
            if pace is not None:
                due += pace
                time.sleep(max(0.0, due - time.monotonic()))


def _settle(client: Client, show: _Show) -> None:
    """Waits until the triggers have done all that was written, and their history is written too."""

    def idle() -> bool:
        return all(one["lag_commits"] == 0 and one["running"] == 0 for one in client.triggers(DATABASE))

    def recorded() -> bool:
        rows = _sql(
            client,
            "SELECT sum(rows_in) AS n FROM runs WHERE hook = 'on_write' AND status = 'ok' GROUP BY trigger",
            "_internal",
        )
        return len(rows) == 2 and all(row["n"] >= show.acknowledged for row in rows)

    for condition, what in ((idle, "a trigger lags"), (recorded, "the history of runs is incomplete")):
        _wait(condition, what, client, show)


def _wait(condition: Callable[[], bool], what: str, client: Client, show: _Show) -> None:
    until = time.monotonic() + SETTLE_SECONDS
    while not condition():
        if time.monotonic() > until:
            show.problems.append(f"{what} after {SETTLE_SECONDS:.0f} s: {_lags(client)}")
            return
        time.sleep(0.05)


def _lags(client: Client) -> str:
    return ", ".join(
        f"{one['trigger_name']} {one['lag_commits']} ({one['state']})" for one in client.triggers(DATABASE)
    )


def _sql(client: Client, sql: str, database: str = DATABASE) -> list[dict[str, Any]]:
    return client.query_rows(database, sql)


def _draw(client: Client, picture: Path, show: _Show) -> int:
    """Has the chart plugin draw the daily means, and counts the points that the picture says it shows."""
    answer = client.request(
        "GET", "/api/v3/engine/chart", params={"table": "weather_1d", "field": "temp_mean", "group": "origin"}
    )
    picture.write_bytes(answer.content)
    try:
        from PIL import Image

        with Image.open(io.BytesIO(answer.content)) as image:
            image.load()
            return int(getattr(image, "text", {}).get("walmill:points", -1))
    except (ImportError, OSError, ValueError, SyntaxError) as error:
        show.problems.append(f"the picture does not decode: {error}")
        return -1


def _drawn(client: Client) -> bool:
    return bool(_sql(client, "SELECT run_id FROM runs WHERE hook = 'on_request' AND database = 'demo'", "_internal"))


def _report(client: Client, console: Console, data: list[Observation], show: _Show, points: int, picture: Path) -> None:
    """Reads every figure back by SQL, compares, and prints the closing table."""
    rows = _sql(client, f"SELECT count(*) AS n FROM {TABLE}")[0]["n"]
    if rows != show.acknowledged:
        show.problems.append(f"{show.acknowledged:,} rows were acknowledged and {rows:,} are read back")
    runs = _sql(
        client,
        "SELECT trigger, hook, count(*) AS runs, sum(CASE WHEN status = 'ok' THEN 0 ELSE 1 END) AS failed, "
        "sum(rows_in) AS rows_in, sum(rows_written) AS rows_out, "
        "approx_percentile_cont(wait_ns, 0.5) AS wait50, approx_percentile_cont(wait_ns, 0.99) AS wait99, "
        "approx_percentile_cont(duration_ns, 0.5) AS run50, approx_percentile_cont(duration_ns, 0.99) AS run99 "
        "FROM runs WHERE database = 'demo' GROUP BY trigger, hook ORDER BY trigger, hook",
        "_internal",
    )
    for one in runs:
        if one["failed"]:
            show.problems.append(f"the trigger {one['trigger']} has {one['failed']} runs that did not succeed")
    for one in client.triggers(DATABASE):
        if one["state"] != "enabled" or one["lag_commits"]:
            show.problems.append(
                f"the trigger {one['trigger_name']} is {one['state']} and lags {one['lag_commits']} commits"
            )
    means = _sql(
        client, "SELECT origin, CAST(time AS BIGINT) AS day, temp_mean FROM weather_1d WHERE temp_mean IS NOT NULL"
    )
    wrong = _differences({(one["origin"], one["day"]): one["temp_mean"] for one in means}, daily_means(data, "temp"))
    if wrong:
        show.problems.append(wrong)
    if points != len(means):
        show.problems.append(f"the picture shows {points} points, and there are {len(means)} daily means")
    alerts = _sql(client, "SELECT state, count(*) AS n FROM alerts GROUP BY state ORDER BY state")
    drawn = _sql(client, "SELECT count(*) AS n, max(points) AS points, max(bytes) AS bytes FROM pictures")[0]
    figures = Table(title="Read back by SQL", show_header=False, title_justify="left")
    figures.add_row("rows written", f"{rows:,}")
    figures.add_row("daily means (temp, 3 airports)", wrong or f"{len(means):,}, equal to plain Python's")
    figures.add_row("alerts", ", ".join(f"{one['n']} {one['state']}" for one in alerts) or "none")
    figures.add_row(
        "pictures drawn", f"{drawn['n']}: {drawn['points']:,} points, {drawn['bytes']:,} bytes, {picture.name}"
    )
    console.print(figures)
    table = Table(
        title="Runs per trigger (wait: from durable, due or arrived to the hook's first line)", title_justify="left"
    )
    table.box = box.SIMPLE
    table.padding = (0, 0)
    for name in ("trigger", "on", "runs", "bad", "rows in", "out", "wait50", "wait99", "hook50", "hook99"):
        table.add_column(name, justify="left" if name in ("trigger", "on") else "right", no_wrap=True)
    for one in runs:
        table.add_row(
            one["trigger"],
            one["hook"].removeprefix("on_"),
            f"{one['runs']:,}",
            f"{one['failed']:,}",
            f"{one['rows_in']:,}",
            f"{one['rows_out']:,}",
            *(_short_time(one[name]) for name in ("wait50", "wait99", "run50", "run99")),
        )
    console.print(table)


def _differences(read: dict[tuple[str, int], float], plain: dict[tuple[str, int], float]) -> str | None:
    if read.keys() != plain.keys():
        return f"there are {len(read):,} daily means, and plain Python gets {len(plain):,}"
    worst = max(abs(read[key] - plain[key]) for key in plain)
    return None if worst <= 1e-9 else f"a daily mean differs by {worst} from plain Python's; allowed is 1e-9"


def _short_time(nanoseconds: int) -> str:
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.0f}µs"
    return f"{nanoseconds / 1e6:.1f}ms" if nanoseconds < 1_000_000_000 else f"{nanoseconds / 1e9:.1f}s"


def _serve_on(console: Console, url: str, directory: Path, picture: Path) -> None:
    walmill = "uv run walmill" if os.environ.get("UV") else "walmill"  # `uv run` says so to what it runs
    where = f"-H {url} --data-dir {shlex.quote(str(directory))} -d {DATABASE}"
    lines = (
        "",
        f"The picture is {picture}.",
        "It goes on serving; Ctrl-C ends it. Look around, in another terminal:",
        f"  {walmill} --help",
        f"  {walmill} query {where} 'SELECT * FROM weather_1d ORDER BY time DESC LIMIT 5'",
        f"  {walmill} show triggers {where}",
    )
    for line in lines:  # whole, however narrow the terminal is, so that it can be copied
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    _until_interrupted()


def _until_interrupted() -> None:
    stop = threading.Event()
    previous: dict[signal.Signals, Any] = {}

    def end(number: int, frame: object) -> None:
        del number, frame
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, end)
    try:
        stop.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
