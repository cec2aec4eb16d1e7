"""Writes the generated pages of the reference: hooks and server settings. `--check` says whether they are current."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from walmill.settings.model import SETTINGS
from walmill_hookspecs import specs
from walmill_hookspecs._markers import PROJECT

HERE = Path(__file__).parent / "reference"


def hooks() -> str:
    """The page of the hooks, from their docstrings."""
    parts = ["# Hooks\n\nGenerated from `walmill_hookspecs.specs` by `docs/generate.py`.\n"]
    for name, hook in vars(specs).items():
        if not hasattr(hook, f"{PROJECT}_spec"):
            continue
        arguments = ", ".join(inspect.signature(hook).parameters)
        summary, _, rest = (inspect.getdoc(hook) or "").partition("\n\n")
        parts.append(f"## {name}({arguments})\n\n{summary}\n")
        for line in rest.split("\n"):
            if line and not line.startswith(" "):
                key, _, text = line.partition(":")
                parts.append(f"- **{key}**:{text}")
            elif line:
                parts[-1] += f" {line.strip()}"
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def settings() -> str:
    """The page of the server's settings."""
    rows = [
        "# Settings of the server\n\nGenerated from `walmill.settings.model` by `docs/generate.py`. A flag wins over the "
        "environment, which wins over\n`walmill.toml`, which wins over the default; `walmill config show --sources` says where "
        "each value came from.\n",
        "| setting | flag | environment | default | what |\n|---|---|---|---|---|",
    ]
    for info in SETTINGS.values():
        shown = info.show(info.default) or "–"
        rows.append(f"| `{info.name}` | `{info.flag}` | `{info.environment}` | `{shown}` | {info.description} |")
    return "\n".join(rows) + "\n"


PAGES = {"hooks.md": hooks, "settings.md": settings}


def main() -> int:
    """Writes the pages, or checks them."""
    stale = []
    for name, make in PAGES.items():
        page = HERE / name
        if "--check" in sys.argv:
            if not page.exists() or page.read_text(encoding="utf-8") != make():
                stale.append(name)
        else:
            page.write_text(make(), encoding="utf-8")
    for name in stale:
        print(f"docs/reference/{name} is not current; run: uv run python docs/generate.py")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
