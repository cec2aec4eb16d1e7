"""`walmill completion SHELL`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(*, shell: str) -> None:
    """Print a completion script for SHELL.

    \b
    bash: eval "$(walmill completion bash)" in ~/.bashrc
    zsh:  eval "$(walmill completion zsh)" in ~/.zshrc
    fish: walmill completion fish > ~/.config/fish/completions/walmill.fish
    """
    from click.shell_completion import get_completion_class

    from walmill.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None  # SHELLS are those that click has
    click.echo(found(cli, {}, "walmill", "_WALMILL_COMPLETE").source())
