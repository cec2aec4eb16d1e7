"""`walmill plugin check` and `walmill plugin dev`."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from tests.cli.conftest import WALMILL, Command, clean_environment

pytestmark = pytest.mark.slow

GOOD = '''
"""Counts."""
from walmill_hookspecs import hookimpl

@hookimpl
def on_write(batch, ctx):
    ctx.write(f"counts rows={batch.num_rows}i")
'''


def check(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*WALMILL, "plugin", "check", *arguments]
    environ = clean_environment()
    return subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=300, check=False)


def test_a_good_plugin_and_a_bad_one(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    said = check(tmp_path, "./good.py")
    assert said.returncode == 0, said.stdout
    assert "passed" in said.stdout
    first = """next(batch.tables['cpu'].rows())['usage']"""
    (tmp_path / "bad.py").write_text(GOOD.replace("{batch.num_rows}i", "{" + first + "}"))
    said = check(tmp_path, "./bad.py", "-v")
    assert said.returncode == 1
    assert "test_write_rows_of_another_table[process] FAILED" in said.stdout


def test_deprecations_are_errors(tmp_path: Path) -> None:
    warns = "    import warnings\n    warnings.warn('old', DeprecationWarning)\n    ctx.write"
    (tmp_path / "old.py").write_text(GOOD.replace("    ctx.write", warns))
    said = check(tmp_path, "./old.py")
    assert (said.returncode, "DeprecationWarning: old" in said.stdout) == (1, True)


def test_what_cannot_be_checked_is_a_sentence(walmill: Command) -> None:
    for plugin, why in (("nothing", "there is no plugin 'nothing'"), ("./nothing.py", "there is no file")):
        said = walmill("plugin", "check", plugin)
        assert (said.code, why in said.err) == (1, True), said


def test_dev_runs_what_is_saved(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    command = [*WALMILL, "plugin", "dev", "./mine.py", "--lp", "cpu usage=1 1"]
    environ = {**clean_environment(), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=PIPE, stderr=STDOUT, text=True) as process:
        assert process.stdout is not None

        def until(text: str) -> None:
            said = []
            for line in process.stdout or ():
                said.append(line)
                if text in line:
                    return
            raise AssertionError("".join(said))

        try:
            until("counts rows=1i")
            until("is watched")
            file.write_text(GOOD.replace("counts", "other"))
            until("other rows=1i")
            until("is watched")
            file.write_text("def (")
            until("SyntaxError")
            until("is watched")
            file.write_text(GOOD.replace("counts", "third"))
            until("third rows=1i")
            until("is watched")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
