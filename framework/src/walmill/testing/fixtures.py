"""Fixtures of pytest for who tests a plugin on a real engine; pytest finds them where walmill is installed.

def test_it(engine, clock):
    engine.register(MyPlugin, name="mine")
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from walmill.engine import Engine
    from walmill.testing.clock import ManualClock

START_NS = 1_767_225_600_000_000_000
"""Where the clock of the tests stands first: 2026-01-01."""


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test moves on: `clock.advance(ns)`."""
    from walmill.testing.clock import ManualClock

    return ManualClock(START_NS)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in memory, with the installed plugins; its time is that of `clock`, if the test asks for that as well."""
    from walmill.engine import Engine
    from walmill.options import EngineOptions

    options = EngineOptions(shutdown_timeout=5.0)
    if "clock" in request.fixturenames:
        options = EngineOptions(shutdown_timeout=5.0, clock=request.getfixturevalue("clock"))
    with Engine.open(options) as opened:
        yield opened


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    """A client of the engine's HTTP interface, which needs no token."""
    from starlette.testclient import TestClient

    from walmill.http.app import create_app

    with TestClient(create_app(engine, without_auth=True, close_engine=False)) as opened:
        yield opened
