"""Rows that plugins give as Arrow data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.ingest.assemble import TableRows
from walmill.ingest.convert import from_arrow, from_rows
from walmill.ingest.errors import MOST_REFUSED, RowError
from walmill.model.schema import TableSchema

PROPERTY = settings(max_examples=100)
NOW = 1_000
SCHEMA = TableSchema("t", ("host",), {"f": "float64", "i": "int64", "u": "uint64", "s": "string", "b": "bool"})


class Stream:
    """Arrow data of another library: nothing but the C stream interface."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def write(data: Any, schema: TableSchema | None = SCHEMA, tags: Sequence[str] | None = None) -> TableRows:
    return from_arrow(data, "t", schema, tags, default_time=NOW)


def refused(data: Any, schema: TableSchema | None = SCHEMA, tags: Sequence[str] | None = None) -> RowError:
    with pytest.raises(RowError) as caught:
        write(data, schema, tags)
    return caught.value


def address(array: pa.Array, buffer: int) -> int:
    found = array.buffers()[buffer]
    assert found is not None
    return int(found.address)


def test_columns_of_the_right_type_keep_their_buffers() -> None:
    data = pa.table(
        {
            "host": ["a", "b"],
            "f": [1.5, 2.5],
            "i": [1, 2],
            "s": ["x", None],
            "b": [True, False],
            "time": pa.array([1, 2], pa.timestamp("ns")),
        }
    )
    for given_data in (
        data,
        Stream(data),
        data.to_batches()[0],
        pa.RecordBatchReader.from_batches(data.schema, data.to_batches()),
    ):
        batch = write(given_data).batch
        for name, buffer in [("host", 2), ("host", 1), ("f", 1), ("i", 1), ("s", 0), ("s", 2), ("b", 1), ("time", 1)]:
            assert address(batch[name], buffer) == address(data[name].chunk(0), buffer), name
    zoned = data.set_column(5, "time", data["time"].cast(pa.timestamp("ns", "Europe/Berlin")))
    assert address(write(zoned).batch["time"], 1) == address(zoned["time"].chunk(0), 1)


def test_a_slice_keeps_its_buffers_and_loses_a_validity_buffer_that_says_nothing() -> None:
    data = pa.table({"f": [None, 2.5, 3.5, 4.5], "s": [None, "b", "c", "d"], "b": [None, True, False, True]}).slice(
        1, 2
    )
    batch = write(data).batch
    assert batch.drop_columns("time").to_pydict() == {"f": [2.5, 3.5], "s": ["b", "c"], "b": [True, False]}
    assert all(batch[name].buffers()[0] is None for name in batch.schema.names)
    assert address(batch["f"], 1) == address(data["f"].chunk(0), 1)
    batch.validate(full=True)


def test_a_new_table() -> None:
    data = pa.table(
        {"v": [1, 2], "k": ["x", None], "none": pa.nulls(2), "time": [7, 8], "h": ["a", "b"], "e": [math.nan] * 2}
    )
    rows = write(data, None, ["h", "k", "absent"])
    assert (rows.name, rows.new_tags, rows.new_fields) == ("t", ("h", "k"), {"v": "int64"})
    assert rows.batch.schema.names == ["h", "k", "v", "time"]
    assert rows.batch.schema.field("time") == pa.field("time", pa.timestamp("ns"), nullable=False)
    assert rows.batch["time"].cast(pa.int64()).to_pylist() == [7, 8]


def test_the_order_is_that_of_the_schema() -> None:
    rows = write(pa.table({"new": [1], "s": ["x"], "host": ["a"], "f": [1.0], "zone": ["z"]}), SCHEMA, ["zone"])
    assert rows.batch.schema.names == ["host", "zone", "f", "s", "new", "time"]
    assert (rows.new_tags, rows.new_fields) == (("zone",), {"new": "int64"})


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        *((pa.array([1, None, 3], kind), "int64") for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
        *((pa.array([1, None, 3], kind), "int64") for kind in (pa.uint8(), pa.uint16(), pa.uint32())),
        (pa.array([1, None, 2**64 - 1], pa.uint64()), "uint64"),
        *((pa.array([0.5, None, 2], kind), "float64") for kind in (pa.float16(), pa.float32(), pa.float64())),
        *((pa.array(["a", None, "ü"], kind), "string") for kind in (pa.string(), pa.large_string(), pa.string_view())),
        (pa.array(["a", None, "a"]).dictionary_encode(), "string"),
        (pa.array(["a", None, "a"], pa.large_string()).dictionary_encode(), "string"),
        (pa.array([1, None, 1], pa.int16()).dictionary_encode(), "int64"),
        (pa.array([True, None, False]), "bool"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else value,
)
def test_types_that_fit(array: pa.Array, kind: str) -> None:
    rows = write(pa.table({"x": array, "also": [1, 2, 3]}), None, ())
    assert rows.new_fields == {"x": kind, "also": "int64"}
    assert rows.batch["x"].to_pylist() == array.to_pylist()


@pytest.mark.parametrize(
    "array",
    [
        pa.array([b"x", b"y"]),
        pa.array([1, 2]).cast(pa.decimal128(19, 0)),
        pa.array([1, 2], pa.date32()),
        pa.array([1, 2], pa.timestamp("s")),
        pa.array([1, 2], pa.duration("s")),
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
    ],
    ids=lambda array: str(array.type),
)
def test_types_that_are_no_field(array: pa.Array) -> None:
    error = refused(pa.table({"x": array, "f": [1.0, 2.0]}))
    assert (error.row, error.column) == (None, "x")
    assert f"a column of type {array.type} cannot be stored" in error.message


@pytest.mark.parametrize(
    ("column", "array", "row", "message"),
    [
        ("f", pa.array([1.0, math.inf]), 1, "the value inf is infinite"),
        ("f", pa.array([-math.inf, 1.0], pa.float32()), 0, "the value -inf is infinite"),
        ("f", pa.array([1, 2**53 + 1]), 1, "the int 9007199254740993 is not exactly a float64"),
        ("f", pa.array([2**63 - 1, 1]), 0, "the int 9223372036854775807 is not exactly a float64"),
        ("f", pa.array([2**64 - 1, 1], pa.uint64()), 0, "the int 18446744073709551615 is not exactly"),
        ("f", pa.array(["1", "2"]), None, "it is string and the column is float64"),
        ("f", pa.array([True, False]), None, "it is bool and the column is float64"),
        ("i", pa.array([1.0, 2.0]), None, "it is double and the column is int64"),
        (
            "i",
            pa.array([1, 2**63], pa.uint64()),
            1,
            "the value 9223372036854775808 is out of range: int64 reaches from",
        ),
        ("u", pa.array([1, -1]), 1, "the value -1 is out of range: uint64 reaches from 0 to"),
        ("s", pa.array([1, 2]), None, "it is int64 and the column is string"),
        ("b", pa.array([1, 0]), None, "it is int64 and the column is bool"),
        ("s", pa.array(["a", "x" * 1_048_577]), 1, "the string has 1048577 bytes"),
        ("host", pa.array([1, 2]), None, "it is int64 and tags are strings: cast it"),
        ("host", pa.array(["a", ""]), 1, "cannot be empty: use null"),
        ("host", pa.array(["x" * 1_048_577, "a"]).dictionary_encode(), 0, "the tag value has 1048577 bytes"),
        ("time", pa.array(["a", "b"]), None, "it is string and not a time"),
        ("time", pa.array([1.0, 2.0]), None, "it is double and not a time"),
        (
            "time",
            pa.array([1, 2**40], pa.timestamp("s", "UTC")),
            1,
            "the time 1099511627776 of timestamp[s, tz=UTC] is out of range: 64-bit nanoseconds reach from 1677 to 2262",
        ),
        ("time", pa.array([1, 2**63], pa.uint64()), 1, "the time 9223372036854775808 is out of range"),
        ("time", pa.array([2**17, 1], pa.date32()), 0, "the time 131072 of date32[day] is out of range"),
        ("time", pa.array([86_400_000, -(2**33) * 86_400_000], pa.date64()), 1, "of date64[ms] is out of range"),
        ("__index_level_0__", pa.array([1, 2]), None, "index of a pandas frame"),
        ("", pa.array([1, 2]), None, "the column name is empty"),
        ("a\nb", pa.array([1, 2]), None, "holds a newline"),
    ],
)
def test_a_bad_column_is_named(column: str, array: pa.Array, row: int | None, message: str) -> None:
    error = refused(pa.table({"other": [1, 2], column: array}))
    assert (error.row, error.column) == (row, column)
    assert message in error.message
    assert len(error.message) < 400


def test_bad_data() -> None:
    assert "has no __arrow_c_stream__" in refused([{"f": 1.0}]).message
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([1.0])], names=["f", "f"])
    assert "several columns of this name" in refused(twice).message
    wrong = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    assert "the Arrow data is damaged" in refused(pa.table({"s": wrong})).message
    assert "table 't' is new" in refused(pa.table({"f": [1.0]}), None).message
    with pytest.raises(RowError, match="table name is empty"):
        from_arrow(pa.table({"f": [1.0]}), "", None, (), default_time=NOW)
    many = pa.table({f"f{i}": [1] for i in range(501)})
    assert refused(many, None, ()).message.startswith("Update to schema would exceed number of")
    assert (
        refused(pa.table({"new": [1]}), TableSchema("t", (), dict.fromkeys(map(str, range(500)), "bool"))).row is None
    )


def test_a_row_needs_a_field() -> None:
    error = refused(pa.table({"f": [1.0, None, None], "s": [None, "x", None], "host": ["a", "b", "c"]}))
    assert (error.row, error.column) == (2, None)
    assert "no field has a value" in error.message
    assert refused(pa.table({"host": ["a"]})).row == 0
    assert refused(pa.table({"f": [1.0, math.nan]})).row == 1
    assert write(pa.table({"f": pa.array([], pa.float64())})).batch.num_rows == 0


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([5, None, 6, None], pa.timestamp("ms", "Asia/Tokyo")), [5_000_000, NOW, 6_000_000, NOW + 1]),
        (pa.array([1, None, 2, 3], pa.date32()), [86_400 * 10**9, NOW, 2 * 86_400 * 10**9, 3 * 86_400 * 10**9]),
        (pa.array([1, -2, None, 3], pa.int32()), [1, -2, NOW, 3]),
        (pa.array([None] * 4, pa.timestamp("ns")), [NOW, NOW + 1, NOW + 2, NOW + 3]),
        (pa.nulls(4), [NOW, NOW + 1, NOW + 2, NOW + 3]),
        (None, [NOW, NOW + 1, NOW + 2, NOW + 3]),
    ],
    ids=str,
)
def test_times(array: pa.Array | None, expected: list[int]) -> None:
    data = {"f": [1.0] * 4} if array is None else {"f": [1.0] * 4, "time": array}
    batch = write(pa.table(data)).batch
    assert batch["time"].cast(pa.int64()).to_pylist() == expected
    assert batch["time"].buffers()[0] is None


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        (pa.timestamp("s"), 10**9),
        (pa.timestamp("ms"), 10**6),
        (pa.timestamp("us"), 10**3),
        (pa.timestamp("ns"), 1),
        (pa.int64(), 1),
        (pa.uint64(), 1),
        (pa.date32(), 86_400 * 10**9),
    ],
    ids=str,
)
def test_times_reach_to_the_last_unit_that_fits(kind: pa.DataType, unit: int) -> None:
    low, high = (0 if kind == pa.uint64() else -(2**63 // unit)), (2**63 - 1) // unit
    numbers = pa.int32() if kind == pa.date32() else pa.uint64() if kind == pa.uint64() else pa.int64()
    times = pa.array([low, high], numbers).cast(kind)
    assert write(pa.table({"f": [1.0, 2.0], "time": times})).batch["time"].cast("int64").to_pylist() == [
        low * unit,
        high * unit,
    ]
    for beyond in (low - 1, high + 1):
        if unit > 1:
            times = pa.array([beyond], numbers).cast(kind)
            assert "out of range" in refused(pa.table({"f": [1.0], "time": times})).message


CELLS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "host": (pa.string(), ["a", "", None]),
    "rack": (pa.dictionary(pa.int8(), pa.string()), ["r", "", None]),
    "f": (pa.float64(), [1.5, math.inf, math.nan, None]),
    "i": (pa.uint64(), [1, 2**63, None]),
    "u": (pa.int64(), [1, -1, None]),
    "new": (pa.float32(), [0.5, -math.inf, None, None]),
    "time": (pa.timestamp("s"), [5, 2**40, -(2**40), None]),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(list(CELLS)), unique=True, min_size=1))
    values = {name: draw(st.lists(st.sampled_from(CELLS[name][1]), min_size=rows, max_size=rows)) for name in names}
    return pa.table({name: pa.array(values[name], CELLS[name][0]) for name in names})


@settings(max_examples=200)
@given(tables(), st.sampled_from([SCHEMA, TableSchema("t")]))
def test_each_bad_row_is_refused_by_itself(data: pa.Table, schema: TableSchema) -> None:
    """As if the good ones had come alone, down to the columns that the table gets."""
    if schema is not SCHEMA and "i" in data.column_names:
        data = data.drop_columns("i")  # in a new column any uint64 is good
    tags = ["host", "rack"]
    errors: list[RowError] = []
    got = from_arrow(data, "t", schema, tags, default_time=NOW, errors=errors)
    bad = []
    for row in range(data.num_rows):
        try:
            write(data.slice(row, 1), schema, tags)
        except RowError as error:
            bad.append((row, error.column, error.reason))
    assert sorted((error.row, error.column, error.reason) for error in errors) == bad
    good = pa.array([row for row in range(data.num_rows) if row not in {place for place, *_ in bad}], pa.int64())
    want = write(data.take(good), schema, tags)
    assert (got.new_tags, got.new_fields) == (want.new_tags, want.new_fields)
    assert got.batch.equals(want.batch)
    assert got.batch.schema.equals(want.batch.schema)


def test_what_is_wrong_with_a_whole_column_is_no_row() -> None:
    errors: list[RowError] = []
    data = pa.table({"f": [math.inf, 1.0], "i": ["x", "y"]})
    with pytest.raises(RowError, match="column 'i': it is string") as caught:
        from_arrow(data, "t", SCHEMA, None, default_time=NOW, errors=errors)
    assert caught.value.row is None


def test_so_many_bad_rows_are_named_and_not_more() -> None:
    for count in (MOST_REFUSED, MOST_REFUSED + 1):
        errors: list[RowError] = []
        data = pa.table({"f": [math.inf] * count + [1.0]})
        if count == MOST_REFUSED:
            assert from_arrow(data, "t", SCHEMA, None, default_time=NOW, errors=errors).batch.num_rows == 1
            assert [error.row for error in errors] == list(range(MOST_REFUSED))
            continue
        with pytest.raises(RowError, match="more than 10,000 rows are refused, such as row 10001") as caught:
            from_arrow(data, "t", SCHEMA, None, default_time=NOW, errors=errors)
        assert caught.value.row is None


def test_the_default_time_may_run_out() -> None:
    with pytest.raises(RowError, match="the default time is out of range"):
        from_arrow(pa.table({"f": [1.0, 2.0]}), "t", SCHEMA, None, default_time=2**63 - 1)


def test_chunks_are_joined() -> None:
    chunk = pa.table({"f": [1.0, math.nan], "s": ["x", "y"], "host": pa.array(["a", "b"]).dictionary_encode()})
    batch = write(pa.concat_tables([chunk, chunk.slice(1), chunk.slice(0, 0)])).batch
    assert batch.drop_columns("time").to_pydict() == {
        "host": ["a", "b", "b"],
        "f": [1.0, None, None],
        "s": ["x", "y", "y"],
    }


CELL = {
    "host": st.none() | st.sampled_from(["a", "b"]),
    "f": st.none() | st.floats(allow_infinity=False),
    "i": st.none() | st.integers(-(2**63), 2**63 - 1),
    "s": st.none() | st.text(max_size=3),
    "b": st.none() | st.booleans(),
    "time": st.none() | st.integers(-(2**63), 2**63 - 1),
}


@PROPERTY
@given(st.lists(st.fixed_dictionaries(CELL), max_size=6), st.booleans())
def test_rows_and_arrow_mean_the_same(rows: list[dict[str, object]], known: bool) -> None:
    kinds = {
        "host": pa.string(),
        "f": pa.float64(),
        "i": pa.int64(),
        "s": pa.string(),
        "b": pa.bool_(),
        "time": pa.int64(),
    }
    data = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})
    schema, tags = (SCHEMA, None) if known else (None, ["host"])
    outcomes: list[object] = []
    ways: list[Callable[[], TableRows]] = [
        lambda: from_rows(rows, "t", schema, tags, default_time=NOW),
        lambda: write(data, schema, tags),
    ]
    for way in ways:
        try:
            result = way()
        except RowError as error:
            outcomes.append((error.row, error.reason))
        else:
            batch = result.batch
            columns = {name: batch[name].to_pylist() for name in sorted(batch.schema.names) if name != "time"}
            outcomes.append((repr(columns), set(result.new_fields.items()), batch["time"].cast(pa.int64()).to_pylist()))
    assert outcomes[0] == outcomes[1]
