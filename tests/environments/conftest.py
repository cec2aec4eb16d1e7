"""Repositories and projects of plugins, made for a test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from walmill import Engine

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "walmill-{name}"
version = "{version}"
dependencies = ["walmill-hookspecs>=0.1,<0.2", {needs}]
[project.entry-points.walmill]
{name} = "walmill_{name}"

[tool.uv.sources]
walmill-hookspecs = {{ workspace = true }}
"""
CODE = '''
"""Answers."""
import sys
import packaging
from walmill_hookspecs import hookimpl

@hookimpl
def on_request(request, ctx):
    return {{"packaging": packaging.__version__, "code": {code}, "prefix": sys.prefix}}
'''


def project(place: Path, name: str, *, version: str = "1.0", code: int = 1, packaging: str = "24.0") -> Path:
    """A project of a plugin that answers which version of a package it has."""
    source = place / "src" / f"walmill_{name}"
    source.mkdir(parents=True, exist_ok=True)
    needs = f'"packaging=={packaging}"'
    (place / "pyproject.toml").write_text(PROJECT.format(name=name, version=version, needs=needs))
    (source / "__init__.py").write_text(CODE.format(code=code))
    return place


class Repository:
    """A bare repository, and a clone in which it is changed."""

    def __init__(self, place: Path) -> None:
        self.bare = place / "repo.git"
        self.work = place / "work"
        subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(self.bare)], check=True)
        self.work.mkdir()
        self.git("init", "--quiet", "-b", "main")
        self.git("remote", "add", "origin", str(self.bare))

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *arguments], cwd=self.work, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, *refs: str) -> str:
        """Commits all that is there, and pushes it to these branches and tags."""
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", "more")
        for ref in refs:
            self.git("push", "--quiet", "--force", "origin", f"HEAD:{ref}")
        return self.git("rev-parse", "HEAD")

    @property
    def url(self) -> str:
        return f"file://{self.bare}"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Opens engines on a directory, one after the other; the last one is closed."""
    engines: list[Engine] = []

    def make(name: str = "data", **more: object) -> Engine:
        if engines:
            engines.pop().close()
        engines.append(Engine.open(data_dir=tmp_path / name, shutdown_timeout=5.0, discover_plugins=False, **more))
        return engines[0]

    yield make
    while engines:
        engines.pop().close()
