"""Which rows are late: compared with a dict from tags to the newest time."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.buffer.series import SeriesTimes

# values that share parts: a wrong way to glue them together would make two series one
VALUE = st.sampled_from([None, "", "a", "b", "ab", "a\0", "é"])
ROWS = st.lists(st.tuples(VALUE, VALUE, VALUE, st.integers(-3, 12)), min_size=1, max_size=12)


def batch_of(rows, tags):
    columns = {tag: pa.array([row[place] for row in rows], pa.string()) for place, tag in enumerate(tags)}
    columns["v"] = pa.array([1.0] * len(rows))
    columns["time"] = pa.array([row[3] for row in rows], pa.timestamp("ns"))
    return pa.record_batch(columns)


@given(st.lists(st.tuples(ROWS, st.integers(0, 3)), min_size=1, max_size=6))
def test_late_rows_are_covered_and_others_only_where_ranges_say(batches):
    series = SeriesTimes()
    newest = {}
    count = 0
    for rows, tags in batches:
        count = max(count, tags)  # the schema only grows
        names = tuple("xyz"[:count])
        ranges = series.add(batch_of(rows, "xyz"[:tags]), names)
        late = set()
        for row in rows:
            key = frozenset((tag, row[place]) for place, tag in enumerate("xyz"[:tags]) if row[place] is not None)
            if key in newest and row[3] <= newest[key]:
                late.add(row[3])
            newest[key] = max(row[3], newest.get(key, row[3]))
        # few times: each is a range of its own
        assert ranges == tuple((time, time) for time in sorted(late))
    assert len(series) == len(newest)


@pytest.mark.parametrize("rows", [1, 10])
def test_the_lowest_time_is_not_late_the_first_time(rows):
    series = SeriesTimes()
    batch = batch_of([(str(row), None, None, -(2**63)) for row in range(rows)], "xyz")
    assert series.add(batch, ("x", "y", "z")) == ()
    assert series.add(batch, ("x", "y", "z")) == ((-(2**63), -(2**63)),)


def test_many_tags_with_many_values_do_not_mix():
    rows = 3000
    tags = tuple(f"t{place}" for place in range(12))
    columns = {tag: pa.array([f"{tag}-{row}" for row in range(rows)]) for tag in tags}
    columns["time"] = pa.array([5] * rows, pa.timestamp("ns"))
    series = SeriesTimes()
    assert series.add(pa.record_batch(columns), tags) == ()
    assert len(series) == rows
    shifted = pa.record_batch({**columns, "t11": pa.array([f"t11-{row + 1}" for row in range(rows)])})
    assert series.add(shifted, tags) == ()
    assert len(series) == 2 * rows
    assert series.add(shifted.slice(7, 1), tags) == ((5, 5),)


def test_a_few_rows_and_many_rows_name_a_series_alike():
    series = SeriesTimes()
    many = [(f"h{row % 300}", None if row % 2 else "r", None, row) for row in range(900)]
    series.add(batch_of(many, "xyz"), ("x", "y", "z"))
    for row in many[-300:]:
        assert series.add(batch_of([row], "xyz"), ("x", "y", "z")) == ((row[3], row[3]),)


def test_the_lowest_time_of_a_new_series_is_not_late_beside_rows_that_are():
    series = SeriesTimes()
    lowest = -(2**63)
    rows = [("a", None, None, 5), ("a", None, None, 4), ("b", None, None, lowest), ("c", None, None, 1)]
    assert series.add(batch_of(rows, "xyz"), ("x", "y", "z")) == ((4, 4),)
