"""Limits as people give them: per trigger, plugin and server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.isolation.conftest import runs, wait
from tests.isolation.test_process import make, run, write

from walmill.context.local import Limits
from walmill.engine import Engine
from walmill.errors import InvalidRequest
from walmill.settings.limits import parse_limits, show_all


def test_a_trigger_has_limits_of_its_own(engine: Engine) -> None:
    found = run(engine, "loop", limits={"timeout": "200ms", "cpu": None})
    assert found["error"] == "LimitExceeded: the run took longer than its limit of 0.2 s"
    assert engine.trigger("d", "t")["limits"] == {"timeout": "200ms", "cpu": "none"}


def test_a_plugin_has_limits_and_a_trigger_goes_before_it(tmp_path: Path, place: Path) -> None:
    limits = {"trouble": parse_limits({"rows": 2, "log_lines": 5})[0]}
    with Engine.open(data_dir=tmp_path, plugin_limits=limits, limits=Limits(rows=1)) as engine:
        make(engine, "copy", name="plain")
        make(engine, "copy", name="more", limits={"rows": 100})
        write(engine)
        assert "its limit is 2" in wait(lambda: runs(engine, "plain"))[0]["error"]
        assert wait(lambda: runs(engine, "more"))[0]["status"] == "ok"


def test_an_executor_without_processes_cannot_hold_all_limits(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="the limit memory and cpu cannot be enforced by the executor 'inline'"):
        make(engine, "copy", executor="inline", limits={"memory": "1GB", "cpu": 1, "rows": 5})
    make(engine, "copy", executor="inline", limits={"rows": 5})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"tmeout": "1s"}, "there is no limit 'tmeout'; did you mean 'timeout'?"),
        ({"timeout": 5}, "the limit timeout: 5 has no unit: write for example '5s'"),
        ({"timeout": "0s"}, "the limit timeout: "),
        ({"memory": "1MB"}, "the limit memory: "),
        ({"memory": 1.5}, "the limit memory: 1.5 is not a whole number"),
        ({"cpu": 0}, "the limit cpu: 0 must be from 0.01 to 1024"),
        ({"cpu": "half"}, "the limit cpu: 'half' is not a number"),
        ({"rows": None}, "the limit rows: None is not a number"),
        ({"rows": True}, "the limit rows: True is not a number"),
        ([], "limits must be a table of names and values"),
    ],
)
def test_bad_limits(given: Any, problem: str) -> None:
    found, problems = parse_limits(given)
    assert found == {}
    assert problems[0].startswith(problem)


def test_limits_are_shown_as_they_are_written() -> None:
    given = {
        "timeout": "1m30s",
        "memory": "300MiB",
        "cpu": "0.5",
        "rows": "1000",
        "cpu_time": "none",
        "answer_size": "1MB",
    }
    parsed, problems = parse_limits(given)
    assert problems == []
    assert parse_limits(show_all(parsed) | {"rows": "1000"})[0] == parsed
