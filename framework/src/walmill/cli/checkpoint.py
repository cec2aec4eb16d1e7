"""What was acknowledged of the things that are written, kept in a file: after a break, the same command goes on behind it.

The file is a journal: a line of JSON for what it is about, then one for each acknowledged piece, each in one write. A line
that is cut off by a crash is ignored, and its piece is sent again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from walmill.cli.pieces import Piece, Place, pieces
from walmill.cli.source import Source, Stream
from walmill.errors import Conflict, InvalidRequest

FORMAT = "walmill write 1"
TAIL_BYTES = 4096
_BEGIN = json.dumps({"format": FORMAT}).encode()[:-1]


@frozen
class Tail:
    """The last bytes before a place, by which a file is known again.

    Attributes:
        size: How many they are.
        digest: Of them.
        closed: Whether they end with a line end.
    """

    size: int
    digest: str
    closed: bool

    @classmethod
    def of(cls, data: bytes) -> Tail:
        """The tail of a piece."""
        last = data[-TAIL_BYTES:]
        return cls(len(last), hashlib.blake2b(last, digest_size=12).hexdigest(), last.endswith(b"\n"))


@frozen(order=True)
class Done:
    """A part of a source that was acknowledged: each of its lines is written, or refused for good.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        tail: Its last bytes.
        written: Lines that were written.
        refused: Lines that were not.
    """

    start: Place
    end: Place
    tail: Tail = field(order=False)
    written: int = field(order=False, default=0)
    refused: int = field(order=False, default=0)


@frozen
class State:
    """What a journal says.

    Attributes:
        target: What it is about: the server, the database and the like.
        done: What was acknowledged, by the key of the source.
        whole: The sources that were written whole, with their sizes (None if not known) at that time.
        valid: How many bytes of the journal are whole lines.
    """

    target: Mapping[str, str]
    done: Mapping[str, tuple[Done, ...]] = field(factory=dict)
    whole: Mapping[str, int | None] = field(factory=dict)
    valid: int = 0


def joined(parts: Iterable[Done]) -> tuple[Done, ...]:
    """Parts in the order of the source; those that touch are one."""
    found: list[Done] = []
    for part in sorted(parts):
        if found and found[-1].end == part.start:
            before = found[-1]
            found[-1] = evolve(
                part,
                start=before.start,
                written=before.written + part.written,
                refused=before.refused + part.refused,
            )
        else:
            found.append(part)
    return tuple(found)


def what_is_left(
    source: str, stream: Stream, done: Iterable[Done], *, piece_bytes: int | None = None
) -> Iterator[Piece]:
    """The pieces of a source that were not acknowledged.

    Args:
        source: What messages call it.
        stream: The source, from its start.
        done: As `joined` gives it.
        piece_bytes: As in `pieces`.

    Raises:
        InvalidRequest: The source is not what it was when that was acknowledged.
    """
    options = {} if piece_bytes is None else {"piece_bytes": piece_bytes}
    start = Place()
    for part in done:
        yield from pieces(stream.until(part.start.offset), start=start, **options)
        last = b""
        if stream.offset == part.start.offset and stream.skip_to(part.end.offset - part.tail.size):
            last = b"".join(stream.until(part.end.offset))
        if Tail.of(last) != part.tail:
            raise _changed(source, part.end.line)
        start = part.end
        if not part.tail.closed:  # the last line had no end: nothing can follow
            if stream.read(1):
                raise _changed(source, part.end.line)
            return
    yield from pieces(stream.until(None), start=start, **options)


def _changed(source: str, line: int) -> InvalidRequest:
    return InvalidRequest(
        f"{source} is not what it was: up to line {line:,} it was written before, and it reads differently now; start anew with "
        "--no-resume, or after removing the checkpoint"
    )


def entry(key: str, part: Done) -> bytes:
    """The line of a journal for a part."""
    return _line(
        {
            "source": key,
            "from": [part.start.offset, part.start.line],
            "to": [part.end.offset, part.end.line],
            "tail": [part.tail.size, part.tail.digest, part.tail.closed],
            "written": part.written,
            "refused": part.refused,
        }
    )


def read(data: bytes) -> State | None:
    """Reads a journal.

    Args:
        data: All of it.

    Returns:
        What it says; None if it is empty.

    Raises:
        ValueError: It is no journal, or damaged; the text says where.
    """
    valid = data.rfind(b"\n") + 1
    rows = data[:valid].splitlines()
    if not rows:
        if not _BEGIN.startswith(data[: len(_BEGIN)]):
            raise ValueError("it is something else")
        return None
    done: dict[str, list[Done]] = {}
    whole: dict[str, int | None] = {}
    target: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        try:
            found = json.loads(row)
            if number == 1:
                if found.pop("format") != FORMAT:
                    raise ValueError
                target = {str(name): str(value) for name, value in found.items()}
            elif found.get("whole"):
                whole[found["source"]] = found["size"]
            else:
                size, digest, closed = found["tail"]
                part = Done(
                    Place(*found["from"]),
                    Place(*found["to"]),
                    Tail(size, digest, closed),
                    found["written"],
                    found["refused"],
                )
                done.setdefault(found["source"], []).append(part)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError("it is something else" if number == 1 else f"its line {number} is damaged") from None
    return State(target, {key: joined(parts) for key, parts in done.items()}, whole, valid)


class Journal:
    """The file. It is locked as long as it is open.

    Args:
        path: Where it is.
        target: What it is about.

    Raises:
        InvalidRequest: There is a file that is no journal, or one about something else.
        Conflict: Another process has it open.
        OSError: It cannot be read or written.
    """

    def __init__(self, path: Path, target: Mapping[str, str]) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            with open(self._descriptor, "rb", closefd=False) as file:
                data = file.read()
            self.state = self._begin(data, target)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                f"the checkpoint {str(self.path)!r} is in use by another `walmill write`; wait for its end, or name another "
                "one with --resume"
            ) from None

    def _begin(self, data: bytes, target: Mapping[str, str]) -> State:
        shown = repr(str(self.path))
        try:
            state = read(data)
        except ValueError as error:
            raise InvalidRequest(
                f"{shown} is no checkpoint of `walmill write`: {error}; remove it, or name another with --resume"
            ) from None
        if state is None:
            os.ftruncate(self._descriptor, 0)
            self._append(_line({"format": FORMAT, **target}))
            return State(dict(target))
        for name, value in target.items():
            before = state.target.get(name)
            if before != value:
                raise InvalidRequest(
                    f"the checkpoint {shown} is about the {name} {before!r}, not {value!r}; give the same command as before, or "
                    "name another checkpoint with --resume"
                )
        os.ftruncate(self._descriptor, state.valid)
        return state

    def _append(self, line: bytes) -> None:
        os.lseek(self._descriptor, 0, os.SEEK_END)
        if os.write(self._descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def record(self, source: Source, part: Done) -> None:
        """Keeps that a part was acknowledged."""
        self._append(entry(source.key, part))

    def record_whole(self, source: Source) -> None:
        """Keeps that nothing of a source is left."""
        self._append(_line({"source": source.key, "whole": True, "size": source.size}))

    def remove(self) -> None:
        """Removes the file: there is nothing to go on with."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Lets the file go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
