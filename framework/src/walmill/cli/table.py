"""`create|show|update|delete|restore table`, `delete rows`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.database import confirm, deletion_options, grace, restored, retention_option
from walmill.cli.options import database_option, format_option, server_options
from walmill.cli.output import records, say

if TYPE_CHECKING:
    from walmill.cli.client import Client


def _fields(given: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in (given or "").split(","):
        name, colon, kind = one.rpartition(":")
        if not one:
            continue
        if not colon or not name or not kind:
            raise click.UsageError(f"the field {one!r} is not NAME:TYPE, such as force:float64")
        if name in found:
            raise click.UsageError(f"the field {name!r} is given twice")
        found[name] = kind
    return found


@click.command()
@database_option()
@click.option("--tags", metavar="NAME,...", help="The tags, in the order in which rows are sorted.")
@click.option(
    "--fields", metavar="NAME:TYPE,...", help="The fields; types are int64, uint64, float64, string (utf8), bool."
)
@retention_option(required=False, table=True)
@click.argument("name")
@server_options
def create_table(
    *,
    client: Client,
    database: str,
    tags: str | None,
    fields: str | None,
    retention_period: str | None,
    name: str,
) -> None:
    """Create the table NAME. A write to a table that is not there creates it as well."""
    listed = [one for one in (tags or "").split(",") if one]
    client.create_table(database, name, listed, _fields(fields), retention_period)
    click.echo(f'Table "{database}"."{name}" created successfully')


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in row["fields"].items())


@click.command()
@database_option()
@click.option("--deleted", is_flag=True, help="Only those that are deleted and can be restored.")
@format_option
@server_options
def show_tables(*, client: Client, database: str, deleted: bool, output_format: str) -> None:
    """List the tables of a database with their columns."""
    if not deleted:
        columns: dict[str, Any] = {
            "table": "table",
            "retention": "retention_period",
            "tags": lambda row: ", ".join(row["tags"]),
            "fields": _columns,
        }
        empty = f"There is no table in the database {database!r}; the first write to one creates it."
        say(records(client.tables(database), columns, output_format, empty=empty))
        return
    found = [one for one in client.tables(database, deleted=True) if "deleted_at" in one]
    columns = {"table": "table", "id": "id", "deleted": "deleted_at", "gone for good": "hard_delete_at"}
    say(records(found, columns, output_format, empty="There is no deleted table that can be restored."))


@click.command()
@database_option()
@retention_option(required=True, table=True)
@click.argument("name")
@server_options
def update_table(*, client: Client, database: str, retention_period: str, name: str) -> None:
    """Change how long the rows of the table NAME are kept. Older rows are not seen from now on."""
    client.update_table(database, name, retention_period=retention_period)
    click.echo(f'Table "{database}"."{name}" updated successfully')


@click.command()
@database_option()
@deletion_options
@click.argument("name")
@server_options
def delete_table(
    *, client: Client, database: str, hard: bool, hard_delete_at: str | None, yes: bool, name: str
) -> None:
    """Delete the table NAME. It can be restored for a while, unless you say --hard."""
    when = grace(hard, hard_delete_at)
    confirm(f'table "{name}" of the database "{database}"', hard=hard, yes=yes)
    client.delete_table(database, name, hard_delete_at=when)
    click.echo(f'Table "{database}"."{name}" deleted successfully')


@click.command()
@database_option()
@click.option("--id", "number", type=int, help="Its id, if it is not the newest one of that name.")
@click.option("--as", "new_name", metavar="NAME", help="The name that it gets.")
@click.argument("name")
@server_options
def restore_table(*, client: Client, database: str, number: int | None, new_name: str | None, name: str) -> None:
    """Take the deletion of the table NAME back."""
    click.echo(restored(name, client.restore_table(database, name, number=number, new_name=new_name), "Table"))


@click.command()
@database_option()
@click.option("--table", required=True, metavar="NAME", help="The table.")
@click.option("--where", required=True, metavar="SQL", help="Which rows: what comes behind WHERE.")
@click.option("--dry-run", is_flag=True, help="Only say how many rows it would delete.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@server_options
def delete_rows(*, client: Client, database: str, table: str, where: str, dry_run: bool, yes: bool) -> None:
    """Delete the rows of a table that SQL finds. This cannot be undone; --dry-run shows how many there are."""
    if dry_run or not yes:
        found = client.delete_rows(database, table, where, dry_run=True)
        click.echo(f"{_counted(found)} would be deleted", err=not dry_run)
        if dry_run:
            return
        confirm(f'rows of the table "{table}"', hard=True, yes=False)
    found = client.delete_rows(database, table, where, dry_run=False)
    click.echo(f"{_counted(found)} deleted successfully")


def _counted(found: Mapping[str, Any]) -> str:
    rows = found["rows"]
    if not rows:
        return "No row"
    return f"{rows:,} {'row' if rows == 1 else 'rows'} from {found['earliest']} to {found['latest']}"
