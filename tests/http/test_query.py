from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from walmill import Engine
from walmill.errors import Unavailable
from walmill.http.query import QueryEndpoint
from walmill.http.site import Site
from walmill.query.errors import QueryStopped

QUERY = "/api/v3/query_sql"


@pytest.fixture
def filled(client: TestClient, engine: Engine) -> TestClient:
    engine.write("cpu,host=a v=1.5,n=1i 1000000000\ncpu,host=b v=2.5 2000000000", database="d")
    return client


def test_get_and_post_say_the_same(filled: TestClient) -> None:
    asked = {"db": "d", "q": "SELECT * FROM cpu ORDER BY time"}
    expected = (
        b'[{"host":"a","v":1.5,"n":1,"time":"1970-01-01T00:00:01"},{"host":"b","v":2.5,"time":"1970-01-01T00:00:02"}]'
    )
    for answer in (
        filled.get(QUERY, params=asked),
        filled.post(QUERY, json=asked),
        filled.post(QUERY, params=asked),
        filled.post(QUERY, params={"db": "d"}, json={"q": asked["q"]}),
    ):
        assert (answer.status_code, answer.content) == (200, expected)
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("form", "content_type", "body"),
    [
        ("json", "application/json", b'[{"host":"a","v":1.5}]'),
        ("jsonl", "application/jsonl", b'{"host":"a","v":1.5}\n'),
        ("csv", "text/csv", b"host,v\na,1.5\n"),
        (
            "pretty",
            "text/plain; charset=utf-8",
            b"+------+-----+\n| host | v   |\n+------+-----+\n| a    | 1.5 |\n+------+-----+\n",
        ),
    ],
)
def test_formats(filled: TestClient, form: str, content_type: str, body: bytes) -> None:
    asked = {"db": "d", "q": "SELECT host, v FROM cpu WHERE host = 'a'", "format": form}
    answer = filled.get(QUERY, params=asked)
    assert (answer.headers["content-type"], answer.content) == (content_type, body)


def test_arrow_and_parquet(filled: TestClient) -> None:
    asked = {"db": "d", "q": "SELECT host, n FROM cpu ORDER BY time"}
    arrow = filled.get(QUERY, params=asked, headers={"accept": "application/vnd.apache.arrow.stream"})
    parquet = filled.get(QUERY, params={**asked, "format": "parquet"})
    assert pa.ipc.open_stream(arrow.content).read_all().to_pylist() == [{"host": "a", "n": 1}, {"host": "b", "n": None}]
    assert pq.read_table(io.BytesIO(parquet.content)).to_pylist() == [{"host": "a", "n": 1}, {"host": "b", "n": None}]


@pytest.mark.parametrize("as_body", [True, False])
def test_parameters_are_typed_values(filled: TestClient, as_body: bool) -> None:
    params: dict[str, Any] = {"host": "a' OR '1'='1", "least": 1}
    sql = "SELECT count(*) AS n FROM cpu WHERE host = $host OR v > $least"
    if as_body:
        answer = filled.post(QUERY, json={"db": "d", "q": sql, "params": params})
    else:
        answer = filled.get(QUERY, params={"db": "d", "q": sql, "params": json.dumps(params)})
    assert answer.json() == [{"n": 2}]


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"db": "nope", "q": "SELECT 1"}, 404, "'nope'"),
        ({"db": "d", "q": "SELECT * FROM cpux"}, 404, "did you mean 'cpu'?"),
        ({"db": "d", "q": "SELEC 1"}, 400, "SELEC"),
        ({"db": "d", "q": "SELECT * FROM cpu WHERE host = $host"}, 400, "$host"),
        ({"db": "d"}, 400, "q is missing"),
        ({}, 400, "db and q are missing"),
        ({"db": "d", "q": "SELECT 1", "format": "xml"}, 400, "unknown format 'xml'"),
        ({"db": "d", "q": "SELECT 1", "frmat": "csv"}, 400, "did you mean 'format'?"),
        ({"db": "d", "q": 5}, 400, "q must be a text, not 5"),
        ({"db": "d", "q": "SELECT 1", "params": [1]}, 400, "params must be an object"),
        ({"db": "d", "q": "DROP TABLE cpu"}, 400, ""),
        ({"db": "d", "q": "INSERT INTO cpu VALUES (1)"}, 400, ""),
    ],
)
def test_what_is_wrong_is_said(filled: TestClient, asked: dict[str, Any], status: int, said: str) -> None:
    answer = filled.post(QUERY, json=asked)
    assert answer.status_code == status
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"[1]", b"{", b'{"q": NaN}', b'{"db": "a", "db": "b"}', b"[" * 100_000, b"\xff\xfe", b'"text"']
)
def test_bodies_that_are_no_json_object(filled: TestClient, body: bytes) -> None:
    answer = filled.post(QUERY, content=body[:99_000])
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the body")


def test_query_string_and_body_must_not_differ(filled: TestClient) -> None:
    answer = filled.post(QUERY, params={"db": "other"}, json={"db": "d", "q": "SELECT 1"})
    assert answer.status_code == 400
    assert "they differ" in answer.json()["error"]


def test_an_unacceptable_accept_header(filled: TestClient) -> None:
    answer = filled.get(QUERY, params={"db": "d", "q": "SELECT 1"}, headers={"accept": "image/png"})
    assert answer.status_code == 400
    assert "image/png" in answer.json()["error"]


def test_head_has_no_body(filled: TestClient) -> None:
    answer = filled.head(QUERY, params={"db": "d", "q": "SELECT * FROM cpu"})
    assert (answer.status_code, answer.content) == (200, b"")


def test_show_tables_and_an_empty_result(filled: TestClient) -> None:
    tables = filled.get(QUERY, params={"db": "d", "q": "SHOW TABLES"}).json()
    assert "cpu" in [one["table_name"] for one in tables]
    assert filled.get(QUERY, params={"db": "d", "q": "SELECT * FROM cpu WHERE v > 100"}).content == b"[]"


def test_a_large_result_comes_in_pieces(filled: TestClient) -> None:
    sql = "SELECT value FROM generate_series(1, 200000)"
    answer = filled.get(QUERY, params={"db": "d", "q": sql, "format": "jsonl"})
    lines = answer.text.splitlines()
    assert len(lines) == 200_000
    assert json.loads(lines[-1]) == {"value": 200_000}


def test_a_query_stops_when_its_caller_goes_away(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.create_database("d")
    streams: list[Any] = []
    begin = engine.stream

    def remembered(*args: Any, **kwargs: Any) -> Any:
        streams.append(begin(*args, **kwargs))
        return streams[-1]

    monkeypatch.setattr(engine, "stream", remembered)
    body = json.dumps({"db": "d", "q": "SELECT value FROM generate_series(1, 1000000000)", "format": "csv"}).encode()
    sent: list[Any] = []

    async def ask() -> None:
        first_piece = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await first_piece.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                first_piece.set()
                await asyncio.sleep(0)

        scope = {"type": "http", "method": "POST", "query_string": b"", "headers": [], "path": QUERY}
        await asyncio.wait_for(QueryEndpoint(Site(engine))(scope, receive, send), 20)

    with contextlib.suppress(Unavailable):  # the thread that waited for a batch says that it was stopped
        asyncio.run(ask())
    assert sent[0]["status"] == 200
    assert all(message["more_body"] for message in sent[1:])
    with pytest.raises(QueryStopped):  # what was read is not the whole answer
        next(streams[0])


def test_queries_are_listed_and_cancelled(filled: TestClient, engine: Engine) -> None:
    endless = (
        "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value = b.value % 7"
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(filled.get, QUERY, params={"db": "d", "q": endless})
        until = time.monotonic() + 60
        while not (found := [one for one in filled.get("/api/v3/queries").json() if one["phase"] == "running"]):
            assert time.monotonic() < until
        assert (found[0]["database"], found[0]["query_text"], found[0]["query_type"]) == ("d", endless, "sql")
        assert filled.request("DELETE", "/api/v3/queries", params={"id": found[0]["id"]}).status_code == 200
        answer = running.result(10)
    assert answer.status_code == 503
    assert "stopped" in answer.json()["error"]
    gone = filled.request("DELETE", "/api/v3/queries", params={"id": found[0]["id"]})
    assert (gone.status_code, "waits or runs" in gone.json()["error"]) == (404, True)
    assert filled.request("DELETE", "/api/v3/queries").status_code == 400
    done = filled.get(QUERY, params={"db": "d", "q": "SELECT 1 AS one"})
    shown = {one["id"]: one for one in filled.get("/api/v3/queries").json()}
    assert shown[int(done.headers["walmill-query-id"])]["success"]
    assert shown[found[0]["id"]]["cancelled"]
