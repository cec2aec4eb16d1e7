"""`top`: what the triggers of a server are doing, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import database_option, server_options
from walmill.cli.output import clean, table

if TYPE_CHECKING:
    from walmill.cli.client import Client

HEAD = (
    "trigger",
    "executor",
    "state",
    "running",
    "lag",
    "behind",
    "runs/s",
    "p50",
    "p99",
    "cpu",
    "memory",
    "last error",
)
RIGHT = (False, False, False, True, True, True, True, True, True, True, True, False)
_ERROR_WIDTH = 50


@click.command()
@database_option(required=False)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two pictures.",
)
@click.option("--once", is_flag=True, help="Print one table, of one interval, and end.")
@server_options
def top(*, client: Client, database: str | None, interval: float, once: bool) -> None:
    """Show live what triggers are doing: lag, runs, how long they take, processor, memory, last error. Ends with Ctrl-C."""
    before, at = client.triggers(database), time.monotonic()
    live = not once and sys.stdout.isatty()
    if live:
        click.echo("\x1b[2J", nl=False)
    while True:
        time.sleep(interval)
        now, then = client.triggers(database), time.monotonic()
        text = table(HEAD, lines(before, now, then - at), right=RIGHT)
        if live:
            click.echo(
                f"\x1b[H{time.strftime('%H:%M:%S')}  {len(now)} triggers, every {interval:g} s, Ctrl-C ends\x1b[K"
            )
            click.echo("\n".join(f"{line}\x1b[K" for line in text.split("\n")) + "\x1b[J")
        else:
            click.echo(text)
        if once:
            return
        before, at = now, then


def lines(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], seconds: float
) -> list[tuple[str, ...]]:
    """The lines of the table: the busiest triggers first.

    Args:
        before: The triggers some time ago.
        now: The triggers now.
        seconds: The time between the two.
    """
    earlier = {(one["database"], one["trigger_name"]): one for one in before}
    found = []
    for one in now:
        old = earlier.get((one["database"], one["trigger_name"]), {})
        runs = max(0, one["runs"] - old.get("runs", 0)) / seconds
        cpu = max(0, one["cpu_ns"] - old.get("cpu_ns", 0)) / 1e9 / seconds
        found.append(((cpu, runs), _line(one, runs, cpu)))
    return [line for _, line in sorted(found, key=lambda pair: pair[0], reverse=True)]


def _line(one: Mapping[str, Any], runs: float, cpu: float) -> tuple[str, ...]:
    rows = one["lag_rows"]
    commits = one["lag_commits"]
    lag = "" if commits is None else f"{commits:,} commits" if rows is None else f"{rows:,} rows"
    behind = one["lag_seconds"]
    memory = one["memory"]
    error = str(one["last_error"] or "").strip().split("\n")[0]
    return (
        f"{one['database']}.{one['trigger_name']}",
        one["executor"],
        one["state"],
        str(one["running"]),
        lag,
        "" if behind is None else f"{behind:.1f} s",
        f"{runs:.1f}",
        _span(one["duration_p50_ns"]),
        _span(one["duration_p99_ns"]),
        f"{cpu:.0%}",
        "" if memory is None else f"{memory / 2**20:.0f} MiB",
        clean(error if len(error) <= _ERROR_WIDTH else f"{error[: _ERROR_WIDTH - 1]}…"),
    )


def _span(nanoseconds: int | None) -> str:
    if nanoseconds is None:
        return ""
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.1f} {unit}"
    return f"{nanoseconds / 1e3:.0f} µs"
