"""Keeps what is known of late rows near the newest rows, so that no query has to catch up with much."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from queue import SimpleQueue

from walmill.buffer.table import TableBuffer

PENDING_ROWS = 20_000
"""So many rows of a table may come before they are looked at: many small writes cost hardly more than one then."""


class Looker:
    """A thread that compares rows with the newest times of their series, table by table."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[TableBuffer | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="walmill-looker", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def grown(self, buffers: Iterable[TableBuffer]) -> None:
        """Tells of snapshots that have new rows; costs nothing while they are few."""
        for buffer in buffers:
            if buffer.num_rows - buffer.log.looked >= PENDING_ROWS:
                self._waiting.put(buffer)

    def stop(self) -> None:
        """Ends the thread."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join(10.0)

    def _run(self) -> None:
        while (buffer := self._waiting.get()) is not None:
            with contextlib.suppress(MemoryError):  # whoever asks does it then
                buffer.log.look(buffer)
