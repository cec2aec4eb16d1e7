"""Reading the files of a plugin while people write them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.errors import InvalidRequest
from walmill.plugins import content
from walmill.plugins.content import Unsettled, digest_of, paths_of, read_tree

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@given(
    st.dictionaries(NAMES, st.binary(max_size=8), max_size=4), st.dictionaries(NAMES, st.binary(max_size=8), max_size=4)
)
def test_only_equal_files_have_equal_hashes(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)


def test_what_belongs_to_a_plugin(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for name in (
        "__init__.py",
        "sub/deep.py",
        "data.json",
        ".git/x",
        "__pycache__/a.pyc",
        "sub/.hidden",
        "old.py~",
        "x.pyc",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    assert sorted(name for name, _ in paths_of(root)) == ["mine/__init__.py", "mine/data.json", "mine/sub/deep.py"]
    (tmp_path / "one.py").write_text("1")
    assert read_tree(tmp_path / "one.py").files == {"one.py": b"1"}


def test_a_plugin_that_is_too_large_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big.py").write_bytes(b"#" * 2000)
    monkeypatch.setattr(content, "MOST_BYTES", 1000)
    with pytest.raises(InvalidRequest, match="data belong somewhere else"):
        read_tree(tmp_path / "big.py")
    monkeypatch.setattr(content, "MOST_FILES", 3)
    for number in range(5):
        (tmp_path / f"{number}.py").touch()
    with pytest.raises(InvalidRequest, match="more than 3 files"):
        read_tree(tmp_path)


def test_half_a_file_is_not_read(tmp_path: Path) -> None:
    """Somebody takes long to write: nothing is read until the file is closed."""
    path = tmp_path / "slow.py"
    file = path.open("w")
    file.write("half = 1\n")
    file.flush()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        threading.Event().wait(seconds)
        if len(waited) == 10:
            file.write("whole = 2\n")
            file.close()

    assert read_tree(path, sleep).files == {"slow.py": b"half = 1\nwhole = 2\n"}
    assert len(waited) >= 10
    with path.open("a"), pytest.raises(Unsettled):
        read_tree(path, lambda seconds: None)


def test_files_that_change_meanwhile_are_read_again(tmp_path: Path) -> None:
    """Two files that belong together are never taken from two saves."""
    root = tmp_path / "pair"
    root.mkdir()
    stop = threading.Event()

    def save() -> None:
        number = 0
        while not stop.is_set():
            for name in ("__init__.py", "other.py"):
                new = root / f".{name}"
                new.write_text(str(number))
                new.replace(root / name)
            number += 1
            stop.wait(0.02 if number % 3 else 0.06)

    thread = threading.Thread(target=save)
    thread.start()
    try:
        while not (root / "other.py").exists():
            pass
        found = 0
        for _ in range(20):
            try:
                files = read_tree(root).files
            except Unsettled:
                continue
            assert files["pair/__init__.py"] == files["pair/other.py"]
            found += 1
        assert found
    finally:
        stop.set()
        thread.join()
