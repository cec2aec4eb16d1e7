"""Where a plugin comes from, as people write it: a requirement of an index, a Git repository, a directory or a wheel. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from attrs import frozen

from walmill.errors import InvalidRequest

SCHEMES = ("https", "http", "ssh", "git", "file")
_NAMED = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(_NAMED + r"\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*(?:[<>=!~][^;@]*)?(?:;.*)?")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_NAME = re.compile(_NAMED)

Kind = Literal["index", "git", "path"]


@frozen
class PluginSource:
    """Where a plugin comes from.

    Attributes:
        kind: `index`, `git`, or `path` for a directory or a wheel of the server's machine.
        text: As it was written.
        address: The requirement, the URL of the repository, or the path.
        ref: Branch, tag or commit of a repository; None for its default branch.
        subdirectory: Where in the repository the project is; empty for its top.
    """

    kind: Kind
    text: str
    address: str
    ref: str | None = None
    subdirectory: str = ""


def parse_source(text: str) -> PluginSource:
    """What a text means.

    Args:
        text: `NAME`, `NAME==1.2`, `git+https://…@REF#subdirectory=…`, `file:///…@REF`, a path with a slash.

    Raises:
        InvalidRequest: If it means nothing.
    """
    text = text.strip()
    if text.startswith(("git+", "file://")):
        return _git(text)
    if "/" in text or text.endswith(".whl") or text in (".", ".."):
        path = Path(text).expanduser()
        if not path.is_absolute():
            raise InvalidRequest(
                f"{text!r:.100} is a relative path: give the whole one, as the server may be elsewhere"
            )
        if not path.exists():
            raise InvalidRequest(f"there is nothing at {text} on the server's machine")
        return PluginSource("path", text, str(path.resolve()))
    if not _REQUIREMENT.fullmatch(text):
        raise InvalidRequest(
            f"{text!r:.100} is no plugin's source; give NAME, NAME==VERSION, git+https://…@REF, or a path on the server's machine"
        )
    return PluginSource("index", text, text)


def _git(text: str) -> PluginSource:
    address, _, fragment = text.removeprefix("git+").partition("#")
    given = parse_qs(fragment, keep_blank_values=True)
    unknown = set(given) - {"subdirectory", "egg"}
    if unknown:
        raise InvalidRequest(f"{text!r:.100}: behind # there may be subdirectory=…, not {', '.join(sorted(unknown))}")
    subdirectory = given.get("subdirectory", [""])[0].strip("/")
    if any(part in ("", ".", "..") for part in subdirectory.split("/")) and subdirectory:
        raise InvalidRequest(f"{text!r:.100}: the subdirectory leads elsewhere")
    parts = urlsplit(address)
    if parts.scheme not in SCHEMES:
        raise InvalidRequest(f"{text!r:.100}: repositories are reached by {', '.join(SCHEMES)}, not {parts.scheme!r}")
    if parts.password is not None:
        raise InvalidRequest(
            "a URL with a password would be written down in the lock file; let git's credential helper have it"
        )
    if any(part in (".", "..") for part in unquote(parts.path).split("/")):
        raise InvalidRequest(f"{text!r:.100}: the address leads elsewhere by '..'; write where it leads")
    ref = None
    head, at, tail = address.rpartition("@")
    if at and "/" in head[len(parts.scheme) + 3 :]:  # else it is a user's name
        address, ref = head, tail
        if not _REF.fullmatch(tail) or ".." in tail:
            raise InvalidRequest(f"{text!r:.100}: {tail!r} is no branch, tag or commit")
    return PluginSource("git", text, address, ref, subdirectory)


def requirement_name(requirement: str) -> str:
    """The name of the distribution that a requirement is for."""
    found = _NAME.match(requirement)
    return "" if found is None else found[0]
