"""Plugins with environments of their own: from Git and from projects, two versions of one package, upgrades and ways back."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.environments.conftest import Repository, project
from tests.isolation.conftest import wait

from walmill import Engine
from walmill.dispatch.requests import Exchange
from walmill.environments.tool import InstallFailed
from walmill.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from walmill_hookspecs import Request, hookimpl

pytestmark = pytest.mark.slow


def ask(engine: Engine, trigger: str) -> Any:
    number = engine.view().catalog.trigger("d", trigger).id

    async def answer() -> bytes:
        return (await engine.answer(number, Exchange(Request(method="GET", path=trigger)))).body

    return json.loads(asyncio.run(answer()))


def trigger(engine: Engine, name: str, plugin: str | None = None) -> None:
    engine.create_trigger(database="d", name=name, plugin=plugin or name, spec=f"request:{name}")


def nobody(line: str) -> None:
    del line


def test_two_plugins_answer_with_two_versions_of_one_package(opened: Callable[..., Engine], tmp_path: Path) -> None:
    engine = opened()
    for name, packaging in (("older", "23.2"), ("newer", "24.0")):
        said: list[str] = []
        made = engine.install_plugin(str(project(tmp_path / name, name, packaging=packaging)), said.append)
        assert (made["name"], made["version"], made["plugins"]) == (name, "1.0", [name])
        assert f"packaging=={packaging}" in made["packages"]
        assert any("packaging" in line for line in said)
        trigger(engine, name)
    for _ in range(2):
        assert ask(engine, "older")["packaging"] == "23.2"
        assert ask(engine, "newer")["packaging"] == "24.0"
        assert Path(ask(engine, "older")["prefix"]).parent == tmp_path / "data" / "environments" / "older"
        engine = opened()  # and after a restart
    shown = engine.show_plugin("older")
    assert shown["location"] == "environment older"
    assert [Path(one["file_path"]).name for one in shown["files"]] == ["__init__.py"]
    with pytest.raises(InvalidRequest, match="its executor is 'process'"):
        engine.create_trigger(database="d", name="x", plugin="older", spec="request:y", executor="inline")
    with pytest.raises(Conflict, match="installed already"):
        engine.install_plugin(str(tmp_path / "older"), nobody)
    with pytest.raises(Conflict, match="is used by"):
        engine.remove_plugin("older")
    engine.remove_plugin("older", force=True)
    assert not (tmp_path / "data" / "environments" / "older").exists()
    assert engine.trigger("d", "older")["state"] == "paused"
    with pytest.raises(Unavailable):
        ask(engine, "older")
    assert ask(engine, "newer")["packaging"] == "24.0"
    engine.install_plugin(str(tmp_path / "older"), nobody)
    wait(lambda: engine.trigger("d", "older")["state"] == "enabled")
    assert ask(engine, "older")["packaging"] == "23.2"


def test_a_directory_of_wheels_is_enough(
    opened: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=project(tmp_path / "one", "one"), check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "pip")], check=True)  # uv downloads nothing
    needed = [
        "packaging==24.0",
        "pyarrow",
        "numpy",
        "msgpack",
        "pluggy",
        "attrs",
    ]  # as docs/how-to/install-plugins.md says
    download = [str(tmp_path / "pip" / "bin" / "pip"), "download", "--quiet", "-d", str(wheels), *needed]
    subprocess.run(download, check=True, capture_output=True)
    for name, value in (("UV_OFFLINE", "1"), ("UV_CACHE_DIR", str(tmp_path / "cache")), ("PIP_NO_INDEX", "1")):
        monkeypatch.setenv(name, value)
    engine = opened()
    made = engine.install_plugin("walmill-one", nobody, wheels=str(wheels))
    assert (made["version"], made["plugins"]) == ("1.0", ["one"])
    trigger(engine, "one")
    assert ask(engine, "one")["packaging"] == "24.0"
    with pytest.raises(InstallFailed):
        engine.install_plugin("walmill-another", nobody, wheels=str(wheels))


def test_a_branch_that_moves_and_a_tag_that_is_set_anew(
    opened: Callable[..., Engine], repository: Repository, tmp_path: Path
) -> None:
    project(repository.work / "plugins" / "one", "one", code=1)
    first = repository.commit("refs/heads/main", "refs/tags/v1")
    engine = opened()
    for name, ref in (("one", "main"),):
        made = engine.install_plugin(f"git+{repository.url}@{ref}#subdirectory=plugins/one", nobody)
        assert (made["name"], made["commit"], made["plugins"]) == (name, first, ["one"])
    trigger(engine, "one")
    assert ask(engine, "one")["code"] == 1
    hashes = [engine.show_plugin("one")["hash"]]
    assert engine.outdated_plugins(nobody) == []

    project(repository.work / "plugins" / "one", "one", code=2)
    second = repository.commit("refs/heads/main", "refs/tags/v1")
    [row] = engine.outdated_plugins(nobody)
    assert (row["name"], row["current"], row["newest"]) == ("one", first, second)
    assert ask(engine, "one")["code"] == 1  # what runs does not change by itself
    engine = opened()
    assert ask(engine, "one")["code"] == 1

    made = engine.upgrade_plugin("one", nobody)
    assert (made["changed"], made["commit"]) == (True, second)
    wait(lambda: ask(engine, "one")["code"] == 2)
    hashes.append(engine.show_plugin("one")["hash"])
    assert engine.upgrade_plugin("one", nobody)["changed"] is False
    back = engine.rollback_plugin("one")
    assert back["commit"] == first
    wait(lambda: ask(engine, "one")["code"] == 1)
    hashes.append(engine.show_plugin("one")["hash"])
    assert hashes[0] == hashes[2] != hashes[1]
    with pytest.raises(NotFound, match="no older version"):
        engine.rollback_plugin("one")
    sql = "SELECT DISTINCT plugin_hash FROM runs WHERE hook = 'on_request'"
    wait(lambda: set(engine.query(sql, database="_internal").column(0).to_pylist()) == set(hashes))

    # the tag was set anew as well; a commit that has no name any more is still a commit
    engine.remove_plugin("one", force=True)
    assert engine.install_plugin(f"git+{repository.url}@v1#subdirectory=plugins/one", nobody)["commit"] == second
    engine.remove_plugin("one", force=True)
    made = engine.install_plugin(f"git+{repository.url}@{first}#subdirectory=plugins/one", nobody)
    assert made["commit"] == first
    wait(lambda: ask(engine, "one")["code"] == 1)


def test_the_lock_file_makes_another_machine_the_same(
    opened: Callable[..., Engine], repository: Repository, tmp_path: Path
) -> None:
    project(repository.work, "one", code=1)
    first = repository.commit("refs/heads/main")
    engine = opened()
    name = engine.install_plugin(f"git+{repository.url}", nobody)["name"]
    there = engine.show_plugin("one")["hash"]
    project(repository.work, "one", code=2)
    repository.commit("refs/heads/main")
    lock = (tmp_path / "data" / "walmill.lock").read_text()
    engine = opened("other")
    with pytest.raises(InvalidRequest, match="no lock file"):
        engine.sync_plugins(nobody)
    (tmp_path / "other" / "walmill.lock").write_text(lock)
    [made] = engine.sync_plugins(nobody)
    assert (made["name"], made["commit"], engine.show_plugin("one")["hash"]) == (name, first, there)
    assert (tmp_path / "other" / "walmill.lock").read_text() == lock
    assert engine.sync_plugins(nobody) == []
    trigger(engine, "one")
    assert ask(engine, "one")["code"] == 1

    # an environment of another version of Walmill is broken until it is made anew
    about = next((tmp_path / "other" / "environments").glob("*/*/walmill.json"))
    about.write_text(json.dumps({**json.loads(about.read_text()), "protocol": 0}))
    engine = opened("other")
    shown = engine.show_plugin("one")
    assert (shown["status"], "walmill plugin sync" in shown["cause"]) == ("broken", True)
    assert engine.sync_plugins(nobody)[0]["commit"] == first
    wait(lambda: ask(engine, "one")["code"] == 1)

    # what the lock file says is what is installed, or nothing is
    bad = json.loads(lock)
    bad["plugins"][name]["packages"][0]["hashes"] = ["sha256:" + "0" * 64]
    shutil.rmtree(tmp_path / "other" / "environments" / name)
    (tmp_path / "other" / "walmill.lock").write_text(json.dumps(bad))
    with pytest.raises(InstallFailed, match=r"(?i)hash"):
        engine.sync_plugins(nobody)
    assert not (tmp_path / "other" / "environments" / name).exists()


def test_the_way_back_leads_to_what_was_used_before(opened: Callable[..., Engine], tmp_path: Path) -> None:
    """A version that was taken back is not what the next way back leads to."""
    engine = opened()
    place = project(tmp_path / "one", "one", code=1)
    engine.install_plugin(str(place), nobody)
    trigger(engine, "one")
    for code in (2, 3):
        project(place, "one", code=code)
        engine.upgrade_plugin("one", nobody)
        wait(lambda code=code: ask(engine, "one")["code"] == code)
        engine.rollback_plugin("one")
        wait(lambda: ask(engine, "one")["code"] == 1)
    # what a killed installation left is no version
    (tmp_path / "data" / "environments" / "one" / "1").mkdir()
    with pytest.raises(NotFound, match="no older version"):
        engine.rollback_plugin("one")
    project(place, "one", code=4)
    engine.upgrade_plugin("one", nobody)
    assert not (tmp_path / "data" / "environments" / "one" / "1").exists()


def test_the_lock_file_keeps_what_is_not_installed_yet(opened: Callable[..., Engine], tmp_path: Path) -> None:
    engine = opened()
    for name in ("one", "two"):
        engine.install_plugin(str(project(tmp_path / name, name)), nobody)
    lock = tmp_path / "data" / "walmill.lock"
    declared = json.loads(lock.read_text())["plugins"]
    engine = opened("other")
    other = tmp_path / "other" / "walmill.lock"
    other.write_text(lock.read_text())
    project(tmp_path / "two", "two", code=2)  # it is not any more what was locked
    with pytest.raises(InstallFailed, match="has other files than the lock file says"):
        engine.sync_plugins(nobody)
    assert engine.registry.names() == ["one"]
    engine.install_plugin(str(project(tmp_path / "three", "three")), nobody)
    found = json.loads(other.read_text())["plugins"]
    assert {name: found[name] for name in declared} == declared
    assert set(found) == {"one", "two", "three"}
    project(tmp_path / "two", "two")
    assert [made["name"] for made in engine.sync_plugins(nobody)] == ["two"]
    other.write_text("{")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        engine.install_plugin(str(project(tmp_path / "four", "four")), nobody)
    assert other.read_text() == "{"


def test_what_cannot_be_read_can_be_removed(opened: Callable[..., Engine], tmp_path: Path) -> None:
    engine = opened()
    engine.install_plugin(str(project(tmp_path / "some-place", "one")), nobody)
    assert engine.upgrade_plugin("one", nobody)["name"] == "some-place"  # by the name of its plugin as well
    for about in (tmp_path / "data" / "environments" / "some-place").glob("*/walmill.json"):
        about.write_text("{")
    engine = opened()
    assert engine.registry.names() == []
    engine.remove_plugin("some-place")
    assert json.loads((tmp_path / "data" / "walmill.lock").read_text())["plugins"] == {}
    with pytest.raises(NotFound, match="there is no plugin 'some-place'"):
        engine.remove_plugin("some-place")


def test_a_repository_without_projects(opened: Callable[..., Engine], repository: Repository) -> None:
    code = (
        "from walmill_hookspecs import hookimpl\nimport packaging\n"
        "@hookimpl\ndef on_request(request, ctx):\n    return [packaging.__version__]\n"
    )
    (repository.work / "one.py").write_text(code)
    (repository.work / "pack").mkdir()
    several = "from .near import VALUE\n" + code.replace("packaging.__version__]", "VALUE]")
    (repository.work / "pack" / "__init__.py").write_text(several)
    (repository.work / "pack" / "near.py").write_text("VALUE = 5")
    (repository.work / "requirements.txt").write_text("# what it needs\npackaging==24.0  # this\n")
    repository.commit("refs/heads/main")
    engine = opened()
    assert engine.install_plugin(f"git+{repository.url}", nobody)["plugins"] == ["one", "pack"]
    trigger(engine, "one")
    trigger(engine, "pack")
    assert (ask(engine, "one"), ask(engine, "pack")) == (["24.0"], [5])
    engine = opened()
    assert (ask(engine, "one"), ask(engine, "pack")) == (["24.0"], [5])


class Taken:
    @hookimpl
    def on_request(self, request: Request, ctx: Any) -> str:
        return "taken"


def test_what_cannot_be_installed_leaves_nothing(
    opened: Callable[..., Engine], repository: Repository, tmp_path: Path
) -> None:
    engine = opened()
    project(repository.work, "one")
    repository.commit("refs/heads/main")
    broken = project(tmp_path / "broken", "broken")
    (broken / "src" / "walmill_broken" / "__init__.py").write_text("import nothing_of_that_name")
    none = project(tmp_path / "none", "none")
    (none / "pyproject.toml").write_text(
        (none / "pyproject.toml").read_text().replace("entry-points.walmill", "entry-points.x")
    )
    new = project(tmp_path / "new", "new")
    (new / "pyproject.toml").write_text((new / "pyproject.toml").read_text().replace(">=0.1,<0.2", ">=1,<2"))
    engine.register(Taken(), name="taken")
    taken = project(tmp_path / "taken", "taken")
    for source, error, said in (
        (f"git+{repository.url}@nowhere", InvalidRequest, "no branch, tag or commit 'nowhere'"),
        (f"git+{repository.url}#subdirectory=nowhere", InvalidRequest, "no directory 'nowhere'"),
        (f"git+file://{tmp_path}/no-repository", InstallFailed, "git ended"),
        ("walmill-there-is-no-such-plugin", InstallFailed, "walmill-there-is-no-such-plugin"),
        (str(broken), InstallFailed, "nothing_of_that_name"),
        (str(none), InvalidRequest, "has no plugin"),
        (str(new), InstallFailed, "walmill-hookspecs"),
        (str(taken), Conflict, "is there already"),
        ("packaging==24.0", InvalidRequest, "has no plugin"),
    ):
        with pytest.raises(error, match=said):
            engine.install_plugin(source, nobody)
    left = [one for one in (tmp_path / "data" / "environments").iterdir() if not one.name.startswith(".")]
    assert left == []
    assert engine.registry.names() == ["taken"]
    for call in (engine.rollback_plugin, engine.remove_plugin, lambda name: engine.upgrade_plugin(name, nobody)):
        with pytest.raises(NotFound):
            call("nothing")


def test_a_failed_upgrade_changes_nothing(opened: Callable[..., Engine], tmp_path: Path) -> None:
    engine = opened()
    place = project(tmp_path / "one", "one")
    engine.install_plugin(str(place), nobody)
    trigger(engine, "one")
    project(place, "one", packaging="0.0.1")
    with pytest.raises(InstallFailed, match="packaging"):
        engine.upgrade_plugin("one", nobody)
    assert ask(engine, "one")["code"] == 1
    assert (
        len(list((tmp_path / "data" / "environments" / "one").iterdir())) == 2
    )  # and the name of the one that is used
    project(place, "one", code=3)
    engine.upgrade_plugin("one", nobody)
    wait(lambda: ask(engine, "one")["code"] == 3)


def test_policies(opened: Callable[..., Engine], repository: Repository, tmp_path: Path) -> None:
    project(repository.work, "one")
    repository.commit("refs/heads/main")
    engine = opened(package_installs="disabled")
    for call in (
        lambda: engine.install_plugin("walmill-x", nobody),
        lambda: engine.install_packages(["walmill-x"], nobody),
    ):
        with pytest.raises(Forbidden, match="package_installs is disabled"):
            call()
    engine = opened(package_installs="allowlist", package_allowlist=["Walmill_X", f"file://{tmp_path}/repo"])
    for source in ("walmill-y", f"git+{repository.url}x", str(tmp_path)):
        with pytest.raises(Forbidden, match="may not be installed"):
            engine.install_plugin(source, nobody)
    with pytest.raises(InstallFailed):
        engine.install_plugin("walmill.x==0.0", nobody)  # allowed, and not there
    assert engine.install_plugin(f"git+{repository.url}", nobody)["plugins"] == ["one"]


def test_without_a_data_directory() -> None:
    with Engine.open(discover_plugins=False) as engine, pytest.raises(InvalidRequest, match="below the data directory"):
        engine.install_plugin("walmill-x", nobody)
