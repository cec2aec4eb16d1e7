"""What the contract is going to lose is told to authors and users before it is gone. Nothing is deprecated yet, so these
tests deprecate something that is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from walmill.engine import Engine
from walmill_hookspecs import ContractDeprecationWarning, hookimpl, specs
from walmill_worker.describe import Described, describe_loaded

DEPRECATE = """
from walmill_hookspecs import ContractDeprecationWarning, specs
specs.on_write.walmill_spec["warn_on_impl"] = ContractDeprecationWarning(
    "the hook on_write", since="0.2", removed="1.0", use="on_rows")
"""
SAID = "the hook on_write is deprecated since 0.2 and goes with 1.0; use on_rows"
PLUGIN = '''
"""Counts."""
from walmill_hookspecs import hookimpl

@hookimpl
def on_write(batch, ctx):
    ctx.cache.incr("rows", batch.num_rows)
'''


class Old:
    """Takes a parameter that is to go."""

    @hookimpl
    def on_request(self, request: Any, body: Any, ctx: Any) -> str:
        return "yes"


class New:
    """Does not."""

    @hookimpl
    def on_request(self, request: Any, ctx: Any) -> str:
        return "yes"


@pytest.fixture
def body_is_old(monkeypatch: pytest.MonkeyPatch) -> str:
    warning = ContractDeprecationWarning("the parameter body of on_request", since="0.3", removed="1.0", use="request")
    monkeypatch.setitem(specs.on_request.walmill_spec, "warn_on_impl_args", {"body": warning})
    return str(warning)


def test_a_parameter_is_told_to_those_who_take_it(body_is_old: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe_loaded(Old, "old").deprecated == (body_is_old,)
        assert describe_loaded(New, "new").deprecated == ()
    assert "since 0.3" in body_is_old


def test_it_crosses_the_border(body_is_old: str) -> None:
    found = describe_loaded(Old, "old")
    assert Described.from_plain(json.loads(json.dumps(found.to_plain()))) == found


def test_it_is_shown_and_goes_on_working(engine: Engine, body_is_old: str) -> None:
    engine.register(Old, name="old")
    assert engine.show_plugin("old")["deprecated"] == [body_is_old]
    shown = engine.query("SELECT name, deprecated FROM system.plugins", database="_internal").to_pylist()
    assert {"name": "old", "deprecated": body_is_old} in shown
    engine.create_trigger(database="d", name="t", plugin="old", spec="request:x")
    assert engine.trigger("d", "t")["state"] == "enabled"


@pytest.fixture
def command(tmp_path: Path) -> Any:
    """Runs `walmill` where on_write is deprecated."""
    (tmp_path / "sitecustomize.py").write_text(DEPRECATE)
    (tmp_path / "count.py").write_text(PLUGIN)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": "", "NO_COLOR": "1", "COLUMNS": "300"}
    environ["WALMILL_PLUGIN_DIR"] = str(tmp_path / "plugins")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "count.py").write_text(PLUGIN)

    def run(*arguments: str) -> Any:
        call = [sys.executable, "-m", "walmill", *arguments]
        done = subprocess.run(call, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=200, check=False)
        return SimpleNamespace(code=done.returncode, said=done.stdout + done.stderr)

    return run


def test_the_command_line_says_it(command: Any) -> None:
    listed = command("plugin", "list", "--strict")
    assert listed.code == 0, listed.said
    assert SAID in listed.said
    shown = command("plugin", "show", "count")
    assert SAID in shown.said


def test_plugin_check_makes_an_error_of_it(command: Any) -> None:
    done = command("plugin", "check", "./count.py")
    assert done.code == 1
    assert SAID in done.said
    assert "test_nothing_that_it_uses_is_deprecated" in done.said
