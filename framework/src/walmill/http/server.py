"""`walmill serve`: one engine and one uvicorn in this process, from its start to its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from walmill.auth.rules import Identity, authorize
from walmill.auth.tokens import Token, ensure_token_file, hash_token
from walmill.collector import calm_collector, short_turns
from walmill.context.local import Limits
from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest, Unavailable
from walmill.http.app import build
from walmill.http.auth import Auth
from walmill.http.declared import create_declared
from walmill.http.door import FlightRoom, protocol_of
from walmill.http.problems import send_json
from walmill.http.site import Site
from walmill.http.tls import Certificates
from walmill.isolation.process import WorkerOptions
from walmill.leftovers import sweep
from walmill.model.catalog import put_token
from walmill.observe.log import get_logger
from walmill.opening import Opening, Stopped, Told
from walmill.options import EngineOptions
from walmill.room import DiskLimits
from walmill.scarcity import open_more_files
from walmill.settings.model import Settings
from walmill.snapshot.due import Limits as SnapshotLimits
from walmill.snapshot.release import LogRetention
from walmill.units import SECOND

if TYPE_CHECKING:
    from walmill.flight.server import FlightServer

START_SECONDS = 30.0
PATIENCE_SECONDS = 0.5
"""A start that takes longer answers requests with 503 meanwhile."""
OPERATOR = "_operator"
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = get_logger("walmill.serve")


class _Server(uvicorn.Server):
    """A uvicorn whose signals are somebody else's business, and that says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], room: FlightRoom | None) -> None:
        super().__init__(config)
        self._ready = ready
        self._room = room

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping: nothing more is accepted, runs may finish")
        if self._room is not None:
            self._room.stopping = True
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


class _CutOff:
    """Answers requests that uvicorn cancels, because they did not end within the time of the shutdown.

    uvicorn by itself would say 500 without a reason, and log a traceback as if it were an error of ours.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            log.warning("a request did not end in time and is cut off", method=scope["method"], path=scope["path"])
            if started:  # only a broken connection tells the caller that the answer is not whole
                return
            said = "the server is stopping, and the request did not end in time; it may or may not have taken effect"
            await send_json(send, 503, {"error": said}, {"retry-after": "1", "connection": "close"})


def _server(
    app: ASGIApp,
    ready: Callable[[], None],
    grace: float,
    room: FlightRoom | None,
    certificates: Certificates | None = None,
) -> _Server:
    config = uvicorn.Config(
        _CutOff(app),
        http="auto" if room is None else protocol_of(room),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=max(1, math.ceil(grace)),
    )
    if certificates is not None:
        config.load()  # which knows files only, and reads them once
        config.ssl = certificates.context
    return _Server(config, ready, room)


def _flight(site: Site, without_auth: bool) -> FlightServer:
    from walmill.flight.server import FlightServer  # gRPC is loaded for those who use it

    def authorized(given: str | None) -> Identity | None:
        if without_auth:
            return None
        engine = site.engine
        return authorize(given, None, engine.view().catalog.tokens.values(), engine.options.clock.now_ns())

    return FlightServer(lambda: site.engine, authorized)


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address, not listening yet; so that a port that is taken shows before the engine is opened.

    Raises:
        Unavailable: If the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Unavailable(f"the address {host}:{port} cannot be served: {error.strerror or error}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise Unavailable(
            f"the address {host}:{port} cannot be served: {error.strerror}; stop what serves there, or take another port"
        ) from None
    return made


def url_of(bound: socket.socket, scheme: str = "http") -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"


def options_of(settings: Settings) -> EngineOptions:
    """What the engine is told, from a server's settings."""
    return EngineOptions(
        data_dir=settings.data_dir,
        segment_bytes=settings.segment_size,
        flush_interval=None if settings.wal_flush_interval is None else settings.wal_flush_interval / SECOND,
        shutdown_timeout=settings.shutdown_timeout / SECOND,
        query_memory=settings.query_memory_limit,
        query_rows=settings.query_max_rows,
        query_files=settings.query_max_files,
        query_concurrency=settings.query_concurrency,
        query_queue=settings.query_queue,
        value_cache=settings.value_cache_size,
        query_timeout=None if settings.query_timeout is None else settings.query_timeout / SECOND,
        executor=settings.executor,
        executor_plugins=settings.executor_plugins,
        function_plugins=settings.function_plugins,
        limits=Limits(
            rows=settings.max_run_rows,
            state_bytes=settings.max_state_size,
            log_lines=settings.max_log_lines,
            seconds=None if settings.run_timeout is None else settings.run_timeout / SECOND,
            memory=settings.run_memory,
            cpu=settings.run_cpu,
            cpu_seconds=None if settings.run_cpu_time is None else settings.run_cpu_time / SECOND,
            answer_bytes=settings.max_answer_size,
        ),
        plugin_limits=settings.plugin_limits,
        workers=WorkerOptions(
            most=settings.workers_max,
            idle_seconds=settings.worker_idle / SECOND,
            variables=settings.worker_env,
        ),
        disabled_plugins=settings.no_plugin,
        plugin_dir=settings.plugin_dir,
        package_installs=settings.package_installs,
        package_allowlist=settings.package_allowlist,
        allowed_plugins=settings.allowed_plugins,
        strict_plugins=settings.strict,
        wrappers=settings.wrappers,
        reader_processes=settings.reader_processes,
        snapshots=SnapshotLimits(
            buffer_bytes=settings.snapshot_size,
            log_bytes=settings.snapshot_size,
            age=settings.snapshot_interval,
            memory_bytes=settings.buffer_memory_limit,
        ),
        log_retention=LogRetention(age=settings.log_retention, bytes=settings.log_retention_size),
        write_queue=settings.write_queue_size,
        object_store=settings.object_store,
        wal=settings.wal,
        object_cache=settings.object_cache_size,
        join_rate=settings.join_rate or 0,
        disk=DiskLimits(settings.min_free_disk, settings.reserved_disk),
        delete_grace=settings.delete_grace,
    )


def ensure_operator_token(engine: Engine, place: Path) -> None:
    """Makes sure that an engine without any token gets one that is in a file for its operator.

    The file comes before the commit: a crash between the two leaves a file that the next start takes up.

    Raises:
        WalmillError: The file cannot be read or written, or others could have written it.
    """
    if engine.view().catalog.tokens:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    token, path, made = ensure_token_file(place)
    engine.define(lambda draft: draft.define(put_token(Token(OPERATOR, hash_token(token), draft.time))))
    log.info(
        "the operator token is made" if made else "the operator token is taken from its file",
        file=str(path),
        use="the command line on this machine finds it",
    )


def _open(settings: Settings, told: Told) -> Engine:
    try:
        return Engine.open(options_of(settings), told=told)
    except OSError as error:
        where = "" if error.filename in (None, str(settings.data_dir)) else f" ({error.filename})"
        raise Unavailable(
            f"the data directory {str(settings.data_dir)!r} cannot be used: {error.strerror or error}{where}; make it one that "
            "this user can read and write, or name another with --data-dir"
        ) from None


class _Ending:
    """The signals that end a server: the first asks, the second stops at once."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._asked_at: float | None = None
        self.server: uvicorn.Server | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked_at is not None:
            # What was acknowledged is in the log, and the kernel releases the lock.
            os.write(2, f"walmill: {signal.Signals(number).name} again, stopping at once\n".encode())
            os._exit(128 + number)
        self._asked_at = time.monotonic()
        if self.server is not None:
            self.server.should_exit = True

    @property
    def asked(self) -> bool:
        """Whether the end was asked for."""
        return self._asked_at is not None

    def left(self) -> float:
        """Seconds that runs may still take."""
        return self._timeout if self._asked_at is None else max(0.0, self._asked_at + self._timeout - time.monotonic())


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT: then it accepts nothing more, lets runs finish, syncs the log and releases the lock.

    A second signal stops at once. Call it in the main thread.

    Args:
        settings: From `walmill.settings.load`.

    Returns:
        The exit code: 0 after an orderly end, 1 if the server could not start.

    Raises:
        WalmillError: The settings contradict each other, the address is taken, the engine cannot be opened, or it cannot go on.
    """
    problems = settings.problems()
    if problems:
        raise InvalidRequest("; ".join(problems))
    ending = _Ending(settings.shutdown_timeout / SECOND)
    before = {number: signal.signal(number, ending) for number in SIGNALS}
    try:
        certificates = None if settings.tls_cert is None else Certificates(settings.tls_cert, settings.tls_key)
        with contextlib.closing(bind(settings.host, settings.port)) as bound:
            calm_collector()
            short_turns()
            open_more_files()
            sweep()
            return _serve(settings, bound, ending, certificates)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Opening:
    """An engine that a thread opens, with its operator token and the triggers of the settings file."""

    def __init__(self, settings: Settings, ending: _Ending) -> None:
        self._settings = settings
        self._ending = ending
        self._at: Opening | None = None
        self.defaults = {
            "attempts": settings.retry_attempts,
            "max_batch_rows": settings.max_batch_rows,
        }
        self.engine: Future[Engine] = Future()
        self._thread = threading.Thread(target=self._run, name="walmill-open")

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def result(self) -> Engine:
        """Waits for the engine.

        Raises:
            WalmillError: Why there is none; nothing of it gets better by asking again.
        """
        try:
            return self.engine.result()
        except Conflict as error:
            raise Unavailable(error.message) from None

    def close(self) -> None:
        """Closes the engine if there is one; a second call does nothing."""
        with contextlib.suppress(Exception):
            self.engine.result().close(self._ending.left())

    def status(self) -> str:
        """How far it is."""
        return "" if self._at is None else str(self._at)

    def _tell(self, at: Opening) -> None:
        self._at = at
        if self._ending.asked:
            raise Stopped("the server is stopping")

    def _run(self) -> None:
        settings = self._settings
        try:
            engine = _open(settings, self._tell)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            self.engine.set_exception(error)
            return
        try:
            if not settings.without_auth:
                ensure_operator_token(engine, settings.token_file)
            elif settings.force_without_auth:
                log.warning("everyone is served without a token", address=settings.http_bind)
            create_declared(engine, settings.triggers, self.defaults, strict=settings.strict)
        except BaseException as error:  # noqa: BLE001 - likewise
            engine.close()
            self.engine.set_exception(error)
            return
        self.engine.set_result(engine)


def _serve(settings: Settings, bound: socket.socket, ending: _Ending, certificates: Certificates | None) -> int:
    url = url_of(bound, "http" if certificates is None else "https")
    ended: list[Exception] = []

    def end(error: Exception) -> None:
        ended.append(error)
        if ending.server is not None:
            ending.server.should_exit = True

    def listening(engine: Engine) -> None:
        engine.on_end(end)
        log.info("listening", url=url, data_dir=str(settings.data_dir))

    opening = _Opening(settings, ending)
    opening.start()
    with contextlib.suppress(TimeoutError):
        opening.engine.result(PATIENCE_SECONDS)
    if ending.asked:
        opening.close()
        return 0
    site = Site(
        opening.result,
        body_limit=settings.max_http_request_size,
        close_timeout=ending.left,
        patience=0.0 if not opening.engine.done() else None,
        status=opening.status,
        failed=end,
    )
    app = build(site, without_auth=settings.without_auth, defaults=opening.defaults)

    def ready() -> None:
        if not opening.engine.done():
            log.info("answering 503 until the log is replayed", url=url, at=opening.status())
        site.on_open(listening)

    room = FlightRoom(lambda: _flight(site, settings.without_auth))
    server = _server(app, ready, ending.left(), room, certificates)
    ending.server = server
    if ending.asked:
        opening.close()
        return 0
    try:
        server.run(sockets=[bound])
    except SystemExit as error:  # uvicorn's way to say that it could not start; its log says why
        return error.code if isinstance(error.code, int) else 1
    finally:
        room.close()
        opening.close()
    log.info("stopped", url=url)
    if ended and not isinstance(ended[0], Stopped):
        raise ended[0]
    return 0 if server.started else 1


@contextlib.contextmanager
def serving(
    engine: Engine,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    auth: Auth | None = None,
    without_auth: bool = False,
) -> Iterator[str]:
    """Serves an engine from a thread, for a notebook, a demo or a test. The engine stays open afterwards.

    Args:
        engine: An open engine.
        host: Where to listen.
        port: 0 takes a free one.
        auth: As for `create_app`.
        without_auth: As for `create_app`.

    Yields:
        The URL.

    Raises:
        Unavailable: If the address cannot be had, or the server does not start.
    """
    with contextlib.closing(bind(host, port)) as bound:
        site = Site(engine, close_engine=False)
        ready = threading.Event()
        # a host's rule sees HTTP requests; it cannot be asked about calls of Flight, so there are none
        room = None if auth is not None else FlightRoom(lambda: _flight(site, without_auth))
        server = _server(build(site, auth=auth, without_auth=without_auth), ready.set, 5.0, room)

        def main() -> None:
            try:
                with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                    runner.run(server.serve(sockets=[bound]))
            except SystemExit:
                log.error("the server could not start", url=url_of(bound))
            finally:
                ready.set()

        thread = threading.Thread(target=main, name="walmill-http", daemon=True)
        thread.start()
        try:
            if not ready.wait(START_SECONDS) or not server.started:
                raise Unavailable(f"the server at {url_of(bound)} did not start")
            yield url_of(bound)
        finally:
            server.should_exit = True
            thread.join(10.0)
            if room is not None:
                room.close()
