"""The log: frames appended to segments, synced, read back from mapped memory, replayed at start.

One thread appends and syncs. Any thread may read what was synced.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pyarrow as pa
from attrs import frozen

from walmill.errors import DataCorruption, Internal, Unavailable, WalmillError
from walmill.fs.protocol import File, FileSystem
from walmill.wal.entry import Entry, Frame
from walmill.wal.frame import decode, encode, padding, read_header
from walmill.wal.newest import NAME as NEWEST
from walmill.wal.newest import NewestMark
from walmill.wal.segment import (
    SEGMENT_HEADER_BYTES,
    Segment,
    SegmentHeader,
    find_frame,
    scan,
    segment_name,
    segment_number,
)

ZERO_STEP = 256 * 1024
"""Zeros are written in pieces of this size, each synced on its own, so that no commit waits for many."""
ZERO_AHEAD = 4 * 2**20
"""So far ahead of the last frame the space is written with zeros: a commit then changes no metadata of the file system."""
_ZEROS = bytes(ZERO_STEP)


@frozen
class Receipt:
    """A frame that is written and not synced yet."""

    segment: Segment
    offset: int
    length: int
    first_sequence: int
    count: int
    commit_time: int


class Log:
    """A log in one directory. Open it with `Log.open`, and read `replay` to its end before the first append.

    Attributes:
        report: What was cut or dropped when it was opened, one sentence each.
    """

    def __init__(self, fs: FileSystem, directory: str, segment_bytes: int, now_ns: Callable[[], int]) -> None:
        self._fs = fs
        self._directory = directory
        self._segment_bytes = max(segment_bytes, 64 * 1024)
        self._now = now_ns
        self._segments: tuple[Segment, ...] = ()
        self._current: Segment | None = None
        self._pending: Receipt | None = None
        self._next = 1
        self._time = 0
        self._number = 1
        self._epoch = 0
        self._zeroing = threading.Lock()
        self._mark: NewestMark | None = NewestMark(fs, directory)
        self._failed = False
        self.report: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: str,
        *,
        segment_bytes: int = 64 * 2**20,
        now_ns: Callable[[], int],
        covered: int | None = None,
        epoch: int = 0,
    ) -> Log:
        """Opens a log: checks every frame, cuts a torn tail, refuses damage.

        A segment is made with the first frame: an engine that is started and stopped leaves none behind.

        Args:
            fs: The file system.
            directory: Its directory; made if it is missing.
            segment_bytes: Size of a segment; a frame that is larger gets a segment of its own size.
            now_ns: Wall-clock time, for the headers of segments.
            covered: A manifest holds all up to this sequence, so the log may begin anywhere up to the next one; 0 if there is
                no manifest. None if nobody knows.
            epoch: The epoch that the manifest names: the log goes on above it even if nothing of it is left.

        Raises:
            DataCorruption: If something before the tail is wrong, or the log begins too late; the message names segment,
                offset and reason.
        """
        log = cls(fs, directory, segment_bytes, now_ns)
        fs.make_directory(directory)
        log._recover(covered or 0)
        if covered is not None:
            log._go_on_behind(covered, epoch)
        return log

    # ---- what is there

    @property
    def first_sequence(self) -> int:
        """The sequence of the oldest entry that the log still has; the next one if it has none."""
        segments = self._segments
        return segments[0].header.first_sequence if segments else self._next

    @property
    def last_sequence(self) -> int:
        """The sequence of the newest durable entry; 0 before the first."""
        return self._next - 1

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments, oldest first."""
        return self._segments

    # ---- opening

    def _go_on_behind(self, covered: int, epoch: int) -> None:
        """What a log has to be beside a manifest."""
        if self._segments and self.first_sequence > covered + 1:
            raise DataCorruption(
                f"the log begins with the commit {self.first_sequence} in {self._segments[0].name}, and the newest snapshot ends "
                f"with the commit {covered}: those between are missing; put the missing segments or manifests back, or restore "
                "from a backup"
            )
        if self._next <= covered:
            if self._segments:
                self.report = (
                    *self.report,
                    f"the log ends with the commit {self._next - 1}, and the newest snapshot with {covered}: what is left of the "
                    "log is removed",
                )
            self._discard(self._segments)
            self._segments = ()
            self._next = covered + 1
        self._epoch = max(self._epoch, epoch)

    def _discard(self, segments: Sequence[Segment]) -> None:
        kept = None if self._unmark([segment.header.number for segment in segments]) else self._mark
        for segment in segments:
            if kept is None or segment.header.number != kept.number:
                self._fs.unlink(self._path(segment.name))
        if segments:
            self._fs.sync_directory(self._directory)

    def _unmark(self, gone: Sequence[int]) -> bool:
        """Before segments are removed: the mark must not name one that is not there. False if it does still: then that stays."""
        if self._mark is None or self._mark.number not in gone:
            return True
        try:
            self._mark.write(None)
        except OSError:
            return False
        return True

    def _forget(self, segments: Sequence[Segment]) -> str:
        """Removes segments before a gap that a manifest covers, and says so."""
        self._discard(segments)
        names = segments[0].name if len(segments) == 1 else f"{segments[0].name} to {segments[-1].name}"
        return (
            f"what is left of the log before its oldest whole part is removed ({names}): what followed it was released, and the "
            "newest snapshot has all of it"
        )

    def _without_leftovers(self, segments: list[Segment], covered: int) -> list[Segment]:
        """The segments without those before a gap that a manifest covers: they were released, and the disk forgot it."""
        for place in range(len(segments) - 1, 0, -1):
            before, after = segments[place - 1].header, segments[place].header
            gap = after.number != before.number + 1 and after.epoch == before.epoch
            if gap and after.first_sequence <= covered + 1:
                self.report = (*self.report, self._forget(segments[:place]))
                return segments[place:]
        return segments

    def _recover(self, covered: int) -> None:
        numbers = sorted(
            number for name in self._fs.list(self._directory) if (number := segment_number(name)) is not None
        )
        marked = None
        if self._mark is not None:
            self._mark.clean()
            self._mark.read()
            marked = self._mark.number
        if marked is not None and marked > max(numbers, default=0):
            raise DataCorruption(
                f"the newest log segment {segment_name(marked)} is missing; restore it from a backup, or, to go on without what "
                f"was acknowledged in it, remove the file {NEWEST} beside it"
            )
        segments: list[Segment] = []
        for number in numbers:
            segment = self._open_segment(number, last=number == numbers[-1] and number != marked)
            if segment is not None:
                segments.append(segment)
        segments = self._without_leftovers(segments, covered)
        self._check_order(segments)
        reports = list(self.report)
        kept: list[Segment] = []
        for place, segment in enumerate(segments):
            later = next((one for one in segments[place + 1 :] if one.header.epoch > segment.header.epoch), None)
            following = segments[place + 1] if place + 1 < len(segments) else None
            found = scan(segment, None if later is None else later.header.first_sequence)
            if found.damage is not None:
                raise self._damage(segment, found.end, f"{found.torn}; whole frames follow at offset {found.damage}")
            kept.append(segment)
            if following is not None and segment.next_sequence != following.header.first_sequence:
                if (
                    following.header.number != segment.header.number + 1
                    and following.header.first_sequence <= covered + 1
                ):
                    # those between were released, and these too: the disk forgot it
                    reports.append(self._forget(kept))
                    kept.clear()
                    continue
                raise self._damage(
                    segment,
                    found.end,
                    f"its frames end with the sequence {segment.next_sequence - 1}, and {following.name} begins with "
                    f"{following.header.first_sequence}" + (f" ({found.torn})" if found.torn else ""),
                )
            if found.torn is not None:
                reports.append(self._cut(segment, found.torn))
            elif segment.data.size > segment.end:
                self._trim(segment)
        # those without a frame as well: they have to be released like others, or a gap would seem to be behind them
        self._segments = tuple(kept)
        if segments:
            newest = segments[-1]
            self._next = newest.next_sequence
            self._number = newest.header.number + 1
            self._epoch = newest.header.epoch
            self._time = max((self._time_of(one) for one in self._segments), default=0)
        self.report = tuple(reports)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _open_segment(self, number: int, *, last: bool) -> Segment | None:
        name = segment_name(number)
        file = self._fs.open(self._path(name))
        try:
            data = file.map()
        finally:
            file.close()
        header = SegmentHeader.decode(data)
        if header is None or header.number != number:
            frame = find_frame(data)
            if frame is not None:
                raise DataCorruption(
                    f"the log segment {name} has no valid header at offset 0, and a whole frame at offset {frame}; restore it "
                    "from a backup"
                )
            if last:
                # the header is synced before the first frame: without it there never was one
                self._fs.unlink(self._path(name))
                self.report = (*self.report, f"the segment {name} was never finished; it held nothing and is removed")
                self._number = number + 1
                return None
            raise DataCorruption(
                f"the log segment {name} has no valid header at offset 0; restore it from a backup, or move the data "
                "directory away and start anew"
            )
        return Segment(name, header, data)

    def _check_order(self, segments: Sequence[Segment]) -> None:
        for before, after in pairwise(segments):
            if after.header.number != before.header.number + 1 and after.header.epoch == before.header.epoch:
                raise DataCorruption(
                    f"the segment {segment_name(before.header.number + 1)} between {before.name} and {after.name} is missing; "
                    "restore it from a backup"
                )
            if after.header.epoch < before.header.epoch or after.header.first_sequence < before.header.first_sequence:
                raise DataCorruption(
                    f"the log segment {after.name} is older than {before.name} before it (epoch {after.header.epoch} "
                    f"after {before.header.epoch}); files were swapped or restored from different backups"
                )

    def _damage(self, segment: Segment, offset: int, reason: str) -> DataCorruption:
        return DataCorruption(
            f"the log is damaged in {segment.name} at offset {offset}: {reason}. `walmill wal verify` shows all of it; restore "
            "the file from a backup"
        )

    def _cut(self, segment: Segment, wrong: str) -> str:
        """Keeps a torn tail aside, and cuts the segment to its whole frames."""
        tail = memoryview(segment.data)[segment.end :].tobytes().rstrip(b"\0")
        aside = f"torn-{segment.header.number:010d}-{segment.end}"
        if aside not in self._fs.list(self._directory):
            kept = self._fs.create(self._path(aside))
            kept.pwritev([tail], 0)
            kept.fdatasync()
            kept.close()
        self._trim(segment)
        self._fs.sync_directory(self._directory)
        return (
            f"the last frame of {segment.name} was torn at offset {segment.end} ({wrong}): unless the disk damaged it later, it "
            f"was never acknowledged; its {len(tail)} bytes are kept in {aside}"
        )

    def _trim(self, segment: Segment) -> None:
        """Gives back the space behind the last frame: nothing is ever appended to a segment of an earlier start."""
        file = self._fs.open(self._path(segment.name))
        file.truncate(segment.end)
        file.fdatasync()
        segment.data = file.map()
        file.close()

    def _time_of(self, segment: Segment) -> int:
        newest = 0
        start = segment.index[-1][2] if segment.index else SEGMENT_HEADER_BYTES
        for offset in segment.offsets(start):
            header = read_header(segment.data, offset)
            assert header is not None
            newest = header.commit_time
        return newest

    def replay(self, after: int = 0) -> Iterator[Frame]:
        """All frames behind a sequence, oldest first; also those without entries.

        Args:
            after: What lies at or before it is left out.
        """
        for segment in self._segments:
            if segment.next_sequence <= after:
                continue
            for offset in segment.offsets(segment.offset_of(after + 1)):
                header = read_header(segment.data, offset)
                assert header is not None
                if header.first_sequence > after:
                    yield decode(segment.data, offset, segment.name)

    # ---- writing

    def append(self, entries: Sequence[Entry], notes: dict[str, Any], commit_time: int) -> Receipt:
        """Writes a frame; it is durable only after `sync`.

        Args:
            entries: They get the next sequences, in order.
            notes: What belongs to the frame.
            commit_time: ns; made not smaller than the last one.

        Raises:
            Unavailable: If there is no space: nothing was changed, and a later append works when there is.
            TooLarge: If one entry is over the limit.
            OSError: If the write failed: nothing of the frame will ever be valid.
        """
        if self._pending is not None:
            raise Internal("the log got a frame before the last one was synced")
        time = max(self._time, commit_time)
        segment = self._current
        epoch = self._epoch if segment is not None else self._epoch + 1
        encoded = encode(epoch, self._next, time, entries, notes)
        if segment is None or segment.end + encoded.length > segment.data.size:
            segment = self._new_segment(encoded.length, epoch)
        offset = segment.end
        with self._zeroing:
            segment.zeroed = max(segment.zeroed, offset + encoded.length)
        assert segment.file is not None
        try:
            segment.file.pwritev(encoded.parts, offset)
        except OSError:
            self._abandon()
            raise
        self._pending = Receipt(segment, offset, encoded.length, self._next, len(entries), time)
        return self._pending

    def mapped(self, receipt: Receipt) -> Frame:
        """The frame as it will be read, from the mapped segment."""
        return decode(receipt.segment.data, receipt.offset, receipt.segment.name)

    def sync(self, delayed: Callable[[WalmillError], None] = lambda why: None) -> None:
        """Makes the appended frame durable.

        Args:
            delayed: Called about once a second while nobody can say whether it is durable; a log on a disk never does.

        Raises:
            OSError: If that failed: nothing of the frame will ever be valid.
            Superseded: If the log is not this process's any more.
            Unavailable: If `give_up` was called before it was known whether the frame is durable.
        """
        receipt = self._pending
        if receipt is None:
            raise Internal("the log was asked to sync and there is nothing to sync")
        self._pending = None
        try:
            self._make_durable(receipt, delayed)
        except (OSError, WalmillError):
            self._abandon()
            raise
        self._accept(receipt)

    def _make_durable(self, receipt: Receipt, delayed: Callable[[WalmillError], None]) -> None:
        del delayed
        assert receipt.segment.file is not None
        receipt.segment.file.fdatasync()

    def give_up(self) -> None:
        """Has a `sync` that waits end: the process is about to. A log on a disk never waits."""

    def _accept(self, receipt: Receipt) -> None:
        """Takes up a frame that is durable."""
        receipt.segment.add(receipt.first_sequence, receipt.count, receipt.commit_time, receipt.offset, receipt.length)
        if receipt.segment not in self._segments:
            self._segments = (*self._segments, receipt.segment)
        self._next = receipt.first_sequence + receipt.count
        self._time = receipt.commit_time

    def _abandon(self) -> None:
        """After a failed write or sync: what this segment holds behind its durable frames must never count.

        A segment of the next epoch says so to every later replay. It is made at once; if even that fails, with the next frame.
        """
        self._pending = None
        segment, self._current = self._current, None
        if segment is not None and segment.file is not None:
            segment.file.close()
            segment.file = None
        self._failed = True
        try:
            self._new_segment(0, self._epoch + 1)
        except (Unavailable, OSError):
            return

    def _new_segment(self, needed: int, epoch: int) -> Segment:
        """Makes the next segment: its space first, so that a full disk shows before a byte of a frame is written."""
        header = SegmentHeader(epoch, self._number, self._next, self._now())
        name = segment_name(self._number)
        size = max(self._segment_bytes, SEGMENT_HEADER_BYTES + needed)
        size += padding(size)
        file = None
        try:
            file = self._fs.create(self._path(name))
            file.allocate(size)
            file.pwritev([header.encode()], 0)
            file.fdatasync()
            self._fs.sync_directory(self._directory)
            segment = Segment(name, header, file.map(), file=file)
            if self._mark is not None:
                self._mark.write(self._number)
        except OSError as error:
            if file is not None:
                self._leave(name, header, file)
            raise Unavailable(
                f"there is no room for a log segment of {size:,} bytes ({error.strerror or error}); nothing of this write was "
                "kept: send it again when there is space",
                retry_after=5,
            ) from error
        if self._current is not None and self._current.file is not None:
            self._finish(self._current)
        self._current = segment
        self._number += 1
        self._epoch = epoch
        if self._failed:
            self._failed = False
            # an empty segment of the next epoch is what makes the failed frame invalid: keep it in the list
            self._segments = (*self._segments, segment)
        return segment

    def _leave(self, name: str, header: SegmentHeader, file: File) -> None:
        """Removes a segment that could not be made; one that the mark may name stays, empty, and the log goes on behind it."""
        if self._mark is None or not self._mark.unsure:
            file.close()
            self._remove(name)
            return
        with suppress(OSError):
            file.truncate(SEGMENT_HEADER_BYTES)
            file.fdatasync()
            self._segments = (*self._segments, Segment(name, header, file.map()))
        file.close()
        self._number += 1
        segment, self._current = self._current, None
        if segment is not None and segment.file is not None:
            self._finish(segment)

    def _remove(self, name: str) -> None:
        try:
            self._fs.unlink(self._path(name))
        except OSError:
            return

    def _finish(self, segment: Segment) -> None:
        """Gives back the space that a segment did not need."""
        assert segment.file is not None
        with self._zeroing:
            try:
                segment.file.truncate(segment.end)
                segment.file.fdatasync()
            except OSError:  # it is whole as it is; only its unused space stays
                pass
            segment.file.close()
            segment.file = None

    def prepare(self) -> bool:
        """Writes some zeros ahead of the newest frame, from another thread than the one that appends.

        Returns:
            Whether more is to be done soon.
        """
        segment = self._current
        if segment is None:
            return False
        with self._zeroing:
            file = segment.file
            start = segment.zeroed
            size = min(ZERO_STEP, segment.data.size - start)
            if file is None or size <= 0 or start - segment.end >= ZERO_AHEAD:
                return False
            try:
                file.pwritev([memoryview(_ZEROS)[:size]], start)
            except OSError:
                return False
            segment.zeroed = start + size
            try:
                file.fdatasync()
            except OSError:
                return False
        return True

    # ---- reading

    def read(self, sequence: int, *, through: int | None = None) -> Iterator[Frame]:
        """Durable frames from the one that holds a sequence on; from any thread, while frames are appended.

        Args:
            sequence: Where to begin; what is not there any more is left out.
            through: Frames that begin after this are left out; None reads what is durable now.
        """
        limit = self.last_sequence if through is None else through
        segments = self._segments
        place = bisect_right(segments, sequence, key=lambda segment: segment.header.first_sequence) - 1
        for segment in segments[max(0, place) :]:
            if segment.header.first_sequence > limit:
                return
            for offset in segment.offsets(segment.offset_of(sequence)):
                header = read_header(segment.data, offset)
                assert header is not None
                if header.first_sequence > limit:
                    return
                if header.count and header.first_sequence + header.count > sequence:
                    yield decode(segment.data, offset, segment.name)

    def place_of(self, sequence: int, data: pa.Buffer) -> tuple[Segment, int] | None:
        """Where bytes of an entry lie: segment and offset; None if the log does not have that segment any more.

        Args:
            sequence: Of the entry.
            data: A part of it, as it was read from here.
        """
        segments = self._segments
        place = bisect_right(segments, sequence, key=lambda segment: segment.header.first_sequence) - 1
        if place < 0:
            return None
        offset = data.address - segments[place].data.address
        return (segments[place], offset) if 0 <= offset <= segments[place].data.size - data.size else None

    def descriptor(self, segment: Segment) -> int | None:
        """A descriptor of a segment's file for another process, the caller's to close; None if there is none."""
        try:
            file = self._fs.open_readonly(self._path(segment.name))
        except OSError:  # it was released meanwhile
            return None
        try:
            return file.descriptor()
        finally:
            file.close()

    def sequence_at(self, time: int) -> int:
        """The first sequence whose commit time is at or after a time, ns; the next one if there is none."""
        for segment in self._segments:
            place = bisect_right(segment.index, time - 1, key=lambda item: item[1]) - 1
            start = segment.index[place][2] if place >= 0 else SEGMENT_HEADER_BYTES
            for offset in segment.offsets(start):
                header = read_header(segment.data, offset)
                assert header is not None
                if header.count and header.commit_time >= time:
                    return header.first_sequence
        return self._next

    def time_of(self, sequence: int) -> int | None:
        """The commit time of an entry, ns; None if the log does not have it."""
        for frame in self.read(sequence):
            return frame.commit_time
        return None

    def release(self, through: int) -> tuple[Segment, ...]:
        """Leaves out whole segments whose entries all are at or before a sequence; for the thread that appends.

        Returns:
            The segments that were left out; their files are there until `remove` is called.
        """
        segments = self._segments
        place = 0
        while (
            place < len(segments)
            and segments[place].next_sequence - 1 <= through
            and segments[place] is not self._current
        ):
            place += 1
        self._segments = segments[place:]
        return segments[:place]

    def remove(self, segments: Sequence[Segment]) -> None:
        """Removes the files of released segments, the oldest first; maps of them stay valid. From any thread.

        Raises:
            OSError: If that cannot be done; what is left is removed after the next start.
        """
        self._discard(segments)

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return self._epoch

    def bytes_behind(self, sequence: int) -> int:
        """About how many bytes the frames behind a sequence take; whole pieces of 256 KB."""
        total = 0
        for segment in reversed(self._segments):
            if segment.next_sequence <= sequence + 1:
                break
            total += segment.end - segment.offset_of(sequence + 1)
        return total

    def objects_behind(self, sequence: int) -> int:
        """About how many objects the frames behind a sequence are; 0 for a log on a disk."""
        del sequence
        return 0

    def close(self) -> None:
        """Gives back unused space and lets go of the files; what refers to mapped memory stays valid."""
        segment, self._current = self._current, None
        if segment is None or segment.file is None:
            return
        if segment.end == SEGMENT_HEADER_BYTES and segment not in self._segments:
            segment.file.close()
            segment.file = None
            if self._unmark([segment.header.number]):
                self._remove(segment.name)
            return
        self._finish(segment)
