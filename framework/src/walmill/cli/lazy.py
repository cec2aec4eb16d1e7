"""A group whose commands are imported when they are called, not when they are listed."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click
from attrs import frozen


@frozen
class Lazy:
    """A command that is imported when it is needed.

    Attributes:
        place: `module:attribute`.
        summary: What help says about it, one line.
        section: The heading under which help lists it.
    """

    place: str
    summary: str
    section: str = "Commands"


class LazyGroup(click.Group):
    """A group of `Lazy` commands.

    Args:
        lazy: The commands by name, in the order in which help lists them.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, without importing anything."""
        del ctx
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command."""
        del ctx
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        module, _, attribute = lazy.place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that is called; an unknown one is refused naming the nearest."""
        name = args[0] if args else ""
        if args and not name.startswith("-") and name not in self._lazy and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self._lazy, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._lazy)}"
            ctx.fail(
                f"there is no command {ctx.command_path.partition(' ')[2]} {name}".replace("  ", " ") + f"; {hint}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands from what is known without importing them."""
        del ctx
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, lazy in self._lazy.items():
            sections.setdefault(lazy.section, []).append((name, lazy.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(_padded(rows))


def _padded(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """All names equally wide, so that the sections of one help text line up."""
    return [(name.ljust(10), summary) for name, summary in rows]
