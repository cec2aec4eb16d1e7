from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from walmill import Engine, EngineOptions, Identity, mount
from walmill.errors import Conflict, InvalidRequest
from walmill_hookspecs import Request as PluginRequest
from walmill_hookspecs import hookimpl

WRITE = "/db/api/v3/write_lp?db=d"
OPTIONS = EngineOptions(discover_plugins=False)


class Echo:
    @hookimpl
    def on_request(self, request: PluginRequest, ctx: Any) -> dict[str, Any]:
        return {"path": request.path, "params": dict(request.path_params), "by": request.identity}


async def _state(request: Request) -> JSONResponse:
    return JSONResponse({"word": request.state.word})


def _host(events: list[str], **more: Any) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        events.append("host starts")
        yield {"word": "kept"}
        events.append("host ends")

    return Starlette(routes=[Route("/state", _state)], lifespan=lifespan, **more)


def test_the_hosts_lifespan_and_its_state_are_kept(tmp_path: Path) -> None:
    events: list[str] = []
    opened: list[Engine] = []

    def make() -> Engine:
        events.append("engine opens")
        opened.append(Engine.open(OPTIONS, data_dir=tmp_path / "data"))
        return opened[0]

    host = _host(events)
    mount(host, "/db", make, without_auth=True)
    assert events == []
    with TestClient(host) as client:
        assert events == ["engine opens", "host starts"]
        assert client.get("/state").json() == {"word": "kept"}
        assert client.post(WRITE, content=b"cpu v=1").status_code == 204
        assert client.get("/db/health").text == "OK"
    assert events == ["engine opens", "host starts", "host ends"]
    assert not opened[0].ready
    with Engine.open(OPTIONS, data_dir=tmp_path / "data") as again:  # the lock is free
        assert again.query("SELECT v FROM cpu", database="d").num_rows == 1


def test_an_engine_from_options_can_live_twice(tmp_path: Path) -> None:
    host = Starlette()
    mount(host, "/db", EngineOptions(discover_plugins=False, data_dir=tmp_path / "data"), without_auth=True)
    for count in (1, 2):
        with TestClient(host) as client:
            assert client.post(WRITE, content=f"cpu v={count} {count}".encode()).status_code == 204
            asked = {"db": "d", "q": "SELECT count(*) AS n FROM cpu"}
            assert client.get("/db/api/v3/query_sql", params=asked).json() == [{"n": count}]


def test_two_engines_below_two_paths(engine: Engine) -> None:
    host = Starlette()
    mount(host, "/a", engine, without_auth=True, close_engine=False)
    mount(host, "/b/deep", OPTIONS, without_auth=True)
    with TestClient(host) as client:
        assert client.post("/a/api/v3/write_lp?db=d", content=b"cpu v=1").status_code == 204
        assert client.get("/a/api/v3/configure/database").json()[0]["db"] == "d"
        assert client.get("/b/deep/api/v3/configure/database").json() == []
    assert engine.ready


def test_an_engine_that_was_given_open_is_closed_unless_the_host_says_no() -> None:
    for close in (True, False):
        engine = Engine.open(OPTIONS)
        host = Starlette()
        mount(host, "/db", engine, close_engine=close)
        with TestClient(host):
            pass
        assert engine.ready is not close
        engine.close()


def test_hosts_middleware_sees_everything(engine: Engine) -> None:
    seen: list[str] = []

    async def watch(request: Request, call_next: Any) -> Any:
        seen.append(request.url.path)
        answer = await call_next(request)
        answer.headers["x-host"] = "was here"
        return answer

    host = _host([], middleware=[Middleware(BaseHTTPMiddleware, dispatch=watch)])
    mount(host, "/db", engine, without_auth=True, close_engine=False)
    engine.write("cpu v=1", database="d")
    with TestClient(host) as client:
        assert client.post(WRITE, content=b"cpu v=1").headers["x-host"] == "was here"
        answer = client.get("/db/api/v3/query_sql", params={"db": "d", "q": "SELECT count(*) AS n FROM cpu"})
        assert (answer.json(), answer.headers["x-host"]) == ([{"n": 2}], "was here")
        assert client.get("/db/nope").headers["x-host"] == "was here"
    assert seen == ["/db/api/v3/write_lp", "/db/api/v3/query_sql", "/db/nope"]


def test_a_mount_inside_a_mount(engine: Engine) -> None:
    engine.register(Echo(), name="echo")
    engine.create_trigger(database="d", name="echo", plugin="echo", spec="request:x/{id:int}")
    inner, outer = Starlette(), Starlette()
    mount(inner, "/db", OPTIONS, without_auth=True, lifespan_of=outer)
    mount(inner, "/open", engine, without_auth=True, close_engine=False)
    outer.mount("/{tenant}", inner)
    with TestClient(outer) as client:
        assert client.post(f"/any{WRITE}", content=b"cpu v=1").status_code == 204
        answer = client.get("/any/open/api/v3/engine/x/5")
        assert answer.json() == {"path": "x/5", "params": {"id": 5}, "by": None}
        assert client.get("/any/open/health").status_code == 200


def test_routes_below_a_root_path(engine: Engine) -> None:
    engine.register(Echo(), name="echo")
    engine.create_trigger(database="d", name="echo", plugin="echo", spec="request:x/{id}")
    token = engine.create_token("joe")
    host = Starlette()
    mount(host, "/db", engine, close_engine=False)
    with TestClient(host, root_path="/proxy") as client:
        assert client.get("/proxy/db/health").text == "OK"
        assert client.get("/proxy/db/api/v3/engine/x/1").status_code == 401
        answer = client.get("/proxy/db/api/v3/engine/x/1", headers={"authorization": f"Bearer {token}"})
        assert answer.json() == {"path": "x/1", "params": {"id": "1"}, "by": "joe"}


def test_without_lifespan_events_it_says_so() -> None:
    inner, outer = Starlette(), Starlette()
    mount(inner, "/db", OPTIONS, without_auth=True)
    outer.mount("/inner", inner)
    with TestClient(outer) as client:
        for path in ("/api/v3/query_sql?db=d&q=x", "/ready", "/metrics", "/api/v3/engine/x"):
            answer = client.get(f"/inner/db{path}")
            assert answer.status_code == 503
            assert "no lifespan events" in answer.json()["error"]
            assert "lifespan_of" in answer.json()["error"]
        assert client.get("/inner/db/health").status_code == 200


def test_a_directory_that_is_in_use_leaves_the_host_alone_until_it_is_free(tmp_path: Path) -> None:
    holder = Engine.open(OPTIONS, data_dir=tmp_path)
    host = _host([])
    mount(host, "/db", EngineOptions(discover_plugins=False, data_dir=tmp_path), without_auth=True)
    with TestClient(host) as client:
        assert client.get("/state").json() == {"word": "kept"}
        answer = client.post(WRITE, content=b"cpu v=1")
        assert answer.status_code == 503
        assert "in use by process" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1
        holder.close()
        for _ in range(300):  # the host tries again every second
            answer = client.post(WRITE, content=b"cpu v=1")
            if answer.status_code == 204:
                break
            client.portal.call(_a_moment)  # type: ignore[union-attr]
        assert answer.status_code == 204


async def _a_moment() -> None:
    import anyio

    await anyio.sleep(0.02)


def test_the_hosts_own_users(engine: Engine) -> None:
    engine.register(Echo(), name="echo")
    engine.create_trigger(database="d", name="echo", plugin="echo", spec="request:who")

    def who(request: Request) -> Identity | None:
        return Identity(request.state.word) if request.headers.get("x-let-me") == "in" else None

    host = _host([])
    mount(host, "/db", engine, auth=who, close_engine=False)
    with TestClient(host) as client:
        assert client.get("/db/api/v3/engine/who").status_code == 401
        answer = client.get("/db/api/v3/engine/who", headers={"x-let-me": "in"})
        assert answer.json()["by"] == "kept"


def test_tokens_are_wanted_unless_something_else_is_said(engine: Engine) -> None:
    host = Starlette()
    mount(host, "/db", engine, close_engine=False)
    assert TestClient(host).post(WRITE, content=b"cpu v=1").status_code == 401


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("db", InvalidRequest),
        ("", InvalidRequest),
        ("/{x}", InvalidRequest),
        ("/a b", InvalidRequest),
        ("/db/", Conflict),
    ],
)
def test_bad_paths(engine: Engine, path: str, error: type[Exception]) -> None:
    host = Starlette()
    mount(host, "/db", engine)
    with pytest.raises(error):
        mount(host, path, engine)


@pytest.mark.parametrize(("host", "source"), [(object(), OPTIONS), (Starlette(), object()), (Starlette(), None)])
def test_what_is_no_host_and_no_engine(host: Any, source: Any) -> None:
    with pytest.raises(TypeError, match="is no"):
        mount(host, "/db", source)


def test_a_function_that_opens_no_engine() -> None:
    host = Starlette()
    mount(host, "/db", lambda: "engine")  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="returned 'engine'"), TestClient(host):
        pass


def test_an_engine_that_cannot_be_opened_keeps_the_host_from_starting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    host = Starlette()
    mount(host, "/db", EngineOptions(data_dir=tmp_path / "file" / "data"))
    with pytest.raises(OSError, match="file"), TestClient(host):
        pass


def test_auth_and_without_auth_contradict_each_other(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="leave one of them away"):
        mount(Starlette(), "/db", engine, auth=lambda request: None, without_auth=True)
