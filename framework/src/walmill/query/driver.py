"""Runs DataFusion's streams so that they can be stopped: one thread with an event loop, shared by all queries.

A blocking read of a stream cannot be interrupted. So each stream is read by a coroutine on this loop, and whoever asked
waits for its future: cancelling the future drops the stream, which is DataFusion's way to stop the work.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
import weakref
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from walmill.query.errors import QueryStopped, out_of_time

T = TypeVar("T")

_SETTLE = 0.05  # seconds that stopped work gets before its loop ends
_AT_EXIT = 0.25  # seconds that work which was stopped just now gets to leave the interpreter alone before that ends
_CLOSING = "the engine is closing and takes no more queries"
_last_work = 0.0


@atexit.register
def _let_go() -> None:
    """DataFusion's own threads may still be dropping what was stopped: an interpreter that ends under them crashes."""
    if _last_work and time.monotonic() - _last_work < 4 * _AT_EXIT:
        time.sleep(_AT_EXIT)


class Driver:
    """A thread with an event loop; starts with the first piece of work.

    Work that still runs when the interpreter ends would end the process with an abort, so everything is stopped then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._closed = False

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine on the loop.

        Returns:
            Its future; cancelling it stops the work.

        Raises:
            QueryStopped: If the driver is closed.
        """
        global _last_work  # noqa: PLW0603 - one interpreter ends once
        _last_work = time.monotonic()
        with self._lock:
            if self._closed:
                work.close()
                raise QueryStopped(_CLOSING)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="walmill-query", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._running.add(future)
            return future

    def check(self) -> None:
        """Looks whether there may be more work.

        Raises:
            QueryStopped: If the driver is closed.
        """
        if self._closed:
            raise QueryStopped(_CLOSING)

    def close(self) -> None:
        """Stops all work and the thread. Waiters get `QueryStopped`. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            busy = [future for future in self._running if not future.done()]
        for future in busy:
            future.cancel()
        if self._loop is None or self._thread is None:
            return
        atexit.unregister(self.close)
        if busy:
            time.sleep(_SETTLE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def wait(future: Future[T], deadline: float | None, timeout: float | None) -> T:
    """Waits for a piece of work, and stops it when its time is over or the waiting thread is interrupted.

    Args:
        future: What `Driver.submit` gave.
        deadline: Time on `time.monotonic()` at which it is stopped; None never.
        timeout: The whole time that the query had, in seconds, for the message.

    Returns:
        What the work returns.

    Raises:
        QueryTimeout: At the deadline.
        QueryStopped: If somebody else stopped it.
    """
    try:
        return future.result(None if deadline is None else max(deadline - time.monotonic(), 0))
    except TimeoutError:
        if future.done() and not future.cancelled():
            return future.result()  # done at the last moment
        future.cancel()
        raise out_of_time(timeout) from None
    except CancelledError:
        raise QueryStopped("the query was stopped before it was done") from None
    except BaseException:
        future.cancel()
        raise
