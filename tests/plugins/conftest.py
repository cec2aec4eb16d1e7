"""An engine with a plugin directory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from walmill import Engine

REQUEST = '''
"""Answers {version}."""
from walmill_hookspecs import hookimpl

@hookimpl
def on_request(request, ctx):
    return {{"version": {version}}}
'''
COPY = """
from walmill_hookspecs import hookimpl

VERSION = {version}

@hookimpl
def on_write(batch, ctx):
    ctx.cache.incr("rows", batch.num_rows)
    ctx.write(f"seen version={{VERSION}}i,first={{batch.first_sequence}}i,other={version}i")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "plugins"
    made.mkdir()
    return made


@pytest.fixture
def opened(tmp_path: Path, folder: Path) -> Iterator[Callable[..., Engine]]:
    """Opens engines on the same directories, one after the other; the last one is closed."""
    engines: list[Engine] = []

    def make(**more: Any) -> Engine:
        if engines:
            engines.pop().close()
        engines.append(Engine.open(data_dir=tmp_path / "data", plugin_dir=folder, shutdown_timeout=5.0, **more))
        return weakref.proxy(engines[0])  # type: ignore[no-any-return] # pytest keeps what a test had for longer than it

    yield make
    while engines:
        engines.pop().close()


def statuses(engine: Engine) -> list[str]:
    """How runs have ended, each way once, as far as they are recorded."""
    try:
        found = engine.query("SELECT DISTINCT status FROM runs", database="_internal")
    except LookupError:
        return []
    return [str(one) for one in found.column(0).to_pylist()]
