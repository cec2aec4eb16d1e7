"""Rows that go to files leave the snapshot; what is known of late rows stays right, compared with all rows there ever were."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.buffer.table import TableBuffer
from walmill.model.schema import TableSchema

SCHEMA = TableSchema("cpu", ("host",), {"n": "int64"})
WIDE = SCHEMA.with_columns(("rack",), {})

ROWS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from("ab"), st.sampled_from([None, None, "r"])), min_size=1, max_size=8
)


def batch_of(rows):
    racks = [rack for _, _, rack in rows]
    more = {"rack": pa.array(racks, pa.string())} if any(racks) else {}
    return pa.record_batch(
        {
            "host": [host for _, host, _ in rows],
            **more,
            "n": pa.array(range(len(rows)), pa.int64()),
            "time": pa.array([time for time, _, _ in rows], pa.timestamp("ns")),
        }
    )


def times_of(buffer):
    return [time for batch in buffer.batches for time in batch.column("time").cast(pa.int64()).to_pylist()]


def inside(time, ranges):
    return any(low <= time <= high for low, high in ranges)


def check(buffer, stored, rows):
    """`rows` are in the snapshot, `stored` went before them: whichever repeats an earlier one is in the ranges."""
    assert times_of(buffer) == [time for time, _, _ in rows]
    assert buffer.num_rows == len(rows)
    seen = set(stored)
    for place, row in enumerate(rows):
        if row in seen:
            assert inside(row[0], buffer.overlaps)
            assert inside(row[0], buffer.overlaps_since(place))
        seen.add(row)


STEP = st.one_of(
    ROWS.map(lambda rows: ("write", rows)),
    st.sampled_from([("look", None), ("note", None), ("store", None), ("store", None), ("check old ones", None)]),
)


@settings(max_examples=150)
@given(ROWS | st.just([]), st.lists(STEP, max_size=25))
def test_no_repetition_is_missed_however_rows_go_to_files(files, steps):
    stored = list(files)
    newest = max((time for time, _, _ in stored), default=None)
    buffer = TableBuffer.empty(WIDE, newest)
    rows, sequence = [], 0
    noted = [(buffer, 0)]  # snapshots behind the same files, with their numbers of rows
    old = []  # snapshots of before, with what they must give
    for step, given_rows in steps:
        if step == "write":
            sequence += 1
            buffer = buffer.append(batch_of(given_rows), WIDE, sequence)
            rows = rows + given_rows
        elif step == "look":
            assert buffer.log.look(buffer) is not None
        elif step == "note":
            noted.append((buffer, len(rows)))
        elif step == "store":
            taken, count = noted[-1]
            old.append((buffer, list(stored), list(rows)))
            times = [time for time, _, _ in rows[:count]]
            newest = max([*times, *([] if newest is None else [newest])], default=None)
            stored, rows = stored + rows[:count], rows[count:]
            buffer = buffer.behind(taken.num_rows, newest)
            assert buffer.sequence == sequence
            noted = [(buffer, len(rows))]
        else:
            for one in old:
                check(*one)
        check(buffer, stored, rows)
    for one in old:
        check(*one)


def test_rows_in_order_stay_free_of_ranges_when_those_before_go_to_files():
    """Else every query after a snapshot would merge; and a series that nobody saw yet counts as old as the newest file."""
    buffer = TableBuffer.empty(WIDE)
    for time in range(10):
        buffer = buffer.append(batch_of([(time, "a", None), (time, "b", None)]), WIDE, time)
    buffer = buffer.behind(18, 8)
    assert buffer.overlaps == ()
    buffer = buffer.append(batch_of([(10, "a", None), (11, "b", None)]), WIDE, 10)
    assert buffer.overlaps == ()
    assert buffer.append(batch_of([(4, "a", None)]), WIDE, 11).overlaps == ((4, 4),)


@pytest.mark.parametrize(("time", "late"), [(7, True), (8, True), (9, False)])
def test_a_series_not_seen_since_the_start_counts_as_new_as_the_newest_file(time, late):
    buffer = TableBuffer.empty(WIDE, 8).append(batch_of([(time, "a", None)]), WIDE, 1)
    assert bool(buffer.overlaps) == late
    # one that is not the newest is taken in again, and knows it still
    other = TableBuffer.empty(WIDE, 8)
    other.append(batch_of([(99, "b", None)]), WIDE, 1)
    assert bool(other.append(batch_of([(time, "a", None)]), WIDE, 1).overlaps) == late


def test_one_that_is_not_the_newest_knows_the_files_after_rows_went_there():
    first = TableBuffer.empty(WIDE, 8).append(batch_of([(20, "a", None)]), WIDE, 1).behind(1, 20)
    first.append(batch_of([(30, "a", None)]), WIDE, 2)
    again = first.append(batch_of([(20, "a", None)]), WIDE, 2)
    assert again.overlaps == ((20, 20),)
