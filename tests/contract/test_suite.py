"""The tests that authors get in one line: passed by the plugins that we bring, failed by plugins that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from walmill.testing.suite import plugin_suite

ROWS = "\n".join(f"cpu,host=h{n % 3} usage={n / 2},idle={n}i {1_000_000_000 * n}" for n in range(1, 30))

TestAlerts = plugin_suite("walmill_alerts.thresholds", rows=ROWS, arguments={"field": "usage", "above": "5"})
TestDeadman = plugin_suite("walmill_alerts.deadman", rows=ROWS, arguments={"table": "cpu", "timeout": "1m"})
TestDownsample = plugin_suite(
    "walmill_downsample", rows=ROWS, arguments={"window": "10s", "source": "cpu", "target": "{source}_10s"}
)
PICTURE = {"table": "cpu", "field": "usage", "from": "1970-01-01T00:00:00Z"}
TestChart = pytest.mark.may_leave("file", reason="matplotlib keeps its fonts open")(
    plugin_suite(
        "walmill_chart", rows=ROWS, requests=[{"query": {**PICTURE, "format": kind}} for kind in ("png", "svg")]
    )
)

GOOD = '''
"""Counts."""
from walmill_hookspecs import hookimpl

@hookimpl
def on_write(batch, ctx):
    ctx.cache.incr("rows", batch.num_rows)
'''
WRONG = """
import random
from walmill_hookspecs import SuggestedTrigger, hookimpl, setting, settings

@settings
class Settings:
    limit: float = setting("", default=1.0)

class Wrong:
    calls = 0

    @hookimpl
    def register_settings(self):
        return Settings

    @hookimpl
    def register_triggers(self):
        return [SuggestedTrigger(name="a/b", spec="table:cpu")]

    @hookimpl
    def on_write(self, batch, ctx):
        for row in batch.tables["cpu"].rows():
            ctx.write(f"copy v={row['usage'] + 0}")
        for _ in range(random.randrange(1000)):
            ctx.write("chance v=1")

    @hookimpl
    def on_request(self, request, ctx):
        return request.query_params["limit"]

    @hookimpl
    def on_service(self, ctx):
        raise OSError("nobody is there")
"""
FAILING = {
    "test_it_says_what_it_does",
    "test_its_settings_say_what_they_are",
    "test_what_it_suggests_can_be_created",
    "test_write_rows_without_values",
    "test_write_rows_of_another_table",
    "test_a_repeated_write_does_the_same",
    "test_requests",
    "test_requests_that_are_wrong_are_answered",
    "test_service_begins_and_ends",
}
TESTS = """
import good_one, wrong_one
from walmill.testing.suite import plugin_suite
TestGood = plugin_suite(good_one)
TestWrong = plugin_suite(wrong_one.Wrong)
"""
FIXTURES = """
import good_one

def test_fixtures(engine, client, clock):
    engine.register(good_one, name="good")
    engine.create_trigger(database="d", name="t", plugin="good", spec="table:cpu")
    assert client.post("/api/v3/write_lp?db=d", content=b"cpu v=1").status_code == 204
    row = client.get("/api/v3/query_sql", params={"db": "d", "q": "SELECT time FROM cpu", "format": "json"}).json()
    assert row == [{"time": "2026-01-01T00:00:00"}]
    clock.advance(10**9)
"""


def run(place: Path, name: str, text: str) -> subprocess.CompletedProcess[str]:
    (place / "good_one.py").write_text(GOOD)
    (place / "wrong_one.py").write_text(WRONG)
    (place / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", name]
    environ = {**os.environ, "PYTHONPATH": str(place), "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_suite_fails_what_is_wrong(tmp_path: Path) -> None:
    done = run(tmp_path, "test_them.py", TESTS)
    failed = set(re.findall(r"^FAILED test_them\.py::TestWrong::(\w+)", done.stdout, re.MULTILINE))
    assert "TestGood" not in "".join(re.findall(r"^FAILED.*", done.stdout, re.MULTILINE)), done.stdout
    assert failed == FAILING, done.stdout


def test_the_fixtures_are_found(tmp_path: Path) -> None:
    done = run(tmp_path, "test_fixed.py", FIXTURES)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("plugin", "said"),
    [("no_such_module_", "no_such_module_"), (object(), "cannot be imported by a worker"), ("json", "it has no hook")],
)
def test_what_is_no_plugin_is_a_sentence(plugin: object, said: str) -> None:
    with pytest.raises((ValueError, ImportError), match=said):
        plugin_suite(plugin)
