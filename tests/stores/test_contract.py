"""What every object store does, whichever it is: a directory, memory, a bucket of a real S3 server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from walmill.errors import InvalidRequest
from walmill.objects.create import check_conditional_create, put_new_once
from walmill.objects.errors import NoSuchObject, ObjectExists
from walmill.objects.local import LocalStore
from walmill.objects.memory import MemoryStore
from walmill.objects.protocol import ObjectStore
from walmill.objects.remote import RemoteStore

pytestmark = pytest.mark.may_leave(
    "file", reason="obstore keeps connections, and a runtime, as long as the process lives"
)


@pytest.fixture(params=["directory", "memory", "obstore's memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Iterator[ObjectStore]:
    match request.param:
        case "directory":
            made: ObjectStore = LocalStore(str(tmp_path / "objects"))
        case "memory":
            made = MemoryStore()
        case "obstore's memory":
            made = RemoteStore("memory://")
        case _:
            made = RemoteStore(url)
    yield made
    made.close()


PATHS = [
    "a",
    "a/b/c",
    "tables/d%2Fx-1/x%2Ey-2/month=2026-11/00000000000000000001-00000001.04780b32-0.parquet",
    "ü/ä ö/日本",
    "a~b_c-d/e+f&g,h;i@j!k$l'm(n)",
    '#hash/question?/star*/[brackets]/{braces}/pipe|/caret^/tick`/quote"/less<greater>',
    "x" * 255,
]


@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
def test_what_was_put_is_there_under_its_name(store: ObjectStore, path: str) -> None:
    data = bytes(range(256)) * 10
    store.put(path, data)
    assert bytes(store.get(path)) == data
    assert list(store.list()) == [(path, len(data))]
    store.put(path, memoryview(b"other"))
    assert bytes(store.get(path)) == b"other"
    store.delete(path)
    with pytest.raises(NoSuchObject, match="there is no object"):
        store.get(path)
    store.delete(path)
    assert list(store.list()) == []


def test_an_empty_and_a_large_object(store: ObjectStore) -> None:
    large = bytes(12 * 2**20)
    store.put("empty", b"")
    store.put("large", large)
    assert (bytes(store.get("empty")), bytes(store.get("large")) == large) == (b"", True)
    assert list(store.list()) == [("empty", 0), ("large", len(large))]


@pytest.mark.parametrize(("start", "length", "found"), [(0, 3, b"abc"), (2, 100, b"cdef"), (6, 1, b""), (99, 1, b"")])
def test_ranges(store: ObjectStore, start: int, length: int, found: bytes) -> None:
    store.put("a", b"abcdef")
    assert bytes(store.get_range("a", start, length)) == found
    with pytest.raises(NoSuchObject):
        store.get_range("b", 0, 1)


def test_a_prefix_has_whole_segments(store: ObjectStore) -> None:
    for path in ("a/b/1", "a/b/2", "a/bc/3", "a/b4", "b/5"):
        store.put(path, b"x")
    assert [path for path, _ in store.list("a/b")] == ["a/b/1", "a/b/2"]
    assert [path for path, _ in store.list("a/")] == ["a/b/1", "a/b/2", "a/b4", "a/bc/3"]
    assert [path for path, _ in store.list("nothing")] == []


def test_more_objects_than_a_page_has(store: ObjectStore) -> None:
    names = sorted(f"many/{number:05}" for number in range(1203))
    threads = [
        threading.Thread(target=lambda some=names[place::8]: [store.put(name, b"x") for name in some])
        for place in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [path for path, _ in store.list("many")] == names


def test_one_of_several_creates_it(store: ObjectStore) -> None:
    check_conditional_create(store)
    wins: list[int] = []
    barrier = threading.Barrier(6)

    def create(number: int) -> None:
        barrier.wait(10)
        try:
            put_new_once(store, "root", f"by {number}".encode())
        except ObjectExists:
            return
        wins.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wins) == 1
    assert bytes(store.get("root")) == f"by {wins[0]}".encode()
    put_new_once(store, "root", f"by {wins[0]}".encode())  # an answer that was lost


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "../a", "a/.b", "a\\b", "a\nb", "x" * 256, "\ud800"], ids=repr
)
def test_paths_that_no_object_can_have(store: ObjectStore, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(path, b""),
        lambda: store.get(path),
        lambda: store.put_new(path, b""),
        lambda: store.delete(path),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match="the object path"):
            call()
