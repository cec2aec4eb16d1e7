"""Data files, compared with a dict from identity to values, and read by tools that know nothing of Walmill."""

from __future__ import annotations

import zlib
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from walmill.buffer.table import TableBuffer
from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema
from walmill.snapshot.build import Rows, build_files, late_ranges
from walmill.snapshot.chunks import Piece, group_pieces, plan_pieces
from walmill.snapshot.names import DAY, Attempt, Place, month_of_path
from walmill.snapshot.parquet import GROUP_ROWS, encode_file
from walmill.snapshot.sort import dense_codes, sort_order, sort_rows

PLACE = Place("db", 1, "t", 2)
ATTEMPT = Attempt(7, "ab12")
SCHEMA = TableSchema("t", ("a", "b"), {"i": "int64", "u": "uint64", "f": "float64", "s": "string", "o": "bool"})
ARROW = {"i": pa.int64(), "u": pa.uint64(), "f": pa.float64(), "s": pa.string(), "o": pa.bool_()}
VALUES = {
    "i": st.integers(-2, 2),
    "u": st.integers(0, 2**64 - 1),
    "f": st.sampled_from([0.0, 1.5, -2.25]),
    "s": st.sampled_from(["", "x", "é"]),
    "o": st.booleans(),
}
NOVEMBER = 1_793_491_200_000_000_000  # 2026-11-01
TIMES = (
    st.integers(NOVEMBER - 3, NOVEMBER + 3)
    | st.integers(0, 40).map(lambda day: NOVEMBER + day * DAY)
    | st.sampled_from([-(2**63), -1, 0, 2**63 - 1])
)


@st.composite
def batches(draw):
    """Some rows, and the columns that their batch has; tags may be dictionaries, as in a file."""
    tags = sorted(draw(st.sets(st.sampled_from(SCHEMA.tags))))
    fields = sorted(draw(st.sets(st.sampled_from(sorted(ARROW)), min_size=1)))
    row = st.fixed_dictionaries(
        {
            **{tag: st.sampled_from([None, "x", "y", "é", ""]) for tag in tags},
            **{name: st.none() | VALUES[name] for name in fields},
            TIME: TIMES,
        }
    )
    rows = draw(st.lists(row, max_size=8))
    types = {**dict.fromkeys(tags, pa.string()), **{name: ARROW[name] for name in fields}}
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    if draw(st.booleans()):
        columns.update({tag: columns[tag].dictionary_encode() for tag in tags})
    return pa.record_batch({**columns, TIME: pa.array([row[TIME] for row in rows], pa.timestamp("ns"))}), rows


def store(model, rows):
    for row in rows:
        kept = model.setdefault((row.get("a"), row.get("b"), row[TIME]), {})
        kept.update({name: value for name, value in row.items() if name in ARROW and value is not None})


def read(data: pa.Buffer) -> list[dict]:
    table = pq.read_table(pa.BufferReader(data))
    place = table.schema.get_field_index(TIME)
    return table.set_column(place, TIME, table.column(place).cast(pa.int64())).to_pylist()


def as_bytes(row):
    return tuple((row[tag] is not None, (row[tag] or "").encode()) for tag in SCHEMA.tags), row[TIME]


@settings(max_examples=120)
@given(st.lists(batches(), max_size=6), st.integers(1, 12))
def test_files_hold_what_the_model_holds(parts, limit):
    model = {}
    for _, rows in parts:
        store(model, rows)
    rows = Rows(PLACE, SCHEMA, [batch for batch, _ in parts], 3, 9, ())
    found = {}
    files = list(build_files(rows, (), ATTEMPT, rows_per_file=limit))
    for new in files:
        file, content = new.file, read(new.data)
        assert (file.rows, file.bytes, file.checksum) == (len(content), new.data.size, zlib.crc32(new.data))
        times = [row[TIME] for row in content]
        assert (file.min_time, file.max_time) == (min(times), max(times))
        assert (file.table, file.first_sequence, file.last_sequence, file.late) == (2, 3, 9, ())
        assert content == sorted(content, key=as_bytes)
        assert {str(np.datetime64(time // DAY, "D").astype("M8[M]")) for time in times} == {month_of_path(file.path)}
        days = {time // DAY for time in times}
        assert len(content) <= limit or len(days) == 1
        for row in content:
            key = (row["a"], row["b"], row[TIME])
            assert key not in found
            found[key] = {name: row[name] for name in ARROW if row[name] is not None}
    assert found == model
    assert len({new.file.path for new in files}) == len(files)


def test_a_buffer_becomes_files():
    first = pa.record_batch({"a": ["x", "y"], "i": [1, 2], TIME: pa.array([5, 6], pa.timestamp("ns"))})
    again = pa.record_batch({"a": ["x"], "f": [0.5], TIME: pa.array([5], pa.timestamp("ns"))})
    buffer = TableBuffer.empty(SCHEMA).append(first, SCHEMA, 4).append(again, SCHEMA, 6)
    below = DataFile("p", 2, 1, 1, 0, 5, 1, 3, 0)
    (new,) = build_files(Rows.of_buffer(PLACE, buffer, 4), (below,), ATTEMPT)
    assert (new.file.first_sequence, new.file.last_sequence, new.file.late) == (4, 6, ((5, 5),))
    assert new.file.path == "tables/db-1/t-2/month=1970-01/00000000000000000006-00000007.ab12-0.parquet"
    assert [(row["a"], row["i"], row["f"]) for row in read(new.data)] == [("x", 1, 0.5), ("y", 2, None)]


@pytest.mark.parametrize(
    ("days", "limit", "expected"),
    [
        ({}, 10, []),
        ({0: 4, 30: 6, 31: 1}, 10, [("1970-01", 0, 30, 10), ("1970-02", 31, 31, 1)]),
        ({-1: 5, 0: 5}, 10, [("1969-12", -1, -1, 5), ("1970-01", 0, 0, 5)]),
        (
            {0: 4, 1: 4, 2: 4, 3: 25, 5: 1},
            10,
            [("1970-01", 0, 1, 8), ("1970-01", 2, 2, 4), ("1970-01", 3, 3, 25), ("1970-01", 5, 5, 1)],
        ),
    ],
)
def test_a_month_is_split_between_days_when_it_is_large(days, limit, expected):
    pieces = plan_pieces(days, limit)
    assert [(piece.month, piece.first_day, piece.last_day, piece.rows) for piece in pieces] == expected
    groups = group_pieces(pieces, limit)
    assert [piece for group in groups for piece in group] == pieces
    assert all(len(group) == 1 or sum(piece.rows for piece in group) <= limit for group in groups)


def test_the_first_and_the_last_day_end_with_the_numbers():
    first, last = Piece("1677-09", -106752, -106752, 1), Piece("2262-04", 106751, 106751, 1)
    assert (first.low, last.high) == (-(2**63), 2**63 - 1)


def file(low, high):
    return DataFile("p", 2, 1, 1, low, high, 1, 2, 0)


@pytest.mark.parametrize(
    ("overlaps", "low", "high", "earlier", "expected"),
    [
        ((), 0, 9, [file(0, 9)], ()),
        (((0, 9),), 0, 9, [], ()),
        (((0, 9),), 3, 5, [file(0, 9)], ((3, 5),)),
        (((0, 9),), 3, 5, [file(0, 2), file(6, 9)], ()),
        (((0, 3), (7, 9)), 1, 8, [file(2, 7)], ((2, 3), (7, 7))),
        (((0, 9),), 0, 9, [file(0, 1), file(5, 6), file(6, 9)], ((0, 1), (5, 9))),
    ],
)
def test_late_is_where_earlier_files_can_hold_rows(overlaps, low, high, earlier, expected):
    assert late_ranges(overlaps, low, high, earlier) == expected


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**33 - 1), st.integers(0, 2**33 - 1)), min_size=1))
@example([(1, 5, 5), (0, 5, 4), (1, 5, 5)])
def test_dense_codes_keep_the_order_of_rows(rows):
    columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    codes, count = dense_codes(columns, [4, 2**33, 2**33], len(rows))
    ranks = {row: place for place, row in enumerate(sorted(set(rows)))}
    assert codes.tolist() == [ranks[row] for row in rows]
    assert count == len(ranks)


def test_rows_of_many_series_are_sorted_by_both_halves_of_their_codes():
    random = np.random.default_rng(5)
    codes = random.permutation(200_000) // 2
    times = random.integers(0, 3, 200_000)
    assert (sort_order(codes, 100_000, times) == np.lexsort((times, codes))).all()


def wide(rows: int) -> pa.RecordBatch:
    """Rows in the order of time, with a tag of so many values that it needs a dictionary for each row group."""
    number = np.arange(rows)
    return pa.record_batch(
        {
            "a": pa.array([f"host-{one % 3000:04}" for one in number]),
            "i": pa.array(number * 1001),
            "u": pa.array(number % 5, pa.uint64()),
            "f": pa.array(np.sin(number)),
            TIME: pa.array(NOVEMBER + number, pa.timestamp("ns")),
        }
    )


def test_how_a_file_is_encoded():
    rows = 2 * GROUP_ROWS + 1000
    batch = wide(rows)
    data = encode_file(sort_rows([batch], SCHEMA).table, SCHEMA)
    file = pq.ParquetFile(pa.BufferReader(data))
    assert file.schema_arrow.field("a").type == pa.dictionary(pa.int32(), pa.string())
    assert file.schema_arrow.field(TIME).type == pa.timestamp("ns")
    assert file.schema_arrow.names == SCHEMA.column_names()
    assert [file.metadata.row_group(group).num_rows for group in range(3)] == [GROUP_ROWS, GROUP_ROWS, 1000]
    group = file.metadata.row_group(1)
    columns = {group.column(place).path_in_schema: group.column(place) for place in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert all(column.is_stats_set and column.has_offset_index for column in columns.values())
    assert "RLE_DICTIONARY" in columns["a"].encodings
    assert "RLE_DICTIONARY" in columns["u"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["f"].encodings
    assert "DELTA_BINARY_PACKED" in columns["i"].encodings
    assert "DELTA_BINARY_PACKED" in columns[TIME].encodings
    assert [(one.column_index, one.descending, one.nulls_first) for one in group.sorting_columns] == [
        (0, False, True),
        (1, False, True),
        (7, False, True),
    ]
    own = file.read_row_group(2, columns=["a"]).column("a").chunk(0)
    assert len(own.dictionary) < 100  # a thousand rows of a dozen hosts, and not the values of all other rows
    assert file.read().column("a").cast(pa.string()).to_pylist() == sorted(batch.column("a").to_pylist())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a table over three months, with a row written again and a column added later."""
    root = tmp_path_factory.mktemp("store")
    number = np.arange(9000)
    first = pa.record_batch(
        {
            "a": pa.array([f"h{one % 10}" for one in number]),
            "i": pa.array(number),
            TIME: pa.array(NOVEMBER - 30 * DAY + number * DAY // 100, pa.timestamp("ns")),
        }
    )
    again = pa.record_batch({"a": ["h0"], "f": [1.5], TIME: pa.array([NOVEMBER - 30 * DAY], pa.timestamp("ns"))})
    place = Place("my db", 1, "cpu/load", 2)
    for new in build_files(Rows(place, SCHEMA, [first, again], 1, 2, ()), (), ATTEMPT):
        path = root / new.file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(new.data)
    return root / "tables/my%20db-1/cpu%2Fload-2"


WANTED = ("2026-11", 3000, 13_500_000 - 1500)


def test_duckdb_reads_a_tree_and_opens_only_the_months_asked_for(tree):
    assert len(list(tree.rglob("*.parquet"))) == 3
    query = f"""SELECT month, count(*), sum(i) FROM read_parquet('{tree}/*/*.parquet', hive_partitioning=true)
        WHERE month = '2026-11' GROUP BY month"""
    with duckdb.connect() as connection:
        assert connection.execute(query).fetchall() == [WANTED]
        (_, plan) = connection.execute(f"EXPLAIN ANALYZE {query}").fetchone()
        assert "Scanning Files: 1/3" in plan
        everything = connection.execute(
            f"SELECT count(*), count(f), count(DISTINCT a) FROM read_parquet('{tree}/*/*.parquet')"
        ).fetchall()
        assert everything == [(9000, 1, 10)]


@pytest.mark.may_leave(
    "file", reason="Polars starts a runtime at its first query, and keeps it as long as the process lives"
)
def test_polars_reads_a_tree_and_opens_only_the_months_asked_for(tree):
    frame = polars.scan_parquet(f"{tree}/*/*.parquet", hive_partitioning=True)
    month = frame.filter(polars.col("month") == "2026-11")
    assert "Parquet SCAN" in month.explain()
    assert month.explain().count(".parquet") == 1
    got = month.select(polars.col("month").first(), polars.len(), polars.col("i").sum()).collect()
    assert got.rows() == [WANTED]
    assert frame.collect().height == 9000


def test_pyarrow_reads_a_tree_and_opens_only_the_months_asked_for(tree):
    dataset = pa_dataset.dataset(tree, partitioning="hive")
    wanted = pa_dataset.field("month") == "2026-11"
    assert [Path(one.path).parent.name for one in dataset.get_fragments(wanted)] == ["month=2026-11"]
    table = dataset.to_table(filter=wanted)
    assert (table.num_rows, sum(table.column("i").to_pylist())) == WANTED[1:]
    assert dataset.count_rows() == 9000


def test_strings_beyond_what_32_bit_offsets_hold(monkeypatch):
    # the bounds are gigabytes; here they are small, and everything else is the same
    monkeypatch.setattr("walmill.snapshot.sort._BYTES_OF_TEXT", 1000)
    monkeypatch.setattr("walmill.snapshot.parquet._GROUP_BYTES", 4000)
    texts = [f"{number}-{'long' * (number % 9)}" for number in range(500)]
    columns = {"s": texts, TIME: pa.array(range(500), pa.timestamp("ns"))}
    halves = pa.record_batch(columns).slice(0, 250), pa.record_batch(columns).slice(250)
    ordered = sort_rows(halves, SCHEMA)
    assert ordered.table.field("s").type == pa.large_string()
    data = encode_file(ordered.table, SCHEMA)
    file = pq.ParquetFile(pa.BufferReader(data))
    assert file.metadata.num_row_groups > 4
    assert file.schema_arrow.field("s").type == pa.string()
    assert file.read().column("s").to_pylist() == texts
