"""Compaction, compared with a dict: whatever is joined, the rows stay the same."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.buffer.ranges import cover_times, inside
from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema
from walmill.snapshot.build import Rows, build_files
from walmill.snapshot.compact import Bounds, join_files, may_join, plan_joins
from walmill.snapshot.names import DAY, Attempt, Place, month_of_path

PLACE = Place("db", 1, "t", 2)
SCHEMA = TableSchema("t", ("a",), {"i": "int64", "s": "string"})
ROW = st.tuples(
    st.sampled_from([None, "x", "y"]),
    st.integers(24, 36).map(lambda day: day * DAY) | st.integers(0, 3).map(lambda day: 31 * DAY + day),
    st.none() | st.integers(0, 5),
    st.none() | st.sampled_from(["p", "q"]),
)


class Tree:
    """The files of a table with their bytes, and a dict of what was written."""

    def __init__(self) -> None:
        self.model: dict[tuple[str | None, int], dict[str, object]] = {}
        self.files: list[DataFile] = []
        self.data: dict[str, pa.Buffer] = {}
        self.sequence = 0
        self.attempts = 0

    def add(self, new, gone: Iterable[DataFile] = ()) -> None:
        removed = set(gone)
        self.files = [file for file in self.files if file not in removed]
        for one in new:
            assert one.file.path not in self.data
            self.data[one.file.path] = one.data
            self.files.append(one.file)
        self.files.sort(key=lambda file: (file.last_sequence, file.min_time))

    def attempt(self) -> Attempt:
        self.attempts += 1
        return Attempt(self.attempts, "00")

    def snapshot(self, rows, limit: int = 3) -> None:
        """Writes rows and makes files of them, with the narrowest ranges of repeated times that there are."""
        repeated = []
        for a, time, number, text in rows:
            if (a, time) in self.model:
                repeated.append(time)
            kept = self.model.setdefault((a, time), {})
            kept.update({name: value for name, value in (("i", number), ("s", text)) if value is not None})
        batch = pa.record_batch(
            {
                "a": pa.array([row[0] for row in rows], pa.string()),
                TIME: pa.array([row[1] for row in rows], pa.timestamp("ns")),
                "i": pa.array([row[2] for row in rows], pa.int64()),
                "s": pa.array([row[3] for row in rows], pa.string()),
            }
        )
        first = self.sequence + 1
        self.sequence += 3
        made = Rows(PLACE, SCHEMA, [batch], first, self.sequence, cover_times(np.array(repeated, np.int64)))
        self.add(list(build_files(made, self.files, self.attempt(), rows_per_file=limit)))

    def read(self, file: DataFile) -> list[pa.RecordBatch]:
        return pq.read_table(pa.BufferReader(self.data[file.path])).to_batches()

    def join(self, files: Iterable[DataFile], limit: int = 5) -> None:
        chosen = tuple(files)
        staying = [file for file in self.files if file not in chosen]
        self.add(
            list(join_files(chosen, staying, self.read, PLACE, SCHEMA, self.attempt(), rows_per_file=limit)), chosen
        )

    def rows(self, file: DataFile):
        for row in (
            pa.Table.from_batches(self.read(file))
            .set_column(3, TIME, pa.Table.from_batches(self.read(file)).column(TIME).cast(pa.int64()))
            .to_pylist()
        ):
            yield (row["a"], row[TIME]), {name: row[name] for name in ("i", "s") if row[name] is not None}

    def content(self) -> dict[tuple[str | None, int], dict[str, object]]:
        """What a reader sees that goes by the sequences of files only."""
        found: dict[tuple[str | None, int], dict[str, object]] = {}
        for file in self.files:
            for key, values in self.rows(file):
                found.setdefault(key, {}).update(values)
        return found

    def check(self) -> None:
        """The content is the model's; and where a file says that it repeats nothing, it repeats nothing."""
        assert self.content() == self.model
        for place, file in enumerate(self.files):
            assert may_join([file], [other for other in self.files if other is not file])
            older = {key for other in self.files[:place] for key, _ in self.rows(other)}
            times = np.array([key[1] for key, _ in self.rows(file) if key in older], np.int64)
            assert inside(times, file.late).all()


def small(rows: int, files: int, growth: int) -> Bounds:
    return Bounds(rows=rows, bytes=10**9, files=files, growth=growth)


STEPS = st.lists(
    st.lists(ROW, min_size=1, max_size=6) | st.builds(small, st.integers(2, 40), st.integers(2, 4), st.integers(1, 9)),
    min_size=2,
    max_size=9,
)


@settings(max_examples=80)
@given(STEPS, st.data())
def test_rows_stay_the_same_through_any_compactions(steps, data):
    tree = Tree()
    for step in steps:
        if not isinstance(step, Bounds):
            tree.snapshot(step)
            continue
        before = len(tree.files)
        joins = plan_joins(tree.files, step)
        chosen = [file for join in joins for file in join.files]
        assert len(chosen) == len(set(chosen))
        for join in data.draw(st.permutations(joins)) if joins else ():
            if data.draw(st.booleans()):
                assert len({month_of_path(file.path) for file in join.files}) == 1
                tree.join(join.files)  # refuses what has a file between
        assert len(tree.files) <= before or any(join.cause == "overlapping" for join in joins)
        tree.check()
    tree.check()


@settings(max_examples=40)
@given(st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=2, max_size=12))
def test_compaction_comes_to_an_end(steps):
    tree = Tree()
    for step in steps:
        tree.snapshot(step)
    bounds = small(1000, 2, 8)
    for _ in range(10):
        joins = plan_joins(tree.files, bounds)
        if not joins:
            break
        for join in joins:
            tree.join(join.files, bounds.rows)
    else:
        pytest.fail("there is always something to join")
    tree.check()


def three() -> Tree:
    """Three files with one row each, all of them the same identity."""
    tree = Tree()
    for number in (1, 2, 3):
        tree.snapshot([("x", 24 * DAY, number if number < 3 else None, "p" if number == 3 else None)])
    tree.check()
    return tree


def test_joining_what_has_a_file_between_would_change_rows():
    tree = three()
    first, between, last = tree.files
    assert not may_join([first, last], [between])
    with pytest.raises(ValueError, match="lies between"):
        tree.join([first, last])
    # on purpose, past the check: the old value 1 counts as newer than 2
    made = list(join_files([first, last], [], tree.read, PLACE, SCHEMA, tree.attempt()))
    tree.add(made, [first, last])
    assert tree.content() != tree.model


def test_the_planner_leaves_it_when_the_file_between_is_too_large():
    tree = three()
    first, between, last = tree.files
    bounds = Bounds(rows=10, bytes=10 * first.bytes, files=2)
    assert [join.files for join in plan_joins(tree.files, bounds)] == [(first, between, last)]
    assert plan_joins([first, evolve(between, bytes=100 * first.bytes), last], bounds) == []


def file(first: int, last: int, low: int, high: int, size: int = 100, late=(), month: str = "2026-11") -> DataFile:
    path = f"tables/d-1/t-2/month={month}/{last}-{low}"
    return DataFile(path, 2, size, size, low, high, first, last, 0, tuple(late))


IN_ORDER = [file(n, n, n * 10, n * 10 + 9) for n in range(1, 9)]
DAYS = [file(1, 1, 0, 9), file(1, 1, 10, 19), file(2, 2, 0, 9), file(2, 2, 10, 19)]
PLANS = {
    "nothing": ([], Bounds(), []),
    "one file": (IN_ORDER[:1], Bounds(), []),
    "too few": (IN_ORDER[:3], Bounds(), []),
    "small files": (IN_ORDER[:5], Bounds(), [([1, 2, 3, 4, 5], "small")]),
    "rows are bounded": (IN_ORDER, Bounds(rows=450), [([1, 2, 3, 4], "small"), ([5, 6, 7, 8], "small")]),
    "bytes are bounded": (IN_ORDER, Bounds(bytes=450), [([1, 2, 3, 4], "small"), ([5, 6, 7, 8], "small")]),
    "a large one waits for more": ([file(0, 0, 0, 9, 1000), *IN_ORDER[:3]], Bounds(), []),
    "a large one is not written again for some small ones": (
        [file(0, 0, 0, 9, 1000), *IN_ORDER[:4]],
        Bounds(),
        [([1, 2, 3, 4], "small")],
    ),
    "months stay apart": (
        [*IN_ORDER[:3], *(file(n, n, n * 10, n * 10 + 9, month="2026-12") for n in range(11, 14))],
        Bounds(),
        [],
    ),
    "two that overlap": (
        [file(1, 1, 0, 9, 700), file(2, 2, 5, 20, 100, [(5, 9)])],
        Bounds(),
        [([1, 2], "overlapping")],
    ),
    "one that is much larger waits for more": ([file(1, 1, 0, 9, 900), file(2, 2, 5, 20, 100, [(5, 9)])], Bounds(), []),
    "times in common and no rows": ([file(1, 1, 0, 9), file(2, 2, 5, 20)], Bounds(), []),
    "overlapping ones may come to twice the bound": (
        [file(1, 1, 0, 9, 400), file(2, 2, 5, 20, 400, [(5, 9)])],
        Bounds(bytes=450),
        [([1, 2], "overlapping")],
    ),
    "the pieces of two snapshots": (DAYS, Bounds(), [([1, 1, 2, 2], "small")]),
    # the first piece of both may be joined, since the file between them in sequence has other times
    "one piece is too large": (
        [DAYS[0], evolve(DAYS[1], bytes=10**9), evolve(DAYS[2], late=((0, 9),)), evolve(DAYS[3], bytes=10**9)],
        Bounds(),
        [([1, 2], "overlapping")],
    ),
    "the smallest first": (
        [*IN_ORDER[:4], *(file(n, n, n, n, 10, month="2026-12") for n in range(11, 15))],
        Bounds(),
        [([11, 12, 13, 14], "small"), ([1, 2, 3, 4], "small")],
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_plans(name):
    files, bounds, expected = PLANS[name]
    joins = plan_joins(files, bounds)
    assert [([one.last_sequence for one in join.files], join.cause) for join in joins] == expected


@pytest.mark.parametrize(
    ("fields", "rows"),
    [({"i": "int64"}, 500), ({"i": "int64", "s": "string"}, 384), (dict.fromkeys("bcdefghijk", "string"), 64)],
)
def test_a_wide_table_is_joined_in_smaller_pieces(fields, rows):
    schema = TableSchema("t", ("a",), fields)
    assert Bounds(rows=500, values=2_688).of(schema).rows == rows


def test_two_plans_do_not_cross():
    # each of two joins is right alone; together neither would be older than the other
    files = [file(1, 1, 0, 9), file(2, 2, 5, 30), file(3, 3, 10, 19), file(4, 4, 21, 40)]
    for one in plan_joins(files, Bounds(files=2, bytes=250)):
        others = [each for each in files if each not in one.files]
        assert may_join(one.files, others)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 8), st.integers(1, 50), st.booleans()), min_size=2, max_size=14
    ),
    st.integers(50, 400),
    st.integers(2, 4),
)
def test_no_plan_crosses_what_stays_or_another_plan(shapes, size, least):
    files = [
        file(number, number, low, low + span, weight, [(low, low + span)] if late else [])
        for number, (low, span, weight, late) in enumerate(shapes, 1)
    ]
    joins = plan_joins(files, Bounds(bytes=size, files=least))
    done = list(files)
    for number, join in enumerate(joins):
        others = [each for each in done if each not in join.files]
        assert may_join(join.files, others)
        low, high = min(each.min_time for each in join.files), max(each.max_time for each in join.files)
        first, last = join.files[0].first_sequence, join.files[-1].last_sequence
        done = [*others, evolve(file(first, last, low, high), path=f"joined{number}")]
