"""Writing into the plugin directory for who may do that: whole files and whole directories, atomically, and nowhere else."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from walmill.errors import InvalidRequest, NotFound
from walmill.fs.whole import ASIDE, write_whole
from walmill.plugins.content import MOST_BYTES, MOST_FILES

MOST_PARTS = 32
GONE = ".old-"
"""How the name of what is being removed begins."""


def parts_of(text: str) -> list[str]:
    """The parts of a path below the plugin directory.

    Args:
        text: The path, with slashes.

    Raises:
        InvalidRequest: If it leads anywhere else, or would be ignored there.
    """
    parts = text.split("/")
    wrong = None
    if not text or text.startswith("/") or "\\" in text or (len(text) > 1 and text[1] == ":"):
        wrong = "give a relative path with slashes"
    elif any(part in ("", ".", "..") for part in parts):
        wrong = "its parts are names, without empty ones, '.' and '..'"
    elif any(part.startswith(".") or part == "__pycache__" for part in parts):
        wrong = "hidden files and bytecode are not taken from there"
    elif any(not part.isprintable() or len(part.encode("utf-8", "replace")) > 255 for part in parts):
        wrong = "names have at most 255 bytes and no control characters"
    elif len(parts) > MOST_PARTS:
        wrong = f"it has {len(parts)} parts; at most {MOST_PARTS} are allowed"
    if wrong is not None:
        raise InvalidRequest(f"the path {text!r:.100} cannot be one of the plugin directory: {wrong}")
    return parts


def _below(root: Path, parts: list[str]) -> Path:
    """A place below a directory, none of whose parts leads out of it.

    Raises:
        InvalidRequest: If one is a symbolic link, or a file where a directory has to be.
    """
    place = root
    for number, part in enumerate(parts):
        place = place / part
        if place.is_symlink():
            raise InvalidRequest(
                f"{place.relative_to(root)} is a symbolic link: what it leads to is not written from here"
            )
        if number < len(parts) - 1 and place.exists() and not place.is_dir():
            raise InvalidRequest(f"{place.relative_to(root)} is a file, so nothing can be below it")
    return place


def put_file(root: Path, path: str, data: bytes) -> Path:
    """Puts a file there, at once and as a whole; what was there before is replaced.

    Args:
        root: The plugin directory; made if it is not there.
        path: Below it, with slashes.
        data: Its content.

    Returns:
        Where it is.

    Raises:
        InvalidRequest: If the path is not allowed, or the content too large.
        OSError: If it cannot be written.
    """
    parts = parts_of(path)
    if len(data) > MOST_BYTES:
        raise InvalidRequest(f"the file has {len(data):,} bytes; a plugin has at most {MOST_BYTES:,}")
    root.mkdir(parents=True, exist_ok=True)
    place = _below(root, parts)
    if place.is_dir():
        raise InvalidRequest(f"{path} is a directory; a file cannot replace it")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, data)
    return place


def put_directory(root: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Puts a directory there as a whole; one that was there before is replaced with all that is in it.

    Args:
        root: The plugin directory; made if it is not there.
        name: Its name.
        files: Its files by their path below it, with slashes.

    Returns:
        Where it is.

    Raises:
        InvalidRequest: If a path is not allowed, two exclude each other, or it is no package.
        OSError: If it cannot be written.
    """
    if len(parts_of(name)) != 1:
        raise InvalidRequest(f"{name!r:.100} is no name of a directory in the plugin directory")
    paths = {path: parts_of(path) for path in files}
    for path, parts in paths.items():
        for number in range(1, len(parts)):
            if "/".join(parts[:number]) in paths:
                raise InvalidRequest(f"{'/'.join(parts[:number])} is a file, so {path} cannot be below it")
    if "__init__.py" not in files and "pyproject.toml" not in files:
        raise InvalidRequest(
            f"the directory {name} has neither an __init__.py nor a pyproject.toml, so it is no plugin"
        )
    if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_BYTES:
        raise InvalidRequest(f"a plugin has at most {MOST_FILES:,} files and {MOST_BYTES:,} bytes")
    root.mkdir(parents=True, exist_ok=True)
    place = _below(root, [name])
    if place.exists() and not place.is_dir():
        raise InvalidRequest(f"{name} is a file; a directory cannot replace it")
    new = Path(tempfile.mkdtemp(prefix=ASIDE, dir=root))
    old = new.with_name(new.name.replace(ASIDE, GONE))
    try:
        for path, parts in paths.items():
            target = new.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files[path])
        new.chmod(0o755)
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            if old.exists():
                old.rename(place)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return place


def remove(root: Path, name: str) -> None:
    """Removes a file or a directory of the plugin directory.

    Args:
        root: The plugin directory.
        name: Its name there.

    Raises:
        InvalidRequest: If the name is not allowed.
        NotFound: If it is not there.
        OSError: If it cannot be removed.
    """
    place = _below(root, parts_of(name))
    if place.is_dir():
        old = Path(tempfile.mkdtemp(prefix=GONE, dir=root))
        place.rename(old / place.name)
        shutil.rmtree(old, ignore_errors=True)
        return
    try:
        place.unlink()
    except FileNotFoundError:
        raise NotFound(f"there is no file {name} in the plugin directory") from None


def sweep(root: Path) -> None:
    """Removes what an upload left that was killed."""
    with contextlib.suppress(OSError):
        for one in root.iterdir():
            if one.name.startswith((ASIDE, GONE)):
                shutil.rmtree(one, ignore_errors=True)
                if one.is_file():
                    one.unlink(missing_ok=True)
