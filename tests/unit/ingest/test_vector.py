"""The vectorised parser against the plain one: equal on everything, whatever the body."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walmill.ingest.assemble import Assembled, assemble
from walmill.ingest.gather import gather
from walmill.ingest.heads import HeadCache
from walmill.ingest.lineprotocol import parse
from walmill.ingest.precision import Precision
from walmill.ingest.reader import SMALL, read_rows, scan
from walmill.ingest.scanned import Scanned
from walmill.ingest.vector import VectorParser
from walmill.model.schema import TableSchema

NOW = 1234567890123456789
SCHEMAS: dict[str, TableSchema] = {
    "cpu": TableSchema("cpu", ("host",), {"usage": "float64", "a": "int64"}),
    "mem": TableSchema("mem", (), {"host": "string", "b": "bool"}),
}
PARSER = VectorParser(HeadCache(series=300))  # small, so that it is cleared now and then

# fmt: off
NUMBERS = [
    "1", "-1", "1.5", "-0.25", "1e5", "1E-3", "1.", "-.5", ".5", "+1", "nan", "inf", "1e999", "1.e5", "0x1F",
    "0x1Fi", "1i", "-7i", "007i", "00i", "0i", "-0i", "i", "-i", "1u", "0u", "u", "-1u", "9223372036854775807i",
    "9223372036854775808i", "-9223372036854775808i", "18446744073709551615u", "18446744073709551616u", "t", "T",
    "true", "True", "TRUE", "f", "F", "false", "False", "FALSE", "tRUE", "e", "E", "1e", "maybe", "1_0", "1..5",
    "1-1", "--1", "-", "5i5", "é",
]
# fmt: on
STRINGS = [
    '"a"',
    '""',
    '"a b"',
    '"a,b=c"',
    '"q\\"q"',
    '"b\\\\"',
    '"x\ny"',
    '"un',
    '"a"b',
    'x"y"',
    '"\\n"',
    '"t\tt"',
    '"#"',
]
NAMES = [
    "a",
    "b",
    "usage",
    "host",
    "time",
    "A",
    "a\\ b",
    "a\\,b",
    "a\\=b",
    "é",
    "k\\",
    "k\\\\",
    'q"q',
    "lo" * 40,
    "#h",
    "a=b",
    "",
]
TAG_VALUES = ["a", "b", "x\\ y", "x\\,y", "x\\=y", "é", "v\\\\", '"q"', '"q q"', 'a"', "", "=", "a\\", "t\tt"]
# fmt: off
TIMES = [
    "", "0", "1", "1700000000", "1700000000000", "1700000000000000", "1700000000000000000", "-1",
    "9223372036854775807", "-9223372036854775808", "9223372036854775808", "12345678901234567890123", "1.5", "x",
    "1i", "007", "+1", "4999999999", "5000000000", "5000000000000", "-5000000000001",
]
# fmt: on
NOISE = ["", " ", "\t", "\r", "# c", "  # c", '# "q', '# x="', "#\\", "garbage", 'logs,host=a msg="', '" 3']


def _line(
    measurements: list[str], tags: list[str], values: list[str], fields: list[str], plain: list[str], times: list[str]
) -> st.SearchStrategy[str]:
    tag = st.tuples(st.sampled_from(tags), st.sampled_from(values)).map(lambda pair: f",{pair[0]}={pair[1]}")
    item = st.tuples(st.sampled_from(fields), st.sampled_from(plain)).map("=".join)
    return st.tuples(
        st.sampled_from(measurements),
        st.lists(tag, max_size=3).map("".join),
        st.lists(item, min_size=1, max_size=4).map(",".join),
        st.sampled_from(times).map(lambda time: f" {time}" if time else ""),
    ).map(lambda parts: f"{parts[0]}{parts[1]} {parts[2]}{parts[3]}")


usual = _line(
    ["cpu", "mem"],
    ["host", "region"],
    ["a", "b", "c\\ d"],
    ["usage", "a", "f\\ 1"],
    ["1", "1.5", "-2", "3i", "4u", "t", '"s b"', '"q\\"q"'],
    ["", "5"],
)
odd = _line(["cpu", "c\\ d", "é", "#no", '"m"', "", "m\\", "  sp"], NAMES, TAG_VALUES, NAMES, NUMBERS + STRINGS, TIMES)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    pool = draw(st.lists(usual, min_size=1, max_size=4))
    kinds = st.sampled_from(draw(st.sampled_from(["p", "pppppppon", "ppuuo", "poun"])))
    lines = []
    for kind in draw(st.lists(kinds, min_size=1, max_size=20)):
        source = {"p": st.sampled_from(pool), "u": usual, "o": odd, "n": st.sampled_from(NOISE)}[kind]
        lines.append(draw(source))
    joined = draw(st.sampled_from(["\n", "\n", "\r\n", "\n\n"])).join(lines) + draw(st.sampled_from(["", "\n"]))
    body = bytearray(joined.encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        place = draw(st.integers(0, len(body)))
        change = draw(
            st.sampled_from(
                [b"\n", b" ", b",", b"=", b'"', b"\\", b"\r", b"\t", b"\0", b"#", b"0", b"\xff", b"\xc3", b""]
            )
        )
        body[place : place + draw(st.integers(0, 2))] = change
    return bytes(body)


def _same(got: Assembled, want: Assembled) -> None:
    assert list(got.errors) == list(want.errors)
    assert list(got.tables) == list(want.tables)
    for name, table in want.tables.items():
        other = got.tables[name]
        other.batch.validate(full=True)
        assert (other.new_tags, list(other.new_fields.items())) == (table.new_tags, list(table.new_fields.items()))
        assert other.batch.schema.equals(table.batch.schema)
        assert other.batch.equals(table.batch)


def _plain(body: bytes, precision: Precision, known: dict[str, TableSchema], accept_partial: bool) -> Assembled:
    parsed = parse(body, precision=precision, default_time=NOW)
    return assemble(parsed.points, known.get, accept_partial=accept_partial, errors=parsed.errors)


@given(bodies(), st.sampled_from(Precision), st.sampled_from([{}, SCHEMAS]), st.sampled_from([True, True, False]))
@example(b'logs,host=a msg="\ncpu a=1', Precision.AUTO, {}, True)
@example(b'cpu a=1\n" 3', Precision.AUTO, {}, True)
@example(b"cpu a=1\\\ncpu a=2\n", Precision.AUTO, {}, True)
@example(b"m f=1.e5\nm f=.5\nm f=5.\nm f=0x1F\nm f=nan\nm f=1e400", Precision.AUTO, {}, True)
def test_reads_any_body_as_the_plain_parser_does(
    body: bytes, precision: Precision, known: dict[str, TableSchema], accept_partial: bool
) -> None:
    scanned = PARSER.parse(body, precision=precision, default_time=NOW)
    got = gather(scanned, known.get, accept_partial=accept_partial)
    _same(got, _plain(body, precision, known, accept_partial))


@given(st.binary(max_size=200), st.sampled_from(Precision))
def test_reads_any_bytes_as_the_plain_parser_does(body: bytes, precision: Precision) -> None:
    got = gather(PARSER.parse(body, precision=precision, default_time=NOW), {}.get, accept_partial=True)
    _same(got, _plain(body, precision, {}, True))


def _wide(rows: int, tables: int = 1) -> list[str]:
    return [
        f"t{row % tables},host=h{row % 37},rack=r\\ {row % 5} a={row / 7},b={row}i,c={row}u,d={'tf'[row % 2]},"
        f'e="x {row}",f=-{row}.5 {1_700_000_000_000_000_000 + row}'
        for row in range(rows)
    ]


@pytest.mark.parametrize("tables", [1, 2, 50])
@pytest.mark.parametrize(
    "odd_line", [None, "t0 a=", "garbage", 't0,host=h1 a="no number"', "t0,host=h1 a=1e999", "# note", ""]
)
def test_a_large_body_is_read_in_groups(tables: int, odd_line: str | None) -> None:
    lines = _wide(2000, tables)
    if odd_line is not None:
        lines.insert(1003, odd_line)
    body = "\n".join(lines).encode()
    scanned = VectorParser().parse(body, precision=Precision.NANOSECOND, default_time=NOW)
    assert tables <= len(scanned.groups) <= tables + 1  # a value of another type makes a group of its own
    assert sum(len(group.lines) for group in scanned.groups) >= 1999
    _same(gather(scanned, {}.get, accept_partial=True), _plain(body, Precision.NANOSECOND, {}, True))


def test_joined_bodies_have_each_its_own_default_time() -> None:
    body = b'a x=1\na x=2,s="two\nlines"\n\na x=3\na x=bad\n'
    scanned = VectorParser().parse(body, precision=Precision.NANOSECOND, default_time=[(1, 10), (2, 20), (5, 30)])
    times = {}
    for group in scanned.groups:
        times |= dict(zip(group.lines.tolist(), group.times.tolist(), strict=True))
    times |= {point.line_number: point.time for point in scanned.points}
    assert times == {1: 10, 2: 20, 5: 30}
    assert [error.line_number for error in scanned.errors] == [6]


def test_lines_without_a_time_get_rising_ones() -> None:
    lines = [f"m v={row}{' 7' if row % 3 == 0 else ''}" for row in range(1000)]
    lines[500] = "m v=5i0"
    untimed = 2**62
    scanned = scan("\n".join(lines).encode(), precision=Precision.NANOSECOND, default_time=untimed)
    stamped, following = scanned.stamped(untimed, 100)
    rows = read_rows(stamped, {}.get, accept_partial=True).tables["m"].batch
    waiting = [value for value in range(1000) if value % 3 and value != 500]
    times = dict(zip(rows["v"].to_pylist(), rows["time"].cast("int64").to_pylist(), strict=True))
    assert [times[value] for value in waiting] == list(range(100, 100 + len(waiting)))
    assert following == 100 + len(waiting)
    assert stamped.stamped(untimed, following) == (stamped, following)


@pytest.mark.parametrize("size", [1, SMALL // 60 + 500])
def test_small_and_large_bodies_give_the_same_rows(size: int) -> None:
    body = "\n".join(_wide(size)).encode()
    scanned = scan(body, precision=Precision.AUTO, default_time=NOW)
    assert isinstance(scanned, Scanned)
    assert not scanned.is_empty
    _same(read_rows(scanned, {}.get, accept_partial=True), _plain(body, Precision.AUTO, {}, True))


@pytest.mark.parametrize("body", [b"", b"\n", b"# nothing\n" * 1000, b"\n" * 10_000, b" \n" * 5000])
def test_nothing_is_empty(body: bytes) -> None:
    assert scan(body, precision=Precision.AUTO, default_time=NOW).is_empty


def test_the_series_cache_is_bounded() -> None:
    heads = HeadCache(series=1000, size=2**20)
    parser = VectorParser(heads)
    for first in range(0, 10_000, 500):
        body = "\n".join(f"m,host=h{first + row} v=1 {row}" for row in range(500)).encode()
        (group,) = parser.parse(body, precision=Precision.NANOSECOND, default_time=NOW).groups
        assert group.columns[0].to_pylist() == [f"h{first + row}" for row in range(500)]
        assert np.array_equal(group.times, np.arange(500))
        assert len(heads) <= 1500
