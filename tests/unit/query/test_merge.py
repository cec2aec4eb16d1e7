"""What a query sees of a table, compared with a dict from identity to values."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.buffer.merge import advance, merge_rows
from walmill.buffer.source import TableSource
from walmill.buffer.table import BIG, TableBuffer
from walmill.model.schema import TableSchema
from walmill.query.engine import QueryEngine

TAGS = ("a", "b")
FIELDS = {"i": "int64", "u": "uint64", "f": "float64", "s": "string", "o": "bool"}
ARROW = {"int64": pa.int64(), "uint64": pa.uint64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
VALUES = {
    "i": st.integers(-2, 2),
    "u": st.integers(0, 2**64 - 1),
    "f": st.sampled_from([0.0, 1.5, -2.25]),
    "s": st.sampled_from(["", "x", "é"]),
    "o": st.booleans(),
}


@st.composite
def batches(draw):
    """A list of rows of one batch, and the columns that it has."""
    tags = draw(st.sets(st.sampled_from(TAGS)))
    fields = draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1))
    row = st.fixed_dictionaries(
        {
            **{tag: st.sampled_from([None, "x", "y"]) for tag in tags},
            **{name: st.none() | VALUES[name] for name in fields},
            "time": st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1),
        }
    )
    return sorted(tags), sorted(fields), draw(st.lists(row, min_size=1, max_size=8))


def record_batch(tags, fields, rows):
    types = {**dict.fromkeys(tags, pa.string()), **{name: ARROW[FIELDS[name]] for name in fields}}
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    return pa.record_batch({**columns, "time": pa.array([row["time"] for row in rows], pa.timestamp("ns"))})


def save(model, rows):
    for row in rows:
        kept = model.setdefault((row.get("a"), row.get("b"), row["time"]), {})
        kept.update({name: value for name, value in row.items() if name in FIELDS and value is not None})


def as_rows(schema, model):
    names = [*schema.tags, *schema.fields, "time"]
    return sorted(
        (
            tuple({"a": a, "b": b, "time": time, **values}.get(name) for name in names)
            for (a, b, time), values in model.items()
        ),
        key=repr,
    )


def seen(table):
    """The rows of a result, with times as integers."""
    return sorted((tuple(row.values()) for row in as_integers(table).to_pylist()), key=repr)


def as_integers(table):
    place = table.schema.get_field_index("time")
    return table if place < 0 else table.set_column(place, "time", table.column(place).cast(pa.int64()))


@pytest.fixture(scope="module")
def engine():
    engine = QueryEngine(short=False)
    engine.query({}, "SELECT * FROM generate_series(1, 1)")  # starts its thread here, not in the first test
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def short():
    """One that reads few rows of files by itself."""
    engine = QueryEngine()
    engine.query({}, "SELECT * FROM generate_series(1, 1)")
    yield engine
    engine.close()


@settings(max_examples=100)
@given(st.lists(st.tuples(batches(), st.booleans()), min_size=1, max_size=9))
def test_select_equals_the_model(engine, steps):
    schema = TableSchema("t")
    buffer = TableBuffer.empty(schema)
    model, unique, old = {}, None, []
    for sequence, ((tags, fields, rows), look) in enumerate(steps, 1):
        schema = schema.with_columns(tuple(tags), {name: FIELDS[name] for name in fields})
        buffer = buffer.append(record_batch(tags, fields, rows), schema, sequence)
        save(model, rows)
        if look:
            unique = advance(unique, buffer)
            assert seen(pa.Table.from_batches(unique.batches())) == as_rows(schema, model)
            old.append((buffer, as_rows(schema, model)))
    assert seen(engine.query({"t": TableSource(buffer)}, "SELECT * FROM t")) == as_rows(schema, model)
    for snapshot, rows in old:  # an older view after a newer one
        assert seen(engine.query({"t": TableSource(snapshot)}, "SELECT * FROM t")) == rows


def within(low, high):
    return lambda row: low <= row["time"] <= high


def instant(time):
    return f"TIMESTAMP '1970-01-01T00:00:00.00000000{time}'"


# for each query the columns that it names, and what it gives for rows that are free of repetitions
QUERIES = {
    "SELECT * FROM t": (
        (),
        lambda rows: [tuple(row.values()) for row in rows],
    ),
    f"SELECT * FROM t WHERE time >= {instant(2)} AND time <= {instant(5)}": (
        (),
        lambda rows: [tuple(row.values()) for row in rows if within(2, 5)(row)],
    ),
    f"SELECT * FROM t WHERE a = 'x' AND (time = {instant(1)} OR time = {instant(7)})": (
        ("a",),
        lambda rows: [tuple(row.values()) for row in rows if row["a"] == "x" and row["time"] in (1, 7)],
    ),
    "SELECT count(*) FROM t": (
        (),
        lambda rows: [(len(rows),)],
    ),
    f"SELECT count(*), count(i), max(i), min(i) FROM t WHERE time > {instant(3)}": (
        ("i",),
        lambda rows: [counted([row["i"] for row in rows if row["time"] > 3])],
    ),
    "SELECT a, b, count(*) FROM t GROUP BY a, b": (
        ("a", "b"),
        lambda rows: [(*key, n) for key, n in Counter((row["a"], row["b"]) for row in rows).items()],
    ),
    "SELECT s, o, u FROM t WHERE i IS NULL AND b IS NULL": (
        ("s", "o", "u", "i", "b"),
        lambda rows: [(row["s"], row["o"], row["u"]) for row in rows if row["i"] is None and row["b"] is None],
    ),
    "SELECT f FROM t ORDER BY time DESC, a NULLS FIRST, b NULLS FIRST LIMIT 2": (
        ("f", "a", "b"),
        lambda rows: [(row["f"],) for row in sorted(rows, key=lambda r: (-r["time"], r["a"] or "", r["b"] or ""))[:2]],
    ),
    f"SELECT count(*) FROM t x JOIN t y ON x.time = y.time WHERE x.time <= {instant(4)} AND y.time >= {instant(1)}": (
        (),
        lambda rows: [(sum(x["time"] == y["time"] for x in rows for y in rows if within(1, 4)(x)),)],
    ),
    f"SELECT (SELECT count(*) FROM t WHERE time < {instant(2)}) AS c, (SELECT count(*) FROM t WHERE time > {instant(8)})": (
        (),
        lambda rows: [(sum(row["time"] < 2 for row in rows), sum(row["time"] > 8 for row in rows))],
    ),
}


def counted(values):
    known = [value for value in values if value is not None]
    return len(values), len(known), max(known, default=None), min(known, default=None)


@settings(max_examples=25)
@given(st.lists(st.tuples(batches(), st.sampled_from([0, 0, 1, 2])), min_size=1, max_size=7), st.booleans())
def test_rows_in_files_and_in_memory_equal_the_model(engine, short, store_type, steps, known):
    model = {}
    with TemporaryDirectory() as folder:
        store = store_type(Path(folder), TableSchema("t"))
        for (tags, fields, rows), pieces in steps:
            schema = store.schema.with_columns(tuple(tags), {name: FIELDS[name] for name in fields})
            store.write(record_batch(tags, fields, rows), schema)
            save(model, rows)
            if pieces:
                store.snapshot(pieces=pieces)
        if known:  # columns that no row has yet
            store.write(record_batch([], [], []), store.schema.with_columns(TAGS, FIELDS))
        names = store.schema.column_names()
        rows = [dict(zip(names, row, strict=True)) for row in as_rows(store.schema, model)]
        for sql, (columns, expected) in QUERIES.items():
            if set(columns) <= set(names):
                for one in (engine, short):
                    made = as_integers(one.query({"t": store.source()}, sql))
                    found = [tuple(row.values()) for row in made.to_pylist()]
                    assert Counter(found) == Counter(expected(rows)), sql


SCHEMA = TableSchema("t", ("a",), {"i": "int64", "f": "float64"})


def large(start, rows, value, hosts=50):
    return pa.record_batch(
        {
            "a": pa.array([f"h{row % hosts}" for row in range(rows)]),
            "i": pa.array([value] * rows),
            "time": pa.array([start + row // hosts for row in range(rows)], pa.timestamp("ns")),
        }
    )


def test_large_batches_are_rewritten_in_parts():
    buffer = TableBuffer.empty(SCHEMA)
    for number in range(6):
        buffer = buffer.append(large(number * 1000, 2 * BIG, number), SCHEMA, number + 1)
    before = advance(None, buffer)
    # a rewrite of the third, and one row in the fifth
    buffer = buffer.append(large(2000, 2 * BIG, 77), SCHEMA, 10).append(large(4003, 1, 88), SCHEMA, 11)
    after = advance(before, buffer)
    table = pa.Table.from_batches(after.batches())
    assert table.num_rows == 12 * BIG
    counts = table.group_by("i").aggregate([("i", "count")]).to_pylist()
    assert {row["i"]: row["i_count"] for row in counts} == {
        **dict.fromkeys([0, 1, 3, 5, 77], 2 * BIG),
        4: 2 * BIG - 1,
        88: 1,
    }
    kept = {id(part) for part in before.parts} & {id(part) for part in after.parts}
    assert len(kept) == 4  # what no late row meets is not touched
    scratch = advance(None, buffer)
    assert seen(pa.Table.from_batches(scratch.batches())) == seen(table)


def test_a_table_without_late_rows_is_handed_on_as_it_lies_in_the_log():
    batch = large(0, BIG, 1).append_column("f", pa.nulls(BIG, pa.float64())).select(["a", "i", "f", "time"])
    batch = batch.cast(pa.schema([*list(batch.schema)[:3], pa.field("time", pa.timestamp("ns"), nullable=False)]))
    unique = advance(None, TableBuffer.empty(SCHEMA).append(batch, SCHEMA, 1))
    assert unique.parts[0] is batch


def test_rows_without_repetition_are_not_copied():
    batch = large(0, 100, 1)
    assert merge_rows(batch, ("a",)) is batch


def test_small_remains_do_not_pile_up():
    buffer = TableBuffer.empty(SCHEMA)
    for number in range(40):
        buffer = buffer.append(large(number * 1000, BIG, number), SCHEMA, 1)
    unique = advance(None, buffer)
    for number in range(40):
        late = large(number * 1000, BIG - 50, 1000 + number)
        buffer = buffer.append(late, SCHEMA, 2)
        unique = advance(unique, buffer)
        assert sum(part.num_rows for part in unique.batches()) == 40 * BIG
    assert len([part for part in unique.parts if part.num_rows < BIG // 4]) <= 17
