"""The committer on a file system that records and fails: what is answered, when, and what is left of a refusal."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from attrs import define, evolve

import walmill.store.committer as committer_module
from walmill.cache.state import Wish, database_space, trigger_space
from walmill.errors import Conflict, InvalidRequest, TooLarge, Unavailable, WalmillError
from walmill.ingest.convert import from_rows
from walmill.ingest.precision import Precision
from walmill.model.cursor import Cursor
from walmill.store.committer import Committer, Published
from walmill.store.draft import Draft
from walmill.store.lines import LineWrite
from walmill.store.replay import replay
from walmill.store.submission import Define, Exchange, Outcome, RowsWrite, RunEffect, Stale, Submission, Ticket
from walmill.store.view import View
from walmill.testing.clock import ManualClock
from walmill.testing.fs import FaultyFS
from walmill.wal.log import Log


class Bench:
    """A committer whose file system notes publications and answers among its calls."""

    def __init__(self, fs: FaultyFS) -> None:
        self.fs = fs
        self.clock = ManualClock(1000)
        self.published: list[Published] = []
        self.log = Log.open(fs, "wal", segment_bytes=256 * 1024, now_ns=self.clock.now_ns)
        self.committer = Committer(self.log, replay(self.log.replay()), self.clock, self._publish)
        self.held = threading.Event()
        self.holding = threading.Event()

    def _publish(self, published: Published) -> bool:
        self.fs.note("publish", "", published.view.sequence)
        self.published.append(published)
        return False

    def write(self, body: str, database: str = "d", **more: Any) -> Outcome:
        return self.committer.submit(line_write(body, database, **more)).result(10)

    def submit_together(self, *submissions: Submission) -> list[Outcome | WalmillError]:
        """One frame for all of them: the committer is held while they queue."""
        hold = Ticket()
        self.committer.submit(Define(self._hold), hold)
        assert self.holding.wait(10)
        tickets = [Noting(self.fs, place) for place, _ in enumerate(submissions)]
        for submission, ticket in zip(submissions, tickets, strict=True):
            self.committer.submit(submission, ticket)
        self.held.set()
        hold.result(10)
        answers: list[Outcome | WalmillError] = []
        for ticket in tickets:
            try:
                answers.append(ticket.result(10))
            except WalmillError as error:
                answers.append(error)
        self.held.clear()
        self.holding.clear()
        return answers

    def _hold(self, draft: Draft) -> None:
        self.holding.set()
        assert self.held.wait(10)

    def tables(self, database: str = "d") -> dict[str, int]:
        view = self.committer.view
        if view.catalog.find_database(database) is None:
            return {}
        return {name: table.buffer.num_rows for name, table in view.tables_of(database).items()}


class Noting(Ticket):
    """A ticket whose answer is noted among the calls of the file system."""

    def __init__(self, fs: FaultyFS, number: int) -> None:
        super().__init__()
        self._fs, self._number = fs, number

    def settle(self, outcome: Outcome) -> None:
        self._fs.note("answer", str(self._number), 0 if outcome.sequence is None else outcome.sequence)
        super().settle(outcome)


def line_write(body: str, database: str = "d", **more: Any) -> LineWrite:
    return LineWrite(database, body.encode(), Precision.NANOSECOND, 1000, **more)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(FaultyFS())
    made.committer.start()
    yield made
    made.held.set()
    assert made.committer.stop(10)


def kinds(bench: Bench) -> list[str]:
    return [call.kind for call in bench.fs.calls if call.kind in ("pwritev", "fdatasync", "publish", "answer")]


def test_no_answer_precedes_the_sync_of_what_it_answers(bench: Bench) -> None:
    bench.write("cpu v=0 0")  # the first one makes the segment
    for number in range(5):
        bench.fs.calls.clear()
        (answer,) = bench.submit_together(line_write(f"cpu v={number} {number + 1}"))
        assert isinstance(answer, Outcome)
        assert kinds(bench) == ["pwritev", "fdatasync", "publish", "answer"]


def test_what_queues_is_one_frame_with_one_sync_and_is_answered_in_order(bench: Bench) -> None:
    bench.write("cpu v=0 0")
    bench.fs.calls.clear()
    answers = bench.submit_together(*(line_write(f"cpu,host=h{number} v=1 {number}") for number in range(50)))
    assert [one.sequence for one in answers if isinstance(one, Outcome)] == [2] * 50
    assert kinds(bench) == ["pwritev", "fdatasync", "publish", *["answer"] * 50]
    assert [call.path for call in bench.fs.calls if call.kind == "answer"] == [str(number) for number in range(50)]
    assert [(commit.sequence, commit.num_rows) for commit in bench.published[-1].commits] == [(2, 50)]


def test_no_sync_is_answered_when_it_is_written(bench: Bench) -> None:
    bench.write("cpu v=0 0")
    bench.fs.calls.clear()
    bench.submit_together(line_write("cpu v=1 1", no_sync=True), line_write("cpu v=2 2"))
    order = [(call.kind, call.path) for call in bench.fs.calls]
    assert order.index(("answer", "0")) < [kind for kind, _ in order].index("fdatasync")
    assert order.index(("answer", "1")) > [kind for kind, _ in order].index("publish")


def test_what_is_refused_leaves_nothing_and_its_neighbours_stay(bench: Bench) -> None:
    answers = bench.submit_together(
        line_write("cpu v=1 1"),
        line_write("new,tag=a x=1 1\ncpu v=true 2", accept_partial=False),
        line_write("cpu,host=a v=2 2"),
        line_write("broken", "other"),
        line_write("", "empty"),
    )
    assert [type(one) for one in answers[3:]] == [Outcome, InvalidRequest]
    refused, broken = answers[1], answers[3]
    assert isinstance(refused, Outcome)
    assert isinstance(broken, Outcome)
    assert (refused.value.rows, len(refused.value.errors)) == (0, 1)
    assert (broken.value.rows, len(broken.value.errors)) == (0, 1)
    assert bench.tables() == {"cpu": 2}
    assert [one.name for one in bench.committer.view.catalog.databases.values()] == ["d"]
    assert [one.sequence for one in answers[:3] if isinstance(one, Outcome)] == [1, None, 1]
    assert bench.committer.view.sequence == 1
    assert bench.committer.view.tables_of("d")["cpu"].schema.tags == ("host",)


def test_one_that_fails_in_the_middle_of_its_draft_leaves_nothing(bench: Bench) -> None:
    def break_off(draft: Draft) -> None:
        draft.database("half")
        draft.change_state("d:1", [Wish("k", "put", b"\x01")])
        raise Conflict("not today")

    answers = bench.submit_together(line_write("cpu v=1 1"), Define(break_off), line_write("cpu v=2 2"))
    assert isinstance(answers[1], Conflict)
    assert bench.committer.view.catalog.find_database("half") is None
    assert bench.committer.view.state.space("d:1").size == 0
    assert bench.tables() == {"cpu": 2}


def test_one_that_is_too_large_for_the_log_is_refused_alone(bench: Bench) -> None:
    """Rows and state are each within their limits here, and together they are over that of an entry."""

    def fill(draft: Draft) -> None:
        for space in ("d:1", "t:2", "t:3"):
            draft.change_state(space, [Wish("k", "put", bytes(12 * 2**20))])

    answers = bench.submit_together(line_write("cpu v=1 1"), Define(fill), line_write("cpu v=2 2"))
    assert [type(one) for one in answers] == [Outcome, TooLarge, Outcome]
    assert bench.committer.view.state.space("d:1").size == 0
    assert bench.tables() == {"cpu": 2}


@pytest.mark.parametrize("kind", ["pwritev", "fdatasync"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_frame_that_cannot_be_made_durable_is_refused_whole(bench: Bench, kind: str, error: int) -> None:
    bench.write("cpu v=0 0")
    bench.fs.fail(kind, error)
    answers = bench.submit_together(line_write("cpu v=1 1"), line_write("mem v=1 1"), line_write("cpu,t=a v=2 2"))
    for answer in answers:
        assert isinstance(answer, Unavailable)
        assert answer.retry_after >= 1
    assert bench.tables() == {"cpu": 1}
    assert len(bench.published) == 1, "hooks never see what is not durable"
    bench.fs.clear()
    good = bench.write("mem v=true 1")
    assert good.sequence is not None
    assert bench.tables() == {"cpu": 1, "mem": 1}
    assert bench.committer.view.tables_of("d")["mem"].schema.fields == {"v": "bool"}
    _survives(bench)


def test_after_a_failed_sync_nothing_comes_back_that_was_refused(bench: Bench) -> None:
    bench.write("cpu v=0 0")
    bench.fs.fail("fdatasync")
    (refused,) = bench.submit_together(line_write("lost v=1 1"))
    assert isinstance(refused, Unavailable)
    bench.write("cpu v=1 1")
    for seed in range(20):
        bench.fs.power_loss(seed)
        again = Bench(bench.fs)
        assert again.tables() == {"cpu": 2}


def _survives(bench: Bench) -> None:
    """Replay of what is on the disk gives the live view."""
    again = Bench(bench.fs)
    assert again.tables() == bench.tables()
    assert again.committer.view.sequence == bench.committer.view.sequence
    assert again.committer.view.catalog == bench.committer.view.catalog


@define
class Trigger:
    """What tests need of a trigger in the log."""

    id: int
    generation: int


@pytest.fixture
def trigger(bench: Bench) -> Trigger:
    from walmill.triggers import manage
    from walmill.triggers.manage import NewTrigger
    from walmill.triggers.spec import parse_spec

    new = NewTrigger(database="d", name="t", plugin="p", spec="table:cpu")
    made = bench.committer.submit(
        Define(lambda draft: manage.create_trigger(draft, new, parse_spec("table:cpu"), lambda start: 0))
    ).result(10)
    return Trigger(made.value.id, made.value.generation)


def effect(trigger: Trigger, first: int, last: int, **more: Any) -> RunEffect:
    return RunEffect(trigger=trigger.id, generation=trigger.generation, consumed=(first, last), through=last, **more)


def test_a_run_takes_effect_once(bench: Bench, trigger: Trigger) -> None:
    wishes = {trigger_space(trigger.id): [Wish("k", "incr", by=1)]}
    answers = bench.submit_together(effect(trigger, 5, 9, wishes=wishes), effect(trigger, 5, 9, wishes=wishes))
    assert [type(one) for one in answers] == [Outcome, Stale]
    assert "done already" in str(answers[1])
    assert bench.committer.view.state.space(trigger_space(trigger.id)).entries["k"].value == b"\x01"
    assert bench.committer.view.cursors[trigger.id].through == 9


@pytest.mark.parametrize(("first", "last", "ok"), [(1, 9, False), (9, 9, False), (9, 12, False), (10, 12, True)])
def test_what_was_consumed_must_not_be_consumed_again(
    bench: Bench, trigger: Trigger, first: int, last: int, ok: bool
) -> None:
    bench.submit_together(effect(trigger, 5, 9))
    (answer,) = bench.submit_together(effect(trigger, first, last))
    assert isinstance(answer, Outcome if ok else Stale)


def test_a_run_of_a_trigger_that_was_changed_or_deleted_is_dropped(bench: Bench, trigger: Trigger) -> None:
    older = Trigger(trigger.id, trigger.generation - 1)
    unknown = Trigger(trigger.id + 1, trigger.generation)
    answers = bench.submit_together(effect(older, 1, 2), effect(unknown, 1, 2))
    assert [type(one) for one in answers] == [Stale, Stale]
    assert "was changed" in str(answers[0])
    assert "was deleted" in str(answers[1])


@pytest.mark.parametrize(("fired", "ok"), [(1000, False), (999, False), (1001, True), (1000 - 700_000_000_000, True)])
def test_a_due_time_fires_once_unless_the_clock_was_set_back(
    bench: Bench, trigger: Trigger, fired: int, ok: bool
) -> None:
    tick = RunEffect(trigger=trigger.id, generation=trigger.generation, fired=1000, source="schedule")
    later = RunEffect(trigger=trigger.id, generation=trigger.generation, fired=fired, source="schedule")
    first, second = bench.submit_together(tick, later)
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome if ok else Stale)


def test_a_key_that_changed_meanwhile_is_a_conflict_and_additions_merge(bench: Bench, trigger: Trigger) -> None:
    space = database_space(1)
    answers = bench.submit_together(
        effect(trigger, 2, 2, wishes={space: [Wish("k", "put", b"\x01"), Wish("n", "incr", by=2)]}),
        effect(trigger, 3, 3, wishes={space: [Wish("k", "put", b"\x02"), Wish("n", "incr", by=2)]}),
        effect(trigger, 4, 4, wishes={space: [Wish("n", "incr", by=2)]}),
    )
    assert [type(one) for one in answers] == [Outcome, Conflict, Outcome]
    entries = bench.committer.view.state.space(space).entries
    assert (entries["k"].value, entries["n"].value) == (b"\x01", b"\x04")
    assert bench.committer.view.cursors[trigger.id].covers(4, 4)


def test_moves_without_a_commit_ride_in_the_next_frame(bench: Bench, trigger: Trigger) -> None:
    bench.committer.move(trigger.id, Cursor(7))
    syncs = sum(call.kind == "fdatasync" for call in bench.fs.calls)
    bench.write("cpu v=1 1")
    assert sum(call.kind == "fdatasync" for call in bench.fs.calls) == syncs + 1
    assert Bench(bench.fs).committer.view.cursors[trigger.id] == Cursor(7)


def test_a_move_that_comes_late_takes_back_nothing_that_a_commit_finished(bench: Bench, trigger: Trigger) -> None:
    """With concurrent runs: one ends without effect while the commit of another, which it knows nothing of, is synced."""
    bench.submit_together(
        RunEffect(trigger=trigger.id, generation=trigger.generation, consumed=(5, 5), through=0, source="write")
    )
    assert bench.committer.view.cursors[trigger.id].covers(5, 5)
    bench.committer.move(trigger.id, Cursor(4))
    bench.write("cpu v=1 1")
    for view in (bench.committer.view, Bench(bench.fs).committer.view):
        assert view.cursors[trigger.id] == Cursor(5)


def test_a_run_that_a_change_of_its_trigger_overtook_moves_nothing(bench: Bench, trigger: Trigger) -> None:
    """It may end after a run of the changed trigger, and before that one's cursor is written; nobody would write it any more."""
    bench.committer.move(trigger.id, Cursor(7), trigger.generation)
    bench.committer.move(trigger.id, Cursor(2), trigger.generation - 1)
    bench.write("cpu v=1 1")
    assert bench.committer.view.cursors[trigger.id] == Cursor(7)
    bench.committer.move(trigger.id, Cursor(2), trigger.generation - 1)
    bench.committer.move(trigger.id, Cursor(8), trigger.generation)
    bench.write("cpu v=1 2")
    assert bench.committer.view.cursors[trigger.id] == Cursor(8)


def test_cursors_are_written_when_it_stops(trigger: Trigger, bench: Bench) -> None:
    bench.committer.move(trigger.id, Cursor(7))
    assert bench.committer.stop(10)
    assert Bench(bench.fs).committer.view.cursors[trigger.id] == Cursor(7)


def test_a_stopped_committer_takes_nothing_and_has_written_what_queued(bench: Bench) -> None:
    tickets = [bench.committer.submit(line_write(f"cpu v=1 {number}")) for number in range(200)]
    assert bench.committer.stop(10)
    sequences = [ticket.result(1).sequence for ticket in tickets]
    assert sequences == sorted(sequences)
    assert bench.tables() == {"cpu": 200}
    with pytest.raises(Unavailable, match="shutting down"):
        bench.write("cpu v=1 1")
    assert bench.tables() == {"cpu": 200}


def test_an_error_of_our_own_is_told_and_the_next_one_works(bench: Bench) -> None:
    (answer,) = bench.submit_together(Define(lambda draft: 1 // 0))
    assert isinstance(answer, WalmillError)
    assert "ZeroDivisionError" in str(answer)
    assert bench.write("cpu v=1 1").sequence == 1


def test_rows_are_in_the_view_before_their_writer_is_answered(bench: Bench) -> None:
    for number in range(20):
        bench.write(f"cpu v={number} {number}")
        assert bench.tables() == {"cpu": number + 1}


def test_an_empty_submission_makes_no_frame(bench: Bench) -> None:
    bench.write("cpu v=1 1")
    bench.fs.calls.clear()
    assert bench.committer.submit(RowsWrite([])).result(10).sequence is None
    assert kinds(bench) == []


def test_a_view_that_was_taken_never_changes(bench: Bench) -> None:
    bench.write("cpu v=1 1")
    taken: View = bench.committer.view
    bench.write("cpu,host=a v=2,w=3 2\nmem v=1 1")
    assert {name: table.buffer.num_rows for name, table in taken.tables_of("d").items()} == {"cpu": 1}
    assert taken.tables_of("d")["cpu"].schema.tags == ()


def test_two_writers_together_cannot_pass_the_limit_of_columns(bench: Bench) -> None:
    def rows(first: int) -> RowsWrite:
        made = from_rows([{f"f{number}": 1 for number in range(first, first + 300)}], "wide", None, (), default_time=1)
        return RowsWrite([("d", made)])

    accepted, refused = bench.submit_together(rows(0), rows(300))
    assert isinstance(accepted, Outcome)
    assert isinstance(refused, InvalidRequest)
    assert "limit of 500 columns: table 'wide' has 300 and this would add 300" in refused.message


def test_a_write_for_which_memory_is_short_may_come_again(bench: Bench) -> None:
    @define
    class Greedy:
        size: int = 1
        no_sync: bool = False
        lazy: float = 0.0

        def prepare(self, draft: Draft) -> None:
            raise MemoryError

    (refused,) = bench.submit_together(Greedy())
    assert isinstance(refused, Unavailable)
    assert refused.retry_after == 5
    assert bench.write("cpu v=1 1").sequence == 1


def test_what_may_wait_makes_no_frame_dearer_and_is_written_in_the_end(bench: Bench) -> None:
    """A block of run history for each frame would double its price."""
    lazy = RowsWrite((("d", from_rows([{"v": 1.0}], "late", None, (), default_time=1)),), lazy=3600.0)
    ticket = bench.committer.submit(lazy)
    bench.write("cpu v=1 1")
    with pytest.raises(TimeoutError):
        ticket.result(0)
    assert [one.view.tables_of("d").keys() for one in bench.published][-1] == {"cpu"}
    bench.committer.stop(10)
    assert ticket.result(10).value is not None
    assert set(bench.committer.view.tables_of("d")) == {"cpu", "late"}


@pytest.mark.parametrize(("pause", "together"), [(0.0, 3), (1.0, 1)])
def test_senders_in_step_share_a_frame(monkeypatch: pytest.MonkeyPatch, pause: float, together: int) -> None:
    """As many as came with the last frame are waited for, if that was just now: else the first has a frame for itself."""
    for name in ("COMPANY_SECONDS", "COMPANY_GAP_SECONDS"):
        monkeypatch.setattr(committer_module, name, 30.0)
    monkeypatch.setattr(committer_module, "COMPANY_STALE_SECONDS", 3600.0 - 3600.0 * pause)
    committer = Bench(FaultyFS()).committer  # its thread is not started: the frames are taken here
    for number in range(3):
        committer.submit(line_write(f"cpu v={number} {number}"))
    assert len(committer._take()) == 3
    committer._last_flush = time.monotonic()
    committer.submit(line_write("cpu v=3 3"))
    senders = [threading.Thread(target=committer.submit, args=(line_write(f"cpu v={n} {n}"),)) for n in (4, 5)]
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.append(len(committer._take())))
    taker.start()
    if together == 1:
        taker.join(30)
    for sender in senders:
        sender.start()
    for thread in (*senders, taker):
        thread.join(30)
    assert taken == [together]


def test_an_exchange_among_commits_loses_none_and_is_kept_by_all_after_it(bench: Bench) -> None:
    """It is decided between two frames, on what is durable: also beside writes of the same round, and a frame that fails."""
    before = bench.write("cpu v=0 0").sequence
    assert before is not None
    seen: list[int] = []

    def exchange(number: int) -> Exchange:
        def change(view: View) -> View:
            seen.append(view.sequence)
            return evolve(view, held=number)

        return Exchange(change)

    def fail(view: View) -> View:
        raise Unavailable("not now", retry_after=1)

    answers = bench.submit_together(
        line_write("cpu v=1 1"), exchange(1), line_write("cpu v=2 2"), Exchange(fail), exchange(2)
    )
    assert seen == [before, before], "neither sees what is not durable yet"
    assert isinstance(answers[3], Unavailable)
    assert [answer.sequence is None for answer in answers if isinstance(answer, Outcome)] == [False, True, False, True]
    assert (bench.committer.view.held, bench.tables()) == (2, {"cpu": 3})
    bench.fs.fail("fdatasync")
    answers = bench.submit_together(exchange(3), line_write("cpu v=3 3"))
    assert isinstance(answers[0], Outcome), "the frame failed, and not this"
    assert isinstance(answers[1], Unavailable)
    assert (bench.committer.view.held, bench.tables()) == (3, {"cpu": 3})
    bench.write("cpu v=4 4")
    assert (bench.committer.view.held, bench.tables()) == (3, {"cpu": 4})


def test_exchanges_from_one_thread_and_commits_from_others(bench: Bench) -> None:
    def write(letter: str) -> None:
        for number in range(60):
            bench.write(f"{letter} v={number} {number}")

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    number = 0
    while any(thread.is_alive() for thread in threads):
        number += 1
        bench.committer.submit(Exchange(partial(_hold_as, number))).result(10)
        assert bench.committer.view.held == number
    for thread in threads:
        thread.join()
    assert bench.tables() == dict.fromkeys("abc", 60)
    views = [one.view for one in bench.published]
    assert [view.sequence for view in views] == sorted(view.sequence for view in views)
    held = [view.held or 0 for view in views]
    assert held == sorted(held), "no commit brings back the view of before an exchange"
    bench.log.close()
    assert replay(open_again(bench).replay()).sequence == bench.committer.view.sequence


def _hold_as(number: int, view: View) -> View:
    return evolve(view, held=number)


def open_again(bench: Bench) -> Log:
    return Log.open(bench.fs, "wal", segment_bytes=256 * 1024, now_ns=bench.clock.now_ns)
