"""The plugin directory: what is there, what becomes of edits, and what a start finds."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.conftest import state, wait
from tests.plugins.conftest import COPY, REQUEST, statuses

from walmill import Engine
from walmill.dispatch.requests import Exchange
from walmill.errors import Conflict, Unavailable, WalmillError
from walmill.plugins.description import PluginDescription
from walmill_hookspecs import Request

EXECUTORS = ["process", "inline"]
LOOKED = "from pathlib import Path\nPath(__file__).parents[2].joinpath('looked').open('a').write('x')\n"


def ask(engine: Engine, trigger: str = "t") -> Any:
    number = engine.view().catalog.trigger("d", trigger).id

    async def answer() -> bytes:
        return (await engine.answer(number, Exchange(Request(method="GET", path="x")))).body

    return json.loads(asyncio.run(answer()))


def found(engine: Engine, name: str) -> PluginDescription | None:
    return engine.registry.peek(name)


def request(engine: Engine, plugin: str, executor: str = "process") -> None:
    engine.create_trigger(database="d", name="t", plugin=plugin, spec="request:x", executor=executor)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_files_packages_and_projects(opened: Callable[..., Engine], folder: Path, executor: str) -> None:
    (folder / "one.py").write_text(REQUEST.format(version=1))
    package = folder / "several"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from walmill_hookspecs import hookimpl\nfrom several.deep.more import VALUE\nfrom .near import OTHER\n"
        "@hookimpl\ndef on_request(request, ctx):\n    from several import late\n    return [VALUE, OTHER, late.LATE]\n"
    )
    (package / "deep" / "__init__.py").touch()
    (package / "deep" / "more.py").write_text("VALUE = 1")
    (package / "near.py").write_text("OTHER = 2")
    (package / "late.py").write_text("LATE = 3")
    project = folder / "project"
    (project / "src" / "inner").mkdir(parents=True)
    (project / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[project.entry-points.walmill]\nthing = "inner:Thing"\n'
    )
    (project / "src" / "inner" / "__init__.py").write_text(
        "from walmill_hookspecs import hookimpl\nclass Thing:\n    @hookimpl\n"
        "    def on_request(self, request, ctx):\n        return [7]\n"
    )
    (folder / "README.md").write_text("no plugin")
    (folder / "empty").mkdir()
    (folder / "bad.py").write_text("import nothing_of_that_name")
    (folder / "useless.py").write_text("x = 1")
    engine = opened()
    here = {one.name: one for one in engine.plugins() if one.location != "package"}
    assert {name: (one.status, one.location) for name, one in here.items()} == {
        "one": ("active", str(folder / "one.py")),
        "several": ("active", str(package)),
        "project": ("active", str(project)),
        "bad": ("broken", str(folder / "bad.py")),
        "useless": ("broken", str(folder / "useless.py")),
    }
    assert here["one"].summary == "Answers 1."
    assert "nothing_of_that_name" in (here["bad"].cause or "")
    assert "no hook" in (here["useless"].cause or "")
    for name, value in (("one", {"version": 1}), ("several", [1, 2, 3]), ("project", [7])):
        request(engine, name, executor)
        assert ask(engine) == value
        engine.delete_trigger("d", "t", force=True)
    request(engine, "several", executor)
    assert ask(engine) == [1, 2, 3]
    (package / "deep" / "more.py").write_text("VALUE = 10")  # a change anywhere below is one
    wait(lambda: ask(engine) == [10, 2, 3])
    (package / "near.py").write_text("OTHER = 20")
    wait(lambda: ask(engine) == [10, 20, 3])
    assert wait(lambda: statuses(engine)) == ["ok"]


TOOLS = """
[project]
name = "x"
[project.entry-points.walmill]
{entries}
"""
NEAR = """
from walmill_hookspecs import hookimpl

@hookimpl
def on_request(request, ctx):
    return [{answer}]
"""


def both(name: str) -> str:
    return f'one = "{name}:One"\nother = "{name}.near"'


def several(folder: Path, name: str) -> Path:
    """A project with two plugins."""
    project = folder / name
    package = project / "src" / name
    package.mkdir(parents=True)
    (project / "pyproject.toml").write_text(TOOLS.format(entries=both(name)))
    (package / "__init__.py").write_text(
        "from walmill_hookspecs import hookimpl\nclass One:\n    @hookimpl\n"
        "    def on_request(self, request, ctx):\n        return [1]\n"
    )
    (package / "near.py").write_text(NEAR.format(answer=2))
    return project


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_project_with_several_plugins(opened: Callable[..., Engine], folder: Path, executor: str) -> None:
    project = several(folder, "tools")
    engine = opened()
    here = {one.name: one for one in engine.plugins() if one.location != "package"}
    assert {name: (one.status, one.location) for name, one in here.items()} == {
        "tools.one": ("active", str(project)),
        "tools.other": ("active", str(project)),
    }
    request(engine, "tools.other", executor)
    assert ask(engine) == [2]
    (project / "src" / "tools" / "near.py").write_text(NEAR.format(answer=3))
    wait(lambda: ask(engine) == [3])
    settings = project / "pyproject.toml"
    settings.write_text("[project")  # being written, or broken: what there was stays
    wait(lambda: (plugin := found(engine, "tools.one")) and plugin.problem is not None)
    assert ask(engine) == [3]
    engine = opened()  # a start that finds it so has the versions before it
    assert ask(engine) == [3]
    settings.write_text(TOOLS.format(entries=both("tools") + '\nmore = "tools.near"'))
    wait(lambda: found(engine, "tools.more") is not None)
    assert (plugin := found(engine, "tools.one")) is not None
    assert plugin.problem is None
    engine = opened()
    assert ask(engine) == [3]
    settings.write_text(TOOLS.format(entries='one = "tools:One"'))  # alone, it has the directory's name
    wait(lambda: found(engine, "tools") is not None and found(engine, "tools.other") is None)
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
    settings.write_text(TOOLS.format(entries=both("tools")))
    wait(lambda: engine.trigger("d", "t")["state"] == "enabled")
    wait(lambda: ask(engine) == [3])
    with pytest.raises(Conflict, match=r"'tools.other' is used by d.t"):
        engine.remove_plugin("tools.one")  # they go together
    engine.remove_plugin("tools.one", force=True)
    assert not project.exists()
    wait(lambda: found(engine, "tools.other") is None)


def test_an_upload_with_several_plugins(opened: Callable[..., Engine], folder: Path, tmp_path: Path) -> None:
    elsewhere = several(tmp_path, "kit")
    files = {str(one.relative_to(elsewhere)): one.read_bytes() for one in elsewhere.rglob("*.*")}
    engine = opened()
    made = engine.upload_plugin("kit", files)
    assert made == {"name": "kit", "status": "active", "cause": None, "plugins": ["kit.one", "kit.other"]}
    made = engine.upload_plugin("kit", {**files, "src/kit/near.py": b"import nothing_of_that_name"})
    assert (made["status"], "kit.other: " in made["cause"]) == ("active", True)
    assert "nothing_of_that_name" in made["cause"]
    made = engine.upload_plugin("kit/src/kit/near.py", files["src/kit/near.py"])
    assert made["cause"] is None


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_bad_edit_changes_nothing_and_says_why(opened: Callable[..., Engine], folder: Path, executor: str) -> None:
    path = folder / "one.py"
    path.write_text(REQUEST.format(version=1))
    engine = opened()
    request(engine, "one", executor)
    assert ask(engine) == {"version": 1}
    for bad, why in (
        ("def (", "SyntaxError"),
        ("import gone_", "gone_"),
        ("x = 1", "no hook"),
        ("import os; os._exit(3)", ""),
    ):
        if bad.startswith("import os") and executor == "inline":
            continue
        path.write_text(bad)
        wait(lambda why=why: (plugin := found(engine, "one")) and plugin.problem is not None and why in plugin.problem)
        assert ask(engine) == {"version": 1}
        plugin = found(engine, "one")
        assert plugin is not None
        assert plugin.status == "active"
    path.write_text(REQUEST.format(version=1))  # taken back
    wait(lambda: (plugin := found(engine, "one")) and plugin.problem is None)
    path.write_text(REQUEST.format(version=2))
    wait(lambda: ask(engine) == {"version": 2})


def test_a_start_that_finds_a_bad_edit_has_the_version_before_it(opened: Callable[..., Engine], folder: Path) -> None:
    path = folder / "one.py"
    path.write_text(REQUEST.format(version=1))
    engine = opened()
    request(engine, "one")
    assert ask(engine) == {"version": 1}
    path.write_text("def (")
    engine = opened()
    assert ask(engine) == {"version": 1}
    plugin = found(engine, "one")
    assert plugin is not None
    assert "SyntaxError" in (plugin.problem or "")
    path.write_text(REQUEST.format(version=2))
    wait(lambda: ask(engine) == {"version": 2})


def test_a_version_that_is_not_whole_any_more_is_not_used(
    opened: Callable[..., Engine], folder: Path, tmp_path: Path
) -> None:
    """As after a power failure: the name of a version is there, and not all of its bytes."""
    path = folder / "one.py"
    path.write_text(REQUEST.format(version=1))
    engine = opened()
    request(engine, "one")
    assert ask(engine) == {"version": 1}
    kept = next((tmp_path / "data" / "plugin-code").glob("*/one.py"))
    kept.write_text("")
    engine = opened()
    assert ask(engine) == {"version": 1}  # it is put there anew
    next((tmp_path / "data" / "plugin-code").glob("*/one.py")).write_text("")
    path.write_text("def (")
    engine = opened()
    plugin = found(engine, "one")
    assert plugin is not None
    assert (plugin.status, "SyntaxError" in (plugin.cause or "")) == ("broken", True)


def test_nothing_is_looked_at_twice(
    opened: Callable[..., Engine], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "one.py").write_text(LOOKED + REQUEST.format(version=1))
    opened()
    looked = next((tmp_path / "data").rglob("looked"))
    before = looked.read_text()
    engine = opened()
    plugin = found(engine, "one")
    assert plugin is not None
    assert (plugin.status, list(plugin.hooks)) == ("active", ["on_request"])
    assert looked.read_text() == before  # known by its hash
    os.utime(folder / "one.py")
    wait(lambda: not engine._supply.folder.scan())  # type: ignore[union-attr]
    assert looked.read_text() == before


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_is_gone_pauses_its_triggers_until_it_comes_back(
    opened: Callable[..., Engine], folder: Path, executor: str
) -> None:
    path = folder / "copy.py"
    path.write_text(COPY.format(version=1))
    engine = opened()
    engine.create_trigger(database="d", name="t", plugin="copy", spec="table:cpu", executor=executor)
    engine.create_trigger(database="d", name="r", plugin="copy", spec="table:other", executor=executor)
    engine.write("cpu v=1", database="d")
    wait(lambda: state(engine, "t", "rows") == 1)
    path.unlink()
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
    assert "'copy' is gone" in engine.trigger("d", "t")["reason"]
    for number in range(3):
        engine.write(f"cpu v={number}", database="d")
    engine = opened()  # a start without it
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
    path.write_text(COPY.format(version=2))
    wait(lambda: state(engine, "t", "rows") == 4)
    assert engine.trigger("d", "t")["state"] == "enabled"
    assert sorted(_versions(engine)) == [1, 2]
    with pytest.raises(LookupError):
        engine.query("SELECT * FROM dead_letters", database="_internal")


def _versions(engine: Engine) -> set[int]:
    return set(engine.query("SELECT version FROM seen", database="d").column(0).to_pylist())


def test_requests_to_a_paused_trigger_are_put_off(opened: Callable[..., Engine], folder: Path) -> None:
    path = folder / "one.py"
    path.write_text(REQUEST.format(version=1))
    engine = opened()
    request(engine, "one")
    assert ask(engine) == {"version": 1}
    path.unlink()
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
    with pytest.raises(Unavailable, match="is paused"):
        ask(engine)
    path.write_text(REQUEST.format(version=2))
    wait(lambda: engine.trigger("d", "t")["state"] == "enabled")
    assert ask(engine) == {"version": 2}


def test_names(opened: Callable[..., Engine], folder: Path) -> None:
    (folder / "json").mkdir()
    (folder / "json" / "__init__.py").write_text(REQUEST.format(version=1))
    (folder / "pyarrow").mkdir()
    (folder / "pyarrow" / "__init__.py").write_text(REQUEST.format(version=1))
    (folder / "downsample.py").write_text(REQUEST.format(version=1))
    engine = opened()
    for name in ("json", "pyarrow"):
        plugin = found(engine, name)
        assert plugin is not None
        assert plugin.status == "broken"
        assert "give it another name" in (plugin.cause or "")
    plugin = found(engine, "downsample")
    assert plugin is not None
    assert plugin.location == "package"  # what is installed goes before it
    (folder / "json").rename(folder / "jason")
    wait(lambda: found(engine, "json") is None)
    wait(lambda: (one := found(engine, "jason")) and one.status == "active")


def test_a_directory_that_comes_later(tmp_path: Path) -> None:
    with Engine.open(plugin_dir=tmp_path / "later") as engine:
        assert found(engine, "one") is None
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "one.py").write_text(REQUEST.format(version=1))
        wait(lambda: found(engine, "one"))
        request(engine, "one")
        assert ask(engine) == {"version": 1}
        shutil.rmtree(tmp_path / "later")
        wait(lambda: engine.trigger("d", "t")["state"] == "paused")
        assert found(engine, "one") is None
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "one.py").write_text(REQUEST.format(version=2))
        wait(lambda: engine.trigger("d", "t")["state"] == "enabled" and ask(engine) == {"version": 2})


SLOW = "import time\ntime.sleep(0.3)\n" + REQUEST


def test_a_change_while_a_worker_is_made_is_not_missed(opened: Callable[..., Engine], folder: Path) -> None:
    path = folder / "tardy.py"
    path.write_text(SLOW.format(version=0))
    engine = opened()
    request(engine, "tardy")
    first = threading.Thread(target=ask, args=(engine,))
    first.start()  # it has the first worker made, which takes 0.3 s
    for version in range(1, 8):
        path.write_text(SLOW.format(version=version))
        time.sleep(0.1)
    first.join()
    wait(lambda: ask(engine) == {"version": 7})
    time.sleep(0.5)
    assert ask(engine) == {"version": 7}


SAVED = """
import time
from walmill_hookspecs import hookimpl

FIRST = {version}

@hookimpl
def on_write(batch, ctx):
    time.sleep(0.002)
    ctx.cache.incr("rows", batch.num_rows)
    ctx.write(f"seen first={{FIRST}}i,last={{LAST}}i,sequence={{batch.first_sequence}}i")

@hookimpl
def on_request(request, ctx):
    time.sleep(0.02)
    return [FIRST, LAST]

# {filler}
LAST = {version}
"""


def _save(path: Path, version: int) -> None:
    """As the worst of editors: cuts the file, and writes it in two parts."""
    text = SAVED.format(version=version, filler="x" * (version % 7) * 3000)
    with path.open("w") as file:
        half = len(text) // 2
        file.write(text[:half])
        file.flush()
        if version % 3 == 0:
            time.sleep(0.02)
        file.write(text[half:])


def _many_saves(engine: Engine, path: Path, saves: int, pause: float) -> None:
    engine.create_trigger(database="d", name="t", plugin=path.stem, spec="table:cpu")
    engine.create_trigger(database="d", name="r", plugin=path.stem, spec="request:r")
    stop = threading.Event()
    sent, wrong = [0], []

    def write() -> None:
        while not stop.is_set():
            engine.write(f"cpu v={sent[0]}i", database="d")
            sent[0] += 1
            stop.wait(0.001)

    def request() -> None:
        while not stop.is_set():
            try:
                first, last = ask(engine, "r")
            except WalmillError as error:
                wrong.append(str(error))
            else:
                if first != last:
                    wrong.append(f"half a file: {first} {last}")

    threads = [threading.Thread(target=write), *(threading.Thread(target=request) for _ in range(2))]
    for thread in threads:
        thread.start()
    for version in range(1, saves + 1):
        _save(path, version)
        time.sleep(pause)
    wait(lambda: ask(engine, "r") == [saves, saves])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[:3]
    wait(lambda: state(engine, "t", "rows") == sent[0])
    rows = engine.query("SELECT first, last FROM seen", database="d").to_pylist()
    assert all(row["first"] == row["last"] for row in rows)
    assert len({row["first"] for row in rows}) > saves // 10
    assert wait(lambda: statuses(engine)) == ["ok"]


def test_many_saves_under_load(opened: Callable[..., Engine], folder: Path, tmp_path: Path) -> None:
    _save(folder / "edited.py", 0)
    _many_saves(opened(), folder / "edited.py", 60, 0.05)
    assert len(list((tmp_path / "data" / "plugin-code").iterdir())) <= 60


@pytest.mark.long
def test_a_thousand_saves_in_a_minute(opened: Callable[..., Engine], folder: Path, tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    _save(folder / "edited.py", 0)
    engine = opened()
    _many_saves(engine, folder / "edited.py", 100, 0.05)
    engine.delete_trigger("d", "t", force=True)
    engine.delete_trigger("d", "r", force=True)
    before = resident()
    _many_saves(engine, folder / "edited.py", 1000, 0.045)
    assert resident() - before < 100 * 2**20
    assert len(list((tmp_path / "data" / "plugin-code").iterdir())) <= 60


LAZY = """
from walmill_hookspecs import hookimpl
{more}

@hookimpl
def on_request(request, ctx):
    if request.path != "all":
        return [{answer}]
    from {name} import within
    from {name}_beside import BESIDE
    return [{answer}, within.WITHIN, BESIDE]
"""


def lazy(folder: Path, name: str, answer: int, more: str = "") -> None:
    """A project whose package imports a part of itself, and what lies beside it, only when it is asked to."""
    package = folder / name / "src" / name
    package.mkdir(parents=True, exist_ok=True)
    (folder / name / "pyproject.toml").write_text(TOOLS.format(entries=f'entry = "{name}"'))
    (package / "within.py").write_text(f"WITHIN = {answer + 1}")
    (package.parent / f"{name}_beside.py").write_text(f"BESIDE = {answer + 2}")
    (package / "__init__.py").write_text(LAZY.format(name=name, answer=answer, more=more))


@pytest.mark.parametrize("processes", [True, False])
def test_a_package_imports_its_parts_whenever_it_wants(
    opened: Callable[..., Engine], folder: Path, processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not processes:
        monkeypatch.setattr("walmill.isolation.builtin.possible", lambda: False)  # a system that has no such processes
    executor = "process" if processes else "inline"
    lazy(folder, "first", 10)
    lazy(folder, "second", 20)
    engine = opened()
    for name in ("first", "second"):  # the second one is loaded when the first has imported nothing more
        engine.create_trigger(database="d", name=name, plugin=name, spec=f"request:{name}", executor=executor)
    numbers = {name: engine.view().catalog.trigger("d", name).id for name in ("first", "second")}

    def whole(name: str) -> Any:
        async def answer() -> bytes:
            return (await engine.answer(numbers[name], Exchange(Request(method="GET", path="all")))).body

        return json.loads(asyncio.run(answer()))

    assert (ask(engine, "first"), ask(engine, "second")) == ([10], [20])
    lazy(folder, "first", 30, "raise OSError('not yet')")
    wait(lambda: (said := found(engine, "first")) is not None and "not yet" in str(said.problem))
    assert (whole("first"), whole("second")) == ([10, 11, 12], [20, 21, 22]), "a part of the edit that is broken"
    lazy(folder, "first", 40)
    wait(lambda: ask(engine, "first") == [40])
    assert (whole("first"), whole("second")) == ([40, 41, 42], [20, 21, 22])
