"""The log, on a file system that fails and loses power."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from walmill.errors import Conflict, DataCorruption, Internal, NotFound, TooLarge, Unavailable
from walmill.fs.local import LocalFS
from walmill.fs.lock import DirectoryLock, holder
from walmill.fs.memory import MemoryFS
from walmill.testing.fs import FaultyFS
from walmill.wal.dump import dump, verify
from walmill.wal.entry import Entry, Section
from walmill.wal.frame import decode, encode, problem
from walmill.wal.log import Log
from walmill.wal.rows import decode_rows, encode_rows

SEGMENT = 64 * 1024


def entry(number: int, size: int = 10) -> Entry:
    return Entry({"n": number}, (Section("blob", {"of": number}, bytes([number % 256]) * size),))


def open_log(fs: Any, now: Callable[[], int] = lambda: 5) -> Log:
    return Log.open(fs, "wal", segment_bytes=SEGMENT, now_ns=now)


def write(log: Log, *entries: Entry, time: int = 0, notes: dict[str, Any] | None = None) -> None:
    log.append(list(entries), notes or {}, time)
    log.sync()


def numbers(log: Log) -> list[int]:
    return [one.meta["n"] for frame in log.replay() for one in frame.entries]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
entries = st.lists(
    st.builds(
        Entry,
        st.dictionaries(st.text(max_size=4), json_values, max_size=3),
        st.lists(
            st.builds(Section, st.sampled_from(["rows", "state"]), st.just({}), st.binary(max_size=300)), max_size=3
        ).map(tuple),
    ),
    max_size=4,
)


@settings(max_examples=150)
@given(entries, st.integers(0, 2**31), st.integers(1, 2**60))
def test_frames_round_trip(given_entries: list[Entry], epoch: int, first: int) -> None:
    encoded = encode(epoch, first, 77, given_entries, {"cursors": {}})
    data = b"".join(bytes(memoryview(part)) for part in encoded.parts)
    assert len(data) == encoded.length
    assert len(data) % 64 == 0
    buffer = pa.py_buffer(bytes(64) + data)
    assert problem(buffer, 64) is None
    frame = decode(buffer, 64, "s")
    assert (frame.epoch, frame.first_sequence, frame.commit_time) == (epoch, first, 77)
    assert [one.meta for one in frame.entries] == [one.meta for one in given_entries]
    for got, wanted in zip(frame.entries, given_entries, strict=True):
        assert [bytes(memoryview(one.pieces[0])) for one in got.sections] == [one.data for one in wanted.sections]


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_wrong_bit_is_noticed(place: int, bit: int) -> None:
    encoded = encode(1, 1, 1, [entry(1, 100)], {})
    data = bytearray(b"".join(bytes(memoryview(part)) for part in encoded.parts))
    data[place % len(data)] ^= 1 << bit
    assert problem(pa.py_buffer(bytes(data)), 0) is not None


class Disk(RuleBasedStateMachine):
    """Appends, failures, loss of power, restarts: what was synced is there, in order, and nothing of what was refused."""

    @initialize()
    def begin(self) -> None:
        self.fs = FaultyFS()
        self.log = open_log(self.fs)
        self.synced: list[int] = []
        self.refused: set[int] = set()
        self.maybe: list[int] = []
        self.number = 0

    @rule(count=st.integers(0, 3), size=st.sampled_from([0, 10, 5_000, 70_000]))
    def append(self, count: int, size: int) -> None:
        batch = [self.number + place for place in range(count)]
        self.number += count
        write(self.log, *(entry(number, size) for number in batch), notes={"k": 1})
        self.synced += batch

    @rule(
        count=st.integers(1, 2),
        kind=st.sampled_from(["pwritev", "fdatasync", "create", "allocate"]),
        code=st.sampled_from([errno.EIO, errno.ENOSPC]),
    )
    def fail(self, count: int, kind: str, code: int) -> None:
        batch = [self.number + place for place in range(count)]
        self.number += count
        self.fs.fail(kind, code)
        try:
            write(self.log, *(entry(number, 3_000) for number in batch))
        except (Unavailable, OSError):
            self.refused |= set(batch)
        else:
            self.synced += batch
        self.fs.clear()

    @rule(seed=st.integers(0, 2**16), unsynced=st.booleans())
    def lose_power(self, seed: int, unsynced: bool) -> None:
        maybe: list[int] = []
        if unsynced:
            maybe = [self.number]
            self.number += 1
            self.log.append([entry(maybe[0], 2_000)], {}, 0)
        self.fs.power_loss(seed)
        self.log = open_log(self.fs)
        found = numbers(self.log)
        assert found in (self.synced, self.synced + maybe), "an unsynced frame is there as a whole, or not at all"
        self.synced = found

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.log = open_log(self.fs)

    @rule(start=st.integers(0, 30))
    def read(self, start: int) -> None:
        found = [one.meta["n"] for frame in self.log.read(start) for one in frame.entries]
        assert found == self.synced[-len(found) :] if found else True
        assert len(found) >= len(self.synced) - max(0, start - 1)

    @invariant()
    def everything_is_there(self) -> None:
        if hasattr(self, "log"):
            assert numbers(self.log) == self.synced
            assert not self.refused & set(self.synced)
            assert self.log.last_sequence == len(self.synced)


TestDisk = Disk.TestCase
TestDisk.settings = settings(max_examples=60, stateful_step_count=20)


def three_frames() -> FaultyFS:
    fs = FaultyFS()
    log = open_log(fs)
    for number in range(3):
        write(log, entry(number, 200))
    log.close()
    return fs


FRAME = 384  # bytes of one frame of `three_frames`
FIRST = "wal/0000000001.seg"


def change(place: int, text: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + text + content[place + len(text) :]


@pytest.mark.parametrize(
    ("name", "damage", "left", "word"),
    [
        ("nothing", lambda content: content, 3, None),
        ("zeros behind", lambda content: content + bytes(5000), 3, None),
        ("garbage behind", lambda content: content + b"garbage" * 100, 3, "torn"),
        ("last frame cut", lambda content: content[:-100], 2, "torn"),
        ("last header cut", lambda content: content[: 64 + 2 * FRAME + 30], 2, "torn"),
        ("last body torn", change(64 + 2 * FRAME + 200, b"????"), 2, "torn"),
        ("last magic torn", change(64 + 2 * FRAME, bytes(8)), 2, "torn"),
    ],
)
def test_a_torn_tail_is_cut_kept_and_reported(
    name: str, damage: Callable[[bytes], bytes], left: int, word: str | None
) -> None:
    fs = three_frames()
    assert len(fs.content(FIRST)) == 64 + 3 * FRAME
    fs.put(FIRST, damage(fs.content(FIRST)))
    log = open_log(fs)
    assert numbers(log) == list(range(left)), name
    assert bool(log.report) == (word is not None)
    if word is not None:
        assert word in log.report[0]
        assert FIRST[4:] in log.report[0]
        assert any(one.startswith("torn-") for one in fs.list("wal"))
    write(log, entry(9))
    log.close()
    again = open_log(fs)
    assert numbers(again) == [*range(left), 9]
    assert again.report == (), "once"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change(64 + FRAME + 200, b"????"), ("0000000001.seg", f"offset {64 + FRAME}", "checksum")),
        (change(64 + FRAME, b"????????"), ("0000000001.seg", f"offset {64 + FRAME}", "no frame header")),
        (change(64, bytes(FRAME)), ("0000000001.seg", "offset 64", "whole frames follow")),
    ],
)
def test_damage_before_the_tail_is_refused(damage: Callable[[bytes], bytes], words: tuple[str, ...]) -> None:
    fs = three_frames()
    fs.put(FIRST, damage(fs.content(FIRST)))
    with pytest.raises(DataCorruption) as raised:
        open_log(fs)
    for word in words:
        assert word in raised.value.message


def two_segments() -> FaultyFS:
    fs = three_frames()
    log = open_log(fs)
    write(log, entry(3))
    log.close()
    return fs


@pytest.mark.parametrize("case", ["first cut", "header", "swapped", "middle missing"])
def test_segments_that_do_not_fit_are_refused(case: str) -> None:
    fs = two_segments()
    second = "wal/0000000002.seg"
    match case:
        case "first cut":
            fs.put(FIRST, fs.content(FIRST)[:-FRAME])
        case "header":
            fs.put(FIRST, change(20, b"?")(fs.content(FIRST)))
        case "swapped":
            one, other = fs.content(FIRST), fs.content(second)
            fs.put(FIRST, other)
            fs.put(second, one)
        case "middle missing":
            log = open_log(fs)
            write(log, entry(4))
            log.close()
            fs.unlink(second)
    with pytest.raises(DataCorruption, match=r"00000000\d\d\.seg"):
        open_log(fs)


def test_a_segment_without_header_at_the_end_held_nothing() -> None:
    fs = two_segments()
    fs.put("wal/0000000003.seg", bytes(500))
    log = open_log(fs)
    assert numbers(log) == [0, 1, 2, 3]
    assert "never finished" in log.report[0]


def test_a_damaged_header_at_the_end_is_not_taken_for_an_unfinished_segment() -> None:
    fs = two_segments()
    second = "wal/0000000002.seg"
    fs.put(second, change(20, b"?")(fs.content(second)))
    with pytest.raises(DataCorruption, match=r"0000000002\.seg has no valid header .* a whole frame at offset 64"):
        open_log(fs)
    assert second in fs.files(), "nothing was removed"


def test_no_space_for_a_segment_changes_nothing() -> None:
    fs = FaultyFS()
    log = open_log(fs)
    write(log, entry(0))
    fs.fail("allocate", errno.ENOSPC, sticky=True)
    with pytest.raises(Unavailable, match="no room for a log segment") as raised:
        write(log, entry(1, 100_000))
    assert raised.value.retry_after > 0
    assert len([one for one in fs.list("wal") if one.endswith(".seg")]) == 1
    write(log, entry(2))
    fs.clear()
    write(log, entry(3, 100_000))
    assert numbers(log) == [0, 2, 3]


def test_what_a_failed_sync_left_on_the_disk_is_never_read() -> None:
    fs = FaultyFS()
    log = open_log(fs)
    write(log, entry(0))
    log.append([entry(1)], {}, 0)
    fs.fail("fdatasync")
    with pytest.raises(OSError, match=r".*"):
        log.sync()
    again = open_log(fs)  # the frame is whole in the file, and nobody synced it
    assert numbers(again) == [0]
    write(again, entry(2))
    assert numbers(open_log(fs)) == [0, 2]


def test_no_append_before_the_last_sync() -> None:
    log = open_log(MemoryFS())
    log.append([entry(1)], {}, 0)
    with pytest.raises(Internal):
        log.append([entry(2)], {}, 0)


def test_an_entry_that_is_too_large() -> None:
    log = open_log(MemoryFS())
    with pytest.raises(TooLarge, match="over the limit"):
        log.append([entry(1, 34 * 2**20)], {}, 0)
    write(log, entry(2))
    assert numbers(log) == [2]


def test_rows_are_read_without_a_copy() -> None:
    log = open_log(MemoryFS())
    batch = pa.record_batch(
        {"host": ["a", None] * 500, "v": [1.5] * 1000, "time": pa.array(range(1000), pa.timestamp("ns"))}
    )
    receipt = log.append([Entry({"n": 1}, (Section("rows", {}, encode_rows(batch)),))], {}, 0)
    log.sync()
    frame = log.mapped(receipt)
    before = pa.total_allocated_bytes()
    found = decode_rows(frame.entries[0].sections[0].data)
    assert pa.total_allocated_bytes() == before
    assert found.equals(batch)
    (segment,) = log.segments
    for column in found.columns:
        for buffer in column.buffers():
            if buffer is not None:
                assert segment.data.address <= buffer.address
                assert buffer.address + buffer.size <= segment.data.address + segment.data.size
                assert buffer.address % 8 == 0


def test_a_section_is_a_stream_that_any_arrow_reader_reads() -> None:
    batch = pa.record_batch({"v": [1, 2]})
    data = b"".join(bytes(memoryview(piece)) for piece in encode_rows(batch))
    assert pa.ipc.open_stream(data).read_all().equals(pa.Table.from_batches([batch]))


def test_segments_that_are_released_stay_readable_for_whoever_has_them(tmp_path: Path) -> None:
    log = Log.open(LocalFS(), str(tmp_path / "wal"), segment_bytes=SEGMENT, now_ns=lambda: 1)
    for number in range(5):
        write(log, entry(number, 50_000))
    held = next(iter(log.read(1)))
    gone = log.release(3)
    assert [one.header.first_sequence for one in gone] == [1, 2, 3]
    log.remove(gone)
    assert len(list((tmp_path / "wal").glob("*.seg"))) == 2
    assert [one.meta["n"] for frame in log.read(0) for one in frame.entries] == [3, 4]
    assert log.first_sequence == 4
    assert bytes(memoryview(held.entries[0].sections[0].pieces[0])) == bytes(50_000)
    log.close()


def test_starting_and_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(100):
        log = Log.open(LocalFS(), str(tmp_path / "wal"), now_ns=lambda: 1)
        assert numbers(log) == []
        log.close()
    assert list((tmp_path / "wal").iterdir()) == []


def test_times_become_sequences() -> None:
    log = open_log(MemoryFS())
    for number in range(200):
        write(log, entry(number, 3_000), time=number * 10)
    for time, sequence in ((0, 1), (1, 2), (10, 2), (1000, 101), (1001, 102), (1990, 200), (1991, 201)):
        assert log.sequence_at(time) == sequence


def test_commit_times_never_go_back() -> None:
    log = open_log(MemoryFS())
    for time in (10, 5, 20):
        write(log, entry(1), time=time)
    assert [frame.commit_time for frame in log.replay()] == [10, 10, 20]


def test_reading_while_another_thread_appends() -> None:
    log = open_log(MemoryFS())
    done = threading.Event()
    problems: list[str] = []

    def follow() -> None:
        sequence = 1
        while not done.is_set() or sequence <= log.last_sequence:
            for frame in log.read(sequence):
                for place, one in enumerate(frame.entries):
                    if frame.first_sequence + place != sequence or one.meta["n"] != sequence - 1:
                        problems.append(f"{sequence}: {one.meta}")
                        return
                    sequence += 1

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(800):
        write(log, entry(number, 500))
        log.prepare()
    done.set()
    reader.join(30)
    assert problems == []


def test_dump_and_verify(tmp_path: Path) -> None:
    log = Log.open(LocalFS(), str(tmp_path / "wal"), segment_bytes=SEGMENT, now_ns=lambda: 1)
    batch = pa.record_batch({"v": [1.5], "time": pa.array([7], pa.timestamp("ns"))})
    write(
        log,
        entry(0),
        Entry({"n": 1}, (Section("rows", {"table": 3, "rows": 1}, encode_rows(batch)),)),
        notes={"cursors": {}},
    )
    found = list(dump(tmp_path, start=2, rows=True))
    assert found[0]["sequence"] == 2
    assert found[0]["sections"][0]["data"] == [{"v": 1.5, "time": 7}]
    assert verify(tmp_path)[0]["status"] == "ok", "beside the engine that writes it"
    log.close()
    path = tmp_path / "wal" / "0000000001.seg"
    path.write_bytes(path.read_bytes()[:-10])
    assert verify(tmp_path)[0]["status"] == "torn"
    with pytest.raises(NotFound, match="no log in"):
        list(dump(tmp_path / "nowhere"))


def test_the_lock_names_who_holds_it(tmp_path: Path) -> None:
    lock = DirectoryLock.acquire(tmp_path)
    assert holder(tmp_path) is not None
    with pytest.raises(Conflict, match=r"in use by process \d+"):
        DirectoryLock.acquire(tmp_path)
    code = (
        "import sys, pathlib\nfrom walmill.fs.lock import DirectoryLock\n"
        "try:\n    DirectoryLock.acquire(pathlib.Path(sys.argv[1]))\nexcept Exception as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "in use by process" in done.stdout
    lock.release()
    lock.release()
    assert holder(tmp_path) is None
    DirectoryLock.acquire(tmp_path).release()
