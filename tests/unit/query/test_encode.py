"""Results as text and bytes, for all types that a query can return."""

import csv
import io
import json
from datetime import date, time
from decimal import Decimal
from math import isfinite

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.query.formats import FORMATS


def encoded(name, table, rows=3):
    return b"".join(FORMATS[name].encode(table.to_reader(max_chunksize=rows)))


def one(value, kind):
    return pa.table({"v": pa.array([value], kind)})


NS = pa.timestamp("ns")


@pytest.mark.parametrize(
    ("column", "json_text", "csv_text"),
    [
        (pa.array([1], pa.int64()), "1", "1"),
        (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615", "18446744073709551615"),
        (pa.array([1.0]), "1.0", "1.0"),
        (pa.array([1e300]), "1e+300", "1e+300"),
        (pa.array([0.1], pa.float32()), "0.1", "0.1"),
        (pa.array([0.5], pa.float16()), "0.5", "0.5"),
        (pa.array([float("nan")]), None, "NaN"),
        (pa.array([float("-inf")]), None, "-inf"),
        (pa.array([float("inf")], pa.float32()), None, "inf"),
        (pa.array([True]), "true", "true"),
        (pa.array(['a"b,c\n']), '"a\\"b,c\\n"', '"a""b,c\n"'),
        (pa.array([""]), '""', '""'),
        (pa.array(["é"]), '"é"', "é"),
        (pa.array(["x"], pa.large_string()), '"x"', "x"),
        (pa.array(["x"], pa.string_view()), '"x"', "x"),
        (pa.array(["x"]).dictionary_encode(), '"x"', "x"),
        (pa.array([3_000_000_000_000_000_000], NS), '"2065-01-24T05:20:00"', "2065-01-24T05:20:00"),
        (pa.array([1], NS), '"1970-01-01T00:00:00.000000001"', "1970-01-01T00:00:00.000000001"),
        (pa.array([-1], NS), '"1969-12-31T23:59:59.999999999"', "1969-12-31T23:59:59.999999999"),
        (pa.array([1_500_000_000], NS), '"1970-01-01T00:00:01.500"', "1970-01-01T00:00:01.500"),
        (pa.array([1_500_000], pa.timestamp("us")), '"1970-01-01T00:00:01.500"', "1970-01-01T00:00:01.500"),
        (pa.array([1_500_001], pa.timestamp("us")), '"1970-01-01T00:00:01.500001"', "1970-01-01T00:00:01.500001"),
        (pa.array([-62_200_000_000], pa.timestamp("s")), '"-0002-12-17T14:13:20"', "-0002-12-17T14:13:20"),
        (pa.array([0], pa.timestamp("ms", "UTC")), '"1970-01-01T00:00:00Z"', "1970-01-01T00:00:00Z"),
        (pa.array([0], pa.timestamp("ns", "-03:30")), '"1969-12-31T20:30:00-03:30"', "1969-12-31T20:30:00-03:30"),
        (pa.array([date(2024, 2, 29)]), '"2024-02-29"', "2024-02-29"),
        (pa.array([0], pa.date64()), '"1970-01-01"', "1970-01-01"),
        (pa.array([time(1, 2, 3)], pa.time32("s")), '"01:02:03"', "01:02:03"),
        (pa.array([45_296_789_000_001], pa.time64("ns")), '"12:34:56.789000001"', "12:34:56.789000001"),
        (pa.array([-1_500], pa.duration("ms")), '"-PT1.500S"', "-PT1.500S"),
        (pa.array([(1, -2, 3_000_000_000)], pa.month_day_nano_interval()), '"P1M-2DT3S"', "P1M-2DT3S"),
        (pa.array([(0, 0, 0)], pa.month_day_nano_interval()), '"PT0S"', "PT0S"),
        (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), "1.50", "1.50"),
        (pa.array([Decimal("1E+3")], pa.decimal128(10, -2)), "1000", "1000"),
        (pa.array([b"\x00\xff"]), '"00ff"', "00ff"),
        (pa.array([b"\x01"], pa.binary_view()), '"01"', "01"),
        (pa.array([b"ab"], pa.binary(2)), '"6162"', "6162"),
        (pa.array([[1, None]]), "[1,null]", '"[1,null]"'),
        (pa.array([[]], pa.list_(pa.string())), "[]", "[]"),
        (pa.array([["a"]], pa.large_list(pa.string())), '["a"]', '"[""a""]"'),
        (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), "[1,2]", '"[1,2]"'),
        (pa.array([[1]], pa.list_view(pa.int64())), "[1]", "[1]"),
        (pa.array([[[1], None]]), "[[1],null]", '"[[1],null]"'),
        (pa.array([{"x": 1, "y": None}]), '{"x":1}', '"{""x"":1}"'),
        (pa.array([[("k", 1), ("l", None)]], pa.map_(pa.string(), pa.int64())), '{"k":1,"l":null}', None),
        (pa.array([None]), None, ""),
        (pa.array([None], pa.string()), None, ""),
    ],
)
def test_a_value_of_each_type(column, json_text, csv_text):
    table = pa.table({"v": column})
    expected = "[{}]" if json_text is None else f'[{{"v":{json_text}}}]'
    assert encoded("json", table).decode() == expected
    assert encoded("jsonl", table).decode() == expected[1:-1] + "\n"
    if csv_text is not None:
        assert encoded("csv", table).decode() == f"v\n{csv_text}\n"
    assert encoded("pretty", table)
    assert pa.ipc.open_stream(encoded("arrow", table)).read_all().to_string() == table.to_string()
    # the same behind other rows, in a slice, and beside a null
    mixed = pa.chunked_array([pa.concat_arrays([column, pa.nulls(1, column.type), column])]).slice(1)
    lines = encoded("jsonl", pa.table({"v": mixed})).decode().splitlines()
    assert lines == ["{}", expected[1:-1]]


PARQUET_TYPES = [pa.int64(), pa.float64(), pa.string(), NS, pa.string_view(), pa.binary_view(), pa.null()]


def test_parquet_holds_all_batches():
    table = pa.table({f"c{place}": pa.nulls(7, kind) for place, kind in enumerate(PARQUET_TYPES)})
    table = table.append_column("n", pa.array(range(7))).append_column("t", pa.array(range(7), NS))
    read = pq.read_table(io.BytesIO(encoded("parquet", table)))
    assert read.column("n").to_pylist() == list(range(7))
    assert read.schema.field("t").type == NS
    interval = one((1, 2, 3), pa.month_day_nano_interval())
    assert pq.read_table(io.BytesIO(encoded("parquet", interval))).column("v").to_pylist() == ["P1M2DT0.000000003S"]
    views = one([1, 2], pa.list_view(pa.int64()))
    assert pq.read_table(io.BytesIO(encoded("parquet", views))).column("v").to_pylist() == ["[1,2]"]
    empty = pa.table({"a": pa.array([], pa.int64())})
    assert pq.read_table(io.BytesIO(encoded("parquet", empty))).schema.names == ["a"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("json", b"[]"), ("jsonl", b""), ("csv", b"a,b\n"), ("pretty", b"+---+---+\n| a | b |\n+---+---+\n+---+---+\n")],
)
def test_no_rows(name, expected):
    assert encoded(name, pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())})) == expected


def test_nulls_are_left_out():
    table = pa.table({"a": [1, None, None, 4], "b": ["x", None, "z", None]})
    assert encoded("json", table) == b'[{"a":1,"b":"x"},{},{"b":"z"},{"a":4}]'
    assert encoded("csv", table) == b"a,b\n1,x\n,\n,z\n4,\n"


def test_pretty():
    table = pa.table({"host": ["a", None], "a long name": [1.5, 22.25], "t": pa.array([0, 1], NS)})
    assert encoded("pretty", table).decode().splitlines() == [
        "+------+-------------+-------------------------------+",
        "| host | a long name | t                             |",
        "+------+-------------+-------------------------------+",
        "| a    | 1.5         | 1970-01-01T00:00:00           |",
        "|      | 22.25       | 1970-01-01T00:00:00.000000001 |",
        "+------+-------------+-------------------------------+",
    ]
    assert "a\\nb" in encoded("pretty", pa.table({"v": ["a\nb"]})).decode()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"s": st.none() | TEXT, "%d": st.none() | st.integers(-(2**63), 2**63 - 1), 'q"': st.none() | st.floats()}
        ),
        max_size=8,
    )
)
def test_any_reader_gets_the_values_back(rows):
    schema = pa.schema({"s": pa.string(), "%d": pa.int64(), 'q"': pa.float64()})
    table = pa.Table.from_pylist(rows, schema=schema)
    finite = [
        {
            name: value
            for name, value in row.items()
            if value is not None and (isinstance(value, str) or isfinite(value))
        }
        for row in rows
    ]
    assert json.loads(encoded("json", table)) == finite
    lines = encoded("jsonl", table).decode().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == finite
    read = list(csv.DictReader(io.StringIO(encoded("csv", table).decode(), newline="")))
    assert [row["s"] for row in read] == [row["s"] or "" for row in rows]
    assert [row["%d"] for row in read] == ["" if row["%d"] is None else str(row["%d"]) for row in rows]


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "arrow"])
def test_the_first_part_comes_before_the_last_batch_is_read(name):
    read = []

    def batches():
        for number in range(5):
            read.append(number)
            yield pa.record_batch({"a": [number]})

    parts = FORMATS[name].encode(pa.RecordBatchReader.from_batches(pa.schema({"a": pa.int64()}), batches()))
    next(parts)
    next(parts)
    assert len(read) < 4
