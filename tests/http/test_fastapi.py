"""An engine in a FastAPI application: the host keeps all that is its own, and a write reaches the host's plugin."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi import Request as HostRequest
from starlette.testclient import TestClient

from walmill import Engine, EngineOptions, Identity, mount
from walmill_hookspecs import hookimpl

WRITE = "/db/api/v3/write_lp?db=d"


class Doubled:
    """Writes what it gets, doubled, and tells the host."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.told = threading.Event()

    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        rows = list(batch.tables["cpu"].rows())
        ctx.write_now([{"v": row["v"] * 2, "time": row["time"]} for row in rows], table="doubled", tags=())
        self.seen += [row["v"] for row in rows]
        self.told.set()

    @hookimpl
    async def on_request(self, request: Any, ctx: Any) -> dict[str, Any]:
        return {"by": request.identity}


def _user(request: HostRequest) -> str:
    name: str | None = request.headers.get("x-user")
    if name is None:
        raise HTTPException(401, "who are you?")
    return name


def _identity(request: Any) -> Identity | None:
    name = request.headers.get("x-user")
    return None if name is None else Identity(name)


def _host(directory: Path, plugin: Doubled, events: list[str]) -> FastAPI:
    """A host with a lifespan and its state, a dependency, a checked parameter and a router, and an engine below `/db`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append("starts")
        yield {"word": "kept"}
        events.append("ends")

    def opened() -> Engine:
        engine = Engine.open(EngineOptions(discover_plugins=False, data_dir=directory))
        engine.register(plugin, name="doubled")
        if not engine.triggers():
            engine.create_trigger(database="d", name="t", plugin="doubled", spec="table:cpu")
            engine.create_trigger(database="d", name="who", plugin="doubled", spec="request:who")
        return engine

    host = FastAPI(lifespan=lifespan)
    router = APIRouter(prefix="/things")

    @router.get("/{number}")
    def thing(number: int, user: Annotated[str, Depends(_user)]) -> dict[str, Any]:
        return {"number": number, "user": user}

    @host.get("/word")
    async def word(request: HostRequest) -> dict[str, str]:
        return {"word": request.state.word}

    mount(host, "/db", opened, auth=_identity)
    host.include_router(router)
    return host


def test_a_fastapi_host(tmp_path: Path) -> None:
    """Breaks if the host's lifespan, state, routes, dependencies, errors or schema are not as without an engine."""
    for life in (1, 2):  # the second one opens what the first one left
        events: list[str] = []
        plugin = Doubled()
        with TestClient(_host(tmp_path, plugin, events)) as client:
            assert events == ["starts"]
            assert client.post(WRITE, content=b"cpu v=1").status_code == 401
            client.headers["x-user"] = "joe"
            assert client.post(WRITE, content=f"cpu v={life}.5 {life}".encode()).status_code == 204
            assert plugin.told.wait(15)
            assert plugin.seen == [life + 0.5]
            asked = {"db": "d", "q": "SELECT v FROM doubled ORDER BY time"}
            rows = [{"v": 2.0 * one + 1} for one in range(1, life + 1)]
            assert client.get("/db/api/v3/query_sql", params=asked).json() == rows
            assert client.get("/db/api/v3/engine/who").json() == {"by": "joe"}

            assert client.get("/word").json() == {"word": "kept"}
            assert client.get("/things/5").json() == {"number": 5, "user": "joe"}
            assert client.get("/things/x").status_code == 422
            del client.headers["x-user"]
            assert client.get("/things/5").json() == {"detail": "who are you?"}
            assert client.get("/nothing").json() == {"detail": "Not Found"}
            assert set(client.get("/openapi.json").json()["paths"]) == {"/things/{number}", "/word"}
        assert events == ["starts", "ends"]
