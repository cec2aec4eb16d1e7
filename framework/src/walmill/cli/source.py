"""What is written: files and standard input, plain, gzip or zstd, read as one stream of bytes each."""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast

from attrs import frozen

from walmill.errors import InvalidRequest

READ_BYTES = 2**20
_HEAD_BYTES = 4096
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = (b"\x2a\x4d\x18", range(0x50, 0x60))
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHERS = {
    b"BZh": "bzip2; unpack it first: bunzip2 --stdout FILE | walmill write …",
    b"\xfd7zXZ\0": "xz; unpack it first: xz --decompress --stdout FILE | walmill write …",
    b"\x04\x22\x4d\x18": "lz4; unpack it first: lz4 -dc FILE | walmill write …",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"PAR1": "Parquet, not line protocol",
    b"ARROW1": "an Arrow file, not line protocol",
    b"\xff\xfe": "UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
}


def encoding(head: bytes, name: str) -> str:
    """How a stream is compressed.

    Args:
        head: Its first bytes, at least 4096 if it has so many.
        name: For the message.

    Returns:
        `gzip`, `zstd`, or `plain`.

    Raises:
        InvalidRequest: It is something that is no line protocol and does not hold any.
    """
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(_ZSTD) or (head[1:4] == _ZSTD_SKIPPABLE[0] and head[0] in _ZSTD_SKIPPABLE[1]):
        return "zstd"
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise InvalidRequest(f"{name} is {what}")
    if b"\0" in head and not _is_text(head):
        raise InvalidRequest(
            f"{name} is binary, not line protocol: it begins with the bytes {head[:8].hex(' ')}; plain text, gzip and zstd "
            "are read"
        )
    return "plain"


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character that the head cuts
    return True


@frozen
class Source:
    """One file, or standard input.

    Attributes:
        name: What messages call it.
        key: What a checkpoint calls it.
        path: None for standard input.
        size: Bytes of a regular file; None if that is not known.
    """

    name: str
    key: str
    path: Path | None
    size: int | None

    @classmethod
    def of(cls, path: Path) -> Source:
        """A source by its path; `-` is standard input.

        Raises:
            InvalidRequest: It cannot be read.
        """
        if str(path) == "-":
            return cls("standard input", "-", None, None)
        shown = repr(str(path))
        try:
            found = path.stat()
        except OSError as error:
            why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            raise InvalidRequest(f"the file {shown} {why}") from None
        if stat.S_ISDIR(found.st_mode):
            raise InvalidRequest(f"{shown} is a directory; name the files in it, each with a --file of its own")
        if not os.access(path, os.R_OK):
            raise InvalidRequest(f"the file {shown} cannot be read by this user; look at its permissions")
        regular = stat.S_ISREG(found.st_mode)
        return cls(str(path), str(path.resolve() if regular else path), path, found.st_size if regular else None)

    def open(self) -> Stream:
        """Opens it for reading from its start.

        Raises:
            InvalidRequest: It is no line protocol, or cannot be read.
        """
        if self.path is not None:
            file = cast(IO[bytes], self.path.open("rb", buffering=0))
            try:
                return Stream(self.name, file)
            except BaseException:
                file.close()
                raise
        # Without the buffer of sys.stdin, whose lock is wanted once more when the process ends.
        buffer = sys.stdin.buffer
        return Stream(self.name, cast(IO[bytes], getattr(buffer, "raw", buffer)))


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Stream:
    """The bytes of a source, decompressed. A byte order mark of UTF-8 at its start is no part of them.

    Args:
        name: What messages call it.
        raw: The file.

    Attributes:
        offset: How many bytes were read or skipped.
    """

    def __init__(self, name: str, raw: IO[bytes]) -> None:
        self.offset = 0
        self._name = name
        self._raw = _Raw(raw)
        head = self._raw.peek(_HEAD_BYTES)
        self._encoding = encoding(head, name)
        self._file: _Readable = self._raw
        self._held = b""
        self._mark = 0
        if self._encoding == "gzip":
            self._file = cast(_Readable, gzip.GzipFile(fileobj=self._raw))
        elif self._encoding == "zstd":
            import pyarrow as pa

            self._file = pa.CompressedInputStream(pa.PythonFile(self._raw, mode="r"), "zstd")
        first = self._read(READ_BYTES)
        while first and len(first) < len(_UTF8_MARK) and (more := self._read(READ_BYTES)):
            first += more
        if first.startswith(_UTF8_MARK):
            self._mark = len(_UTF8_MARK)
        self._held = first[self._mark :]

    @property
    def place(self) -> int:
        """How many bytes of the file were read, compressed as they are."""
        return self._raw.place

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end.

        Raises:
            InvalidRequest: What is compressed is damaged or cut off.
        """
        if self._held:
            data, self._held = self._held[:size], self._held[size:]
        else:
            data = self._read(size)
        self.offset += len(data)
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except EOFError:
            raise self._cut_off() from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InvalidRequest(f"{self._name} is damaged: {_sentence(error)}; fetch or make it again") from None
        except OSError as error:
            if self._encoding != "zstd" or error.errno is not None:
                raise
            if "runcated" in str(error):
                raise self._cut_off() from None
            if "memory" in str(error):
                raise InvalidRequest(
                    f"{self._name} was compressed with a window that is too large; unpack it first: zstd --long=31 -dc FILE | …"
                ) from None
            raise InvalidRequest(f"{self._name} is damaged: {_sentence(error)}; fetch or make it again") from None

    def _cut_off(self) -> InvalidRequest:
        return InvalidRequest(f"{self._name} is cut off: its {self._encoding} data has no end; fetch or make it again")

    def skip_to(self, offset: int) -> bool:
        """Moves on to an offset; whether the stream is as long as that."""
        if self._encoding == "plain" and offset > self.offset + len(self._held) and self._raw.seekable():
            size = self._raw.seek(0, os.SEEK_END) - self._mark
            if offset > size:
                return False
            self._raw.seek(offset + self._mark)
            self.offset, self._held = offset, b""
            return True
        while self.offset < offset:
            if not self.read(min(READ_BYTES, offset - self.offset)):
                return False
        return True

    def until(self, offset: int | None) -> Iterator[bytes]:
        """The bytes up to an offset, or to the end, in parts of about a megabyte."""
        while offset is None or self.offset < offset:
            data = self.read(READ_BYTES if offset is None else min(READ_BYTES, offset - self.offset))
            if not data:
                return
            yield data

    def close(self) -> None:
        """Closes the file; not standard input, which is not ours."""
        if self._name != "standard input":
            self._raw.close()


class _Raw(io.RawIOBase):
    """A file whose first bytes can be looked at before they are read, also when it cannot seek."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._head = b""
        self.place = 0

    def peek(self, size: int) -> bytes:
        """The first bytes: `size` of them, or as many as a pipe has at first, but never less than what tells a format."""
        while len(self._head) < size and (more := self._file.read(size - len(self._head))):
            self._head += more
            if len(self._head) >= 8 and not self._file.seekable():
                break
        return self._head

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = self._file.read(size) or b""
        self.place += len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._head = b""
        self.place = self._file.seek(offset, whence)
        return self.place

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _sentence(error: Exception) -> str:
    text: Any = str(error) or type(error).__name__
    return str(text[:1].lower() + text[1:])
