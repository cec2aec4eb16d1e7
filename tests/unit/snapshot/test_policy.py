"""When a snapshot is due, which log may go, what retention removes: tables of cases."""

from __future__ import annotations

import pytest
from attrs import evolve

from walmill.model.catalog import FOR_EVER, Catalog, create_database, definitions_of
from walmill.model.cursor import Cursor
from walmill.model.files import DataFile
from walmill.model.trigger import Trigger
from walmill.snapshot.due import Facts, Limits, retry_after, snapshot_due, writers_wait
from walmill.snapshot.release import Holder, Kept, LogRetention, describe_segments, find_holders, plan_release
from walmill.snapshot.retention import plan_retention
from walmill.testing.clock import ManualClock
from walmill.testing.fs import FaultyFS
from walmill.units import DAY, MINUTE, SECOND
from walmill.wal.entry import Entry
from walmill.wal.log import Log

LIMITS = Limits(buffer_bytes=100, log_bytes=1000, age=10 * SECOND, memory_bytes=400)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(0), None),
        (Facts(5, 5, 1000, 10**9, 0), None),  # nothing new: whatever is counted belongs to what is covered
        (Facts(5, 4, since=91 * SECOND), None),
        (Facts(5, 4, since=90 * SECOND), "age"),
        (Facts(5, 4, buffer_bytes=99, since=99 * SECOND), None),
        (Facts(5, 4, buffer_bytes=100, since=99 * SECOND), "buffer"),
        (Facts(5, 4, log_bytes=999, since=99 * SECOND), None),
        (Facts(5, 4, log_bytes=1000, since=99 * SECOND), "log"),
        (Facts(5, 4, log_objects=4_999, since=99 * SECOND), None),
        (Facts(5, 4, log_objects=5_000, since=99 * SECOND), "log"),
        (Facts(5, 4, 100, 1000, failures=1, failed_at=99 * SECOND + 1), None),
        (Facts(5, 4, 100, 1000, failures=1, failed_at=99 * SECOND), "buffer"),
        (Facts(5, 4, 100, 1000, failures=3, failed_at=97 * SECOND), None),
    ],
)
def test_when_a_snapshot_is_due(facts, expected):
    assert snapshot_due(facts, LIMITS, 100 * SECOND) == expected


def test_short_memory_makes_a_snapshot_due_earlier():
    short = evolve(LIMITS, memory_bytes=120)
    facts = Facts(5, 4, buffer_bytes=60, since=100 * SECOND)
    assert snapshot_due(facts, LIMITS, 100 * SECOND) is None
    assert snapshot_due(facts, short, 100 * SECOND) == "memory"
    assert [writers_wait(size, short) for size in (119, 120)] == [False, True]


def test_the_time_between_attempts_grows_to_a_minute():
    waits = [retry_after(failures) for failures in (1, 2, 3, 7, 10**6)]
    assert waits == [SECOND, 2 * SECOND, 4 * SECOND, MINUTE, MINUTE]


# four segments of ten commits and ten bytes each; the last one is written
SEGMENTS = [Kept(1, 10, 10, 100), Kept(11, 20, 10, 200), Kept(21, 30, 10, 300), Kept(31, 35, 5)]
WIDE = LogRetention(age=10**6, bytes=10**6, free_part=0.0)


@pytest.mark.parametrize(
    ("covered", "holders", "retention", "now", "free", "expected"),
    [
        (0, [], WIDE, 300, 500, (0, (), ())),
        (25, [], WIDE, 300, 500, (25, (), ())),
        (25, [Holder(7, 16)], WIDE, 300, 500, (15, (), ())),
        (25, [Holder(7, 16), Holder(8, 12)], WIDE, 300, 500, (11, (), ())),
        (25, [Holder(7, 36)], WIDE, 300, 500, (25, (), ())),
        (25, [Holder(7, 1, enabled=False)], WIDE, 300, 500, (0, (), ())),
        # by age: the segment of what is needed ended too long ago
        (25, [Holder(7, 5)], evolve(WIDE, age=200), 300, 500, (4, (), ())),
        (25, [Holder(7, 5)], evolve(WIDE, age=199), 300, 500, (25, (7,), ())),
        (25, [Holder(7, 5, enabled=False)], evolve(WIDE, age=199), 300, 500, (25, (), (7,))),
        (25, [Holder(7, 5), Holder(8, 6), Holder(9, 15)], evolve(WIDE, age=199), 300, 500, (14, (7, 8), ())),
        # what no manifest covers stays anyhow: nobody is paused for it
        (9, [Holder(7, 5)], evolve(WIDE, age=1), 10**9, 500, (4, (), ())),
        (35, [Holder(7, 33)], evolve(WIDE, age=1), 10**9, 500, (32, (), ())),
        # by bytes from what is needed on
        (30, [Holder(7, 11)], evolve(WIDE, bytes=25), 300, 500, (10, (), ())),
        (30, [Holder(7, 11)], evolve(WIDE, bytes=24), 300, 500, (30, (7,), ())),
        # by the disk: ten bytes of a hundred have to be free; the furthest behind goes until that is so
        (30, [Holder(7, 5), Holder(8, 15), Holder(9, 25)], evolve(WIDE, free_part=0.1), 300, 10, (4, (), ())),
        (30, [Holder(7, 5), Holder(8, 15), Holder(9, 25)], evolve(WIDE, free_part=0.1), 300, 3, (14, (7,), ())),
        (30, [Holder(8, 15), Holder(7, 5)], evolve(WIDE, free_part=0.2), 300, 3, (30, (7, 8), ())),
        (30, [Holder(7, 5), Holder(8, 35)], evolve(WIDE, free_part=0.9), 300, 3, (30, (7,), ())),
    ],
)
def test_which_log_may_go(covered, holders, retention, now, free, expected):
    plan = plan_release(SEGMENTS, covered, holders, retention, now, disk_free=free, disk_size=100)
    assert (plan.through, plan.pause, plan.lapsed) == expected


def test_segments_of_a_real_log_are_described_and_go():
    clock = ManualClock(1000)
    fs = FaultyFS()
    log = Log.open(fs, "/wal", segment_bytes=64 * 1024, now_ns=clock.now_ns)
    for _ in range(3):
        clock.advance(SECOND)
        log.append([Entry({"source": "client", "text": "x" * 50_000}, ())], {}, clock.now_ns())
        log.sync()
    kept = describe_segments(log.segments)
    assert [(one.first_sequence, one.last_sequence) for one in kept] == [(1, 1), (2, 2), (3, 3)]
    assert [one.ended for one in kept] == [1000 + 2 * SECOND, 1000 + 3 * SECOND, None]
    assert all(50_000 < one.bytes < 60_000 for one in kept)
    plan = plan_release(kept, 3, [Holder(1, 2)], WIDE, clock.now_ns(), disk_free=1, disk_size=2)
    log.remove(log.release(plan.through))
    assert log.first_sequence == 2
    log.close()


@pytest.mark.parametrize(
    ("spec", "state", "reason", "holds"),
    [
        ("table:cpu", "enabled", None, True),
        ("all_tables", "enabled", None, True),
        ("every:1m", "enabled", None, False),
        ("cron:0 * * * *", "enabled", None, False),
        ("request:x", "enabled", None, False),
        ("table:cpu", "disabled", "ValueError: no", True),
        ("table:cpu", "paused", "the plugin is gone", True),
        ("table:cpu", "paused", "retention", False),
        ("table:cpu", "disabled", "disabled by a person", False),
        ("table:cpu", "disabled", "created disabled", False),
    ],
)
def test_which_triggers_hold_the_log(spec, state, reason, holds):
    catalog = Catalog()
    catalog = catalog.apply(create_database(catalog, "d", 0))
    trigger = Trigger(id=2, database_id=1, name="t", plugin="p", spec=spec, state=state, reason=reason)
    catalog = catalog.apply({"op": "put_trigger", "trigger": trigger.to_json()})
    expected = [Holder(2, 8, state == "enabled")] if holds else []
    assert find_holders(catalog, {2: Cursor(7, ((9, 10),))}) == expected


def file(low: int, high: int) -> DataFile:
    return DataFile(f"{low}-{high}", 2, 1, 1, low, high, 1, 2, 0)


def test_retention():
    files = [file(0, 5 * DAY - 1), file(0, 5 * DAY), file(5 * DAY, 9 * DAY)]
    found = plan_retention(files, 30 * DAY, 35 * DAY)
    assert (found.cut_off, found.expired, found.mixed, found.kept) == (
        5 * DAY,
        (files[0],),
        (files[1],),
        (files[1], files[2]),
    )
    for_ever = plan_retention(files, None, 35 * DAY)
    assert (for_ever.cut_off, for_ever.expired, for_ever.mixed) == (-(2**63), (), ())
    assert plan_retention(files, 2**63, -(2**62)).cut_off == -(2**63)


@pytest.mark.parametrize(
    ("low", "high", "size", "cut"),
    [
        (0, 4, 100, False),  # expired as a whole
        (5, 9, 100, False),
        (4, 6, 100, True),  # just half
        (4, 7, 100, False),
        (0, 5, 100, True),
        (0, 5, 99, False),  # too small to be worth it
    ],
)
def test_which_files_are_cut(low, high, size, cut):
    files = [evolve(file(low, high), bytes=size)]
    assert plan_retention(files, 10, 15).worth_cutting(100) == (tuple(files) if cut else ())


@pytest.mark.parametrize(
    ("table", "database", "expected"),
    [(None, None, None), (None, 3, 3), (5, 3, 5), (5, None, 5), (FOR_EVER, 3, None)],
)
def test_a_table_has_its_own_period_or_that_of_its_database(table, database, expected):
    made = create_database(Catalog(), "d", 0, database)
    catalog = Catalog().apply(made)
    defined = {"op": "create_table", "id": 9, "db": made["id"], "name": "t", "tags": [], "fields": {}}
    catalog = catalog.apply({**defined, "retention": table})
    assert catalog.period_of(9) == expected
    again = Catalog()
    for definition in definitions_of(catalog):
        again = again.apply(definition)
    assert again.period_of(9) == expected
