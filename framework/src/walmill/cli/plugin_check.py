"""`plugin check`: what every user of a plugin would expect, tried, with deprecations as errors."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from walmill.errors import Unavailable

TEST = """
from walmill.testing.suite import plugin_suite

TestContract = plugin_suite({value!r}, {more}arguments={arguments!r}, repeats={repeats!r})
"""


@click.command()
@click.option(
    "--rows",
    metavar="TEXT|@FILE",
    help="Rows that it is made for, as line protocol. Else some of a table cpu.",
)
@click.option("--arg", "args", multiple=True, metavar="NAME=VALUE", help="An argument for the plugin. May be repeated.")
@click.option("--chance", is_flag=True, help="Do not expect that a run which is repeated writes the same.")
@click.option("-v", "--verbose", is_flag=True, help="Name each test.")
@click.argument("plugin")
def check_plugin(*, rows: str | None, args: tuple[str, ...], chance: bool, verbose: bool, plugin: str) -> int:
    """Try PLUGIN, a file, a directory, or the name of an installed one, with the contract tests of walmill.testing.

    Exits with 1 if one fails: what the contract has deprecated counts as well.
    """
    from walmill.cli.here import registry_of
    from walmill.cli.serve import settings_from
    from walmill.cli.trigger import body_of, parse_arguments
    from walmill.plugins.places import find_plugin, is_place

    if find_spec("pytest") is None:
        raise Unavailable("the contract tests need pytest: pip install pytest")
    value = find_plugin(plugin).value if is_place(plugin) else registry_of(settings_from(None, {})).entry(plugin)[0]
    more = "" if rows is None else f"rows={body_of(rows).decode()!r}, "
    text = TEST.format(value=value, more=more, arguments=parse_arguments(args), repeats=not chance)
    with tempfile.TemporaryDirectory(prefix="walmill-check-") as place:
        Path(place, "test_contract.py").write_text(text, "utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "--no-header",
            "--rootdir",
            place,
        ]
        command += ["-W", "error::DeprecationWarning", "-W", "error::PendingDeprecationWarning"]
        command += ["-v" if verbose else "-q", "test_contract.py"]
        done = subprocess.run(command, cwd=place, check=False)  # noqa: S603 - our own command line
    return 1 if done.returncode else 0
