"""The end of the mill leaves nobody waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from walmill.engine import Engine
from walmill.errors import Unavailable

Wait = Callable[[Callable[[], object]], None]


async def never() -> None:
    """Holds out against being cancelled, as what has to clean up may."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(3600)


def test_whoever_waits_for_what_the_end_leaves_undone_is_told(wait: Wait) -> None:
    engine = Engine.open(discover_plugins=False)
    mill = engine._mill
    told: list[BaseException] = []

    def ask() -> None:
        try:
            mill.run(never()).result()
        except Unavailable as error:
            told.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait(lambda: mill._thread._asked)
    engine.close(0.1)
    thread.join(10)
    assert not thread.is_alive()
    assert [str(error) for error in told] == ["the engine is closed"]
    coroutine = never()
    with pytest.raises((RuntimeError, Unavailable)):
        mill.run(coroutine).result(5)
    coroutine.close()
