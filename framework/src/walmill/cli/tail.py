"""`tail`: rows as they become durable."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from walmill.cli.options import database_option, server_options
from walmill.cli.output import clean

if TYPE_CHECKING:
    from walmill.cli.client import Client


@click.command()
@database_option()
@click.option(
    "--after", type=click.IntRange(0), metavar="SEQ", help="Begin behind this commit; else with the next one."
)
@click.option("--wait", metavar="DURATION", help="End when nothing came for so long; else never.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many commits.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(("lp", "json")),
    default="lp",
    show_default=True,
    help="Line protocol, or a JSON object for each commit.",
)
@click.argument("tables", nargs=-1)
@server_options
def tail(
    *,
    client: Client,
    database: str,
    after: int | None,
    wait: str | None,
    count: int | None,
    output_format: str,
    tables: tuple[str, ...],
) -> None:
    """Print the rows of a database, or of some TABLES, as they become durable.

    What is printed as line protocol can be given to `walmill write`. Ctrl-C ends it.
    """
    seen, shown = 0, sys.stdout.isatty()
    for commit in client.commits(database, tables, after=after, wait=wait):
        if commit is None:
            continue
        if output_format == "json":
            click.echo(json.dumps(commit, ensure_ascii=False))
        else:
            for line in commit["lines"]:
                click.echo(clean(line) if shown else line)
        seen += 1
        if seen == count:
            return
