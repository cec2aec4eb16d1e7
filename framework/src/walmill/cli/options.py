"""Options that many commands share, and the connection that comes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from walmill.cli.output import FORMATS
from walmill.errors import WalmillError

if TYPE_CHECKING:
    from walmill.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_HOST = "http://127.0.0.1:8181"


def server_options(command: F) -> F:
    """Adds `--host`, `--token`, `--tls-ca` and `--data-dir`; the command gets a `client` instead of them."""

    def with_client(
        *args: Any, host: str, token: str | None, data_dir: Path | None, tls_ca: Path | None, **kwargs: Any
    ) -> Any:
        with connect(host, token, data_dir, tls_ca) as client:
            return command(*args, client=client, **kwargs)

    with_client.__name__, with_client.__doc__ = command.__name__, command.__doc__
    with_client.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path),
            help="Where the operator token of a server on this machine is; else as `walmill config show` says.",
        ),
        click.option(
            "--tls-ca",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            envvar="WALMILL_TLS_CA",
            show_envvar=True,
            help="PEM file with certificates to trust, for a server whose certificate this machine does not know.",
        ),
        click.option("--token", envvar="WALMILL_AUTH_TOKEN", show_envvar=True, help="The token to authenticate with."),
        click.option(
            "-H",
            "--host",
            envvar="WALMILL_HOST_URL",
            show_envvar=True,
            default=DEFAULT_HOST,
            show_default=True,
            metavar="URL",
            help="The server.",
        ),
    ):
        option(with_client)
    return with_client  # type: ignore[return-value]


def database_option(*, required: bool = True) -> Callable[[F], F]:
    """Adds `-d/--database`."""
    return click.option(
        "-d",
        "--database",
        envvar="WALMILL_DATABASE_NAME",
        show_envvar=True,
        required=required,
        metavar="NAME",
        help="The database.",
    )


def format_option(command: F) -> F:
    """Adds `--format` with what tables of definitions can be printed as."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default="pretty",
        show_default=True,
        help="How to print it.",
    )(command)


def shown_format_option(command: F) -> F:
    """Adds `--format` with what a single thing can be printed as."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(("pretty", "json")),
        default="pretty",
        show_default=True,
        help="How to print it.",
    )(command)


def connect(host: str, token: str | None, data_dir: Path | None, tls_ca: Path | None = None) -> Client:
    """A client for a server, with the token that was given, or that of a server on this machine.

    Args:
        host: URL of the server.
        token: As given by flag or environment.
        data_dir: Where to look for the operator token; None looks in the data directory of the settings, and only if the
            server is on this machine: the operator's token is never sent anywhere else unasked.
        tls_ca: PEM file with certificates to trust.

    Raises:
        InvalidRequest: The URL or the settings are wrong.
    """
    from walmill.cli.client import Client
    from walmill.cli.connection import is_local

    if token and token.strip():
        return Client(host, token.strip(), token_hint="check --token, or WALMILL_AUTH_TOKEN", tls_ca=tls_ca)  # noqa: S106 - a sentence
    if data_dir is None and not is_local(host):
        return Client(host, None, token_hint="give one with --token, or set WALMILL_AUTH_TOKEN", tls_ca=tls_ca)  # noqa: S106 - a sentence
    from walmill.auth.tokens import read_token_file
    from walmill.settings.load import load_settings

    settings = load_settings(flags={"data_dir": data_dir}, environ=os.environ, directory=Path.cwd())
    place = settings.token_file if data_dir is None else settings.data_dir
    try:
        found = read_token_file(place)
    except WalmillError as error:
        hint = f"{error.message}; give a token with --token or WALMILL_AUTH_TOKEN, or name the data directory with --data-dir"
        return Client(host, None, token_hint=hint, tls_ca=tls_ca)
    return Client(
        host,
        found,
        token_hint=f"it came from {str(place)!r}; name the server's data directory with --data-dir, or give --token",
        tls_ca=tls_ca,
    )
