"""Anomalies are found, found once, and do not hide each other."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walmill_anomaly import detect
from walmill_anomaly.detect import Anomalies
from walmill_anomaly.judge import Memory, Method, Rule, judge

from walmill.testing.suite import plugin_suite
from walmill_hookspecs import BadSettings
from walmill_hookspecs.fakes import FakeContext, write_batch
from walmill_hookspecs.settings import parse

TestContract = plugin_suite("walmill_anomaly.detect", arguments={"field": "usage"})
both = pytest.mark.parametrize("method", ["zscore", "mad"])


def noise(count: int, start: int = 0, mean: float = 10.0) -> list[tuple[int, float | None]]:
    chance = random.Random(count + start)
    return [(start + place, chance.gauss(mean, 1.0)) for place in range(count)]


@both
def test_a_wild_value_is_found_and_does_not_hide_the_next(method: Method) -> None:
    memory, rule = Memory(), Rule(method=method, threshold=6.0)
    assert judge(memory, rule, noise(200)) == []
    found = judge(
        memory, rule, [(1000, 30.0), (1001, 10.0), (1002, -30.0), (1003, 31.0), (1004, None), (1005, math.nan)]
    )
    assert [one.time for one in found] == [1000, 1002, 1003]
    assert found[0].score > 6 > -6 > found[1].score
    assert found[0].expected == pytest.approx(10, abs=1)
    assert found[0].deviation == pytest.approx(1, abs=0.5)


@both
def test_a_series_that_has_changed_is_learned_anew(method: Method) -> None:
    memory, rule = Memory(), Rule(method=method, threshold=6.0, relearn=10)
    judge(memory, rule, noise(100))
    found = judge(memory, rule, noise(200, 1000, mean=50.0))
    assert len(found) == 10
    assert judge(memory, rule, [(5000, 10.0)]), "what was usual once is not any more"


@both
def test_nothing_is_judged_in_the_beginning_and_late_rows_are_left_out(method: Method) -> None:
    memory, rule = Memory(), Rule(method=method, warmup=5, window=10)
    assert judge(memory, rule, [(n, value) for n, value in enumerate((1.0, 1e9, -1e9, 0.0, 5.0))]) == []
    before = memory.to_state()
    assert judge(memory, rule, [(2, 1e12)]) == []
    assert memory.to_state() == before


@both
def test_a_series_that_stands_still(method: Method) -> None:
    still = [(n, 5.0) for n in range(50)]
    memory = Memory()
    judge(memory, Rule(method=method), still)
    (found,) = judge(memory, Rule(method=method), [(100, 5.001)])
    assert found.score == 1e9
    memory = Memory()
    judge(memory, Rule(method=method), still)
    assert judge(memory, Rule(method=method, floor=0.01), [(100, 5.001)]) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=80))
def test_the_memory_is_that_of_the_values(values: list[float]) -> None:
    rule = Rule(window=1000, warmup=1000)
    memory = Memory()
    judge(memory, rule, list(enumerate(values)))
    assert memory.mean == pytest.approx(statistics.fmean(values), abs=1e-3)
    assert memory.variance == pytest.approx(statistics.pvariance(values), rel=1e-6, abs=1e-3)
    memory = Memory()
    judge(memory, Rule(method="mad", window=10, warmup=1000), list(enumerate(values)))
    assert memory.values == values[-10:]


@both
@given(cuts=st.lists(st.integers(1, 40), max_size=10))
def test_however_rows_are_cut_into_batches_the_same_is_found(method: Method, cuts: list[int]) -> None:
    rows = [*noise(60), (60, 40.0), *noise(40, 61)]
    rule = Rule(method=method)
    whole = judge(Memory(), rule, rows)
    memory, found, place = Memory(), [], 0
    for cut in [*cuts, len(rows)]:
        memory = Memory.from_state(memory.to_state())
        found += judge(memory, rule, rows[place : place + cut])
        place += cut
    assert found == whole


def test_rows_of_anomalies() -> None:
    context = FakeContext(settings=Anomalies(field="v", warmup=3, window=5), trigger="odd")
    rows: list[dict[str, Any]] = [
        {"host": host, "v": 50 if n == 9 and host == "a" else n % 3, "time": n} for n in range(10) for host in "ab"
    ]
    detect.on_write(write_batch({"cpu": rows, "other": [{"w": 1, "time": 1}]}, tags={"cpu": ["host"]}), context)
    (line,) = context.written
    assert line.table == "anomalies"
    assert line.tags == {"host": "a", "table": "cpu", "rule": "odd"}
    assert line.time == 9
    assert "deviations above" in str(line.fields["message"])
    detect.on_write(write_batch({"anomalies": [{"v": 1.0, "time": 1}]}), context)
    assert len(context.written) == 1
    with pytest.raises(BadSettings, match="only numbers"):
        detect.on_write(write_batch({"cpu": [{"v": "x", "time": 1}]}), context)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'field' is missing"),
        ({"field": "v", "warmup": "50", "window": "20"}, "never remembered"),
        ({"field": "v", "method": "magic"}, "method"),
        ({"field": "v", "threshold": "0"}, "threshold"),
    ],
)
def test_bad_settings(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        parse(Anomalies, arguments)
