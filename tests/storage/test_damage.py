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
from walmill.objects.local import LocalStore
from walmill.snapshot.manifest import load

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
    "empty": lambda path: path.write_text("") and None,
    "cut": cut,
    "a bit flipped at its begin": flip(0),
    "a bit flipped within": flip(0.5),
    "a bit flipped at its end": flip(1),
}


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def objects(directory: Path, name: str) -> list[Path]:
    """The objects that the table calls so; for two that are swapped, both."""
    manifests = sorted((directory / "objects/manifests").iterdir())
    files = sorted((directory / "objects/tables").rglob("*.parquet"))
    segments = sorted((directory / "wal").glob("*.seg"))
    newest = load(LocalStore(str(directory / "objects"))).manifest
    assert newest is not None
    named = [directory / "objects" / part.path for listed in newest.parts.values() for part in listed]
    others = [path for path in (directory / "objects/parts").rglob("*") if path.is_file() and path not in named]
    found = {
        "the newest manifest": manifests[-1:],
        "an older manifest": manifests[:-1],
        "a part of the newest manifest": named,
        "a part of older manifests only": others,
        "a data file": files,
        "a log segment before the newest one": segments[:-1],
        "the newest log segment": segments[-1:],
        "two data files": files,
        "two parts": named[:2],
        "two log segments": segments,
        "two manifests": manifests[-2:],
    }
    assert found[name]
    return found[name]


def table() -> list[tuple[str, str, str]]:
    """What the page says: the object, the damage, and what comes of it."""
    text = PAGE.read_text().partition("## Damage")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (an? [^|]*|the [^|]*|two [^|]*) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return [(what, damage.strip(), result) for what, damages, result in rows for damage in damages.split(",")]


RESULTS = {
    "as before": "whole",
    "refused at start, naming it": "refused at start",
    "queries that need it are refused, naming it": "refused by the query",
    "the last commit is lost; the log says so and keeps its bytes": "1 rows lost",
}


@pytest.mark.parametrize(("what", "damage", "result"), table())
def test_the_page_says_what_comes_of_damage(whole: Path, tmp_path: Path, what: str, damage: str, result: str) -> None:
    wanted = RESULTS[result]
    for place, path in enumerate(objects(whole, what)):
        directory = tmp_path / str(place)
        shutil.copytree(whole, directory)
        damaged = directory / path.relative_to(whole)
        if damage == "swapped":
            swap(*(directory / one.relative_to(whole) for one in objects(whole, what)))
        else:
            DAMAGES[damage](damaged)
        said.clear()
        assert outcome(directory) == wanted, (path.name, said)
        if wanted.startswith("refused"):
            names = [one.name for one in objects(whole, what)] if damage == "swapped" else [path.name]
            assert any(name in said["text"] for name in names)
            # a second try says the same: the first has changed nothing that matters
            assert outcome(directory) == wanted
        elif "the log says" in result:
            assert path.name in said["text"]
        if damage == "swapped":
            break


def test_the_table_is_whole() -> None:
    """Each kind of object has a row for each kind of damage."""
    for what in {what for what, _, _ in table() if not what.startswith("two ")}:
        assert {damage for one, damage, _ in table() if one == what} == set(DAMAGES), what
    assert len(table()) >= 6 * len(DAMAGES) + 4


def test_no_bit_of_a_data_file_can_flip_unseen(whole: Path, tmp_path: Path) -> None:
    directory = tmp_path / "flipped"
    shutil.copytree(whole, directory)
    path = objects(directory, "a data file")[0]
    good = path.read_bytes()
    with open_engine(directory) as engine:
        for place in range(0, len(good), 7):
            data = bytearray(good)
            data[place] ^= 1 << (place % 8)
            path.write_bytes(data)
            with pytest.raises(DataCorruption, match=path.name):
                engine.query("SELECT * FROM t", database="d")
        path.write_bytes(good)
        assert engine.query("SELECT * FROM t", database="d").num_rows == len(ROWS)
