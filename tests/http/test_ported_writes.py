"""InfluxDB 3's own tests of writes, written anew; each names the one that it is.

They come from `influxdb3_server/src/tests.rs` (server), `influxdb3_server/src/http/tests.rs` (http),
`influxdb3_types/src/write/tests.rs` (types), `influxdb3/tests/server/write.rs` (write) and `limits.rs`. Those of the older
routes are in `test_older_writes`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine
from walmill.options import EngineOptions
from walmill.testing.clock import ManualClock

WRITE = "/api/v3/write_lp"
NOW = 1_708_473_607_123_456_789
GROUPED = 400
"""So many lines go through the parser that reads many at once."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    """With a clock that stands still."""
    options = EngineOptions(discover_plugins=False, shutdown_timeout=5.0, clock=ManualClock(NOW))
    with Engine.open(options) as made:
        yield made


def _times(engine: Engine, table: str = "cpu") -> list[int]:
    found = engine.query(f'SELECT CAST("time" AS BIGINT) AS t FROM {table} ORDER BY t', database="foo")
    times: list[int] = found["t"].to_pylist()
    return times


def _write(client: TestClient, body: str | bytes, **params: str) -> Any:
    return client.post(WRITE, params={"db": "foo", **params}, content=body)


def test_write_lp_tests(client: TestClient, engine: Engine) -> None:
    """server `write_lp_tests`."""
    bad = "cpu,host=a val= 123\ncpu,host=b val=5 124\ncpu,host=b val= 124"
    answer = _write(client, bad, accept_partial="false", precision="nanosecond")
    assert (answer.status_code, answer.text) == (
        400,
        '{"error":"line protocol parsing error","data":{"error_message":"No fields were provided","line_number":1,'
        '"original_line":"cpu,host=a val= 123"}}',
    )
    some = "cpu,host=b val=2 155\ncpu,host=a val= 123\ncpu,host=b val=5 199"
    answer = _write(client, some, accept_partial="true", precision="nanosecond")
    assert (answer.status_code, answer.text) == (
        400,
        '{"error":"partial write of line protocol occurred","data":[{"error_message":"No fields were provided",'
        '"line_number":2,"original_line":"cpu,host=a val= 123"}]}',
    )
    query = {"db": "foo", "q": "select host, time, val from cpu order by time", "format": "csv"}
    assert client.get("/api/v3/query_sql", params=query).text == (
        "host,time,val\nb,1970-01-01T00:00:00.000000155,2.0\nb,1970-01-01T00:00:00.000000199,5.0\n"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "this#_is_fine",
            "invalid character in database or rp name: must be ASCII, containing only letters, numbers, underscores, or hyphens",
        ),
        ("?this_is_fine", "db name did not start with a number or letter"),
        ("", "db name cannot be empty"),
    ],
)
@pytest.mark.parametrize("path", [WRITE, "/write"])
def test_write_lp_tests_names(client: TestClient, path: str, name: str, message: str) -> None:
    """server `write_lp_tests`: its last part."""
    answer = client.post(path, params={"db": name}, content="cpu,host=b val=2 155\n")
    assert (answer.status_code, answer.json()) == (400, {"error": message})


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("foo/bar", True),
        ("foo-bar", True),
        ("foo_bar", True),
        ("f", True),
        ("1", True),
        ("1/2", True),
        ("1/-", True),
        ("1/_", True),
        ("1" * 511, True),
        ("1" * 512, False),
        ("foo/bar/baz", False),
        ("foo/", False),
        ("foo///", False),
        ("foo?bar", False),
        ("_foo", False),
        ("/foo", False),
        ("foo bar", False),
        ("föö", False),
    ],
)
def test_validate_db_name(client: TestClient, engine: Engine, name: str, good: bool) -> None:
    """http `test_validate_db_name`, through the route."""
    assert client.post(WRITE, params={"db": name}, content=b"cpu v=1 1").status_code == (204 if good else 400)
    assert engine.databases() == ([name] if good else [])


def test_write_lp_precision_tests(client: TestClient, engine: Engine) -> None:
    """server `write_lp_precision_tests`."""
    for precision, number in (
        ("auto", 1_708_473_600),
        ("auto", 1_708_473_601_000),
        ("auto", 1_708_473_602_000_000),
        ("auto", 1_708_473_603_000_000_000),
        ("second", 1_708_473_604),
        ("millisecond", 1_708_473_605_000),
        ("microsecond", 1_708_473_606_000_000),
        ("nanosecond", 1_708_473_607_000_000_000),
    ):
        assert _write(client, f"cpu,host=b val=5 {number}", precision=precision).status_code == 204
    assert _times(engine) == [(1_708_473_600 + second) * 10**9 for second in range(8)]


@pytest.mark.parametrize("lines", [1, GROUPED])
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (0, 10**9),
        (4_999_999_999, 10**9),
        (5_000_000_000, 10**6),
        (4_999_999_999_999, 10**6),
        (5_000_000_000_000, 10**3),
        (4_999_999_999_999_999, 10**3),
        (5_000_000_000_000_000, 1),
        (2**63 - 1, 1),
    ],
)
def test_guess_precision(client: TestClient, engine: Engine, number: int, unit: int, sign: str, lines: int) -> None:
    """types `test_guess_precision`, through the route and both parsers."""
    body = "\n".join(f"cpu,host=h{line} val=1 {sign}{number}" for line in range(lines))
    assert _write(client, body).status_code == 204
    assert set(_times(engine)) == {(-1 if sign else 1) * number * unit}


def test_the_precision_is_guessed_for_each_line(client: TestClient, engine: Engine) -> None:
    """types `test_guess_precision`: lines of one body do not agree."""
    numbers = (1_708_473_600, 1_708_473_601_000, 1_708_473_602_000_000, 1_708_473_603_000_000_000)
    body = "\n".join(f"cpu,host=h{line} val=1 {numbers[line % 4]}" for line in range(GROUPED))
    assert _write(client, body).status_code == 204
    assert set(_times(engine)) == {(1_708_473_600 + second) * 10**9 for second in range(4)}


@pytest.mark.parametrize("lines", [1, GROUPED])
@pytest.mark.parametrize(
    ("precision", "unit"),
    [("auto", 1), ("ns", 1), ("us", 10**3), ("u", 10**3), ("ms", 10**6), ("s", 10**9), ("second", 10**9)],
)
def test_truncate_to_precision(client: TestClient, engine: Engine, precision: str, unit: int, lines: int) -> None:
    """types `test_truncate_to_precision` and `test_to_nanos_default_truncation`: a line without a time."""
    body = "\n".join(f"cpu,host=h{line} val=1" for line in range(lines))
    assert _write(client, body, precision=precision).status_code == 204
    assert set(_times(engine)) == {NOW // unit * unit}


@pytest.mark.parametrize("lines", [1, GROUPED])
@pytest.mark.parametrize(
    ("precision", "number"),
    [
        ("second", 9223372037),
        ("second", -9223372037),
        ("millisecond", 9223372036855),
        ("us", 2**63 // 1000 + 1),
        ("ns", 2**63),
        ("auto", 2**63),
    ],
)
def test_to_nanos_explicit_with_overflow(
    client: TestClient, engine: Engine, precision: str, number: int, lines: int
) -> None:
    """types `test_to_nanos_explicit_with_overflow`: the line is refused, and nothing is there."""
    body = "\n".join(f"cpu,host=h{line} val=1 {number}" for line in range(lines))
    answer = _write(client, body, precision=precision)
    assert answer.status_code == 400
    assert len(answer.json()["data"]) == lines
    assert engine.databases() == []


@pytest.mark.parametrize("name", ["seconds", "S", "minute", "hour", "m", "h", "nanos", "", "us "])
@pytest.mark.parametrize("path", [f"{WRITE}?db=foo", "/api/v2/write?bucket=foo"])
def test_precision_serialization_and_parsing(client: TestClient, path: str, name: str) -> None:
    """types `test_precision_serialization_and_parsing`: the names that are none."""
    answer = client.post(f"{path}&precision={name}", content=b"cpu v=1")
    assert answer.status_code == 400
    assert "unrecognized precision unit" in answer.text


MEMBERS = (
    b"cpu,host=a val=1i 100\ncpu,host=b val=2i 200\ncpu,host=c val=3i 300\n",
    b"mem,host=a used=500i 400\n",
    b"disk,host=a free=1000i 500\ndisk,host=b free=2000i 600\n",
)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (MEMBERS[:1], {"cpu": [100, 200, 300]}),  # test_write_lp_with_single_member_gzip
        (MEMBERS, {"cpu": [100, 200, 300], "mem": [400], "disk": [500, 600]}),  # …multi_member_gzip
        ((MEMBERS[0], b"", MEMBERS[1]), {"cpu": [100, 200, 300], "mem": [400]}),  # …empty member
    ],
)
def test_write_lp_with_gzip(
    client: TestClient, engine: Engine, members: tuple[bytes, ...], expected: dict[str, list[int]]
) -> None:
    """server `test_write_lp_with_…_gzip`."""
    packed = b"".join(gzip.compress(member) for member in members)
    params = {"db": "foo", "precision": "nanosecond", "accept_partial": "false"}
    answer = client.post(WRITE, params=params, content=packed, headers={"content-encoding": "gzip"})
    assert answer.status_code == 204
    assert {table: _times(engine, table) for table in expected} == expected


def test_writes_with_different_schema_should_fail(client: TestClient, engine: Engine) -> None:
    """write `writes_with_different_schema_should_fail`."""
    ints = "t0,t0_tag0=initTag t0_f0=0i 1715694000\nt0,t0_tag0=initTag t0_f0=1i 1715694001"
    assert _write(client, ints, precision="second").status_code == 204
    for partial in ("true", "false"):
        answer = _write(client, ints.replace("i 1", "u 1"), precision="second", accept_partial=partial)
        assert answer.status_code == 400
        assert (
            "invalid column type for column 't0_f0', expected iox::column_type::field::integer, got "
            "iox::column_type::field::uinteger"
        ) in answer.text
    assert _times(engine, "t0") == [1_715_694_000 * 10**9, 1_715_694_001 * 10**9]


def test_duplicate_field_names_should_fail(client: TestClient, engine: Engine) -> None:
    """write `duplicate_field_names_should_fail`; the tag twice is a later fix of InfluxDB's."""
    for line in ("cpu,host=a usage=1,usage=2 1", "cpu,host=a,host=b usage=1 1"):
        answer = _write(client, line)
        assert answer.status_code == 400
        assert [one["line_number"] for one in answer.json()["data"]] == [1]
    assert "multiple instances of 'usage' field found" in _write(client, "cpu,host=a usage=1,usage=2 1").text
    assert engine.databases() == []


SPECIAL = (
    r"metrics,normal_tag=value1,tag\ with\ spaces=value2,tag\,with\,commas=value3,tag\=with\=equals=value4,"
    r"tag\ with\ spaces\,and\=all=value5 normal_field=1.0,field\ with\ spaces=42i,"
    r'field\,with\,commas="test",field\=with\=equals=true,field\ with\ all\,special\=chars=100u {time}',
    r"metrics,normal_tag=value1,tag\ with\ spaces=value\ with\ spaces normal_field=2.0,field\ with\ spaces=84i {time}",
)


@pytest.mark.parametrize("lines", [1, 100])  # 100 long ones go through the other parser as well
def test_special_characters(client: TestClient, lines: int) -> None:
    """write `…special_characters…`: rows and columns, with the names as they are meant; the first write makes the table."""
    for number, line in enumerate(SPECIAL, 1):
        body = "\n".join(line.format(time=number * 10**9) for _ in range(lines))
        assert _write(client, body, precision="nanosecond").status_code == 204
    query = {"db": "foo", "q": "SELECT * FROM metrics ORDER BY time", "format": "json"}
    rows = [
        {name: value for name, value in row.items() if value is not None}
        for row in client.get("/api/v3/query_sql", params=query).json()
    ]
    assert rows == [
        {
            "field with all,special=chars": 100,
            "field with spaces": 42,
            "field,with,commas": "test",
            "field=with=equals": True,
            "normal_field": 1.0,
            "normal_tag": "value1",
            "tag with spaces": "value2",
            "tag with spaces,and=all": "value5",
            "tag,with,commas": "value3",
            "tag=with=equals": "value4",
            "time": "1970-01-01T00:00:01",
        },
        {
            "field with spaces": 84,
            "normal_field": 2.0,
            "normal_tag": "value1",
            "tag with spaces": "value with spaces",
            "time": "1970-01-01T00:00:02",
        },
    ]
    columns = client.get("/api/v3/query_sql", params={**query, "q": "SHOW COLUMNS FROM metrics"}).json()
    tag = "Dictionary(Int32, Utf8)"
    assert {
        (
            one["table_catalog"],
            one["table_schema"],
            one["table_name"],
            one["column_name"],
            one["data_type"],
            one["is_nullable"],
        )
        for one in columns
    } == {
        ("public", "iox", "metrics", "field with all,special=chars", "UInt64", "YES"),
        ("public", "iox", "metrics", "field with spaces", "Int64", "YES"),
        ("public", "iox", "metrics", "field,with,commas", "Utf8", "YES"),
        ("public", "iox", "metrics", "field=with=equals", "Boolean", "YES"),
        ("public", "iox", "metrics", "normal_field", "Float64", "YES"),
        ("public", "iox", "metrics", "normal_tag", tag, "YES"),
        ("public", "iox", "metrics", "tag with spaces", tag, "YES"),
        ("public", "iox", "metrics", "tag with spaces,and=all", tag, "YES"),
        ("public", "iox", "metrics", "tag,with,commas", tag, "YES"),
        ("public", "iox", "metrics", "tag=with=equals", tag, "YES"),
        ("public", "iox", "metrics", "time", "Timestamp(ns)", "NO"),  # as the DataFusion of today writes it
    }


@pytest.mark.parametrize("path", [f"{WRITE}?db=foo", "/write?db=foo", "/api/v2/write?bucket=foo"])
def test_odd_characters_in_a_refused_line(client: TestClient, path: str) -> None:
    """Whatever is in the line, the answer is JSON that holds it."""
    line = 'm"\\,\t\x01é€ v='
    answer = client.post(path, content=line.encode())
    assert answer.status_code == 400
    written = json.dumps(line, ensure_ascii=False)[1:-1]
    assert written in json.dumps(answer.json(), ensure_ascii=False)


def test_write_line_error_serialize_truncates_at_utf8_boundary(client: TestClient) -> None:
    """types `test_write_line_error_serialize_truncates_at_utf8_boundary`."""
    answer = _write(client, "cpu,host=" + "é" * 20 + " v=")
    assert answer.json()["data"][0]["original_line"] == "cpu,host=" + "é" * 5


@pytest.mark.parametrize("path", [f"{WRITE}?db=foo", f"{WRITE}?db=foo&accept_partial=false", "/write?db=foo"])
def test_limits(client: TestClient, engine: Engine, path: str) -> None:
    """limits.rs `limits`: the 501st column is 422, here also for v1; nothing of the line is there."""
    full = ",".join(f"f{number}=1" for number in range(499))
    assert client.post(path, content=f"cpu,host=a {full} 1").status_code == 204
    answer = client.post(path, content=b"cpu,host=a f0=1,one_more=1 2\n")
    assert answer.status_code == 422
    assert "Update to schema would exceed number of columns per table limit of 500 columns" in answer.text
    assert client.post(path, content=b"cpu,host=a f0=1 3").status_code == 204
    assert _times(engine) == [1 * 10**9 if "v3" in path else 1, 3 * 10**9 if "v3" in path else 3]


def test_limits_v2(client: TestClient) -> None:
    """limits.rs `limits`, in the form of v2."""
    full = ",".join(f"f{number}=1" for number in range(501))
    answer = client.post("/api/v2/write?bucket=foo", content=f"cpu,host=a {full} 1")
    assert (answer.status_code, answer.json()["code"]) == (422, "unprocessable entity")


def test_many_tables_and_databases_have_no_limit_that_a_test_reaches(client: TestClient, engine: Engine) -> None:
    """limits.rs `limits` has 5 databases and 2,000 tables: here there is no such limit."""
    for number in range(6):
        assert client.post(WRITE, params={"db": f"d{number}"}, content=b"cpu v=1 1").status_code == 204
    body = "\n".join(f"t{number} v=1 1" for number in range(2001))
    assert _write(client, body).status_code == 204
    assert len(engine.view().catalog.tables) == 2007


CASES = [
    ("a bad line", b"cpu,host=a,bad=x v=1i,new=1i oops\n", b"cpu,host=a v=1i 1"),
    ("a type conflict in the body", b"cpu,host=a v=1i 1\n", b"cpu,host=b,bad=x v=1.5,new=2 2"),
    ("a time out of range", b"cpu,host=a v=1i 1\n", b"cpu,bad=x new=2 99999999999999999999"),
]


@pytest.mark.parametrize("padding", [0, GROUPED])
@pytest.mark.parametrize("case", CASES, ids=[name for name, *_ in CASES])
@pytest.mark.parametrize("exists", [True, False])
def test_a_refused_line_leaves_no_column(
    client: TestClient, engine: Engine, case: tuple[str, bytes, bytes], exists: bool, padding: int
) -> None:
    _, first, second = case
    if exists:
        assert _write(client, b"cpu,host=a v=1i 1").status_code == 204
    more = b"\n".join(b"cpu,host=h%d v=1i 1" % line for line in range(padding))
    body = first + more + b"\n" + second
    whole = _write(client, body, accept_partial="false")
    assert whole.status_code == 400
    assert engine.databases() == (["foo"] if exists else [])
    assert _write(client, body).status_code == 400
    catalog = engine.view().catalog
    table = catalog.find_table(catalog.find_database("foo"), "cpu")
    assert table is not None
    assert (table.schema.tags, list(table.schema.fields)) == (("host",), ["v"])
