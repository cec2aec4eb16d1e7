"""The log beside a manifest: it may begin late, end early, or be gone; what the manifest covers is nobody's loss."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from walmill.errors import DataCorruption, Unavailable
from walmill.fs.memory import MemoryFS
from walmill.testing.fs import FaultyFS
from walmill.wal.entry import Entry, Section
from walmill.wal.log import Log
from walmill.wal.segment import segment_name

SEGMENT = 64 * 1024


def entry(number: int, size: int = 10) -> Entry:
    return Entry({"n": number}, (Section("blob", {}, bytes([number % 256]) * size),))


def write(log: Log, *entries: Entry, notes: dict[str, Any] | None = None) -> None:
    log.append(list(entries), notes or {}, 0)
    log.sync()


def numbers(log: Log) -> list[int]:
    return [one.meta["n"] for frame in log.replay() for one in frame.entries]


def open_log(fs: MemoryFS | FaultyFS, covered: int | None = None, epoch: int = 0) -> Log:
    return Log.open(fs, "wal", segment_bytes=SEGMENT, now_ns=lambda: 5, covered=covered, epoch=epoch)


def written(count: int) -> tuple[MemoryFS, Log]:
    """A log whose every entry, from sequence 1 on, has a segment of its own."""
    fs = MemoryFS()
    return fs, write_to(fs, count)


def write_to(fs: MemoryFS | FaultyFS, count: int) -> Log:
    log = open_log(fs)
    for number in range(1, count + 1):
        write(log, entry(number, 40_000))
    return log


def without(fs: MemoryFS, *gone: int) -> None:
    for number in gone:
        fs.unlink(f"wal/{segment_name(number)}")


def segments(fs: MemoryFS | FaultyFS) -> list[str]:
    return sorted(name for name in fs.list("wal") if name.endswith(".seg"))


def test_a_log_whose_first_segments_were_released_opens_behind_a_manifest() -> None:
    fs, log = written(5)
    gone = log.release(2)
    log.remove(gone)
    log.close()
    assert segments(fs) == [segment_name(number) for number in (3, 4, 5)]
    for covered in (2, 3, 5):
        again = open_log(fs, covered)
        assert (again.first_sequence, again.last_sequence, again.report) == (3, 5, ())
        assert numbers(again) == [3, 4, 5]


def test_a_log_that_begins_too_late_is_refused() -> None:
    fs, log = written(5)
    log.remove(log.release(3))
    log.close()
    before = segments(fs)
    with pytest.raises(DataCorruption) as caught:
        open_log(fs, 2)
    assert "begins with the commit 4 in 0000000004.seg" in caught.value.message
    assert "ends with the commit 2" in caught.value.message
    assert segments(fs) == before


def test_a_log_that_ends_before_the_manifest_makes_room_for_a_new_one() -> None:
    fs, log = written(3)
    old = log.epoch
    log.close()
    again = open_log(fs, 7, epoch=old + 4)
    (said,) = again.report
    assert "ends with the commit 3" in said
    assert "snapshot with 7" in said
    assert segments(fs) == []
    write(again, entry(8))
    assert (again.last_sequence, again.epoch) == (8, old + 5)
    again.close()
    last = open_log(fs, 7, epoch=old + 4)
    assert (last.first_sequence, numbers(last), last.report) == (8, [8], ())


def test_released_segments_that_the_disk_brought_back_are_dropped() -> None:
    fs, log = written(6)
    log.close()
    without(fs, 2, 3)
    again = open_log(fs, 3)
    assert segments(fs) == [segment_name(number) for number in (4, 5, 6)]
    assert numbers(again) == [4, 5, 6]


@pytest.mark.parametrize("how", ["stopped before its first frame", "after a failed sync"])
def test_a_segment_without_frames_is_released_like_others(how: str) -> None:
    """It stayed behind, and the next start took what was released after it for missing."""
    fs = FaultyFS()
    log = open_log(fs)
    write(log, entry(1))
    if how == "after a failed sync":
        fs.fail("fdatasync")
        log.append([entry(2)], {}, 0)
        with pytest.raises(OSError, match="Input/output"):
            log.sync()
    else:
        log = open_log(fs)
        fs.fail("pwritev", after=2)  # the header and the mark are written, the frame is not
        fs.fail("create", after=2, sticky=True)  # nor is there a segment that says so
        with pytest.raises(OSError, match="Input/output"):
            log.append([entry(2)], {}, 0)
        fs.clear()
    empty = segment_name(2)
    assert segments(fs) == [segment_name(1), empty]
    for number in (2, 3):
        log = open_log(fs)
        write(log, entry(number, 40_000))
    before = FaultyFS.copy(fs)
    log.remove(log.release(2))
    assert segments(fs) == [segment_name(4)]
    again = open_log(fs, 2)
    assert (again.first_sequence, numbers(again), again.report) == (3, [3], ())
    # the disk forgot that one of them was removed, whichever
    for name in (segment_name(1), empty, segment_name(3)):
        fs.put(f"wal/{name}", before.content(f"wal/{name}"))
        again = open_log(fs, 2)
        assert numbers(again) in ([3], [2, 3])
        assert again.last_sequence == 3
        again.remove(again.release(2))
        assert segments(fs) == [segment_name(4)]


def test_a_gap_above_what_is_covered_is_refused() -> None:
    fs, log = written(6)
    log.close()
    without(fs, 4)
    before = segments(fs)
    with pytest.raises(DataCorruption, match=f"{segment_name(4)} between .* is missing"):
        open_log(fs, 3)
    assert segments(fs) == before


def test_a_log_of_which_nothing_is_left_goes_on_behind_the_manifest() -> None:
    fs = MemoryFS()
    log = open_log(fs, 41, epoch=6)
    assert (log.first_sequence, log.last_sequence, log.report, numbers(log)) == (42, 41, (), [])
    write(log, entry(42))
    assert (log.last_sequence, log.epoch) == (42, 7)
    log.close()
    assert numbers(open_log(fs, 41, epoch=6)) == [42]


def test_an_epoch_below_that_of_the_log_changes_nothing() -> None:
    fs, log = written(2)
    old = log.epoch
    log.close()
    again = open_log(fs, 1, epoch=0)
    write(again, entry(3))
    assert again.epoch == old + 1


def test_replay_leaves_out_what_is_covered_and_keeps_frames_without_entries_behind_it() -> None:
    fs = MemoryFS()
    log = open_log(fs)
    for number in (1, 2, 3):
        write(log, entry(number))
        write(log, notes={"behind": number})
    log.close()
    again = open_log(fs, 2)

    def found(after: int) -> list[int | str]:
        return [
            frame.entries[0].meta["n"] if frame.entries else f"behind {frame.notes['behind']}"
            for frame in again.replay(after)
        ]

    assert found(0) == [1, "behind 1", 2, "behind 2", 3, "behind 3"]
    assert found(2) == ["behind 2", 3, "behind 3"]
    assert found(3) == ["behind 3"]
    assert found(4) == []


def test_bytes_behind_counts_only_what_is_behind() -> None:
    _, log = written(4)
    ends = [segment.end for segment in log.segments]
    sizes = [log.bytes_behind(sequence) for sequence in range(5)]
    assert sizes[4] == 0
    for sequence in range(4):
        assert sizes[sequence] - sizes[sequence + 1] == pytest.approx(ends[sequence], abs=64)
    log.release(2)
    assert log.bytes_behind(0) == sizes[2]


def test_the_segment_that_is_written_is_never_released() -> None:
    fs, log = written(3)
    assert [segment.name for segment in log.release(99)] == [segment_name(1), segment_name(2)]
    assert log.release(99) == ()
    assert numbers(log) == [3]
    write(log, entry(4, 10))
    log.close()
    assert numbers(open_log(fs, 3))[-2:] == [3, 4]


def test_the_newest_segment_is_missed() -> None:
    fs = FaultyFS()
    write_to(fs, 6).close()
    newest = segments(fs)[-1]
    whole = FaultyFS.copy(fs)
    fs.unlink(f"wal/{newest}")
    for _ in range(2):
        with pytest.raises(
            DataCorruption, match=rf"the newest log segment {newest} is missing.*remove the file newest"
        ):
            open_log(fs, 3)
    fs.unlink("wal/newest")  # a person who knows what that means
    assert numbers(open_log(fs, 3)) == [1, 2, 3, 4, 5]
    for content in (b"", b"{", b'{"segment": "x"}', b"[]"):
        fs = FaultyFS.copy(whole)
        fs.put("wal/newest", content)
        with pytest.raises(DataCorruption, match="the file newest of the log cannot be read"):
            open_log(fs, 3)
    # a log that an older version wrote has none
    fs = FaultyFS.copy(whole)
    fs.unlink("wal/newest")
    assert open_log(fs, 3).last_sequence == 6


@pytest.mark.parametrize("kind", ["rename", "sync_directory", "create", "fdatasync", "pwritev"])
@pytest.mark.parametrize("after", range(6))
def test_a_mark_that_cannot_be_written_refuses_nothing_later(kind: str, after: int) -> None:
    fs = FaultyFS()
    log = open_log(fs)
    kept = []
    for number in range(1, 12):
        if number == 4:
            fs.fail(kind, after=after)
        try:
            write(log, entry(number, 30_000))
        except (OSError, Unavailable):
            continue
        kept.append(number)
    assert len(kept) >= 10
    fs.clear()
    last = log.last_sequence
    disks = [FaultyFS.copy(fs) for _ in range(4)]
    for seed, disk in enumerate(disks[1:]):
        disk.power_loss(seed or None)
    for disk in disks:
        log = open_log(disk)
        assert numbers(log) == kept
        log.remove(log.release(last))
        assert segments(disk) == []
        assert open_log(disk, last).last_sequence == last


def test_the_mark_does_not_hold_up_a_release_on_a_full_disk() -> None:
    fs = FaultyFS()
    write_to(fs, 6).close()
    log = open_log(fs, 6)
    before = segments(fs)
    fs.fail("create", errno.ENOSPC, sticky=True)
    log.remove(log.release(6))
    assert segments(fs) == before[-1:], "the one that the mark names stays"
    fs.clear()
    again = open_log(fs, 6)
    write(again, entry(7))
    assert numbers(open_log(fs, 6))[-1] == 7
