"""Real uvicorn processes: what only a real server, a real signal and a second process can show."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from attrs import define

pytestmark = pytest.mark.slow

DEADLINE = 60.0
WRITE = "/api/v3/write_lp?db=d"
COUNT = {"db": "d", "q": "SELECT count(*) AS n FROM cpu"}

PLUGIN = """
    import asyncio, threading, time
    from pathlib import Path
    from walmill_hookspecs import hookimpl

    class Slow:
        "Says that it began by a file, and takes its time."
        @hookimpl
        async def on_write(self, batch, ctx):
            (Path(__file__).parent / "began").touch()
            await asyncio.sleep(0.7)
            ctx.write("done n=1i")

    class Stuck:
        @hookimpl
        def on_write(self, batch, ctx):
            (Path(__file__).parent / "began").touch()
            threading.Event().wait()

    class Blocking:
        "Blocks the loop that all async hooks share."
        @hookimpl
        async def on_write(self, batch, ctx):
            (Path(__file__).parent / "began").touch()
            time.sleep(1e6)

    class Asked:
        @hookimpl
        def on_request(self, request, ctx):
            (Path(__file__).parent / "began").touch()
            threading.Event().wait()
"""

HOST = """
    import contextlib, os
    from pathlib import Path
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    import walmill

    HERE = Path(__file__).parent

    def options(name):
        return walmill.EngineOptions(data_dir=HERE / name, discover_plugins=False)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield {"word": "kept"}
        (HERE / "ended").touch()

    async def about(request):
        return JSONResponse({"word": request.state.word, "pid": os.getpid()})

    async def stamp(request, call_next):
        answer = await call_next(request)
        answer.headers["x-host"] = "stamped"
        return answer

    app = Starlette(
        routes=[Route("/", about)], lifespan=lifespan, middleware=[Middleware(BaseHTTPMiddleware, dispatch=stamp)]
    )
    walmill.mount(app, "/db", options("one"), without_auth=True)
    walmill.mount(app, "/second/db", options("two"), without_auth=True)
    inner = Starlette()
    walmill.mount(inner, "/db", options("three"), without_auth=True, lifespan_of=app)
    app.mount("/inner", inner)
"""

FASTAPI_HOST = """
    import contextlib
    from pathlib import Path
    from typing import Annotated
    from fastapi import Depends, FastAPI, HTTPException, Request
    import walmill
    from walmill_hookspecs import hookimpl

    HERE = Path(__file__).parent

    class Tally:
        "Keeps count of the rows in its state, and answers with how many there are."
        @hookimpl
        async def on_write(self, batch, ctx):
            ctx.write([{"rows": ctx.cache.incr("rows", batch.tables["cpu"].num_rows)}], table="tally", tags=())

        @hookimpl
        async def on_request(self, request, ctx):
            rows = await ctx.query("SELECT count(*) AS n FROM cpu")
            return {"n": rows.to_pylist()[0]["n"], "unit": request.query_params["unit"], "by": request.identity}

    def opened():
        engine = walmill.Engine.open(walmill.EngineOptions(data_dir=HERE / "data", discover_plugins=False))
        engine.register(Tally(), name="tally")
        if not engine.triggers():
            engine.create_trigger(database="d", name="rows", plugin="tally", spec="table:cpu")
            engine.create_trigger(database="d", name="count", plugin="tally", spec="request:count")
        return engine

    def user(request: Request) -> str:
        found = request.headers.get("x-user")
        if found is None:
            raise HTTPException(401, "who are you?")
        return found

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield {"word": "kept"}
        (HERE / "ended").touch()

    app = FastAPI(lifespan=lifespan)

    @app.get("/about/{number}")
    def about(number: int, request: Request, name: Annotated[str, Depends(user)]):
        return {"number": number, "word": request.state.word, "user": name}

    def identity(request):
        name = request.headers.get("x-user")
        return walmill.Identity(name) if name else None

    walmill.mount(app, "/db", opened, auth=identity)
"""


@define
class Running:
    """A server process."""

    process: subprocess.Popen[bytes]
    client: httpx2.Client
    log: Path

    def wait(self, true: Callable[[httpx2.Client], bool]) -> None:
        """Waits until something is true of the server; fails if it ends before."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx2.TransportError):
                if true(self.client):
                    return
            time.sleep(0.02)
        raise AssertionError(f"not within {DEADLINE} s\n{self.log.read_text()}")

    def end(self, *signals: signal.Signals) -> int:
        """Sends signals, and waits for the end."""
        for number in signals:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _listens(server: Running) -> bool:
    with (
        contextlib.suppress(ConnectionRefusedError),
        socket.create_connection(("127.0.0.1", server.client.base_url.port or 0)),
    ):
        return True
    return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `python ARGS` with PORT put in; all are ended afterwards, with their children."""
    with contextlib.ExitStack() as stack:

        def make(*args: str, ready: str = "/health") -> Running:
            port = _free_port()
            log = tmp_path / f"log-{port}"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, *(arg.replace("PORT", str(port)) for arg in args)],
                    cwd=tmp_path,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            stack.callback(_kill, process)
            client = stack.enter_context(
                httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=DEADLINE)
            )
            running = Running(process, client, log)
            running.wait(lambda client: client.get(ready).status_code == 200)
            return running

        yield make


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(DEADLINE)


def _write(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text))


def _serve_script(tmp_path: Path, plugin: str = "", timeout: str = "30s") -> None:
    """A script that does what `walmill serve` does, with a plugin of the test's own."""
    _write(tmp_path / "plugins.py", PLUGIN)
    register = f"engine.register(plugins.{plugin}(), name='p')" if plugin else "pass"
    _write(
        tmp_path / "serve.py",
        f"""
        import os, sys
        from pathlib import Path
        import plugins
        from walmill.engine import Engine
        from walmill.http import server
        from walmill.observe.log import configure
        from walmill.settings.load import load_settings

        open_engine = Engine.open.__func__
        def opened(cls, *args, **kwargs):
            engine = open_engine(cls, *args, **kwargs)
            {register}
            return engine
        Engine.open = classmethod(opened)
        configure(style="json")
        flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        flags.setdefault("without_auth", "true")
        flags.setdefault("data_dir", "data")
        flags.setdefault("shutdown_timeout", "{timeout}")
        sys.exit(server.run(load_settings(flags=flags, environ={{}}, directory=Path.cwd())))
        """,
    )


def test_a_host_with_three_engines(tmp_path: Path, start: Callable[..., Running]) -> None:
    _write(tmp_path / "host.py", HOST)
    uvicorn = ("-m", "uvicorn", "host:app", "--port", "PORT", "--root-path", "/proxy")
    host = start(*uvicorn, ready="/")
    assert host.client.get("/").json()["word"] == "kept"
    for count, path in enumerate(("/db", "/second/db", "/inner/db"), 1):
        for number in range(count):
            assert host.client.post(path + WRITE, content=f"cpu v={number} {number}".encode()).status_code == 204
        answer = host.client.get(f"{path}/api/v3/query_sql", params=COUNT)
        assert (answer.json(), answer.headers["x-host"]) == ([{"n": count}], "stamped")
    # uvicorn ends itself by the signal again, after an orderly shutdown
    assert host.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert (tmp_path / "ended").exists()
    again = start(*uvicorn, ready="/")
    assert again.client.get("/inner/db/api/v3/query_sql", params=COUNT).json() == [{"n": 3}]


def _tallied(client: httpx2.Client) -> int:
    """How many rows the plugin of the FastAPI host has counted, in all its lives."""
    answer = client.get("/db/api/v3/query_sql", params={"db": "d", "q": "SELECT max(rows) AS n FROM tally"})
    return int(answer.json()[0]["n"]) if answer.status_code == 200 else 0


def test_a_fastapi_host_is_stopped_and_started_again(tmp_path: Path, start: Callable[..., Running]) -> None:
    """Breaks if a real server's signal, not a test client's exit, leaves the engine open, or loses what it acknowledged."""
    _write(tmp_path / "host.py", FASTAPI_HOST)
    for life in (1, 2):
        host = start("-m", "uvicorn", "host:app", "--port", "PORT", ready="/openapi.json")
        assert host.client.get("/about/5").status_code == 401
        assert host.client.post(f"/db{WRITE}", content=b"cpu v=1 1").status_code == 401
        host.client.headers["x-user"] = "joe"
        assert host.client.get("/about/5").json() == {"number": 5, "word": "kept", "user": "joe"}
        assert host.client.get("/about/x").status_code == 422
        if life == 2:
            assert host.client.get("/db/api/v3/query_sql", params=COUNT).json() == [{"n": 1}]
        assert host.client.post(f"/db{WRITE}", content=f"cpu v={life} {life}".encode()).status_code == 204
        assert host.client.get("/db/api/v3/query_sql", params=COUNT).json() == [{"n": life}]
        answer = host.client.get("/db/api/v3/engine/count", params={"unit": "rows"})
        assert answer.json() == {"n": life, "unit": "rows", "by": "joe"}
        host.wait(lambda client, life=life: _tallied(client) == life)
        # uvicorn ends itself by the signal again, after an orderly shutdown
        assert host.end(signal.SIGTERM) in (0, -signal.SIGTERM)
        assert (tmp_path / "ended").exists()
        (tmp_path / "ended").unlink()
        assert "Traceback" not in host.log.read_text()


def test_the_second_worker_serves_the_host_and_names_the_first(tmp_path: Path, start: Callable[..., Running]) -> None:
    _write(tmp_path / "host.py", HOST)
    host = start("-m", "uvicorn", "host:app", "--port", "PORT", "--workers", "2", ready="/")
    states: dict[int, int] = {}
    named: set[int] = set()

    def both(_: httpx2.Client) -> bool:
        # A fresh connection each time: the kernel gives it to either worker.
        with httpx2.Client(base_url=host.client.base_url, trust_env=False, timeout=DEADLINE) as client:
            pid = client.get("/").json()["pid"]
            answer = client.post(f"/db{WRITE}", content=b"cpu v=1 1")
            states[pid] = answer.status_code
            if answer.status_code == 503:
                assert answer.headers["retry-after"].isdigit()
                # the first one may have the lock and not have left its number yet: it is looked at again in a second
                named.update(int(found) for found in re.findall(r"in use by process (\d+)", answer.json()["error"]))
        return sorted(states.values()) == [204, 503] and bool(named)

    host.wait(both)
    [owner] = [pid for pid, status in states.items() if status == 204]
    assert named == {owner}


def test_sigterm_lets_runs_finish_and_exits_0(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path, "Slow")
    _write(tmp_path / "walmill.toml", _TRIGGER)
    server = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    assert server.client.post(WRITE, content=b"cpu v=1 1").status_code == 204
    server.wait(lambda _: (tmp_path / "began").exists())
    assert server.end(signal.SIGTERM) == 0
    log = server.log.read_text()
    assert '"event": "listening"' in log
    assert f'"url": "{server.client.base_url}'.rstrip("/") in log
    assert '"event": "stopped"' in log
    again = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    asked = {"db": "d", "q": "SELECT sum(n) AS n FROM done"}
    assert again.client.get("/api/v3/query_sql", params=asked).json() == [{"n": 1}]
    assert again.end(signal.SIGINT) == 0


@pytest.mark.parametrize("plugin", ["Stuck", "Blocking"])
def test_a_run_that_never_ends_does_not_hold_up_the_shutdown(
    tmp_path: Path, start: Callable[..., Running], plugin: str
) -> None:
    _serve_script(tmp_path, plugin, timeout="500ms")
    _write(tmp_path / "walmill.toml", _TRIGGER)
    server = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    server.client.post(WRITE, content=b"cpu v=1 1")
    server.wait(lambda _: (tmp_path / "began").exists())
    began = time.monotonic()
    assert server.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 8  # uvicorn waits for whole seconds
    assert "left behind" in server.log.read_text()


def test_a_request_that_never_ends_is_answered_when_the_time_is_over(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    _serve_script(tmp_path, "Asked", timeout="500ms")
    _write(tmp_path / "walmill.toml", _TRIGGER.replace("table:cpu", "request:wait"))
    server = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(server.client.get, "/api/v3/engine/wait")
        server.wait(lambda _: (tmp_path / "began").exists())
        assert server.end(signal.SIGTERM) == 0
        answer = asked.result(DEADLINE)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "the server is stopping" in answer.json()["error"]
    assert "Traceback" not in server.log.read_text()


def test_a_second_signal_stops_at_once(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path, "Stuck", timeout="10m")
    _write(tmp_path / "walmill.toml", _TRIGGER)
    server = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    server.client.post(WRITE, content=b"cpu v=1 1")
    server.wait(lambda _: (tmp_path / "began").exists())
    server.process.send_signal(signal.SIGTERM)
    server.wait(lambda _: not _listens(server))
    began = time.monotonic()
    assert server.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 5
    (tmp_path / "walmill.toml").unlink()
    again = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    assert again.client.get("/api/v3/query_sql", params=COUNT).json() == [{"n": 1}]


def test_one_data_directory_has_one_server(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path)
    first = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    second = subprocess.run(
        [sys.executable, "serve.py", "http_bind", "127.0.0.1:0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert second.returncode == 1
    assert f"in use by process {first.process.pid}" in second.stderr
    assert first.client.get("/ready").status_code == 200


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path)
    first = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    port = first.client.base_url.port
    args = [sys.executable, "serve.py", "http_bind", f"127.0.0.1:{port}", "data_dir", "other"]
    second = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert second.returncode == 1
    assert f"127.0.0.1:{port} cannot be served" in second.stderr
    assert not (tmp_path / "other").exists()


def test_the_first_start_leaves_an_operator_token(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path)
    server = start("serve.py", "http_bind", "127.0.0.1:PORT", "without_auth", "false", ready="/ready")
    file = tmp_path / "data" / "operator-token"
    assert file.stat().st_mode & 0o777 == 0o600
    token = file.read_text().strip()
    assert server.client.post(WRITE, content=b"cpu v=1").status_code == 401
    headers = {"authorization": f"Bearer {token}"}
    assert server.client.post(WRITE, content=b"cpu v=1", headers=headers).status_code == 204
    assert server.end(signal.SIGTERM) == 0
    again = start("serve.py", "http_bind", "127.0.0.1:PORT", "without_auth", "false", ready="/ready")
    assert file.read_text().strip() == token
    assert again.client.post(WRITE, content=b"cpu v=2", headers=headers).status_code == 204
    assert again.end(signal.SIGTERM) == 0
    assert token not in server.log.read_text() + again.log.read_text()
    log = b"".join(one.read_bytes() for one in (tmp_path / "data").rglob("*") if one.is_file() and one != file)
    assert token.encode() not in log


def test_changed_triggers_of_the_settings_file_are_reported(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path, "Slow")
    _write(tmp_path / "walmill.toml", _TRIGGER + _BROKEN)
    first = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    shown = first.client.get("/api/v3/configure/processing_engine_trigger").json()
    assert [one["trigger_name"] for one in shown] == ["t"]
    assert first.end(signal.SIGTERM) == 0
    assert "cannot be created" in first.log.read_text()
    _write(tmp_path / "walmill.toml", _TRIGGER.replace('"retry"', '"skip"').replace("table:cpu", "all_tables"))
    second = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    assert second.end(signal.SIGTERM) == 0
    assert '"differs": "spec, error_policy"' in second.log.read_text()


def test_an_open_connection_does_not_hold_up_the_shutdown(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path)
    server = start("serve.py", "http_bind", "127.0.0.1:PORT", ready="/ready")
    with socket.create_connection(("127.0.0.1", server.client.base_url.port or 0)) as idle:
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        assert server.end(signal.SIGTERM) == 0


def test_a_body_over_the_limit_gets_its_answer(tmp_path: Path, start: Callable[..., Running]) -> None:
    _serve_script(tmp_path)
    server = start("serve.py", "http_bind", "127.0.0.1:PORT", "max_http_request_size", "64KB", ready="/ready")
    assert server.client.post(WRITE, content=b"x" * 400_000).status_code == 413
    assert server.client.post(WRITE, content=iter([b"x" * 10_000] * 40)).status_code == 413
    assert server.client.post(WRITE, content=b"cpu v=1").status_code == 204


_TRIGGER = """
    [[trigger]]
    name = "t"
    database = "d"
    plugin = "p"
    spec = "table:cpu"
    error_policy = "retry"
"""
_BROKEN = """
    [[trigger]]
    name = "u"
    database = "d"
    plugin = "nowhere"
    spec = "table:cpu"
"""
