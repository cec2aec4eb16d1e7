"""What is written is what the machine says, and a restart loses no share."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from walmill_hostmetrics import collect
from walmill_hostmetrics.collect import HostMetrics, What
from walmill_hostmetrics.share import usage

from walmill.testing.suite import plugin_suite
from walmill_hookspecs import BadSettings
from walmill_hookspecs.fakes import NOW, FakeContext, tick
from walmill_hookspecs.settings import parse

TestContract = plugin_suite("walmill_hostmetrics.collect", repeats=False)  # a machine is not the same twice


def look(context: FakeContext, seconds: int = 0) -> list[Any]:
    context.written.clear()
    collect.on_schedule(tick(NOW + timedelta(seconds=seconds)), context)
    return list(context.written)


def test_everything_is_seen() -> None:
    context = FakeContext(settings=HostMetrics())
    look(context)
    until, processors = time.monotonic() + 10, set()
    while not processors >= {"cpu-total", "cpu0"}:  # the kernel counts in hundredths of a second
        assert time.monotonic() < until
        rows = look(context, 10)
        processors |= {row.tags["cpu"] for row in rows if row.table == "cpu"}
    assert {row.table for row in rows} >= {"mem", "swap", "system", "processes"}
    assert all(row.time == NOW + timedelta(seconds=10) and row.tags["host"] for row in rows)
    memory = next(row for row in rows if row.table == "mem")
    assert memory.fields["total"] == psutil.virtual_memory().total
    assert not context.logs or all("disk" in text for _, text in context.logs)


def test_a_first_look_has_no_shares_and_the_next_one_has() -> None:
    context = FakeContext(settings=HostMetrics(collect=[What.CPU], per_cpu=False))
    assert look(context) == []
    before = context.cache.get("cpu")
    context.cache.put("cpu", {"cpu-total": {name: value - 1.0 for name, value in before["cpu-total"].items()}})
    (row,) = look(context, 10)
    assert sum(row.fields.values()) == pytest.approx(100)
    # the machine was started anew: its counters are smaller than they were
    context.cache.put("cpu", {"cpu-total": {name: value + 1e6 for name, value in before["cpu-total"].items()}})
    assert look(context, 20) == []


times = st.dictionaries(st.sampled_from(["user", "system", "idle", "guest"]), st.floats(0, 1e6), min_size=2)


@given(times, times)
def test_shares_are_of_a_hundred(before: dict[str, float], more: dict[str, float]) -> None:
    now = {name: before.get(name, 0.0) + value for name, value in more.items()}
    found = usage(before, now)
    if found is not None:
        assert all(0 <= value <= 100.0001 for value in found.values())
        assert sum(found.values()) == pytest.approx(100)


def test_what_is_not_there_is_told() -> None:
    context = FakeContext(
        settings=HostMetrics(collect=[What.NET, What.DISK], interfaces=["no-such"], mounts=["/no/such"], prefix="h_")
    )
    assert look(context) == []
    assert [text for _, text in context.logs] == [
        "there is no network interface no-such",
        "nothing is mounted at /no/such",
    ]


def test_one_that_fails_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise PermissionError(13, "not for you")

    monkeypatch.setattr(psutil, "swap_memory", refuse)
    context = FakeContext(settings=HostMetrics(collect=[What.SWAP, What.SYSTEM]))
    assert [row.table for row in look(context)] == ["system"]
    assert "not for you" in context.logs[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"collect": "cpu,moon"}, "collect"), ({"collect": []}, "'collect' is empty")]
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        parse(HostMetrics, arguments)
