"""A thread with an event loop of its own, and what other threads ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, InvalidStateError
from typing import Any

from walmill.errors import Unavailable


class LoopThread:
    """The thread.

    Args:
        name: Its name.

    Attributes:
        loop: The event loop.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._asking = threading.Lock()
        self._asked: set[Future[Any]] = set()
        self._over = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    @property
    def here(self) -> bool:
        """Whether it is the thread that asks."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Starts it."""
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Runs a coroutine there; a future of its result, or of the end of the loop."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        with self._asking:
            self._asked.add(future)
            late = self._over
        if late:
            self._give_up()
        future.add_done_callback(self._asked.discard)
        return future

    def end(self, seconds: float) -> None:
        """Ends the loop, and waits so long for the thread; what still runs there is a daemon's business."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            if seconds:
                self._thread.join(seconds)
        self._give_up()

    def _give_up(self) -> None:
        """Nobody will do any more what was asked of the loop: a thread that waits for it would wait for ever."""
        with self._asking:
            self._over = True
            left = list(self._asked)
        for future in left:
            with contextlib.suppress(InvalidStateError):  # it was done after all
                future.set_exception(Unavailable("the engine is closed"))

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
