"""What the queries of a token may take: within the server's limits, over every way in, and after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.model.catalog import QueryLimits
from walmill.query.bounds import bounds_of

TOKEN = "/api/v3/configure/token"
QUERY = "/api/v3/query_sql"
ENDLESS = "SELECT sum(sqrt(value)) AS s FROM generate_series(1, 1000000000000)"
SORT = "SELECT value FROM generate_series(1, 20000000) ORDER BY value % 7919, value"


@pytest.fixture
def operator(engine: Engine) -> TestClient:
    engine.create_database("d")
    return TestClient(create_app(engine), headers={"authorization": f"Bearer {engine.create_token('operator')}"})


def client(engine: Engine, operator: TestClient, **limits: Any) -> TestClient:
    """A client with a token that has these limits."""
    answer = operator.post(TOKEN, json={"token_name": "viewer", **limits})
    assert answer.status_code == 201, answer.text
    assert limits.items() <= answer.json().items()
    return TestClient(create_app(engine), headers={"authorization": f"Bearer {answer.json()['token']}"})


def asked(client: TestClient, sql: str) -> tuple[int, Any]:
    answer = client.get(QUERY, params={"db": "d", "q": sql})
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("limits", "sql", "status", "said"),
    [
        (
            {"query_max_rows": 2},
            "SELECT * FROM cpu",
            422,
            "more than 2 rows, which is the limit of this token (query_max_rows)",
        ),
        ({"query_max_rows": 2}, "SELECT a.v FROM cpu a JOIN cpu b ON a.v >= b.v", 422, "more than 2 rows"),
        (
            {"query_max_files": 1},
            "SELECT * FROM cpu",
            422,
            "and 1 may be read for one, the limit of this token",
        ),
        ({"query_timeout": "300ms"}, ENDLESS, 503, " s, its time limit"),  # what the desk left of it
        (
            {"query_memory_limit": "16MiB"},
            SORT,
            422,
            "16 MB of memory that one query may use, the limit of this token",
        ),
    ],
)
def test_a_query_beyond_a_limit_is_refused(
    tmp_path: Path, limits: dict[str, Any], sql: str, status: int, said: str
) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        operator = TestClient(
            create_app(engine, close_engine=False),
            headers={"authorization": f"Bearer {engine.create_token('operator')}"},
        )
        for month in range(2):
            for number in range(2):
                engine.write(f"cpu,host=h{number} v={number} {month * 40 * 86400 * 10**9 + number}", database="d")
        engine.snapshot()
        viewer = client(engine, operator, **limits)
        found = asked(viewer, sql)
        assert found[0] == status, found
        assert said in found[1]["error"]
        if "cpu" in sql:
            assert asked(operator, sql)[0] == 200
        assert asked(viewer, "SELECT 1 AS one") == (200, [{"one": 1}])


def test_it_bounds_influxql_too(engine: Engine, operator: TestClient) -> None:
    engine.write("cpu v=1 1\ncpu v=2 2\ncpu v=3 3", database="d")
    viewer = client(engine, operator, query_max_rows=2)
    answer = viewer.get("/query", params={"db": "d", "q": "SELECT v FROM cpu"})
    assert "more than 2 rows" in answer.text
    assert "more than 2 rows" not in operator.get("/query", params={"db": "d", "q": "SELECT v FROM cpu"}).text


def test_limits_are_shown_changed_and_kept(tmp_path: Path) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        engine.create_database("d")
        operator = TestClient(
            create_app(engine, close_engine=False),
            headers={"authorization": f"Bearer {engine.create_token('operator')}"},
        )
        viewer = client(engine, operator, query_max_rows=1, query_timeout="1m30s", query_memory_limit="64MiB")
        two = "SELECT value FROM generate_series(1, 2)"
        assert asked(viewer, two)[0] == 422
        shown = {one["name"]: one for one in operator.get(TOKEN).json()}
        assert shown["viewer"]["query_timeout"] == "1m30s"
        assert not [name for name in shown["operator"] if name.startswith("query_")]
        assert operator.put(TOKEN, json={"token_name": "viewer", "query_max_rows": 2}).status_code == 200
        assert asked(viewer, two)[0] == 200
        assert operator.put(TOKEN, json={"token_name": "nobody"}).status_code == 404
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        (viewer_token,) = [one for one in engine.tokens() if one.name == "viewer"]
        assert viewer_token.limits == QueryLimits(rows=2)
        found = engine.query(
            "SELECT query_max_rows, query_timeout_ns FROM system.tokens WHERE name = 'viewer'", database="_internal"
        ).to_pylist()
        assert (found[0]["query_max_rows"], found[0]["query_timeout_ns"]) == (2, None)
        assert (
            asked(TestClient(create_app(engine, close_engine=False), headers=dict(viewer.headers)), "SELECT 1 AS one")[
                0
            ]
            == 200
        )


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"query_timeout": "soon"}, "query_timeout"),
        ({"query_timeout": "0s"}, "query_timeout"),
        ({"query_memory_limit": "1KiB"}, "query_memory_limit"),
        ({"query_max_rows": 0}, "query_max_rows=0 must be at least 1"),
        ({"query_max_files": "many"}, "query_max_files"),
        ({"query_max_row": 1}, "did you mean 'query_max_rows'?"),
    ],
)
def test_bad_limits(operator: TestClient, limits: dict[str, Any], said: str) -> None:
    for method in ("POST", "PUT"):
        answer = operator.request(method, TOKEN, json={"token_name": "viewer", **limits})
        assert answer.status_code == 400
        assert said in answer.json()["error"]


def test_the_tighter_limit_holds() -> None:
    theirs = QueryLimits(memory=100, rows=10, files=1)
    found = bounds_of(50, 5, None, None, theirs)
    assert (found.memory, found.rows, found.files, set(found.theirs)) == (50, 5, 1, {"files"})
    found = bounds_of(200, None, 3, None, theirs)
    assert (found.memory, found.rows, found.files, set(found.theirs)) == (100, 10, 1, {"memory", "rows", "files"})
