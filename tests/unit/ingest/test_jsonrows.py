"""Bodies of JSON rows: what is read, and what is wrong with the rest, by its number."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.errors import InvalidRequest
from walmill.ingest.convert import from_numbered_rows, from_rows
from walmill.ingest.errors import RowError
from walmill.ingest.jsonrows import read_json_rows
from walmill.model.schema import TableSchema

PROPERTY = settings(max_examples=100)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
ROWS = st.lists(st.dictionaries(st.text().filter(lambda name: name != "time"), VALUES, max_size=5), max_size=6)


@PROPERTY
@given(rows=ROWS, indent=st.sampled_from([None, 0, 2]), ascii_=st.booleans(), mark=st.booleans())
def test_an_array_and_lines_are_the_same(
    rows: list[dict[str, Any]], indent: int | None, ascii_: bool, mark: bool
) -> None:
    array = json.dumps(rows, indent=indent, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii_) for row in rows).encode("utf-8", "surrogatepass")
    for body in (array, lines, b"\r\n".join(lines.split(b"\n")) + b"\r\n\r\n"):
        found = read_json_rows(b"\xef\xbb\xbf" * mark + body)
        assert found.rows == list(enumerate(rows, 1))
        assert found.errors == []


@pytest.mark.parametrize(
    ("time", "nanos"),
    [
        ("1769851800000000000", 1_769_851_800_000_000_000),
        ('"1769851800000000000"', 1_769_851_800_000_000_000),
        ('"2026-01-31T09:30:00Z"', 1_769_851_800_000_000_000),
        ('"2026-01-31T10:30:00.000000001+01:00"', 1_769_851_800_000_000_001),
        ("-1", -1),
        ("null", None),
    ],
)
def test_times(time: str, nanos: int | None) -> None:
    assert read_json_rows(f'[{{"v":1,"time":{time}}}]'.encode()).rows == [(1, {"v": 1, "time": nanos})]


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ('"yesterday"', "'yesterday' is not a time"),
        ('"2026-01-31T09:30:00"', "has no zone"),
        ('"2600-01-31T09:30:00Z"', "out of bounds"),
        ("1.5", "1.5 is no time"),
        ("true", "True is no time"),
        ("[]", "[] is no time"),
    ],
)
def test_times_that_are_none(time: str, said: str) -> None:
    found = read_json_rows(f'[{{"v":1}},{{"v":1,"time":{time}}}]'.encode())
    [error] = found.errors
    assert (error.row, error.column, found.rows) == (2, "time", [(1, {"v": 1})])
    assert said in error.reason


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("5", "5 is no row: a row is a JSON object"),
        ('["a"]', "is no row"),
        ("null", "None is no row"),
        ('{"a":1', "is not JSON"),
        ('{"a":NaN}', "NaN is not JSON"),
        ('{"a":-Infinity}', "-Infinity is not JSON"),
        ('{"a":1,"a":2}', "the member 'a' occurs twice"),
        ('{"a":{"b":1,"b":2}}', "the member 'b' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' + "9" * 5000 + "}", "is not JSON"),
        ('{"a":1} {"a":2}', "is not JSON"),
        ("cpu,host=a v=1 1", "is not JSON"),
    ],
)
def test_a_bad_line_is_an_error_of_its_own(row: str, said: str) -> None:
    found = read_json_rows(f'\n{{"v":1}}\n{row}\n\n{{"v":2}}'.encode())
    assert found.rows == [(2, {"v": 1}), (5, {"v": 2})], "blank lines are counted"
    [error] = found.errors
    assert error.row == 3
    assert said in error.reason


def test_bad_utf8_spoils_its_own_line_only() -> None:
    found = read_json_rows(b'{"v":1}\n{"v":"\xff"}\n{"v":2}')
    assert [number for number, _ in found.rows] == [1, 3]
    assert "byte 6 begins no character" in found.errors[0].reason
    with pytest.raises(InvalidRequest, match="byte 7 begins no character"):
        read_json_rows(b'[{"v":"\xff"}]')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[", "row 1: Expecting value"),
        ("[}", "row 1: Expecting value"),
        ('[{"v":1}', "row 1 is followed by nothing"),
        ('[{"v":1},', "row 2: Expecting value"),
        ('[{"v":1},]', "row 2: Expecting value"),
        ('[{"v":1} {"v":2}]', "row 1 is followed by '{\"v\":2}]'"),
        ('[{"v":1},{"v":2]', "row 2: Expecting"),
        ('[{"v":1}] []', r"'\[\]' follows the array"),
        ('[{"v":1},{"v":NaN}]', "row 2: NaN is not JSON"),
        ("[" * 100_000, "row 1 is nested too deeply"),
    ],
)
def test_an_array_that_is_damaged_is_refused_whole(body: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_json_rows(body.encode())


def test_an_empty_array() -> None:
    assert read_json_rows(b" [ \n] ").rows == []


# ---- numbered rows


SCHEMA = TableSchema("t", ("host",), {"f": "float64", "i": "int64", "s": "string"})
MIXED = st.lists(
    st.dictionaries(
        st.sampled_from(["host", "f", "i", "s", "new", "time"]), st.sampled_from([None, 1, 2.5, "x", True, ""])
    ),
    max_size=8,
)


@PROPERTY
@given(rows=MIXED, exists=st.booleans())
def test_each_row_is_judged_as_if_the_bad_ones_were_not_there(rows: list[dict[str, Any]], exists: bool) -> None:
    schema = SCHEMA if exists else None
    made, refused = from_numbered_rows(enumerate(rows, 1), "t", schema, ["host"], default_time=7)
    bad = {error.row for error in refused}
    good = [row for number, row in enumerate(rows, 1) if number not in bad]
    # a refused row without a time has taken the default one: those behind it got theirs later
    expected = from_rows(good, "t", schema, ["host"], default_time=7)
    assert made.batch.drop_columns("time") == expected.batch.drop_columns("time")
    assert (made.new_tags, dict(made.new_fields)) == (expected.new_tags, dict(expected.new_fields))
    if refused:
        with pytest.raises(RowError):
            from_rows(rows, "t", schema, ["host"], default_time=7)
