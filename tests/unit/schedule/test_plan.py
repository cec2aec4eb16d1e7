"""The planner: missed due times, clocks that jump, and many schedules at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from walmill.model.trigger import MissedPolicy
from walmill.schedule.cron import COUNT_LIMIT, cron_schedule
from walmill.schedule.interval import IntervalSchedule
from walmill.schedule.plan import (
    BATCH,
    JUMP_LIMIT,
    LATE,
    MAX_WAIT,
    Due,
    Position,
    Schedule,
    Timeline,
    due_before,
    plan,
    settle,
    start,
)
from walmill.triggers.spec import CronSpec, EverySpec, parse_spec
from walmill.units import DAY, HOUR, MILLISECOND, MINUTE, SECOND, YEAR, parse_time

NOON = parse_time("2026-05-01T12:00:00Z")
TEN_SECONDS = IntervalSchedule(10 * SECOND)
SCHEDULES: list[Schedule] = [
    IntervalSchedule(SECOND),
    TEN_SECONDS,
    IntervalSchedule(7 * SECOND),
    cron_schedule("*/10 * * * * *"),
    cron_schedule("* * * * *", "Europe/Berlin"),
    cron_schedule("5,7,30 * * * * * 2026"),
]


def at(seconds: float) -> int:
    """The instant so many seconds after noon."""
    return NOON + round(seconds * SECOND)


@pytest.mark.parametrize(
    ("policy", "now", "due", "after"),
    [
        # nothing yet, exactly due, a little late
        ("latest", at(9.999), [], Position(NOON, NOON)),
        ("latest", at(10), [Due(at(10), NOON, 0)], Position(at(10), NOON)),
        ("latest", at(10.2), [Due(at(10), NOON, 0)], Position(at(10), NOON)),
        ("all", at(10.2), [Due(at(10), NOON, 0)], Position(at(10), NOON)),
        ("skip", at(10.2), [Due(at(10), NOON, 0)], Position(at(10), NOON)),
        # one was missed, to the nanosecond
        ("latest", at(20) - 1, [Due(at(10), NOON, 0)], Position(at(10), NOON)),
        ("latest", at(20), [Due(at(20), NOON, 1)], Position(at(20), NOON)),
        # three were missed
        ("latest", at(45), [Due(at(40), NOON, 3)], Position(at(40), NOON)),
        ("all", at(31), [Due(at(10), NOON), Due(at(20), at(10)), Due(at(30), at(20))], Position(at(30), NOON)),
        ("skip", at(45), [], Position(at(40), NOON, 4)),
        ("skip", at(40.9), [Due(at(40), NOON, 3)], Position(at(40), NOON)),
        ("skip", at(41), [Due(at(40), NOON, 3)], Position(at(40), NOON)),
        ("skip", at(41) + 1, [], Position(at(40), NOON, 4)),
        # the clock went back a little: silence until it has passed the last due time
        ("latest", at(-300), [], Position(NOON, NOON)),
        ("all", at(-600), [], Position(NOON, NOON)),
        # it went back by more: it was wrong before
        ("latest", at(-601), [], Position(at(-601))),
        ("latest", NOON - 9 * YEAR, [], Position(NOON - 9 * YEAR)),
    ],
)
def test_what_is_due_every_ten_seconds(policy: MissedPolicy, now: int, due: list[Due], after: Position) -> None:
    made = plan(TEN_SECONDS, Position(NOON, NOON), now, policy)
    assert (list(made.due), made.position) == (due, after)


def test_all_hands_out_a_bounded_number_at_a_time_and_loses_none() -> None:
    position, found = Position(NOON), []
    for expected in (BATCH, BATCH, 50, 0):
        made = plan(IntervalSchedule(SECOND), position, at(250), "all")
        assert len(made.due) == expected
        found += [due.scheduled_for for due in made.due]
        position = made.position
    assert found == [at(second) for second in range(1, 251)]


def test_a_dropped_due_time_is_counted_by_the_next_run() -> None:
    made = plan(TEN_SECONDS, Position(NOON, NOON), at(35), "skip")
    assert made.due == ()
    assert plan(TEN_SECONDS, made.position, at(40), "skip").due == (Due(at(40), NOON, 3),)


def test_a_year_of_missed_seconds_is_counted_at_once() -> None:
    made = plan(IntervalSchedule(SECOND), Position(NOON - YEAR), NOON, "latest")
    assert made.due == (Due(NOON, None, YEAR // SECOND - 1),)
    counted = plan(cron_schedule("* * * * * *"), Position(NOON - YEAR), NOON, "latest")
    assert counted.due == (Due(NOON, None, COUNT_LIMIT - 1),)


def test_a_schedule_that_has_ended_is_never_due() -> None:
    assert plan(cron_schedule("0 0 0 1 1 * 2020"), Position(NOON), NOON + 9 * YEAR, "all").due == ()


@pytest.mark.parametrize(
    ("policy", "fired", "since", "now", "expected"),
    [
        ("latest", None, NOON, at(60), Position(NOON)),
        ("latest", at(10), NOON, at(60), Position(at(10), at(10))),
        # enabled again: what was due while it was disabled is not owed
        ("latest", at(10), at(50), at(60), Position(at(50), at(10))),
        # the due time that ran when the engine died is not run again with skip, even if the restart was quick
        ("skip", NOON, NOON, at(10.5), Position(at(10.5), NOON, 1)),
        ("skip", NOON, NOON, at(5), Position(at(5), NOON, 0)),
        ("skip", at(30), NOON, at(5), Position(at(30), at(30), 0)),
        # a cursor from a clock that was years ahead
        ("latest", NOON + YEAR, NOON + YEAR, NOON, Position(NOON)),
        ("skip", NOON + YEAR, NOON, NOON, Position(NOON)),
    ],
)
def test_where_a_schedule_starts(
    policy: MissedPolicy, fired: int | None, since: int, now: int, expected: Position
) -> None:
    assert start(TEN_SECONDS, fired, since, now, policy) == expected


class Run:
    """A timeline with one schedule whose runs end at once, for tables of clock jumps."""

    def __init__(self, schedule: Schedule, policy: MissedPolicy, now: int) -> None:
        self.timeline: Timeline[str] = Timeline()
        self.timeline.add("t", schedule, fired=None, since=now, now=now, policy=policy)
        assert self.look(now) == []

    def look(self, now: int) -> list[Due]:
        found = []
        while True:
            handed = self.timeline.due(now)
            for key, due in handed:
                found.append(due)
                self.timeline.fired(key, due)
            if not handed:
                return found


@pytest.mark.parametrize(
    ("policy", "moves"),
    [
        # (the clock, what is due then), in seconds after noon
        ("latest", [(10, [10]), (20, [20]), (15, []), (20, []), (25, []), (30, [30])]),
        ("latest", [(10, [10]), (3610, [3610]), (10, []), (20, [20]), (30, [30])]),
        ("latest", [(3600, [3600]), (3001, []), (3599, []), (3609, []), (3610, [3610])]),
        ("latest", [(3600, [3600]), (2999, []), (3000, [3000]), (3010, [3010])]),
        ("all", [(30, [10, 20, 30]), (20, []), (40, [40]), (40, [])]),
        ("skip", [(10, [10]), (38, []), (40, [40]), (30, []), (50, [50])]),
        # several small jumps back add up
        ("latest", [(3600, [3600]), (3300, []), (3010, []), (2990, []), (3000, [3000])]),
    ],
)
def test_tables_of_clock_jumps(policy: MissedPolicy, moves: list[tuple[int, list[int]]]) -> None:
    run = Run(TEN_SECONDS, policy, NOON)
    for clock, expected in moves:
        assert [due.scheduled_for for due in run.look(at(clock))] == [at(second) for second in expected], clock


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        # the hours between 02:30 in Berlin, day by day
        ("2026-03-28", [24, 23.5, 23.5, 24]),
        ("2026-10-24", [24, 24, 25, 24]),
    ],
)
def test_a_daily_run_over_the_days_of_change(day: str, expected: list[float]) -> None:
    begin = parse_time(f"{day}T00:00:00Z") - DAY
    run, now, found = Run(cron_schedule("30 2 * * *", "Europe/Berlin"), "all", begin), begin, list[Due]()
    while len(found) < 5:
        wake = run.timeline.next_wake(now)
        assert wake is not None
        assert now < wake <= now + MAX_WAIT
        now = wake
        found += run.look(now)
    times = [due.scheduled_for for due in found]
    assert [(after - before) / HOUR for before, after in pairwise(times)] == expected
    assert [due.previous for due in found] == [None, *times[:-1]]


@settings(max_examples=200)
@given(
    schedule=st.sampled_from(SCHEDULES),
    policy=st.sampled_from(["latest", "all", "skip"]),
    moves=st.lists(st.integers(-JUMP_LIMIT // SECOND // 4, 90), max_size=30),
    parts=st.integers(0, 999),
)
def test_each_due_time_fires_at_most_once_and_with_all_exactly_once(
    schedule: Schedule, policy: MissedPolicy, moves: list[int], parts: int
) -> None:
    run, now, latest, found = Run(schedule, policy, NOON), NOON, NOON, list[Due]()
    for move in moves:
        now = max(now + move * SECOND + parts * MILLISECOND, latest - JUMP_LIMIT)
        latest = max(latest, now)
        found += run.look(now)
    times = [due.scheduled_for for due in found]
    assert times == sorted(set(times))
    owed, instant = [], NOON
    while (instant := schedule.next_after(instant) or latest + 1) <= latest:
        owed.append(instant)
    assert set(times) <= set(owed)
    if policy == "all":
        assert times == owed
    if policy == "latest":
        # whatever was not run was counted
        assert len(times) + sum(due.missed for due in found) == len(owed)
    assert all(due.previous == before for before, due in zip([None, *times], found, strict=False))


@settings(max_examples=150)
@given(
    schedule=st.sampled_from(SCHEDULES[:4]),
    policy=st.sampled_from(["latest", "all", "skip"]),
    jumps=st.lists(st.integers(-2 * HOUR // SECOND, HOUR // SECOND), max_size=4),
)
def test_no_jump_of_the_clock_stops_a_schedule(schedule: Schedule, policy: MissedPolicy, jumps: list[int]) -> None:
    run, now = Run(schedule, policy, NOON), NOON
    for jump in jumps:
        now += jump * SECOND
        run.look(now)
    limit, woken, found = now + JUMP_LIMIT + 2 * MINUTE, 0, list[Due]()
    while now < limit and not found:
        wake = run.timeline.next_wake(now)
        assert wake is not None
        assert now < wake <= now + MAX_WAIT
        now, woken = wake, woken + 1
        found += run.look(now)
    assert found
    assert woken < 1000  # at most once a second: it waits, it does not spin


# ---- many schedules


def drain(timeline: Timeline[int], now: int) -> list[tuple[int, int]]:
    """All that is due now, each run ending at once: keys and due times."""
    found = []
    while handed := timeline.due(now):
        for key, due in handed:
            found.append((key, due.scheduled_for))
            timeline.fired(key, due)
    return found


@define
class Counted:
    """A schedule that counts how often it is asked."""

    schedule: Schedule
    asked: list[int] = field(factory=list)

    __hash__ = object.__hash__

    @property
    def zone(self) -> object:
        return self.schedule.zone

    @property
    def spacing(self) -> int:
        return self.schedule.spacing

    def next_after(self, instant: int) -> int | None:
        self.asked.append(instant)
        return self.schedule.next_after(instant)

    def newest(self, after: int, until: int) -> tuple[int, int] | None:
        self.asked.append(after)
        return self.schedule.newest(after, until)


def test_ten_thousand_schedules_of_one_expression_cost_one_computation() -> None:
    schedule = Counted(cron_schedule("* * * * *"))
    timeline: Timeline[int] = Timeline()
    for key in range(10_000):
        timeline.add(key, schedule, fired=None, since=NOON, now=NOON)  # type: ignore[arg-type]
    assert timeline.due(NOON) == []
    assert timeline.next_wake(NOON) == at(60)
    schedule.asked.clear()
    handed = timeline.due(at(60))
    assert len(handed) == 10_000
    assert schedule.asked == []  # dispatched before anything was computed
    assert timeline.next_wake(at(60)) == at(120)
    assert len(schedule.asked) == 1
    for key, due in handed:
        timeline.fired(key, due)
    assert timeline.due(at(60)) == []
    assert [key for key, _ in timeline.due(at(120.5))] == list(range(10_000))
    assert len(schedule.asked) <= 2


def test_schedules_of_different_expressions_each_have_their_times() -> None:
    timeline: Timeline[int] = Timeline()
    for seconds in (1, 2, 3, 5, 7, 60):
        timeline.add(seconds, IntervalSchedule(seconds * SECOND), fired=None, since=NOON, now=NOON, policy="all")
    expected = Counter((every, at(second)) for every in (1, 2, 3, 5) for second in range(1, 91) if second % every == 0)
    found, now = Counter[tuple[int, int]](), NOON
    while now < at(90):
        wake = timeline.next_wake(now)
        assert wake is not None
        now = wake
        found.update(drain(timeline, now))
    assert {pair: count for pair, count in found.items() if pair[0] in (1, 2, 3, 5)} == expected
    assert found[60, at(60)] == 1
    assert [instant % (7 * SECOND) for every, instant in found if every == 7] == [0] * 13


def test_one_run_at_a_time_and_what_passes_meanwhile() -> None:
    cases: list[tuple[MissedPolicy, list[Due]]] = [
        ("latest", [Due(at(30), at(10), 1)]),
        ("all", [Due(at(20), at(10), 0)]),
        ("skip", []),
    ]
    for policy, expected in cases:
        timeline: Timeline[str] = Timeline()
        timeline.add("t", TEN_SECONDS, fired=None, since=NOON, now=NOON, policy=policy)
        ((key, first),) = timeline.due(at(10))
        assert timeline.due(at(20)) == []
        assert timeline.due(at(32)) == []
        assert timeline.next_wake(at(32)) == at(40)
        timeline.fired(key, first)
        assert timeline.next_wake(at(33)) == at(33)
        assert [due for _, due in timeline.due(at(33))] == expected


def test_what_is_owed_is_not_slept_over_when_the_clock_is_set_back_during_a_run() -> None:
    timeline: Timeline[str] = Timeline()
    timeline.add("t", IntervalSchedule(MINUTE), fired=None, since=NOON, now=NOON, policy="all")
    ((key, first),) = timeline.due(at(130))
    timeline.fired(key, first)
    assert timeline.due(at(100)) == []
    assert timeline.next_wake(at(100)) == at(120)
    assert timeline.due(at(120)) == [("t", Due(at(120), at(60), 0))]


def test_several_runs_at_a_time_and_the_cursor_that_waits_for_the_slowest() -> None:
    timeline: Timeline[str] = Timeline()
    timeline.add("t", TEN_SECONDS, fired=at(-10), since=0, now=NOON, policy="all", concurrency=3)
    handed = [due for _, due in timeline.due(at(50))]
    assert [due.scheduled_for for due in handed] == [at(0), at(10), at(20)]
    first, second, third = handed
    assert timeline.cursor("t", third) == at(-10)
    timeline.fired("t", third)
    assert timeline.cursor("t", second) == at(-10)
    assert timeline.cursor("t", first) == at(0)
    ((_, fourth),) = timeline.due(at(50))
    assert fourth.scheduled_for == at(30)
    timeline.fired("t", first)
    assert timeline.cursor("t", second) == at(20)
    assert timeline.cursor("t", fourth) == at(0)
    timeline.fired("t", second)
    assert timeline.cursor("t", fourth) == at(30)
    assert timeline.cursor("unknown", fourth) == at(30)


def test_a_removed_schedule_is_silent_and_may_come_back() -> None:
    timeline: Timeline[str] = Timeline()
    assert timeline.next_wake(NOON) is None
    timeline.add("a", TEN_SECONDS, fired=None, since=NOON, now=NOON)
    timeline.add("b", TEN_SECONDS, fired=None, since=NOON, now=NOON)
    timeline.remove("a")
    timeline.remove("unknown")
    assert ("a" in timeline, "b" in timeline, len(timeline)) == (False, True, 1)
    assert [key for key, _ in timeline.due(at(10))] == ["b"]
    timeline.fired("a", Due(at(10)))
    timeline.remove("b")
    assert timeline.next_wake(at(10)) is None
    assert timeline.next_due("b", at(10)) is None
    timeline.add("b", TEN_SECONDS, fired=at(10), since=NOON, now=at(11))
    assert timeline.next_due("b", at(11)) == at(20)
    assert timeline.due(at(11)) == []
    assert [due for _, due in timeline.due(at(20))] == [Due(at(20), at(10), 0)]


def test_one_that_owes_joins_a_group_that_is_ahead() -> None:
    timeline: Timeline[str] = Timeline()
    timeline.add("ahead", TEN_SECONDS, fired=at(300), since=NOON, now=NOON)
    timeline.add("on time", TEN_SECONDS, fired=None, since=NOON, now=NOON)
    timeline.add("behind", TEN_SECONDS, fired=at(-100), since=0, now=NOON)
    assert timeline.due(NOON) == [("behind", Due(NOON, at(-100), 9))]
    assert timeline.next_wake(NOON) == at(10)
    assert [key for key, _ in timeline.due(at(10))] == ["on time"]


def test_schedules_that_come_and_go_leave_nothing_behind() -> None:
    timeline: Timeline[str] = Timeline()
    for number in range(1000):
        timeline.add("t", IntervalSchedule(YEAR - number * SECOND), fired=None, since=NOON, now=NOON)
        timeline.next_wake(NOON)
    assert len(timeline._heap) < 100


def test_a_run_from_before_a_jump_back_does_not_set_the_schedule_ahead_again() -> None:
    timeline: Timeline[str] = Timeline()
    timeline.add("t", TEN_SECONDS, fired=None, since=NOON, now=NOON)
    ((key, due),) = timeline.due(NOON + DAY)
    assert timeline.due(NOON) == []
    timeline.fired(key, due)
    assert [found for _, found in timeline.due(at(10))] == [Due(at(10), None, 0)]


class TimelineMachine(RuleBasedStateMachine):
    """A timeline against a model that goes through every due time of each schedule by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.timeline: Timeline[int] = Timeline()
        self.now = NOON
        self.latest = NOON
        self.policies: dict[int, MissedPolicy] = {}
        self.schedules: dict[int, Schedule] = {}
        self.since: dict[int, int] = {}
        self.concurrency: dict[int, int] = {}
        self.running: dict[int, list[Due]] = {}
        self.handed: dict[int, list[Due]] = {}
        self.keys = 0

    @initialize()
    def begin(self) -> None:
        self.now = NOON + 123 * MILLISECOND

    @rule(
        schedule=st.sampled_from(SCHEDULES),
        policy=st.sampled_from(["latest", "all", "skip"]),
        owes=st.integers(-30, 60),
        concurrency=st.integers(1, 3),
    )
    def add(self, schedule: Schedule, policy: MissedPolicy, owes: int, concurrency: int) -> None:
        self.keys += 1
        key, since = self.keys, self.now - owes * SECOND
        self.timeline.add(key, schedule, fired=None, since=since, now=self.now, policy=policy, concurrency=concurrency)
        self.policies[key], self.schedules[key], self.concurrency[key] = policy, schedule, concurrency
        self.since[key] = max(since, self.now) if policy == "skip" else since
        self.running[key], self.handed[key] = [], []

    @precondition(lambda self: self.policies)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.policies)))
        self.timeline.remove(key)
        for known in (self.policies, self.schedules, self.since, self.running, self.handed, self.concurrency):
            del known[key]

    @rule(seconds=st.integers(-60, 60), milliseconds=st.integers(0, 999))
    def move_and_look(self, seconds: int, milliseconds: int) -> None:
        self.now = max(self.now + seconds * SECOND + milliseconds * MILLISECOND, self.latest - JUMP_LIMIT + MINUTE)
        self.latest = max(self.latest, self.now)
        for key, due in self.timeline.due(self.now):
            assert self.since[key] < due.scheduled_for <= self.now
            self.running[key].append(due)
            self.handed[key].append(due)
            assert len(self.running[key]) <= self.concurrency[key]

    @precondition(lambda self: any(self.running.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(key for key, running in self.running.items() if running)))
        due = data.draw(st.sampled_from(self.running[key]))
        self.running[key].remove(due)
        cursor = self.timeline.cursor(key, due)
        assert all(cursor is None or cursor < other.scheduled_for for other in self.running[key])
        self.timeline.fired(key, due)

    @invariant()
    def each_due_time_is_handed_out_once_and_in_order(self) -> None:
        for due_times in self.handed.values():
            times = [due.scheduled_for for due in due_times]
            assert times == sorted(set(times))

    @invariant()
    def the_wait_is_bounded_and_nothing_owed_is_slept_over(self) -> None:
        wake = self.timeline.next_wake(self.now)
        if not self.policies:
            assert wake is None
            return
        assert wake is not None
        assert self.now <= wake <= self.now + MAX_WAIT or wake <= self.now
        for key in self.policies:
            if not self.running[key]:
                due = self.timeline.next_due(key, self.now)
                assert due is None or wake <= max(due, self.now)

    def teardown(self) -> None:
        for key, policy in self.policies.items():
            while policy == "all" and (self.running[key] or self._look(key)):
                for due in self.running[key]:
                    self.timeline.fired(key, due)
                self.running[key] = []
            if policy == "all":
                assert [due.scheduled_for for due in self.handed[key]] == list(self._owed(key))

    def _look(self, key: int) -> bool:
        self.now = self.latest
        for other, due in self.timeline.due(self.now):
            self.running[other].append(due)
            self.handed[other].append(due)
        return bool(self.running[key])

    def _owed(self, key: int) -> Iterator[int]:
        next_after: Callable[[int], int | None] = self.schedules[key].next_after
        instant = next_after(self.since[key])
        while instant is not None and instant <= self.latest:
            yield instant
            instant = next_after(instant)


TestTimeline = TimelineMachine.TestCase
TestTimeline.settings = settings(max_examples=100, stateful_step_count=25)


def test_the_limits_fit_together() -> None:
    assert LATE < MAX_WAIT < JUMP_LIMIT
    assert settle(Position(NOON + JUMP_LIMIT), NOON) == Position(NOON + JUMP_LIMIT)
    assert settle(Position(NOON + JUMP_LIMIT + 1), NOON) == Position(NOON)


@pytest.mark.parametrize(
    ("spec", "instant", "before"),
    [
        ("every:10s", 25 * SECOND, 20 * SECOND),
        ("every:10s", 20 * SECOND, 10 * SECOND),
        ("cron:* * * * * *", 25 * SECOND, 24 * SECOND),
        ("cron:30 9 * * *", 1_769_851_800 * SECOND, 1_769_765_400 * SECOND),
        ("cron:0 0 29 2 *", 1_779_851_800 * SECOND, 1_709_164_800 * SECOND),
    ],
)
def test_the_due_time_before(spec: str, instant: int, before: int) -> None:
    found = parse_spec(spec)
    assert isinstance(found, EverySpec | CronSpec)
    assert due_before(found.schedule(), instant) == before
