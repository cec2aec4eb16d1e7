"""What a log holds, for people: pure reading. Needs no lock, changes nothing, works beside a running engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from walmill.errors import NotFound
from walmill.fs.local import LocalFS
from walmill.wal.entry import Frame, Section
from walmill.wal.frame import decode
from walmill.wal.newest import NewestMark
from walmill.wal.rows import decode_rows
from walmill.wal.segment import SEGMENT_HEADER_BYTES, Segment, SegmentHeader, scan, segment_name, segment_number

_UNSHOWN = ("nonce", "store")  # each frame in an object store has them


def log_directory(directory: Path) -> Path:
    """The directory of the log in a data directory; the directory itself if it is that of a log.

    Raises:
        NotFound: If there is none.
    """
    for candidate in (directory / "wal", directory):
        if candidate.is_dir() and any(segment_number(one.name) is not None for one in candidate.iterdir()):
            return candidate
    raise NotFound(
        f"there is no log in {directory}; name the data directory of an engine, as in `walmill serve --data-dir`"
    )


def _open(path: Path) -> Segment | str:
    file = LocalFS().open_readonly(str(path))
    try:
        data = file.map()
    finally:
        file.close()
    header = SegmentHeader.decode(data)
    return "it has no valid header at offset 0" if header is None else Segment(path.name, header, data)


def _segments(directory: Path) -> list[Path]:
    found = [one for one in log_directory(directory).iterdir() if segment_number(one.name) is not None]
    return sorted(found)


def verify(directory: Path) -> list[dict[str, Any]]:
    """Checks every frame of a log.

    Args:
        directory: A data directory.

    Returns:
        One dict for each segment: `segment`, `epoch`, `frames`, `first_sequence`, `last_sequence`, `bytes`, `status` (`ok`,
        `torn` or `damaged`) and `problem`.

    Raises:
        NotFound: If there is no log.
    """
    opened = [(path, _open(path)) for path in _segments(directory)]
    found: list[dict[str, Any]] = []
    mark = NewestMark(LocalFS(), str(log_directory(directory)))
    mark.read()
    for place, (path, segment) in enumerate(opened):
        if isinstance(segment, str):
            last = place == len(opened) - 1 and segment_number(path.name) != mark.number
            found.append({"segment": path.name, "status": "torn" if last else "damaged", "problem": segment})
            continue
        later = [one for _, one in opened[place + 1 :] if isinstance(one, Segment)]
        stop = next((one.header.first_sequence for one in later if one.header.epoch > segment.header.epoch), None)
        seen = scan(segment, stop)
        status, problem = "ok", None
        if seen.damage is not None:
            status, problem = "damaged", f"offset {seen.end}: {seen.torn}; whole frames follow at offset {seen.damage}"
        elif later and segment.next_sequence != later[0].header.first_sequence:
            status = "damaged"
            problem = (
                f"offset {seen.end}: its frames end with the sequence {segment.next_sequence - 1}, and {later[0].name} begins "
                f"with {later[0].header.first_sequence}"
            )
        elif seen.torn is not None:
            status, problem = "torn", f"offset {seen.end}: {seen.torn}"
        found.append(
            {
                "segment": path.name,
                "epoch": segment.header.epoch,
                "frames": sum(1 for _ in segment.offsets(SEGMENT_HEADER_BYTES)),
                "first_sequence": segment.header.first_sequence,
                "last_sequence": segment.next_sequence - 1,
                "bytes": segment.end,
                "status": status,
                "problem": problem,
            }
        )
    if mark.number is not None and mark.number > (segment_number(opened[-1][0].name) or 0):
        found.append({"segment": segment_name(mark.number), "status": "damaged", "problem": "it is missing"})
    return found


def dump(directory: Path, *, start: int = 1, rows: bool = False) -> Iterator[dict[str, Any]]:
    """What a log holds, one dict of JSON types for each entry.

    Args:
        directory: A data directory.
        start: First sequence.
        rows: Whether the rows themselves are shown, beside their number and columns.

    Raises:
        NotFound: If there is no log.
    """
    opened = [segment for path in _segments(directory) if isinstance(segment := _open(path), Segment)]
    for place, segment in enumerate(opened):
        stop = next(
            (one.header.first_sequence for one in opened[place + 1 :] if one.header.epoch > segment.header.epoch), None
        )
        scan(segment, stop)
        for offset in segment.offsets(SEGMENT_HEADER_BYTES):
            yield from shown(decode(segment.data, offset, segment.name), start, rows)


def shown(frame: Frame, start: int, rows: bool) -> Iterator[dict[str, Any]]:
    """What a frame holds from a sequence on: a dict for each entry, and one for its notes."""
    place = {"segment": frame.segment, "offset": frame.offset, "epoch": frame.epoch, "commit_time": frame.commit_time}
    for number, entry in enumerate(frame.entries):
        sequence = frame.first_sequence + number
        if sequence >= start:
            yield {
                "sequence": sequence,
                **place,
                **entry.meta,
                "sections": [_section(section, rows) for section in entry.sections],
            }
    notes = {kind: one for kind, one in frame.notes.items() if kind not in _UNSHOWN}
    if notes and frame.last_sequence >= start - 1:
        yield {"sequence": None, **place, "notes": notes}


def _section(section: Section, rows: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": section.kind, **section.meta, "bytes": section.size}
    if section.kind == "rows":
        batch = decode_rows(section.data)
        shown["columns"] = {field.name: str(field.type) for field in batch.schema}
        if rows:
            columns = {
                name: column.view("int64").to_pylist() if name == "time" else column.to_pylist()
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            shown["data"] = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return shown
