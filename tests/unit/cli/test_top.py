"""The table of `walmill top`, from two looks at the triggers."""

from __future__ import annotations

from typing import Any

from walmill.cli.top import lines


def seen(name: str, **more: Any) -> dict[str, Any]:
    return {
        "database": "d",
        "trigger_name": name,
        "executor": "process",
        "state": "enabled",
        "running": 1,
        "lag_commits": 3,
        "lag_rows": 1500,
        "lag_seconds": 2.25,
        "runs": 10,
        "duration_p50_ns": 1_500_000,
        "duration_p99_ns": 2_500_000_000,
        "cpu_ns": 0,
        "memory": 50 * 2**20,
        "last_error": None,
        **more,
    }


def test_the_busiest_come_first() -> None:
    before = [seen("a"), seen("b", runs=0)]
    now = [seen("a", cpu_ns=1_000_000_000), seen("b", runs=20, last_error="ValueError: x\nmore"), seen("new", runs=4)]
    found = lines(before, now, 2.0)
    assert [line[0] for line in found] == ["d.a", "d.b", "d.new"]
    assert found[0] == (
        *("d.a", "process", "enabled", "1", "1,500 rows", "2.2 s", "0.0"),
        *("1.5 ms", "2.5 s", "50%", "50 MiB", ""),
    )
    assert found[1][6] == "10.0"
    assert found[1][-1] == "ValueError: x"


def test_what_nobody_knows_is_left_blank() -> None:
    off = seen(
        "a", state="disabled", lag_commits=None, lag_rows=None, lag_seconds=None, memory=None, duration_p50_ns=None
    )
    (line,) = lines([], [off], 1.0)
    assert line[4:6] == ("", "")
    assert line[7] == line[10] == ""
    (line,) = lines([], [seen("a", lag_rows=None)], 1.0)
    assert line[4] == "3 commits"


def test_an_error_cannot_steer_the_terminal() -> None:
    (line,) = lines([], [seen("a", last_error="\x1b[2J" + "x" * 100)], 1.0)
    assert "\x1b" not in line[-1]
    assert line[-1].endswith("…")
