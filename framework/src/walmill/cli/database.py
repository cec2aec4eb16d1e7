"""`create|show|update|delete|restore database`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from walmill.cli.options import format_option, server_options
from walmill.cli.output import records, say

if TYPE_CHECKING:
    from walmill.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def retention_option(*, required: bool, table: bool = False) -> Callable[[F], F]:
    """Adds `-r/--retention-period`."""
    also = "none for ever, database for what the database says" if table else "none for ever"
    return click.option(
        "-r",
        "--retention-period",
        required=required,
        metavar="DURATION",
        help=f"How long rows are kept by their time, such as 30d; {also}.",
    )


def deletion_options(command: F) -> F:
    """Adds `--hard`, `--hard-delete-at` and `--yes`."""
    for option in (
        click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        click.option(
            "--hard-delete-at",
            metavar="WHEN",
            help="Until when it can be restored: a time, a duration such as 72h, never; else as the server is set.",
        ),
        click.option("--hard", is_flag=True, help="At once and for good: it cannot be restored."),
    ):
        command = option(command)
    return command


def grace(hard: bool, hard_delete_at: str | None) -> str | None:
    """What the server is told.

    Raises:
        UsageError: Both options are given.
    """
    if hard and hard_delete_at is not None:
        raise click.UsageError("--hard and --hard-delete-at were both given; leave one of them away")
    return "now" if hard else hard_delete_at


def confirm(what: str, *, hard: bool, yes: bool) -> None:
    """Asks a person whether something is to be deleted.

    Raises:
        UsageError: Nobody can be asked.
        Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"deleting the {what} takes its data away; add --yes if you mean it")
    how = " for good, with all its data" if hard else " with all its data"
    click.confirm(f"Delete the {what}{how}?", abort=True, err=True)


def restored(name: str, called: str, what: str) -> str:
    """What is said when something was restored."""
    return f'{what} "{name}" restored successfully' + ("" if called == name else f' as "{called}"')


@click.command()
@retention_option(required=False)
@click.argument("name")
@server_options
def create_database(*, client: Client, retention_period: str | None, name: str) -> None:
    """Create the database NAME. A write to a database that is not there creates it as well."""
    client.create_database(name, retention_period=retention_period)
    click.echo(f'Database "{name}" created successfully')


@click.command()
@click.option("--deleted", is_flag=True, help="Only those that are deleted and can be restored.")
@format_option
@server_options
def show_databases(*, client: Client, deleted: bool, output_format: str) -> None:
    """List the databases."""
    if not deleted:
        columns = {"database": "db", "retention": "retention_period", "tables": "tables"}
        empty = "There is no database; the first write to one creates it."
        say(records(client.databases(), columns, output_format, empty=empty))
        return
    found = [one for one in client.databases(deleted=True) if "deleted_at" in one]
    columns = {"database": "db", "id": "id", "deleted": "deleted_at", "gone for good": "hard_delete_at"}
    say(records(found, columns, output_format, empty="There is no deleted database that can be restored."))


@click.command()
@retention_option(required=True)
@click.argument("name")
@server_options
def update_database(*, client: Client, retention_period: str, name: str) -> None:
    """Change how long the rows of the database NAME are kept. Older rows are not seen from now on."""
    client.update_database(name, retention_period=retention_period)
    click.echo(f'Database "{name}" updated successfully')


@click.command()
@deletion_options
@click.argument("name")
@server_options
def delete_database(*, client: Client, hard: bool, hard_delete_at: str | None, yes: bool, name: str) -> None:
    """Delete the database NAME with its tables and its triggers. It can be restored for a while, unless you say --hard."""
    when = grace(hard, hard_delete_at)
    confirm(f'database "{name}"', hard=hard, yes=yes)
    client.delete_database(name, hard_delete_at=when)
    click.echo(f'Database "{name}" deleted successfully')


@click.command()
@click.option("--id", "number", type=int, help="Its id, if it is not the newest one of that name.")
@click.option("--as", "new_name", metavar="NAME", help="The name that it gets.")
@click.argument("name")
@server_options
def restore_database(*, client: Client, number: int | None, new_name: str | None, name: str) -> None:
    """Take the deletion of the database NAME back; its triggers go on where they were."""
    click.echo(restored(name, client.restore_database(name, number=number, new_name=new_name), "Database"))
