"""Both parsers against `line-protocol-parser`, which others wrote in C: equal where it is right, and where it is wrong.

It reads one line, knows no precision, and has one type for all ints. It has wheels for Python 3.11 to 3.13.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_protocol_parser import LineFormatError, parse_line

from walmill.ingest.gather import gather
from walmill.ingest.heads import HeadCache
from walmill.ingest.lineprotocol import parse
from walmill.ingest.precision import Precision
from walmill.ingest.vector import VectorParser

NOW = 1_700_000_000_123_456_789
PARSER = VectorParser(HeadCache(series=300))

# What it gets right. A name is written piece by piece; what an escape stands for is for the parsers to say.
PIECES = [*"abcz09_-.:/'\"#é😀\u2028\x85\x7f", r"\,", r"\ ", r"\=", r"\x", r"\n", r"\"", r"\é"]
name = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
measurement = st.one_of(st.sampled_from(["m", "cpu"]), name.map(lambda text: "m" + text), st.just("m=1"))
number = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False).map(repr)
digits = st.tuples(
    st.sampled_from(["", "-"]),
    st.integers(0, 10**20).map(str),
    st.sampled_from(["", ".0", ".5", ".125", ".000001"]),
    st.sampled_from(["", "e0", "E5", "e+06", "E-3", "e-0"]),
).map("".join)
IN_STRINGS = [*"abz é😀\u2028\x85\x01\t\r\n,=#'i", r"\"", r"\\", r"\n", r"\,"]
string = st.lists(st.sampled_from(IN_STRINGS), max_size=8).map(lambda parts: f'"{"".join(parts)}"')
# The first letter of a name says which type it has, so that the lines of a body agree.
VALUES = {
    "f": st.one_of(number, digits),
    "i": st.integers(-(2**63), 2**63 - 1).map(lambda value: f"{value}i"),
    "u": st.integers(0, 2**64 - 1).map(lambda value: f"{value}u"),
    "b": st.sampled_from(["t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"]),
    "s": string,
}
stamp = st.one_of(st.just(""), st.just(" "), st.integers(-(2**63) + 2, 2**63 - 2).map(lambda value: f" {value}"))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[str, list[str], list[str]]:
    """Measurement, tag keys and field keys of some lines."""
    tags = draw(st.lists(name.map(lambda text: "t" + text), max_size=3, unique=True))
    fields = draw(st.lists(st.tuples(st.sampled_from("fiubs"), name).map("".join), min_size=1, max_size=5, unique=True))
    return draw(measurement), tags, fields


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    made = []
    pool = draw(st.lists(shapes(), min_size=1, max_size=2))
    for _ in range(draw(st.integers(1, 5))):
        table, tags, fields = draw(st.sampled_from(pool))
        value = st.one_of(st.sampled_from(["a", "b"]), name.map(lambda text: "v" + text))
        head = table + "".join(f",{key}={draw(value)}" for key in tags)
        body = ",".join(f"{key}={draw(VALUES[key[0]])}" for key in fields)
        made.append(
            draw(st.sampled_from(["", "", "  "])) + head + draw(st.sampled_from([" ", "  "])) + body + draw(stamp)
        )
    return made


def _bits(value: Any) -> Any:
    return struct.pack("d", value) if isinstance(value, float) else (type(value), value)


def _theirs(line: str) -> tuple[str, dict[str, Any], int]:
    found = parse_line(line)
    columns = found["tags"] | found["fields"]
    return found["measurement"], _all_bits(columns), NOW if found["time"] is None else found["time"]


def _plain(body: str) -> list[tuple[str, dict[str, Any], int]]:
    parsed = parse(body.encode(), precision=Precision.NANOSECOND, default_time=NOW)
    assert parsed.errors == []
    return [
        (
            point.measurement,
            _all_bits({**dict(point.tags), **{key: value for key, _, value in point.fields}}),
            point.time,
        )
        for point in parsed.points
    ]


def _fast(body: str) -> list[tuple[str, dict[str, Any], int]]:
    """The rows, table by table."""
    scanned = PARSER.parse(body.encode(), precision=Precision.NANOSECOND, default_time=NOW)
    found = gather(scanned, {}.get, accept_partial=True)
    assert list(found.errors) == []
    rows = []
    for table in found.tables.values():
        batch = table.batch
        times = batch["time"].cast("int64").to_pylist()
        for row, time in zip(batch.drop_columns(["time"]).to_pylist(), times, strict=True):
            rows.append((table.name, _all_bits({key: value for key, value in row.items() if value is not None}), time))
    return rows


def _all_bits(columns: dict[str, Any]) -> dict[str, Any]:
    return {key: _bits(value) for key, value in columns.items()}


@settings(max_examples=150)
@given(lines())
def test_both_parsers_read_what_the_other_one_reads(made: list[str]) -> None:
    theirs = [_theirs(line) for line in made]
    body = "\n".join(made)
    assert _plain(body) == theirs
    tables = list(dict.fromkeys(table for table, _, _ in theirs))
    assert _fast(body) == sorted(theirs, key=lambda row: tables.index(row[0]))


REFUSED = "refused"

FAULTS: list[tuple[str, Any, str]] = [
    # It refuses what InfluxDB takes: our rows.
    ("m f=1 9223372036854775807", 2**63 - 1, "the last instants are taken for an overflow"),
    ("m f=1 -9223372036854775808", -(2**63), "and the first"),
    ("m f=1 -9223372036854775807", -(2**63) + 1, "and the one behind"),
    ("m f=5e-324 1", {"f": 5e-324}, "a subnormal float is taken for an overflow"),
    ("m f=1e-400 1", {"f": 0.0}, "so is what is smaller still, which is zero"),
    ("m,t=a=b f=1 1", {"t": "a=b", "f": 1.0}, "an equals sign in the value of a tag needs no backslash"),
    ("m a,b=1 1", {"a,b": 1.0}, "a comma in the name of a field needs none"),
    ("m,,a=c f=1 1", {",a": "c", "f": 1.0}, "nor in the name of a tag"),
    ("m,t=a\rb f=1 1", {"t": "a\rb", "f": 1.0}, "a CR in a name is a character like others"),
    ("m,t=a\\\nb f=1 1", {"t": "a\\\nb", "f": 1.0}, "so is a newline behind a backslash"),
    ('m f="a\0b" 1', {"f": "a\0b"}, "NUL is allowed in strings"),
    # It takes what is refused here: the text.
    ("m f=.5 1", "No fields were provided", "a float begins with a digit"),
    ("m f=1. 1", "Could not parse entire line. Found trailing content: `. 1`", "a point is followed by one"),
    ("m f=1,f=2 1", "invalid line protocol - multiple instances of 'f' field found", "it drops the second value"),
    ("m,f=1 f=2 1", "'f' is a tag and a field in the same line: a column is one or the other", "a column is one thing"),
    ("m,t=a\tb f=1", "Expected at least one space character, got `\tb f=1`", "a tab ends a name"),
    ('m f="a""b" 1', 'Could not parse entire line. Found trailing content: `"b" 1`', "a quote ends a string"),
    # It reads something else: our columns.
    (r"m,t\\k=v\\v f\\k=1 1", {"t\\k": "v\\v", "f\\k": 1.0}, "two backslashes in a name are one"),
    (r"m\\a f=1 1", r"table m\a", "also in a measurement"),
]


@pytest.mark.parametrize(("line", "ours", "why"), FAULTS, ids=[why for *_, why in FAULTS])
def test_where_the_other_one_is_wrong(line: str, ours: Any, why: str) -> None:
    """What it says differs from ours; once it does not, the case belongs to what it gets right."""
    del why
    try:
        theirs: Any = _theirs(line)
    except LineFormatError:
        theirs = REFUSED
    if isinstance(ours, str) and not ours.startswith("table "):
        parsed = parse(line.encode(), precision=Precision.NANOSECOND, default_time=NOW)
        scanned = PARSER.parse(line.encode(), precision=Precision.NANOSECOND, default_time=NOW)
        assert [error.message for error in parsed.errors] == [error.message for error in scanned.errors] == [ours]
        assert theirs != REFUSED
        return
    (plain,) = _plain(line)
    assert _fast(line) == [plain]
    assert theirs != plain
    table, columns, time = plain
    if isinstance(ours, dict):
        assert columns == _all_bits(ours)
    else:
        assert ours in (time, f"table {table}")
