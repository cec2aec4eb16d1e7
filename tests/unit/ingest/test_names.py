"""What databases, tables and columns may be called."""

from __future__ import annotations

import pytest

from walmill.errors import InvalidRequest
from walmill.ingest.errors import LineError, RowError, excerpt
from walmill.ingest.names import STRING_BYTES, check_column_name, check_database_name, check_table_name

START = "db name did not start with a number or letter"
CHARACTER = (
    "invalid character in database or rp name: must be ASCII, containing only letters, numbers, underscores, or hyphens"
)
POLICY = (
    "db name with invalid retention policy, if providing a retention policy name, must be of form '<db_name>/<rp_name>'"
)


@pytest.mark.parametrize("name", ["a", "0", "foo", "Foo_bar-9", "foo/bar", "9/autogen", "a" * 511])
def test_database_names(name: str) -> None:
    assert check_database_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "db name cannot be empty"),
        ("_internal", START),
        ("-a", START),
        ("/rp", START),
        (" a", START),
        ("foo bar", CHARACTER),
        ("foo.bar", CHARACTER),
        ("foo\n", CHARACTER),
        ("fóo", CHARACTER),
        ("Öl", CHARACTER),
        ("foo٣", CHARACTER),
        ("foo/b r", CHARACTER),
        ("foo/", POLICY),
        ("foo/bar/", POLICY),
        ("foo/bar/baz", POLICY),
    ],
)
def test_bad_database_names_have_the_exact_message(name: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_database_name(name)
    assert caught.value.message == message


def test_a_database_name_is_at_most_511_characters() -> None:
    with pytest.raises(InvalidRequest, match=r"has 512 characters.*between 1 and 511"):
        check_database_name("a" * 512)


@pytest.mark.parametrize("name", ["cpu", "a b,c=d", "ü", "_x", "a\\b", "back\\\nslash", "x" * STRING_BYTES])
def test_names_of_tables_and_columns(name: str) -> None:
    assert check_table_name(name) == name
    assert check_column_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is empty"),
        ("a\nb", "holds a newline"),
        ("a\tb", "holds a tab"),
        ("a\\", "ends with a backslash"),
        ("a\0b", r"name 'a\\x00b' holds a NUL character: leave it out"),
        ("\udc80", "lone surrogate"),
        ("x" * (STRING_BYTES + 1), "1048577 bytes: at most 1048576"),
        ("ü" * (STRING_BYTES // 2 + 1), "1048578 bytes: at most 1048576"),
    ],
)
def test_bad_names_of_tables_and_columns(name: str, message: str) -> None:
    for check in (check_table_name, check_column_name):
        with pytest.raises(InvalidRequest, match=message) as caught:
            check(name)
        assert len(caught.value.message) < 300


def test_what_only_tables_or_only_columns_may_not_be_called() -> None:
    assert check_table_name("time") == "time"
    with pytest.raises(InvalidRequest, match="'time' is a reserved column"):
        check_column_name("time")
    assert check_column_name("#a") == "#a"
    with pytest.raises(InvalidRequest, match="starts with #"):
        check_table_name("#a")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ""),
        ("short line", "short line"),
        ("a" * 20, "a" * 20),
        ("a" * 21, "a" * 20),
        ("a" * 19 + "érest of the line", "a" * 19),
        ("é" * 15, "é" * 10),
        ("a" + "😀" * 9, "a" + "😀" * 4),
    ],
)
def test_the_excerpt_of_a_line_ends_between_characters(line: str, expected: str) -> None:
    assert excerpt(line) == expected
    assert LineError(2, "bad line", line).as_dict() == {
        "error_message": "bad line",
        "line_number": 2,
        "original_line": expected,
    }


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [(3, "x", "row 3, column 'x': bad"), (None, "x", "column 'x': bad"), (0, None, "row 0: bad"), (None, None, "bad")],
)
def test_a_row_error_names_its_place(row: int | None, column: str | None, message: str) -> None:
    error = RowError(row, column, "bad")
    assert (error.message, error.row, error.column, error.reason) == (message, row, column, "bad")
    assert error.status == 400
