"""Every block of the tutorial, in a fresh environment: wheels of this checkout, no network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial" / "first-plugin.md"
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


@pytest.mark.timeout(180)
def test_every_block_of_the_tutorial(
    tmp_path: Path, run: Callable[..., str], start: Callable[[list[str]], None]
) -> None:
    ran = 0
    for block in BLOCK.finditer(TUTORIAL.read_text(encoding="utf-8")):
        if block["file"] is not None:
            place = tmp_path / block["file"]
            assert place.exists(), f"the template made no {block['file']}"
            place.write_text(block["text"], encoding="utf-8")
        elif block["kind"] == "toml":
            assert block["text"].strip() in (tmp_path / "walmill-overheat" / "pyproject.toml").read_text()
        elif block["kind"] == "console":
            for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                command, *expected = part.strip().split("\n")
                ran += 1
                if command.startswith(("python3 -m venv", ". env/", "pip install walmill ")):
                    continue  # the fixture has done it, from wheels
                if command.endswith("&"):
                    start(command.removesuffix("&").split())
                    continue
                if command.startswith("pip install -e"):
                    command += " --no-deps --no-build-isolation"
                run(command, *expected)
    assert ran >= 12
