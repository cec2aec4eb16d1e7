"""Tokens: making and comparing them, and the file that holds the operator's.

A token is `wm_` and 256 random bits. The engine keeps its SHA-256 only; a fast hash is enough, because nobody can guess 256
random bits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from walmill.errors import Conflict, NotFound, Unavailable
from walmill.model.catalog import Token

__all__ = [
    "OPERATOR_TOKEN_FILE",
    "TOKEN_PATTERN",
    "Token",
    "ensure_token_file",
    "expired",
    "file_problem",
    "hash_token",
    "matches",
    "new_token",
    "read_token_file",
    "token_path",
    "write_token_file",
]

OPERATOR_TOKEN_FILE = "operator-token"  # noqa: S105 - a file name
TOKEN_BYTES = 32
TOKEN_PATTERN = re.compile(r"wm_[A-Za-z0-9_-]{43}")
"""What a token looks like."""
_MAX_FILE = 4096


def new_token(random: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Makes a token.

    Args:
        random: Gives so many random bytes.

    Returns:
        `wm_` and 43 characters that need no quoting in a URL, a shell or a header.
    """
    return "wm_" + base64.urlsafe_b64encode(random(TOKEN_BYTES)).rstrip(b"=").decode()


def hash_token(token: str) -> str:
    """What is kept of a token: its SHA-256 in hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def matches(token_hash: str, kept: str) -> bool:
    """Whether two hashes are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(token_hash.encode(), kept.encode())


def expired(token: Token, now: int) -> bool:
    """Whether a token has ended.

    Args:
        token: As it is kept.
        now: ns since the epoch.
    """
    return token.expires_at is not None and now >= token.expires_at


def token_path(place: Path) -> Path:
    """The token file for a data directory; a path that is no directory is taken to be the file itself."""
    return place / OPERATOR_TOKEN_FILE if place.is_dir() else place


def write_token_file(place: Path, token: str) -> Path:
    """Leaves the operator token in a file that only its owner can read.

    Args:
        place: The data directory, or the path of the file.
        token: The token.

    Returns:
        The path of the file. When this returns, its contents and its name are synced.

    Raises:
        Conflict: The file is there already; it is never overwritten.
        Unavailable: The file cannot be written.
    """
    path = token_path(place)
    try:
        # O_EXCL: never through a link or into a file that somebody else has put there.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Conflict(
            f"the token file {str(path)!r} is there already; move it away, or name another one with admin_token_file"
        ) from None
    except OSError as error:
        raise Unavailable(f"the token file {str(path)!r} cannot be made: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask says
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Unavailable(f"the token file {str(path)!r} cannot be written: {error.strerror}") from None
    return path


def read_token_file(place: Path) -> str:
    """Reads the operator token.

    Args:
        place: The data directory, or the path of the file.

    Raises:
        NotFound: There is no such file.
        Conflict: It holds no token, or is no plain file.
        Unavailable: It cannot be read.
    """
    path = token_path(place)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Conflict(f"the token file {str(path)!r} is no plain file; put the token into one")
            text = file.read(_MAX_FILE).decode("ascii", "replace").strip()
    except FileNotFoundError:
        raise NotFound(f"there is no token file {str(path)!r}; the first start of `walmill serve` writes it") from None
    except OSError as error:
        raise Unavailable(f"the token file {str(path)!r} cannot be read: {error.strerror}") from None
    if not TOKEN_PATTERN.fullmatch(text):
        raise Conflict(
            f"the token file {str(path)!r} holds no token (wm_ and 43 characters); remove it if the server has no token yet, "
            "else put the token back"
        )
    return text


def file_problem(path: Path, uid: int) -> str | None:
    """Why others than its owner could know or have chosen the token in a file; None if they could not.

    Args:
        path: The file; it exists.
        uid: The user who has to own it.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        return f"{str(path)!r} is no plain file"
    if found.st_uid != uid:
        return f"{str(path)!r} belongs to the user {found.st_uid}, not to {uid}"
    if found.st_mode & 0o077:
        return f"{str(path)!r} has the mode {stat.S_IMODE(found.st_mode):04o}, so that others can read or change it"
    return None


def ensure_token_file(
    place: Path, *, make: Callable[[], str] = new_token, uid: int | None = None
) -> tuple[str, Path, bool]:
    """The operator token for a first start: from its file, or made and left there.

    Call it before the hash is committed, and commit the hash of what it returns: a crash between the two then leaves a file
    that the next start takes up, never a database whose only token nobody knows.

    Args:
        place: The data directory, or the path of the file.
        make: Makes a token.
        uid: The user who has to own a file that is there; None takes this process's.

    Returns:
        The token, the path, and whether it was made now.

    Raises:
        Conflict: A file is there that others could read or have written, or that holds no token.
        Unavailable: The file cannot be read or written.
    """
    path = token_path(place)
    if not os.path.lexists(path):
        token = make()
        return token, write_token_file(path, token), True
    problem = file_problem(path, os.getuid() if uid is None else uid)
    if problem is not None:
        raise Conflict(f"the operator token is not taken from its file: {problem}; remove the file, or `chmod 600` it")
    if path.stat().st_size == 0:  # a crash between making the file and writing it
        path.unlink()
        token = make()
        return token, write_token_file(path, token), True
    return read_token_file(path), path, False
