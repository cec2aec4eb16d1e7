"""What senders must survive: what may pass later is 503 with whole seconds, never 500, and nothing of it is half there."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.http import columns
from walmill.http.app import build
from walmill.http.site import Site
from walmill.options import EngineOptions
from walmill.testing.fs import FaultyFS


def stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


ROUTES: dict[str, tuple[str, bytes]] = {
    "v3": ("/api/v3/write_lp?db=d", b"new,host=a v=1 1"),
    "v2": ("/api/v2/write?bucket=d", b"new,host=a v=1 1"),
    "v1": ("/write?db=d", b"new,host=a v=1 1"),
}
COLUMNS: dict[str, tuple[str, bytes]] = {
    "rows": ("/api/v3/write_rows?db=d&table=new&tags=host", b'[{"host":"a","v":1.5,"time":1}]'),
    "arrow": (
        "/api/v3/write_arrow?db=d&table=new&tags=host",
        stream(pa.table({"host": ["a"], "v": [1.5], "time": pa.array([1], pa.timestamp("ns"))})),
    ),
}
LINES = pytest.mark.parametrize(("path", "body"), ROUTES.values(), ids=list(ROUTES))
WRITES = pytest.mark.parametrize(("path", "body"), (ROUTES | COLUMNS).values(), ids=list(ROUTES | COLUMNS))


def _later(answer: Any) -> str:
    """The sentence of an answer that asks to come again."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"].isdigit()
    assert int(answer.headers["retry-after"]) >= 1
    told = answer.json()
    if "/api/v2/" in str(answer.request.url):
        assert told["code"] == "unavailable"
        return str(told["message"])
    return str(told["error"])


@pytest.fixture
def disk() -> FaultyFS:
    return FaultyFS()


@pytest.fixture
def engine(disk: FaultyFS) -> Iterator[Engine]:
    with Engine.open(EngineOptions(discover_plugins=False, shutdown_timeout=5.0, fs=disk)) as made:
        made.write("cpu v=1 1", database="d")
        yield made


def _tables(engine: Engine) -> set[str]:
    return {table.schema.name for table in engine.view().catalog.tables.values()}


@WRITES
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails(
    client: TestClient, engine: Engine, disk: FaultyFS, path: str, body: bytes, call: str, error: int
) -> None:
    disk.fail(call, error, sticky=True)  # whatever else is written at this moment
    said = _later(client.post(path, content=body))
    disk.clear()
    assert "Traceback" not in said
    assert _tables(engine) == {"cpu"}, "a column or a table of what was refused"
    assert client.post(path, content=body).status_code == 204
    assert _tables(engine) == {"cpu", "new"}
    assert engine.query("SELECT count(*) AS n FROM new", database="d")["n"][0].as_py() == 1


def test_a_disk_that_fails_for_create_database(client: TestClient, engine: Engine, disk: FaultyFS) -> None:
    disk.fail("pwritev", errno.ENOSPC)
    _later(client.post("/query", data={"q": 'CREATE DATABASE "e"'}))
    assert engine.databases() == ["d"]
    assert client.post("/query", data={"q": 'CREATE DATABASE "e"'}).status_code == 200


@LINES
def test_memory_that_is_short_while_a_body_is_read(
    client: TestClient, engine: Engine, path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python raises MemoryError wherever it asks for memory; here where the engine takes the body."""

    async def short(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(engine, "write_async", short)
        assert "memory is short" in _later(client.post(path, content=body))
    assert client.post(path, content=body).status_code == 204


@pytest.mark.parametrize(
    ("route", "part"), [("rows", "from_numbered_rows"), ("arrow", "read_stream"), ("arrow", "from_arrow")]
)
def test_memory_that_is_short_while_rows_are_converted(
    client: TestClient, engine: Engine, route: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's error for it is one of Python's."""

    def short(*args: Any, **kwargs: Any) -> Any:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    path, body = COLUMNS[route]
    with monkeypatch.context() as patched:
        patched.setattr(columns, part, short)
        assert "memory is short" in _later(client.post(path, content=body))
    assert _tables(engine) == {"cpu"}
    assert client.post(path, content=body).status_code == 204


@WRITES
def test_an_engine_that_is_closed(engine: Engine, path: str, body: bytes) -> None:
    client = TestClient(create_app(engine, without_auth=True, close_engine=False))
    engine.close()
    assert "shutting down" in _later(client.post(path, content=body))


@WRITES
def test_an_engine_that_is_not_open_yet(path: str, body: bytes) -> None:
    site = Site(EngineOptions(discover_plugins=False))
    app = build(site, without_auth=True)
    assert "never opened" in _later(TestClient(app).post(path, content=body))
    with TestClient(app) as client:
        assert client.post(path, content=body).status_code == 204
    assert "is closed" in _later(TestClient(app).post(path, content=body))


@WRITES
def test_an_engine_that_is_not_open_yet_knows_no_tokens(path: str, body: bytes) -> None:
    """A sender with a good token must not be told that it is a bad one."""
    app = build(Site(EngineOptions(discover_plugins=False)))
    _later(TestClient(app).post(path, content=body, headers={"authorization": "Token x"}))


GARBAGE: list[tuple[str, Callable[[str], bytes]]] = [
    ("empty", lambda _: b""),
    ("not UTF-8", lambda _: b"\xff\xfe\x00"),
    ("NUL", lambda _: b"\0" * 100),
    ("no fields", lambda _: b"cpu"),
    ("a long line", lambda _: b"x" * 90_000),
    ("a conflict", lambda _: b'cpu v="text" 1'),
    ("quotes", lambda _: b'cpu v="'),
    ("JSON", lambda _: json.dumps({"a": 1}).encode()),
]


@LINES
@pytest.mark.parametrize("garbage", [make for _, make in GARBAGE], ids=[name for name, _ in GARBAGE])
def test_what_can_never_be_accepted_is_400(
    client: TestClient, engine: Engine, path: str, body: bytes, garbage: Callable[[str], bytes]
) -> None:
    answer = client.post(path, content=garbage(path))
    assert answer.status_code == 400
    assert _tables(engine) == {"cpu"}
    assert client.post(path, content=body).status_code == 204
