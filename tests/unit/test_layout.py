"""The format version of a data directory: noted once, and respected by engines that are older than it."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from walmill.errors import DataCorruption, Unavailable
from walmill.layout import FORMAT, NAME, RESTORING, check_layout, set_restoring

ENGINE = version("walmill")


def test_a_new_directory_gets_the_format_of_this_engine(tmp_path: Path) -> None:
    check_layout(tmp_path)
    assert json.loads((tmp_path / NAME).read_text()) == {"format": FORMAT, "engine": ENGINE}
    assert [path.name for path in tmp_path.iterdir()] == [NAME], "nothing is left of the way it was written"


def test_a_directory_with_only_a_log_becomes_one_of_this_format(tmp_path: Path) -> None:
    segment = tmp_path / "wal" / "0000000001.seg"
    segment.parent.mkdir()
    segment.write_bytes(b"frames")
    check_layout(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["format"] == FORMAT
    assert segment.read_bytes() == b"frames"


def test_a_directory_of_the_same_format_is_not_written(tmp_path: Path) -> None:
    said = json.dumps({"format": FORMAT, "engine": "0.0.1", "more": 1})
    (tmp_path / NAME).write_text(said)
    check_layout(tmp_path)
    assert (tmp_path / NAME).read_text() == said


def test_a_newer_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    said = json.dumps({"format": FORMAT + 1, "engine": "99.1"})
    (tmp_path / NAME).write_text(said)
    with pytest.raises(DataCorruption) as caught:
        check_layout(tmp_path)
    assert f"has the format {FORMAT + 1}, written by Walmill 99.1; this is Walmill {ENGINE}" in caught.value.message
    assert (tmp_path / NAME).read_text() == said


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[]", b"1", b"{}", b'{"format": "1"}', b'{"format": null}', b"\xff\xfe"], ids=repr
)
def test_what_cannot_be_read_is_refused_and_kept(tmp_path: Path, said: bytes) -> None:
    (tmp_path / NAME).write_bytes(said)
    with pytest.raises(DataCorruption, match=f"{NAME} in the data directory .* cannot be read"):
        check_layout(tmp_path)
    assert (tmp_path / NAME).read_bytes() == said


def test_a_directory_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(DataCorruption, match="cannot be read"):
        check_layout(tmp_path)


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"{NAME} cannot be written .*write permission"):
        check_layout(tmp_path / "gone")
    (tmp_path / RESTORING).mkdir()
    with pytest.raises(Unavailable, match="cannot be written"):
        set_restoring(tmp_path, "a backup")
    assert [one.name for one in tmp_path.iterdir()] == [RESTORING]  # nothing is left of the attempt


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(Unavailable, match="cannot be written"):
            check_layout(tmp_path)
    finally:
        tmp_path.chmod(0o700)
