"""`create|delete token`, `show tokens`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from walmill.cli.options import format_option, server_options, shown_format_option
from walmill.cli.output import Columns, records, say
from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    from walmill.cli.client import Client


def _name(positional: str | None, named: str | None) -> str:
    if positional and named and positional != named:
        raise click.UsageError(f"two names were given, {positional!r} and {named!r}; give one")
    name = positional or named
    if not name:
        raise click.UsageError("the token has no name; give one, such as 'telegraf'")
    return name


def _limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what bounds the queries of a token; the command gets `limits`."""

    @functools.wraps(command)
    def run(
        *args: Any, query_timeout: str | None, query_memory_limit: str | None, query_max_rows: int | None, **more: Any
    ) -> Any:
        limits = {
            "query_timeout": query_timeout,
            "query_memory_limit": query_memory_limit,
            "query_max_rows": query_max_rows,
            "query_max_files": more.pop("query_max_files"),
        }
        return command(*args, limits={name: value for name, value in limits.items() if value is not None}, **more)

    for option in (
        click.option("--query-timeout", metavar="DURATION", help="How long one query may take, such as 10s."),
        click.option("--query-memory-limit", metavar="SIZE", help="Memory for its sorts, joins and groups: 256MiB."),
        click.option("--query-max-rows", type=click.IntRange(1), metavar="N", help="Rows that its answer may have."),
        click.option("--query-max-files", type=click.IntRange(1), metavar="N", help="Files that may be read for it."),
    ):
        run = option(run)
    return run


@click.command()
@click.option("--admin", is_flag=True, help="A token that may do everything; at present all may.")
@click.option("--name", "named", help="The name, as InfluxDB takes it.")
@click.option("--expiry", metavar="DURATION", help="How long it is good for, such as 10d; else for ever.")
@shown_format_option
@_limit_options
@click.argument("name", required=False)
@server_options
def create_token(
    *,
    client: Client,
    admin: bool,
    named: str | None,
    expiry: str | None,
    output_format: str,
    name: str | None,
    limits: Mapping[str, Any],
) -> None:
    """Create the token NAME. It is shown this once; the server keeps only its hash.

    The limits bound each query that is asked with it, within those of the server.
    """
    del admin
    from walmill import units

    seconds = None
    if expiry is not None:
        nanoseconds = units.parse_duration(expiry, what="expiry", minimum=units.SECOND)
        seconds, left = divmod(nanoseconds, units.SECOND)
        if left:
            raise InvalidRequest(f"the expiry {expiry!r} is not a whole number of seconds")
    made = client.create_token(_name(name, named), expiry_secs=seconds, limits=limits)
    if output_format == "json":
        click.echo(json.dumps(made, indent=2))
        return
    click.echo(
        f"New token {made.get('name')!r} created successfully\n\n"
        f"Token: {made.get('token')}\n"
        f"HTTP header: Authorization: Bearer {made.get('token')}\n\n"
        "Keep it somewhere safe now: it cannot be shown again."
    )


def _when(member: str, never: str) -> Any:
    from walmill.units import format_time

    def show(row: Any) -> str:
        value = row.get(member)
        return format_time(value) if isinstance(value, int) else str(value or never)

    return show


@click.command()
@format_option
@server_options
def show_tokens(*, client: Client, output_format: str) -> None:
    """List the tokens. Their values are not kept, so nobody can show them."""
    columns: Columns = {
        "name": "name",
        "created": _when("created_at", ""),
        "expires": _when("expires_at", "never"),
        "permissions": lambda row: ", ".join(row.get("permissions") or ()),
        "limits": lambda row: ", ".join(f"{name[6:]} {row[name]}" for name in sorted(row) if name.startswith("query_")),
    }
    say(records(client.tokens(), columns, output_format, empty="There is no token."))


@click.command()
@_limit_options
@click.argument("name")
@server_options
def update_token(*, client: Client, name: str, limits: Mapping[str, Any]) -> None:
    """Give the queries of the token NAME these limits; the server's hold for what is not given."""
    client.update_token(name, limits)
    click.echo(f"Token {name} updated successfully")


@click.command()
@click.option("--token-name", "named", help="The name, as InfluxDB takes it.")
@click.argument("name", required=False)
@server_options
def delete_token(*, client: Client, named: str | None, name: str | None) -> None:
    """Delete the token NAME; from then on it opens nothing."""
    chosen = _name(name, named)
    client.delete_token(chosen)
    click.echo(f"Token {chosen} deleted successfully")
