"""Packages that are installed, uninstalled and upgraded while an engine runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.isolation.conftest import runs, state, wait

from walmill import Engine
from walmill.errors import InvalidRequest
from walmill.plugins.contract import contract_problem

CODE = """
from walmill_hookspecs import hookimpl, setting, settings

@settings
class Settings:
{settings}

class Copies:
    @hookimpl
    def register_settings(self):
        return Settings

    @hookimpl
    def {hook}:
        ctx.cache.incr("rows", batch.num_rows)
        ctx.cache.put("version", {version!r})
"""
ONE = '    into: str = setting("a table", default="x")'
TWO = '    limit: float = setting("a bound")\n    hosts: int = setting("how many")'


class Site:
    """A directory on the path into which a distribution can be put."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def install(
        self, version: str, settings: str = ONE, hook: str = "on_write(self, batch, ctx)", requires: str = ">=0.1,<0.2"
    ) -> None:
        self.uninstall()
        package = self.path / "walmill_copies"
        package.mkdir()
        code = CODE.format(settings=settings, version=version, hook=hook)
        (package / "__init__.py").write_text(code + "#" * len(version))
        about = self.path / f"walmill_copies-{version}.dist-info"
        about.mkdir()
        needs = f"Requires-Dist: walmill-hookspecs{requires}\n"
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: walmill-copies\nVersion: {version}\n{needs}")
        (about / "entry_points.txt").write_text("[walmill]\ncopies = walmill_copies:Copies\n")
        (about / "RECORD").write_text(f"walmill_copies/__init__.py,sha256={hash(code)},1\n")

    def uninstall(self) -> None:
        for one in self.path.iterdir():
            shutil.rmtree(one)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    sys.path.append(str(made.path))
    yield made
    sys.path.remove(str(made.path))
    for name in [name for name in sys.modules if name.startswith("walmill_copies")]:
        del sys.modules[name]


def start(engine: Engine, executor: str = "process", **arguments: Any) -> None:
    engine.create_trigger(
        database="d", name="t", plugin="copies", spec="table:cpu", executor=executor, arguments=arguments
    )


def write(engine: Engine) -> bool:
    """One more row; always False."""
    write.count += 1  # type: ignore[attr-defined]
    engine.write(f"cpu v={write.count}", database="d")  # type: ignore[attr-defined]
    return False


write.count = 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("executor", ["process", "inline"])
def test_what_is_uninstalled_pauses_its_triggers(opened: Callable[..., Engine], site: Site, executor: str) -> None:
    site.install("1.0")
    engine = opened()
    start(engine, executor)
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 1)
    site.uninstall()
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")  # nobody has told it
    assert "'copies' is gone" in engine.trigger("d", "t")["reason"]
    assert engine.registry.peek("copies") is None
    for _ in range(3):
        write(engine)
    site.install("1.0")
    wait(lambda: state(engine, "t", "rows") == 4)
    assert engine.trigger("d", "t")["state"] == "enabled"
    assert {row["status"] for row in wait(lambda: runs(engine, "t"))} <= {"ok", "failed"}
    with pytest.raises(LookupError):
        engine.query("SELECT * FROM dead_letters", database="_internal")


def test_an_upgrade_is_used_by_the_next_run(opened: Callable[..., Engine], site: Site) -> None:
    site.install("1.0")
    engine = opened()
    start(engine)
    write(engine)
    wait(lambda: state(engine, "t", "version") == "1.0")
    site.install("1.10")
    assert engine.look_for_plugins() == {"copies"}
    wait(lambda: write(engine) or state(engine, "t", "version") == "1.10")
    assert engine.look_for_plugins() == set()
    sql = "SELECT plugin_version AS v, plugin_hash AS h FROM runs WHERE hook = 'on_write' ORDER BY time"
    wait(lambda: runs(engine, "t"))
    rows = wait(lambda: (got := engine.query(sql, database="_internal").to_pylist())[-1]["v"] == "1.10" and got)
    assert [row["v"] for row in rows] == sorted(row["v"] for row in rows)
    assert len({(row["v"], row["h"]) for row in rows}) == 2
    assert all(len(row["h"]) == 64 for row in rows)


@pytest.mark.parametrize("executor", ["process", "inline"])
def test_an_edit_of_an_editable_installation(opened: Callable[..., Engine], site: Site, executor: str) -> None:
    """Its files are used as they are saved; what this process has imported stays, and is told."""
    site.install("1.0")
    (record,) = site.path.glob("*.dist-info/RECORD")
    record.write_text("_walmill_copies.pth,,\n")  # its modules are elsewhere, as pip says of an editable installation
    engine = opened()
    start(engine, executor)
    write(engine)
    wait(lambda: state(engine, "t", "version") == "1.0")
    code = site.path / "walmill_copies" / "__init__.py"
    for version in ("2.0", "3.0"):  # of the same length, perhaps within a second
        code.write_text(code.read_text().replace("'1.0'", f"'{version}'").replace("'2.0'", f"'{version}'"))
        if executor == "inline":
            wait(lambda: "until it starts again" in str(engine.show_plugin("copies")["problem"]))
            write(engine)
            assert state(engine, "t", "version") == "1.0"
            return
        wait(lambda version=version: write(engine) or state(engine, "t", "version") == version)
    code.write_text(code.read_text().replace("@hookimpl", "@hookimpl(", 1))
    wait(lambda: engine.trigger("d", "t")["state"] == "paused")
    assert "SyntaxError" in engine.trigger("d", "t")["reason"]
    code.write_text(code.read_text().replace("@hookimpl(", "@hookimpl", 1))
    wait(lambda: engine.trigger("d", "t")["state"] == "enabled")


def test_the_same_version_built_again(opened: Callable[..., Engine], site: Site) -> None:
    site.install("1.0")
    engine = opened()
    start(engine)
    write(engine)
    wait(lambda: state(engine, "t", "version") == "1.0")
    shown = engine.show_plugin("copies")
    (record,) = site.path.glob("*.dist-info/RECORD")
    code = site.path / "walmill_copies" / "__init__.py"
    code.write_text(code.read_text().replace("'1.0'", "'other'"))
    record.write_text("walmill_copies/__init__.py,sha256=another,1\n")
    assert engine.look_for_plugins() == {"copies"}
    wait(lambda: write(engine) or state(engine, "t", "version") == "other")
    assert engine.show_plugin("copies")["hash"] != shown["hash"]
    assert engine.look_for_plugins() == set()


def test_an_upgrade_that_does_not_fit_pauses_and_names_every_problem(opened: Callable[..., Engine], site: Site) -> None:
    site.install("1.0")
    engine = opened()
    start(engine, into="y")
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 1)
    site.install("2.0.0", TWO)
    assert engine.look_for_plugins() == {"copies"}
    shown = wait(lambda: (one := engine.trigger("d", "t"))["state"] == "paused" and one)
    for word in ("into", "limit", "hosts"):
        assert word in shown["reason"]
    write(engine)
    with pytest.raises(InvalidRequest, match=r"into.*limit.*hosts|limit.*hosts.*into"):
        engine.create_trigger(database="d", name="u", plugin="copies", spec="table:cpu", arguments={"into": "y"})
    site.install("3.0.0.0", TWO.replace("limit", "bound"))  # neither does the next one
    assert engine.look_for_plugins() == {"copies"}
    shown = wait(lambda: "bound" in str((one := engine.trigger("d", "t"))["reason"]) and one)
    assert (shown["state"], "limit" in shown["reason"]) == ("paused", False)
    site.install("1.0.1")
    assert engine.look_for_plugins() == {"copies"}
    wait(lambda: state(engine, "t", "rows") == 2)
    assert engine.trigger("d", "t")["state"] == "enabled"


def test_an_upgrade_without_the_hook_pauses(opened: Callable[..., Engine], site: Site) -> None:
    site.install("1.0")
    engine = opened()
    start(engine)
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 1)
    site.install("2.0", hook="on_schedule(self, tick, ctx)")
    engine.look_for_plugins()
    shown = wait(lambda: (one := engine.trigger("d", "t"))["state"] == "paused" and one)
    assert "lacks the hook on_write" in shown["reason"]


def test_hooks_in_this_process_keep_what_was_imported(opened: Callable[..., Engine], site: Site) -> None:
    site.install("1.0")
    engine = opened()
    start(engine, "inline")
    write(engine)
    wait(lambda: state(engine, "t", "version") == "1.0")
    site.install("2.0")
    engine.look_for_plugins()
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 2)
    assert state(engine, "t", "version") == "1.0"
    plugin = engine.registry.inspect("copies")
    assert (plugin.version, plugin.status) == ("2.0", "active")
    assert "run version 1.0 until it starts again" in (plugin.problem or "")


def test_one_that_is_made_for_another_contract(opened: Callable[..., Engine], site: Site) -> None:
    site.install("1.0")
    engine = opened()
    start(engine)
    write(engine)
    wait(lambda: state(engine, "t", "rows") == 1)
    site.install("3.0.00", requires=">=7")
    assert engine.look_for_plugins() == {"copies"}
    shown = wait(lambda: (one := engine.trigger("d", "t"))["state"] == "paused" and one)
    assert "it is made for walmill-hookspecs>=7" in shown["reason"]
    (found,) = [one for one in engine.show_plugins() if one["name"] == "copies"]
    assert (found["status"], found["version"]) == ("broken", "3.0.00")
    write(engine)
    site.install("1.0")
    wait(lambda: state(engine, "t", "rows") == 2)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("walmill-hookspecs>=0.1,<0.2", None),
        ("walmill-hookspecs", None),
        ("Walmill-Hookspecs (>=0.1)", None),
        ("walmill-hookspecs>=9; extra == 'more'", None),
        ("walmill-hookspecs>=9; python_version < '3'", None),
        ("walmill-hookspecs-more>=9", None),
        ("walmill-hookspecs<0.1", "made for walmill-hookspecs<0.1, and this is 0.1.5"),
        ("walmill-hookspecs[fakes]>=1,<2", "upgrade the plugin"),
        ("walmill-hookspecs>>1", "no requirement"),
    ],
)
def test_what_a_package_says_of_the_contract(line: str, problem: str | None) -> None:
    metadata = (
        f"Metadata-Version: 2.1\nName: x\nRequires-Dist: pyarrow\nRequires-Dist: {line}\n\nRequires-Dist: in the text"
    )
    found = contract_problem(metadata, "0.1.5")
    assert found is None if problem is None else problem in (found or "")
