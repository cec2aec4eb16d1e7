"""`walmill export`: the tables of a database as files, one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import database_option, server_options
from walmill.cli.output import clean
from walmill.cli.sinks import SUFFIXES, LineSink, TableShape, sink, whole_file
from walmill.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from walmill.cli.client import Client


def file_name(table: str, form: str, *, packed: bool) -> str:
    """The name of the file of a table: the table's, percent-encoded where a file name cannot hold it."""
    from walmill.snapshot.names import escape

    return escape(table) + SUFFIXES[form] + (".gz" if packed else "")


def condition(start: str | None, end: str | None) -> tuple[str, dict[str, Any]]:
    """What comes behind the table's name, with its parameters.

    Raises:
        UsageError: A time is none.
    """
    from walmill.units import parse_time

    bounds = []
    for text, name, sign in ((start, "from", ">="), (end, "to", "<")):
        if text is None:
            continue
        try:
            bounds.append(f"time {sign} to_timestamp_nanos({parse_time(text)})")
        except InvalidRequest as error:
            raise click.UsageError(f"--{name}: {error.message}") from None
    return (f" WHERE {' AND '.join(bounds)}" if bounds else ""), {}


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str, int], None]]:
    import sys

    if not sys.stderr.isatty():
        yield lambda table, rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("export", total=total)
        yield lambda table, rows: progress.update(task, description=clean(table), advance=rows)


@click.command()
@database_option()
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table. May be repeated; else all.")
@click.option("--from", "start", metavar="TIME", help="Only rows from this time on.")
@click.option("--to", "end", metavar="TIME", help="Only rows before this time.")
@click.option(
    "--format",
    "form",
    type=click.Choice(tuple(SUFFIXES)),
    default="parquet",
    show_default=True,
    help="How to write it.",
)
@click.option("--gzip", "packed", is_flag=True, help="Compress CSV and line protocol; Parquet is compressed anyway.")
@click.option("--overwrite", is_flag=True, help="Write files again that are there already.")
@click.argument("directory", type=click.Path(path_type=Path))
@server_options
def export(
    *,
    client: Client,
    database: str,
    tables: tuple[str, ...],
    start: str | None,
    end: str | None,
    form: str,
    packed: bool,
    overwrite: bool,
    directory: Path,
) -> int:
    """Write the tables of a database to files in DIRECTORY, one for each.

    A file is there when it is whole. After a break the same command goes on with the tables that have no file yet.
    """
    if packed and form == "parquet":
        raise click.UsageError("--gzip is for csv and lp; Parquet is compressed by itself")
    where, params = condition(start, end)
    shapes = [
        TableShape(database, one["table"], one["tags"], one["fields"])
        for one in client.tables(database)
        if not tables or one["table"] in tables
    ]
    if missing := set(tables) - {one.name for one in shapes}:
        raise NotFound(
            f"there is no table {sorted(missing)[0]!r} in the database {database!r}; `walmill show tables` lists them"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the directory {str(directory)!r} cannot be made: {error.strerror or error}") from None
    paths = {one.name: directory / file_name(one.name, form, packed=packed) for one in shapes}
    wanted = [one for one in shapes if overwrite or not paths[one.name].exists()]
    for one in shapes:
        if one not in wanted:
            click.echo(f"{paths[one.name].name} is there already; --overwrite writes it again", err=True)
    counts = {one.name: _count(client, one, where) for one in wanted}
    refused = 0
    with _bar(sum(counts.values())) as moved:
        for one in wanted:
            rows, left, why = _write(client, one, where, params, form, paths[one.name], packed=packed, moved=moved)
            click.echo(f"{paths[one.name].name}: {rows:,} rows")
            if left:
                refused += left
                click.echo(f"{clean(one.name)}: {left:,} rows are left out: {clean(why)}", err=True)
    if not shapes:
        click.echo(f"There is no table in the database {clean(database)}.")
    return 1 if refused else 0


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _count(client: Client, shape: TableShape, where: str) -> int:
    sql = f"SELECT count(*) AS n FROM {_quoted(shape.name)}{where}"  # noqa: S608 - names are quoted, times are numbers
    return int(client.query_rows(shape.database, sql)[0]["n"])


def _write(
    client: Client,
    shape: TableShape,
    where: str,
    params: dict[str, Any],
    form: str,
    path: Path,
    *,
    packed: bool,
    moved: Callable[[str, int], None],
) -> tuple[int, int, str]:
    """Writes the file of a table: how many rows it has, how many were left out, and why."""
    import pyarrow as pa

    from walmill.cli.connection import CannotReach
    from walmill.cli.query import Reader

    columns = ", ".join(_quoted(name) for name in (*shape.tags, *shape.fields, "time"))
    sql = f"SELECT {columns} FROM {_quoted(shape.name)}{where}"  # noqa: S608 - as above
    rows = 0
    with client.query(shape.database, sql, output_format="arrow", params=params) as response:
        try:
            with (
                pa.ipc.open_stream(pa.PythonFile(Reader(client.pieces(response)), mode="r")) as reader,
                whole_file(path, packed=packed) as file,
            ):
                target = sink(form, file, shape, reader.schema)
                for batch in reader:
                    target.write(batch)
                    rows += batch.num_rows
                    moved(shape.name, batch.num_rows)
                target.close()
        except pa.ArrowInvalid as error:
            raise CannotReach(
                f"the answer is not a whole Arrow stream ({error}); look at the server's log, and try again"
            ) from None
    left, why = (target.refused, target.why) if isinstance(target, LineSink) else (0, "")
    return rows - left, left, why
