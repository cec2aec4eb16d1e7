"""What a log in an object store holds, for people: pure reading. Changes nothing, works beside a running engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from attrs import define

from walmill.errors import NotFound
from walmill.objects.errors import NoSuchObject
from walmill.objects.protocol import ObjectStore
from walmill.wal.dump import shown
from walmill.wal.frame import decode, read_header
from walmill.wal.remote import PREFIX, frame_number, frame_path, object_problem


def _numbers(store: ObjectStore) -> list[int]:
    found = sorted(number for number in (frame_number(path) for path, _ in store.list(PREFIX)) if number is not None)
    if not found:
        raise NotFound(f"there is no log in {store.name}; name the place that `walmill serve --wal` has")
    return found


def _get(store: ObjectStore, number: int) -> pa.Buffer | None:
    try:
        return store.get(frame_path(number))
    except NoSuchObject:  # released meanwhile
        return None


def dump_objects(store: ObjectStore, *, start: int = 1, rows: bool = False) -> Iterator[dict[str, Any]]:
    """What a log holds; see `walmill.wal.dump.dump`.

    Args:
        store: The object store.
        start: First sequence.
        rows: Whether the rows themselves are shown, beside their number and columns.

    Raises:
        NotFound: If there is no log.
    """
    for number in _numbers(store):
        data = _get(store, number)
        if data is not None and object_problem(data) is None:
            yield from shown(decode(data, 0, frame_path(number)), start, rows)


@define
class _Run:
    """Frames of one epoch, without a gap."""

    first: int
    last: int
    epoch: int
    first_sequence: int
    next_sequence: int
    frames: int
    bytes: int

    def row(self) -> dict[str, Any]:
        """As plain data."""
        one = self.first == self.last
        return {
            "segment": frame_path(self.first) if one else f"{frame_path(self.first)} to {self.last:012d}",
            "status": "ok",
            "epoch": self.epoch,
            "frames": self.frames,
            "first_sequence": self.first_sequence,
            "last_sequence": self.next_sequence - 1,
            "bytes": self.bytes,
            "problem": None,
        }


def verify_objects(store: ObjectStore) -> list[dict[str, Any]]:
    """Checks every frame: a dict for each run of good frames of one epoch, and one for each that is not good.

    Args:
        store: The object store.

    Raises:
        NotFound: If there is no log.
    """
    found: list[dict[str, Any]] = []
    run: _Run | None = None
    for number in _numbers(store):
        data = _get(store, number)
        if data is None:
            continue
        header = read_header(data, 0)
        wrong = object_problem(data)
        if header is None or wrong is not None:
            if run is not None:
                found.append(run.row())
            run = None
            found.append(
                {
                    **dict.fromkeys(("epoch", "frames", "first_sequence", "last_sequence")),
                    "segment": frame_path(number),
                    "status": "damaged",
                    "bytes": data.size,
                    "problem": wrong or "there is no frame",
                }
            )
            continue
        follows = run is not None and run.epoch == header.epoch and run.last == number - 1
        if run is not None and follows and run.next_sequence == header.first_sequence:
            run.last, run.frames, run.bytes = number, run.frames + 1, run.bytes + data.size
            run.next_sequence += header.count
            continue
        problem_here = None
        if run is not None:
            found.append(run.row())
            if run.last == number - 1 and run.next_sequence != header.first_sequence:
                problem_here = (
                    f"it begins with the sequence {header.first_sequence}, and the frame before it ends with "
                    f"{run.next_sequence - 1}"
                )
        first = header.first_sequence
        run = _Run(number, number, header.epoch, first, first + header.count, 1, data.size)
        if problem_here is not None:
            found.append({**run.row(), "status": "damaged", "problem": problem_here})
            run = None
    if run is not None:
        found.append(run.row())
    return found
