"""`show storage`, `create snapshot`: what the server keeps, and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import server_options, shown_format_option
from walmill.cli.output import pairs, records, say
from walmill.units import format_size

if TYPE_CHECKING:
    from walmill.cli.client import Client


@click.command()
@shown_format_option
@server_options
def show_storage(*, client: Client, output_format: str) -> None:
    """Show where the data is: the log, the newest snapshot, rows in memory and in files for each table."""
    found = client.storage()
    if output_format == "json":
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    say(pairs(_lines(found)))
    columns = {
        "database": "database",
        "table": "table",
        "rows in memory": "rows_in_memory",
        "files": "files",
        "rows in files": "rows_in_files",
        "bytes of files": "file_bytes",
        "from": "earliest_in_files",
        "to": "latest_in_files",
    }
    say(records(found["tables"], columns, "pretty", empty="There is no table yet."))


def _lines(found: dict[str, Any]) -> list[tuple[str, Any]]:
    log, snapshot, work = found["log"], found["snapshot"], found["work"]
    lines = [
        ("sequence", found["sequence"]),
        ("log", f"{log['segments']} segments, {_size(log['bytes'])}, from sequence {log['first_sequence']} on"),
        ("to replay", _size(log["to_replay_bytes"])),
    ]
    if log["place"] is not None:
        lines.append(("log in", log["place"]))
    if held := log["held_by"]:
        lines.append(
            ("log held by", f"the trigger {held['trigger']} of {held['database']}, which is at {held['needs']}")
        )
    if work is None:
        return [*lines, ("snapshots", "none: this engine keeps everything in memory")]
    if snapshot is None:
        lines.append(("snapshot", "none yet"))
    else:
        lines.append(
            ("snapshot", f"{snapshot['number']} at sequence {snapshot['sequence']}, made {snapshot['created']}")
        )
    lines.append(("files in", found["store"]))
    if cache := found["cache"]:
        lines.append(("copies here", f"{cache['files']:,} files, {_size(cache['bytes'])}"))
    lines.append(("memory used", f"{log['pressure']:.1%} of what rows may take"))
    done = ", ".join(f"{work[name]:,} {name.replace('_', ' ')}" for name in ("snapshots", "joins", "objects_deleted"))
    if work["snapshot_failures"]:
        done += f", {work['snapshot_failures']:,} snapshots failed (the server's log says why)"
    return [*lines, ("since the start", done)]


def _size(size: int) -> str:
    return format_size(size) if size % 2**20 == 0 else f"{size / 2**20:,.1f} MiB"


@click.command()
@server_options
def create_snapshot(*, client: Client) -> None:
    """Take everything from memory and log into files now; the server does it by itself when enough has gathered."""
    made = client.snapshot()
    if made is None:
        click.echo("Nothing was ever written, so there is nothing to keep.")
    else:
        click.echo(f"Snapshot {made['number']} holds everything up to sequence {made['sequence']}")
