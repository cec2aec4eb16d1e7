from __future__ import annotations

import gzip
import json
from functools import partial
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.errors import Unavailable
from walmill.http.write import refusal
from walmill.ingest.errors import LineError

WRITE = "/api/v3/write_lp"
pack = partial(gzip.compress, mtime=0)  # the same bytes each time: they name the cases


def _count(engine: Engine, table: str = "cpu") -> int:
    found = engine.query(f"SELECT count(*) AS n FROM {table}", database="d")
    return int(found["n"][0].as_py())


def test_a_good_write_is_answered_204_without_a_body(client: TestClient, engine: Engine) -> None:
    answer = client.post(f"{WRITE}?db=d", content=b"cpu,host=a v=1 1000000000\ncpu,host=b v=2 1000000000")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert _count(engine) == 2


@pytest.mark.parametrize(
    ("query", "body", "status", "expected"),
    [
        (
            "db=d",
            b"cpu,host=a v=1 1\ncpu,host=a val= 123",
            400,
            b'{"error":"partial write of line protocol occurred","data":[{"error_message":"No fields were provided",'
            b'"line_number":2,"original_line":"cpu,host=a val= 123"}]}',
        ),
        (
            "db=d&accept_partial=false",
            b"cpu,host=a val= 123\ncpu,host=a v=1 1",
            400,
            b'{"error":"line protocol parsing error","data":{"error_message":"No fields were provided",'
            b'"line_number":1,"original_line":"cpu,host=a val= 123"}}',
        ),
        ("db=d", b"", 400, b'{"error":"incoming write was empty"}'),
        ("db=d", b"\n# only a comment\n\n", 400, b'{"error":"incoming write was empty"}'),
        (
            "",
            b"cpu v=1",
            400,
            b'{"error":"the query parameter db is missing: write for example /api/v3/write_lp?db=sensors"}',
        ),
        (
            "db=d&accept_partial=maybe",
            b"cpu v=1",
            400,
            b'{"error":"accept_partial=\'maybe\' is neither true nor false"}',
        ),
        ("db=d&no_sync=", b"cpu v=1", 400, b'{"error":"no_sync=\'\' is neither true nor false"}'),
    ],
)
def test_what_is_refused_is_answered_in_influxdbs_words(
    client: TestClient, query: str, body: bytes, status: int, expected: bytes
) -> None:
    answer = client.post(f"{WRITE}?{query}", content=body)
    assert (answer.status_code, answer.content) == (status, expected)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("query", ["db=d&precision=fortnight", "db=d&precision=", "db=_x", "db=a%20b", "db=%FF"])
def test_unknown_precisions_and_bad_names_are_400(client: TestClient, engine: Engine, query: str) -> None:
    answer = client.post(f"{WRITE}?{query}", content=b"cpu v=1")
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert engine.databases() == []


@pytest.mark.parametrize(
    ("precision", "number"),
    [("", 5), ("precision=auto", 5), ("precision=s", 5), ("precision=ms", 5000), ("precision=us", 5_000_000)],
)
def test_precisions(client: TestClient, engine: Engine, precision: str, number: int) -> None:
    assert client.post(f"{WRITE}?db=d&{precision}", content=f"cpu v=1 {number}".encode()).status_code == 204
    found = engine.query("SELECT time FROM cpu", database="d")["time"][0]
    assert found.value == 5_000_000_000


def test_nothing_is_written_without_accept_partial(client: TestClient, engine: Engine) -> None:
    client.post(f"{WRITE}?db=d", content=b"cpu v=1 1")
    answer = client.post(f"{WRITE}?db=d&accept_partial=false", content=b"cpu v=1 2\ncpu v=oops 3")
    assert answer.status_code == 400
    assert _count(engine) == 1


def test_a_type_conflict_is_a_partial_write(client: TestClient, engine: Engine) -> None:
    client.post(f"{WRITE}?db=d", content=b"cpu v=1 1")
    answer = client.post(f"{WRITE}?db=d", content=b'cpu v="text" 2\ncpu v=2 3')
    assert answer.status_code == 400
    assert [one["line_number"] for one in answer.json()["data"]] == [1]
    assert _count(engine) == 2


@pytest.mark.parametrize("partial", [True, False])
def test_schema_limits_are_422(partial: bool) -> None:
    message = "Update to schema would exceed number of columns per table limit of 500 columns"
    status, body = refusal((LineError(1, message, "cpu v=1"), LineError(2, "other", "x")), partial)
    assert status == 422
    assert message.encode() in body


def test_a_report_of_many_lines_names_all_of_them(client: TestClient) -> None:
    answer = client.post(f"{WRITE}?db=d", content=b"\n".join(b"cpu v=" for _ in range(1000)))
    assert [one["line_number"] for one in answer.json()["data"]] == list(range(1, 1001))


@pytest.mark.parametrize(
    "packed",
    [
        pack(b"cpu v=1 1\ncpu v=2 2"),
        pack(b"cpu v=1 1\n") + pack(b"") + pack(b"cpu v=2 2"),
        pack(b"") + pack(b"cpu v=1 1\ncpu v=2 2") + bytes(16),
    ],
)
def test_gzip(client: TestClient, engine: Engine, packed: bytes) -> None:
    answer = client.post(f"{WRITE}?db=d", content=packed, headers={"content-encoding": "gzip"})
    assert answer.status_code == 204
    assert _count(engine) == 2


@pytest.mark.parametrize(
    ("encoding", "body", "status", "said"),
    [
        ("gzip", b"cpu v=1 1", 400, "is not gzip"),
        ("gzip", pack(b"cpu v=1 1")[:-4], 400, "cut off"),
        ("gzip", pack(b"cpu v=1 1") + b"rest", 400, "is not gzip"),
        ("gzip", b"", 400, "incoming write was empty"),
        ("br", b"cpu v=1", 400, "'br' is unknown"),
        ("identity", b"x" * 100_001, 413, "over the limit of 100000 bytes"),
        ("gzip", pack(b"x" * 100_001), 413, "over the limit of 100000 bytes"),
        ("gzip", pack(b"x" * 60_000) * 2, 413, "over the limit of 100000 bytes"),
    ],
)
def test_bodies_that_cannot_be_read(
    client: TestClient, engine: Engine, encoding: str, body: bytes, status: int, said: str
) -> None:
    answer = client.post(f"{WRITE}?db=d", content=body, headers={"content-encoding": encoding})
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert engine.databases() == []


def test_a_body_of_unknown_length_is_limited_too(client: TestClient) -> None:
    answer = client.post(f"{WRITE}?db=d", content=iter([b"x" * 60_000] * 4))
    assert answer.status_code == 413


def test_a_body_at_the_limit_is_taken(client: TestClient, engine: Engine) -> None:
    body = b'cpu v="' + b"x" * (100_000 - 9) + b'"' + b"\n"
    assert len(body) == 100_000
    assert client.post(f"{WRITE}?db=d", content=body).status_code == 204
    assert _count(engine) == 1


def test_bad_utf8_spoils_its_own_line_only(client: TestClient, engine: Engine) -> None:
    answer = client.post(f"{WRITE}?db=d", content=b"cpu v=1 1\ncpu,host=\xff v=2 2\ncpu v=3 3")
    assert answer.status_code == 400
    assert [one["line_number"] for one in answer.json()["data"]] == [2]
    assert _count(engine) == 2


def test_no_sync_is_accepted(client: TestClient) -> None:
    assert client.post(f"{WRITE}?db=d&no_sync=true", content=b"cpu v=1 1").status_code == 204


@pytest.mark.parametrize("partial", ["true", "false"])
def test_what_is_refused_with_no_sync_is_told_as_always(client: TestClient, engine: Engine, partial: str) -> None:
    """The body is parsed before the answer, whatever is done later."""
    query = f"db=d&no_sync=true&accept_partial={partial}"
    answer = client.post(f"{WRITE}?{query}", content=b"cpu v=1 1\ncpu v=oops 2")
    assert (answer.status_code, "No fields were provided" in answer.text) == (400, True)
    engine.write("later v=1", database="d")
    assert ("cpu" in engine.view().catalog.database("d").tables) == (partial == "true")
    assert partial == "false" or _count(engine) == 1


def test_other_methods_are_405(client: TestClient) -> None:
    answer = client.get(f"{WRITE}?db=d")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": f"{WRITE} does not know the method GET; it knows POST"}


class _Full:
    """An engine in a place without space."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def write_async(self, *args: Any, **kwargs: Any) -> Any:
        raise Unavailable("the disk is full; writing goes on by itself when there is space", retry_after=7)


def test_unavailable_says_when_to_come_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "write_async", _Full(engine).write_async)
    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as client:
        answer = client.post(f"{WRITE}?db=d", content=b"cpu v=1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert json.loads(answer.content)["error"].startswith("the disk is full")


def test_a_closed_engine_answers_503() -> None:
    engine = Engine.open(discover_plugins=False)
    app = create_app(engine, without_auth=True)
    with TestClient(app) as client:
        assert client.post(f"{WRITE}?db=d", content=b"cpu v=1").status_code == 204
    answer = TestClient(app).post(f"{WRITE}?db=d", content=b"cpu v=1")
    assert answer.status_code == 503
    assert answer.headers["retry-after"].isdigit()


def test_what_nobody_expected_is_a_plain_sentence(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(engine, "write_async", broken)
    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as client:
        answer = client.post(f"{WRITE}?db=d", content=b"cpu v=1")
    assert answer.status_code == 500
    assert answer.json() == {"error": "an error of the server; its log says more, please report it"}
    assert "ZeroDivisionError" in caplog.text
