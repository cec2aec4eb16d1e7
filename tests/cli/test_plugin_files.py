"""Plugins of the plugin directory, from the command line: uploads, updates, removal, and a start without any."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Command, Server

CODE = '''"""Counts."""
from walmill_hookspecs import hookimpl

@hookimpl
def on_write(batch, ctx):
    ctx.write("counts version={version}i")
'''


@pytest.fixture
def server(start: Callable[..., Server], walmill: Command, monkeypatch: pytest.MonkeyPatch) -> Server:
    del walmill  # which clears the environment
    made = start("--plugin-dir", "plugins")
    monkeypatch.setenv("WALMILL_HOST_URL", made.url)
    return made


def wait_for(walmill: Command, *command: str, says: str) -> None:
    until = time.monotonic() + 60
    while says not in (said := walmill(*command)).out:
        assert time.monotonic() < until, said
        time.sleep(0.05)


def test_from_upload_to_removal(walmill: Command, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "count.py"
    file.write_text(CODE.format(version=1))
    made = walmill("create", "trigger", "-d", "d", "--trigger-spec", "table:cpu", "--upload", "--path", "count.py", "t")
    assert made.code == 0, made
    assert "Plugin count uploaded successfully" in made.out
    assert "Trigger t created successfully" in made.out
    assert (tmp_path / "plugins" / "count.py").read_text() == file.read_text()
    walmill("write", "-d", "d", "cpu v=1")
    wait_for(walmill, "query", "-d", "d", "SELECT version FROM counts", "--format", "csv", says="1")

    file.write_text(CODE.format(version=2))
    assert "Trigger t updated successfully" in walmill("update", "trigger", "-d", "d", "-t", "t", "-p", "count.py").out
    wait_for(walmill, "show", "plugin", "count", says="active")
    walmill("write", "-d", "d", "cpu v=2")
    wait_for(walmill, "query", "-d", "d", "SELECT max(version) AS m FROM counts", "--format", "csv", says="2")

    file.write_text("def (")
    bad = walmill("plugin", "upload", "count.py")
    assert bad.code == 1
    assert "the version before it is used: SyntaxError" in bad.err
    shown = json.loads(walmill("show", "plugin", "count", "--format", "json").out)
    assert (shown["status"], shown["triggers"], shown["summary"]) == ("active", ["d.t"], "Counts.")
    pretty = walmill("show", "plugin", "count")
    assert "on_write(batch, ctx)" in pretty.out
    assert "SyntaxError" in pretty.out
    assert "d.t" in walmill("show", "plugins").out

    used = walmill("plugin", "remove", "count")
    assert (used.code, "is used by d.t" in used.err) == (1, True)
    assert walmill("plugin", "remove", "count", "--force").code == 0
    assert "is gone" in walmill("show", "triggers").out
    assert walmill("plugin", "remove", "count").code == 1


def test_a_directory(walmill: Command, server: Server, tmp_path: Path) -> None:
    package = tmp_path / "mine" / "several"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .near import VALUE\n" + CODE.replace("{version}", '" f"{VALUE}'))
    (package / "near.py").write_text("VALUE = 4")
    (package / "table.bin").write_bytes(b"\xff\0")
    assert "Plugin several uploaded" in walmill("plugin", "upload", "mine/several").out
    assert (tmp_path / "plugins" / "several" / "table.bin").read_bytes() == b"\xff\0"
    assert walmill("plugin", "upload", "mine/several", "--name", "other").code == 0
    assert walmill("create", "trigger", "-d", "d", "--trigger-spec", "table:cpu", "--path", "several", "t").code == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("plugin", "upload", "nowhere.py"), "File not found: nowhere.py"),
        (("plugin", "upload", "text.txt"), "is no Python file"),
        (("plugin", "upload", "."), "neither an __init__.py"),
        (("plugin", "upload", "good.py", "--name", "downsample"), "by another name"),
        (("plugin", "upload", "good.py", "--name", "../x"), "cannot be one of the plugin directory"),
        (("plugin", "remove", "downsample"), "pip uninstall walmill-downsample"),
        (("plugin", "remove", "nothing"), "there is no plugin 'nothing'"),
        (("show", "plugin", "nothing"), "there is no plugin 'nothing'"),
        (("update", "trigger", "-d", "d", "-t", "t", "-p", "good.py"), "there is no database 'd'"),
        (("create", "trigger", "-d", "d", "--trigger-spec", "table:x", "t"), "--plugin or with --path"),
        (
            ("create", "trigger", "-d", "d", "--trigger-spec", "table:x", "--upload", "--plugin", "a", "t"),
            "--upload needs",
        ),
    ],
)
def test_what_is_wrong_is_a_sentence(
    walmill: Command, server: Server, tmp_path: Path, command: tuple[str, ...], said: str
) -> None:
    (tmp_path / "text.txt").touch()
    (tmp_path / "good.py").write_text(CODE.format(version=1))
    failed = walmill(*command)
    assert failed.code in (1, 2)
    assert said in failed.err
    assert not list((tmp_path / "plugins").glob("*"))


def test_the_list_of_this_machine_has_the_directory(
    walmill: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "count.py").write_text(CODE.format(version=1))
    (tmp_path / "plugins" / "bad.py").write_text("def (")
    monkeypatch.setenv("WALMILL_PLUGIN_DIR", "plugins")

    def listed() -> dict[str, Any]:
        return {one["name"]: one for one in json.loads(walmill("plugin", "list", "--format", "json").out)}

    found = listed()
    assert (found["count"]["status"], found["bad"]["status"], found["downsample"]["status"]) == (
        "active",
        "broken",
        "active",
    )
    assert found["count"]["parameters"] == {"on_write": ["batch", "ctx"]}
    assert walmill("plugin", "list", "--strict").code == 1
    assert "Counts." in walmill("plugin", "show", "count").out
    monkeypatch.setenv("WALMILL_LOAD_PLUGINS", "count,chart")
    monkeypatch.setenv("WALMILL_NO_PLUGIN", "chart")
    assert {name: one["status"] for name, one in listed().items()} == {
        **dict.fromkeys(found, "disabled"),
        "count": "active",
    }


def test_a_start_in_safe_mode(
    start: Callable[..., Server], walmill: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "count.py").write_text(CODE.format(version=1))
    server = start("--plugin-dir", "plugins")
    monkeypatch.setenv("WALMILL_HOST_URL", server.url)
    assert walmill("create", "trigger", "-d", "d", "--plugin", "count", "--trigger-spec", "table:cpu", "t").code == 0
    assert server.end() == 0
    server = start("--plugin-dir", "plugins", "--safe-mode")
    monkeypatch.setenv("WALMILL_HOST_URL", server.url)
    assert "is disabled by the server's settings" in walmill("show", "trigger", "-d", "d", "t").out
    assert walmill("write", "-d", "d", "cpu v=1").code == 0
    assert server.end() == 0
    server = start("--plugin-dir", "plugins")
    monkeypatch.setenv("WALMILL_HOST_URL", server.url)
    wait_for(
        walmill, "query", "-d", "d", "SELECT version FROM counts", "--format", "csv", says="1"
    )  # nothing was skipped
    assert server.end() == 0


def test_what_a_plugin_suggests_is_enabled(walmill: Command, server: Server, tmp_path: Path) -> None:
    assert "chart (request:chart): pictures at /api/v3/engine/chart" in walmill("show", "plugin", "chart").out
    assert "Trigger chart created successfully" in walmill("plugin", "enable", "chart", "-d", "d").out
    assert "Trigger chart is there already" in walmill("plugin", "enable", "chart", "-d", "d").out
    for command, said in (
        (("plugin", "enable", "downsample", "-d", "d"), "suggests no trigger"),
        (("plugin", "enable", "chart", "-d", "d", "--only", "x"), "it suggests chart"),
        (("plugin", "enable", "nothing", "-d", "d"), "there is no plugin 'nothing'"),
        (("plugin", "enable", "chart", "-d", "other", "--arg", "max=1"), "there is no argument 'max'"),
    ):
        failed = walmill(*command)
        assert (failed.code, said in failed.err) == (1, True), failed
