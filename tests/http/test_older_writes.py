"""`/api/v2/write`, `/write` and `/query` as clients of InfluxDB 2 and 1 use them.

The tests that say so are InfluxDB 3's own, from `influxdb3/tests/server/write.rs`, written anew: where those look with
InfluxQL, these look with SQL.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app

BODY = b"cpu,host=a usage=0.5"
ROUND = b"cpu,host=a usage=0.5 1\n            cpu,host=a usage=0.6 2\n            cpu,host=a usage=0.7 3"
BAD = b"cpu,host=a v=1 1\ncpu,host=a val= 123"


def _rows(engine: Engine, database: str = "foo") -> list[tuple[Any, ...]]:
    found = engine.query('SELECT CAST("time" AS BIGINT) AS t, host, usage FROM cpu ORDER BY t', database=database)
    return [(row["t"], row["host"], row["usage"]) for row in found.to_pylist()]


@pytest.mark.parametrize(
    ("db", "precision", "rp", "status"),
    [
        (None, None, None, 400),
        ("foo", None, None, 204),
        ("foo", "s", None, 204),
        ("foo", "ms", None, 204),
        ("foo", "us", None, 204),
        ("foo", "ns", None, 204),
        ("foo", "invalid", None, 400),
        ("foo", None, "bar", 204),
        ("foo", None, "default", 204),
        ("foo", None, "autogen", 204),
        # and what InfluxDB 1 knows besides
        ("foo", "n", None, 204),
        ("foo", "u", None, 204),
        ("foo", "m", None, 204),
        ("foo", "h", None, 204),
        ("foo", "", None, 204),
        ("foo", "auto", None, 204),
    ],
)
def test_api_v1_write_request_parsing(
    client: TestClient, db: str | None, precision: str | None, rp: str | None, status: int
) -> None:
    """write.rs `api_v1_write_request_parsing`."""
    given = {"db": db, "precision": precision, "rp": rp}
    answer = client.post("/write", params={k: v for k, v in given.items() if v is not None}, content=BODY)
    assert answer.status_code == status
    if status != 204:
        assert list(answer.json()) == ["error"]


def test_api_v1_write_round_trip(client: TestClient, engine: Engine) -> None:
    """write.rs `api_v1_write_round_trip`: blanks before a line are not part of it."""
    assert client.post("/write", params={"db": "foo"}, content=ROUND).status_code == 204
    assert _rows(engine) == [(1, "a", 0.5), (2, "a", 0.6), (3, "a", 0.7)]


@pytest.mark.parametrize(
    ("org", "bucket", "precision", "status"),
    [
        (None, None, None, 400),
        (None, "foo", None, 204),
        ("bar", "foo", None, 204),
        (None, "foo", "s", 204),
        (None, "foo", "ms", 204),
        (None, "foo", "us", 204),
        (None, "foo", "ns", 204),
        # and what is wrong besides
        ("bar", None, None, 400),
        ("bar", "", None, 400),
        ("bar", "foo", "", 400),
        ("bar", "foo", "m", 400),
        ("bar", "_foo", None, 400),
    ],
)
def test_api_v2_write_request_parsing(
    client: TestClient, org: str | None, bucket: str | None, precision: str | None, status: int
) -> None:
    """write.rs `api_v2_write_request_parsing`."""
    given = {"org": org, "bucket": bucket, "precision": precision}
    answer = client.post("/api/v2/write", params={k: v for k, v in given.items() if v is not None}, content=BODY)
    assert answer.status_code == status
    if status != 204:
        assert answer.json()["code"] == "invalid"
        assert answer.json()["message"]


def test_api_v2_write_round_trip(client: TestClient, engine: Engine) -> None:
    """write.rs `api_v2_write_round_trip`."""
    assert client.post("/api/v2/write", params={"bucket": "foo"}, content=ROUND).status_code == 204
    assert _rows(engine) == [(1, "a", 0.5), (2, "a", 0.6), (3, "a", 0.7)]


@pytest.mark.parametrize("header", [None, "Token wrong"])
def test_api_v2_write_without_token_and_with_an_invalid_one(engine: Engine, header: str | None) -> None:
    """write.rs `api_v2_write_round_trip…without_token…` and `…invalid_token…`: the form is not that of v2."""
    engine.create_token("joe")
    client = TestClient(create_app(engine))
    headers = {} if header is None else {"authorization": header}
    answer = client.post("/api/v2/write", params={"bucket": "foo"}, content=BODY, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"error": "the request was not authenticated"})


@pytest.mark.parametrize(
    ("path", "params"),
    [("/write", {"db": "foo"}), ("/api/v2/write", {"bucket": "foo"}), ("/api/v3/write_lp", {"db": "foo"})],
)
def test_api_no_sync_param(client: TestClient, engine: Engine, path: str, params: dict[str, str]) -> None:
    """write.rs `api_no_sync_param`: all routes take it, and only v3 goes by it."""
    assert client.post(path, params={**params, "no_sync": "true"}, content=BODY).status_code == 204
    engine.write("later v=1", database="foo")  # v3 was answered before its rows were to be seen; these come after them
    assert len(_rows(engine)) == 1


@pytest.mark.parametrize(
    ("path", "params", "answered"),
    [
        (
            "/write",
            {"db": "foo"},
            {
                "error": "line protocol parsing error: unable to parse line 2 'cpu,host=a val= 123': No fields were provided",
                "data": {
                    "error_message": "No fields were provided",
                    "line_number": 2,
                    "original_line": "cpu,host=a val= 123",
                },
            },
        ),
        (
            "/api/v2/write",
            {"bucket": "foo"},
            {
                "code": "invalid",
                "message": "write buffer error: parsing for line protocol failed: line 2 'cpu,host=a val= 123': "
                "No fields were provided",
            },
        ),
    ],
)
@pytest.mark.parametrize("partial", [None, "true", "false"])
def test_one_bad_line_refuses_the_body(
    client: TestClient, engine: Engine, path: str, params: dict[str, str], answered: Any, partial: str | None
) -> None:
    """write.rs has the form of v2; neither older route knows `accept_partial`."""
    more = {} if partial is None else {"accept_partial": partial}
    answer = client.post(path, params={**params, **more}, content=BAD)
    assert (answer.status_code, answer.json()) == (400, answered)
    assert engine.databases() == []


@pytest.mark.parametrize("path", ["/write?db=foo", "/api/v2/write?bucket=foo"])
@pytest.mark.parametrize("flag", ["accept_partial", "no_sync"])
def test_flags_of_v3_are_not_even_read(client: TestClient, path: str, flag: str) -> None:
    assert client.post(f"{path}&{flag}=maybe", content=BODY).status_code == 204


def test_too_large_a_body_in_the_form_of_v1(client: TestClient, engine: Engine) -> None:
    answer = client.post("/write?db=foo", **_gzipped(b"x" * 100_001))
    assert (answer.status_code, list(answer.json())) == (413, ["error"])
    assert engine.databases() == []


@pytest.mark.parametrize("body", [b"", b"# nothing\n\n"])
def test_an_empty_body(client: TestClient, body: bytes) -> None:
    v1 = client.post("/write?db=foo", content=body)
    assert (v1.status_code, v1.json()) == (400, {"error": "incoming write was empty"})
    v2 = client.post("/api/v2/write?bucket=foo", content=body)
    assert (v2.status_code, v2.json()) == (400, {"code": "invalid", "message": "incoming write was empty"})


V2_ERRORS: list[tuple[str, dict[str, str], bytes, dict[str, str], int, str, str]] = [
    (
        "invalid line protocol",
        {"bucket": "foo", "org": "bar"},
        b"cpu,host=a val= 123",
        {},
        400,
        "invalid",
        "write buffer error: parsing for line protocol failed: line 1 'cpu,host=a val= 123': No fields were provided",
    ),
    (
        "the second line is invalid",
        {"bucket": "foo"},
        b"cpu,host=a v=1 1\ninvalid_line",
        {},
        400,
        "invalid",
        "write buffer error: parsing for line protocol failed: line 2 'invalid_line': Expected at least one space character, "
        "got end of input",
    ),
    (
        "missing bucket",
        {"org": "bar"},
        BODY,
        {},
        400,
        "invalid",
        "no org/bucket destination provided: missing bucket value; write for example /api/v2/write?org=any&bucket=sensors",
    ),
    (
        "precision",
        {"bucket": "foo", "precision": "fortnight"},
        BODY,
        {},
        400,
        "invalid",
        "unrecognized precision unit: 'fortnight'; use one of auto, second, millisecond, microsecond, nanosecond, s, ms, us, u, "
        "ns, n",
    ),
    ("name", {"bucket": "_foo"}, BODY, {}, 400, "invalid", "db name did not start with a number or letter"),
    ("empty", {"bucket": "foo"}, b"", {}, 400, "invalid", "incoming write was empty"),
    (
        "encoding",
        {"bucket": "foo"},
        BODY,
        {"content-encoding": "gzip"},
        400,
        "invalid",
        "the body is not gzip, although its Content-Encoding says so: byte 0 begins no member, or the member is damaged",
    ),
    (
        "too large",
        {"bucket": "foo"},
        b"x" * 100_001,
        {},
        413,
        "request too large",
        "the body is over the limit of 100000 bytes (before or after decompression); send it in several requests, or raise "
        "max_http_request_size",
    ),
]


@pytest.mark.parametrize(
    ("params", "body", "headers", "status", "code", "message"),
    [case[1:] for case in V2_ERRORS],
    ids=[name for name, *_ in V2_ERRORS],
)
def test_v2_write_error_format(
    client: TestClient,
    engine: Engine,
    params: dict[str, str],
    body: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
    message: str,
) -> None:
    """write.rs, the tests of the form of v2's errors: `code` and `message`, nothing else, and nothing is written."""
    answer = client.post("/api/v2/write", params=params, content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert list(answer.json().items()) == [("code", code), ("message", message)]
    assert engine.databases() == []


def test_v2_write_error_format_of_a_type_conflict(client: TestClient, engine: Engine) -> None:
    """write.rs: the same for what only the schema refuses; the line before it is refused with it."""
    assert client.post("/api/v2/write?bucket=foo", content=b"cpu,host=a usage=1 1").status_code == 204
    body = b"cpu,host=a usage=2 2\ncpu,host=a usage=3i 3"
    answer = client.post("/api/v2/write?bucket=foo", content=body)
    message = (
        "write buffer error: parsing for line protocol failed: line 2 'cpu,host=a usage=3i ': invalid column type for column "
        "'usage', expected iox::column_type::field::float, got iox::column_type::field::integer (table 'cpu')"
    )
    assert (answer.status_code, answer.json()) == (400, {"code": "invalid", "message": message})
    assert len(_rows(engine)) == 1


@pytest.mark.parametrize(
    ("method", "content", "status", "code"),
    [("POST", b"x" * 100_001, 413, "request too large"), ("GET", b"", 405, "method not allowed")],
)
def test_other_problems_have_the_form_of_v2_too(
    client: TestClient, method: str, content: bytes, status: int, code: str
) -> None:
    answer = client.request(method, "/api/v2/write?bucket=foo", content=content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert client.get("/api/v2/buckets").json()["code"] == "not found"


def test_mounted_below_a_path_the_form_is_the_same(engine: Engine) -> None:
    from starlette.applications import Starlette

    import walmill

    host = Starlette()
    walmill.mount(host, "/db", engine, without_auth=True, close_engine=False)
    with TestClient(host) as client:
        assert client.post("/db/api/v2/write").json()["code"] == "invalid"
        assert list(client.post("/db/write").json()) == ["error"]


@pytest.mark.parametrize(
    ("db", "rp", "database"),
    [
        ("foo", "", "foo"),
        ("foo", "''", "foo"),
        ("foo", "autogen", "foo"),
        ("foo", "AutoGen", "foo"),
        ("foo", "default", "foo"),
        ("foo", "Weekly", "foo/weekly"),
        ("Foo", "bar", "Foo/bar"),
        ("foo/bar", "autogen", "foo/bar"),
    ],
)
def test_a_retention_policy_is_part_of_the_name(
    client: TestClient, engine: Engine, db: str, rp: str, database: str
) -> None:
    assert client.post("/write", params={"db": db, "rp": rp}, content=BODY).status_code == 204
    assert engine.databases() == [database]
    assert client.post("/api/v2/write", params={"bucket": database}, content=BODY).status_code == 204
    assert len(_rows(engine, database)) == 2


@pytest.mark.parametrize(
    ("db", "rp"), [("foo/bar", "baz"), ("foo", "a/b"), ("_foo", "x"), ("foo", "x y"), ("f" * 500, "x" * 20)]
)
def test_names_that_are_refused(client: TestClient, engine: Engine, db: str, rp: str) -> None:
    answer = client.post("/write", params={"db": db, "rp": rp}, content=BODY)
    assert answer.status_code == 400
    assert "name" in answer.json()["error"]
    assert engine.databases() == []


@pytest.mark.parametrize(
    ("unit", "number"),
    [
        ("h", 489_180),
        ("m", 29_350_800),
        ("s", 1_761_048_000),
        ("ms", 1_761_048_000_000),
        ("u", 1_761_048_000_000_000),
        ("n", 1_761_048_000_000_000_000),
        ("", 1_761_048_000_000_000_000),
    ],
)
@pytest.mark.parametrize("lines", [1, 400])  # the second goes through the other parser
def test_v1_precisions_are_the_same_instant(
    client: TestClient, engine: Engine, unit: str, number: int, lines: int
) -> None:
    body = b"\n".join(b"cpu,host=h%d usage=1 %d" % (host, number) for host in range(lines))
    assert client.post("/write", params={"db": "foo", "precision": unit}, content=body).status_code == 204
    assert {time for time, _, _ in _rows(engine)} == {1_761_048_000_000_000_000}


def _gzipped(body: bytes) -> dict[str, Any]:
    return {"content": gzip.compress(body), "headers": {"content-encoding": "gzip"}}


@pytest.mark.parametrize("url", ["/write?db=foo", "/api/v2/write?bucket=foo"])
def test_gzip_and_what_else_clients_send(client: TestClient, engine: Engine, url: str) -> None:
    answer = client.post(f"{url}&consistency=all&u=me&org=o&x=1", **_gzipped(BODY + b" 5"))
    assert (answer.status_code, answer.content) == (204, b"")
    assert _rows(engine) == [(5, "a", 0.5)]


def _basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_v1_clients_send_the_token_as_their_password(engine: Engine) -> None:
    token = engine.create_token("joe")
    client = TestClient(create_app(engine))
    write = {"db": "foo"}
    assert client.post("/write", params={**write, "u": "any", "p": token}, content=BODY).status_code == 204
    assert client.post("/write", params=write, content=BODY, headers=_basic(f"any:{token}")).status_code == 204
    assert client.post("/query", params={"q": "CREATE DATABASE a", "p": token}).status_code == 200
    assert client.post("/write", params={**write, "p": "wrong"}, content=BODY).status_code == 401
    assert client.post("/write", params=write, content=BODY).status_code == 401
    # the header goes before the parameter
    both = client.post("/write", params={**write, "p": token}, content=BODY, headers=_basic("any:wrong"))
    assert both.status_code == 401
    # and no other route knows it
    assert client.post("/api/v3/write_lp", params={**write, "p": token}, content=BODY).status_code == 401


@pytest.mark.parametrize("header", ["Bearer", "Bearer a b", "Digest x", "x"])
def test_a_malformed_header_is_answered_in_influxdbs_words(engine: Engine, header: str) -> None:
    engine.create_token("joe")
    answer = TestClient(create_app(engine)).post("/write?db=d", content=BODY, headers={"authorization": header})
    assert (answer.status_code, answer.json()) == (
        400,
        {
            "error": "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> "
            "<token>', supported auth-schemes are Bearer, Token and Basic"
        },
    )


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ('CREATE DATABASE "telegraf"', "telegraf"),
        ("CREATE DATABASE telegraf", "telegraf"),
        (" create\n database telegraf ; ", "telegraf"),
        ('CREATE DATABASE "with-hyphen"', "with-hyphen"),
    ],
)
@pytest.mark.parametrize("way", ["query string", "form", "GET", "JSON"])
def test_create_database(client: TestClient, engine: Engine, statement: str, name: str, way: str) -> None:
    for _ in range(2):  # the second time it is there
        if way == "form":
            answer = client.post("/query", data={"q": statement})
        elif way == "JSON":
            answer = client.post("/query", json={"q": statement})
        else:
            answer = client.request("GET" if way == "GET" else "POST", "/query", params={"q": statement})
        assert (answer.status_code, answer.json()) == (200, {"results": [{"statement_id": 0}]})
        assert engine.databases() == [name]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"params": {"q": "DROP DATABASE a"}}, "error parsing query: line 1, char 1"),
        ({"params": {"q": "CREATE DATABASE a; DROP DATABASE b"}}, "after the name of the database is not known"),
        ({"params": {"q": 'CREATE DATABASE "a" WITH DURATION 1d'}}, "'WITH DURATION 1d' after the name"),
        ({"params": {"q": "CREATE DATABASE"}}, "cannot be run here"),
        ({"params": {"q": 'CREATE DATABASE "_a"'}}, "did not start with a number or letter"),
        ({"params": {"q": 'CREATE DATABASE ""'}}, "db name cannot be empty"),
        ({"params": {"q": 'CREATE DATABASE "a\\"b"'}}, "invalid character in database or rp name"),
        ({"params": {"q": 'CREATE DATABASE "a'}}, "cannot be run here"),
        ({"params": {"q": " "}}, "the parameter q is missing"),
        ({}, "the parameter q is missing"),
        ({"json": {"q": 5}}, "the parameter q is missing"),
        ({"json": [5]}, "must be a JSON object"),
        ({"content": b"q=x", "headers": {"content-type": "text/plain"}}, "'text/plain' is not known here"),
    ],
)
def test_other_statements_get_a_sentence(client: TestClient, engine: Engine, request_: Any, said: str) -> None:
    answer = client.post("/query", **request_)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert engine.databases() == []


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/x-msgpack", 204),  # what the client of InfluxDB 1 sends; it takes nothing but 204
        ("text/plain", 204),
        ("application/json", 200),
        ("*/*", 200),
        ("text/html, application/json;q=0.5", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_ping(client: TestClient, accept: str, status: int, method: str) -> None:
    answer = client.request(method, "/ping", headers={"accept": accept})
    assert answer.status_code == status
    assert answer.headers["x-influxdb-version"]
    assert answer.headers["x-influxdb-build"]
    assert answer.headers["request-id"]
    if status == 204 or method == "HEAD":
        assert answer.content == b""
    else:
        assert answer.json()["version"] == answer.headers["x-influxdb-version"]
