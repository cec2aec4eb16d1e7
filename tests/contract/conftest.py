"""An engine in memory, and waiting without sleeping for luck."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from walmill.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    opened = Engine.open(discover_plugins=False)
    yield opened
    opened.close(5.0)


@pytest.fixture
def wait() -> Callable[[Callable[[], object]], None]:
    def until(condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, "it did not happen within a minute"
            time.sleep(0.005)

    return until
