"""`backup create|list|verify|restore|delete|prune`: copies of everything, in a directory or a bucket."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import format_option, server_options
from walmill.cli.output import clean, records, say
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    from walmill.backup.copy import Progress
    from walmill.cli.client import Client
    from walmill.objects.protocol import ObjectStore

Moved = Callable[[int, int], None]
"""Told the bytes that are done, and of how many."""


@contextmanager
def bar(what: str) -> Iterator[Moved]:
    """A bar on standard error, if it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def _opened(place: str) -> Iterator[ObjectStore]:
    from walmill.objects.open import open_store

    store = open_store(place)
    try:
        yield store
    finally:
        store.close()


def _told(moved: Moved) -> Callable[[Progress], None]:
    return lambda progress: moved(progress.bytes, progress.total_bytes)


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


@click.command()
@click.argument("place")
@server_options
def create_backup(*, client: Client, place: str) -> None:
    """Make a backup in PLACE, a directory of the server's machine or a bucket, while writes go on.

    What earlier backups there have is not copied again.
    """
    to = place if "://" in place else str(Path(place).expanduser().absolute())
    copied = 0
    with bar("backup") as moved:
        for said in client.backup(to):
            if "done" in said:
                done = said["done"]
                break
            copied = said["copied_bytes"]
            moved(said["bytes"], said["total_bytes"])
    click.echo(
        f"Backup {done['backup']} holds everything up to sequence {done['sequence']} ({done['time']}): "
        f"{done['objects']:,} objects, {_size(done['bytes'])}, of which {_size(copied)} were copied now"
    )


_COLUMNS: dict[str, Any] = {
    "backup": "backup",
    "sequence": "sequence",
    "time": "time",
    "created": "created",
    "objects": "objects",
    "bytes": "bytes",
}


@click.command()
@click.argument("place")
@format_option
def list_backups(*, place: str, output_format: str) -> None:
    """List the backups in PLACE."""
    from walmill.backup.description import descriptions

    with _opened(place) as store:
        found = [one.shown() for one in descriptions(store)]
    say(records(found, _COLUMNS, output_format, empty=f"There is no backup in {clean(place)}."))


@click.command()
@click.option("--backup", "number", type=click.IntRange(1), help="Only this one; else all.")
@click.argument("place")
def verify_backup(*, place: str, number: int | None) -> int:
    """Read all that the backups in PLACE have, and compare it with its checksums. Exits with 1 if something is wrong."""
    from walmill.backup.keep import verify

    count = wrong = 0
    with _opened(place) as store, bar("verify") as moved:
        for backup, problems in verify(store, number, _told(moved)):
            count += 1
            wrong += bool(problems)
            for problem in problems:
                click.echo(f"Backup {backup.number}: {clean(problem)}", err=True)
            if not problems:
                click.echo(f"Backup {backup.number} is whole: {backup.objects:,} objects, {_size(backup.size)}")
    if not count:
        click.echo(f"There is no backup in {clean(place)}.", err=True)
        return 1
    return 1 if wrong else 0


@click.command()
@click.option("--at", metavar="SEQ|TIME", help="The newest backup that holds nothing behind it; else the newest.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory that the server is to use; empty, or not there yet.",
)
@click.argument("place")
def restore_backup(*, place: str, at: str | None, data_dir: Path) -> None:
    """Restore a backup from PLACE into an empty data directory. If it is broken off, run it again: it goes on."""
    from walmill.backup.description import choose
    from walmill.backup.restore import restore
    from walmill.units import format_time

    sequence, moment = _at(at)
    with _opened(place) as store:
        backup = choose(store, sequence=sequence, time=moment)
        with bar("restore") as moved:
            restore(store, backup, data_dir.expanduser().absolute(), _told(moved))
    click.echo(
        f"Backup {backup.number} is restored into {data_dir}: everything up to sequence {backup.sequence} "
        f"({format_time(backup.time)}). Start it with `walmill serve --data-dir {data_dir}`"
    )


def _at(text: str | None) -> tuple[int | None, int | None]:
    """A sequence, or a time in ns."""
    if text is None:
        return None, None
    if text.isascii() and text.isdigit() and len(text) < 16:
        return int(text), None
    from walmill.units import parse_time

    try:
        return None, parse_time(text)
    except InvalidRequest as error:
        raise click.UsageError(f"--at {text!r} is neither a sequence nor a time: {error.message}") from None


@click.command()
@click.option("--force", is_flag=True, help="Also while a backup seems to be made there.")
@click.argument("place")
@click.argument("numbers", nargs=-1, required=True, type=click.IntRange(1))
def delete_backups(*, place: str, numbers: tuple[int, ...], force: bool) -> None:
    """Delete the backups NUMBERS in PLACE, and what no other one has."""
    _delete(place, list(numbers), force=force)


@click.command()
@click.option("--keep", type=click.IntRange(1), required=True, metavar="N", help="So many of the newest ones stay.")
@click.option("--force", is_flag=True, help="Also while a backup seems to be made there.")
@click.argument("place")
def prune_backups(*, place: str, keep: int, force: bool) -> None:
    """Delete all backups in PLACE but the newest ones, and what none of these has."""
    from walmill.backup.keep import beyond

    with _opened(place) as store:
        gone = beyond(store, keep)
    if not gone:
        click.echo("Nothing to delete.")
        return
    _delete(place, gone, force=force)


def _delete(place: str, numbers: list[int], *, force: bool) -> None:
    from walmill.backup.keep import delete

    with _opened(place) as store:
        count = delete(store, numbers, now=time.time_ns(), force=force)
    some = "Backup" if len(numbers) == 1 else "Backups"
    click.echo(f"{some} {', '.join(map(str, numbers))} deleted, with {count:,} objects that no other one has")
