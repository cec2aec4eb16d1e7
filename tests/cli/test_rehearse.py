"""`plugin test` and `tail`, against a real server and without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
import time
from walmill_hookspecs import HTTPError, Line, hookimpl

class Sums:
    @hookimpl
    def on_write(self, batch, ctx):
        found = ctx.query("SELECT count(*) AS n FROM cpu").to_pylist()[0]["n"]
        ctx.write(Line("sums", {}, {"n": found, "given": batch.num_rows}, 9))
        ctx.cache.put("n", found)

    @hookimpl
    def on_schedule(self, tick, ctx):
        ctx.log.warning("due %s", tick.scheduled_for.isoformat())

    @hookimpl
    def on_request(self, request, ctx):
        if request.method == "PUT":
            raise HTTPError(501, "never")
        return {"got": request.text(), "h": request.headers["x-h"]}

    @hookimpl
    def on_service(self, ctx):
        while not ctx.stopping:
            ctx.write(Line("beat", {}, {"n": 1}, 1))
            ctx.checkpoint()
            time.sleep(0.01)
        ctx.log.info("asked to end")

    @hookimpl
    def on_snapshot(self, record, ctx):
        for table in record.tables:
            ctx.log.info("%s has %d rows", table.name, sum(one.rows for one in table.files))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "sums.py"
    file.write_text(PLUGIN)
    return str(file)


def test_a_file_with_rows_of_files(walmill: Callable[..., Any], plugin: str, tmp_path: Path) -> None:
    (tmp_path / "cpu.csv").write_text("time,host,v\n1,a,1.5\n2,b,2.5\n")
    (tmp_path / "before.lp").write_text("cpu,host=c v=1 1\ncpu,host=d v=1 1\n")
    found = walmill("plugin", "test", "write", plugin, "--rows", str(tmp_path / "cpu.csv"), "--tags", "host",
                "--data", str(tmp_path / "before.lp"))  # fmt: skip
    assert found.code == 0, found.err
    assert "would write to test: 1 row\n  sums n=4i,given=2i 9\n" in found.out
    assert "would create\n  the table sums (n, given)\n" in found.out
    assert "would remember\n  n = 4\n" in found.out
    assert "nothing was committed" in found.out


def test_due_times_and_requests(walmill: Callable[..., Any], plugin: str) -> None:
    found = walmill("plugin", "test", "schedule", plugin, "--schedule", "every:1h", "--at", "2026-01-31T09:00:00Z")
    assert (found.code, "WARNING: due 2026-01-31T09:00:00+00:00" in found.out) == (0, True)
    found = walmill(
        "plugin", "test", "request", plugin, "-X", "POST", "--body", "hi", "--header", "x-h: 1", "--format", "json"
    )
    report = json.loads(found.out)
    assert (found.code, report["answer"]["body"]) == (0, '{"got": "hi", "h": "1"}')
    found = walmill("plugin", "test", "request", plugin, "-X", "PUT", "--format", "json")
    assert (found.code, json.loads(found.out)["answer"]["status"]) == (1, 501)


def test_sources_and_snapshots(walmill: Callable[..., Any], plugin: str, tmp_path: Path) -> None:
    found = walmill("plugin", "test", "service", plugin, "--for", "100ms")
    assert (found.code, "INFO: asked to end" in found.out, "beat n=1i 1" in found.out) == (0, True, True), found
    (tmp_path / "before.lp").write_text("cpu,host=c v=1 1\ncpu,host=d v=1 1\nmem v=1 1")
    found = walmill("plugin", "test", "snapshot", plugin, "--data", str(tmp_path / "before.lp"))
    assert (found.code, "cpu has 2 rows" in found.out, "3 rows given" in found.out) == (0, True, True), found
    found = walmill("plugin", "test", "snapshot", plugin, "--data", str(tmp_path / "before.lp"), "--trigger-spec",
                "snapshot:mem")  # fmt: skip
    assert (found.code, "cpu has" in found.out, "mem has 1 rows" in found.out) == (0, False, True), found


def test_queries_are_answered_by_a_server(local: Callable[..., Any], plugin: str) -> None:
    database = "rehearse_ask"
    assert local("write", "-d", database, "cpu,host=a v=1 1\ncpu,host=b v=2 2\ncpu,host=c v=3 3").code == 0
    found = local("plugin", "test", "write", plugin, "-d", database, "--ask-server", "--lp", "cpu,host=z v=1 4")
    assert (found.code, "sums n=3i,given=1i 9" in found.out) == (0, True)
    found = local("plugin", "test", "write", plugin, "-d", database, "--query", "SELECT * FROM cpu WHERE v > 1",
                "--table", "cpu", "--tags", "host")  # fmt: skip
    assert (found.code, "sums n=2i,given=2i 9" in found.out) == (0, True)


def test_the_log_is_followed(local: Callable[..., Any]) -> None:
    database = "rehearse_tail"
    assert local("write", "-d", database, "cpu,host=a v=1 1").code == 0
    assert local("write", "-d", database, "mem v=2 2").code == 0
    found = local("tail", "-d", database, "--after", "0", "--wait", "50ms")
    assert found.out == "cpu,host=a v=1.0 1000000000\nmem v=2.0 2000000000\n"
    found = local("tail", "-d", database, "--after", "0", "--count", "1", "--format", "json", "mem")
    assert json.loads(found.out)["lines"] == ["mem v=2.0 2000000000"]


def test_an_installed_plugin_runs_in_the_server(
    walmill: Callable[..., Any], start: Callable[..., Any], install: Callable[..., Any], plugin: str
) -> None:
    own = start(**install("sums", {"sums": "sums_plugin:Sums"}, {"sums_plugin": PLUGIN}))
    place = ("--host", own.url, "--token", own.token)
    assert walmill("write", "-d", "d", "cpu,host=a v=1 1", *place).code == 0
    found = walmill("plugin", "test", "write", "sums", "-d", "d", "--lp", "cpu,host=b v=1 1", *place)
    assert (found.code, "sums n=2i,given=1i 9" in found.out) == (0, True), found
    found = walmill("plugin", "test", "write", "sums", "-d", "d", "--live", "50ms", *place)
    assert (found.code, "no rows for 'all_tables' were written to 'd' within 0.05 s" in found.err) == (1, True)
    found = walmill("plugin", "test", "write", plugin, "-d", "d", "--live", "50ms", *place)
    assert (found.code, "no rows were written to 'd' within 50ms" in found.err) == (1, True)
    assert walmill("query", "-d", "d", "SELECT count(*) AS n FROM cpu", "--format", "csv", *place).out.split() == [
        "n",
        "1",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("write", "FILE"), 2, "say what it is given: one of --rows, --lp, --query and --live"),
        (("write", "FILE", "--lp", "c v=1", "--live", "1s"), 2, "one of --rows"),
        (("write", "--lp", "c v=1"), 2, "name a PLUGIN, or a --trigger"),
        (("write", "FILE", "--trigger", "t", "--lp", "c v=1"), 2, "--trigger is one of the server's"),
        (("write", "FILE", "--lp", "c v"), 1, "line 1"),
        (("write", "/nowhere/x.py", "--lp", "c v=1"), 1, "there is no file or directory /nowhere/x.py"),
        (("write", "FILE", "--rows", "/nowhere/x.lp"), 1, "is not there"),
        (("request", "FILE", "--header", "x"), 2, "is not NAME:VALUE"),
        (("request", "FILE", "--trigger-spec", "request:a/{id}"), 1, "give a path that fits it"),
        (("schedule", "FILE", "--schedule", "never"), 1, "cron"),
        (("service", "FILE", "--for", "soon"), 1, "soon"),
        (("service", "FILE", "--for", "2h"), 1, "at most 3600 s"),
        (("service", "FILE", "--trigger-spec", "every:1s"), 1, "is for on_schedule, not for on_service"),
        (("snapshot", "FILE"), 1, "with the rows of --data; name some"),
        (("snapshot", "FILE", "--after", "x"), 2, "--after"),
    ],
)
def test_bad_input(local: Callable[..., Any], plugin: str, arguments: tuple[str, ...], code: int, text: str) -> None:
    found = local("plugin", "test", *(plugin if one == "FILE" else one for one in arguments))
    assert (found.code, text in found.err) == (code, True), found
