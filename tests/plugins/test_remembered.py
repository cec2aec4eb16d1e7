"""A list of plugins imports only what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from walmill.plugins.remembered import cache_file, remembering
from walmill_worker.describe import Described


def test_only_what_has_changed_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    (site / "remembered_one.py").write_text("1")
    (site / "remembered_two").mkdir()
    (site / "remembered_two" / "__init__.py").write_text("2")
    entries = [("one", "remembered_one"), ("two", "remembered_two:Thing")]
    asked: list[str] = []
    broken: set[str] = set()

    def inspect(given: Sequence[tuple[str, str]]) -> Mapping[str, Described]:
        asked.extend(name for name, _ in given)
        return {
            name: Described(broken="so") if name in broken else Described(hooks={"on_write": True}, summary=name)
            for name, _ in given
        }

    def look() -> list[str]:
        """Which plugins were looked at."""
        asked.clear()
        found = remembering(inspect, tmp_path / "cache" / "plugins.json")(entries)
        assert {name: one.summary for name, one in found.items() if one.broken is None} == {
            name: name for name, _ in entries if name not in broken
        }
        return sorted(asked)

    assert look() == ["one", "two"]
    assert look() == []
    (site / "remembered_two" / "deep.py").write_text("3")
    assert look() == ["two"]
    assert look() == []
    (site / "something-1.0.dist-info").mkdir()  # what they import may be there now, or another version
    assert look() == ["one", "two"]
    broken.add("one")
    (site / "remembered_one.py").write_text("4")
    assert look() == look() == ["one"]  # what is broken may be mended somewhere else
    broken.clear()
    assert look() == ["one"]
    for text in ("[]", "{", '{"a": 1}'):
        (tmp_path / "cache" / "plugins.json").write_text(text)
        assert look() == ["one", "two"]
        assert look() == []
    (tmp_path / "cache" / "plugins.json").unlink()
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file")  # nothing can be kept: then all is looked at
    assert look() == look() == ["one", "two"]


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_file() == Path("/somewhere/walmill/plugins.json")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_file() == Path.home() / ".cache" / "walmill" / "plugins.json"
