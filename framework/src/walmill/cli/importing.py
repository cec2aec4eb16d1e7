"""`walmill import`: files into a database, batch by batch, with a checkpoint."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walmill.cli import incoming
from walmill.cli.incoming import Columns, Lines, Options
from walmill.cli.options import server_options
from walmill.cli.output import clean
from walmill.errors import InvalidRequest, WalmillError

if TYPE_CHECKING:
    from walmill.cli.client import Client

SHOWN = 10
"""So many refused rows are shown of each file."""


class Checkpoint:
    """How many batches of a file are acknowledged: a small file beside it, until it is done.

    Args:
        file: The file that is imported.
        target: Where it goes, and how it is read: another target begins anew.
    """

    def __init__(self, file: Path, target: dict[str, Any]) -> None:
        found = file.stat()
        self._path = file.with_name(f"{file.name}.walmill-import")
        self._target = {**target, "size": found.st_size, "changed": found.st_mtime_ns}
        self.done = 0
        try:
            said = json.loads(self._path.read_text())
            if said["target"] == self._target:
                self.done = int(said["done"])
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def record(self, done: int) -> None:
        """Notes how many batches are acknowledged. What cannot be noted is only sent again one day."""
        self.done = done
        aside = self._path.with_name(f"{self._path.name}.new")
        try:
            aside.write_text(json.dumps({"target": self._target, "done": done}))
            aside.replace(self._path)
        except OSError:
            aside.unlink(missing_ok=True)

    def finish(self) -> None:
        """The file is done."""
        self._path.unlink(missing_ok=True)


def _batches(path: Path, form: str, options: Options) -> Iterator[Lines | Columns]:
    if form == "lp":
        return incoming.read_lines(path)
    return (incoming.read_parquet if form == "parquet" else incoming.read_csv)(path, options)


class _Import:
    """One file on its way."""

    def __init__(self, client: Client, database: str | None, path: Path, *, strict: bool) -> None:
        self._client = client
        self._database = database
        self._path = path
        self._strict = strict
        self.rows = 0
        self.refused = 0
        self._reached = False

    def send(self, batch: Lines | Columns) -> None:
        """Sends a batch, as often as it takes."""
        if isinstance(batch, Lines):
            self._send_lines(batch)
        else:
            for number, why in batch.refused:
                self._refuse(number, why)
            if batch.rows.num_rows:
                self._send_columns(batch)

    def _send_lines(self, batch: Lines) -> None:
        from walmill.cli.connection import Refused
        from walmill.cli.pieces import whole_lines

        count = whole_lines(batch.data, to_the_end=True).lines
        if not count:
            return
        database = self._database or batch.database
        if database is None:
            raise InvalidRequest(f"the file {str(self._path)!r} does not say its database: name it with --database")
        try:
            self._patiently(lambda: self._client.write(database, batch.data, precision="nanosecond"))
        except Refused as error:
            listed = error.body.get("data") if isinstance(error.body, dict) else None
            if error.code not in (400, 422) or not isinstance(listed, list):
                raise
            for one in listed:
                self._refuse(batch.first + int(one["line_number"]) - 1, str(one["error_message"]))
            count -= len(listed)
        self.rows += count

    def _send_columns(self, batch: Columns) -> None:
        from walmill.cli.connection import Refused

        if self._database is None:
            raise InvalidRequest("the database is missing: name it with --database")
        database = self._database
        count = batch.rows.num_rows
        try:
            self._patiently(lambda: self._client.write_arrow(database, batch.table, batch.tags, batch.rows))
        except Refused as error:
            listed = error.body.get("data") if isinstance(error.body, dict) else None
            if (
                error.code not in (400, 422)
                or not isinstance(listed, list)
                or any("row_number" not in one for one in listed)
            ):
                raise
            for one in listed:
                self._refuse(batch.number(int(one["row_number"])), str(one["error_message"]))
            count -= len(listed)
        self.rows += count

    def _patiently(self, call: Callable[[], None]) -> None:
        """Sends, and sends again as long as the server is away or busy; rows that come twice are the same rows."""
        from walmill.cli.connection import Refused
        from walmill.cli.retry import budget, may_pass_later, pause

        attempt, began = 0, 0.0
        while True:
            try:
                call()
            except WalmillError as error:
                self._reached = self._reached or isinstance(error, Refused)
                if not may_pass_later(error):
                    raise
                attempt += 1
                began = began or time.monotonic()
                asked = error.retry_after if isinstance(error, Refused) else None
                total = budget(error, given=None, reached=self._reached)
                wait = pause(attempt, time.monotonic() - began, total, asked, random.random())  # noqa: S311 - not a secret
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                self._reached = True
                return

    def _refuse(self, number: int, why: str) -> None:
        self.refused += 1
        message = f"{self._path.name} line {number:,}: {clean(why)}"
        if self._strict:
            raise InvalidRequest(
                f"{message}; what came before it is written, and the same command goes on with this batch"
            )
        if self.refused <= SHOWN:
            click.echo(message, err=True)
        elif self.refused == SHOWN + 1:
            click.echo("… and more", err=True)


@click.command("import")
@click.option(
    "-d",
    "--database",
    envvar="WALMILL_DATABASE_NAME",
    show_envvar=True,
    metavar="NAME",
    help="The database; else what a file of `influx_inspect export` says.",
)
@click.option("--table", metavar="NAME", help="The table for Parquet and CSV; else what the file says, or its name.")
@click.option("--tags", metavar="NAME,...", help="Columns that are tags; else what the file says, or the table has.")
@click.option("--types", metavar="NAME:TYPE,...", help="Types of columns of CSV; else found out from the first rows.")
@click.option("--time-column", default="time", show_default=True, metavar="NAME", help="The column with the time.")
@click.option(
    "--time-unit",
    type=click.Choice(("ns", "us", "ms", "s")),
    default="ns",
    show_default=True,
    help="What a number in the column with the time means.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("parquet", "csv", "lp")),
    help="What the files are; else what their names say.",
)
@click.option("--strict", is_flag=True, help="Stop at the first row that is refused.")
@click.option("--restart", is_flag=True, help="Begin files anew that an earlier import did not finish.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@server_options
def import_files(
    *,
    client: Client,
    database: str | None,
    table: str | None,
    tags: str | None,
    types: str | None,
    time_column: str,
    time_unit: str,
    form: str | None,
    strict: bool,
    restart: bool,
    files: tuple[Path, ...],
) -> int:
    """Write FILES to a database: Parquet, CSV, or line protocol, plain or gzip.

    Line protocol may be what `influx_inspect export` or `influxd inspect export-lp` wrote. Rows that are refused are shown and
    left out. After a break the same command goes on behind what was acknowledged.
    """
    listed = None if tags is None else tuple(one for one in tags.split(",") if one)
    options = Options(table, listed, incoming.parse_types(types), time_column, time_unit)
    refused = 0
    for path in files:
        if not path.is_file():
            raise InvalidRequest(f"the file {str(path)!r} is not there")
        kind = form or incoming.form_of(path)
        target = {
            "server": client.address,
            "database": database,
            "format": kind,
            "table": table,
            "tags": tags,
            "types": types,
            "time": [time_column, time_unit],
        }
        checkpoint = Checkpoint(path, target)
        if restart:
            checkpoint.record(0)
        refused += _import(client, database, path, kind, options, checkpoint, strict=strict)
    return 1 if refused else 0


def _import(
    client: Client,
    database: str | None,
    path: Path,
    kind: str,
    options: Options,
    checkpoint: Checkpoint,
    *,
    strict: bool,
) -> int:
    work = _Import(client, database, path, strict=strict)
    skip = checkpoint.done
    if skip:
        click.echo(f"{path.name}: goes on behind {skip:,} batches that are written already", err=True)
    terminal = sys.stderr.isatty()
    for number, batch in enumerate(_batches(path, kind, options), 1):
        if number <= skip:
            continue
        work.send(batch)
        checkpoint.record(number)
        if terminal:
            click.echo(f"\r{path.name}: {work.rows:,} rows", err=True, nl=False)
    if terminal:
        click.echo("\r", err=True, nl=False)
    checkpoint.finish()
    left = f", {work.refused:,} refused" if work.refused else ""
    click.echo(f"{path.name}: {work.rows:,} rows written{left}")
    return work.refused
