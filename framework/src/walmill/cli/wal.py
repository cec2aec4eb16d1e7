"""`wal dump|verify`: looks into the log of a data directory; changes nothing, and works beside a running server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from walmill.cli.options import format_option
from walmill.cli.output import records, say


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--from", "start", type=click.IntRange(1), default=1, show_default=True, help="First sequence.")
@click.option("--rows", is_flag=True, help="Show the rows as well, not only their number and columns.")
def dump(*, directory: Path, start: int, rows: bool) -> None:
    """Print what the log in the data directory DIRECTORY holds: a JSON object for each commit."""
    from walmill.wal.dump import dump as read

    for one in read(directory, start=start, rows=rows):
        click.echo(json.dumps(one, ensure_ascii=False, default=str))


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@format_option
def verify(*, directory: Path, output_format: str) -> int:
    """Check every frame of the log in the data directory DIRECTORY. Exits with 1 if it is damaged."""
    from walmill.wal.dump import verify as check

    found = check(directory)
    columns = ("segment", "status", "epoch", "frames", "first_sequence", "last_sequence", "bytes", "problem")
    say(records(found, {name.replace("_", " "): name for name in columns}, output_format, empty="The log is empty."))
    return 1 if any(one["status"] == "damaged" for one in found) else 0
