"""The files that a query reads: where they are on this machine, what is made for its time, and what may be wrong with them."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from attrs import field, frozen

from walmill.buffer.source import TableSource
from walmill.errors import DataCorruption, Unavailable, WalmillError
from walmill.model.files import DataFile
from walmill.scarcity import scarce

_AT_A_TIME = 8  # files that are fetched, or read for the first time, beside each other
_SLOW_SECONDS = 0.002
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
        short = scarce(error)
        if short is not None:
            return short
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
        pins: What keeps them there.
    """

    folder: Folder = field(factory=Folder)
    paths: dict[DataFile, Path] = field(factory=dict)
    pins: list[object] = field(factory=list)

    def locate(
        self, source: TableSource, files: Sequence[DataFile], check: Callable[[], None]
    ) -> Mapping[DataFile, Path]:
        """Fetches files if need be. When one takes a while, those behind it are fetched several at a time.

        Args:
            source: The table.
            files: Files of it.
            check: Called before each file; raises if there is no time left.

        Returns:
            The path of each.

        Raises:
            DataCorruption: If one is missing or not as it was written. A file is read as a whole when it is needed for the
                first time: readers of Parquet notice few of the flipped bits in values.
            Unavailable: If one cannot be fetched now.
        """
        wanted = deque(file for file in files if file not in self.paths)
        while wanted:
            check()
            began = time.perf_counter()
            self._take(_open(source, wanted.popleft()))
            if time.perf_counter() - began > _SLOW_SECONDS and len(wanted) > 1:
                break
        if wanted:
            with ThreadPoolExecutor(_AT_A_TIME, "walmill-fetch") as pool:
                waiting: deque[Future[_Opened]] = deque()
                try:
                    while wanted or waiting:
                        while wanted and len(waiting) < 2 * _AT_A_TIME:
                            waiting.append(pool.submit(_open, source, wanted.popleft()))
                        check()
                        self._take(waiting.popleft().result())
                finally:
                    for one in waiting:
                        one.cancel()
        return self.paths

    def _take(self, opened: _Opened) -> None:
        file, path, pin = opened
        self.paths[file] = path
        if pin is not None:
            self.pins.append(pin)

    def check(self) -> None:
        """Looks whether all files are still there.

        Raises:
            DataCorruption: If one is not.
        """
        for file, path in self.paths.items():
            if trouble := _size_trouble(file, path):
                raise trouble

    def trouble(self) -> WalmillError | None:
        """What is wrong with the first file that is not as it was written; None if none is. Reads all of them."""
        for file, path in self.paths.items():
            if trouble := _size_trouble(file, path) or _checksum_trouble(file, path):
                return trouble
        return None


_Opened = tuple[DataFile, Path, object]


def _open(source: TableSource, file: DataFile) -> _Opened:
    """A file on this machine, and what keeps it there.

    Raises:
        DataCorruption: If it is missing or not as it was written.
        Unavailable: If it cannot be fetched now.
    """
    found = source.locate(file)
    path = Path(found.path).absolute()
    if trouble := _size_trouble(file, path) or (None if found.checked else _first_trouble(file, path)):
        raise trouble
    return file, path, found.pin


_known: dict[tuple[str, int, int, int], None] = {}
_known_guard = threading.Lock()


def _first_trouble(file: DataFile, path: Path) -> WalmillError | None:
    """What is wrong with the bytes of a file; they are looked at once, and again if somebody has changed the file since."""
    try:
        found = path.stat()
    except OSError as error:
        return _unreadable(file, error)
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


def _unreadable(file: DataFile, error: OSError) -> WalmillError:
    """The system does not let us look at a file; only if the disk says so itself is that damage."""
    short = scarce(error)
    if short is not None:
        return short
    said = f"the file {file.path!r} cannot be read ({error.strerror or error})"
    if isinstance(error, PermissionError):
        return Unavailable(f"{said}; the user of this process needs to read it")
    return DataCorruption(f"{said}; {_REMEDY}")


def _size_trouble(file: DataFile, path: Path) -> WalmillError | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return DataCorruption(f"the file {file.path!r} is missing; {_REMEDY}")
    except OSError as error:
        return _unreadable(file, error)
    if size != file.bytes:
        return DataCorruption(f"the file {file.path!r} has {size} bytes, and was written with {file.bytes}; {_REMEDY}")
    return None


def _checksum_trouble(file: DataFile, path: Path) -> WalmillError | None:
    found = 0
    try:
        with path.open("rb") as data:
            while part := data.read(_CHUNK):
                found = zlib.crc32(part, found)
    except OSError as error:
        return _unreadable(file, error)
    if found != file.checksum:
        return DataCorruption(
            f"the file {file.path!r} is damaged: its checksum is {found:08x}, and it was written with "
            f"{file.checksum:08x}; {_REMEDY}"
        )
    return None
