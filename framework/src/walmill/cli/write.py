"""`walmill write`: line protocol from files, arguments or standard input."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from walmill.cli.options import database_option, server_options
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    from walmill.cli.client import Client
    from walmill.cli.source import Source

PRECISIONS = ("auto", "s", "second", "ms", "millisecond", "us", "u", "microsecond", "ns", "n", "nanosecond")
MOST_PARALLEL = 64


@click.command()
@database_option()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file with line protocol: plain, gzip or zstd, whatever its name; - is standard input. May be repeated.",
)
@click.option(
    "-p",
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Unit of the timestamps.",
)
@click.option(
    "--accept-partial/--no-accept-partial",
    default=True,
    show_default=True,
    help="Keep the good lines when others are bad; without it a request (about 1 MB of a file) is refused whole.",
)
@click.option("--no-sync", is_flag=True, help="Answer before the data is synced to disk.")
@click.option("--gzip", is_flag=True, help="Send compressed: for slow networks.")
@click.option(
    "--parallel",
    type=click.IntRange(1, MOST_PARALLEL),
    default=1,
    show_default=True,
    metavar="N",
    help="Requests at a time. With more than one, a point that comes twice may end with either value.",
)
@click.option(
    "--retry-for",
    metavar="DURATION",
    help="How long to ask a server again that is away or busy. [default: 5m; one that was never there is an error at once]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The checkpoint: what was acknowledged, for the same command after a break. [default: beside the first file]",
)
@click.option("--no-resume", is_flag=True, help="Start anew, and keep no checkpoint.")
@click.option(
    "--rejected",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append refused lines to this file, to be mended and written again.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is wrong.")
@click.argument("lines", nargs=-1, metavar="[LINE]...")
@server_options
def write(
    *,
    client: Client,
    database: str,
    files: tuple[Path, ...],
    precision: str,
    accept_partial: bool,
    no_sync: bool,
    gzip: bool,
    parallel: int,
    retry_for: str | None,
    resume: Path | None,
    no_resume: bool,
    rejected: Path | None,
    quiet: bool,
    lines: tuple[str, ...],
) -> int:
    """Write line protocol: LINEs, files, or standard input.

    Exits with 1 if any line was refused. After Ctrl-C, a crash or an outage, the same command goes on behind what was
    acknowledged.
    """
    _check_use(files, lines, resume, no_resume)
    from walmill.cli.load import Checkpoint, Load, beside, jobs_of, jobs_of_lines
    from walmill.cli.progress import Screen
    from walmill.cli.rejected import Rejected
    from walmill.cli.source import Source
    from walmill.cli.upload import Upload

    seconds = None if retry_for is None else _seconds(retry_for)
    given = Source("the arguments", "", None, None)
    sources = [given] if lines else _sources(files)
    target = {"server": client.address, "database": database, "precision": precision}
    path = None if no_resume else resume or beside(sources[0], target)
    upload = Upload(
        partial(client.write, database, precision=precision, accept_partial=accept_partial, no_sync=no_sync, gzip=gzip),
        parallel=parallel,
        retry_for=seconds,
        whole=not accept_partial,
    )
    checkpoint = Checkpoint(path, target, asked=resume is not None)
    refused = None if rejected is None else Rejected(rejected, [one.path for one in sources if one.path is not None])
    sizes = [source.size for source in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    load = Load(
        database,
        sources,
        checkpoint=checkpoint,
        rejected=refused,
        screen=Screen(total, bar=not quiet and not lines),
        upload=upload,
        stop_at_refusal=not accept_partial and rejected is None,
        quiet=quiet,
    )
    load.run(jobs_of_lines(given, lines) if lines else jobs_of(sources, checkpoint.state))
    if load.hidden:
        click.echo(f"… and {load.hidden:,} more; --rejected FILE keeps them", err=True)
    if load.interrupted:
        raise click.Abort
    if load.refused:
        click.echo(f"Error: {load.refusal_summary()}; {load.summary()}", err=True)
        return 1
    if not quiet:
        click.echo(load.summary() + ("" if load.written else ": there was no line to write"))
    return 0


def _check_use(files: tuple[Path, ...], lines: tuple[str, ...], resume: Path | None, no_resume: bool) -> None:
    if files and lines:
        raise click.UsageError("lines and --file were both given; write one after the other")
    if not files and not lines and sys.stdin.isatty():
        raise click.UsageError("nothing to write: give lines, --file FILE, or line protocol on standard input")
    if resume is not None and no_resume:
        raise click.UsageError("--resume and --no-resume were both given; give one of them")
    if resume is not None and lines:
        raise click.UsageError("--resume is for files and standard input; lines are written at once, leave it away")
    for line in lines:
        if " " not in line and os.path.isfile(line):  # noqa: PTH113 - a Path raises for a long line
            raise click.UsageError(f"{line!r} is a file, not a line: write it with --file {line}")


def _sources(files: tuple[Path, ...]) -> list[Source]:
    from walmill.cli.source import Source

    found = [Source.of(path) for path in files or (Path("-"),)]
    keys = [source.key for source in found]
    for source in found:
        if keys.count(source.key) > 1:
            raise click.UsageError(f"--file {source.name!r} was given twice; give it once")
    return found


def _seconds(text: str) -> float:
    from walmill.units import SECOND, WEEK, parse_duration

    try:
        return parse_duration(text, what="--retry-for", maximum=52 * WEEK) / SECOND
    except InvalidRequest as error:
        raise click.UsageError(error.message) from None
