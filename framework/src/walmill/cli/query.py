"""`walmill query`: SQL that reads, printed or written to a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from walmill.cli.options import database_option, format_option, server_options
from walmill.cli.output import Columns, records, say
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    import pyarrow as pa

    from walmill.cli.client import Client

FORMATS = ("pretty", "json", "jsonl", "csv", "parquet", "arrow")
BINARY = ("parquet", "arrow")
_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


@click.command()
@database_option(required=False)
@click.option(
    "--cancel", type=click.IntRange(1), metavar="ID", help="Stop this query; `walmill show queries` lists them."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    help="How to print it; else what the name of the output file says, else pretty.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="Read the SQL from this file.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value for $NAME: a number, true, false, null, or text; '\"123\"' is text. May be repeated.",
)
@click.option(
    "-l",
    "--language",
    type=click.Choice(("sql", "influxql")),
    default="sql",
    show_default=True,
    help="What the statement is written in.",
)
@click.argument("sql", required=False)
@server_options
def query(
    *,
    client: Client,
    database: str | None,
    cancel: int | None,
    output_format: str | None,
    output: Path | None,
    file: Path | None,
    params: tuple[str, ...],
    language: str,
    sql: str | None,
) -> None:
    """Run SQL or InfluxQL that reads: the argument, a file, or standard input."""
    if cancel is not None:
        if sql is not None or file is not None:
            raise click.UsageError("--cancel stops a query; leave SQL out")
        client.cancel_query(cancel)
        click.echo(f"Query {cancel} is cancelled")
        return
    if database is None:
        raise click.UsageError("name the database with -d/--database, or WALMILL_DATABASE_NAME")
    text = _sql(sql, file)
    values = parse_params(params)
    chosen = output_format or _SUFFIXES.get(output.suffix if output else "", "pretty")
    if chosen in BINARY and output is None and sys.stdout.isatty():
        raise click.UsageError(f"{chosen} is not for a terminal; add -o FILE, or pipe it somewhere")
    asked = chosen if chosen in ("json", "jsonl") else "arrow"
    with client.query(database, text, output_format=asked, params=values, language=language) as response:
        body = client.pieces(response)
        with _target(output) as target:
            if chosen in ("json", "jsonl", "arrow"):
                last = b"\n"
                for piece in body:
                    target.write(piece)
                    last = piece[-1:] or last
                if chosen != "arrow" and last != b"\n":
                    target.write(b"\n")
            else:
                _convert(body, chosen, target)


def _sql(sql: str | None, file: Path | None) -> str:
    if sql is not None and file is not None:
        raise click.UsageError("SQL and --file were both given; give one of them")
    if sql is None:
        if file is not None and str(file) != "-":
            sql = file.read_text(encoding="utf-8")
        elif file is None and sys.stdin.isatty():
            raise click.UsageError("no SQL: give it as an argument, with --file FILE, or on standard input")
        else:
            sql = sys.stdin.read()
    if not sql.strip():
        raise click.UsageError("the SQL is empty; give one statement, such as 'SHOW TABLES'")
    return sql


def parse_params(given: Iterable[str]) -> dict[str, Any]:
    """Typed values for `$name` from `name=value`, split at the first `=`.

    Raises:
        UsageError: One lacks its `=` or its name, or a name comes twice.
    """
    values: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        name = name.removeprefix("$")
        if not equals or not name:
            raise click.UsageError(f"--param {one!r} is not NAME=VALUE")
        if name in values:
            raise click.UsageError(f"--param {name} is given twice")
        values[name] = _value(text)
    return values


def _value(text: str) -> Any:
    try:
        found = json.loads(text, parse_constant=lambda word: word)
    except ValueError:
        return text
    return found if found is None or isinstance(found, bool | int | float | str) else text


@contextmanager
def _target(output: Path | None) -> Iterator[IO[bytes]]:
    """Where the result goes; a file appears under its name when it is whole."""
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if output.exists() and not output.is_file():  # /dev/stdout, a pipe
        with output.open("wb") as file:
            yield file
        return
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        try:
            file = partial.open("wb")
        except OSError as error:
            raise InvalidRequest(
                f"the file {str(output)!r} cannot be written: {error.strerror}; name another"
            ) from None
        with file:
            yield file
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


class Reader:
    """Pieces of bytes as a file that Arrow can read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        parts = [self._rest]
        length = len(self._rest)
        while size < 0 or length < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            length += len(piece)
        data = b"".join(parts)
        cut = len(data) if size < 0 else size
        self._rest = data[cut:]
        return data[:cut]

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def flush(self) -> None:
        pass


def _convert(body: Iterator[bytes], chosen: str, target: IO[bytes]) -> None:
    """Prints an Arrow stream as a table, CSV or Parquet."""
    import pyarrow as pa

    from walmill.cli.connection import CannotReach

    try:
        with pa.ipc.open_stream(pa.PythonFile(Reader(body), mode="r")) as reader:
            if chosen == "parquet":
                import pyarrow.parquet as pq

                with pq.ParquetWriter(target, reader.schema, compression="zstd") as writer:
                    for batch in reader:
                        writer.write_batch(batch)
            elif chosen == "csv":
                _csv(reader, target)
            else:
                target.write(_pretty(reader.read_all()).encode("utf-8", "replace") + b"\n")
    except pa.ArrowInvalid as error:
        raise CannotReach(
            f"the answer is not a whole Arrow stream ({error}); look at the server's log, and try again"
        ) from None


def _csv(reader: pa.RecordBatchReader, target: IO[bytes]) -> None:
    import csv
    import io

    def line(values: Iterable[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        target.write(text.getvalue().encode())

    line(reader.schema.names)
    for batch in reader:
        columns = [texts(column) for column in batch.columns]
        for row in zip(*columns, strict=True):
            line("" if value is None else value for value in row)


def _pretty(data: pa.Table) -> str:
    import pyarrow as pa

    from walmill.cli.output import cell, table

    columns = [texts(column) for column in data.columns]
    right = [
        pa.types.is_integer(f.type) or pa.types.is_floating(f.type) or pa.types.is_decimal(f.type) for f in data.schema
    ]
    return table(data.column_names, [[cell(value) for value in row] for row in zip(*columns, strict=True)], right=right)


def texts(column: Any) -> list[str | None]:
    """The values of a column as text: times as `2026-01-31T09:30:00.5`, in the way of InfluxDB without a zone; None for null."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        return [None if value is None else _time(value, kind.unit) for value in column.cast(pa.int64()).to_pylist()]
    values = column.to_pylist()
    if pa.types.is_boolean(kind):
        return [None if value is None else "true" if value else "false" for value in values]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if value is None else value.hex() for value in values]
    if pa.types.is_nested(kind):
        return [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return [None if value is None else str(value) for value in values]


_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def _time(value: int, unit: str) -> str:
    from walmill.units import INT64_MAX, INT64_MIN, format_time

    nanoseconds = value * _UNITS[unit]
    if not INT64_MIN <= nanoseconds <= INT64_MAX:
        return f"{value} {unit}"
    return format_time(nanoseconds).removesuffix("Z")


_QUERIES: Columns = {
    "id": "id",
    "phase": "phase",
    "seconds": lambda row: f"{row['seconds']:.3f}",
    "rows": "rows",
    "database": "database",
    "origin": "origin",
    "query": lambda row: " ".join(str(row["query_text"]).split())[:100],
    "error": lambda row: str(row["error"] or "").split("\n")[0][:80],
}


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also the last thousand that have ended.")
@format_option
@server_options
def show_queries(*, client: Client, everything: bool, output_format: str) -> None:
    """List the queries that wait or run. `walmill query --cancel ID` stops one."""
    found = [one for one in client.queries() if everything or one["running"]]
    say(records(found, _QUERIES, output_format, empty="No query runs."))
