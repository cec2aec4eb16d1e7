"""The parser tests of InfluxDB 3 (`core/influxdb_line_protocol/src/lib.rs`), through the route and both parsers.

Each case names its test. `tests/unit/ingest/test_lineprotocol.py` has more of the kind; here is what a client gets: status,
text, number and beginning of the line, and the rows. Not here, as there is nothing of the kind: the tests of Rust's own types
(`EscapedStr`, `field_value_returned` …). `field_value_display`, `series_display_*`, `parsed_line_display_*` and `builder.rs`
write lines: `tests/unit/ingest/test_render.py` has them. Some answers are others on purpose, see DIFFERENT.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.ingest.errors import excerpt
from walmill.options import EngineOptions
from walmill.testing.clock import ManualClock

NOW = 1_708_473_607_123_456_789
GROUPED = 400
"""So many lines go through the parser that reads many at once."""
SEVERAL = b"".join(b"good,host=h%d v=%di %d\n" % (row % 7, row, row + 1) for row in range(GROUPED))
LIMIT = 1_048_576

SPACE = "Expected at least one space character, got end of input"
TRAILING = "Could not parse entire line. Found trailing content: "
NO_FIELDS = "No fields were provided"
BACKSLASH = "Measurements, tag keys and values, and field keys may not end with a backslash"
LONG = "1" + "8" * 71

REFUSED: list[tuple[str, str, str]] = [
    *(
        ("better_error_messages", line, message)
        for line, message in [
            ("measurement", SPACE),
            (",", "Invalid measurement was provided"),
            ("J,#", "Tag set malformed: could not find equals sign in `#`"),
            ("J," + "a" * 200, "Tag set malformed: could not find equals sign in `aaaaaaaaaa...`"),
            ("J,", "Expected tag key, got end of input"),
            ("testmeasure, bar=1i", "Expected tag key, got ` bar=1i`"),
            (f"testmeasure, {'b' * 200}=1i", "Expected tag key, got ` bbbbbbbbb...`"),
            ("0,,=", "Expected tag value, got end of input"),
            (r"testmeasure,foo\=\,baz= bar=1i", "Expected tag value, got ` bar=1i`"),
            (rf"testmeasure,foo\=\,baz= bar={'1' * 100}i", "Expected tag value, got ` bar=11111...`"),
            ("testmeasure,foo=,baz= bar=1i", "Expected tag value, got `,baz= bar=...`"),
            ("metrics,bananas=,platanos=great value=1.000000 17", "Expected tag value, got `,platanos=...`"),
            ("metrics,node=10.0.213.170,itsEmpty=,effect=No v=1.0 17", "Expected tag value, got `,effect=No...`"),
            ("testmeasure,foo= sed=1i", "Expected tag value, got ` sed=1i`"),
            ("testmeasure,foo=f bar=1i,baz=", TRAILING + "`baz=`"),
            (f"testmeasure,foo=f bar=1i,ba{'z' * 100}=", TRAILING + "`bazzzzzzzz...`"),
            ("\x1b# /", NO_FIELDS),
            (f"testmeasure field=3.0 {LONG}", f"Unable to parse timestamp value `{LONG}`"),
            (f"testmeasure field={'6' * 46}8i", f"Unable to parse integer value `{'6' * 46}8`"),
            ("        badline,", "Expected tag key, got end of input"),
        ]
    ),
    ("parse_lines_returns_all_lines_…", ",tag1=1,tag2=2 value=1 123", "Invalid measurement was provided"),
    ("parse_tag_no_value", "testmeasure,foo= bar=1i", "Expected tag value, got ` bar=1i`"),
    ("parse_no_measurement", "field=1 1234", NO_FIELDS),
    ("parse_null_measurement", "\0 field=1 1234", "Invalid measurement was provided"),
    ("parse_null_measurement", "\0,tag1=1,tag2=2 value=1 123", "Invalid measurement was provided"),
    ("parse_no_fields", "foo 1234", NO_FIELDS),
    ("parse_null_in_field_value", "m,tag1=one,tag2=2 value=\0 123", NO_FIELDS),
    ("parse_negative_uinteger", "m0 field=-1u 99", TRAILING + "`u 99`"),
    *(
        ("parse_scientific_float", f"m0 field=-1.234456{end} 1615869152385000000", f"{TRAILING}`{cut}...`")
        for end, cut in [("e", "e 16158691"), ("e+", "e+ 1615869"), ("E", "E 16158691"), ("E+", "E+ 1615869")]
    ),
    ("parse_scientific_float", "m0 field=-1.234456E-", TRAILING + "`E-`"),
    ("parse_out_of_range_integer", f"m0 field={'9' * 32}i 99", f"Unable to parse integer value `{'9' * 32}`"),
    ("parse_out_of_range_uinteger", f"m0 field={'9' * 32}u 99", f"Unable to parse unsigned integer value `{'9' * 32}`"),
    ("parse_out_of_range_timestamp", f"m0 field=1i {'9' * 32}", f"Unable to parse timestamp value `{'9' * 32}`"),
    ("measurement_disallows_literal_newline", "weat", SPACE),
    ("tag_key_disallows_literal_newline", "m,weat", "Tag set malformed: could not find equals sign in `weat`"),
    ("tag_value_disallows_literal_newline", "m,a=weat", SPACE),
    ("field_key_disallows_literal_newline", "m weat", NO_FIELDS),
    ("parse_advance_after_error", "foo,tag0=value1 asdf=23.1.22,jkl=4", TRAILING + "`.22,jkl=4`"),
    (
        "duplicate_field_names_should_fail",
        "cpu v=1,v=2",
        "invalid line protocol - multiple instances of 'v' field found",
    ),
]
"""A line that is refused, alone and in company."""

LAST: list[tuple[str, str, str]] = [
    ("better_error_messages", ":\x14\\", BACKSLASH),
    ("measurement_disallows_ending_in_backslash", "weather\\", BACKSLASH),
    ("tag_key_disallows_ending_in_backslash", "m,weather\\", BACKSLASH),
    ("tag_value_disallows_ending_in_backslash", "m,a=weather\\", BACKSLASH),
    ("field_key_disallows_ending_in_backslash", "m weather\\", BACKSLASH),
]
"""The same at the end of a body: before a newline the backslash would keep it."""

Columns = dict[str, Any]
ACCEPTED: list[tuple[str, str, list[Columns]]] = [
    ("parse_no_measurement", "tag1=1 field=1 1234", [{"field": 1.0, "time": 1234}]),
    ("parse_measurement_with_eq", "tag1=1,tag2=2 value=1 123", [{"tag2": "2", "value": 1.0, "time": 123}]),
    (
        "parse_where_nulls_accepted",  # but not in the names of columns, see DIFFERENT
        'm,tag1=o\0ne,tag2=2 value=1 2\n  m,tag1=one,tag2=\0 value=1 3\n  m,tag1=one,tag2=2 text="v\0" 5',
        [
            {"tag1": "o\0ne", "tag2": "2", "value": 1.0, "time": 2},
            {"tag1": "one", "tag2": "\0", "value": 1.0, "time": 3},
            {"tag1": "one", "tag2": "2", "text": "v\0", "time": 5},
        ],
    ),
    (
        "parse_mixed_field_types",
        'foo asdf=23.1,bar=-5i,qux=9u,baz="the string",frab=false 1234',
        [{"asdf": 23.1, "bar": -5, "qux": 9, "baz": "the string", "frab": False, "time": 1234}],
    ),
    *(
        ("parse_string_values", f'foo asdf="{written}" 1', [{"asdf": read, "time": 1}])
        for written, read in [
            ("", ""),
            ("str val", "str val"),
            (r"The \"string\" val", 'The "string" val'),
            (r"The \"string w/ single double quote", 'The "string w/ single double quote'),
            ("too hot/cold", "too hot/cold"),
            (r"too hot\cold", r"too hot\cold"),
            (r"too hot\\cold", r"too hot\cold"),
            (r"too hot\\\cold", r"too hot\\cold"),
            (r"too hot\\\\cold", r"too hot\\cold"),
            (r"too hot\\\\\cold", r"too hot\\\cold"),
            (r"too hot\\\\\\cold", r"too hot\\\cold"),
        ]
    ),
    *(
        ("parse_bool_values", f"foo asdf={text} 1", [{"asdf": text[0] in "tT", "time": 1}])
        for text in ("t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE")
    ),
    *(
        (
            "parse_scientific_float",
            f"m0 field={text} 1615869152385000000",
            [{"field": value, "time": 1615869152385000000}],
        )
        for text, value in [
            ("-1.234456e+06", -1234456.0),
            ("-1.234456E+3", -1234.456),
            ("1.234456e+02", 123.4456),
            ("1.234456E+16", 1.234456e16),
            ("1.234456E-16", 1.234456e-16),
            ("1.234456e-03", 0.001234456),
            ("1.234456e-0", 1.234456),
            ("1e-0", 1.0),
            ("-1e-0", -1.0),
            ("-1.234456e06", -1234456.0),
            ("1.234456e06", 1234456.0),
            ("-1.234456E06", -1234456.0),
            ("1.234456E06", 1234456.0),
        ]
    ),
    ("parse_negative_integer", "m0 field=-1i 99", [{"field": -1, "time": 99}]),
    ("parse_negative_float", "m0 field2=-1 99", [{"field2": -1.0, "time": 99}]),
    ("parse_out_of_range_float", f"m0 field={'9' * 200}.{'9' * 200} 99", [{"field": 1e200, "time": 99}]),
    (
        "parse_multiple_lines_become_multiple_points",
        "foo value1=1i 123\nfoo value2=2i 124",
        [{"value1": 1, "time": 123}, {"value2": 2, "time": 124}],
    ),
    ("parse_trailing_whitespace_is_fine", "foo,tag=val value1=1i 123\n\n", [{"tag": "val", "value1": 1, "time": 123}]),
    ("parse_negative_timestamp", "foo value1=1i -123", [{"value1": 1, "time": -123}]),
    ("parse_multiple_whitespace_…_is_allowed", "  measurement  a=1i  123  ", [{"a": 1, "time": 123}]),
    ("parse_commented_lines_are_ignored", "# comment\n  #more\nfoo v=1i 1", [{"v": 1, "time": 1}]),
    (
        "parse_no_time",
        "foo,tag0=value1 asdf=23.1,bar=5i",
        [{"tag0": "value1", "asdf": 23.1, "bar": 5, "time": NOW}],
    ),
    *(
        (
            f"*_allows_{what}",
            f"{written},t{written}={written} f{written}=1i 1",
            [{f"t{read}": read, f"f{read}": 1, "time": 1}],
        )
        for what, written, read in [
            ("escaping_comma", r"wea\,ther", "wea,ther"),
            ("escaping_equal", r"wea\=ther", "wea=ther"),
            ("escaping_space", r"wea\ ther", "wea ther"),
            ("escaping_backslash", r"\\wea\\ther", r"\wea\ther"),
            ("backslash_with_unknown_escape", r"\wea\ther", r"\wea\ther"),
            ("literal_newline_as_unknown_escape", "weat\\\nher", "weat\\\nher"),
        ]
    ),
]
"""What is read, by both parsers; the table is the one that the body makes."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    options = EngineOptions(discover_plugins=False, shutdown_timeout=5.0, clock=ManualClock(NOW))
    with Engine.open(options) as made:
        yield made


def _post(client: TestClient, body: bytes, **params: str) -> Any:
    return client.post("/api/v3/write_lp", params={"db": "d", "precision": "ns", **params}, content=body)


def _told(number: int, line: str, message: str) -> dict[str, Any]:
    return {"error_message": message, "line_number": number, "original_line": excerpt(line)}


def _good(engine: Engine, database: str = "d") -> int:
    return int(engine.query("SELECT count(*) AS n FROM good", database=database)["n"][0].as_py())


@pytest.mark.parametrize("company", [b"", SEVERAL], ids=["plain", "fast"])
def test_every_refused_line_is_named(client: TestClient, engine: Engine, company: bytes) -> None:
    """One bad line never hides the next one, nor a good one (`better_error_messages`, its last part)."""
    lines = [line for _, line, _ in REFUSED]
    between = "\ngood,host=x v=0i 0\n\n"  # the number is that of the body's line, also behind the blank one
    answer = _post(client, company + between.join(lines).encode())
    assert answer.status_code == 400
    first = company.count(b"\n") + 1
    expected = [_told(first + 3 * place, line, message) for place, (_, line, message) in enumerate(REFUSED)]
    assert answer.json() == {"error": "partial write of line protocol occurred", "data": expected}
    assert _good(engine) == (GROUPED if company else 0) + 1  # the lines between are one row, written again and again


@pytest.mark.parametrize("company", [b"", SEVERAL], ids=["plain", "fast"])
def test_a_refused_line_alone(client: TestClient, engine: Engine, company: bytes) -> None:
    number = company.count(b"\n") + 1
    for _, line, message in REFUSED + LAST:
        answer = _post(client, company + line.encode(), accept_partial="false")
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "line protocol parsing error", "data": _told(number, line, message)},
        )
        if not company:
            answer = _post(client, line.encode())
            assert (answer.status_code, answer.json()["data"]) == (400, [_told(number, line, message)])
    assert engine.databases() == []


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Engine, TestClient]]:
    """One server for many cases, each with a database of its own. What it starts at its first use is started here."""
    options = EngineOptions(discover_plugins=False, shutdown_timeout=5.0, clock=ManualClock(NOW))
    with (
        Engine.open(options) as made,
        TestClient(create_app(made, without_auth=True, close_engine=False)) as client,
    ):
        assert _post(client, SEVERAL).status_code == 204
        assert _good(made) == GROUPED
        made.query("SELECT * FROM generate_series(1, 1)", database="d")  # the thread for long queries
        yield made, client


@pytest.mark.parametrize("company", [b"", SEVERAL], ids=["plain", "fast"])
@pytest.mark.parametrize("case", range(len(ACCEPTED)), ids=[f"{name}-{body[:40]}" for name, body, _ in ACCEPTED])
def test_what_is_accepted(shared: tuple[Engine, TestClient], case: int, company: bytes) -> None:
    engine, client = shared
    _, body, rows = ACCEPTED[case]
    database = f"d{case}-{len(company)}"
    answer = _post(client, company + body.encode(), db=database)
    assert (answer.status_code, answer.text) == (204, "")
    (table,) = set(engine.view().catalog.database(database).tables) - {"good"}
    found = engine.query(f'SELECT * FROM "{table}" ORDER BY "time"', database=database)
    times = found["time"].cast("int64").to_pylist()
    read = found.drop_columns(["time"]).to_pylist()
    assert [
        {**{key: value for key, value in row.items() if value is not None}, "time": time}
        for row, time in zip(read, times, strict=True)
    ] == rows
    if company:
        assert _good(engine, database) == GROUPED


@pytest.mark.parametrize("body", [b"", b"\n\n\n", b"# comment", b"  #comment\n# more\n"])
def test_blank_lines_and_comments_alone(client: TestClient, engine: Engine, body: bytes) -> None:
    """`parse_empty`, `parse_blank_lines_are_ignored`, `parse_commented_lines_are_ignored`."""
    answer = _post(client, body)
    assert (answer.status_code, answer.json()) == (400, {"error": "incoming write was empty"})


PARTS = [
    ("measurement", "{} f=1i 5"),
    ("tag key", "m,{}=a f=1i 5"),
    ("tag value", "m,a={} f=1i 5"),
    ("field key", "m {}=1i 5"),
    ("string", 'm f="{}" 5'),
]


@pytest.mark.parametrize(("what", "template"), PARTS)
def test_large_in_one_line_of_many(engine: Engine, what: str, template: str) -> None:
    """`test_large_*`: the longest is taken, and one byte more costs its own line only. The text is ours: InfluxDB's says 64KB."""
    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as client:
        for size in (LIMIT, LIMIT + 1):
            body = SEVERAL + template.format("a" * size).encode() + b"\n" + SEVERAL
            params = {"db": "d", "precision": "ns"}
            packed = gzip.compress(body, compresslevel=1)
            answer = client.post(
                "/api/v3/write_lp", params=params, content=packed, headers={"content-encoding": "gzip"}
            )
            if size == LIMIT:
                assert answer.status_code == 204
                continue
            (error,) = answer.json()["data"]
            message = f"the {what} has 1048577 bytes: at most 1048576 are allowed"
            assert error == _told(GROUPED + 1, template.format("a" * 30), message)
    assert _good(engine) == GROUPED


DIFFERENT: list[tuple[str, str, str]] = [
    # `parse_where_nulls_accepted`: queries see a name only up to its NUL, and two such names made a table unreadable
    ("a\0", "m,{}b=x f=1 1", r"the tag key 'a\x00b' holds a NUL character"),
    ("a\0", "m {}b=1 1", r"the field key 'a\x00b' holds a NUL character"),
    # `parse_out_of_range_float` stores infinity, which JSON and most tools cannot say: it is refused
    ("9" * 1000 + ".9", "m f={} 1", "Unable to parse floating-point value `"),
    # 3.10.2 takes a tag twice and then crashes at each start; later ones refuse it, as is done here
    ("a=1,a=2", "m,{} f=1 1", "Must not contain duplicate tags, but `a` was repeated"),
    # a column `time` would hide the time of the row
    ("time", "m {}=1 1", "'time' is a reserved column: a field cannot have this name"),
]


@pytest.mark.parametrize("company", [b"", SEVERAL], ids=["plain", "fast"])
@pytest.mark.parametrize(("part", "template", "said"), DIFFERENT)
def test_what_is_different_on_purpose(client: TestClient, part: str, template: str, said: str, company: bytes) -> None:
    answer = _post(client, company + template.format(part).encode())
    (error,) = answer.json()["data"]
    assert (answer.status_code, error["line_number"]) == (400, company.count(b"\n") + 1)
    assert error["error_message"].startswith(said)
