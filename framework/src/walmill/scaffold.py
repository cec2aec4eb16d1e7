"""A new plugin from the template, offline: what `walmill plugin new` does."""

from __future__ import annotations

import re
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from walmill.errors import Conflict, InvalidRequest

NAME = r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*"
"""What the name of a plugin may be; the template's own check says the same."""


def template_directory() -> Path:
    """Where the template is: in the installed package, or in the source tree beside it.

    Raises:
        InvalidRequest: If it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for candidate in (here / "_template", here.parents[2] / "cookiecutter-plugin"):
        if (candidate / "cookiecutter.json").is_file():
            return candidate
    raise InvalidRequest(
        "the template of plugins is not installed; install walmill from its wheel or from its source tree"
    )


def render(*, name: str, hooks: Sequence[str], output_dir: Path, no_input: bool = True) -> Path:
    """Makes a plugin package.

    Args:
        name: Name of the plugin; the distribution becomes `walmill-NAME`. An answer to the question for it
            goes before it.
        hooks: Of `write`, `schedule`, `request`, `service`, `snapshot`.
        output_dir: Where the directory of the package is made.
        no_input: Whether nothing more is asked.

    Returns:
        The directory of the package.

    Raises:
        InvalidRequest: If no package can be made from the name.
        Conflict: If the directory exists.
    """
    from cookiecutter.exceptions import CookiecutterException, FailedHookException, OutputDirExistsException
    from cookiecutter.main import cookiecutter

    if re.fullmatch(NAME, name) is None:
        raise InvalidRequest(
            f"no package can be made from the name {name!r}: use lower-case letters and digits, with single -, _ or . between"
        )
    if name == "hookspecs":
        raise InvalidRequest(
            "the name 'hookspecs' would make a package that hides walmill_hookspecs; take another name"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    answers = {"name": name, "hooks": ",".join(hooks)}
    try:
        with tempfile.TemporaryDirectory(prefix="walmill-template-") as copied:
            # pip compiles what it installs, the template too: that must not get into anybody's package
            clean = Path(copied) / "template"
            shutil.copytree(template_directory(), clean, ignore=shutil.ignore_patterns("__pycache__"))
            made = cookiecutter(
                str(clean),
                no_input=no_input,
                extra_context=answers,
                output_dir=str(output_dir),
                default_config=True,
            )
    except OutputDirExistsException:
        raise Conflict(f"{output_dir / f'walmill-{name}'} exists already; move it away, or take another name") from None
    except FailedHookException:
        raise InvalidRequest("no package can be made from these answers, for the reason that stands above") from None
    except CookiecutterException as error:
        raise InvalidRequest(f"the template could not be rendered: {error}") from None
    return Path(made)


def plugin_name(package: Path) -> str:
    """The name by which triggers call the plugin of a package that `render` made.

    Args:
        package: Its directory.
    """
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(next(iter(project["entry-points"]["walmill"])))
