"""What an engine that runs for long deletes by itself, and what it keeps for whoever still reads."""

from __future__ import annotations

import gc
import time
from pathlib import Path

from walmill.databases import Gone
from walmill.engine import Engine
from walmill.objects.local import LocalStore
from walmill.snapshot.compact import Bounds


def test_old_manifests_go_while_the_engine_runs_but_for_those_that_a_query_reads_by(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "objects"))

    def manifests() -> list[int]:
        return [int(path[-20:]) for path, _ in store.list("manifests")]

    def files() -> int:
        return len(list(store.list("tables")))

    with Engine.open(data_dir=tmp_path, discover_plugins=False, joins=Bounds(files=2)) as engine:

        def one_more(number: int) -> None:
            engine.write(f"t n={number}i {number}", database="d")
            engine.snapshot(10)

        for number in range(5):
            one_more(number)
        assert (manifests(), files()) == ([1, 2, 3, 4, 5], 5)
        with engine.stream("SELECT n + 0 AS n FROM t ORDER BY n", database="d") as stream:
            engine.tidy()
            gc.collect()
            engine.tidy()
            assert manifests() == [5, 6]
            assert files() == 5 + 1
            assert stream.read_all()["n"].to_pylist() == [0, 1, 2, 3, 4]
        del stream
        one_more(5)
        gc.collect()
        engine.tidy()
        # the view of the mill, or that of a pool thread, may be the one before for a moment
        gc.collect()
        engine.tidy()
        (newest,) = manifests()
        assert newest >= 7
        assert files() <= 2


def test_a_log_that_is_released_gives_its_space_back_though_nobody_writes(tmp_path: Path) -> None:
    """A file that is removed keeps its space as long as somebody maps it."""

    def mapped() -> set[str]:
        """The segments of this log that are mapped and removed."""
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line for line in lines if str(tmp_path) in line and line.endswith("(deleted)")}

    with Engine.open(data_dir=tmp_path, discover_plugins=False, segment_bytes=2**16) as engine:
        for number in range(20):
            engine.write(f'big n={number},s="{"x" * 30_000}" {number}', database="d")
        engine.query("SELECT n FROM big", database="d")
        engine.delete_table("d", "big", Gone(after=0))
        engine.snapshot()
        until = time.monotonic() + 60
        while mapped() or len(engine.segments) > 2:
            assert time.monotonic() < until, mapped()
            gc.collect()
            time.sleep(0.01)
