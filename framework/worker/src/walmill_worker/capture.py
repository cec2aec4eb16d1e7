"""What a plugin says while it runs: `ctx.log`, `print`, `logging` and `warnings`, each with the id of the run.

Standard output and the root logger belong to the process. While an engine runs it puts a pass-through before them, which
looks at a context variable: outside a run nothing changes.
"""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from attrs import define


@define
class Voice:
    """Where the lines of one run go.

    Attributes:
        say: Takes level and text; from any thread.
        left: How many lines it may still say.
        limit: How many it could.
        partial: What was printed without a line end so far.
    """

    say: Callable[[str, str], None]
    left: int = 10_000
    limit: int = 10_000
    partial: str = ""

    def line(self, level: str, text: str) -> None:
        """Says one line, up to the limit; the last one says that there were more."""
        if self.left <= 0:
            return
        self.left -= 1
        speaking = current.set(None)  # what the engine prints to tell it is not the run's own
        try:
            if self.left == 0:
                self.say("WARNING", f"this run said {self.limit:,} lines, its limit; the rest is left out")
            else:
                self.say(level, text)
        finally:
            current.reset(speaking)

    def printed(self, text: str) -> None:
        """Takes what was printed, and says whole lines."""
        *lines, self.partial = (self.partial + text).split("\n")
        for line in lines:
            self.line("INFO", line)

    def renew(self) -> None:
        """What it said so far does not count any more."""
        self.left = self.limit

    def callback_failed(self, why: str) -> None:
        """Says that a function that was given to `on_commit` failed."""
        self.line("ERROR", f"a callback of on_commit failed: {why}")

    def end(self) -> None:
        """Says what was printed without a line end."""
        if self.partial:
            self.line("INFO", self.partial)
            self.partial = ""


current: contextvars.ContextVar[Voice | None] = contextvars.ContextVar("walmill_voice", default=None)
"""The voice of the run that this code is part of."""


class _Stream(io.TextIOBase):
    """Standard output or error: lines of a run go to its voice, everything else goes through."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str, /) -> int:
        voice = current.get()
        if voice is None:
            return self.inner.write(text)
        voice.printed(text)
        return len(text)

    def flush(self) -> None:
        # Python flushes a stream that nobody refers to any more; what it stands before may be closed by then
        if not getattr(self.inner, "closed", False):  # what a host puts there may have only `write` and `flush`
            self.inner.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.inner.isatty()

    def fileno(self) -> int:
        return self.inner.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Handler(logging.Handler):
    """Takes what plugins log by `logging`, and `warnings` once they are sent there."""

    def emit(self, record: logging.LogRecord) -> None:
        voice = current.get()
        if voice is None:
            last = logging.lastResort
            if last is not None and len(logging.getLogger().handlers) == 1 and record.levelno >= last.level:
                last.handle(record)  # this handler must not take away what is shown when nobody configured logging
            return
        try:
            voice.line(record.levelname, self.format(record))
        except Exception:  # noqa: BLE001 - a bad log call must not fail the run
            self.handleError(record)


class PluginLogger(logging.Logger):
    """The logger behind `ctx.log`: straight to the voice of its run."""

    def __init__(self, name: str, voice: Voice) -> None:
        super().__init__(name, logging.DEBUG)
        self.propagate = False
        self._voice = voice

    def handle(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - as everywhere with logging, a bad log call must not fail the run
            text = f"{record.msg} {record.args} (the message could not be made: {error})"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        self._voice.line(record.levelname, text)


class Capture:
    """Installs the pass-throughs while at least one engine of this process runs."""

    _lock = threading.Lock()
    _users = 0
    _handler: _Handler | None = None

    @classmethod
    def install(cls) -> None:
        """Puts them in place; call `uninstall` as often."""
        with cls._lock:
            cls._users += 1
            if cls._users > 1:
                return
            sys.stdout = _Stream(sys.stdout)
            sys.stderr = _Stream(sys.stderr)
            cls._handler = _Handler()
            logging.getLogger().addHandler(cls._handler)

    @classmethod
    def uninstall(cls) -> None:
        """Takes them away again; streams that someone replaced meanwhile are left alone."""
        with cls._lock:
            cls._users -= 1
            if cls._users:
                return
            if isinstance(sys.stdout, _Stream):
                sys.stdout = sys.stdout.inner
            if isinstance(sys.stderr, _Stream):
                sys.stderr = sys.stderr.inner
            if cls._handler is not None:
                logging.getLogger().removeHandler(cls._handler)
                cls._handler = None
