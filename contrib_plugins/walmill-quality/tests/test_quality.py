"""Rows that break a rule are found, and no others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walmill_quality import check
from walmill_quality.check import Quality
from walmill_quality.rules import parse_rules

from walmill.testing.suite import plugin_suite
from walmill_hookspecs import BadSettings
from walmill_hookspecs.fakes import NOW, FakeContext, write_batch
from walmill_hookspecs.settings import parse

# no rule about now: a run that is repeated has another one
RULES = "usage 0..2; usage required; host in a|b; busy is bool; host matches [a-z]; usage step 0.5"
TestContract = plugin_suite("walmill_quality.check", arguments={"rules": RULES})
TIME = int(NOW.timestamp()) * 1_000_000_000


def findings(rules: str, rows: list[dict[str, Any]], **more: Any) -> list[tuple[str, Any, Any]]:
    context = FakeContext(settings=Quality(rules=rules, **more), trigger="q")
    check.on_write(write_batch({"press": rows}, tags={"press": ["unit"]}), context)
    assert all(line.table == "quality" and line.tags["table"] == "press" for line in context.written)
    return [(line.tags["rule"], line.fields["rows"], line.fields.get("value")) for line in context.written]


ROWS: list[dict[str, Any]] = [
    {"unit": "N", "force": 10.0, "serial": "P0001", "n": 1, "time": TIME},
    {"unit": "kN", "force": 150.0, "serial": "X", "n": 2, "time": TIME + 1},
    {"unit": "lb", "force": -1.0, "serial": None, "n": 3, "time": TIME + 2},
    {"unit": None, "force": None, "serial": "P0002", "n": 40, "time": TIME + 3},
]


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ("force 0..120", [("force 0..120", 2, "150.0")]),
        ("force ..120", [("force ..120", 1, "150.0")]),
        ("force 0..", [("force 0..", 1, "-1.0")]),
        ("force -5..200", []),
        ("n 1..3", [("n 1..3", 1, "40")]),
        ("force required", [("force required", 1, "no value")]),
        ("unit required", [("unit required", 1, "no value")]),
        ("weight required", [("weight required", 4, "no such column")]),
        ("weight 0..1", []),
        ("unit in N|kN", [("unit in N|kN", 1, "lb")]),
        ("n in 1|2|3", [("n in 1|2|3", 1, "40")]),
        ("serial matches P\\d{4}", [("serial matches P\\d{4}", 1, "X")]),
        ("n is int; force is number; unit is tag; serial is string", []),
        ("n is float", [("n is float", 4, "int64")]),
        ("serial 0..1", [("serial 0..1", 3, "P0001")]),
        ("time within 1s", []),
    ],
)
def test_rules(rules: str, found: list[Any]) -> None:
    assert findings(rules, ROWS) == found


def test_steps_are_those_of_a_series_in_the_order_of_time() -> None:
    rows = [
        {"unit": unit, "v": value, "time": TIME + time}
        for unit, value, time in (
            ("a", 1.0, 1),
            ("b", 100.0, 2),
            ("a", 9.0, 5),
            ("a", 2.0, 3),
            (None, 0.0, 9),
            (None, 50.0, 8),
        )
    ]
    assert findings("v step 5", rows) == [("v step 5", 2, "9.0")]
    assert findings("v step 50", rows) == []


def test_times() -> None:
    rows = [{"unit": "a", "v": 1, "time": TIME - 3_600_000_000_001}, {"unit": "a", "v": 1, "time": TIME}]
    ((rule, count, value),) = findings("time within 1h", rows)
    assert (rule, count) == ("time within 1h", 1)
    assert value.startswith("2025-12-31 22:59:59")
    context = FakeContext(settings=Quality(rules="time within 1h"))
    check.on_write(write_batch({"press": rows}, tags={"press": ["unit"]}, kind="replay"), context)
    assert context.written == []


def test_columns_that_nobody_knows() -> None:
    assert findings("n is int", ROWS, columns=["unit", "force", "n"]) == [("known columns", 4, None)]


def test_a_finding_is_that_of_its_first_row_and_findings_are_not_checked() -> None:
    context = FakeContext(settings=Quality(rules="force 0..120", severity="bad"), trigger="q")
    check.on_write(write_batch({"press": ROWS}, tags={"press": ["unit"]}), context)
    (line,) = context.written
    assert line.time == TIME + 1
    assert line.tags == {"table": "press", "rule": "force 0..120", "column": "force", "severity": "bad", "trigger": "q"}
    assert line.fields["message"] == "2 of 4 rows of press break the rule 'force 0..120', the first one with 150.0"
    check.on_write(write_batch({"quality": [{"force": 1e9, "time": 1}]}), context)
    assert len(context.written) == 1
    assert datetime.fromtimestamp(TIME / 1e9, UTC) == NOW


@given(
    st.lists(st.one_of(st.none(), st.integers(-10, 10)), min_size=1, max_size=30),
    st.integers(-10, 10),
    st.integers(0, 9),
)
def test_a_range_finds_what_a_loop_finds(values: list[int | None], low: int, wide: int) -> None:
    rows = [{"unit": "a", "v": value, "other": 1, "time": n} for n, value in enumerate(values)]
    bad = [value for value in values if value is not None and not low <= value <= low + wide]
    found = findings(f"v {low}..{low + wide}", rows)
    assert found == ([(f"v {low}..{low + wide}", len(bad), str(bad[0]))] if bad else [])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("", "there is no rule"),
        (" ; ", "there is no rule"),
        ("temp", "it is none of"),
        ("temp 5..1", "5 is over 1"),
        ("temp ..", "a range is written"),
        ("temp a..b", "'a' is not a number"),
        ("temp is odd", "'odd' is not one of"),
        ("temp matches [", "no regular expression"),
        ("temp step -1", "from 0 on"),
        ("temp within 1h", "within is for time"),
        ("time within soon", "not a duration"),
        ("a b c; d e f", "'d e f'"),
    ],
)
def test_bad_rules(rules: str, message: str) -> None:
    with pytest.raises(BadSettings, match=message.replace("[", "\\[").replace("(", "\\(")):
        parse(Quality, {"rules": rules})


def test_all_problems_at_once() -> None:
    with pytest.raises(ValueError, match=r"'a b'.*'c d'"):
        parse_rules("a b; c d; e 0..1")
