"""Jitter: runs of a schedule begin a little after their due times, each trigger at a moment of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.dispatch.schedules import jitter
from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.units import MILLISECOND, SECOND
from walmill_hookspecs import hookimpl


@given(st.integers(1, 2**31), st.integers(0, 2**62), st.integers(1, 3600 * SECOND))
def test_it_stays_within_its_bound_and_is_always_the_same(trigger: int, due: int, most: int) -> None:
    assert 0 <= jitter(trigger, due, most) < most
    assert jitter(trigger, due, most) == jitter(trigger, due, most)


def test_it_spreads_triggers_evenly() -> None:
    places = sorted(jitter(trigger, 1_000 * SECOND, 1000) for trigger in range(1000))
    assert all(abs(place - number) < 100 for number, place in enumerate(places))


class Late:
    seen: list[float] = []  # noqa: RUF012 - shared by all of a test

    @hookimpl
    def on_schedule(self, tick: Any) -> None:
        self.seen.append((tick.fired_at - tick.scheduled_for).total_seconds())


def test_runs_begin_later_and_are_told_their_due_time(engine: Engine, wait: Callable[..., None]) -> None:
    Late.seen.clear()
    engine.register(Late, name="late")
    made = engine.create_trigger(database="d", name="t", plugin="late", spec="every:100ms", jitter="90ms")
    wait(lambda: len(Late.seen) >= 3)
    assert made.jitter == 90 * MILLISECOND
    assert engine.trigger("d", "t")["jitter"] == "90ms"
    assert max(Late.seen) > 0.002


@pytest.mark.parametrize(
    ("spec", "value", "text"),
    [
        ("every:1s", "1s", "the jitter 1s must be shorter than the 1s between two due times"),
        ("cron:* * * * *", "90s", "must be shorter than the 1m"),
        ("every:1s", "soon", "jitter: "),
        ("table:cpu", "1s", "jitter is for schedules"),
    ],
)
def test_what_it_cannot_be(engine: Engine, spec: str, value: str, text: str) -> None:
    class Both(Late):
        @hookimpl
        def on_write(self) -> None: ...

    engine.register(Both, name="both")
    with pytest.raises(InvalidRequest, match=text):
        engine.create_trigger(database="d", name="t", plugin="both", spec=spec, jitter=value)
