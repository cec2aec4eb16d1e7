"""Files written again without some rows, and which rows those are: by identity, or by time."""

from __future__ import annotations

import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema
from walmill.snapshot.build import NewFile, Rows, build_files
from walmill.snapshot.names import DAY, Attempt, Place
from walmill.snapshot.parquet import GROUP_ROWS
from walmill.snapshot.rows import Identities, earlier_than, read_rows, rewrite_file

PLACE = Place("db", 1, "t", 2)
SCHEMA = TableSchema("t", ("a", "b"), {"i": "int64", "s": "string"})


def make(store, columns, late=()):
    """A stored file."""
    (new,) = build_files(Rows(PLACE, SCHEMA, [pa.record_batch(columns)], 3, 9, ()), (), Attempt(1, "00"))
    store.put(new.file.path, new.data)
    return evolve(new.file, late=late)


def times(*values):
    return pa.array(values, pa.timestamp("ns"))


def rewrite(store, file, gone, schema=SCHEMA):
    return rewrite_file(file, read_rows(store, file), gone, PLACE, schema, Attempt(2, "11"), 5)


def test_a_file_without_some_rows_stands_where_the_old_one_stood(store):
    columns = {"a": ["one", "secret", "two"], "i": [1, 2, 3], "s": ["x", "y", "z"], TIME: times(10, 20, 30)}
    file = make(store, columns, late=((5, 12), (15, 20), (25, 40)))
    new = rewrite(store, file, lambda batch: pc.equal(batch.column("i"), 2))
    assert isinstance(new, NewFile)
    assert new.file == DataFile(
        path="tables/db-1/t-2/month=1970-01/00000000000000000009-00000002.11-5.parquet",
        table=2,
        rows=2,
        bytes=new.data.size,
        min_time=10,
        max_time=30,
        first_sequence=3,
        last_sequence=9,
        checksum=zlib.crc32(new.data),
        late=((10, 12), (15, 20), (25, 30)),
    )
    table = pq.read_table(pa.BufferReader(new.data))
    assert table.column("a").to_pylist() == ["one", "two"]
    assert table.schema.equals(pq.read_table(pa.BufferReader(store.get(file.path))).schema)
    assert b"secret" not in bytes(new.data)  # neither in a dictionary nor in statistics
    assert b"secret" in store.get(file.path)


def test_late_ranges_that_no_row_is_in_any_more_go(store):
    file = make(store, {"a": ["x", "x", "x"], TIME: times(10, 20, 30)}, late=((5, 10), (20, 20)))
    new = rewrite(store, file, earlier_than(20))
    assert (new.file.min_time, new.file.max_time, new.file.late) == (20, 30, ((20, 20),))


@pytest.mark.parametrize(
    ("choice", "rows"),
    [
        ([False, False], 2),
        ([None, None], 2),
        ([None, True], 1),
        ([True, True], 0),
    ],
)
def test_how_many_rows_go(store, choice, rows):
    file = make(store, {"a": ["x", "y"], TIME: times(1, 2)})
    made = rewrite(store, file, lambda batch: pa.array(choice, pa.bool_()))
    if rows == 2:
        assert made is file
    elif rows == 0:
        assert made is None
    else:
        assert made.file.rows == rows


def test_columns_that_came_later_do_not_get_into_an_old_file(store):
    file = make(store, {"a": ["x", "y"], TIME: times(1, 2)})
    later = TableSchema("t", ("a", "b", "c"), {"i": "int64", "s": "string", "f": "float64"})
    new = rewrite(store, file, earlier_than(2), later)
    assert pq.read_table(pa.BufferReader(new.data)).schema.names == [*SCHEMA.column_names()]


def test_order_and_row_groups_stay(store):
    rows = GROUP_ROWS + 5000
    number = np.arange(rows)
    hosts = pa.array([f"h{one % 2000:04}" for one in number])
    file = make(store, {"a": hosts, "i": pa.array(number), TIME: pa.array(number, pa.timestamp("ns"))})
    new = rewrite(store, file, lambda batch: pc.equal(pc.bit_wise_and(batch.column("i"), 1), 1))
    parquet = pq.ParquetFile(pa.BufferReader(new.data))
    assert [one.column_index for one in parquet.metadata.row_group(0).sorting_columns] == [0, 1, 4]
    found = parquet.read()
    keys = list(zip(found.column("a").to_pylist(), found.column(TIME).cast(pa.int64()).to_pylist(), strict=True))
    assert keys == sorted((f"h{one % 2000:04}", one) for one in range(0, rows, 2))


KEYS = st.tuples(
    st.sampled_from([None, "", "x", "y"]), st.sampled_from([None, "p"]), st.sampled_from([0, 1, 2, DAY, -(2**63)])
)


def columns(keys, kind=None):
    made = {name: pa.array([key[place] for key in keys], pa.string()) for place, name in enumerate(("a", "b"))}
    if kind == "dictionary":
        made = {name: column.dictionary_encode() for name, column in made.items()}
    if kind == "lacks":
        del made["b"]
    return {**made, TIME: times(*(key[2] for key in keys))}


@given(
    st.lists(KEYS, max_size=6),
    st.lists(KEYS, max_size=20),
    st.sampled_from([None, "dictionary", "lacks"]),
    st.sampled_from([None, "lacks"]),
)
def test_identities_choose_what_a_set_chooses(wanted, rows, kind, lacking):
    chosen = Identities(pa.table(columns(wanted, lacking)), ("a", "b"))

    def seen(keys, how):
        return [(key[0], None if how == "lacks" else key[1], key[2]) for key in keys]

    expected = set(seen(wanted, lacking))
    found = chosen(pa.record_batch(columns(rows, kind)))
    assert np.asarray(found).tolist() == [key in expected for key in seen(rows, kind)]
    ordered = sorted(key[2] for key in wanted)
    assert chosen.span == ((ordered[0], ordered[-1]) if wanted else None)


def test_identities_come_in_chunks_from_a_query():
    parts = [pa.table(columns([("x", None, 1)])), pa.table(columns([("y", "p", 2)]))]
    chosen = Identities(pa.concat_tables(parts), ("a", "b"))
    assert chosen(pa.record_batch(columns([("y", "p", 2), ("x", "p", 1), ("x", None, 1)]))).tolist() == [
        True,
        False,
        True,
    ]
