"""Every kind of object of a data directory, damaged in every way: made good, or refused with place and reason; never silent.

The table of what comes of it is in `docs/explanation/storage.md`, and has to say what is found here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from walmill.engine import Engine
from walmill.errors import DataCorruption

PAGE = Path(__file__).parents[2] / "docs/explanation/storage.md"

STORED = {1: 10, 2: 21, 3: 30}  # what is in files, by time
ROWS = {**STORED, 4: 40, 5: 50}  # and what is in the log behind them


def open_engine(directory: Path) -> Engine:
    return Engine.open(data_dir=directory, discover_plugins=False, segment_bytes=2**16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two manifests, two data files, and a log of two segments, the first of which they cover."""
    directory = tmp_path_factory.mktemp("whole")
    with open_engine(directory) as engine:
        engine.create_token("somebody")
        engine.write("t v=10i 1\nt v=20i 2", database="d")
        engine.snapshot(10)
        engine.write("t v=21i 2\nt v=30i 3", database="d")
        engine.snapshot(10)
    with open_engine(directory) as engine:
        engine.write("t v=40i 4", database="d")
        engine.write("t v=50i 5", database="d")
    assert outcome(directory) == "whole"
    return directory


def outcome(directory: Path) -> str:
    """What an engine makes of a data directory, in one word."""
    try:
        engine = open_engine(directory)
    except DataCorruption as error:
        said["text"] = error.message
        return "refused at start"
    with engine:
        try:
            found = engine.query("SELECT CAST(time AS BIGINT) AS t, v FROM t", database="d").to_pydict()
        except DataCorruption as error:
            said["text"] = error.message
            return "refused by the query"
        rows = dict(zip(found["t"], found["v"], strict=True))
        assert len(rows) == len(found["t"])
        if rows == ROWS and [token.name for token in engine.tokens()] == ["somebody"]:
            return "whole"
        assert all(ROWS[time] == value for time, value in rows.items()), "a value that nobody wrote"
        said["text"] = "; ".join(engine._wal.report)
        return f"{len(ROWS) - len(rows)} rows lost"


said: dict[str, str] = {}


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(len(data) - 1, int(len(data) * place))] ^= 4
        path.write_bytes(data)

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b"") and None,
    "cut": cut,
    "a bit flipped at its begin": flip(0),
    "a bit flipped within": flip(0.5),
    "a bit flipped at its end": flip(1),
}


def objects(directory: Path) -> dict[str, list[Path]]:
    """All objects by kind, the newest of each kind last."""
    found = {"manifest": sorted((directory / "objects/manifests").iterdir())}
    for kind in ("catalog", "cursors", "state", "files", "newest"):
        folder = directory / "objects/parts" / kind
        found[f"part: {kind}"] = sorted(folder.iterdir()) if folder.exists() else []
    found["data file"] = sorted((directory / "objects/tables").rglob("*.parquet"))
    found["log segment"] = sorted((directory / "wal").glob("*.seg"))
    return found
