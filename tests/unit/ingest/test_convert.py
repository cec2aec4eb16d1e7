"""Rows that plugins give as Python objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from attrs import field, frozen

from walmill.ingest.assemble import TableRows
from walmill.ingest.convert import from_lines, from_rows
from walmill.ingest.errors import RowError
from walmill.model.schema import TableSchema

NOW = 1_000
SCHEMA = TableSchema("t", ("host",), {"f": "float64", "i": "int64", "u": "uint64", "s": "string", "b": "bool"})


class UInt(int):
    """As the contract's class of this name."""


class Marked(int):
    """Any int that says so itself."""

    walmill_type = "uint64"


class NAType:
    """As pandas' NA, by the name of its class."""


class Nanosecond(datetime):
    """A datetime with nanoseconds, as pandas' Timestamp is."""

    nanosecond = 7


@frozen
class Row:
    """The attributes of the contract's `Line`."""

    table: object
    tags: Mapping[str, object] = field(factory=dict)
    fields: Mapping[str, object] = field(factory=dict)
    time: object = None


def rows(
    *values: Mapping[str, object], schema: TableSchema | None = SCHEMA, tags: Sequence[str] | None = None
) -> TableRows:
    return from_rows(values, "t", schema, tags, default_time=NOW)


def refused(*values: object, schema: TableSchema | None = SCHEMA, tags: Sequence[str] | None = None) -> RowError:
    with pytest.raises(RowError) as caught:
        from_rows(values, "t", schema, tags, default_time=NOW)  # type: ignore[arg-type]
    return caught.value


def test_rows_of_a_new_table() -> None:
    result = rows(
        {"host": "a", "v": 1.5, "time": 5},
        {"v": 2.5, "host": "b", "n": np.int16(3), "ok": np.bool_(False)},
        {"v": math.nan, "n": 4, "host": None, "note": "x", "u": UInt(9), "w": np.uint64(8), "m": Marked(7)},
        {"v": np.float32(0.5), "n": NAType(), "time": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)},
        schema=None,
        tags=["host", "never"],
    )
    assert (result.name, result.new_tags) == ("t", ("host",))
    assert result.new_fields == {
        "v": "float64",
        "n": "int64",
        "ok": "bool",
        "note": "string",
        "u": "uint64",
        "w": "uint64",
        "m": "uint64",
    }
    assert result.batch["host"].to_pylist() == ["a", "b", None, None]
    assert result.batch["v"].to_pylist() == [1.5, 2.5, None, 0.5]
    assert result.batch["n"].to_pylist() == [None, 3, 4, None]
    assert result.batch["time"].cast(pa.int64()).to_pylist() == [5, NOW, NOW + 1, 1_000_000_000]
    assert result.batch.schema.names == ["host", "v", "n", "ok", "note", "u", "w", "m", "time"]


def test_rows_of_a_known_table_take_its_types() -> None:
    result = rows({"host": "a", "f": 2**53, "u": 2**64 - 1, "i": UInt(3)}, {"f": 7, "u": 1, "extra": 1}, tags=["zone"])
    assert (result.new_tags, result.new_fields) == ((), {"extra": "int64"})
    assert result.batch.schema.names == ["host", "f", "i", "u", "extra", "time"]
    assert result.batch["f"].to_pylist() == [2.0**53, 7.0]
    assert result.batch["u"].to_pylist() == [2**64 - 1, 1]
    assert result.batch["f"].buffers()[0] is None
    assert rows({"zone": "z", "f": 1.0}, tags=["zone"]).new_tags == ("zone",)


def test_no_rows() -> None:
    assert rows().batch.num_rows == 0
    assert rows().batch.schema.names == ["time"]


@pytest.mark.parametrize(
    ("value", "column", "message"),
    [
        ({"f": math.inf}, "f", "the value inf is infinite"),
        ({"f": np.float64("-inf")}, "f", "the value -inf is infinite"),
        ({"f": True}, "f", "the value True is bool and the column is float64"),
        ({"i": False}, "i", "the value False is bool and the column is int64"),
        ({"b": 1}, "b", "the value 1 is int64 and the column is bool"),
        ({"i": 1.0}, "i", "the value 1.0 is float64 and the column is int64: round it with int()"),
        ({"f": "1"}, "f", "the value '1' is string and the column is float64"),
        ({"s": 1}, "s", "the value 1 is int64 and the column is string: use str()"),
        ({"f": 2**53 + 1}, "f", "the int 9007199254740993 is not exactly a float64"),
        ({"f": 10**400}, "f", "is not exactly a float64"),
        ({"i": 2**63}, "i", "out of range: int64 reaches from -9223372036854775808 to 9223372036854775807"),
        ({"u": -1}, "u", "the value -1 is out of range: uint64 reaches from 0 to 18446744073709551615"),
        ({"new": 2**63}, "new", "a new column of UInt values can hold it"),
        ({"f": Decimal(1)}, "f", "Decimal('1') is a Decimal: a field is an int, a float, a bool or a str"),
        ({"s": b"x"}, "s", "b'x' is a bytes"),
        ({"new": [1]}, "new", "[1] is a list"),
        ({"new": 1j}, "new", "1j is a complex"),
        ({"new": date(2020, 1, 1)}, "new", "is a date"),
        ({"s": "\ud800"}, "s", "lone surrogate"),
        ({"s": "x" * 1_048_577}, "s", "the string has 1048577 bytes"),
        ({"host": 5, "f": 1.0}, "host", "5 is a int and tags are strings: use str()"),
        ({"host": "", "f": 1.0}, "host", "cannot be empty: use None"),
        ({"host": "a"}, None, "no field has a value"),
        ({"f": None, "s": math.nan}, None, "no field has a value"),
        ({}, None, "no field has a value"),
        ({"f": 1.0, "time": datetime(2020, 1, 1)}, "time", "is naive: give it a time zone"),
        ({"f": 1.0, "time": 2**63}, "time", "out of range"),
        ({"f": 1.0, "time": "now"}, "time", "'now' is a str and not a time"),
        ({"f": 1.0, "time": np.datetime64(5, "s")}, "time", "is a datetime64 and not a time"),
        ({"f": 1.0, "": 1}, "", "the column name is empty"),
        ({"f": 1.0, "x\ny": 1}, "x\ny", "holds a newline"),
        ({"f": 1.0, 5: 1}, None, "5 is not the name of a column"),
        (5, None, "5 is a int and not a mapping"),
    ],
)
def test_a_bad_row_is_named(value: object, column: str | None, message: str) -> None:
    error = refused({"host": "a", "f": 1.0}, value)
    assert (error.row, error.column) == (1, column)
    assert message in error.message
    assert error.message.startswith("row 1")
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (1, 2.5, "the value 2.5 is float64 and earlier rows hold int64"),
        (2.5, 1, "the value 1 is int64 and earlier rows hold float64"),
        (1, UInt(2), "the value 2 is uint64 and earlier rows hold int64"),
        (1, True, "the value True is bool and earlier rows hold int64"),
        ("a", 1, "the value 1 is int64 and earlier rows hold string"),
    ],
)
def test_a_new_column_has_one_type(first: object, second: object, message: str) -> None:
    error = refused({"x": first}, {"x": None, "f": 1.0}, {"x": second})
    assert (error.row, error.column) == (2, "x")
    assert message in error.message


@pytest.mark.parametrize(
    ("schema", "tags", "message"),
    [
        (None, None, "table 't' is new: say which columns are tags"),
        (None, "host", "tags='host' is one string"),
        (None, ["time"], "'time' is a reserved column"),
        (None, [5], "5 is not a str"),
        (SCHEMA, ["f"], "column 'f': it is a float64 field in table 't' and a tag in tags="),
    ],
)
def test_tags_are_said_before_the_rows(schema: TableSchema | None, tags: Sequence[str] | None, message: str) -> None:
    error = refused({"f": 1.0}, schema=schema, tags=tags)
    assert error.row is None
    assert message in error.message


def test_columns_are_counted() -> None:
    error = refused({f"f{i}": 1 for i in range(501)}, schema=None, tags=())
    assert error.row == 0
    assert error.reason.startswith("Update to schema would exceed number of")
    assert rows({f"f{i}": 1 for i in range(500)}, schema=None, tags=()).batch.num_columns == 501


def test_the_nanoseconds_of_a_timestamp_are_kept() -> None:
    result = rows({"f": 1.0, "time": Nanosecond(2262, 1, 1, 0, 0, 0, 1, tzinfo=UTC)})
    expected = int(datetime(2262, 1, 1, tzinfo=UTC).timestamp()) * 10**9 + 1_007
    assert result.batch["time"].cast(pa.int64()).to_pylist() == [expected]


def test_the_default_time_may_run_out() -> None:
    with pytest.raises(RowError, match="row 1, column 'time': the default time is out of range"):
        from_rows([{"f": 1.0}, {"f": 1.0}], "t", SCHEMA, None, default_time=2**63 - 1)


def test_a_new_table_needs_a_name() -> None:
    for table in ("", "#a", "a\nb", "a\0"):
        with pytest.raises(RowError, match="table name"):
            from_rows([], table, None, (), default_time=NOW)


def schema_of(name: str) -> TableSchema | None:
    return SCHEMA if name == "t" else None


def test_lines_of_several_tables() -> None:
    given = [
        Row("t", {"host": "a"}, {"f": 1, "i": 2}),
        Row("new", {"k": "v", "none": None}, {"x": UInt(1)}, 5),
        Row("t", {}, {"f": 2.5, "gone": None}),
    ]
    tables = from_lines(iter(given), schema_of, default_time=NOW)  # type: ignore[arg-type]
    assert list(tables) == ["t", "new"]
    assert tables["t"].batch["f"].to_pylist() == [1.0, 2.5]
    assert tables["t"].batch["time"].cast(pa.int64()).to_pylist() == [NOW, NOW + 1]
    assert (tables["new"].new_tags, tables["new"].new_fields) == (("k",), {"x": "uint64"})
    assert from_lines([], schema_of, default_time=NOW) == {}


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (Row("t", {"f": "a"}, {"i": 1}), "f", "it is a float64 field in table 't' and a tag here"),
        (Row("t", {}, {"host": "a"}), "host", "it is a tag in table 't' and a field here"),
        (Row("t", {"k": "a"}, {"k": 1}), "k", "it is a tag and a field of the same row"),
        (Row("t", {"time": "a"}, {"f": 1.0}), "time", "'time' is a reserved column"),
        (Row("t", {}, {"time": 1}), "time", "'time' is a reserved column"),
        (Row("t", {"host": "a"}), None, "no field has a value"),
        (Row("", {}, {"f": 1}), None, "the table name is empty"),
        (Row(None, {}, {"f": 1}), None, "None is not the name of a table"),
        (Row("t", [("a", "b")], {"f": 1}), None, "tags and fields are mappings"),  # type: ignore[arg-type]
        ("t f=1", None, "'t f=1' is a str and not a Line"),
        (Row("t", {}, {"x": 1.5}), "x", "the value 1.5 is float64 and earlier rows hold int64"),
    ],
)
def test_a_bad_line_is_named(row: object, column: str | None, message: str) -> None:
    with pytest.raises(RowError) as caught:
        from_lines([Row("t", {}, {"x": 1}), row], schema_of, default_time=NOW)  # type: ignore[list-item]
    assert (caught.value.row, caught.value.column) == (1, column)
    assert message in caught.value.message
