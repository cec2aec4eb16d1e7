"""What the benchmarks share: percentiles, tables, the machine's description, a quiet engine on a fresh directory."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from walmill.collector import calm_collector, short_turns
from walmill.engine import Engine


def quiet() -> None:
    """Only warnings are printed: the terminal must not be part of what is measured."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine() -> str:
    """One line about where this ran."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), model
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
    )


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table in Markdown."""
    print(f"\n### {title}\n\n{machine()}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine on a fresh directory on this disk, without installed plugins."""
    quiet()
    with tempfile.TemporaryDirectory(prefix="walmill-bench-", dir=Path.cwd()) as directory:
        opened = Engine.open(data_dir=Path(directory), discover_plugins=False)
        calm_collector()  # as `walmill serve` does
        short_turns()
        try:
            yield opened
        finally:
            opened.close(5.0)


def micro(nanoseconds: float) -> str:
    """ns as microseconds or milliseconds, for a table."""
    return f"{nanoseconds / 1e3:,.0f} µs" if nanoseconds < 1e6 else f"{nanoseconds / 1e6:,.2f} ms"
