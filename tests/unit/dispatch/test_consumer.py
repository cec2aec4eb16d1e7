"""The way of one trigger through the log, without a log: events in, instructions out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from walmill.dispatch.consumer import (
    BACKLOG_COMMITS,
    Batch,
    Consumer,
    DeadLetter,
    Disable,
    Fetch,
    Instruction,
    Item,
    Move,
    Pause,
    Ready,
    Save,
    Start,
    backoff,
)
from walmill.model.cursor import Cursor


def started(instructions: Sequence[Instruction]) -> list[Batch]:
    return [one.batch for one in instructions if isinstance(one, Start)]


def sequences(batch: Batch) -> list[int]:
    return [item.sequence for item in batch.items]


def test_commits_of_one_origin_and_chain_come_together() -> None:
    consumer = Consumer(Cursor())
    for item in (Item(1), Item(2), Item(3, origin=7, chain=(7,)), Item(4)):
        consumer.offer(item)
    (first,) = started(consumer.step(0.0))
    assert sequences(first) == [1, 2]
    assert consumer.step(0.0) == []  # one at a time
    moves = consumer.committed(first.number, Cursor(through=2), 0.0)
    (second,) = started(moves)
    assert sequences(second) == [3]


def test_a_commit_is_never_cut() -> None:
    consumer = Consumer(Cursor(), max_batch_rows=10)
    consumer.offer(Item(1, rows=50))
    consumer.offer(Item(2, rows=1))
    (batch,) = started(consumer.step(0.0))
    assert sequences(batch) == [1]


def test_without_effect_the_cursor_is_saved_before_the_next_batch_starts() -> None:
    """Else a crash could give the rows of a failed batch another start, and its key would change."""
    consumer = Consumer(Cursor())
    consumer.offer(Item(1))
    (first,) = started(consumer.step(0.0))
    assert consumer.without_effect(first.number, 0.0) == [Move(Cursor(through=1))]
    consumer.offer(Item(2))
    save, ready = consumer.step(0.0)
    assert save == Save(Cursor(through=1))
    assert isinstance(ready, Ready), "what it takes can be made ready meanwhile"
    assert consumer.step(0.0) == []
    (second,) = started(consumer.saved(Cursor(through=1), 0.0))
    assert second is ready.batch
    assert sequences(second) == [2]


def test_retry_backs_off_and_then_gives_up() -> None:
    consumer = Consumer(Cursor(), attempts=3)
    consumer.offer(Item(1))
    consumer.offer(Item(2, origin=9))
    now = 0.0
    (batch,) = started(consumer.step(now))
    for attempt in (1, 2):
        assert consumer.failed(batch.number, "boom", now) == []
        wake = consumer.wake_at()
        assert wake == pytest.approx(now + backoff(attempt, 0.5))
        assert consumer.step(now) == [], "later commits wait behind it: order"
        now = wake or 0.0
        (batch,) = started(consumer.step(now))
        assert batch.attempt == attempt + 1
        assert sequences(batch) == [1]
    (letter,) = consumer.failed(batch.number, "boom", now)
    assert isinstance(letter, DeadLetter)
    assert (letter.consumed, letter.through, letter.error) == ((1, 1), 1, "boom")
    (after,) = started(consumer.committed(batch.number, Cursor(through=1), now))
    assert sequences(after) == [2]


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1.5), (2, 4.5), (3, 13.5), (4, 40.5), (5, 60.0), (50, 60.0)])
def test_backoff(attempt: int, seconds: float) -> None:
    assert backoff(attempt, 0.5) == pytest.approx(seconds)
    assert backoff(attempt, 0.0) == pytest.approx(seconds * 0.9)


def test_skip_moves_on() -> None:
    consumer = Consumer(Cursor(), policy="skip")
    consumer.offer(Item(4))
    (batch,) = started(consumer.step(0.0))
    assert consumer.failed(batch.number, "boom", 0.0) == [Move(Cursor(through=4))]


@pytest.mark.parametrize("policy", ["retry", "skip"])
@pytest.mark.parametrize("bad", [{1}, {5}, {8}, {3, 4}, {1, 8}, set(range(1, 9))])
def test_a_batch_that_fails_for_good_is_halved_until_what_fails_stands_alone(policy: str, bad: set[int]) -> None:
    consumer = Consumer(Cursor(), policy=policy, attempts=1)
    for sequence in range(1, 9):
        consumer.offer(Item(sequence))
    waiting = list(consumer.step(0.0))
    done: list[int] = []
    lost: list[int] = []
    runs = 0
    while waiting:
        one = waiting.pop(0)
        match one:
            case Start(batch):
                runs += 1
                assert batch.first == batch.items[0].sequence
                assert sequences(batch)[0] == len(done) + len(lost) + 1, "in order"
                if bad & set(sequences(batch)):
                    if policy == "skip" and len(batch.items) == 1:
                        lost += sequences(batch)
                    waiting += consumer.failed(batch.number, "boom", 0.0)
                else:
                    done += sequences(batch)
                    waiting += consumer.committed(batch.number, Cursor(through=batch.last), 0.0)
            case DeadLetter(batch):
                assert len(batch.items) == 1
                lost += sequences(batch)
                waiting += consumer.committed(batch.number, Cursor(through=batch.last), 0.0)
            case Save(cursor):
                waiting += consumer.saved(cursor, 0.0)
    assert set(lost) == bad
    assert sorted(done + lost) == list(range(1, 9))
    assert runs <= 15
    assert consumer.cursor.through == 8


def test_the_breaker_counts_failures_of_different_batches_in_a_row() -> None:
    consumer = Consumer(Cursor(), policy="skip", breaker=3)
    for sequence, good in ((1, False), (2, False), (3, True), (4, False), (5, False)):
        consumer.offer(Item(sequence))
        saved = consumer.step(0.0)
        if isinstance(saved[0], Save):
            saved = consumer.saved(saved[0].cursor, 0.0)
        (batch,) = started(saved)
        if good:
            consumer.committed(batch.number, Cursor(through=sequence), 0.0)
        else:
            consumer.failed(batch.number, "boom", 0.0)
    consumer.offer(Item(6))
    save, _ = consumer.step(0.0)
    assert isinstance(save, Save)
    (batch,) = started(consumer.saved(save.cursor, 0.0))
    assert consumer.failed(batch.number, "boom", 0.0) == [
        Pause("3 batches in a row failed, the last one with: boom", batch)
    ]
    assert consumer.cursor.through == 5, "the last one is not skipped"
    consumer.offer(Item(7))
    assert consumer.step(0.0) == []


@pytest.mark.parametrize("how", ["dropped", "postponed"])
def test_runs_that_go_on_do_not_pass_by_what_was_left_undone(how: str) -> None:
    """A worker could not be made, or the engine stops, while another run of the trigger goes on and commits."""
    consumer = Consumer(Cursor(), max_concurrency=2, max_batch_rows=1)
    consumer.offer(Item(1))
    consumer.offer(Item(2))
    first, second = started(consumer.step(0.0))
    if how == "dropped":
        consumer.stop()
        consumer.dropped(first.number, 0.0)
    else:
        consumer.postponed(first.number)
    assert consumer.through_if_done(second.number) == 0
    consumer.committed(second.number, Cursor(through=0, done=((2, 2),)), 0.0)
    assert consumer.cursor == Cursor(through=0, done=((2, 2),))


def test_a_batch_waits_for_more_rows() -> None:
    consumer = Consumer(Cursor(), max_batch_wait=0.5, max_batch_rows=10)
    consumer.offer(Item(1, rows=4))
    assert consumer.ahead(Item(2, rows=4)) is None
    assert consumer.step(100.0) == []
    assert consumer.wake_at() == pytest.approx(100.5)
    consumer.offer(Item(2, rows=4))
    assert consumer.step(100.2) == []
    (batch,) = started(consumer.step(100.5))
    assert sequences(batch) == [1, 2]
    consumer.committed(batch.number, Cursor(through=2), 101.0)
    assert consumer.wake_at() is None
    consumer.offer(Item(3, rows=20))
    (batch,) = started(consumer.step(101.0))
    assert sequences(batch) == [3], "there are enough rows"


def test_disable_stops_before_the_batch() -> None:
    consumer = Consumer(Cursor(through=3), policy="disable")
    consumer.offer(Item(4))
    (batch,) = started(consumer.step(0.0))
    assert consumer.failed(batch.number, "boom", 0.0) == [Disable("boom", batch)]
    consumer.offer(Item(5))
    assert consumer.step(1e9) == []
    assert consumer.cursor == Cursor(through=3)


def test_the_backlog_is_bounded_and_the_rest_is_read_from_the_log() -> None:
    consumer = Consumer(Cursor(), max_batch_rows=10**9)
    (batch,) = started((consumer.offer(Item(1)), consumer.step(0.0))[1])
    for sequence in range(2, BACKLOG_COMMITS + 5000):
        consumer.offer(Item(sequence, rows=0))
    assert len(consumer.backlog) == BACKLOG_COMMITS
    assert consumer.behind == BACKLOG_COMMITS + 2
    (second,) = started(consumer.committed(batch.number, Cursor(through=1), 0.0))
    assert second.last == BACKLOG_COMMITS + 1
    assert consumer.committed(second.number, Cursor(through=second.last), 0.0) == [Fetch(BACKLOG_COMMITS + 2)]
    assert consumer.step(0.0) == []
    (third,) = started(consumer.fetched([Item(BACKLOG_COMMITS + 2)], None, 0.0))
    assert sequences(third) == [BACKLOG_COMMITS + 2]
    assert consumer.behind is None


def test_a_checkpoint_shortens_the_batch_that_is_repeated() -> None:
    consumer = Consumer(Cursor())
    for sequence in (1, 2, 5):
        consumer.offer(Item(sequence))
    (batch,) = started(consumer.step(0.0))
    consumer.checkpointed(batch.number, 3)
    consumer.failed(batch.number, "boom", 0.0)
    (again,) = started(consumer.step(10.0))
    assert sequences(again) == [5]
    assert (again.first, again.attempt) == (5, 2)


def test_done_ranges_are_not_handed_out_again() -> None:
    consumer = Consumer(Cursor(through=2, done=((4, 5),)), max_concurrency=2)
    for sequence in range(1, 8):
        consumer.offer(Item(sequence))
    batches = started(consumer.step(0.0))
    assert [sequences(batch) for batch in batches] == [[3], [6, 7]]
    assert not any(consumer.cursor.covers(batch.first, batch.last) for batch in batches), "else they would be refused"


def test_a_done_range_that_was_left_behind_holds_up_nothing() -> None:
    """A checkpoint of a run that failed leaves one behind other tables' commits: after a restart nobody works on the gap."""
    consumer = Consumer(Cursor(through=1, done=((4, 4),)))
    for sequence in (5, 6):
        consumer.offer(Item(sequence))
    (batch,) = started(consumer.step(0.0))
    assert sequences(batch) == [5, 6]


def test_an_idle_trigger_passes_by_what_does_not_concern_it_and_never_goes_back() -> None:
    consumer = Consumer(Cursor(through=3))
    assert consumer.pass_by(3) is None
    assert consumer.pass_by(9) == Cursor(through=9)
    assert consumer.pass_by(5) is None
    assert consumer.cursor == Cursor(through=9)


@pytest.mark.parametrize("case", ["backlog", "running", "waiting", "giving up", "done", "behind", "stopped"])
def test_a_trigger_with_something_to_do_passes_nothing_by(case: str) -> None:
    consumer = Consumer(
        Cursor(done=((4, 4),)) if case == "done" else Cursor(), attempts=1 if case == "giving up" else 3
    )
    if case == "behind":
        consumer.behind = 1
    elif case == "stopped":
        consumer.stop()
    elif case != "done":
        consumer.offer(Item(1))
    if case in ("running", "waiting", "giving up"):
        (batch,) = started(consumer.step(0.0))
        if case != "running":
            consumer.failed(batch.number, "boom", 0.0)
    before = consumer.cursor
    assert consumer.pass_by(9) is None
    assert consumer.cursor == before


def test_passing_by_changes_no_later_batch() -> None:
    """The key of a batch is its range: a pass that is lost in a crash must not give the same commits another one."""
    ways = []
    for passing in (True, False):
        consumer = Consumer(Cursor(through=3))
        if passing:
            assert consumer.pass_by(9) == Cursor(through=9)
        for sequence in (12, 13):
            consumer.offer(Item(sequence))
        (batch,) = started(consumer.step(0.0))
        ways.append((batch, consumer.through_if_done(batch.number)))
    assert ways[0] == ways[1]


def test_passing_by_asks_for_no_save_and_stands_in_for_none() -> None:
    consumer = Consumer(Cursor())
    assert consumer.pass_by(2) == Cursor(through=2)
    consumer.offer(Item(3))
    (batch,) = started(consumer.step(0.0))  # at once: the key does not hang on the pass
    consumer.without_effect(batch.number, 0.0)
    passed = consumer.pass_by(8)
    assert passed == Cursor(through=8)
    consumer.offer(Item(9))
    assert consumer.saved(Cursor(through=3), 0.0)[0] == Save(passed), "an older cursor is durable, not this one"
    (second,) = started(consumer.saved(passed, 0.0))
    assert sequences(second) == [9]


class Ways(RuleBasedStateMachine):
    """Any order of commits, successes, failures and waits: every commit is settled once, in order where order is promised."""

    @initialize(concurrency=st.integers(1, 3))
    def begin(self, concurrency: int) -> None:
        self.now = 0.0
        self.sequence = 0
        self.offered: list[int] = []
        self.settled: list[int] = []
        self.open: dict[int, Batch] = {}
        self.letters: dict[int, Batch] = {}
        self.saving: Cursor | None = None
        self.consumer = Consumer(Cursor(), attempts=3, max_concurrency=concurrency, max_batch_rows=5)

    def take(self, instructions: Sequence[Instruction]) -> None:
        for one in instructions:
            if isinstance(one, Start):
                self.open[one.batch.number] = one.batch
            elif isinstance(one, DeadLetter):
                self.letters[one.batch.number] = one.batch
            elif isinstance(one, Save):
                self.saving = one.cursor
            else:
                assert isinstance(one, Move | Ready)

    @rule(rows=st.integers(1, 7), gap=st.integers(0, 2), origin=st.integers(0, 1))
    def commit(self, rows: int, gap: int, origin: int) -> None:
        self.sequence += 1 + gap
        self.offered.append(self.sequence)
        self.consumer.offer(Item(self.sequence, origin=origin, rows=rows))
        self.take(self.consumer.step(self.now))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), end=st.sampled_from(["effect", "none", "fail", "later"]))
    def end(self, data: st.DataObject, end: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        batch = self.open.pop(number)
        if end == "effect":
            self.settled += sequences(batch)
            through = self.consumer.through_if_done(number)
            cursor = self.consumer.cursor.finish(batch.first, batch.last, through)
            self.take(self.consumer.committed(number, cursor, self.now))
        elif end == "none":
            self.settled += sequences(batch)
            self.take(self.consumer.without_effect(number, self.now))
        elif end == "fail":
            self.take(self.consumer.failed(number, "boom", self.now))
        else:
            self.take(self.consumer.again(number, 1.0, self.now, counts=True))

    @precondition(lambda self: self.letters)
    @rule()
    def bury(self) -> None:
        number, batch = self.letters.popitem()
        self.settled += sequences(batch)
        cursor = self.consumer.cursor.finish(batch.first, batch.last, self.consumer.through_if_done(number))
        self.take(self.consumer.committed(number, cursor, self.now))

    @precondition(lambda self: self.saving is not None)
    @rule()
    def save(self) -> None:
        cursor, self.saving = self.saving, None
        assert cursor is not None
        self.take(self.consumer.saved(cursor, self.now))

    @rule()
    def pass_by(self) -> None:
        before = self.consumer.cursor
        moved = self.consumer.pass_by(self.sequence)
        if moved is not None:
            assert moved.through == self.sequence > before.through
            assert not self.open
            assert self.settled == self.offered

    @rule()
    def wait(self) -> None:
        self.now = max(self.now, self.consumer.wake_at() or self.now)
        self.take(self.consumer.step(self.now))

    @invariant()
    def nothing_is_lost_or_done_twice(self) -> None:
        if not hasattr(self, "consumer"):
            return
        assert len(self.settled) == len(set(self.settled))
        if self.consumer.max_concurrency == 1:
            assert self.settled == self.offered[: len(self.settled)]
        cursor = self.consumer.cursor
        for sequence in self.offered:
            done = cursor.covers(sequence, sequence)
            assert done == (sequence in self.settled), (sequence, cursor, self.settled)
        assert len(cursor.done) <= self.consumer.max_concurrency


TestWays = Ways.TestCase
TestWays.settings = settings(max_examples=60, stateful_step_count=25)
