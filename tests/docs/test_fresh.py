"""Every block of the tutorial and of the README, in a fresh environment: wheels of this checkout, no network."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.docs.stage import ROOT, examples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TUTORIAL = ROOT / "docs" / "tutorial" / "first-plugin.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n$")
DONE_BEFORE = ("python3 -m venv", ". env/", ". .venv/", "pip install walmill ")  # by the fixture, from wheels
CI_ITSELF = "pip install uv && uv run "  # .ci/run gives the README's two commands on a clean checkout

Run = Callable[..., str]
Start = Callable[[list[str]], None]


def command_of(command: str, *expected: str, run: Run, start: Start) -> None:
    """Gives a command as its reader does, but for what a test does otherwise: no network, and servers that are ended."""
    if command.startswith("uv pip install -e"):
        command = command.removeprefix("uv ")
    if command.startswith("pip install -e"):
        command += " --no-deps --no-build-isolation"
    if command.startswith("duckdb -c "):
        run("walmill create snapshot")
        command = f"python -c {shlex.quote(f'import duckdb; print(duckdb.sql({shlex.split(command)[2]!r}))')}"
    if command.endswith("&"):
        start(command.removesuffix("&").split())
    else:
        run(command, *expected)


def test_every_block_of_the_tutorial(tmp_path: Path, run: Run, start: Start) -> None:
    ran = 0
    text = TUTORIAL.read_text(encoding="utf-8")
    for block in examples(TUTORIAL):
        named = FILE.search("".join(text.splitlines(keepends=True)[: block.line - 1]))
        if named is not None:
            place = tmp_path / named[1]
            assert place.exists(), f"the template made no {named[1]}"
            place.write_text(block.text, encoding="utf-8")
        elif block.kind == "toml":
            assert block.text.strip() in (tmp_path / "walmill-overheat" / "pyproject.toml").read_text()
        elif block.kind == "console":
            for command, expected in block.commands:
                ran += 1
                if not command.startswith(DONE_BEFORE):
                    command_of(command, *expected, run=run, start=start)
    assert ran >= 12


def test_every_block_of_the_readme(tmp_path: Path, fresh: Mapping[str, str], run: Run, start: Start) -> None:
    code = ""
    for block in examples(ROOT / "README.md"):
        if block.kind == "python":
            code = block.text
            (tmp_path / "example.py").write_text(code, encoding="utf-8")
            run("python example.py")
        for command, expected in block.commands:
            if command.startswith("$EDITOR "):
                (tmp_path / command.split()[1]).write_text(code, encoding="utf-8")
            elif not command.startswith((*DONE_BEFORE, CI_ITSELF)):
                command_of(command, *expected, run=run, start=start)
