"""Uploads: where they may go, that they are atomic, and what the routes say."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.isolation.conftest import wait
from tests.plugins.conftest import REQUEST

from walmill import Engine, create_app
from walmill.errors import InvalidRequest, NotFound
from walmill.plugins import upload
from walmill.plugins.content import read_tree

NAMES = st.from_regex(r"[a-z_][a-z0-9_ -]{0,10}(\.py)?", fullmatch=True)
WRONG = ["..", ".", "", ".hidden", "__pycache__", "a\0b", "a\nb"]
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)


@given(PATHS)
def test_paths_below_are_taken(path: str) -> None:
    assert "/".join(upload.parts_of(path)) == path


@given(
    st.lists(NAMES, max_size=3),
    st.sampled_from(["..", ".", "", ".hidden", "__pycache__", "a\0b", "a\nb"]),
    st.lists(NAMES, max_size=3),
)
def test_parts_that_lead_elsewhere_are_refused(before: list[str], part: str, after: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be one of the plugin directory"):
        upload.parts_of("/".join([*before, part, *after]))


ELSEWHERE = ["/etc/passwd", "C:\\x.py", "c:/x.py", "a\\b.py", "a/../../b.py", "..", "/", "a/" * 40 + "b.py", "x" * 300]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_absolute_and_foreign_paths_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidRequest):
        upload.put_file(tmp_path / "plugins", path, b"")
    with pytest.raises(InvalidRequest):
        upload.put_directory(tmp_path / "plugins", "x", {"__init__.py": b"", path: b""})
    assert not any(tmp_path.rglob("*.py"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(path=st.text(st.characters(codec="utf-8"), max_size=12))
def test_nothing_is_ever_written_outside(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    try:
        made = upload.put_file(root, path, b"x")
    except InvalidRequest:
        return
    assert made.resolve().is_relative_to(root.resolve())
    if made.is_file():
        made.unlink()


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    (other / "secret.py").write_text("mine")
    (root / "link").symlink_to(other)
    (root / "file.py").symlink_to(other / "secret.py")
    for path in ("link/secret.py", "link/new.py", "file.py"):
        with pytest.raises(InvalidRequest, match="symbolic link"):
            upload.put_file(root, path, b"theirs")
    with pytest.raises(InvalidRequest, match="symbolic link"):
        upload.put_directory(root, "link", {"__init__.py": b""})
    with pytest.raises(InvalidRequest, match="symbolic link"):
        upload.remove(root, "link")
    assert (other / "secret.py").read_text() == "mine"
    assert sorted(one.name for one in other.iterdir()) == ["secret.py"]


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    root = tmp_path / "root"
    upload.put_directory(root, "p", {"__init__.py": b"1", "old/deep.py": b"1"})
    upload.put_directory(root, "p", {"__init__.py": b"2", "new/deep.py": b"2"})
    assert read_tree(root / "p").files == {"p/__init__.py": b"2", "p/new/deep.py": b"2"}
    assert [one.name for one in root.iterdir()] == ["p"]  # and leaves nothing
    upload.put_file(root, "p/near.py", b"3")
    upload.put_file(root, "one.py", b"3")
    for files, why in (
        ({"other.py": b""}, "neither an __init__.py"),
        ({"__init__.py": b"", "a": b"", "a/b.py": b""}, "cannot be below it"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            upload.put_directory(root, "p", files)
    for name in ("one.py", "a/b"):
        with pytest.raises(InvalidRequest):
            upload.put_directory(root, name, {"__init__.py": b""})
    for path in ("p", "one.py/below.py"):
        with pytest.raises(InvalidRequest):
            upload.put_file(root, path, b"")
    upload.remove(root, "p")
    upload.remove(root, "one.py")
    with pytest.raises(NotFound):
        upload.remove(root, "one.py")
    assert list(root.iterdir()) == []


def test_what_a_killed_upload_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".new-abc").mkdir()
    (tmp_path / ".old-abc").mkdir()
    (tmp_path / ".new-file").touch()
    (tmp_path / "p.py").touch()
    upload.sweep(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["p.py"]


@pytest.fixture
def client(opened: Callable[..., Engine]) -> Iterator[TestClient]:
    app = create_app(opened(), without_auth=True, close_engine=False)
    with TestClient(app) as made:
        yield made


def trigger(client: TestClient, plugin: str, name: str = "t", db: str = "d") -> None:
    body = {"db": db, "plugin_filename": plugin, "trigger_name": name, "trigger_specification": f"request:{name}{db}"}
    assert client.post("/api/v3/configure/processing_engine_trigger", json=body).status_code == 200


def test_the_life_of_an_uploaded_file(client: TestClient, folder: Path) -> None:
    made = client.post("/api/v3/plugins/files", json={"plugin_name": "one.py", "content": REQUEST.format(version=1)})
    assert made.status_code == 200
    assert (made.json()["name"], made.json()["status"]) == ("one", "active")
    trigger(client, "one.py")
    assert client.get("/api/v3/engine/td").json() == {"version": 1}
    shown = client.get("/api/v3/plugins/one").json()
    assert shown["triggers"] == ["d.t"]
    assert [file["file_path"] for file in shown["files"]] == [str(folder / "one.py")]
    assert len(shown["hash"]) == 64
    # by the name of its trigger, as InfluxDB has it
    body = {"plugin_name": "t", "content": REQUEST.format(version=2)}
    assert client.put("/api/v3/plugins/files", json=body).json()["hash"] != shown["hash"]
    wait(lambda: client.get("/api/v3/engine/td").json() == {"version": 2})
    bad = client.put("/api/v3/plugins/files", json={"plugin_name": "t", "content": "def ("})
    assert bad.status_code == 200
    assert (bad.json()["status"], "SyntaxError" in bad.json()["problem"]) == ("active", True)
    assert client.get("/api/v3/engine/td").json() == {"version": 2}
    used = client.delete("/api/v3/plugins/files", params={"plugin_name": "one"})
    assert used.status_code == 409
    assert "is used by d.t" in used.json()["error"]
    assert client.delete("/api/v3/plugins/files", params={"plugin_name": "one", "force": "true"}).status_code == 200
    assert client.get("/api/v3/engine/td").status_code == 503
    assert client.get("/api/v3/plugins/one").status_code == 404
    assert list(folder.iterdir()) == []


def test_a_directory_over_http(client: TestClient, folder: Path) -> None:
    files = [
        {"relative_path": "__init__.py", "content": "from .deep.more import VALUE\n" + REQUEST.format(version="VALUE")},
        {"relative_path": "deep/more.py", "content": "VALUE = 5"},
        {"relative_path": "data.bin", "content_base64": base64.b64encode(b"\xff\0").decode()},
    ]
    made = client.put("/api/v3/plugins/directory", json={"plugin_name": "pack", "files": files})
    assert (made.status_code, made.json()["status"]) == (200, "active"), made.json()
    assert (folder / "pack" / "data.bin").read_bytes() == b"\xff\0"
    trigger(client, "pack")
    assert client.get("/api/v3/engine/td").json() == {"version": 5}
    body = {"plugin_name": "pack/deep/more.py", "content": "VALUE = 6"}
    assert client.post("/api/v3/plugins/files", json=body).status_code == 200
    wait(lambda: client.get("/api/v3/engine/td").json() == {"version": 6})
    half = client.post("/api/v3/plugins/files", json={"plugin_name": "half/x.py", "content": ""}).json()
    assert "no plugin yet" in half["cause"]


@pytest.mark.parametrize(
    ("route", "body", "status", "said"),
    [
        ("files", {"plugin_name": "../x.py", "content": ""}, 400, "plugin directory"),
        ("files", {"plugin_name": "/x.py", "content": ""}, 400, "relative path"),
        ("files", {"plugin_name": "downsample.py", "content": ""}, 409, "by another name"),
        ("files", {"plugin_name": "x.py"}, 400, "content"),
        ("directory", {"plugin_name": "x", "files": [{"relative_path": "a.py", "content": ""}]}, 400, "__init__.py"),
        ("directory", {"plugin_name": "x", "files": [{"relative_path": "../a", "content": ""}]}, 400, "cannot be one"),
        ("directory", {"plugin_name": "x", "files": [{"path": "a"}]}, 400, "files[0] is not"),
        ("directory", {"plugin_name": "x", "files": [{"relative_path": "a", "content_base64": "?"}]}, 400, "files[0]"),
        ("directory", {"plugin_name": "x", "files": "a"}, 400, "files"),
    ],
)
def test_what_is_refused(client: TestClient, folder: Path, route: str, body: Any, status: int, said: str) -> None:
    answer = client.post(f"/api/v3/plugins/{route}", json=body)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.json()
    assert list(folder.iterdir()) == []


def test_a_name_that_means_two(client: TestClient) -> None:
    for name in ("one", "two"):
        client.post("/api/v3/plugins/files", json={"plugin_name": f"{name}.py", "content": REQUEST.format(version=0)})
    trigger(client, "one", db="d")
    trigger(client, "two", db="e")
    body = {"plugin_name": "t", "content": REQUEST.format(version=7)}
    answer = client.put("/api/v3/plugins/files", json=body)
    assert (answer.status_code, "say which with db" in answer.json()["error"]) == (409, True)
    assert client.put("/api/v3/plugins/files", json={**body, "db": "e"}).json()["name"] == "two"


def test_without_a_plugin_directory_or_rights(tmp_path: Path) -> None:
    with Engine.open(data_dir=tmp_path) as engine:
        with TestClient(create_app(engine, without_auth=True, close_engine=False)) as client:
            answer = client.post("/api/v3/plugins/files", json={"plugin_name": "x.py", "content": ""})
            assert (answer.status_code, "No plugin directory configured" in answer.json()["error"]) == (400, True)
        with TestClient(create_app(engine, close_engine=False)) as client:
            for method in ("post", "put"):
                answer = getattr(client, method)("/api/v3/plugins/files", json={"plugin_name": "x.py", "content": ""})
                assert answer.status_code == 401


def test_system_tables(client: TestClient, opened: Callable[..., Engine], folder: Path) -> None:
    client.post("/api/v3/plugins/files", json={"plugin_name": "one.py", "content": REQUEST.format(version=1)})
    trigger(client, "one")

    def ask(sql: str) -> Any:
        return client.get("/api/v3/query_sql", params={"db": "_internal", "q": sql, "format": "json"}).json()

    [row] = ask("SELECT * FROM system.plugins WHERE name = 'one'")
    assert (row["location"], row["hooks"], row["status"], row["triggers"]) == (
        str(folder / "one.py"),
        "on_request",
        "active",
        "d.t",
    )
    assert len(row["hash"]) == 64
    [row] = ask("SELECT * FROM system.plugins WHERE name = 'downsample'")
    assert (row["location"], row["distribution"], len(row["hash"])) == ("package", "walmill-downsample", 64)
    files = ask("SELECT file_name, size_bytes FROM system.plugin_files WHERE plugin_name = 'one'")
    assert files == [{"file_name": "one.py", "size_bytes": (folder / "one.py").stat().st_size}]
    assert ask("SELECT count(*) AS n FROM system.plugin_files WHERE plugin_name = 'downsample'")[0]["n"] > 1


def test_uploads_at_the_same_time_leave_one_of_them(client: TestClient) -> None:
    code = "from .near import NEAR\nOWN = {}\n"

    def send(number: int) -> None:
        files = [
            {"relative_path": "__init__.py", "content": code.format(number) + REQUEST.format(version="[OWN, NEAR]")},
            {"relative_path": "near.py", "content": f"NEAR = {number}"},
        ]
        assert client.put("/api/v3/plugins/directory", json={"plugin_name": "pack", "files": files}).status_code == 200

    send(0)
    trigger(client, "pack")
    threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(20):
        own, near = client.get("/api/v3/engine/td").json()["version"]
        assert own == near
