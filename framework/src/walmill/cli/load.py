"""One run of `walmill write`: what became of the lines so far, what is kept of it, and what is said about it."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from walmill.cli.checkpoint import Done, Journal, State, what_is_left
from walmill.cli.pieces import pieces
from walmill.cli.progress import Screen
from walmill.cli.rejected import Rejected
from walmill.cli.source import Source
from walmill.cli.upload import Answered, Ended, Event, Job, Refusal, Upload, Waiting
from walmill.errors import InvalidRequest, WalmillError
from walmill.units import SECOND, format_duration

SHOWN_ERRORS = 20
SHOWN_CHARS = 80
TOLD_AGAIN_SECONDS = 30.0


class Checkpoint:
    """Where a run keeps what was acknowledged; a file only while something is left to write.

    Args:
        path: The file; None keeps nothing.
        target: What it is about.
        asked: Whether the user named the file: then it has to be possible.

    Attributes:
        state: What an earlier run left.
    """

    def __init__(self, path: Path | None, target: Mapping[str, str], *, asked: bool) -> None:
        self._path = path
        self._target = target
        self._journal: Journal | None = None
        self.state = State(target)
        if path is not None and (asked or path.exists()):
            self._journal = Journal(path, target)
            self.state = self._journal.state

    @property
    def path(self) -> Path | None:
        """The file, if it is there."""
        return None if self._journal is None else self._path

    def record(self, source: Source, done: Done | None) -> bool:
        """Keeps that a part was acknowledged, or, with None, that nothing is left of a source.

        Returns:
            Whether it is kept.

        Raises:
            OSError: It cannot be; after that, nothing is kept any more.
        """
        if self._path is None:
            return False
        try:
            if self._journal is None:
                self._journal = Journal(self._path, self._target)
            if done is None:
                self._journal.record_whole(source)
            else:
                self._journal.record(source, done)
        except OSError:
            self._path = None
            raise
        return True

    def finish(self, *, everything: bool) -> None:
        """Closes the file; it is removed if nothing is left to write."""
        if self._journal is not None:
            if everything:
                self._journal.remove()
            else:
                self._journal.close()


def beside(source: Source, target: Mapping[str, str]) -> Path | None:
    """Where the checkpoint of a file is unless the user says it; None for what is no regular file.

    The same command finds it again, and one with another server, database or precision does not.
    """
    if source.path is None or source.size is None:
        return None
    mark = hashlib.blake2b("\n".join(target.values()).encode("utf-8", "replace"), digest_size=4).hexdigest()
    return source.path.with_name(f"{source.path.name}.{mark}.resume")


def jobs_of(sources: Iterable[Source], state: State) -> Iterator[Job | Ended]:
    """The pieces of all sources that are not written yet, one source after the other.

    Raises:
        InvalidRequest: One cannot be read, is damaged, or is not what it was.
    """
    before = 0
    for source in sources:
        if source.key in state.whole:
            if state.whole[source.key] != source.size:
                raise InvalidRequest(
                    f"{source.name} was written whole before, and has another size now; start anew with --no-resume, or after "
                    "removing the checkpoint"
                )
            before += source.size or 0
            yield Ended(source, 0)
            continue
        count, place = 0, 0
        try:
            stream = source.open()
            try:
                for piece in what_is_left(source.name, stream, state.done.get(source.key, ())):
                    place = stream.place
                    yield Job(source, piece, before + place)
                    count += 1
            finally:
                stream.close()
        except InvalidRequest as error:
            raise InvalidRequest(
                error.message if error.message.startswith(source.name) else f"{source.name}: {error.message}"
            ) from None
        except OSError as error:
            raise WalmillError(f"{source.name} cannot be read: {error.strerror or error}") from None
        before += place if source.size is None else source.size
        yield Ended(source, count)


def jobs_of_lines(source: Source, lines: Sequence[str]) -> Iterator[Job | Ended]:
    """The pieces of lines that were given as arguments."""
    count = 0
    for piece in pieces(["\n".join(lines).encode("utf-8", "surrogateescape")]):
        yield Job(source, piece)
        count += 1
    yield Ended(source, count)


class Load:
    """A run.

    Args:
        database: Name of the database, for messages.
        sources: What is written.
        checkpoint: What is kept of it.
        rejected: Where refused lines go; None shows them.
        screen: Where messages go.
        upload: Sends.
        stop_at_refusal: Whether a refused line ends the run.
        quiet: Whether only problems are told.

    Attributes:
        written: Lines that were written, also by the run before.
        refused: Lines that were refused, also by the run before.
        interrupted: Whether Ctrl-C ended it.
    """

    def __init__(
        self,
        database: str,
        sources: Sequence[Source],
        *,
        checkpoint: Checkpoint,
        rejected: Rejected | None,
        screen: Screen,
        upload: Upload,
        stop_at_refusal: bool,
        quiet: bool,
    ) -> None:
        self._database = database
        self._sources = sources
        self._checkpoint = checkpoint
        self._rejected = rejected
        self._screen = screen
        self._upload = upload
        self._stop_at_refusal = stop_at_refusal
        self._quiet = quiet
        self._began = time.monotonic()
        self._place = 0
        self._now = 0
        self._shown = 0
        self._hidden = 0
        self._answers: Counter[str] = Counter()
        self._ended: dict[str, int] = {}
        self._kept_whole = set(checkpoint.state.whole)
        self._untimed: str | None = None
        self._warned = False
        self._outage: tuple[float, float] | None = None
        before = [part for parts in checkpoint.state.done.values() for part in parts]
        self.written = sum(part.written for part in before)
        self.refused = sum(part.refused for part in before)
        self.interrupted = False
        self._problem: WalmillError | None = None

    # ---- what happens

    def run(self, jobs: Iterable[Job | Ended]) -> None:
        """Writes everything.

        Raises:
            WalmillError, OSError: It could not be written; the message says how far it came.
        """
        everything = False
        try:
            self._tell_resumed()
            with _interrupts(self._upload) as interrupts:
                for event in self._upload.run(jobs):
                    if event is not None:
                        self._take(event)
                    if interrupts and not self.interrupted:
                        self.interrupted = True
                        self._screen.say("Stopping when the requests under way are answered; Ctrl-C again stops now.")
            self.interrupted = bool(interrupts)
            if self._problem is not None:
                raise self._problem
            everything = self._all_settled()
        except WalmillError as error:
            raise WalmillError(error.message + self._how_far()) from None
        finally:
            self._checkpoint.finish(everything=everything)
            if self._rejected is not None:
                self._rejected.close()
            self._screen.close()
        if self.interrupted and everything:  # it came too late to stop anything
            self.interrupted = False
        if self.interrupted:
            click.echo(f"{self.summary()}{self._how_to_go_on()}", err=True)

    def _take(self, event: Event) -> None:
        if isinstance(event, Waiting):
            self._wait(event)
        elif isinstance(event, Ended):
            self._ended[event.source.key] = event.pieces
            self._keep_whole(event.source)
        else:
            self._settle(event)

    def _settle(self, event: Answered) -> None:
        if self._outage is not None:
            began, _ = self._outage
            self._outage = None
            self._screen.say(f"The server answers again, after {time.monotonic() - began:,.0f} s.")
        if event.refusals:
            self._refuse(event.source, event.refusals)
            if self._stop_at_refusal:
                self._upload.stop()
                first = event.refusals[0]
                self._problem = self._problem or WalmillError(
                    f"{_prefix(event.source)}line {first.line:,} was refused, and with it its whole request (about 1 MB of a "
                    "file), and nothing after it was sent; mend the line, or leave --no-accept-partial away"
                )
                return
        done = event.done
        self._answers[event.source.key] += 1
        self.written += done.written
        self.refused += done.refused
        self._now += done.written + done.refused
        self._place = max(self._place, event.place)
        self._screen.moved(self._place, self._now)
        if event.untimed and self._untimed is None:
            self._untimed = event.source.name
        if not self._all_settled():
            if self._keep(event.source, done) and self._untimed is not None:
                self._warn_untimed(self._untimed, "after a break, some of them may be written")
            self._keep_whole(event.source)

    def _keep(self, source: Source, done: Done | None) -> bool:
        try:
            return self._checkpoint.record(source, done)
        except OSError as error:
            self._screen.say(
                f"Warning: the checkpoint cannot be kept ({error.filename or 'its file'}: {error.strerror}): after a break, "
                "what follows is written again; name another place with --resume FILE"
            )
            return False

    def _keep_whole(self, source: Source) -> None:
        key = source.key
        if key not in self._kept_whole and self._ended.get(key) == self._answers[key] and not self._all_settled():
            self._kept_whole.add(key)
            self._keep(source, None)

    def _all_settled(self) -> bool:
        return all(self._ended.get(source.key) == self._answers[source.key] for source in self._sources)

    def _refuse(self, source: Source, refusals: Sequence[Refusal]) -> None:
        if self._rejected is not None:
            self._rejected.add(source.name, refusals)
        for one in refusals:
            if self._shown == SHOWN_ERRORS:
                self._hidden += 1
                continue
            text = " ".join(one.text[: 4 * SHOWN_CHARS].decode("utf-8", "replace").splitlines())
            shown = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
            told = one.message if one.lines > 1 else f"{one.message}: {shown}"
            self._screen.say(f"{_prefix(source)}line {one.line:,}: {told}")
            self._shown += 1

    # ---- what is said

    def _wait(self, event: Waiting) -> None:
        now = time.monotonic()
        if self._outage is None or now - self._outage[1] > TOLD_AGAIN_SECONDS:
            began = now if self._outage is None else self._outage[0]
            self._outage = (began, now)
            left = format_duration(round(max(event.budget - (now - began), 1)) * SECOND)
            self._screen.say(f"{event.message}; trying again for up to {left}")
        if event.twice:
            self._warn_untimed(self._untimed or "the input", "the request may have arrived, and then they are written")

    def _warn_untimed(self, name: str, why: str) -> None:
        if self._warned:
            return
        self._warned = True
        self._screen.say(
            f"Warning: {name} has lines without timestamps, which get the time of their arrival: {why} "
            "twice. Lines with timestamps are not doubled."
        )

    def _tell_resumed(self) -> None:
        state = self._checkpoint.state
        if self._quiet or not (state.done or state.whole):
            return
        for source in self._sources:
            parts = state.done.get(source.key)
            if source.key in state.whole:
                self._screen.say(f"{source.name} was written before.")
            elif parts:
                first = parts[0].end.line if parts[0].start.offset == 0 else 1
                self._screen.say(
                    f"{source.name}: going on with line {first:,}, as the checkpoint {str(self._checkpoint.path)!r} says; "
                    "--no-resume starts anew"
                )

    def _how_far(self) -> str:
        told = f" ({self.summary()})" if self.written or self.refused else ""
        return told + self._how_to_go_on()

    def _how_to_go_on(self) -> str:
        return "; the same command goes on from there" if self._checkpoint.path is not None else ""

    def summary(self) -> str:
        """How many lines were written, in one sentence without an end."""
        text = f"{self.written:,} {'line' if self.written == 1 else 'lines'} written to {self._database!r}"
        seconds = time.monotonic() - self._began
        if seconds >= 1 and self._now:
            text += f" ({self._now:,} in {seconds:,.1f} s, {self._now / seconds:,.0f} lines/s)"
        return text

    def refusal_summary(self) -> str:
        """How many lines were refused, and where they are."""
        text = f"{self.refused:,} {'line was' if self.refused == 1 else 'lines were'} refused"
        if self._rejected is not None:
            text += f": mend them in {str(self._rejected.path)!r}, and write that"
        return text

    @property
    def hidden(self) -> int:
        """How many refused lines were neither shown nor put into a file."""
        return 0 if self._rejected is not None else self._hidden


def _prefix(source: Source) -> str:
    return "" if source.path is None else f"{source.name}: "


@contextmanager
def _interrupts(upload: Upload) -> Iterator[list[Any]]:
    """Ctrl-C stops the upload in order; a second one stops at once. Gives a list that is not empty from the first one on."""
    seen: list[Any] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def stop(number: int, frame: Any) -> None:
        del number, frame
        if seen:
            raise KeyboardInterrupt
        seen.append(True)
        upload.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
