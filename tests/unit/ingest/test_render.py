"""Rows as line protocol, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from attrs import field, frozen
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from walmill.ingest.errors import RowError
from walmill.ingest.lineprotocol import Point, parse
from walmill.ingest.names import unsayable
from walmill.ingest.precision import Precision
from walmill.ingest.render import render

PROPERTY = settings(max_examples=300)
NOW = 77


class UInt(int):
    """As the contract's class of this name."""


@frozen
class Row:
    """The attributes of the contract's `Line`."""

    table: str
    tags: Mapping[str, str] = field(factory=dict)
    fields: Mapping[str, int | float | bool | str | None] = field(factory=dict)
    time: int | datetime | None = None


def reread(text: str) -> Point:
    parsed = parse(text.encode(), precision=Precision.NANOSECOND, default_time=NOW)
    assert parsed.errors == []
    (point,) = parsed.points
    return point


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row("some_table", {"tag1": "tag1_value"}, {"field1": 1}), "some_table,tag1=tag1_value field1=1i"),
        (
            Row(
                "paths",
                {"windows_path": "C:\\Program Files\\App", "regex": "\\d+\\w+"},
                {"description": "Windows\\Unix paths", "count": 42},
            ),
            r'paths,windows_path=C:\\Program\ Files\\App,regex=\\d+\\w+ description="Windows\\Unix paths",count=42i',
        ),
        (
            Row(
                "complex,measurement",
                {"location": "New York, USA", "details": "floor=5, room=3"},
                {"value": 123.456},
                1_609_459_200_000_000_000,
            ),
            r"complex\,measurement,location=New\ York\,\ USA,details=floor\=5\,\ room\=3 "
            "value=123.456 1609459200000000000",
        ),
        (
            Row("formulas", {"equation": "y=mx+b", "result": "a=b=c"}, {"value": 3.14159}),
            r"formulas,equation=y\=mx+b,result=a\=b\=c value=3.14159",
        ),
        (Row("a=b", {"k =,": "v"}, {"f =,": True, "g": False}), r"a=b,k\ \=\,=v f\ \=\,=t,g=f"),
        (Row("m", {}, {"s": 'say "hi"\n\\', "e": ""}), 'm s="say \\"hi\\"\n\\\\",e=""'),
        (Row("m", {}, {"u": UInt(2**64 - 1), "f": 2.0, "z": -0.0}), "m u=18446744073709551615u,f=2.0,z=-0.0"),
        (Row("m", {}, {"f": 1e300, "g": 5e-324}), "m f=1e+300,g=5e-324"),
        (Row("m", {}, {"a": None, "b": math.nan, "c": 1, "d": np.float64("nan")}), "m c=1i"),
        (Row("m", {"t": None}, {"a": np.int8(3), "b": np.uint64(3), "c": np.float32(0.5)}), "m a=3i,b=3u,c=0.5"),  # type: ignore[dict-item]
        (Row("m", {}, {"f": np.bool_(True), "s": np.str_("x")}), 'm f=t,s="x"'),  # type: ignore[dict-item]
        (Row("m", {}, {"f": 1}, datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)), "m f=1i 1000005000"),
        (Row("m", {}, {"f": 1}, datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))), "m f=1i 0"),
        (Row("m", {}, {"f": 1}, datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)), "m f=1i -1000"),
    ],
)
def test_what_is_written(row: Row, expected: str) -> None:
    assert render(row) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("some_table"), "at least one field is required: some_table"),
        (Row("m", {"a": "b"}, {"x": None, "y": math.nan}), "at least one field is required: m,a=b"),
        (Row("", {}, {"f": 1}), "the table name is empty"),
        (Row("a\nb", {}, {"f": 1}), r"the table name 'a\\nb' holds a newline"),
        (Row("#a", {}, {"f": 1}), "starts with #"),
        (Row("a\\", {}, {"f": 1}), "ends with a backslash"),
        (Row("m", {"": "x"}, {"f": 1}), "column '': the column name is empty"),
        (Row("m", {"time": "x"}, {"f": 1}), "column 'time': 'time' is a reserved column"),
        (Row("m", {"a": "x\ny"}, {"f": 1}), r"column 'a': the tag value 'x\\ny' holds a newline"),
        (Row("m", {"a": "x\t"}, {"f": 1}), "holds a tab"),
        (Row("m", {"a": "C:\\"}, {"f": 1}), "column 'a': the tag value .* ends with a backslash"),
        (Row("m", {"a": ""}, {"f": 1}), "column 'a': the value of a tag cannot be empty"),
        (Row("m", {"a": 1}, {"f": 1}), "column 'a': 1 is a int and tags are strings"),  # type: ignore[dict-item]
        (Row("m", {"a": "\ud800"}, {"f": 1}), "lone surrogate"),
        (Row("m", {"a": "x"}, {"a": 1}), "column 'a': it is a tag and a field"),
        (Row("m", {}, {"f\n": 1}), r"the column name 'f\\n' holds a newline"),
        (Row("m", {}, {"f": math.inf}), "column 'f': the value inf is infinite"),
        (Row("m", {}, {"f": -math.inf}), "the value -inf is infinite"),
        (Row("m", {}, {"f": 2**63}), "column 'f': the value 9223372036854775808 is out of range: int64 .* UInt"),
        (Row("m", {}, {"f": -(2**63) - 1}), "out of range: int64 reaches from -9223372036854775808 to"),
        (Row("m", {}, {"f": UInt(-1)}), "the value -1 is out of range: uint64 reaches from 0 to"),
        (Row("m", {}, {"f": UInt(2**64)}), "uint64 reaches from 0 to 18446744073709551615"),
        (Row("m", {}, {"f": b"x"}), "column 'f': b'x' is a bytes: a field is an int"),  # type: ignore[dict-item]
        (Row("m", {}, {"f": "x" * 1_048_577}), "the string has 1048577 bytes"),
        (Row("m", {}, {"f": 1}, datetime(2020, 1, 1)), "column 'time': the time 2020-01-01T00:00:00 is naive"),
        (Row("m", {}, {"f": 1}, 2**63), "column 'time': the time 9223372036854775808 is out of range"),
        (Row("m", {}, {"f": 1}, datetime(2300, 1, 1, tzinfo=UTC)), "is out of range"),
        (Row("m", {}, {"f": 1}, True), "column 'time': True is a bool and not a time"),
        (Row("m", {}, {"f": 1}, 1.5), "column 'time': 1.5 is a float and not a time"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(row: Row, message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        render(row)
    assert len(caught.value.message) < 400


SAYABLE = st.text(
    alphabet=st.one_of(st.sampled_from('ab=, "\\#\n\t\ré\0'), st.characters(codec="utf-8")), min_size=1, max_size=8
)
VALUE_OF_TAG = SAYABLE.filter(lambda text: unsayable(text, "name") is None)
NAME = VALUE_OF_TAG.filter(lambda text: "\0" not in text and text != "time")
VALUE = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1).map(UInt),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(alphabet=st.one_of(st.sampled_from('ab=, "\\\n\r\0'), st.characters(codec="utf-8"))),
)


def kind_of(value: object) -> str:
    kinds = {bool: "bool", int: "int64", UInt: "uint64", float: "float64", str: "string"}
    return kinds[type(value)]


@PROPERTY
@given(
    NAME,
    st.dictionaries(NAME, VALUE_OF_TAG, max_size=3),
    st.dictionaries(NAME, VALUE, min_size=1, max_size=4),
    st.none() | st.integers(-(2**63), 2**63 - 1),
)
def test_what_was_rendered_is_read_as_the_same(
    table: str, tags: dict[str, str], fields: dict[str, int | float | bool | str | None], time: int | None
) -> None:
    assume(not set(tags) & set(fields) and not table.startswith("#"))
    point = reread(render(Row(table, tags, fields, time)))
    assert point.measurement == table
    assert dict(point.tags) == tags
    assert [name for name, _ in point.tags] == list(tags)
    assert [(name, kind) for name, kind, _ in point.fields] == [(n, kind_of(v)) for n, v in fields.items()]
    assert [repr(v) for _, _, v in point.fields] == [
        repr(int(v) if isinstance(v, UInt) else v) for v in fields.values()
    ]
    assert point.time == (NOW if time is None else time)


@PROPERTY
@given(st.text(alphabet='ab=, "\\\n\t1#', max_size=30))
def test_every_point_can_be_rendered(text: str) -> None:
    for point in parse(f"m{text}".encode(), precision=Precision.NANOSECOND, default_time=NOW).points:
        fields = {name: UInt(v) if kind == "uint64" else v for name, kind, v in point.fields}
        again = reread(render(Row(point.measurement, dict(point.tags), fields, point.time)))
        assert again[:4] == point[:4]


def test_a_backslash_before_a_newline_or_a_tab_keeps_it() -> None:
    row = Row("a\\\nb", {"k\\\t\\x": "v\\\\\nw,"}, {"f\\\n": 1, "s": "\\\n\t"}, 5)
    point = reread(render(row))
    assert (point.measurement, point.tags, point.time) == (row.table, tuple(row.tags.items()), 5)
    assert point.fields == (("f\\\n", "int64", 1), ("s", "string", "\\\n\t"))
