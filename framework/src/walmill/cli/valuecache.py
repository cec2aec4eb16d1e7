"""`create|delete last_cache|distinct_cache` and `show caches`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import database_option, format_option, server_options
from walmill.cli.output import Columns, records, say

if TYPE_CHECKING:
    from walmill.cli.client import Client


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [one.strip() for one in text.split(",") if one.strip()]


@click.command()
@database_option()
@click.option("-t", "--table", required=True, metavar="NAME", help="The table.")
@click.option("--key-columns", metavar="NAME,...", help="Columns of the key; else all tags.")
@click.option(
    "--value-columns", metavar="NAME,...", help="Other columns that are shown; else all, those to come as well."
)
@click.option("--count", type=click.IntRange(1), help="Rows that are kept for each key; else 1.")
@click.option("--ttl", metavar="DURATION|none", help="How long a row is kept since it was written; else 4h.")
@click.argument("name", required=False)
@server_options
def create_last_cache(*, client: Client, database: str, table: str, name: str | None, **given: Any) -> None:
    """Create a cache of the newest rows of each key of a table. SQL reads it with last_cache('TABLE'[, 'NAME'])."""
    body = {"key_columns": _listed(given["key_columns"]), "value_columns": _listed(given["value_columns"])}
    body.update(count=given["count"], ttl=given["ttl"])
    made = client.create_cache("last", database, table, name, body)
    click.echo(f"Last value cache {made} created successfully")


@click.command()
@database_option()
@click.option("-t", "--table", required=True, metavar="NAME", help="The table.")
@click.option(
    "--columns", required=True, metavar="NAME,...", help="Tags or text whose combinations are kept, the coarsest first."
)
@click.option("--max-cardinality", type=click.IntRange(1), help="Combinations that are kept, the newest; else 100000.")
@click.option("--max-age", metavar="DURATION|none", help="How long one is kept since its newest row; else 24h.")
@click.argument("name", required=False)
@server_options
def create_distinct_cache(*, client: Client, database: str, table: str, name: str | None, **given: Any) -> None:
    """Create a cache of the combinations of values of a table. SQL reads it with distinct_cache('TABLE'[, 'NAME'])."""
    body = {
        "columns": _listed(given["columns"]),
        "max_cardinality": given["max_cardinality"],
        "max_age": given["max_age"],
    }
    made = client.create_cache("distinct", database, table, name, body)
    click.echo(f"Distinct value cache {made} created successfully")


def _deleting(kind: str) -> click.Command:
    @click.command(f"{kind}_cache", help=f"Delete the {kind} value cache NAME of a table.")
    @database_option()
    @click.option("-t", "--table", required=True, metavar="NAME", help="The table.")
    @click.argument("name")
    @server_options
    def delete(*, client: Client, database: str, table: str, name: str) -> None:
        client.delete_cache(kind, database, table, name)
        click.echo(f"{kind.capitalize()} value cache {name} deleted successfully")

    return delete


delete_last_cache = _deleting("last")
delete_distinct_cache = _deleting("distinct")


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(row["columns"])


_CACHES: Columns = {
    "table": "table",
    "kind": "kind",
    "name": "name",
    "columns": _columns,
    "values": lambda row: "all" if row["values"] is None else ", ".join(row["values"]),
    "count": "count",
    "max cardinality": "max_cardinality",
    "kept (s)": "ttl_seconds",
}


@click.command()
@database_option()
@format_option
@server_options
def show_caches(*, client: Client, database: str, output_format: str) -> None:
    """List the caches of last and distinct values of a database."""
    found = [one for kind in ("last", "distinct") for one in client.caches(kind, database)]
    say(records(found, _CACHES, output_format, empty=f"There is no cache of values in the database {database!r}."))
