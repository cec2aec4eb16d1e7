"""The parser of line protocol: what InfluxDB 3 accepts and says, and what Walmill does differently on purpose."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from walmill.ingest.lineprotocol import Parsed, Point, Value, _parse_plain, parse, parse_line, split_lines
from walmill.ingest.names import STRING_BYTES
from walmill.ingest.precision import Precision

PROPERTY = settings(max_examples=300)
NOW = 1_700_000_000_123_456_789
BACKSLASH = "Measurements, tag keys and values, and field keys may not end with a backslash"
SPACE = "Expected at least one space character, got end of input"
NO_FIELDS = "No fields were provided"
TRAILING = "Could not parse entire line. Found trailing content: "


def read(text: str | bytes, precision: Precision = Precision.NANOSECOND) -> Parsed:
    body = text.encode() if isinstance(text, str) else text
    return parse(body, precision=precision, default_time=NOW)


def one(text: str) -> Point:
    parsed = read(text)
    assert parsed.errors == []
    (point,) = parsed.points
    return point


def refusal(text: str | bytes) -> str:
    parsed = read(text)
    assert parsed.points == []
    (error,) = parsed.errors
    return error.message


def value(text: str) -> tuple[str, Value]:
    ((_, kind, result),) = one(f"m f={text} 99").fields
    return kind, result


def test_a_whole_line() -> None:
    line = 'cpu,host=A,region=west usage=64.2,n=-3i,u=9u,s="a b",ok=T 1590488773254420000'
    assert one(line) == Point(
        "cpu",
        (("host", "A"), ("region", "west")),
        (
            ("usage", "float64", 64.2),
            ("n", "int64", -3),
            ("u", "uint64", 9),
            ("s", "string", "a b"),
            ("ok", "bool", True),
        ),
        1_590_488_773_254_420_000,
        1,
        line,
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("measurement", SPACE),
        (",", "Invalid measurement was provided"),
        (",tag1=1,tag2=2 value=1 123", "Invalid measurement was provided"),
        ("J,#", "Tag set malformed: could not find equals sign in `#`"),
        ("J," + "a" * 200, "Tag set malformed: could not find equals sign in `aaaaaaaaaa...`"),
        ("m,a=b,c d=1", "Tag set malformed: could not find equals sign in `a=b,c d=1`"),
        ("J,", "Expected tag key, got end of input"),
        ("testmeasure, bar=1i", "Expected tag key, got ` bar=1i`"),
        (f"testmeasure, {'b' * 200}=1i", "Expected tag key, got ` bbbbbbbbb...`"),
        ("0,,=", "Expected tag value, got end of input"),
        ("testmeasure,foo\\=\\,baz= bar=1i", "Expected tag value, got ` bar=1i`"),
        (f"testmeasure,foo\\=\\,baz= bar={'1' * 100}i", "Expected tag value, got ` bar=11111...`"),
        ("testmeasure,foo=,baz= bar=1i", "Expected tag value, got `,baz= bar=...`"),
        ("metrics,bananas=,platanos=great value=1.0 17", "Expected tag value, got `,platanos=...`"),
        ("k,a=b,node=10.0.213.170,itsEmpty=,effect=No v=1.0 17", "Expected tag value, got `,effect=No...`"),
        ("testmeasure,foo= sed=1i", "Expected tag value, got ` sed=1i`"),
        ("testmeasure,foo=f bar=1i,baz=", TRAILING + "`baz=`"),
        (f"testmeasure,foo=f bar=1i,ba{'z' * 100}=", TRAILING + "`bazzzzzzzz...`"),
        ("m v=1,v2=2 abc", TRAILING + "` abc`"),
        ("foo,tag0=value1 asdf=23.1.22,jkl=4", TRAILING + "`.22,jkl=4`"),
        ("m f=1 12.5", TRAILING + "`.5`"),
        ("m f=1 12 13", TRAILING + "`13`"),
        ("m f=1\t12", TRAILING + "`\t12`"),
        ('m f="a"b 1', TRAILING + "`b 1`"),
        ("m f=1, g=2", TRAILING + "` g=2`"),
        ("\x1b# /", NO_FIELDS),
        ("foo 1234", NO_FIELDS),
        ("field=1 1234", NO_FIELDS),
        ("cpu,host=a val= 123", NO_FIELDS),
        ("m =1", NO_FIELDS),
        ("m f=abc", NO_FIELDS),
        ('m f="open', NO_FIELDS),
        ("m f", NO_FIELDS),
        ("m ", NO_FIELDS),
        ("m\tf=1", "Expected at least one space character, got `\tf=1`"),
        (":\x14\\", BACKSLASH),
        ("weather\\", BACKSLASH),
        ("wea\\\\ f=1", BACKSLASH),
        ("m,weather\\", BACKSLASH),
        ("m,a=weather\\", BACKSLASH),
        ("m weather\\", BACKSLASH),
        ("testmeasure field=3.0 1" + "8" * 71, f"Unable to parse timestamp value `1{'8' * 71}`"),
        ("m0 field=1i 99999999999999999999999999999999", "Unable to parse timestamp value `" + "9" * 32 + "`"),
        ("m f=1 9223372036854775808", "Unable to parse timestamp value `9223372036854775808`"),
        ("m f=1 -9223372036854775809", "Unable to parse timestamp value `-9223372036854775809`"),
        (f"testmeasure field={'6' * 46}8i", f"Unable to parse integer value `{'6' * 46}8`"),
        ("m f=9223372036854775808i", "Unable to parse integer value `9223372036854775808`"),
        ("m f=-9223372036854775809i", "Unable to parse integer value `-9223372036854775809`"),
        ("m f=18446744073709551616u", "Unable to parse unsigned integer value `18446744073709551616`"),
        ("m f=99999999999999999999999999999999u 99", f"Unable to parse unsigned integer value `{'9' * 32}`"),
        (f"m f={'9' * 20000}i", f"Unable to parse integer value `{'9' * 100}...`"),
        ("m f=-1u 99", TRAILING + "`u 99`"),
        ("m,a=1,b=2,a=3 f=1", "Must not contain duplicate tags, but `a` was repeated"),
        ("cpu usage=1,usage=2", "invalid line protocol - multiple instances of 'usage' field found"),
        ("cpu,t=1 a=1,a=2,t=3", "invalid line protocol - multiple instances of 'a' field found"),
        ("cpu,a=1 a=2", "'a' is a tag and a field in the same line: a column is one or the other"),
        ("\0 field=1 1234", "Invalid measurement was provided"),
        ("\0,tag1=1,tag2=2 value=1 123", "Invalid measurement was provided"),
        ("a\0b f=1", "Expected at least one space character, got `\0b f=1`"),
        ("m,tag1=one,tag2=2 value=\0 123", NO_FIELDS),
        ("m,c\0=d e=1", r"the tag key 'c\x00' holds a NUL character: leave it out"),
        ("m,c=d e\0=1", r"the field key 'e\x00' holds a NUL character: leave it out"),
    ],
)
def test_the_exact_message_of_a_refusal(line: str, message: str) -> None:
    assert refusal(line) == message


@pytest.mark.parametrize(
    ("line", "kind"),
    [("m,time=1 f=1", "tag"), ("m time=1", "field"), ("m f=1,time=2i 3", "field"), ("m,\\time=1 f=1", "")],
)
def test_nothing_else_may_be_called_time(line: str, kind: str) -> None:
    if kind:
        assert refusal(line).startswith(f"'time' is a reserved column: a {kind} cannot")
    else:
        assert one(line).tags == (("\\time", "1"),)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("23i", "int64", 23),
        ("-1i", "int64", -1),
        ("9223372036854775807i", "int64", 2**63 - 1),
        ("-9223372036854775808i", "int64", -(2**63)),
        ("0" * 5000 + "7i", "int64", 7),
        ("-" + "0" * 5000 + "i", "int64", 0),
        ("23u", "uint64", 23),
        ("18446744073709551615u", "uint64", 2**64 - 1),
        ("44", "float64", 44.0),
        ("3.74", "float64", 3.74),
        ("-1", "float64", -1.0),
        ("1e-0", "float64", 1.0),
        ("-1e-0", "float64", -1.0),
        ("1.2e+06", "float64", 1.2e6),
        ("-1.234456E+3", "float64", -1234.456),
        ("1.2E06", "float64", 1.2e6),
        ("1.234456E-16", "float64", 1.234456e-16),
        ("9" * 200 + "." + "9" * 200, "float64", 1e200),
        ("1e-999", "float64", 0.0),
        ("1.7976931348623157e308", "float64", 1.7976931348623157e308),
        *((text, "bool", True) for text in ("t", "T", "true", "True", "TRUE")),
        *((text, "bool", False) for text in ("f", "F", "false", "False", "FALSE")),
        ('""', "string", ""),
        ('"str val"', "string", "str val"),
        (r'"The \"string\" val"', "string", 'The "string" val'),
        ('"a,b=c # d"', "string", "a,b=c # d"),
        ('"two\nlines"', "string", "two\nlines"),
        ('"v\0"', "string", "v\0"),
        (r'"too hot\cold"', "string", r"too hot\cold"),
        (r'"too hot\\cold"', "string", r"too hot\cold"),
        (r'"too hot\\\cold"', "string", r"too hot\\cold"),
        (r'"too hot\\\\cold"', "string", r"too hot\\cold"),
        (r'"too hot\\\\\cold"', "string", r"too hot\\\cold"),
        (r'"ends\\"', "string", "ends\\"),
        (r'"\n\t\,"', "string", r"\n\t\,"),
    ],
)
def test_values(text: str, kind: str, expected: Value) -> None:
    found = value(text)
    assert found == (kind, expected)
    assert type(found[1]) is type(expected)


@pytest.mark.parametrize(
    "text",
    ["1.2e", "1.2e+", "1.2E-", "-1.234456e", "1.", "1.e5", "0x1F", "1_000", "1i2", "1u2", "truE", "tru", "1ii"],
)
def test_values_that_only_begin_well(text: str) -> None:
    assert refusal(f"m f={text} 99").startswith(TRAILING)


@pytest.mark.parametrize(
    "text", [".5", "+1", "-", "-t", "nan", "inf", "-inf", "i", "u", "null", "'a'", "²i", "١i", "\xa01", "e5", "\\1"]
)
def test_values_that_are_none(text: str) -> None:
    assert refusal(f"m f={text} 99") == NO_FIELDS


@pytest.mark.parametrize("text", ["9" * 1000 + ".9", "1e309", "-1e400"])
def test_a_float_that_overflows_is_refused(text: str) -> None:
    message = refusal(f"m f={text} 99")
    assert message.startswith("Unable to parse floating-point value `")
    assert "1.7976931348623157e308" in message
    assert len(message) < 250


@pytest.mark.parametrize(
    ("written", "read_as", "in_measurement"),
    [
        (r"wea\,ther", "wea,ther", "wea,ther"),
        (r"wea\ ther", "wea ther", "wea ther"),
        (r"wea\=ther", "wea=ther", r"wea\=ther"),
        (r"\\wea\\ther", r"\wea\ther", r"\wea\ther"),
        (r"\wea\ther", r"\wea\ther", r"\wea\ther"),
        ("weat\\\nher", "weat\\\nher", "weat\\\nher"),
        ("weat\\\ther", "weat\\\ther", "weat\\\ther"),
        (r"wea\"ther", r"wea\"ther", r"wea\"ther"),
        ('w"ea', 'w"ea', 'w"ea'),
        (r"\\\,a", r"\,a", r"\,a"),
        ("wêa\u2028ther\x85😀", "wêa\u2028ther\x85😀", "wêa\u2028ther\x85😀"),
        ("a\rb", "a\rb", "a\rb"),
    ],
)
def test_escapes_in_names(written: str, read_as: str, in_measurement: str) -> None:
    point = one(f"{written},{written}={written} f={written.count('x')}i,x{written}=1 5")
    assert point.measurement == in_measurement
    assert point.tags == ((read_as, read_as),)
    assert point.fields[1][0] == "x" + read_as
    assert point.time == 5


@pytest.mark.parametrize(
    ("line", "measurement", "tags", "fields"),
    [
        ("tag1=1 field=1 1234", "tag1=1", (), ("field",)),
        ("m,a=b=c f=1", "m", (("a", "b=c"),), ("f",)),
        ("m,a,b=c f=1", "m", (("a,b", "c"),), ("f",)),
        ("m,,a=c f=1", "m", ((",a", "c"),), ("f",)),
        ("m foo,bar=1", "m", (), ("foo,bar",)),
        ('m a"b=1,c"d=2', "m", (), ('a"b', 'c"d')),
        ('m,a="x f=1', "m", (("a", '"x'),), ("f",)),
        ("m,a=b\0,c=\0 e=1", "m", (("a", "b\0"), ("c", "\0")), ("e",)),
    ],
)
def test_names_that_look_odd(
    line: str, measurement: str, tags: tuple[tuple[str, str], ...], fields: tuple[str, ...]
) -> None:
    point = one(line)
    assert (point.measurement, point.tags) == (measurement, tags)
    assert tuple(name for name, _, _ in point.fields) == fields


@pytest.mark.parametrize("text", ["", "\n\n\n", "# comment", "  # a\n\t#b\n", "\r\n\r\n", " \t \n", '# x="\n', "#\\\n"])
def test_nothing_to_read(text: str) -> None:
    assert read(text) == Parsed([], [])


@pytest.mark.parametrize(
    "text",
    [
        "m a=1i 123",
        "  m  a=1i  123  ",
        "\t m a=1i 123",
        "m a=1i 123\r\n",
        "m a=1i 123 \r",
        "\n\nm a=1i 123\n\n",
        "# m a=2i 123\nm a=1i 123",
        '# it\'s "="\nm a=1i 123',
    ],
)
def test_white_space_and_comments_between(text: str) -> None:
    point = one(text)
    assert (point.measurement, point.fields, point.time) == ("m", (("a", "int64", 1),), 123)


def test_a_line_without_timestamp_gets_the_default_time_cut_to_the_precision() -> None:
    for precision, expected in [
        (Precision.SECOND, 1_700_000_000_000_000_000),
        (Precision.MILLISECOND, 1_700_000_000_123_000_000),
        (Precision.AUTO, NOW),
    ]:
        for line in ("m f=1", "m f=1  ", 'm f="a"\r'):
            assert [point.time for point in read(line, precision).points] == [expected]


def test_timestamps_follow_the_precision_line_by_line() -> None:
    body = "m f=1 1761048000\nm f=1 1761048000000\nm f=1 1761048000000000\nm f=1 1761048000000000000\nm f=1 -1"
    times = [point.time for point in read(body, Precision.AUTO).points]
    assert times == [1_761_048_000_000_000_000] * 4 + [-1_000_000_000]
    parsed = read("m f=1 9223372036\nm f=1 9223372037\nm f=1 -9223372037 ", Precision.SECOND)
    assert [point.time for point in parsed.points] == [9_223_372_036_000_000_000]
    assert [error.line_number for error in parsed.errors] == [2, 3]
    assert "timestamp 9223372037 in seconds is out of range" in parsed.errors[0].message
    assert one("m f=1 -9223372036854775808").time == -(2**63)


def test_one_bad_line_never_stops_the_next() -> None:
    body = "goodline,tag1=one,tag2=2 value=1 123\nbadline,\nanothergoodline,tag3=3 value=67 1234\n,x=1 y=2\nm f=1 1"
    parsed = read(body)
    assert [p.measurement for p in parsed.points] == ["goodline", "anothergoodline", "m"]
    assert [tuple(e) for e in parsed.errors] == [
        (2, "Expected tag key, got end of input", "badline,"),
        (4, "Invalid measurement was provided", ",x=1 y=2"),
    ]


def test_line_numbers_are_physical() -> None:
    body = (
        '\n# comment with a " quote and a \\\n'
        'm f="two\nlines" 1\n'
        "bad1\r\n"
        "esc\\\naped f=1 2\n\n"
        '  # another "\n'
        'm f=oops,g="three\n\nlines"\n'
        "\tbad2\n"
        "m f=1 3"
    )
    parsed = read(body)
    assert [(p.line_number, p.time) for p in parsed.points] == [(3, 1), (6, 2), (14, 3)]
    assert [(e.line_number, e.original_line) for e in parsed.errors] == [
        (5, "bad1"),
        (10, 'm f=oops,g="three\n\nlines"'),
        (13, "\tbad2"),
    ]
    assert parsed.points[0].line == 'm f="two\nlines" 1'
    assert parsed.points[0].error("no").line_number == 3


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("foo\\\nbar\nbaz", ["foo\\\nbar", "baz"]),
        ('m tag=val field="\nval"\nnext', ['m tag=val field="\nval"', "next"]),
        ('m tag=val field=\\"\nval"\nnext', ['m tag=val field=\\"', 'val"', "next"]),
        ('m tag=val field=1,field="\nval"\nnext', ['m tag=val field=1,field="\nval"', "next"]),
        ('m tag=val field=1,field=\\"\nval"\nnext', ['m tag=val field=1,field=\\"', 'val"', "next"]),
        ('m,a="x\nm f=1', ['m,a="x', "m f=1"]),
        ('m a"b=1\nm f=1', ['m a"b=1', "m f=1"]),
        ('m a=1"\nm f=1', ['m a=1"', "m f=1"]),
        ('m f="a\\"\nb"\nc', ['m f="a\\"\nb"', "c"]),
        ('m f="open\nm f=1\n', ['m f="open\nm f=1\n']),
        ("a\\", ["a\\"]),
    ],
)
def test_where_lines_end(text: str, lines: list[str]) -> None:
    assert [line for _, line in split_lines(text)] == lines


def test_a_body_that_is_not_utf8_loses_only_the_bad_lines() -> None:
    body = b'm f=1 1\n\xc3\xbcm,t=\xff f=2 2\nm f="\xed\xa0\x80" 3\n# \xfe comment\nm,t=\xc3\xbc f=4 4\nm f=5 5 \xc3\n'
    parsed = read(body)
    assert [p.time for p in parsed.points] == [1, 4]
    assert parsed.points[1].tags == (("t", "ü"),)
    assert [(e.line_number, e.message) for e in parsed.errors] == [
        (2, "the line is not valid UTF-8: byte 0xff at offset 6"),
        (3, "the line is not valid UTF-8: byte 0xed at offset 5"),
        (6, "the line is not valid UTF-8: byte 0xc3 at offset 8"),
    ]
    assert parsed.errors[0].original_line == "üm,t=\ufffd f=2 2"
    parsed.errors[1].original_line.encode()


@pytest.mark.parametrize("size", [STRING_BYTES, STRING_BYTES + 1])
@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{} f=1", "measurement"),
        ("m,{}=a f=1", "tag key"),
        ("m,a={} f=1", "tag value"),
        ("m {}=1", "field key"),
        ('m f="{}"', "string"),
    ],
)
def test_the_longest_names_and_strings(template: str, what: str, size: int) -> None:
    line = template.format("é" + "x" * (size - 2))
    if size == STRING_BYTES:
        assert one(line).time == NOW
    else:
        assert refusal(line) == f"the {what} has 1048577 bytes: at most 1048576 are allowed"


def test_work_is_linear_in_the_length_of_a_bad_line() -> None:
    started = time.process_time()
    for line in (
        "m" + " " * 300_000 + "f",
        "m " + "a=1," * 100_000,
        "\\a" * 300_000,
        "m f=" + '"\\' * 300_000,
        "m f=" + "1" * 300_000,
    ):
        assert len(read(line).errors) == 1
    assert time.process_time() - started < 5


# Properties. The alphabet is small and nasty, so that the rules meet each other often.
NASTY = st.text(alphabet=list('ma=, "\\\n\t\r#1i.t-eu0\0é'), max_size=40)
NUMBER = st.one_of(
    st.floats(allow_nan=False).map(repr),
    st.integers(-(2**70), 2**70).map(lambda n: f"{n}i"),
    st.integers(0, 2**65).map(lambda n: f"{n}u"),
    st.sampled_from(["t", "FALSE", "1e", "tr", ".5", "1.5e+3", "", '"s"']),
)
WORD = st.one_of(st.text(alphabet="abtcdé", min_size=1, max_size=4), st.text(alphabet="ab=,#\0\t ", max_size=3))
PLAIN = st.builds(
    lambda m, tags, fields, end: (
        m + "".join(f",{k}={v}" for k, v in tags) + " " + ",".join(f"{k}={v}" for k, v in fields) + end
    ),
    WORD,
    st.lists(st.tuples(WORD, WORD), max_size=3),
    st.lists(st.tuples(st.sampled_from(["a", "b", "time", "a,b", "", "é"]), NUMBER), max_size=3),
    st.one_of(st.just(""), st.just(" "), st.integers(-(2**64), 2**64).map(lambda n: f" {n}")),
)


@settings(PROPERTY, max_examples=1500)
@given(st.one_of(PLAIN, NASTY.filter(lambda text: "\n" not in text)))
@example("m,a=1 f=1i,g=-3.5e2 -9223372036854775808")
@example("m f=99999999999999999999i 5")
def test_the_quick_path_finds_what_the_complete_parser_finds(line: str) -> None:
    if any(c in line for c in '"\\\t\0\r') or line.startswith("#"):
        return
    quick = outcome(lambda: _parse_plain(line, {}))
    if quick is not None:
        assert quick == outcome(lambda: parse_line(line))


def outcome(read_line: Callable[[], object]) -> str | None:
    """What reading a line came to, as a text: the result or the message; None for "ask someone else"."""
    try:
        found = read_line()
    except ValueError as refusal:
        return f"refused: {refusal}"
    return None if found is None else bits(found)


def bits(found: object) -> str:
    """A text in which two results are equal only if their types and the bits of their floats are."""
    if isinstance(found, tuple):
        return f"({','.join(bits(part) for part in found)})"
    return struct.pack("d", found).hex() if isinstance(found, float) else f"{type(found).__name__}:{found!r}"


@PROPERTY
@given(
    st.one_of(
        NASTY.map(str.encode), st.binary(max_size=60), st.lists(PLAIN, max_size=5).map(lambda x: "\n".join(x).encode())
    )
)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    parsed = read(body, Precision.AUTO)
    numbers = [p.line_number for p in parsed.points] + [e.line_number for e in parsed.errors]
    assert len(set(numbers)) == len(numbers)
    assert all(1 <= number <= body.count(b"\n") + 1 for number in numbers)
    for point in parsed.points:
        names = [name for name, _ in point.tags] + [name for name, _, _ in point.fields]
        assert len(set(names)) == len(names)
        assert "time" not in names
        assert point.fields
        assert all(key and tag for key, tag in point.tags)
        assert all(math.isfinite(v) for _, kind, v in point.fields if kind == "float64" and isinstance(v, float))
        assert -(2**63) <= point.time < 2**63
    for error in parsed.errors:
        error.original_line.encode()
        assert len(error.message) < 400


@PROPERTY
@given(st.lists(st.one_of(PLAIN, NASTY), max_size=6))
def test_lines_do_not_touch_each_other(lines: list[str]) -> None:
    """Without quotes, backslashes and newlines inside, a body means what its lines mean alone."""
    clean = [line.replace('"', "").replace("\\", "").replace("\n", "") for line in lines]
    together = read("\n".join(clean))
    points, errors = [], []
    for number, line in enumerate(clean, 1):
        alone = read(line)
        points += [point._replace(line_number=number) for point in alone.points]
        errors += [error._replace(line_number=number) for error in alone.errors]
    assert together == Parsed(points, errors)


@PROPERTY
@given(NASTY, NASTY)
def test_the_lines_of_a_body_are_the_body(first: str, second: str) -> None:
    body = first + "\n" + second
    rebuilt = "\n".join(line for _, line in split_lines(body))
    assert rebuilt.replace("\r", "").rstrip("\n") == body.replace("\r", "").rstrip("\n")
