"""Rehearsals: a run for real, of which nothing is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from walmill.engine import Engine
from walmill.errors import Conflict, InvalidRequest, LimitReached, NotFound
from walmill.plugins.places import find_plugin
from walmill.rehearsals import Rehearsal
from walmill_hookspecs import DisableTrigger, HTTPError, Line, RetryLater, SkipBatch, hookimpl
from walmill_hookspecs.fakes import request

PLUGIN = '''
"""Copies rows."""
import os
from walmill_hookspecs import Line, hookimpl, setting, settings

@settings
class Settings:
    target: str = setting("where to", default="copy")

class Copy:
    @hookimpl
    def register_settings(self):
        return Settings

    @hookimpl
    def on_startup(self, ctx):
        ctx.cache.put("started", True)

    @hookimpl
    def on_write(self, batch, ctx):
        ctx.log.info("rows %d of %s", batch.num_rows, batch.origin)
        rows = ctx.query("SELECT count(*) AS n FROM cpu").to_pylist()[0]["n"]
        ctx.cache.incr("seen", batch.num_rows)
        for name, table in batch.tables.items():
            for row in table.rows():
                ctx.write(Line(ctx.settings.target, {"from": name}, {"n": rows}, row["time"]))
        first = ctx.write_now(Line("now", {}, {"v": 1.0}, 5))
        ctx.checkpoint()
        assert ctx.run.dry_run and ctx.run.source == "test"
        ctx.on_commit(lambda: open("committed", "w").close())
        print("pid", os.getpid() != os.getppid(), first > 0)

    @hookimpl
    def on_schedule(self, tick, ctx):
        start, end = tick.window
        print(start.isoformat(), end.isoformat(), tick.missed)

    @hookimpl
    def on_request(self, request, ctx):
        def pieces():
            yield b"a"
            yield b"b" * 2_000_000
        if request.path_params.get("what") == "stream":
            return pieces()
        if request.path_params.get("what") == "bad":
            raise ValueError("a bad one")
        ctx.write(Line("asked", {}, {"n": len(request.body)}))
        return {"said": request.text(), "param": request.path_params, "h": request.headers.get("x-y")}
'''


@pytest.fixture
def copies(engine: Engine, tmp_path: Path) -> Engine:
    """An engine that knows a plugin in a file."""
    file = tmp_path / "copies.py"
    file.write_text(PLUGIN)
    place = find_plugin(str(file))
    assert engine.registry.add(place.name, place.value).status == "active"
    return engine


def untouched(engine: Engine, before: Any) -> bool:
    view = engine.view()
    return (
        view.sequence == before.sequence
        and view.catalog == before.catalog
        and view.state == before.state
        and {number: table.num_rows for number, table in view.tables.items()}
        == {number: table.num_rows for number, table in before.tables.items()}
    )


@pytest.mark.parametrize("executor", ["process", "inline"])
def test_rows_are_given_and_nothing_is_kept(copies: Engine, executor: str) -> None:
    copies.write("cpu,host=a v=1 1\ncpu,host=b v=2 2", database="d")
    before = copies.view()
    report = copies.rehearse(
        Rehearsal(
            kind="write",
            database="d",
            plugin="copies",
            rows="cpu,host=c v=3 3\nmem,host=c free=1i 4",
            arguments={"target": "elsewhere"},
            executor=executor,
        )
    )
    assert report.error is None
    assert report.ok
    assert report.rows_in == 2
    assert report.writes == {"d": ["now v=1.0 5", "elsewhere,from=cpu n=3i 3", "elsewhere,from=mem n=3i 4"]}
    assert report.counts == {("d", "now"): 1, ("d", "elsewhere"): 2}
    assert report.created == ["the table now (v)", "the table elsewhere (from, n)"]
    assert [(one["key"], one["value"]) for one in report.state] == [("started", True), ("seen", 2)]
    assert next(one.text for one in report.said if one.level == "INFO") == "rows 2 of client"
    assert report.callbacks == 1
    assert untouched(copies, before)
    copies.write("cpu,host=c v=3 3", database="d")  # the real line of buffers goes on by itself
    assert copies.query("SELECT count(*) AS n FROM cpu", database="d").to_pylist() == [{"n": 3}]
    assert copies.view().tables[before.catalog.database("d").tables["cpu"]].log is not None


def test_rows_of_sql_and_of_arrow(copies: Engine) -> None:
    copies.write("cpu,host=a v=1 1\ncpu,host=b v=2 2", database="d")
    asked = Rehearsal(kind="write", database="d", plugin="copies", query="SELECT * FROM cpu WHERE v > 1", table="cpu")
    assert copies.rehearse(asked).rows_in == 1
    table = pa.table({"host": ["x", "y", "z"], "v": [1.0, 2.0, 3.0]})
    given = Rehearsal(kind="write", database="d", plugin="copies", rows=table, table="cpu", spec="table:cpu")
    report = copies.rehearse(given)
    assert (report.status, report.rows_in) == ("ok", 3)
    with pytest.raises(InvalidRequest, match=r"none of the rows is for the spec 'table:mem'; they are in cpu"):
        copies.rehearse(Rehearsal(kind="write", database="d", plugin="copies", rows="cpu v=1", spec="table:mem"))


def test_a_trigger_lends_its_state_and_arguments(copies: Engine, wait: Any) -> None:
    copies.register(Counting, name="counting")
    copies.create_trigger(database="d", name="t", plugin="counting", spec="table:cpu", arguments={"a": "1"})
    copies.write("cpu v=1", database="d")
    wait(lambda: copies.trigger("d", "t")["lag_commits"] == 0)
    before = copies.view()
    report = copies.rehearse(Rehearsal(kind="write", database="d", trigger="t", rows="cpu v=2", arguments={"b": "2"}))
    assert [one.text for one in report.said] == ["2 {'a': '1', 'b': '2'}"]
    assert [(one["key"], one["value"]) for one in report.state] == [("n", 2)]
    assert copies.view().state == before.state
    copies.write("cpu v=1", database="d")
    wait(lambda: copies.trigger("d", "t")["lag_commits"] == 0)
    assert copies.trigger("d", "t")["state"] == "enabled"
    with pytest.raises(InvalidRequest, match="has the plugin 'counting', not 'copies'"):
        copies.rehearse(Rehearsal(kind="write", database="d", trigger="t", plugin="copies", rows="cpu v=2"))


class Counting:
    @hookimpl
    def on_write(self, batch: Any, ctx: Any) -> None:
        ctx.log.info("%s %s", ctx.cache.incr("n"), dict(ctx.settings))


def test_the_next_commit(copies: Engine) -> None:
    stop = threading.Event()

    def writing() -> None:
        while not stop.is_set():
            copies.write("mem v=1", database="d")
            copies.write("cpu,host=a v=1 1", database="d")
            time.sleep(0.01)

    thread = threading.Thread(target=writing)
    thread.start()
    try:
        asked = Rehearsal(kind="write", database="d", plugin="copies", live=20.0, spec="table:cpu")
        report = copies.rehearse(asked)
    finally:
        stop.set()
        thread.join()
    assert (report.status, report.rows_in) == ("ok", 1)
    with pytest.raises(LimitReached, match=r"no rows for 'table:cpu' were written to 'd' within 0.01 s"):
        copies.rehearse(Rehearsal(kind="write", database="d", plugin="copies", live=0.01, spec="table:cpu"))


def test_due_times(copies: Engine) -> None:
    asked = Rehearsal(
        kind="schedule", database="new", plugin="copies", spec="cron:30 9 * * *", at=1_769_851_800_000_000_000
    )
    report = copies.rehearse(asked)
    assert [one.text for one in report.said] == ["2026-01-30T09:30:00+00:00 2026-01-31T09:30:00+00:00 0"]
    assert report.due == 1_769_851_800_000_000_000
    assert "new" not in copies.view().catalog.names


@pytest.mark.parametrize(
    ("what", "status", "body"),
    [
        ("echo", 200, b'{"said": "hi", "param": {"what": "echo"}, "h": "z"}'),
        ("stream", 200, b"a" + b"b" * (2**20 - 1)),
        ("bad", None, None),
    ],
)
def test_requests(copies: Engine, what: str, status: int | None, body: bytes | None) -> None:
    got = request("POST", f"x/{what}", path_params={"what": what}, body="hi", headers={"X-Y": "z"})
    report = copies.rehearse(
        Rehearsal(kind="request", database="d", plugin="copies", spec="request:x/{what}", request=got)
    )
    if status is None:
        assert (report.status, report.error) == ("failed", "ValueError: a bad one")
        assert "ValueError" in report.traceback
        return
    assert report.answer is not None
    assert (report.answer["status"], report.answer["body"]) == (status, body)
    assert report.answer["whole"] == (what == "echo")
    assert copies.view().catalog.find_database("d") is None


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ValueError("no"), "failed"),
        (SkipBatch("not mine"), "skipped"),
        (RetryLater("busy", after=3.0), "retry_later"),
        (DisableTrigger("enough"), "disabled"),
    ],
)
def test_what_a_plugin_raises_is_told_and_done_to_nobody(engine: Engine, raised: Exception, status: str) -> None:
    class Raising:
        @hookimpl
        def on_write(self, ctx: Any) -> None:
            ctx.write(Line("t", {}, {"v": 1.0}))
            raise raised

    engine.register(Raising, name="raising")
    engine.create_trigger(database="d", name="t", plugin="raising", spec="table:never")
    report = engine.rehearse(Rehearsal(kind="write", database="d", trigger="t", rows="cpu v=1", spec="all_tables"))
    assert report.status == status
    assert not report.writes
    assert engine.trigger("d", "t")["state"] == "enabled"


def test_an_http_error_is_the_answer(engine: Engine) -> None:
    class Refusing:
        @hookimpl
        def on_request(self) -> None:
            raise HTTPError(418, "a teapot")

    engine.register(Refusing, name="refusing")
    report = engine.rehearse(Rehearsal(kind="request", database="d", plugin="refusing", request=request()))
    assert report.answer is not None
    assert (report.status, report.answer["status"], report.answer["body"]) == ("ok", 418, b'{"error": "a teapot"}')


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        (Rehearsal(kind="write", database="d"), InvalidRequest, "name a plugin, or a trigger"),
        (Rehearsal(kind="write", database="d", plugin="nix", rows="c v=1"), NotFound, "there is no plugin 'nix'"),
        (Rehearsal(kind="write", database="d", plugin="copies"), InvalidRequest, "needs rows"),
        (Rehearsal(kind="write", database="d", plugin="copies", rows=""), InvalidRequest, "empty"),
        (Rehearsal(kind="write", database="d", plugin="copies", rows="c v=1\nc v"), InvalidRequest, "line 2"),
        (Rehearsal(kind="write", database="d", plugin="copies", query="SELECT 1"), InvalidRequest, "name of the table"),
        (Rehearsal(kind="write", database="d", trigger="t", rows="c v=1"), NotFound, "'d'"),
        (
            Rehearsal(kind="write", database="d", plugin="copies", rows="c v=1", spec="every:1s"),
            InvalidRequest,
            "is for on_schedule, not for on_write",
        ),
        (Rehearsal(kind="request", database="d", plugin="copies"), InvalidRequest, "needs a request"),
        (
            Rehearsal(kind="write", database="d", plugin="copies", rows="c v=1", arguments={"nix": "1"}),
            InvalidRequest,
            "nix",
        ),
        (
            Rehearsal(kind="write", database="d", plugin="copies", rows="c v=1", live=1.0),
            InvalidRequest,
            "either rows, or the next commit",
        ),
    ],
)
def test_what_cannot_be_tried(copies: Engine, asked: Rehearsal, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        copies.rehearse(asked)


def test_limits_hold(copies: Engine, tmp_path: Path) -> None:
    file = tmp_path / "loops.py"
    file.write_text("from walmill_hookspecs import hookimpl\n@hookimpl\ndef on_write(batch):\n    while True: pass\n")
    place = find_plugin(str(file))
    copies.registry.add(place.name, place.value)
    report = copies.rehearse(
        Rehearsal(kind="write", database="d", plugin="loops", rows="c v=1", limits={"timeout": "200ms"})
    )
    assert report.status == "failed"
    assert "200ms" in (report.error or "") or "0.2" in (report.error or "")


def test_conflicts_are_found_as_at_a_real_commit(copies: Engine) -> None:
    copies.write('copy,from=cpu n="x" 1', database="d")
    copies.write("cpu v=1 1", database="d")
    report = copies.rehearse(Rehearsal(kind="write", database="d", plugin="copies", rows="cpu v=1 2"))
    assert report.status == "failed"
    assert "WriteError" in (report.error or "")


def places(tmp_path: Path) -> Iterator[tuple[str, str]]:
    project = tmp_path / "project"
    (project / "src" / "pack").mkdir(parents=True)
    (project / "src" / "pack" / "__init__.py").write_text(PLUGIN)
    table = '[project]\nname = "pack"\n[project.entry-points.walmill]\n'
    (project / "pyproject.toml").write_text(f'{table}one = "pack:Copy"\n')
    yield str(project), "one"
    yield str(project / "src" / "pack"), "pack"
    (project / "pyproject.toml").write_text(f'{table}one = "pack:Copy"\ntwo = "pack:Copy"\n')
    yield f"{project}#two", "two"


def test_packages_that_are_not_installed(engine: Engine, tmp_path: Path) -> None:
    for text, name in places(tmp_path):
        place = find_plugin(text)
        assert place.name == name
        assert sorted(engine.registry.add(place.name, place.value).hooks)[0] == "on_request"
    with pytest.raises(InvalidRequest, match=r"has the plugins one, two; choose one: .*#one"):
        find_plugin(str(tmp_path / "project"))
    with pytest.raises(InvalidRequest, match="has no plugin 'three'"):
        find_plugin(f"{tmp_path / 'project'}#three")
    with pytest.raises(InvalidRequest, match="there is no file or directory"):
        find_plugin(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidRequest, match=r"neither a pyproject.toml nor an __init__.py"):
        find_plugin(str(tmp_path))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InvalidRequest, match="is no Python file"):
        find_plugin(str(tmp_path / "x.txt"))


def test_a_file_that_is_broken_says_why(engine: Engine, tmp_path: Path) -> None:
    for name, text, cause in (
        ("syntax", "def (", "SyntaxError"),
        ("empty", "", "it has no hook"),
        ("twice", PLUGIN + PLUGIN.replace("class Copy", "class Other"), "several plugins"),
    ):
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        place = find_plugin(str(file))
        assert cause in (engine.registry.add(place.name, place.value).cause or "")
        with pytest.raises(Conflict, match="is broken"):
            engine.rehearse(Rehearsal(kind="write", database="d", plugin=name, rows="c v=1"))


class Source:
    """Notes that it runs, until it is told to end, or for ever."""

    def __init__(self) -> None:
        self.called = 0

    @hookimpl
    def on_service(self, ctx: Any) -> None:
        count = 0
        while not ctx.stopping:
            ctx.write(Line("beat", {}, {"n": count}, count + 1))
            ctx.on_commit(self.note)
            ctx.cache.put("n", count)
            ctx.checkpoint()
            count += 1
            if ctx.settings.get("ends") and count == 3:
                return
            if ctx.settings.get("fails"):
                raise ValueError("the line is dead")
            time.sleep(0.01)
        ctx.log.info("it was asked to end")

    def note(self) -> None:
        self.called += 1


def test_a_source_runs_for_a_while_and_nothing_is_kept(engine: Engine) -> None:
    source = Source()
    engine.register(source, name="source")
    report = engine.rehearse(Rehearsal(kind="service", database="d", plugin="source", seconds=0.2))
    assert (report.status, report.error) == ("ok", None)
    assert report.counts["d", "beat"] >= 2
    assert [one.text for one in report.said] == ["it was asked to end"]
    assert report.state[0]["key"] == "n"
    assert source.called == 0
    assert engine.view().catalog.find_database("d") is None
    began = time.monotonic()
    ends = Rehearsal(kind="service", database="d", plugin="source", seconds=60, arguments={"ends": True})
    assert engine.rehearse(ends).counts == {("d", "beat"): 3}
    assert time.monotonic() - began < 30
    failed = engine.rehearse(Rehearsal(kind="service", database="d", plugin="source", arguments={"fails": True}))
    assert (failed.status, failed.error) == ("failed", "ValueError: the line is dead")
    for seconds in (0, -1, 4000):
        with pytest.raises(InvalidRequest, match="more than 0 s, and at most 3600 s"):
            engine.rehearse(Rehearsal(kind="service", database="d", plugin="source", seconds=seconds))


class Names:
    """Says which files it is told of."""

    @hookimpl
    def on_snapshot(self, record: Any, ctx: Any) -> None:
        for table in record.tables:
            for one in table.files:
                assert Path(one.path).is_file()
                ctx.write(Line("files", {"of": table.name}, {"rows": one.rows, "last": one.sequences[1]}))
        ctx.cache.put("through", record.sequence)


def test_files_are_told_and_nothing_is_kept(tmp_path: Path) -> None:
    with Engine.open(data_dir=tmp_path, discover_plugins=False) as engine:
        engine.register(Names, name="names")
        engine.write("cpu v=1 1\nmem v=1 1\nmem v=2 2", database="d")
        asked = Rehearsal(kind="snapshot", database="d", plugin="names")
        with pytest.raises(InvalidRequest, match=r"no file with rows of a commit after 0 .*`walmill create snapshot`"):
            engine.rehearse(asked)
        engine.snapshot()
        report = engine.rehearse(asked)
        assert (report.status, report.rows_in, report.counts) == ("ok", 3, {("d", "files"): 2})
        assert [one["key"] for one in report.state] == ["through"]
        one = Rehearsal(kind="snapshot", database="d", plugin="names", spec="snapshot:cpu")
        assert engine.rehearse(one).rows_in == 1
        sequence = engine.view().sequence
        with pytest.raises(InvalidRequest, match=f"after {sequence}"):
            engine.rehearse(Rehearsal(kind="snapshot", database="d", plugin="names", after=sequence))
        # a trigger's own: what it has not had yet
        engine.create_trigger(database="d", name="t", plugin="names", spec="snapshot")
        with pytest.raises(InvalidRequest, match="no file"):
            engine.rehearse(Rehearsal(kind="snapshot", database="d", trigger="t"))
        assert engine.rehearse(Rehearsal(kind="snapshot", database="d", trigger="t", after=0)).rows_in == 3
        assert "files" not in engine.view().tables_of("d")
