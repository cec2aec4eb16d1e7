"""`wal dump|verify`: looks into the log of a data directory or of a bucket; changes nothing, works beside a running server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from walmill.cli.options import format_option
from walmill.cli.output import records, say
from walmill.errors import NotFound


def _directory(place: str) -> Path:
    path = Path(place).expanduser()
    if not path.is_dir():
        raise NotFound(
            f"there is no directory {place}; name a data directory, or the URL that `walmill serve --wal` has"
        )
    return path


@click.command()
@click.argument("place")
@click.option("--from", "start", type=click.IntRange(1), default=1, show_default=True, help="First sequence.")
@click.option("--rows", is_flag=True, help="Show the rows as well, not only their number and columns.")
def dump(*, place: str, start: int, rows: bool) -> None:
    """Print what the log in PLACE, a data directory or the URL of a bucket, holds: a JSON object for each commit."""
    from walmill.objects.remote import RemoteStore
    from walmill.wal.dump import dump as read
    from walmill.wal.look import dump_objects

    if "://" in place:
        found = dump_objects(RemoteStore(place), start=start, rows=rows)
    else:
        found = read(_directory(place), start=start, rows=rows)
    for one in found:
        click.echo(json.dumps(one, ensure_ascii=False, default=str))


@click.command()
@click.argument("place")
@format_option
def verify(*, place: str, output_format: str) -> int:
    """Check every frame of the log in PLACE, a data directory or the URL of a bucket. Exits with 1 if it is damaged."""
    from walmill.objects.remote import RemoteStore
    from walmill.wal.dump import verify as check
    from walmill.wal.look import verify_objects

    found = verify_objects(RemoteStore(place)) if "://" in place else check(_directory(place))
    columns = ("segment", "status", "epoch", "frames", "first_sequence", "last_sequence", "bytes", "problem")
    say(records(found, {name.replace("_", " "): name for name in columns}, output_format, empty="The log is empty."))
    return 1 if any(one["status"] == "damaged" for one in found) else 0
