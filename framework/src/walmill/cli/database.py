"""`create|show|delete database`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from walmill.cli.options import format_option, server_options
from walmill.cli.output import records, say

if TYPE_CHECKING:
    from walmill.cli.client import Client


@click.command()
@click.argument("name")
@server_options
def create_database(*, client: Client, name: str) -> None:
    """Create the database NAME. A write to a database that is not there creates it as well."""
    client.create_database(name)
    click.echo(f'Database "{name}" created successfully')


@click.command()
@format_option
@server_options
def show_databases(*, client: Client, output_format: str) -> None:
    """List the databases."""
    say(
        records(
            client.databases(),
            {"database": "db"},
            output_format,
            empty="There is no database; the first write to one creates it.",
        )
    )


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.argument("name")
@server_options
def delete_database(*, client: Client, yes: bool, name: str) -> None:
    """Delete the database NAME with its tables and its triggers. This cannot be undone."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("deleting a database cannot be undone; add --yes if you mean it")
        click.confirm(f'Delete the database "{name}" with all its data?', abort=True, err=True)
    client.delete_database(name)
    click.echo(f'Database "{name}" deleted successfully')
