"""`walmill write`: line protocol from files, arguments or standard input."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import click
from attrs import define

from walmill.cli.options import database_option, server_options
from walmill.cli.output import clean
from walmill.errors import InvalidRequest, WalmillError

if TYPE_CHECKING:
    from walmill.cli.client import Client

PRECISIONS = ("auto", "s", "second", "ms", "millisecond", "us", "u", "microsecond", "ns", "n", "nanosecond")
READ_BYTES = 2**20
SHOWN_ERRORS = 20


@define
class _Tally:
    """What became of the lines so far."""

    sent: int = 0
    refused: int = 0
    shown: int = 0


@click.command()
@database_option()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file with line protocol, gzipped if its name ends in .gz; - is standard input. May be repeated.",
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
    help="Keep the good lines when others are bad; without it a request (about 4 MB of a file) is refused whole.",
)
@click.option("--no-sync", is_flag=True, help="Answer before the data is synced to disk.")
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
    quiet: bool,
    lines: tuple[str, ...],
) -> int:
    """Write line protocol: LINEs, files, or standard input.

    Exits with 1 if any line was refused.
    """
    if files and lines:
        raise click.UsageError("lines and --file were both given; write one after the other")
    if not files and not lines and sys.stdin.isatty():
        raise click.UsageError("nothing to write: give lines, --file FILE, or line protocol on standard input")
    tally = _Tally()
    options = {"precision": precision, "accept_partial": accept_partial, "no_sync": no_sync}
    try:
        if lines:
            _send(client, database, iter(["\n".join(lines).encode("utf-8", "surrogateescape")]), "", options, tally)
        for file in files or ([] if lines else [Path("-")]):
            _send_file(client, database, file, options, tally)
    except WalmillError as error:
        raise WalmillError(f"{error.message} ({_summary(tally, database)})" if tally.sent else error.message) from None
    if tally.refused:
        hidden = tally.refused - tally.shown
        if hidden:
            click.echo(f"… and {hidden:,} more", err=True)
        click.echo(f"Error: {tally.refused:,} {_lines(tally.refused)} refused; {_summary(tally, database)}", err=True)
        return 1
    if not quiet:
        click.echo(_summary(tally, database))
    return 0


def _summary(tally: _Tally, database: str) -> str:
    written = tally.sent - tally.refused
    return f"{written:,} {'line' if written == 1 else 'lines'} written to {database!r}"


def _lines(count: int) -> str:
    return "line was" if count == 1 else "lines were"


def _send_file(client: Client, database: str, path: Path, options: dict[str, Any], tally: _Tally) -> None:
    with ExitStack() as stack:
        if str(path) == "-":
            _send(client, database, _chunks(sys.stdin.buffer, "standard input"), "", options, tally)
            return
        raw = stack.enter_context(path.open("rb"))
        file: IO[bytes] = raw
        if path.suffix == ".gz":
            file = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=raw)))
        chunks = _chunks(file, str(path))
        if sys.stderr.isatty() and raw.seekable():
            bar = stack.enter_context(click.progressbar(length=path.stat().st_size, label=path.name, file=sys.stderr))
            chunks = _watched(chunks, raw, bar)
        _send(client, database, chunks, f"{path}: ", options, tally)


def _chunks(file: IO[bytes], name: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = file.read(READ_BYTES)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InvalidRequest(f"{name} is no whole gzip file: {error}") from None
        if not chunk:
            return
        yield chunk


def _watched(chunks: Iterator[bytes], raw: IO[bytes], bar: Any) -> Iterator[bytes]:
    """The chunks, while the bar follows the place in the file."""
    seen = 0
    for chunk in chunks:
        yield chunk
        place = raw.tell()
        bar.update(place - seen)
        seen = place


def _send(
    client: Client, database: str, chunks: Iterator[bytes], name: str, options: dict[str, Any], tally: _Tally
) -> None:
    """Sends one source piece by piece, and says which of its lines were refused."""
    from walmill.cli.client import Refused
    from walmill.cli.pieces import pieces

    try:
        for piece in pieces(chunks):
            if not piece.lines:
                continue
            try:
                client.write(database, piece.data, **options)
            except Refused as error:
                wrong = _line_errors(error)
                if not wrong:
                    raise
                _show(wrong, piece.first_line - 1, name, tally)
                if not options["accept_partial"]:
                    at = piece.first_line
                    raise WalmillError(
                        f"{name}the request that starts at line {at:,} was refused whole, and nothing after it was sent; mend "
                        "the line above and write the rest, or leave --no-accept-partial away"
                    ) from None
                tally.refused += len(wrong)
            tally.sent += piece.lines
    except InvalidRequest as error:
        raise InvalidRequest(
            f"{name}{error.message}" if not error.message.startswith(name) else error.message
        ) from None


def _line_errors(error: Any) -> Sequence[dict[str, Any]]:
    """The lines that an answer refuses; none if it is another kind of error."""
    data = error.body.get("data") if isinstance(error.body, dict) else None
    found = [data] if isinstance(data, dict) else data
    if not isinstance(found, list) or not all(isinstance(one, dict) and "error_message" in one for one in found):
        return ()
    return found


def _show(wrong: Sequence[dict[str, Any]], before: int, name: str, tally: _Tally) -> None:
    for one in wrong:
        if tally.shown == SHOWN_ERRORS:
            return
        number = one.get("line_number")
        where = f"line {number + before:,}" if isinstance(number, int) else "a line"
        click.echo(clean(f"{name}{where}: {one['error_message']}: {one.get('original_line', '')}"), err=True)
        tally.shown += 1
