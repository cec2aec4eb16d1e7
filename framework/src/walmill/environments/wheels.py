"""Wheels of what this engine's workers run, made of what is installed beside it: an environment gets the version that fits."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from pathlib import Path

import importlib_metadata

from walmill.fs.whole import write_whole
from walmill.plugins.content import installed_roots, paths_of

OWN = {"walmill-hookspecs": "walmill_hookspecs", "walmill-worker": "walmill_worker"}
"""Distributions that come from the engine and never from an index, and their packages."""
_WHEEL = "Wheel-Version: 1.0\nGenerator: walmill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_WHEN = (1980, 1, 1, 0, 0, 0)


def own_wheels(directory: Path) -> list[Path]:
    """The wheels, made in a directory if they are not there as they should be.

    Args:
        directory: The directory; made if it is not there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for name, package in OWN.items():
        distribution = importlib_metadata.distribution(name)
        stem = f"{package}-{distribution.version}"
        files = {file: path.read_bytes() for root in installed_roots(package) for file, path in paths_of(root)}
        about = f"{stem}.dist-info"
        files[f"{about}/METADATA"] = (distribution.read_text("METADATA") or "").encode()
        files[f"{about}/WHEEL"] = _WHEEL.encode()
        path = directory / f"{stem}-py3-none-any.whl"
        data = _packed(files, f"{about}/RECORD")
        if not path.is_file() or path.read_bytes() != data:
            write_whole(path, data)
        made.append(path)
    return made


def _packed(files: dict[str, bytes], record: str) -> bytes:
    lines = []
    for name, data in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    lines.append(f"{record},,")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*sorted(files.items()), (record, ("\n".join(lines) + "\n").encode())]:
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def same_name(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
