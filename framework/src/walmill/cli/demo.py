"""`walmill demo`: a year of weather through installed plugins."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--exit", "leave", is_flag=True, help="Go as fast as possible, check everything, and end.")
@click.option(
    "--speed",
    type=click.FloatRange(0.001, 100_000),
    default=1.0,
    show_default=True,
    help="Days of weather per tenth of a second.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port on the loopback address; else one that is free."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the data here; else in a directory that is removed at the end.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Put the picture that is drawn here."
)
def demo(*, leave: bool, speed: float, port: int, data_dir: Path | None, output: Path | None) -> int:
    """Start an engine, write a year of real weather to it, and watch plugins work on it.

    Exits with 1 if anything that is read back differs from what was written.
    """
    from walmill.observe.log import configure

    configure(level="warning")
    from walmill.demo import run

    return run(exit=leave, speed=speed, port=port, data_dir=data_dir, output=output)
