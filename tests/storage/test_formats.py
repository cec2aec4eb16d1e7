"""A data directory of each format that an engine ever wrote (`tests/data/formats`) opens, and what is in it is read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from walmill.engine import Engine
from walmill.errors import DataCorruption
from walmill.layout import FORMAT, NAME

FORMATS = Path(__file__).parents[1] / "data" / "formats"
ROWS = [
    {"host": None, "site": None, "f": -0.0, "i": None, "u": None, "b": None, "s": "é", "t": -5},
    {
        "host": "a",
        "site": "x",
        "f": 9.5,
        "i": -7,
        "u": 2**64 - 1,
        "b": True,
        "s": 'a "quoted" text',
        "t": 1_700_000_000_000_000_001,
    },
    {"host": "b", "site": None, "f": 2.5, "i": None, "u": None, "b": None, "s": None, "t": 1_700_000_000_000_000_002},
]


def check(engine: Engine) -> None:
    sql = "SELECT host, site, f, i, u, b, s, CAST(time AS BIGINT) AS t FROM all_rows ORDER BY time"
    found = engine.query(sql.replace("all_rows", '"all"'), database="plant").to_pylist()
    assert found == ROWS
    assert engine.query("SELECT v FROM plain", database="plant")["v"].to_pylist() == [1.0]
    assert [name for name in engine.databases() if name != "_internal"] == ["empty", "plant"]
    assert [one.name for one in engine.tokens()] == ["reader"]


@pytest.mark.parametrize("version", range(FORMAT + 1))
def test_each_format_opens_and_goes_on(tmp_path: Path, version: int) -> None:
    data = tmp_path / "data"
    shutil.copytree(FORMATS / str(version), data)
    with Engine.open(data_dir=data, discover_plugins=False) as engine:
        check(engine)
        assert json.loads((data / NAME).read_text())["format"] == FORMAT, "an older engine is told that it is newer now"
        engine.write("plain v=1 1700000000000000000", database="plant")
        engine.snapshot()
        engine.tidy()
        check(engine)
    with Engine.open(data_dir=data, discover_plugins=False) as engine:
        check(engine)


def test_each_format_is_kept() -> None:
    """Whoever raises the format adds a directory, made by `tests/data/formats/make.py` with the version that wrote it last."""
    assert {one.name for one in FORMATS.iterdir() if one.is_dir() and one.name.isdigit()} == {
        str(version) for version in range(FORMAT + 1)
    }


def test_a_newer_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"format": FORMAT + 1, "engine": "9.9.9"}))
    with pytest.raises(DataCorruption, match=rf"format {FORMAT + 1}, written by Walmill 9\.9\.9; this is Walmill \d"):
        Engine.open(data_dir=tmp_path, discover_plugins=False)
