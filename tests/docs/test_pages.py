"""The reference is current, and the examples in the docs run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.docs.stage import examples

from walmill.cli.main import cli
from walmill.settings.model import SETTINGS
from walmill_hookspecs import specs
from walmill_hookspecs._markers import PROJECT

ROOT = Path(__file__).parents[2]
OTHERS = (
    "clients",
    "test-a-plugin",
    "first-plugin",
)  # need a server, pytest, an environment: test_examples, test_fresh
EXAMPLES = [
    pytest.param(one.text, id=f"{page.stem}-{one.line}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if page.stem not in OTHERS
    for one in examples(page)
    if one.kind == "python"
]


def test_the_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_hook_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
    for name, hook in vars(specs).items():
        if hasattr(hook, f"{PROJECT}_spec"):
            assert f"\n## {name}(" in page, f"docs/reference/hooks.md does not document {name}"


def test_every_option_and_setting_says_what_it_is() -> None:
    def walk(command: click.Command, path: str) -> Iterator[str]:
        if not (command.help or "").strip():
            yield path
        for one in command.params:
            if isinstance(one, click.Option) and not one.hidden and not (one.help or "").strip():
                yield f"{path} {one.opts[0]}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from walk(found, f"{path} {name}")

    silent = [*walk(cli, "walmill"), *(name for name, one in SETTINGS.items() if not one.description)]
    assert not silent


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_examples_run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
