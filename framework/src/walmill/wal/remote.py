"""The log in an object store: one object per frame, created only if there is none; local segments are what is read from.

Object `log/N` holds frame number N. Creating it is the commit: of two processes one succeeds, and the other is superseded. Every
start creates a frame of its own without entries, the claim, before it reads the last ones: a process that used the log before
finds its next number taken, and as claims stay for 30 days when all around them is released, that holds also for one that was
stopped for long.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn

import pyarrow as pa

from walmill.errors import Conflict, DataCorruption, Superseded, Unavailable, WalmillError
from walmill.fs.protocol import FileSystem
from walmill.fs.unsynced import UnsyncedFS
from walmill.objects.create import put_new_once
from walmill.objects.errors import NoSuchObject, ObjectExists
from walmill.objects.protocol import ObjectStore
from walmill.units import DAY
from walmill.wal.entry import Entry
from walmill.wal.frame import Header, decode, problem, read_header
from walmill.wal.log import Log, Receipt
from walmill.wal.segment import Segment, segment_number

PREFIX = "log"
"""The frames are below this prefix: the rest of the store may hold the files as well."""
RETRY_SECONDS = 1.0
"""How long after a failure a frame is sent again by default."""
CLAIM_AGE = 30 * DAY
"""How long claims stay, ns: so long a process may be stopped and is still kept from writing afterwards."""

_CLAIM_BYTES = 4096  # a claim is smaller than this
_CLAIM_TRIES = 100
_MARK = 100
_REQUESTS = 16  # a store answers each of them late, and many at once
_WINDOW_BYTES = 64 * 2**20
_PATH = re.compile(PREFIX + r"/(\d{12})")


def frame_path(number: int) -> str:
    """Where the frame with a number is."""
    return f"{PREFIX}/{number:012d}"


def frame_number(path: str) -> int | None:
    """The number of the frame at a path; None for another object."""
    match = _PATH.fullmatch(path)
    return None if match is None else int(match[1])


def object_problem(data: pa.Buffer) -> str | None:
    """What is wrong with an object that is to be one frame; None if it is one."""
    wrong, header = problem(data, 0), read_header(data, 0)
    if wrong is None and header is not None and header.length != data.size:
        return f"the object has {data.size:,} bytes, and its frame {header.length:,}"
    return wrong


def new_nonce() -> str:
    """Random digits: two frames never are the same bytes."""
    return uuid.uuid4().hex


class ObjectLog(Log):
    """A log whose frames are objects. Open it with `ObjectLog.attach`.

    Attributes:
        found: How many objects there were when it was attached; claims count.
    """

    def __init__(
        self,
        store: ObjectStore,
        fs: FileSystem,
        directory: str,
        segment_bytes: int,
        now_ns: Callable[[], int],
        identity: str,
        nonce: Callable[[], str],
        pause: float,
    ) -> None:
        super().__init__(UnsyncedFS(fs), directory, segment_bytes, now_ns)
        self._mark = None
        self._store = store
        self._identity = identity
        self._pause = pause
        self._nonce = nonce
        self._object = 1
        self._ranges: dict[str, tuple[int, int]] = {}  # numbers of the frames in each local segment, first and last
        self._marks: list[tuple[int, int]] = []  # sequence and number of about each hundredth frame
        self._claims: set[int] = set()
        self._unwanted: list[int] = []
        self._given_up = threading.Event()
        self.found = 0

    @classmethod
    def attach(
        cls,
        store: ObjectStore,
        fs: FileSystem,
        directory: str,
        *,
        segment_bytes: int = 64 * 2**20,
        now_ns: Callable[[], int],
        covered: int = 0,
        epoch: int = 0,
        identity: str = "",
        known: bool = False,
        told: Callable[[int, int], None] = lambda done, total: None,
        nonce: Callable[[], str] = new_nonce,
        pause: float = RETRY_SECONDS,
    ) -> ObjectLog:
        """Takes over the log in a store: reads its frames into local segments, checks each, and claims it.

        Args:
            store: The object store.
            fs: The local file system.
            directory: Where the local segments go. Those of an earlier start are removed: only objects count.
            segment_bytes: Size of a local segment.
            now_ns: Wall-clock time.
            covered: A manifest holds all up to this sequence.
            epoch: The epoch that the manifest names.
            identity: What tells the object store of the engine from others: each frame says to which it belongs.
            known: Whether the manifest says that the log is here: then it cannot be empty.
            told: Told how many bytes have been read, and of how many.
            nonce: Gives random digits.
            pause: Seconds after which a frame is sent again when there was no answer.

        Raises:
            DataCorruption: If a frame is missing or damaged, or the log begins too late.
            Conflict: If the log belongs to another object store.
            Unavailable: If the store does not answer.
        """
        log = cls(store, fs, directory, segment_bytes, now_ns, identity, nonce, pause)
        try:
            log._clear(directory)
            log._read_all(covered, known, told)
            log._claim(epoch)
        except BaseException:
            log.close()  # it has a local segment open by now
            raise
        return log

    @property
    def place(self) -> str:
        """The store, for people."""
        return self._store.name

    # ---- opening

    def _clear(self, directory: str) -> None:
        self._fs.make_directory(directory)
        for name in self._fs.list(directory):
            if segment_number(name) is not None:
                self._fs.unlink(f"{directory}/{name}")

    def _read_all(self, covered: int, known: bool, told: Callable[[int, int], None]) -> None:
        sizes = {number: size for path, size in self._store.list(PREFIX) if (number := frame_number(path)) is not None}
        self.found = len(sizes)
        if known and not sizes:
            raise DataCorruption(
                f"the log in {self.place} is empty, and the newest snapshot says that it is there: what was acknowledged behind "
                f"the commit {covered} is missing; put the objects below {PREFIX}/ back, or, to go on without them, name another "
                "place with --wal"
            )
        earlier, run = _last_run(sorted(sizes))
        total = sum(sizes[number] for number in run)
        done = 0
        with ThreadPoolExecutor(_REQUESTS, "walmill-log") as pool:
            for numbers in _windows(run, sizes):
                for number, data in zip(numbers, pool.map(self._fetch, numbers), strict=True):
                    self._take(number, data, covered)
                    done += data.size
                    told(done, total)
            self._clear_leftovers(earlier, sizes, pool)
        if run:
            self._object = run[-1] + 1
        if self._next <= covered:
            if self._segments:
                self._forget_all(
                    f"the log ends with the commit {self._next - 1}, and the newest snapshot with {covered}"
                )
            self._next = covered + 1

    def _fetch(self, number: int) -> pa.Buffer:
        try:
            return self._store.get(frame_path(number))
        except NoSuchObject:
            self._corrupt(number, "it went away while the log was read; is another server running on it?")

    def _take(self, number: int, data: pa.Buffer, covered: int) -> None:
        """Checks a frame, and puts it into a local segment."""
        header = read_header(data, 0)
        wrong = object_problem(data)
        if header is None or wrong is not None:
            self._corrupt(number, wrong or "there is no frame")
        if header.epoch < self._epoch:
            self._corrupt(number, f"its epoch is {header.epoch}, and that of the frame before it {self._epoch}")
        notes = decode(data, 0, frame_path(number)).notes
        if notes.get("store") != self._identity:
            raise Conflict(
                f"the log in {self.place} belongs to another object store ({frame_path(number)} says {notes.get('store')!r}, "
                f"this one is {self._identity!r}): name a place of its own with --wal"
            )
        first = header.first_sequence
        if first != self._next:
            if first > covered + 1 or first < self._next:
                before = "the newest snapshot ends" if not self._segments else "the frame before it ends"
                last = covered if not self._segments else self._next - 1
                self._corrupt(number, f"it begins with the commit {first}, and {before} with {last}")
            if self._segments:
                self._forget_all(
                    f"the frame {number} of the log begins with the commit {first}, and the one before it ends with "
                    f"{self._next - 1}: the newest snapshot has those between"
                )
            self._next = first
        if "claim" in notes:
            self._claims.add(number)
        self._adopt(number, header, data)

    def _adopt(self, number: int, header: Header, data: pa.Buffer) -> None:
        segment = self._current
        if (
            segment is None
            or segment.header.epoch != header.epoch
            or segment.end + header.length > segment.data.size
            or segment.file is None
        ):
            segment = self._new_segment(header.length, header.epoch)
        assert segment.file is not None
        offset = segment.end
        segment.file.pwritev([data], offset)
        self._note(number, segment)
        self._accept(Receipt(segment, offset, header.length, header.first_sequence, header.count, header.commit_time))

    def _note(self, number: int, segment: Segment) -> None:
        first, _ = self._ranges.get(segment.name, (number, number))
        self._ranges[segment.name] = (first, number)
        if not self._marks or number - self._marks[-1][1] >= _MARK:
            self._marks.append((self._next, number))

    def _forget_all(self, why: str) -> None:
        """Removes what was read so far: a manifest has all of it."""
        segments, self._segments = self._segments, ()
        if any(one.next_sequence > one.header.first_sequence for one in segments):
            self.report = (*self.report, f"{why}: what is left of the log before that is removed")
        self._end_segment()
        self.remove(segments)

    def _end_segment(self) -> None:
        segment, self._current = self._current, None
        if segment is not None and segment.file is not None:
            self._finish(segment)

    def _clear_leftovers(self, numbers: Sequence[int], sizes: dict[int, int], pool: ThreadPoolExecutor) -> None:
        """Removes what an earlier release left behind; claims stay."""
        small = [number for number in numbers if sizes[number] < _CLAIM_BYTES]
        claims = {number for number, stays in zip(small, pool.map(self._stays, small), strict=True) if stays}
        self._unwanted = [number for number in numbers if number not in claims]
        with suppress(Unavailable):
            self._delete_unwanted()

    def _stays(self, number: int) -> bool:
        """Whether a frame is a claim that keeps somebody from writing."""
        try:
            data = self._store.get(frame_path(number))
        except NoSuchObject:
            return False
        header = read_header(data, 0)
        if header is None or object_problem(data) is not None:
            return False
        claim = "claim" in decode(data, 0, frame_path(number)).notes
        return claim and header.commit_time > self._now() - CLAIM_AGE

    def _claim(self, epoch: int) -> None:
        """Takes the next number, above an epoch: from then on no process that began before can write a frame."""

        def fail(error: WalmillError) -> None:
            raise error

        for _ in range(_CLAIM_TRIES):
            self._end_segment()  # the next one has the next epoch
            newest, self._epoch = self._epoch, max(self._epoch, epoch)
            self.append([], {"claim": f"{socket.gethostname()} {os.getpid()}"}, self._now())
            try:
                self.sync(fail)
            except Superseded:  # a frame of the one before was faster: it counts
                self._epoch = newest
                self._take(self._object, self._fetch(self._object), self._next - 1)
                self._object += 1
                continue
            self._claims.add(self._object - 1)
            return
        raise Unavailable(f"another server writes into the log in {self.place} all the time; stop it", retry_after=5)

    def _corrupt(self, number: int, reason: str) -> NoReturn:
        raise DataCorruption(
            f"the log is damaged: {frame_path(number)} in {self.place}: {reason}. `walmill wal verify` shows all of it; restore "
            "the objects, or restore from a backup"
        )

    # ---- writing

    def append(self, entries: Sequence[Entry], notes: dict[str, Any], commit_time: int) -> Receipt:
        """See `Log.append`; the frame lies on this machine only, until `sync`."""
        if self._given_up.is_set():
            raise Unavailable("the server stops; nothing of this write was kept, send it again later", retry_after=5)
        notes = {**notes, "store": self._identity, "nonce": self._nonce()}
        return super().append(entries, notes, commit_time)

    def _make_durable(self, receipt: Receipt, delayed: Callable[[WalmillError], None]) -> None:
        """Creates the object. Once it was sent, it is sent until its number is taken, by it or by somebody else.

        There is no other way to know: a request without an answer may arrive later.
        """
        number = self._object
        data = receipt.segment.data.slice(receipt.offset, receipt.length)
        while True:
            try:
                put_new_once(self._store, frame_path(number), data)
                break
            except ObjectExists:
                raise Superseded(
                    f"{frame_path(number)} in {self.place} was written by another server: it has taken the log over, and only "
                    "one may write it; nothing of this write was kept"
                ) from None
            except WalmillError as error:
                delayed(error)
            if self._given_up.wait(self._pause):
                raise Unavailable(
                    f"the server stops, and the log in {self.place} has not answered: it is not known whether this write is "
                    "there; send it again, the same rows change nothing",
                    retry_after=5,
                )
        self._object = number + 1
        self._note(number, receipt.segment)

    def give_up(self) -> None:
        """See `Log.give_up`."""
        self._given_up.set()

    def objects_behind(self, sequence: int) -> int:
        """See `Log.objects_behind`; exact to a hundred."""
        place = bisect_right(self._marks, sequence + 1, key=lambda mark: mark[0]) - 1
        return self._object - (self._marks[place][1] if place >= 0 else self._object)

    def release(self, through: int) -> tuple[Segment, ...]:
        """See `Log.release`."""
        gone = super().release(through)
        place = bisect_right(self._marks, through, key=lambda mark: mark[0]) - 1
        self._marks = self._marks[max(0, place) :]
        return gone

    def prepare(self) -> bool:
        """Nothing is to be prepared: local segments are not synced."""
        return False

    def remove(self, segments: Sequence[Segment]) -> None:
        """See `Log.remove`; the objects of the frames go as well, but for claims."""
        super().remove(segments)
        for segment in segments:
            first, last = self._ranges.pop(segment.name, (1, 0))
            self._unwanted += [number for number in range(first, last + 1) if number not in self._claims]
        self._delete_unwanted()

    def _delete_unwanted(self) -> None:
        unwanted, self._unwanted = self._unwanted, []

        def delete(number: int) -> Exception | None:
            try:
                self._store.delete(frame_path(number))
            except (WalmillError, OSError) as error:
                self._unwanted.append(number)
                return error
            return None

        if not unwanted:
            return
        with ThreadPoolExecutor(min(_REQUESTS, len(unwanted)), "walmill-log") as pool:
            failed = [error for error in pool.map(delete, unwanted) if error is not None]
        if failed:
            raise failed[0]

    def close(self) -> None:
        """See `Log.close`; the local segments are removed."""
        super().close()
        with suppress(OSError):
            self._discard(self._segments)


def _last_run(numbers: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Numbers without a gap at the end, and those before."""
    start = len(numbers) - 1
    while start > 0 and numbers[start - 1] == numbers[start] - 1:
        start -= 1
    start = max(start, 0)
    return numbers[:start], numbers[start:]


def _windows(numbers: Iterable[int], sizes: dict[int, int]) -> Iterator[list[int]]:
    """Groups of so many as may be in memory at a time."""
    window: list[int] = []
    total = 0
    for number in numbers:
        if window and total + sizes[number] > _WINDOW_BYTES:
            yield window
            window, total = [], 0
        window.append(number)
        total += sizes[number]
    if window:
        yield window
