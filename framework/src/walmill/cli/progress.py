"""What a person sees while something is written: a bar on a terminal, and messages above it."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING

import click

from walmill.cli.output import clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WINDOW_SECONDS = 5.0


class Rate:
    """Lines per second over the last few seconds. Pure: the caller says what time it is."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, lines: int) -> float:
        """The rate, after so many lines in all at this time."""
        self._seen.append((now, lines))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        return (lines - before) / (now - then) if now > then else 0.0


class Screen:
    """Standard error: with a bar if it is a terminal. Colours follow NO_COLOR.

    Args:
        total: Bytes of all that is written; None if that is not known.
        bar: Whether a bar is wanted.
    """

    def __init__(self, total: int | None, *, bar: bool) -> None:
        self._rate = Rate()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if bar and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[lines]:,} lines"),
                TextColumn("{task.fields[rate]:,.0f} lines/s"),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("", total=total, lines=0, rate=0.0)
            self._progress.start()

    def moved(self, place: int, lines: int) -> None:
        """Moves the bar.

        Args:
            place: Bytes that are done.
            lines: Lines that are done.
        """
        if self._progress is not None and self._task is not None:
            rate = self._rate.at(time.monotonic(), lines)
            self._progress.update(self._task, completed=place, lines=lines, rate=rate)

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        shown = clean(text)
        if self._progress is not None:
            self._progress.console.print(shown, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(shown, err=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Bar:
    """A bar on standard error for something that others do; nothing if it is no terminal.

    Args:
        total: How much there is to be done.
        label: What it is.
    """

    def __init__(self, total: int, label: str) -> None:
        self._bar = click.progressbar(length=total, label=label, file=sys.stderr) if sys.stderr.isatty() else None
        self._done = 0

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def at(self, done: int) -> None:
        """So much is done by now."""
        if self._bar is not None and done > self._done:
            self._bar.update(done - self._done)
        self._done = max(self._done, done)

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()
