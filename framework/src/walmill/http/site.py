"""The engine behind an application: given open, or opened and closed with the application's lifespan."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from attrs import define, field

from walmill.engine import Engine
from walmill.errors import Conflict, Unavailable
from walmill.observe.log import get_logger
from walmill.options import EngineOptions

P = ParamSpec("P")
T = TypeVar("T")
Source: TypeAlias = Engine | EngineOptions | Callable[[], Engine]
"""An open engine, or what makes one when the application starts."""

BODY_LIMIT = 10 * 2**20
RETRY_SECONDS = 1.0
"""How often a process that did not get the data directory tries again."""

log = get_logger("walmill.http")


@define(eq=False)
class Site:
    """An engine behind an application, and what the routes share.

    Attributes:
        source: An open engine, or what makes one.
        close_engine: Whether the engine is closed when the application ends; one that the application opened always is.
        body_limit: Most bytes of a request's body, also after decompression.
        close_timeout: Seconds that runs may take when the engine is closed; asked then. None takes the engine's.
        where: Where the application is mounted, for messages.
        threads: Calls that wait for the committer or look at plugins, at a time.
        queries: Threads for queries.
        runs: Threads for runs by hand, each of which may take long.
        patience: Seconds that the application waits for the engine before it begins to answer without; None for ever.
        status: How far the opening of the engine is, as a sentence.
        failed: Called when the engine could not be opened after all, and the application answers already.
        decoders: Threads that read and convert bodies of rows; as long as they work they take turns with the server's loop.
    """

    source: Source = field(repr=False)
    close_engine: bool = True
    body_limit: int = BODY_LIMIT
    close_timeout: Callable[[], float | None] = lambda: None
    where: str = ""
    threads: CapacityLimiter = field(factory=lambda: CapacityLimiter(8))
    queries: CapacityLimiter = field(factory=lambda: CapacityLimiter(16))
    runs: CapacityLimiter = field(factory=lambda: CapacityLimiter(32))
    decoders: CapacityLimiter = field(factory=lambda: CapacityLimiter(4))
    patience: float | None = None
    status: Callable[[], str] | None = None
    failed: Callable[[Exception], None] | None = None
    _engine: Engine | None = None
    _why: str = ""
    _opened: list[Callable[[Engine], None]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        if isinstance(self.source, Engine):
            self._engine = self.source
        elif not isinstance(self.source, EngineOptions) and not callable(self.source):
            raise TypeError(
                f"{self.source!r} is no engine: give a walmill.Engine, walmill.EngineOptions, or a function that opens an engine"
            )
        else:
            self._why = (
                f"the engine at {self.where or '/'} was never opened, because the application in which it is mounted got no "
                "lifespan events: serve the outermost application with lifespan (in tests `with TestClient(app)`), and name it "
                "as `lifespan_of` if the engine is mounted in an application that is mounted itself"
            )

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            Unavailable: If it is not open, saying why.
        """
        self.require()
        assert self._engine is not None
        return self._engine

    def require(self) -> None:
        """Raises what `engine` raises if there is none."""
        if self._engine is None:
            status = "" if self.status is None else self.status()
            raise Unavailable(f"{self._why}; {status}" if status else self._why, retry_after=1)

    def on_open(self, opened: Callable[[Engine], None]) -> None:
        """Has `opened` called with the engine, now or as soon as it is open."""
        if self._engine is not None:
            opened(self._engine)
        else:
            self._opened.append(opened)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The life of the engine: open inside, closed behind.

        An engine whose data directory another process has is tried again until that process ends; meanwhile `engine`
        raises the sentence that names it.

        Raises:
            WalmillError: If the engine cannot be opened for another reason.
        """
        retry: asyncio.Task[None] | None = None
        if self._engine is None:
            opening = asyncio.create_task(self._open())
            await asyncio.wait({opening}, timeout=self.patience)
            if not opening.done():
                retry = asyncio.create_task(self._finish(opening))
            elif not opening.result():
                retry = asyncio.create_task(self._try_again())
        try:
            yield
        finally:
            if retry is not None:
                retry.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await retry
            await self._close()

    async def _open(self) -> bool:
        """Opens the engine; False if another process has its directory."""
        self._why = f"the engine at {self.where or '/'} is still being opened; try again in a second"
        source = self.source
        assert not isinstance(source, Engine)
        make = partial(Engine.open, source) if isinstance(source, EngineOptions) else source
        opening = asyncio.ensure_future(anyio.to_thread.run_sync(make))
        try:
            engine = await asyncio.shield(opening)
        except Conflict as error:
            self._why = error.message
            return False
        except asyncio.CancelledError:
            # The thread cannot be stopped: what it opens has to be closed again.
            with contextlib.suppress(Exception):
                await anyio.to_thread.run_sync((await opening).close)
            raise
        if not isinstance(engine, Engine):
            raise TypeError(
                f"the function that opens the engine at {self.where or '/'} returned {engine!r}, which is none"
            )
        self._engine = engine
        for opened in self._opened:
            opened(engine)
        return True

    async def _finish(self, opening: asyncio.Task[bool]) -> None:
        """Waits for an engine that is being opened while the application answers already."""
        try:
            opened = await opening
        except Exception as error:  # noqa: BLE001 - it is told to whoever waits for it
            self._why = f"the engine at {self.where or '/'} could not be opened: {error}"
            self.status = None
            if self.failed is not None:
                self.failed(error)
            return
        if not opened:
            await self._try_again()

    async def _try_again(self) -> None:
        log.warning("the engine is not open here; it is tried again every second", where=self.where, cause=self._why)
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            held = self._why
            try:
                if await self._open():
                    log.info("the engine is open now", where=self.where)
                    return
            except Exception as error:
                self._why = f"the engine at {self.where or '/'} could not be opened: {error}"
                log.exception("the engine could not be opened", where=self.where)
                return
            if not self._why:
                self._why = held

    async def _close(self) -> None:
        engine, opened_here = self._engine, not isinstance(self.source, Engine)
        if engine is None or not (opened_here or self.close_engine):
            return
        await anyio.to_thread.run_sync(engine.close, self.close_timeout())
        if opened_here:
            self._engine = None
            self._why = f"the engine at {self.where or '/'} is closed"

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls something that waits, in a thread, so that the server's loop never does."""
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), limiter=self.threads)


def json_list(values: Sequence[Any]) -> bytes:
    """Values as a JSON array, made in parts: other threads cannot run while one of them is made, and there may be very many."""
    parts = [json_bytes(list(values[first : first + 200]))[1:-1] for first in range(0, len(values), 200)]
    return b"[" + b",".join(parts) + b"]"


def json_bytes(value: Any) -> bytes:
    """A value as compact JSON in UTF-8, as InfluxDB writes it."""
    import json

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")
