"""Plugins for worker processes: installed as a distribution on the path, imported by workers only."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from walmill.engine import Engine

PLUGINS = Path(__file__).parent / "plugins"
NAMES = {
    "trouble": "trouble:Trouble",
    "asynchronous": "trouble:Asynchronous",
    "slow": "trouble:Slow",
    "broken-worker": "trouble:Broken",
    "reader": "readers:Reader",
    "async-reader": "readers:AsyncReader",
}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on the path with the plugins' module and the description of a distribution."""
    made = tmp_path_factory.mktemp("isolated")
    for module in ("trouble.py", "readers.py"):
        (made / module).write_text((PLUGINS / module).read_text())
    about = made / "walmill_test_trouble-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: walmill-test-trouble\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[walmill]\n" + "".join(f"{name} = {value}\n" for name, value in NAMES.items())
    )
    sys.path.append(str(made))
    yield made
    sys.path.remove(str(made))


@pytest.fixture
def engine(tmp_path: Path, place: Path) -> Iterator[Engine]:
    """An engine on a directory."""
    with Engine.open(data_dir=tmp_path / "data", shutdown_timeout=5.0) as opened:
        yield weakref.proxy(opened)  # pytest keeps what a fixture gave for longer than its test


def wait(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits until something is true, and gives it."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
    return value


def runs(engine: Engine, trigger: str, database: str = "d") -> list[dict[str, Any]]:
    """The runs of a trigger, oldest first, as far as they are recorded."""
    try:
        found = engine.query(
            "SELECT status, error, rows_in, rows_written, duration_ns, wait_ns, attempt, run_key FROM runs "
            "WHERE database = $d AND trigger = $t AND hook <> 'on_startup' ORDER BY time",
            {"d": database, "t": trigger},
            database="_internal",
        )
    except LookupError:
        return []
    rows: list[dict[str, Any]] = found.to_pylist()
    return rows


def lines(engine: Engine, trigger: str) -> list[str]:
    """What the runs of a trigger have said."""
    try:
        found = engine.query(
            "SELECT text FROM logs WHERE trigger = $t ORDER BY time", {"t": trigger}, database="_internal"
        )
    except LookupError:
        return []
    said: list[str] = found.column("text").to_pylist()
    return said


def state(engine: Engine, trigger: str, key: str, database: str = "d") -> Any:
    """A value of a trigger's state."""
    from walmill.cache.state import trigger_space
    from walmill_worker.values import decode

    view = engine.view()
    entry = view.state.space(trigger_space(view.catalog.trigger(database, trigger).id)).entries.get(key)
    return None if entry is None else decode(entry.value)
