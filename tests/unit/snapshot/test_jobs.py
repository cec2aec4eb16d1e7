"""Snapshots, compactions, deletes and clean-up of a store, compared with a dict: alone, crossing each other, and failing."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pyarrow as pa
import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rpds import HashTrieMap

from walmill.buffer.ranges import inside
from walmill.buffer.table import TableBuffer
from walmill.errors import DataCorruption, Internal, Unavailable
from walmill.model.catalog import Catalog, create_database
from walmill.model.schema import TIME
from walmill.snapshot.compact import Bounds, Join, may_join
from walmill.snapshot.head import Head, Superseded
from walmill.snapshot.jobs import Brake, JoinPlanner, compact, cut, expire, remove_rows, sweep, write_snapshot
from walmill.snapshot.manifest import load
from walmill.snapshot.names import DAY
from walmill.snapshot.pace import Pace
from walmill.snapshot.retention import plan_retention
from walmill.snapshot.rows import Identities, read_rows
from walmill.snapshot.sweep import damaged_files
from walmill.store.view import View

TABLE = 2
COLUMNS = {"a": pa.string(), "b": pa.string(), "i": pa.int64(), "s": pa.string()}
TAGS = ("a", "b")
EAGER = Bounds(rows=1000, bytes=2**20, files=2, growth=10**6)


def row(a, time, b=None, i=None, s=None):
    return {"a": a, "b": b, "i": i, "s": s, TIME: time}


def rows_of(store, file):
    """Identity and values of the rows of a file."""
    for batch in read_rows(store, file):
        place = batch.schema.get_field_index(TIME)
        for one in batch.set_column(place, TIME, batch.column(place).cast(pa.int64())).to_pylist():
            values = {name: one[name] for name in ("i", "s") if one.get(name) is not None}
            yield (one.get("a"), one.get("b"), one[TIME]), values


class World:
    """A table that is written to, its store, and a dict of what it must hold.

    Attributes:
        model: What was written, by identity; `durable` is the part of it that a manifest must hold.
    """

    def __init__(self, store):
        catalog = Catalog()
        catalog = catalog.apply(create_database(catalog, "d", 0))
        definition = {"op": "create_table", "id": TABLE, "db": 1, "name": "t", "tags": ["a"], "fields": {"i": "int64"}}
        self.view = View(catalog=catalog.apply(definition))
        self.model = {}
        self.durable = {}
        self.store = store
        self.planner = JoinPlanner(EAGER)
        self.restart()

    def restart(self):
        self.head = Head(self.store, load(self.store), epoch=1, now=lambda: 5)

    def write(self, rows):
        """One commit; columns come into being when a row has a value for them."""
        for one in rows:
            kept = self.model.setdefault((one["a"], one["b"], one[TIME]), {})
            kept.update({name: one[name] for name in ("i", "s") if one[name] is not None})
        used = {name for name in COLUMNS if any(one[name] is not None for one in rows)}
        schema = self.view.catalog.tables[TABLE].schema
        tags = [name for name in TAGS if name in used and name not in schema.tags]
        fields = {name: kind for name, kind in (("i", "int64"), ("s", "string")) if name in used - {*schema.fields}}
        catalog = self.view.catalog.apply({"op": "add_columns", "id": TABLE, "tags": tags, "fields": fields})
        schema = catalog.tables[TABLE].schema
        batch = pa.record_batch(
            {
                **{name: pa.array([one[name] for one in rows], COLUMNS[name]) for name in sorted(used)},
                TIME: pa.array([one[TIME] for one in rows], pa.timestamp("ns")),
            }
        )
        sequence = self.view.sequence + 1
        buffer = (self.view.tables.get(TABLE) or TableBuffer.empty(schema)).append(batch, schema, sequence)
        self.view = evolve(self.view, sequence=sequence, catalog=catalog, tables=self.view.tables.insert(TABLE, buffer))

    def snapshot(self):
        """A snapshot of what is in memory, unless an earlier one proves to be there; that is none of the caller's business."""
        if self.head.current.view.sequence < self.view.sequence:
            write_snapshot(self.head, self.view)
        assert self.head.current.view.sequence == self.view.sequence
        self.view = evolve(self.view, tables=HashTrieMap())
        self.durable = {key: dict(values) for key, values in self.model.items()}

    def files(self):
        return self.head.current.files.get(TABLE, ())

    def compact(self):
        for table, join in self.planner.plan(self.head.current):
            compact(self.head, table, join)

    def delete(self, keys):
        columns = {name: pa.array([key[place] for key in keys], pa.string()) for place, name in enumerate(TAGS)}
        times = pa.array([key[2] for key in keys], pa.timestamp("ns"))
        chosen = Identities(pa.table({**columns, TIME: times}), self.view.catalog.tables[TABLE].schema.tags)
        change = remove_rows(self.head, TABLE, self.files(), chosen)
        for key in keys:
            self.model.pop(key, None)
            self.durable.pop(key, None)
        return change

    def content(self):
        """What a reader sees that goes by the sequences of the files of the newest manifest in the store."""
        found = {}
        store = self.store.quiet()
        for file in load(store).files.get(TABLE, ()):
            for key, values in rows_of(store, file):
                found.setdefault(key, {}).update(values)
        return found

    def named(self):
        """Paths of everything that the newest manifest needs."""
        current = self.head.current
        parts = {part.path for parts in current.manifest.parts.values() for part in parts}
        return {current.manifest.path, *parts, *(file.path for file in self.files())}

    def settle(self):
        """One more snapshot, and then clean-up: nothing is in progress."""
        self.view = evolve(self.view, sequence=self.view.sequence + 1)
        self.snapshot()
        gc.collect()  # whoever failed may hold an old manifest
        sweep(self.head)


TIMES = st.integers(0, 4) | st.integers(20, 40).map(lambda day: day * DAY)
ROWS = st.lists(
    st.builds(
        row,
        st.sampled_from([None, "x", "y"]),
        TIMES,
        st.sampled_from([None, None, "p"]),
        st.none() | st.integers(0, 9),
        st.none() | st.sampled_from(["", "q"]),
    ),
    min_size=1,
    max_size=5,
)


def machine(new_faulty):
    class Jobs(RuleBasedStateMachine):
        """Whatever is done in whatever order, a reader sees the rows of the dict."""

        @initialize()
        def begin(self):
            self.world = World(new_faulty())
            self.held = []

        @rule(rows=ROWS)
        def write(self, rows):
            self.world.write(rows)

        @rule()
        def snapshot(self):
            self.world.snapshot()

        @rule(data=st.data(), rows=st.integers(2, 30))
        def join(self, data, rows):
            planner = JoinPlanner(evolve(EAGER, rows=rows))
            joins = planner.plan(self.world.head.current)
            for table, join in data.draw(st.permutations(joins)) if joins else ():
                if data.draw(st.booleans()):
                    assert compact(self.world.head, table, join, bounds=Bounds(rows=3)) is not None

        @rule(data=st.data())
        def delete(self, data):
            keys = sorted(self.world.durable, key=repr)
            if keys and not self.world.view.tables:
                chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True))
                before = sum(file.rows for file in self.world.files())
                change = self.world.delete(chosen)
                assert change.rows == before - sum(file.rows for file in self.world.files()) >= len(chosen)

        @rule()
        def hold(self):
            self.held.append(self.world.head.current)

        @rule()
        def clean_up(self):
            sweep(self.world.head)
            for loaded in self.held:
                assert not list(damaged_files(self.world.store, loaded.files))
            del self.held[:]

        @rule()
        def restart(self):
            del self.held[:]
            self.world.restart()

        @invariant()
        def rows_are_right(self):
            if not hasattr(self, "world"):
                return
            world = self.world
            assert world.content() == world.durable
            files = load(world.store).files.get(TABLE, ())
            assert files == world.files()
            older = set()
            for place, file in enumerate(files):
                assert may_join([file], [other for other in files if other is not file])
                own = [key for key, _ in rows_of(world.store, file)]
                times = np.array([key[2] for key in own if key in older], np.int64)
                assert inside(times, file.late).all()
                # files of one snapshot have no times in common, so that each counts for the others changes nothing
                older.update(own)
                assert place == 0 or files[place - 1].last_sequence <= file.last_sequence

        def teardown(self):
            del self.held[:]
            self.world.settle()
            assert set(self.world.store.objects) == self.world.named()

    return Jobs


def test_a_reader_sees_the_dict_whatever_is_done(new_faulty):
    jobs = machine(new_faulty).TestCase
    jobs.settings = settings(max_examples=25, stateful_step_count=14)
    jobs().runTest()


KEPT = 12  # days
STEPS = {
    "first snapshot": lambda world: world.snapshot(),
    "second snapshot": lambda world: world.snapshot(),
    "compaction": lambda world: world.compact(),
    "delete": lambda world: world.delete([("x", None, 33 * DAY), ("y", "p", 34 * DAY)]),
    "third snapshot": lambda world: world.snapshot(),
    "expiry": lambda world: expire(world.head, {TABLE: KEPT * DAY}, 42 * DAY),
    "cut": lambda world: cut(world.head, TABLE, plan_retention(world.files(), KEPT * DAY, 42 * DAY), least=1),
    "clean-up": lambda world: sweep(world.head),
}
BEFORE = {
    "first snapshot": [row("x", day * DAY, i=day) for day in (3, 20, 33, 34)],
    "second snapshot": [row("x", 33 * DAY, s="again"), row("y", 34 * DAY, b="p", i=1), row("x", 35 * DAY, i=2)],
    "third snapshot": [
        row("x", 29 * DAY, i=3),
        row("x", 30 * DAY, i=3),
        row("x", 33 * DAY, i=4),
        row(None, 40 * DAY, s=""),
    ],
}


def seen(content):
    """The rows that are not expired."""
    return {key: values for key, values in content.items() if key[2] >= (42 - KEPT) * DAY}


def run(world, broken, place, applied, restarts):
    """Runs all steps; at the failure the store has the rows of before or after, and the step is done once more.

    Says whether there was one: at that operation of the step that is to be broken.
    """
    world.store.applied = applied
    failed = False
    for name, step in STEPS.items():
        if name in BEFORE:
            world.write(BEFORE[name])
        before = seen(world.durable)
        if name == broken:  # counted from here: threads of the steps before may have done more or less
            world.store.operations, world.store.break_at = 0, place
        try:
            step(world)
        except Unavailable:
            failed = True
            world.store.break_at = None
            found = seen(world.content())
            if restarts:
                world.restart()
            step(world)
            assert found in (before, seen(world.durable))
        world.store.break_at = None
        if failed:
            assert seen(world.content()) == seen(world.durable)
    assert not list(damaged_files(world.store, world.head.current.files))
    # one that failed may have been the last to look: what is left over goes with the next
    world.settle()
    assert set(world.store.objects) == world.named()
    assert seen(world.content()) == seen(world.durable)
    assert min(file.min_time for file in world.files()) >= (42 - KEPT) * DAY
    return failed


@pytest.mark.parametrize(
    ("applied", "restarts"),
    [
        (False, True),
        (True, False),
        pytest.param(False, False, marks=pytest.mark.long),
        pytest.param(True, True, marks=pytest.mark.long),
    ],
)
def test_a_failure_at_any_operation_leaves_all_or_nothing(new_faulty, applied, restarts):
    for name in STEPS:
        place = 0
        while run(World(new_faulty()), name, place, applied, restarts):
            place += 1
        assert place, name  # each step had its turn


def test_a_commit_whose_answer_comes_late_counts(new_faulty):
    store = new_faulty()
    world = World(store)
    world.write([row("x", 1, i=1)])
    world.snapshot()
    world.write([row("x", 1, i=2)])
    sent = {}

    def lose(path, data):
        """The store takes the root, says nothing, and shows it later."""
        sent[path] = data
        raise Unavailable("the store did not answer")

    whole = store.put_new
    store.put_new = lose
    with pytest.raises(Unavailable):
        write_snapshot(world.head, world.view)
    store.put_new = whole
    store.objects.update(sent)
    frozen = world.view
    world.write([row("x", 1, i=3)])
    assert write_snapshot(world.head, world.view) is None  # or the first rows would come twice
    assert world.head.current.view.sequence == frozen.sequence
    schema = world.view.catalog.tables[TABLE].schema
    rest = TableBuffer.empty(schema).append(world.view.tables[TABLE].batches_since(1)[0], schema, 3)
    change = write_snapshot(world.head, world.view, {TABLE: rest})
    assert [(file.first_sequence, file.last_sequence) for file in change.current.files[TABLE]] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    assert world.content() == world.model
    world.restart()
    assert world.head.current.view.sequence == 3


def test_a_view_from_before_a_snapshot_whose_answer_came_late_is_not_stored_again(new_faulty):
    """Another job's commit may find out that it counts, right before the next snapshot begins with an older view."""
    store = new_faulty()
    world = World(store)
    world.write([row("x", 1, i=1)])
    sent = {}

    def lose(path, data):
        sent[path] = data
        raise Unavailable("the store did not answer")

    whole, before = store.put_new, world.head.current
    store.put_new = lose
    with pytest.raises(Unavailable):
        write_snapshot(world.head, world.view)
    store.put_new = whole
    store.objects.update(sent)
    world.write([row("x", 2, i=2)])
    world.head.claim()
    assert world.head.current.view.sequence == 1
    assert write_snapshot(world.head, evolve(world.view, held=before)) is None
    assert [file.rows for file in world.files()] == [1]


def test_a_process_that_was_taken_over_changes_nothing(new_faulty):
    store = new_faulty()
    old = World(store)
    for number in (1, 2, 3):
        old.write([row("x", 5, i=number)])
        old.snapshot()
    ((table, join),) = old.planner.plan(old.head.current)
    new = World(store)
    new.view, new.model = old.view, dict(old.model)
    new.head.claim()
    with pytest.raises(Superseded, match=r"another process \(epoch 1, this one has 1\): it has taken the store over"):
        compact(old.head, table, join)
    old.write([row("x", 6, i=4)])
    with pytest.raises(Superseded):
        old.snapshot()
    new.compact()
    new.write([row("y", 6, i=4)])
    new.snapshot()
    sweep(old.head)  # knows nothing of what the other one wrote, and leaves it
    assert not list(damaged_files(store, new.head.current.files))
    assert new.content() == new.model
    new.settle()
    assert set(store.objects) == new.named()  # and nothing of what the old one wrote is left


def test_a_snapshot_of_what_is_older_is_refused(new_faulty):
    world = World(new_faulty())
    old = world.view
    world.write([row("x", 1)])
    world.snapshot()
    with pytest.raises(Internal, match="of sequence 0 was asked for, and the newest one has 1"):
        write_snapshot(world.head, old)


def test_a_snapshot_reports_its_files_and_remembers_the_newest_time(new_faulty):
    world = World(new_faulty())
    world.write([row("x", 5, i=1), row("x", 40 * DAY, i=1)])
    change = write_snapshot(world.head, world.view)
    assert [file.max_time for file in change.new] == [5, 40 * DAY]
    assert change.current.newest == {TABLE: 40 * DAY}
    assert change.current is world.head.current
    assert not change.current.view.tables  # the rows are let go
    world.view = evolve(world.view, tables=HashTrieMap())
    expire(world.head, {TABLE: 1}, 100 * DAY)
    assert world.head.current.newest == {TABLE: 40 * DAY}
    assert world.files() == ()
    assert expire(world.head, {TABLE: 1}, 100 * DAY) is None


def test_files_of_a_dropped_table_go_with_the_next_snapshot(new_faulty):
    world = World(new_faulty())
    world.write([row("x", 5, i=1)])
    world.snapshot()
    (file,) = world.files()
    catalog = world.view.catalog.apply({"op": "drop_database", "id": 1})
    world.view = evolve(world.view, sequence=2, catalog=catalog)
    change = write_snapshot(world.head, world.view)
    assert change.gone == (file,)
    assert (change.current.files, change.current.newest) == ({}, {})
    del change
    world.settle()
    assert file.path not in world.store.objects


def three(new_faulty):
    """A table with three files of the same identity."""
    world = World(new_faulty())
    for number in (1, 2, 3):
        world.write([row("x", 5, i=number)])
        world.snapshot()
    return world


def test_a_snapshot_and_a_clean_up_in_the_midst_of_a_join_change_nothing_about_it(new_faulty):
    world = World(new_faulty())
    for number in (1, 2, 3):
        world.write([row("x", 5, i=number), row("x", DAY, i=number)])
        world.snapshot()
    ((table, join),) = world.planner.plan(world.head.current)

    def meanwhile():
        world.write([row("x", 5, s="new"), row("y", 6)])
        world.snapshot()
        world.write([row("z", 7)])
        world.snapshot()
        sweep(world.head)

    # the first file of the join is there, under an older number than the manifests that come now, and named by none
    world.store.before_puts = [lambda: None, meanwhile]
    change = compact(world.head, table, join, bounds=Bounds(rows=1))
    assert (change.gone, len(change.new)) == (join.files, 2)
    assert [(file.first_sequence, file.last_sequence) for file in world.files()] == [(1, 3), (1, 3), (4, 4), (5, 5)]
    assert world.content() == world.model
    world.settle()
    assert world.content() == world.model


@pytest.mark.parametrize("faster", ["compaction", "delete", "expiry"])
def test_a_join_whose_files_went_meanwhile_does_nothing(new_faulty, faster):
    world = three(new_faulty)
    ((table, join),) = world.planner.plan(world.head.current)
    jobs = {
        "compaction": lambda: compact(world.head, table, join),
        "delete": lambda: world.delete([("x", None, 5)]),
        "expiry": lambda: expire(world.head, {TABLE: 1}, 100 * DAY),
    }
    world.store.before_puts = [jobs[faster]]
    assert compact(world.head, table, join) is None
    assert compact(world.head, table, join) is None
    assert world.content() == (world.model if faster == "compaction" else {})
    world.settle()
    assert set(world.store.objects) == world.named()


def test_a_delete_whose_files_went_meanwhile_does_nothing(new_faulty):
    world = three(new_faulty)
    world.write([row("x", 5, i=9), row("y", 5, i=9)])
    world.snapshot()
    nothing = remove_rows(world.head, TABLE, world.files(), lambda batch: np.zeros(batch.num_rows, bool))
    assert (nothing.gone, nothing.rows, nothing.current) == ((), 0, world.head.current)
    ((table, join),) = world.planner.plan(world.head.current)
    before = dict(world.model)
    world.store.before_puts = [lambda: compact(world.head, table, join)]
    assert world.delete([("x", None, 5)]) is None
    assert world.content() == before


def test_joins_of_two_plans_do_not_cross(new_faulty):
    world = World(new_faulty())
    for a, times in (("x", [12]), ("y", [0, 9]), ("y", [20, 29]), ("x", [15])):
        world.write([row(a, time, i=1) for time in times])
        world.snapshot()
    one, two, three, four = world.files()
    inner, outer = Join((two, three), "small"), Join((one, four), "small")
    assert may_join(outer.files, [two, three])  # right alone
    world.store.before_puts = [lambda: compact(world.head, TABLE, inner)]
    assert compact(world.head, TABLE, outer) is None
    assert [(file.first_sequence, file.last_sequence) for file in world.files()] == [(1, 1), (2, 3), (4, 4)]


def test_a_join_keeps_to_its_pace_and_ends_when_it_is_told(new_faulty):
    world = three(new_faulty)
    ((table, join),) = world.planner.plan(world.head.current)
    before = dict(world.store.objects)
    stop = threading.Event()
    stop.set()
    assert compact(world.head, table, join, Brake(stop=stop)) is None
    # 1 byte a second: the wait for the second file would take as long as the first has bytes, and is broken off
    stop = threading.Event()
    brake = Brake(Pace(1, burst=join.files[0].bytes), stop, clock=lambda: 0)
    threading.Timer(0.05, stop.set).start()
    assert compact(world.head, table, join, brake) is None
    assert world.store.objects == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: None, "is missing"),
        (lambda data: data[:-1], "bytes and must have"),
        (lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:], "checksum does not fit"),
    ],
)
def test_a_join_of_a_damaged_file_names_it_and_changes_nothing(new_faulty, damage, message):
    world = three(new_faulty)
    ((table, join),) = world.planner.plan(world.head.current)
    path = join.files[1].path
    data = damage(world.store.objects.pop(path))
    if data is not None:
        world.store.objects[path] = data
    before = set(world.store.objects)
    with pytest.raises(DataCorruption, match=f"the data file {path} .*{message}.*restore it from a backup"):
        compact(world.head, table, join)
    assert set(world.store.objects) == before


def test_a_manifest_stays_as_long_as_somebody_holds_what_it_says(new_faulty):
    world = three(new_faulty)
    reader = world.head.current
    world.compact()
    world.settle()
    assert len(world.files()) == 1
    assert not list(damaged_files(world.store, reader.files))
    old = {file.path for file in reader.files[TABLE]}
    del reader
    world.settle()
    assert not old & set(world.store.objects)


def test_the_planner_looks_again_where_files_have_changed(new_faulty):
    world = three(new_faulty)
    planner = JoinPlanner(EAGER)
    first, again = planner.plan(world.head.current), planner.plan(world.head.current)
    assert first[0][1] is again[0][1]
    world.compact()
    assert planner.plan(world.head.current) == []
