"""Sending: each line is delivered or refused once, whatever the server says; and the decisions behind it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walmill.cli.checkpoint import joined
from walmill.cli.connection import CannotReach, Refused
from walmill.cli.pieces import lines, pieces
from walmill.cli.rejected import entry
from walmill.cli.retry import LONGEST_SECONDS, budget, may_be_done, may_pass_later, pause
from walmill.cli.source import Source
from walmill.cli.upload import Answered, Ended, Job, Refusal, Upload, Waiting, refusals_of
from walmill.errors import InvalidRequest, WalmillError

SOURCE = Source("s", "s", None, None)


def jobs(data: bytes, size: int = 40) -> list[Job | Ended]:
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    found = [Job(SOURCE, piece) for piece in pieces(chunks, piece_bytes=size)]
    return [*found, Ended(SOURCE, len(found))]


class Server:
    """Keeps lines, refuses those with `bad`, and bodies over a limit, as a server does."""

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self.lines: Counter[bytes] = Counter()
        self.at_once = self.most_at_once = 0
        self.guard = threading.Lock()

    def __call__(self, body: bytes) -> None:
        with self.guard:
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.answer(body)
        finally:
            with self.guard:
                self.at_once -= 1

    def answer(self, body: bytes) -> None:
        if len(body) > self.limit:
            raise Refused("too large", 413, {"error": "too large"})
        wrong = []
        for line in lines(body):
            text = body[line.start : line.end]
            if line.filled and b"bad" in text:
                wrong.append({"line_number": line.number, "error_message": "it is bad", "original_line": "cut"})
            elif line.filled:
                with self.guard:
                    self.lines[text.removesuffix(b"\n")] += 1
        if wrong:
            raise Refused("partial write", 400, {"error": "partial write", "data": wrong})


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["v={}", 'm="a\n{}"', 'm="bad\n{}"', "bad {}", "# {}", " "]), max_size=30),
    st.integers(10, 200),
    st.integers(1, 4),
)
def test_each_line_is_delivered_or_refused_once(kinds: list[str], limit: int, parallel: int) -> None:
    texts = [f"cpu {kind.format(i)} {i}" if kind.strip(" #{}") else kind.format(i) for i, kind in enumerate(kinds)]
    data = "\n".join(texts).encode()
    server = Server(limit)
    events = [event for event in Upload(server, parallel=parallel).run(jobs(data)) if event is not None]
    answers = [event for event in events if isinstance(event, Answered)]
    refused = [one for answer in answers for one in answer.refusals]
    good, bad = [], {}
    for line in lines(data):
        text = data[line.start : line.end]
        if line.filled and (b"bad" in text or len(text) > limit):
            bad[line.number] = text.removesuffix(b"\n")
        elif line.filled:
            good.append(text.removesuffix(b"\n"))
    assert {one.line: one.text for one in refused} == bad
    assert server.lines == Counter(good)
    parts = joined(answer.done for answer in answers)
    assert len(parts) == (1 if data else 0)
    assert sum(part.written for part in parts) == server.lines.total()
    assert sum(part.refused for part in parts) == len(refused)


def test_requests_are_parallel_and_bounded() -> None:
    together = threading.Barrier(3)
    read = []

    class Waits(Server):
        def answer(self, body: bytes) -> None:
            together.wait(20)  # breaks unless three requests are under way at once
            assert len(read) <= 3 * 2 + 2 + 3 * self.lines.total()
            super().answer(body)

    def counted() -> Iterator[Job | Ended]:
        for job in jobs(b"cpu v=1 1\n" * 30, size=10):
            read.append(job)
            yield job

    server = Waits()
    for _ in Upload(server, parallel=3).run(counted()):
        pass
    assert server.most_at_once == 3
    assert server.lines.total() == 30


def test_a_failure_is_told_and_tried_again() -> None:
    server, failures = (
        Server(),
        [Refused("busy", 503, None, 0), CannotReach("broken"), CannotReach("away", arrived=False)],
    )

    def send(body: bytes) -> None:
        if failures:
            raise failures.pop(0)
        server(body)

    events = [event for event in Upload(send).run(jobs(b"cpu v=1\n")) if event is not None]
    told = [event for event in events if isinstance(event, Waiting)]
    assert [(event.message, event.twice) for event in told] == [("busy", False), ("broken", True), ("away", False)]
    assert server.lines.total() == 1


def test_what_was_read_before_damage_is_sent() -> None:
    def broken() -> Iterator[Job | Ended]:
        yield from jobs(b"cpu v=1 1\ncpu v=2 2\n", size=10)[:-1]
        raise InvalidRequest("s is cut off")

    server = Server()
    with pytest.raises(InvalidRequest, match="cut off"):
        list(Upload(server, parallel=2).run(broken()))
    assert server.lines.total() == 2


def test_nothing_is_sent_after_a_refusal_of_everything() -> None:
    server = Server()

    def refuses(body: bytes) -> None:
        if server.lines:
            raise Refused("no such token", 401, None)
        server(body)

    with pytest.raises(Refused, match="no such token"):
        list(Upload(refuses).run(jobs(b"cpu v=1 1\n" * 40, size=10)))
    assert server.lines.total() == 1


def test_time_runs_out() -> None:
    def away(body: bytes) -> None:
        raise CannotReach("nobody there", arrived=False)

    with pytest.raises(CannotReach, match=r"^nobody there$"):
        list(Upload(away).run(jobs(b"cpu v=1 1\n")))
    with pytest.raises(WalmillError, match="nobody there; tried for 0 s, see --retry-for"):
        list(Upload(away, retry_for=0.2).run(jobs(b"cpu v=1 1\n")))


@given(st.integers(0, 10**6), st.floats(0, 100), st.none() | st.integers(0, 60), st.floats(0, 1))
def test_attempts_end_with_the_time_given(start: int, total: float, asked: int | None, luck: float) -> None:
    elapsed, attempts = 0.0, start
    while True:
        attempts += 1
        wait = pause(attempts, elapsed, total, asked, luck)
        if wait is None:
            break
        assert wait > 0 or asked == 0
        assert wait >= (asked or 0)
        assert wait <= max(LONGEST_SECONDS, asked or 0)
        elapsed += wait
        assert elapsed <= total + 1e-6
        assert attempts - start < 1000
    assert asked is not None or elapsed >= total - 1e-6


@pytest.mark.parametrize(
    ("error", "later", "done"),
    [
        (CannotReach("x", arrived=False), True, False),
        (CannotReach("x"), True, True),
        (Refused("x", 503, None), True, False),
        (Refused("x", 504, None), True, True),
        (Refused("x", 429, None), True, False),
        (Refused("x", 500, None), False, False),
        (Refused("x", 401, None), False, False),
        (Refused("x", 400, None), False, False),
    ],
)
def test_what_may_pass_later(error: Exception, later: bool, done: bool) -> None:
    assert (may_pass_later(error), may_be_done(error)) == (later, done)


def test_a_server_that_was_never_there_is_not_waited_for_unasked() -> None:
    away, busy = CannotReach("x", arrived=False), Refused("x", 503, None)
    assert budget(away, given=None, reached=False) == 0
    assert budget(away, given=None, reached=True) > 0
    assert budget(busy, given=None, reached=False) > 0
    assert budget(away, given=7.0, reached=False) == 7.0
    assert budget(away, given=0.0, reached=True) == 0


def test_a_refusal_has_the_whole_line_and_its_number_in_the_source() -> None:
    _, piece = pieces([b"cpu v=1 1\n", b'# c\n\nlog m="a\nb", 1\r\nlog m=y 2\n'], piece_bytes=10)
    wrong = [{"line_number": 3, "error_message": 'no\n"field"', "original_line": "log"}, {"error_message": "?"}]
    first, second = refusals_of(piece, wrong, whole=False)
    assert first == Refusal(4, 'no\n"field"', b'log m="a\nb", 1')
    assert entry("s", first) == b'# s line 4: no "field"\nlog m="a\nb", 1\n'
    assert second.message == "?"
    (whole,) = refusals_of(piece, wrong, whole=True)
    assert (whole.line, whole.lines, whole.text) == (4, 2, piece.data[:-1])
