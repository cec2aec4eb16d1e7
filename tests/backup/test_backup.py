"""Backups made by an engine that goes on, verified, restored, pruned; and what is said of those that are damaged."""

from __future__ import annotations

import gc
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from walmill.backup.copy import Progress, Stopped
from walmill.backup.description import Description, choose, descriptions
from walmill.backup.keep import beyond, delete, verify
from walmill.backup.restore import restore
from walmill.engine import Engine
from walmill.errors import Conflict, DataCorruption, NotFound, WalmillError
from walmill.objects.open import open_store
from walmill.objects.protocol import ObjectStore
from walmill.testing.clock import ManualClock
from walmill.units import DAY, SECOND
from walmill_hookspecs import Context, WriteBatch, hookimpl

NOW = 1_700_000_000 * SECOND


class Count:
    """Counts rows in its state."""

    @hookimpl
    def on_write(self, batch: WriteBatch, ctx: Context[Any]) -> None:
        ctx.cache.incr("rows", batch.num_rows)


def opened(directory: Path, **more: Any) -> Engine:
    engine = Engine.open(data_dir=directory, discover_plugins=False, join_rate=0, **more)
    engine.register(Count, name="count")
    return engine


@pytest.fixture
def place(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "backups"))


def values(engine: Engine, table: str = "cpu") -> list[int]:
    found = engine.query(f"SELECT v FROM {table} ORDER BY time", database="d")["v"].to_pylist()
    return [int(one) for one in found]


def write(engine: Engine, *numbers: int) -> None:
    engine.write("\n".join(f"cpu,host=a v={number} {NOW + number}" for number in numbers), database="d")


def whole(store: ObjectStore) -> bool:
    return all(not problems for _, problems in verify(store))


def test_a_restored_backup_is_the_engine_at_its_sequence(tmp_path: Path, place: ObjectStore) -> None:
    with opened(tmp_path / "one") as engine:
        engine.create_database("d", retention=None)
        engine.create_trigger(database="d", name="count", plugin="count", spec="table:cpu")
        token = engine.create_token("reader")
        write(engine, 1, 2)
        engine.write("mem v=7i 1", database="d")
        engine.delete_table("d", "mem")
        said: list[Progress] = []
        made = engine.backup(place, said.append)
        assert (said[-1].objects, said[-1].bytes) == (said[-1].total_objects, said[-1].total_bytes)
        assert (made.number, made.objects) == (1, said[-1].total_objects + 1)
        write(engine, 3)
        sequence = engine.view().sequence
    assert made.sequence < sequence
    restore(place, made, tmp_path / "two")
    with opened(tmp_path / "two") as engine:
        assert values(engine) == [1, 2]
        assert [one.name for one in engine.tokens()] == ["reader"]
        assert token not in (tmp_path / "backups").joinpath(made.path).read_text()
        engine.restore_table("d", "mem")
        assert values(engine, "mem") == [7]
        assert [one["trigger_name"] for one in engine.triggers()] == ["count"]
        write(engine, 4)
        again = engine.backup(open_store(str(tmp_path / "others")))
        assert made.sequence < again.sequence <= engine.view().sequence
    with opened(tmp_path / "two") as engine:
        assert values(engine) == [1, 2, 4]


def test_what_is_there_is_not_copied_again(tmp_path: Path, place: ObjectStore) -> None:
    with opened(tmp_path / "one") as engine:
        write(engine, *range(100))
        first = engine.backup(place)
        assert engine.backup(place) == first, "nothing has come since"
        write(engine, 100)
        said: list[Progress] = []
        second = engine.backup(place, said.append)
        assert (second.number, said[-1].copied_bytes < said[-1].total_bytes) == (2, True)
        assert [one.number for one in descriptions(place)] == [1, 2]
        assert whole(place)
    for backup, count in ((first, 100), (second, 101)):
        restore(place, backup, tmp_path / f"restored-{backup.number}")
        with opened(tmp_path / f"restored-{backup.number}") as engine:
            assert values(engine) == list(range(count))


def test_a_backup_holds_its_files_though_the_engine_joins_and_cleans_up(tmp_path: Path, place: ObjectStore) -> None:
    """Each copied object is followed by a snapshot, a join and a clean-up of the engine."""
    with opened(tmp_path / "one") as engine:
        for number in range(6):
            write(engine, number)
            engine.snapshot()
        numbers = iter(range(6, 100))

        def busy(progress: Progress) -> None:
            write(engine, next(numbers))
            engine.snapshot()
            engine.tidy()

        made = engine.backup(place, busy)
        gc.collect()
        engine.tidy()
        assert whole(place)
    restore(place, made, tmp_path / "two")
    with opened(tmp_path / "two") as engine:
        assert values(engine) == [0, 1, 2, 3, 4, 5]


def test_backups_under_load_are_prefixes_of_what_was_acknowledged(tmp_path: Path, place: ObjectStore) -> None:
    acknowledged = 0
    stop = threading.Event()
    marks: list[tuple[int, int, Description]] = []
    with opened(tmp_path / "one") as engine:
        engine.create_database("d")

        def load() -> None:
            nonlocal acknowledged
            while not stop.is_set():
                write(engine, acknowledged)
                acknowledged += 1

        writer = threading.Thread(target=load)
        writer.start()
        try:
            while len(marks) < 4:
                before = acknowledged
                made = engine.backup(place)
                marks.append((before, acknowledged, made))
        finally:
            stop.set()
            writer.join(30)
    for before, after, made in marks:
        directory = tmp_path / f"restored-{made.number}"
        restore(place, made, directory)
        with opened(directory) as engine:
            found = values(engine)
            assert found == list(range(len(found)))
            assert before <= len(found) <= after + 1
            assert engine.view().sequence == made.sequence


def test_the_newest_backup_before_a_sequence_or_a_time(tmp_path: Path, place: ObjectStore) -> None:
    clock = ManualClock(NOW)
    made = []
    with opened(tmp_path / "one", clock=clock) as engine:
        for number in range(3):
            write(engine, number)
            made.append(engine.backup(place))
            clock.advance(DAY)
    assert choose(place) == made[2]
    assert choose(place, sequence=made[2].sequence - 1) == made[1]
    assert choose(place, time=made[1].time) == made[1]
    with pytest.raises(NotFound, match="the oldest one, number 1, ends at the sequence"):
        choose(place, time=made[0].time - 1)
    with pytest.raises(NotFound, match="there is no backup in"):
        choose(open_store(str(tmp_path / "nothing")))


def test_what_no_other_backup_has_goes_with_one(tmp_path: Path, place: ObjectStore) -> None:
    with opened(tmp_path / "one") as engine:
        for number in range(4):
            write(engine, number)
            engine.tidy()
            engine.backup(place)
        write(engine, 4)
        place.put("claims/17000000000000000000-ab", b"")
        with pytest.raises(Conflict, match="is being made"):
            delete(place, [1], now=NOW)
        assert delete(place, [1], now=NOW, force=True) > 0
        with pytest.raises(NotFound, match="no backup 1"):
            delete(place, [1], now=NOW)
        assert beyond(place, 1) == [2, 3]
        delete(place, beyond(place, 1), now=NOW)
        assert whole(place)
        left = choose(place)
        fifth = engine.backup(place)
        assert fifth.number == 5
    restore(place, left, tmp_path / "two")
    with opened(tmp_path / "two") as engine:
        assert values(engine) == [0, 1, 2, 3]


def objects(tmp_path: Path, kind: str) -> Path:
    return next(one for one in sorted((tmp_path / "backups").rglob("*")) if one.is_file() and kind in str(one))


@pytest.mark.parametrize(
    ("kind", "damage", "said"),
    [
        (".parquet", "flip", "is damaged: its checksum"),
        (".parquet", "cut", "bytes and must have"),
        (".parquet", "remove", "is missing"),
        ("parts/files", "flip", "is damaged"),
        ("parts/state", "remove", "is missing"),
        ("manifests/", "flip", "is damaged"),
        ("manifests/", "remove", "is missing"),
        ("backups/0", "flip", "is damaged"),
    ],
)
def test_damage_is_named_and_never_restored(
    tmp_path: Path, place: ObjectStore, kind: str, damage: str, said: str
) -> None:
    with opened(tmp_path / "one") as engine:
        engine.create_database("d")
        engine.create_trigger(database="d", name="count", plugin="count", spec="table:cpu")
        write(engine, *range(50))
        while not engine.view().state.spaces:
            engine.write("cpu v=1", database="d")
        engine.backup(place)
    path = objects(tmp_path / "backups" / "..", kind)
    data = bytearray(path.read_bytes())
    match damage:
        case "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-10])
        case "remove":
            path.unlink()
    problems: list[str] = []
    try:
        for _, found in verify(place):
            problems += found
        restore(place, choose(place), tmp_path / "two")
    except DataCorruption as error:
        problems.append(error.message)
    else:
        pytest.fail("a damaged backup was restored")
    assert any(said in one for one in problems), problems
    if (tmp_path / "two").exists():
        with pytest.raises(WalmillError, match="run the same `walmill backup restore` again"):
            opened(tmp_path / "two")


def test_a_restore_that_was_broken_off_goes_on(tmp_path: Path, place: ObjectStore) -> None:
    with opened(tmp_path / "one") as engine:
        for number in range(5):
            write(engine, number)
            engine.snapshot()
        first = engine.backup(place)
        write(engine, 5)
        second = engine.backup(place)
    directory = tmp_path / "two"

    def stop(progress: Progress) -> None:
        if progress.objects > 2:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        restore(place, first, directory, stop)
    with pytest.raises(DataCorruption, match="that was broken off"):
        opened(directory)
    with pytest.raises(Conflict, match="another restore was broken off in it"):
        restore(place, second, directory)
    said: list[Progress] = []
    restore(place, first, directory, said.append)
    assert said[-1].copied_bytes < said[-1].total_bytes
    with opened(directory) as engine:
        assert values(engine) == [0, 1, 2, 3, 4]
        with pytest.raises(Conflict, match="not empty"):
            restore(place, first, directory)


def test_a_backup_that_was_broken_off_does_not_count(tmp_path: Path, place: ObjectStore) -> None:
    def stop(progress: Progress) -> None:
        raise Stopped("enough")

    with opened(tmp_path / "one") as engine:
        write(engine, 1)
        with pytest.raises(Stopped):
            engine.backup(place, stop)
        assert list(descriptions(place)) == []
        said: list[Progress] = []
        made = engine.backup(place, said.append)
        assert (made.number, said[-1].copied_bytes < said[-1].total_bytes) == (1, True)
        assert whole(place)


def test_a_place_holds_backups_of_one_directory(tmp_path: Path, place: ObjectStore) -> None:
    for name in ("one", "two"):
        with opened(tmp_path / name) as engine:
            if name == "two":
                write(engine, 1)
                with pytest.raises(Conflict, match="a backup of another data directory"):
                    engine.backup(place)
            else:
                with pytest.raises(Conflict, match="nothing was ever committed"):
                    engine.backup(place)
                write(engine, 1)
                engine.backup(place)
    assert whole(place)
    with (
        Engine.open(discover_plugins=False) as memory,
        pytest.raises(Conflict, match="in memory"),
    ):
        memory.backup(place)


def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path, place: ObjectStore) -> None:
    with opened(tmp_path / "one") as engine:
        write(engine, 1)
        made = engine.backup(place)
    data = json.loads(bytes(place.get(made.path)))
    del data["crc"]
    newer = Description(**{**data, "format": 2, "engine": "9.9"})
    with pytest.raises(DataCorruption, match=r"format 2, made by Walmill 9\.9"):
        Description.decode(newer.path, newer.encode())
    later = Description(**{**data, "layout": 7, "engine": "9.9"})
    with pytest.raises(DataCorruption, match=r"the format 7 of data directories, made by Walmill 9\.9"):
        restore(place, later, tmp_path / "two")
