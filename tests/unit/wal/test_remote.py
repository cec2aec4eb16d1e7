"""The log in an object store: lost answers, take-overs, damage, what a release leaves; against a store that fails on purpose."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from walmill.errors import Conflict, DataCorruption, Superseded, Unavailable, WalmillError
from walmill.fs.memory import MemoryFS
from walmill.testing.store import FaultyStore
from walmill.units import DAY
from walmill.wal.entry import Entry, Section
from walmill.wal.frame import encode
from walmill.wal.remote import CLAIM_AGE, ObjectLog, frame_number, frame_path

SEGMENT = 64 * 1024


def entry(number: int, size: int = 10) -> Entry:
    return Entry({"n": number}, (Section("blob", {}, bytes([number % 256]) * size),))


def attach(store: FaultyStore, fs: MemoryFS | None = None, **more: Any) -> ObjectLog:
    arguments: dict[str, Any] = {
        "segment_bytes": SEGMENT,
        "now_ns": lambda: 5,
        "identity": "me",
        "pause": 0.0,
        **more,
    }
    return ObjectLog.attach(store, fs or MemoryFS(), "spool", **arguments)


def write(log: ObjectLog, *numbers: int, size: int = 10, told: Callable[[WalmillError], None] | None = None) -> None:
    log.append([entry(number, size) for number in numbers], {}, 0)
    log.sync(told or (lambda why: None))


def numbers(log: ObjectLog, after: int = 0) -> list[int]:
    return [one.meta["n"] for frame in log.replay(after) for one in frame.entries]


def frames(store: FaultyStore) -> list[int]:
    return [frame_number(path) or 0 for path, _ in store.inner.list("log")]


def test_what_was_written_is_there_for_the_next_start_on_another_machine() -> None:
    store = FaultyStore()
    log = attach(store)
    for number in range(1, 30):
        write(log, number, size=9_000)
    log.append([], {"cursors": {"1": [4]}}, 0)
    log.sync()
    assert numbers(log) == list(range(1, 30))
    assert len(log.segments) > 3
    assert frames(store) == list(range(1, 32)), "the claim, 29 frames, and the one that moves a cursor"
    again = attach(store)
    assert numbers(again) == list(range(1, 30))
    assert [frame.notes["cursors"] for frame in again.replay() if "cursors" in frame.notes] == [{"1": [4]}]
    assert again.last_sequence == 29
    assert again.epoch > log.epoch
    assert numbers(again, after=27) == [28, 29]
    assert [one.meta["n"] for frame in again.read(28) for one in frame.entries] == [28, 29]
    write(again, 30)
    assert numbers(attach(store)) == list(range(1, 31))


def test_local_segments_do_not_count() -> None:
    store, fs = FaultyStore(), MemoryFS()
    log = attach(store, fs)
    write(log, 1)
    log.append([entry(2)], {}, 0)  # lies on this machine, and was never sent
    assert numbers(attach(store, fs)) == [1]
    names = fs.list("spool")
    attach(store, fs).close()
    assert not fs.list("spool")
    assert names


@pytest.mark.parametrize("fates", [["lost"], ["failed"], ["failed", "failed", "lost"], ["lost", "failed"]])
def test_a_lost_answer_is_settled(fates: list[Any]) -> None:
    store = FaultyStore()
    log = attach(store)
    write(log, 1)
    store.fates = list(fates)
    told: list[str] = []
    write(log, 2, told=lambda why: told.append(why.message))
    # a request that is sent again and finds itself there is success, without anybody being told anew
    assert told
    assert not store.fates or fates == ["lost", "failed"]
    store.fates = []
    write(log, 3)
    assert numbers(log) == numbers(attach(store)) == [1, 2, 3]


def test_nobody_answers_until_the_server_stops() -> None:
    store = FaultyStore()
    log = attach(store, pause=60.0)
    write(log, 1)
    store.away = True
    asked = threading.Event()
    log.append([entry(2)], {}, 0)

    def stop() -> None:
        asked.wait(10)
        log.give_up()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Unavailable, match="not known whether this write is there"):
        log.sync(lambda why: asked.set())
    stopper.join()
    with pytest.raises(Unavailable, match="the server stops; nothing of this write was kept"):
        log.append([entry(3)], {}, 0)
    log.close()
    with pytest.raises(Unavailable):
        attach(store)
    store.away = False
    assert numbers(attach(store)) == [1]


def test_who_was_taken_over_never_writes_again_also_when_all_is_released() -> None:
    store = FaultyStore()
    first = attach(store)
    write(first, 1, 2)
    second = attach(store)
    for number in range(3, 40):
        write(second, number, size=9_000)
    second.remove(second.release(30))
    assert frames(store)[0] == 1, "claims stay"
    assert 4 not in frames(store)
    for _ in range(2):
        with pytest.raises(Superseded, match=r"log/0000000000\d\d in faulty:// was written by another server"):
            write(first, 99)
    third = attach(store, covered=30)
    assert numbers(third, after=30) == list(range(31, 40))
    with pytest.raises(Superseded):
        write(second, 40)
    write(third, 40)
    assert numbers(attach(store, covered=30), after=30) == list(range(31, 41))


def test_a_frame_that_comes_between_reading_and_claiming_counts() -> None:
    store = FaultyStore()
    first = attach(store)
    write(first, 1)
    came: list[int] = []

    def interfere(path: str) -> None:
        if len(came) < 3 and threading.current_thread() is threading.main_thread():
            came.append(len(came) + 2)
            store.on_put = lambda path: None
            write(first, came[-1])
            store.on_put = interfere

    store.on_put = interfere
    second = attach(store)
    assert came == [2, 3, 4]
    assert numbers(second) == [1, 2, 3, 4]
    write(second, 5)
    with pytest.raises(Superseded):
        write(first, 6)
    assert numbers(attach(store)) == [1, 2, 3, 4, 5]


def test_a_release_that_was_broken_off_is_gone_on_with() -> None:
    store = FaultyStore()
    log = attach(store)
    for number in range(1, 40):
        write(log, number, size=9_000)
    released = log.release(30)
    last = released[-1].next_sequence - 1
    store.away = True
    with pytest.raises(Unavailable):
        log.remove(released)
    store.away = False
    store.inner.delete(frame_path(7))  # some of them went, in no order
    again = attach(store, covered=30)
    assert numbers(again, after=30) == list(range(31, 40))
    assert not again.report
    assert [one for one in frames(store) if one < 7] == [1], "what was before the gap is removed, but for the claim"
    again.remove(again.release(30))
    assert not [one for one in frames(store) if 1 < one <= last]
    write(again, 40)
    log.remove(())  # the first one tries again what it could not
    assert numbers(attach(store, covered=30), after=30) == list(range(31, 41))


def test_objects_behind_a_sequence_are_counted() -> None:
    store = FaultyStore()
    log = attach(store)
    for number in range(1, 1001):
        write(log, number)
    for one in (log, attach(store)):
        assert [one.objects_behind(place) // 100 for place in (0, 5, 450)] == [10, 10, 6]
        assert one.objects_behind(1000) < 200
        one.remove(one.release(700))
        assert one.objects_behind(1000) < 200
        assert 300 <= one.objects_behind(700) < 500


def test_old_claims_go() -> None:
    store = FaultyStore()
    times = iter([1 * DAY, 2 * DAY, 40 * DAY, 41 * DAY])
    for number in range(4):
        now = next(times)
        log = attach(store, now_ns=lambda now=now: now, covered=3 * number)
        for one in range(3):
            log.append([entry(3 * number + one + 1, 40_000)], {}, now)
            log.sync()
        log.remove(log.release(3 * number + 2))
        log.close()
        claims = [one for one in (1, 5, 9, 13) if one in frames(store)]
        assert claims == ([1, 5][: number + 1] if number < 2 else [9, 13][: number - 1])
    assert CLAIM_AGE == 30 * DAY


def flip(store: FaultyStore, number: int, place: int = 70) -> None:
    data = bytearray(bytes(store.inner.get(frame_path(number))))
    data[place] ^= 4
    store.inner.put(frame_path(number), bytes(data))


def other_epoch(store: FaultyStore, number: int) -> None:
    made = encode(0, 3, 9, [entry(3)], {"store": "me"})
    store.inner.put(frame_path(number), b"".join(bytes(memoryview(part)) for part in made.parts))


DAMAGE: list[tuple[str, Callable[[FaultyStore], None], str | None]] = [
    ("missing", lambda s: s.inner.delete(frame_path(4)), "log/000000000005 in faulty://: it begins with the commit 4"),
    ("header", lambda s: flip(s, 4, 20), "log/000000000004 in faulty://: the checksum"),
    ("body", lambda s: flip(s, 4, 140), "log/000000000004 in faulty://: the checksum"),
    ("checksum", lambda s: flip(s, 4, 49), "log/000000000004 in faulty://: the checksum"),
    ("magic", lambda s: flip(s, 4, 0), "there is no frame header"),
    ("empty", lambda s: s.inner.put(frame_path(4), b""), "there is no frame header"),
    (
        "truncated",
        lambda s: s.inner.put(frame_path(4), bytes(s.inner.get(frame_path(4)))[:128]),
        "the segment ends before",
    ),
    ("longer", lambda s: s.inner.put(frame_path(4), bytes(s.inner.get(frame_path(4))) + bytes(64)), "and its frame"),
    ("swapped", lambda s: s.inner.put(frame_path(4), s.inner.get(frame_path(5))), "it begins with the commit 4"),
    ("again", lambda s: s.inner.put(frame_path(5), s.inner.get(frame_path(4))), "it begins with the commit 3"),
    ("older epoch", lambda s: other_epoch(s, 4), "its epoch is 0"),
    ("all gone", lambda s: [s.inner.delete(path) for path, _ in s.inner.list("log")] and None, "is empty"),
    ("foreign object", lambda s: s.inner.put("log/readme", b"x"), None),
]


@pytest.mark.parametrize(("change", "expected"), [one[1:] for one in DAMAGE], ids=[one[0] for one in DAMAGE])
def test_damage_is_refused_with_place_and_reason(change: Callable[[FaultyStore], None], expected: str | None) -> None:
    store = FaultyStore()
    log = attach(store)
    for number in range(1, 7):
        write(log, number)
    change(store)
    if expected is None:
        assert numbers(attach(store, known=True)) == list(range(1, 7))
        return
    with pytest.raises(DataCorruption, match=expected):
        attach(store, known=True)
    assert len(frames(store)) in (0, 6, 7), "nothing was changed"


def test_the_log_of_another_store_is_not_taken_over() -> None:
    store = FaultyStore()
    log = attach(store)
    write(log, 1)
    with pytest.raises(Conflict, match="belongs to another object store"):
        attach(store, identity="you")
    write(log, 2)
    assert numbers(attach(store)) == [1, 2]


def test_a_manifest_may_be_ahead_of_what_is_left() -> None:
    store = FaultyStore()
    log = attach(store)
    write(log, 1, 2)
    again = attach(store, covered=7, epoch=20)
    assert "the log ends with the commit 2, and the newest snapshot with 7" in again.report[0]
    assert again.last_sequence == 7
    write(again, 8)
    last = attach(store, covered=7)
    assert last.epoch > 21
    assert numbers(last, after=7) == [8]
    with pytest.raises(DataCorruption, match="begins with the commit 8, and the newest snapshot ends with 0"):
        attach(store)


def test_frames_may_be_larger_than_a_window_and_a_segment() -> None:
    store = FaultyStore()
    log = attach(store)
    write(log, 1, size=3 * 2**20)
    for _ in range(3):
        write(log, 2, 3, size=24 * 2**20)
    told: list[tuple[int, int]] = []
    again = attach(store, told=lambda done, total: told.append((done, total)))
    assert numbers(again) == [1, 2, 3, 2, 3, 2, 3]
    assert told[-1][0] == told[-1][1] > 140 * 2**20
    assert [done for done, _ in told] == sorted(done for done, _ in told)


class Places(RuleBasedStateMachine):
    """Servers write, lose answers, are taken over, release and restart: what was acknowledged is there, in order, once."""

    @initialize()
    def begin(self) -> None:
        self.store = FaultyStore()
        self.logs = [attach(self.store)]
        self.acknowledged: list[int] = []
        self.ends = [0]
        self.covered = 0
        self.number = 0

    def next(self, count: int) -> list[int]:
        made = [self.number + place + 1 for place in range(count)]
        self.number += count
        return made

    @rule(
        count=st.integers(0, 3),
        size=st.sampled_from([10, 3_000, 30_000]),
        fates=st.lists(st.sampled_from(["lost", "failed"]), max_size=3),
    )
    def write(self, count: int, size: int, fates: list[Any]) -> None:
        batch = self.next(count)
        self.store.fates = list(fates)
        write(self.logs[-1], *batch, size=size)
        self.store.fates = []
        self.acknowledged += batch
        self.ends.append(len(self.acknowledged))

    @rule(which=st.integers(0, 5), lost=st.booleans())
    @precondition(lambda self: len(self.logs) > 1)
    def write_of_the_past(self, which: int, lost: bool) -> None:
        batch = self.next(1)
        self.store.fates = ["lost" if lost else "failed"]
        with pytest.raises(Superseded):
            write(self.logs[which % (len(self.logs) - 1)], *batch)
        self.store.fates = []

    @rule(arrives=st.booleans())
    def crash_while_it_writes(self, arrives: bool) -> None:
        log = self.logs[-1]
        self.logs.pop()  # it never writes again
        batch = self.next(1)
        log.append([entry(one) for one in batch], {}, 0)
        receipt: Any = log._pending
        if arrives:
            data: pa.Buffer = receipt.segment.data.slice(receipt.offset, receipt.length)
            self.store.put_new(frame_path(log._object), data)
            self.acknowledged += batch  # it is there, and stays, though nobody was told
            self.ends.append(len(self.acknowledged))
        self.restart()

    @rule()
    def restart(self) -> None:
        known: list[tuple[int, int]] = []
        self.logs.append(
            attach(self.store, covered=self.covered, known=True, told=lambda done, total: known.append((done, total)))
        )
        assert known

    @rule(part=st.floats(0, 1), broken=st.integers(0, 3))
    def release(self, part: float, broken: int) -> None:
        log = self.logs[-1]
        # snapshots end where a frame does
        self.covered = max(self.covered, self.ends[int((len(self.ends) - 1) * part)])
        gone = log.release(self.covered)
        if broken == 1:
            return  # and a crash, perhaps: the objects stay
        if broken == 2:
            for path, _ in list(self.store.inner.list("log"))[::3]:
                number = frame_number(path)
                if (
                    any(log._ranges[one.name][0] <= (number or 0) <= log._ranges[one.name][1] for one in gone)
                    and number not in log._claims
                ):
                    self.store.inner.delete(path)
        log.remove(gone)

    @rule()
    def look(self) -> None:
        fresh = attach(self.store, covered=self.covered)
        self.logs.append(fresh)
        assert numbers(fresh, after=self.covered) == self.acknowledged[self.covered :]
        assert fresh.last_sequence == len(self.acknowledged)

    def teardown(self) -> None:
        if hasattr(self, "logs"):
            self.look()


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=40, stateful_step_count=25)
