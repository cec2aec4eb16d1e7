"""Snapshots of a table: rows in log order, few batches, and old snapshots that stay as they were."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.buffer.looker import PENDING_ROWS, Looker
from walmill.buffer.table import BIG, TableBuffer
from walmill.errors import Internal
from walmill.model.schema import TableSchema

SCHEMA = TableSchema("cpu", ("host",), {"n": "int64"})


def batch_of(start, rows, host="a", **more):
    columns = {"host": [host] * rows, "n": range(start, start + rows), **more}
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.record_batch({**arrays, "time": pa.array(range(start, start + rows), pa.timestamp("ns"))})


def numbers(batches):
    return [number for batch in batches for number in batch.column("n").to_pylist()]


@settings(max_examples=40)
@given(st.lists(st.sampled_from([1, 1, 1, 2, 7, 300, 2000, BIG - 1, BIG, BIG + 1]), max_size=60), st.data())
def test_rows_keep_their_order_and_snapshots_stay(sizes, data):
    buffer = TableBuffer.empty(SCHEMA)
    snapshots = [buffer]
    for sequence, rows in enumerate(sizes, 1):
        more = {} if sequence % 3 else {"extra": [1.5] * rows}
        schema = SCHEMA.with_columns((), {"extra": "float64"}) if sequence >= 3 else SCHEMA
        buffer = buffer.append(batch_of(buffer.num_rows, rows, **more), schema, sequence)
        snapshots.append(buffer)
    for snapshot in snapshots:
        assert numbers(snapshot.batches) == list(range(snapshot.num_rows))
    row = data.draw(st.integers(0, buffer.num_rows + 2))
    assert numbers(buffer.batches_since(row)) == list(range(row, buffer.num_rows))
    small = [batch for batch in buffer.batches if batch.num_rows < BIG]
    big = len(buffer.batches) - len(small)
    assert len(small) <= 45 + big
    assert buffer.overlaps == ()
    assert buffer.sequence == len(sizes)


def test_many_single_rows_become_few_batches():
    buffer = TableBuffer.empty(SCHEMA)
    for row in range(10_000):
        buffer = buffer.append(batch_of(row, 1), SCHEMA, row)
    assert len(buffer.batches) <= 2 + 45
    assert numbers(buffer.batches) == list(range(10_000))


def test_a_big_batch_is_not_copied():
    batch = batch_of(0, BIG)
    buffer = TableBuffer.empty(SCHEMA).append(batch_of(0, 1), SCHEMA, 1).append(batch, SCHEMA, 2)
    assert buffer.batches[1] is batch


def test_a_snapshot_that_is_not_the_newest_can_grow_too():
    first = TableBuffer.empty(SCHEMA).append(batch_of(0, 3), SCHEMA, 1)
    one = first.append(batch_of(3, 2), SCHEMA, 2)
    other = first.append(batch_of(9, 1, host="b"), SCHEMA, 2).append(batch_of(3, 1), SCHEMA, 3)
    assert numbers(one.batches) == [0, 1, 2, 3, 4]
    assert numbers(other.batches) == [0, 1, 2, 9, 3]
    assert one.log is not other.log
    assert other.overlaps == ()
    assert other.append(batch_of(3, 1), SCHEMA, 4).overlaps == ((3, 3),)


def test_late_rows_are_noted_where_they_came():
    buffer = TableBuffer.empty(SCHEMA).append(batch_of(0, 100), SCHEMA, 1)
    steps = [buffer]
    for time in range(90, 10, -1):
        steps.append(steps[-1].append(batch_of(time, 1), SCHEMA, 2))
        assert steps[-1].overlaps_since(steps[-1].num_rows - 1) == ((time, time),)
    last = steps[-1]
    assert last.overlaps == last.overlaps_since(0)
    assert last.overlaps_since(last.num_rows) == ()
    assert last.overlaps_since(last.num_rows - 1) == ((11, 11),)
    for step in steps[1:]:
        late = step.num_rows - 1
        time = numbers(step.batches)[-1]
        assert any(low <= time <= high for low, high in last.overlaps_since(late))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab"), st.booleans()), max_size=60), st.integers(1, 9))
def test_however_late_somebody_looks_no_repetition_is_missed(rows, step):
    """Snapshots are asked in any order; a row outside of the ranges repeats none."""
    buffer = TableBuffer.empty(SCHEMA)
    snapshots = []
    for time, host, asked in rows:
        buffer = buffer.append(batch_of(time, 1, host=host), SCHEMA, 1)
        snapshots.append(buffer)
        if asked:
            assert buffer.overlaps == buffer.overlaps_since(0)
    for place in [*range(0, len(snapshots), step), *range(len(snapshots) - 1, -1, -1)]:
        snapshot = snapshots[place]
        seen = set()
        for row, (time, host, _) in enumerate(rows[: place + 1]):
            if (time, host) in seen:
                assert any(low <= time <= high for low, high in snapshot.overlaps_since(row))
            seen.add((time, host))


def test_large_batches_are_looked_at_in_pieces_and_small_ones_together(monkeypatch):
    monkeypatch.setattr("walmill.buffer.table.LOOK_ROWS", 100)
    buffer = TableBuffer.empty(SCHEMA)
    times = [*range(10, 260), 5, 6, *range(300, 330), 301, *range(400, 505)]
    for start, end in ((0, 250), (250, 251), (251, 252), (252, 282), (282, 283), (283, 388)):
        batch = batch_of(0, end - start)
        column = pa.array(times[start:end], pa.timestamp("ns"))
        buffer = buffer.append(batch.set_column(2, "time", column), SCHEMA, 1)
    assert buffer.overlaps == ((5, 5), (6, 6), (301, 301))
    assert buffer.log.looked == buffer.num_rows == len(times)


def test_a_looker_follows_when_there_is_much():
    looker = Looker()
    looker.start()
    buffer = TableBuffer.empty(SCHEMA).append(batch_of(0, PENDING_ROWS - 1), SCHEMA, 1)
    looker.grown([buffer])
    more = buffer.append(batch_of(0, 1), SCHEMA, 2)
    assert buffer.log.looked == 0
    looker.grown([more])
    looker.stop()
    assert more.log.looked == more.num_rows
    assert more.overlaps == ((0, 0),)


def test_a_column_that_comes_later_is_null_before():
    buffer = TableBuffer.empty(SCHEMA)
    wide = SCHEMA.with_columns(("rack",), {"x": "float64"})
    for row in range(40):
        more = {"rack": ["r"], "x": [2.5]} if row % 2 else {}
        buffer = buffer.append(batch_of(row, 1, **more), wide, row)
    found = []
    for batch in buffer.batches:
        names = batch.schema.names
        found += batch.column("x").to_pylist() if "x" in names else [None] * batch.num_rows
    assert found == [None, 2.5] * 20


def test_empty_batches_change_only_the_schema():
    buffer = TableBuffer.empty(SCHEMA)
    wide = SCHEMA.with_columns(("rack",), {})
    grown = buffer.append(batch_of(0, 0), wide, 1)
    assert (grown.num_rows, grown.schema, grown.name) == (0, wide, "cpu")
    assert buffer.append(batch_of(0, 0), SCHEMA, 1) is buffer


def test_rows_out_of_order_are_refused():
    buffer = TableBuffer.empty(SCHEMA).append(batch_of(0, 1), SCHEMA, 7)
    with pytest.raises(Internal, match="rows of commit 6 after those of commit 7"):
        buffer.append(batch_of(1, 1), SCHEMA, 6)
