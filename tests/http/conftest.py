from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from walmill import Engine, create_app
from walmill.options import EngineOptions


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine.open(EngineOptions(discover_plugins=False, shutdown_timeout=5.0)) as made:
        yield made


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    app = create_app(engine, without_auth=True, close_engine=False, body_limit=100_000)
    with TestClient(app) as made:
        yield made
