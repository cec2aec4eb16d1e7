"""What people write for where a plugin comes from; what tools say; the lock file; wheels of our own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walmill.environments.lock import Locked, read_lock, write_lock
from walmill.environments.source import parse_source
from walmill.environments.tool import InstallFailed, Pin, Tool, pins_of, run
from walmill.environments.wheels import own_wheels
from walmill.errors import InvalidRequest, Unavailable

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "kind", "address", "ref", "subdirectory"),
    [
        ("walmill-anomaly", "index", "walmill-anomaly", None, ""),
        ("walmill-anomaly==1.2", "index", "walmill-anomaly==1.2", None, ""),
        (
            "walmill_x[extra] >=1,<2 ; python_version > '3'",
            "index",
            "walmill_x[extra] >=1,<2 ; python_version > '3'",
            None,
            "",
        ),
        ("git+https://host/a/b.git", "git", "https://host/a/b.git", None, ""),
        ("git+https://host/a/b.git@v1.0", "git", "https://host/a/b.git", "v1.0", ""),
        ("git+https://host/a/b@feature/x#subdirectory=p/q", "git", "https://host/a/b", "feature/x", "p/q"),
        ("git+ssh://git@host/a/b.git", "git", "ssh://git@host/a/b.git", None, ""),
        ("git+ssh://git@host/a/b.git@main", "git", "ssh://git@host/a/b.git", "main", ""),
        ("file:///srv/repo.git@0123abc", "git", "file:///srv/repo.git", "0123abc", ""),
        ("git+https://host/a/b#egg=x&subdirectory=c/", "git", "https://host/a/b", None, "c"),
    ],
)
def test_sources(text: str, kind: str, address: str, ref: str | None, subdirectory: str) -> None:
    found = parse_source(text)
    assert (found.kind, found.address, found.ref, found.subdirectory) == (kind, address, ref, subdirectory)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no plugin's source"),
        ("-r evil.txt", "no plugin's source"),
        ("--index-url=x", "no plugin's source"),
        ("a b", "no plugin's source"),
        ("x @ https://host/x.whl", "relative path"),
        ("git+ext::sh -c evil", "repositories are reached by"),
        ("git+https://host/a/b@--upload-pack=x", "no branch, tag or commit"),
        ("git+https://host/a/b@a..b", "no branch, tag or commit"),
        ("git+https://me:secret@host/a/b", "password"),
        ("git+https://host/a/b#subdirectory=../x", "leads elsewhere"),
        ("git+https://host/a/b#other=x", "not other"),
        ("git+https://host/good/../evil/b", "leads elsewhere"),
        ("git+https://host/good/%2e%2E/evil/b", "leads elsewhere"),
        ("file:///srv/good/../evil", "leads elsewhere"),
        ("./here", "relative path"),
        ("/no/such/place", "nothing at"),
    ],
)
def test_what_is_no_source(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse_source(text)


@given(st.text(max_size=30))
def test_any_text_is_a_source_or_a_sentence(text: str) -> None:
    try:
        found = parse_source(text)
    except InvalidRequest:
        return
    assert not found.address.startswith("-")


def test_pins() -> None:
    one, other = f"sha256:{'0' * 64}", f"sha256:{'f' * 64}"
    text = f"# a comment\nattrs==26.1.0 \\\n    --hash={one} \\\n    --hash={other}\n-e file:///x\nfile:///p\nx.y==1!2.0rc1\n"
    assert pins_of(text) == [Pin("attrs", "26.1.0", (one, other)), Pin("x.y", "1!2.0rc1")]
    assert pins_of("\n".join(pin.requirement() for pin in pins_of(text))) == pins_of(text)


def test_a_lock_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "walmill.lock"
    with pytest.raises(FileNotFoundError):
        read_lock(path)
    full = Locked(
        source="git+file:///x",
        distribution="x",
        version="1",
        commit="c" * 40,
        tree="t" * 40,
        hash="h" * 64,
        python="3.11",
        packages=(Pin("a", "1", ("sha256:0",)), Pin("b", "2")),
        plugins={"x": "x:X"},
    )
    plugins = {"x": full, "y": Locked(source="y", plugins={"y": "y"})}
    write_lock(path, plugins)
    assert read_lock(path) == plugins
    assert "://" not in path.read_text().replace("git+file:///x", "")
    for text in ("", "[]", '{"version": 2, "plugins": {}}', '{"version": 1, "plugins": {"x": {}}}', '{"version": 1}'):
        path.write_text(text)
        with pytest.raises(InvalidRequest, match="cannot be read"):
            read_lock(path)


def test_own_wheels_are_made_once_and_hold_all_modules(tmp_path: Path) -> None:
    wheels = own_wheels(tmp_path)
    times = [one.stat().st_mtime_ns for one in wheels]
    assert [one.stat().st_mtime_ns for one in own_wheels(tmp_path)] == times
    assert len(wheels) == 2
    names = zipfile.ZipFile(wheels[1]).namelist()
    assert {"walmill_worker/zygote.py", "walmill_worker/py.typed"} <= set(names)
    assert sum(name.endswith(".dist-info/RECORD") for name in names) == 1


def test_what_a_tool_says(tmp_path: Path) -> None:
    said: list[str] = []
    code = "import sys; print('out'); print('\x1b[31mone\x1b[0m', file=sys.stderr); print(input()); sys.exit(int(sys.argv[1]))"
    assert run([sys.executable, "-c", code, "0"], said.append, given="in") == "out\nin\n"
    assert said == ["one"]
    with pytest.raises(InstallFailed, match=r"ended with the status 3: one\nout\nin"):
        run([sys.executable, "-c", code, "3"], said.append, given="in")
    with pytest.raises(Unavailable, match="cannot be started"):
        run([str(tmp_path / "nothing")], said.append)


@pytest.mark.parametrize("uv", [True, False])
def test_both_tools_install_what_they_have_resolved(tmp_path: Path, uv: bool) -> None:
    """A real package of the index, in an environment of its own: its hash is taken, and no other file passes."""
    tool = Tool() if uv else Tool(uv=None)
    assert tool.name == ("uv" if uv else "pip")
    python = tool.make(tmp_path / "env", lambda line: None)
    [pin] = tool.resolve(python, ["packaging==24.0"], lambda line: None)
    assert (pin.name, pin.version) == ("packaging", "24.0")
    assert all(one.startswith("sha256:") for one in pin.hashes)
    tool.install(python, [pin], None, lambda line: None)
    code = "import packaging; print(packaging.__version__)"
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "24.0\n"
    other = Pin("packaging", "23.2", ("sha256:" + "0" * 64,))
    with pytest.raises(InstallFailed, match=r"(?i)hash"):
        tool.install(python, [other], None, lambda line: None)
    with pytest.raises(InstallFailed, match="ended with the status"):
        tool.resolve(python, ["packaging==0.0.1.no"], lambda line: None)


@pytest.mark.parametrize("uv", [True, False])
def test_wheels_in_place_of_an_index(tmp_path: Path, uv: bool) -> None:
    wheels = tmp_path / "wheels"
    own_wheels(wheels)
    tool = Tool(wheels=wheels) if uv else Tool(uv=None, wheels=wheels)
    python = tool.make(tmp_path / "env", lambda line: None)
    with pytest.raises(InstallFailed, match=r"attrs|pluggy"):  # which are not among the wheels
        tool.resolve(python, ["walmill-hookspecs"], lambda line: None)
    tool.install_files(python, [next(wheels.glob("walmill_hookspecs*"))], lambda line: None)
    assert list((tmp_path / "env").rglob("walmill_hookspecs/py.typed"))
