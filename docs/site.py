"""What the site has beside `docs/`: the pages that lie elsewhere in the repository, as a hook of mkdocs."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "explanation/architecture.md",
    "cookiecutter-plugin/README.md": "how-to/template.md",
    "benchmarks/RESULTS.md": "explanation/benchmarks.md",
    **{
        readme.relative_to(ROOT).as_posix(): f"plugins/{readme.parent.name}.md"
        for readme in sorted(ROOT.glob("contrib_plugins/*/README.md"))
    },
}
"""Where pages lie, and where they are on the site."""
_LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds them."""
    for place, name in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / place).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Has links lead to where pages are on the site."""
    here = {name: place for place, name in ELSEWHERE.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    start = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1]))
        place = ELSEWHERE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else target)
        return f"]({posixpath.relpath(place, start or '.')}{link[2] or ''})"

    return _LINK.sub(moved, markdown)
