"""Paths of objects: one rule for all stores, so that what works in a directory works in a bucket."""

from __future__ import annotations

from walmill.errors import InvalidRequest

MAX_PATH = 800
"""Bytes of a path: S3, GCS and Azure take 1,024, and a store has a prefix before it."""

MAX_SEGMENT = 255
"""Bytes between two slashes: what file systems take."""


def check_path(path: str) -> str:
    """A path that every store takes, as it is.

    Raises:
        InvalidRequest: It is empty or too long, a segment is empty, too long or starts with a dot, or a character is a control
            character, a backslash or no Unicode text.
    """
    if problem := _problem(path):
        shown = repr(path if len(path) <= 100 else path[:100] + "…")
        raise InvalidRequest(f"the object path {shown} {problem}")
    return path


def check_prefix(prefix: str) -> str:
    """A prefix of paths: empty for all, else whole segments. Returns it without a slash at the end.

    Raises:
        InvalidRequest: As `check_path`.
    """
    bare = prefix.removesuffix("/")
    return check_path(bare) if bare else ""


def possible(name: str) -> bool:
    """Whether something found under a name may be an object, or hold some."""
    return _problem(name) is None


def _problem(path: str) -> str | None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "is not Unicode text"
    if size > MAX_PATH:
        return f"has {size:,} bytes: at most {MAX_PATH} are possible"
    for segment in path.split("/"):
        if not segment:
            return "has an empty segment: write segments with one slash between them, and none at either end"
        if segment.startswith("."):
            return f"has the segment {segment!r}: a segment must not start with a dot"
        if len(segment.encode()) > MAX_SEGMENT:
            return f"has a segment of {len(segment.encode()):,} bytes: at most {MAX_SEGMENT} are possible"
    if any(one < " " or "\x7f" <= one <= "\x9f" or one == "\\" for one in path):
        return "has a control character or a backslash: encode it, for example as %0A"
    return None
