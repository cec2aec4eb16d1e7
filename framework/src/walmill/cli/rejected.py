"""The file of refused lines: line protocol again, each line under a comment that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from walmill.cli.output import clean
from walmill.cli.upload import Refusal
from walmill.errors import InvalidRequest


def entry(source: str, refusal: Refusal) -> bytes:
    """What the file says of one refusal.

    Args:
        source: What the line is of.
        refusal: The line.
    """
    words = " ".join(f"{source} line {refusal.line}: {refusal.message}".split())
    return b"# " + clean(words).encode("utf-8", "replace") + b"\n" + refusal.text + b"\n"


class Rejected:
    """The file. What it holds already stays.

    Args:
        path: Where it is.
        inputs: The files that are written; it must be none of them.

    Raises:
        InvalidRequest: It is one of them.
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, inputs: Iterable[Path]) -> None:
        self.path = path
        if path.exists() and any(path.samefile(one) for one in inputs if one.exists()):
            raise InvalidRequest(f"--rejected {str(path)!r} is a file that is written; name another")
        self._new = not path.exists()
        self._file = path.open("ab")

    def add(self, source: str, refusals: Iterable[Refusal]) -> None:
        """Appends refusals; they are with the system when it returns."""
        for one in refusals:
            self._file.write(entry(source, one))
        self._file.flush()

    def close(self) -> None:
        """Closes the file, and removes it if it was made for nothing."""
        empty = self._file.tell() == 0
        self._file.close()
        if empty and self._new:
            self.path.unlink(missing_ok=True)
