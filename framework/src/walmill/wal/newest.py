"""A file that says which segment of a log is the newest: without it nobody could tell that the last one is missing."""

from __future__ import annotations

import json
from contextlib import suppress

from walmill.errors import DataCorruption
from walmill.fs.protocol import FileSystem

NAME = "newest"


class NewestMark:
    """The file `newest` in the directory of a log.

    Args:
        fs: The file system.
        directory: The directory of the log.

    Attributes:
        number: The number that it says; None if it says none, or there is no file.
        unsure: Whether the last `write` failed so late that the file may say either number.
    """

    def __init__(self, fs: FileSystem, directory: str) -> None:
        self._fs = fs
        self._directory = directory
        self.number: int | None = None
        self.unsure = False

    def clean(self) -> None:
        """Removes what a `write` that was broken off left behind."""
        if f"{NAME}.new" in self._fs.list(self._directory):
            self._fs.unlink(f"{self._directory}/{NAME}.new")

    def read(self) -> None:
        """Reads it; a log that an older engine wrote has none.

        Raises:
            DataCorruption: If it says nothing.
        """
        if NAME not in self._fs.list(self._directory):
            return
        file = self._fs.open_readonly(f"{self._directory}/{NAME}")
        try:
            data = file.pread(4096, 0)
        finally:
            file.close()
        try:
            number = json.loads(data)["segment"]
            if not (number is None or type(number) is int):
                raise TypeError(f"{number!r} is no number")
        except (ValueError, TypeError, KeyError) as error:
            raise DataCorruption(
                f"the file {NAME} of the log cannot be read ({error}): it says which segment is the newest. Restore it from a "
                "backup, or remove it if you know that no segment is missing"
            ) from None
        self.number = number

    def write(self, number: int | None) -> None:
        """Has it say a number, durably.

        Raises:
            OSError: If that cannot be done; then it says what it said before, or this.
        """
        self.unsure = False
        self.clean()
        aside = f"{self._directory}/{NAME}.new"
        file = self._fs.create(aside)
        try:
            file.pwritev([json.dumps({"segment": number}).encode()], 0)
            file.fdatasync()
        except OSError:
            with suppress(OSError):
                self._fs.unlink(aside)
            raise
        finally:
            file.close()
        self.unsure = True
        self._fs.rename(aside, f"{self._directory}/{NAME}")
        self._fs.sync_directory(self._directory)
        self.unsure = False
        self.number = number
