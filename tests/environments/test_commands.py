"""Plugins with environments of their own, from the command line, on a server of its own process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Said, start, walmill  # noqa: F401 - fixtures
from tests.environments.conftest import Repository, project

pytestmark = pytest.mark.slow

Command = Callable[..., Said]


@pytest.fixture
def there(
    start: Callable[..., object],  # noqa: F811
    walmill: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    server = start()
    monkeypatch.setenv("WALMILL_HOST_URL", server.url)  # type: ignore[attr-defined]
    return walmill


def good(said: Said) -> str:
    assert said.code == 0, said
    return said.out


def test_from_installation_to_removal(there: Command, repository: Repository, tmp_path: Path) -> None:
    project(repository.work / "p", "one", code=1)
    first = repository.commit("refs/heads/main")
    said = there("plugin", "install", f"{repository.url}#subdirectory=p")
    assert f"Plugin one installed (1.0 commit {first[:12]})" in good(said)
    assert "packaging==24.0" in said.err
    good(there("create", "trigger", "-d", "d", "--plugin", "one", "--trigger-spec", "request:one", "t"))
    assert json.loads(good(there("run", "trigger", "-d", "d", "t")))["code"] == 1
    assert "Nothing is outdated" in good(there("plugin", "outdated"))
    project(repository.work / "p", "one", code=2)
    second = repository.commit("refs/heads/main")
    [row] = json.loads(good(there("plugin", "outdated", "--format", "json")))
    assert (row["current"], row["newest"]) == (first, second)
    assert f"p is now 1.0 commit {second[:12]}" in good(there("plugin", "upgrade", "--all"))
    until = time.monotonic() + 60
    while json.loads(good(there("run", "trigger", "-d", "d", "t")))["code"] != 2:
        assert time.monotonic() < until
    assert f"p is 1.0 commit {first[:12]} again" in good(there("plugin", "rollback", "p"))
    assert "Everything is as walmill.lock says." in good(there("plugin", "sync"))
    shown = good(there("show", "plugin", "one"))
    assert "environment p" in shown
    assert "d.t" in shown
    again = there("plugin", "install", f"{repository.url}#subdirectory=p")
    assert (again.code, "is installed already" in again.err) == (1, True)
    assert "is used by d.t" in there("plugin", "remove", "p").err
    assert "removed successfully" in good(there("plugin", "remove", "p", "--force"))
    failed = there("plugin", "install", "walmill-there-is-no-such-plugin")
    assert (failed.code, "walmill-there-is-no-such-plugin" in failed.err) == (1, True)
    assert there("plugin", "upgrade").code == 2
    missing = there("install", "package", "packaging", "--wheels", str(tmp_path / "nowhere"))
    assert (missing.code, "there is no directory" in missing.err) == (1, True)
