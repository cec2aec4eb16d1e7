"""The files that a query reads: where they are on this machine, what is made for its time, and what may be wrong with them."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import field, frozen

from walmill.buffer.source import TableSource
from walmill.errors import DataCorruption, Unavailable
from walmill.model.files import DataFile

_CHUNK = 2**22  # bytes of a file that are read at once when it is checked
_MOST_KNOWN = 100_000  # so many files are known to be as they were written
_REMEDY = "restore it from a backup"


def _nothing() -> None:
    """What is to be removed before there is anything."""


class Folder:
    """A folder for the time of one query. It is made with the first thing in it, and goes at `close` or with this object."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._remove: Callable[[], object] = _nothing

    def close(self) -> None:
        """Removes it. May be called often."""
        self._remove()

    def links(self, name: str, paths: Sequence[Path]) -> Path:
        """A new folder in it, whose name begins like this, with links to some files.

        Raises:
            Unavailable: If it cannot be made.
        """
        try:
            place = self._under(name)
            for number, path in enumerate(paths):
                # a name of ours: DataFusion would read some characters of the real one as a pattern
                (place / f"{number:05}.parquet").symlink_to(path)
        except OSError as error:
            raise self._trouble(error) from None
        return place

    def write(self, name: str, rows: pa.Table, **options: Any) -> Path:
        """A new file in it with some rows.

        Raises:
            Unavailable: If it cannot be written.
        """
        try:
            path = self._under(name) / "rows.parquet"
            pq.write_table(rows, path, **options)
        except OSError as error:
            raise self._trouble(error) from None
        return path

    def _under(self, name: str) -> Path:
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="walmill-query-"))
            self._remove = weakref.finalize(self, shutil.rmtree, self._path, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._path))

    def _trouble(self, error: OSError) -> Unavailable:
        place = self._path or tempfile.gettempdir()
        return Unavailable(
            f"the query needs temporary files and cannot make them in {str(place)!r} ({error.strerror or error}); "
            "free space there, or set TMPDIR to another folder"
        )


@frozen(eq=False)
class OpenFiles:
    """The files that a plan reads.

    Attributes:
        folder: Where the links to them are.
        paths: For each its path on this machine.
    """

    folder: Folder = field(factory=Folder)
    paths: dict[DataFile, Path] = field(factory=dict)

    def locate(self, source: TableSource, file: DataFile) -> Path:
        """Fetches a file if need be.

        Raises:
            DataCorruption: If it is missing or not as it was written. A file is read as a whole when it is needed for the first
                time: readers of Parquet notice few of the flipped bits in values.
        """
        path = self.paths.get(file)
        if path is None:
            path = Path(source.locate(file)).absolute()
            if trouble := _size_trouble(file, path) or _first_trouble(file, path):
                raise trouble
            self.paths[file] = path
        return path

    def check(self) -> None:
        """Looks whether all files are still there.

        Raises:
            DataCorruption: If one is not.
        """
        for file, path in self.paths.items():
            if trouble := _size_trouble(file, path):
                raise trouble

    def trouble(self) -> DataCorruption | None:
        """What is wrong with the first file that is not as it was written; None if none is. Reads all of them."""
        for file, path in self.paths.items():
            if trouble := _size_trouble(file, path) or _checksum_trouble(file, path):
                return trouble
        return None


_known: dict[tuple[str, int, int, int], None] = {}
_known_guard = threading.Lock()


def _first_trouble(file: DataFile, path: Path) -> DataCorruption | None:
    """What is wrong with the bytes of a file; they are looked at once, and again if somebody has changed the file since."""
    try:
        found = path.stat()
    except OSError as error:
        return DataCorruption(f"the file {file.path!r} cannot be read ({error.strerror}); {_REMEDY}")
    key = (str(path), found.st_ino, found.st_mtime_ns, file.checksum)
    if key in _known:
        return None
    trouble = _checksum_trouble(file, path)
    if trouble is None:
        with _known_guard:
            _known[key] = None
            while len(_known) > _MOST_KNOWN:
                del _known[next(iter(_known))]
    return trouble


def _size_trouble(file: DataFile, path: Path) -> DataCorruption | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return DataCorruption(f"the file {file.path!r} is missing; {_REMEDY}")
    except OSError as error:
        return DataCorruption(f"the file {file.path!r} cannot be read ({error.strerror}); {_REMEDY}")
    if size != file.bytes:
        return DataCorruption(f"the file {file.path!r} has {size} bytes, and was written with {file.bytes}; {_REMEDY}")
    return None


def _checksum_trouble(file: DataFile, path: Path) -> DataCorruption | None:
    found = 0
    try:
        with path.open("rb") as data:
            while part := data.read(_CHUNK):
                found = zlib.crc32(part, found)
    except OSError as error:
        return DataCorruption(f"the file {file.path!r} cannot be read ({error.strerror}); {_REMEDY}")
    if found != file.checksum:
        return DataCorruption(
            f"the file {file.path!r} is damaged: its checksum is {found:08x}, and it was written with "
            f"{file.checksum:08x}; {_REMEDY}"
        )
    return None
