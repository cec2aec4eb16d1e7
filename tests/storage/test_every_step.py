"""Every single step that an engine takes on its disk is its last before a crash or a loss of power, or fails: all, not some."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from walmill.cache.state import trigger_space
from walmill.engine import Engine
from walmill.errors import Unavailable
from walmill.objects.local import LocalStore
from walmill.snapshot.compact import Bounds
from walmill.snapshot.manifest import load
from walmill.snapshot.names import DAY
from walmill.testing.fs import FaultyFS
from walmill.testing.recording import RecordingFS, Replay, store_files
from walmill_hookspecs import Context, WriteBatch, hookimpl
from walmill_worker.values import decode

pytestmark = pytest.mark.slow

DATABASE = "d"
EAGER = Bounds(files=2, growth=10**6)

Row = tuple[str, int, int | None, str | None]
Rows = dict[tuple[str, int], dict[str, Any]]


class Copy:
    """Copies rows one by one, and counts them."""

    @hookimpl
    def on_write(self, batch: WriteBatch, ctx: Context[Any]) -> None:
        for row in batch.tables["src"].rows():
            ctx.cache.incr("rows", 1)
            values = {name: value for name, value in row.items() if value is not None}
            ctx.write([values], table="copy", tags=["k"])


def line(row: Row) -> str:
    key, at, number, text = row
    fields = [*([] if number is None else [f"n={number}i"]), *([] if text is None else [f's="{text}"'])]
    return f"src,k={key} {','.join(fields)} {at}"


def rows_of(engine: Engine, table: str) -> Rows:
    if table not in engine.view().tables_of(DATABASE):
        return {}
    rows: Rows = {}
    found = engine.query(f"SELECT *, CAST(time AS BIGINT) AS t FROM {table}", database=DATABASE)
    for one in found.drop_columns(["time"]).to_pylist():
        key = (one["k"], one["t"])
        assert key not in rows, f"{key} comes twice"
        rows[key] = {name: one[name] for name in ("n", "s") if one.get(name) is not None}
    return rows


def merged(rows: list[Row]) -> Rows:
    found: Rows = {}
    for key, at, number, text in rows:
        kept = found.setdefault((key, at), {})
        kept.update({name: value for name, value in (("n", number), ("s", text)) if value is not None})
    return found


def counted(engine: Engine) -> int:
    view = engine.view()
    if not view.catalog.triggers:
        return 0
    entry = view.state.space(trigger_space(view.catalog.trigger(DATABASE, "copy").id)).entries.get("rows")
    return 0 if entry is None else decode(entry.value)


def until_copied(engine: Engine, rows: int) -> None:
    until = time.monotonic() + 60
    while counted(engine) < rows or engine.trigger(DATABASE, "copy")["lag_commits"]:
        assert time.monotonic() < until, (counted(engine), rows, engine.trigger(DATABASE, "copy"))
        time.sleep(0.001)
    assert counted(engine) == rows


@define
class Run:
    """One run of the script, and what was promised when.

    Attributes:
        fs: The disk, with all steps.
        writes: The rows of each write, in order.
        sent: For each write the number of steps before it was sent.
        answered: For each write the number of steps when it was acknowledged.
        trigger: The number of steps when the trigger was acknowledged.
        segments: How many segments of the log were released.
    """

    directory: Path
    fs: RecordingFS = field(factory=RecordingFS)
    writes: list[list[Row]] = field(factory=list)
    sent: list[int] = field(factory=list)
    answered: list[int] = field(factory=list)
    trigger: int = 0
    released: int = 0
    joins: int = 0
    swept: int = 0

    def rows(self, writes: int) -> list[Row]:
        """The rows of the first writes."""
        return [row for rows in self.writes[:writes] for row in rows]

    def open(self) -> Engine:
        engine = Engine.open(
            data_dir=self.directory, discover_plugins=False, segment_bytes=2**16, fs=self.fs, joins=EAGER, join_rate=0
        )
        engine.register(Copy, name="copy")
        return engine

    def write(self, engine: Engine, *rows: Row) -> None:
        self.sent.append(len(self.fs.steps))
        self.writes.append(list(rows))
        engine.write("\n".join(map(line, rows)), database=DATABASE)
        self.answered.append(len(self.fs.steps))

    def refused(self, engine: Engine) -> None:
        assert engine.write("src,k=refused n=1.5 7", database=DATABASE).errors

    def snapshot(self, engine: Engine) -> None:
        """With the trigger at rest, so that the log can go."""
        until_copied(engine, len(self.rows(len(self.writes))))
        engine.snapshot(10)

    def close(self, engine: Engine) -> None:
        figures = engine.keeper_figures
        assert figures is not None
        assert figures.failures == 0
        engine.close(10)
        self.released += figures.released
        self.joins += figures.joins
        self.swept += figures.swept

    def script(self) -> None:
        big = "w" * 30_000
        engine = self.open()
        engine.create_trigger(database=DATABASE, name="copy", plugin="copy", spec="table:src")
        self.trigger = len(self.fs.steps)
        self.write(engine, ("a", 1, 1, None), ("b", 1, 1, None))
        self.write(engine, ("a", 2, 2, None), ("a", 40 * DAY, 2, None))
        self.snapshot(engine)
        self.refused(engine)
        self.write(engine, ("a", 1, None, "late"))
        self.write(engine, ("a", 3, 3, big), ("b", 1, 5, None))
        self.write(engine, ("a", 3, 4, big))
        self.snapshot(engine)
        engine.tidy()
        self.write(engine, ("a", 41 * DAY, 2, big))
        self.close(engine)
        engine = self.open()
        self.write(engine, ("c", 0, 0, None))
        self.snapshot(engine)
        self.write(engine, ("c", 0, None, "again"), ("a", 2, 7, None))
        engine.tidy()
        self.snapshot(engine)
        engine.tidy()
        self.close(engine)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("recorded"))
    run.script()
    assert run.released >= 2
    assert run.joins >= 3
    assert run.swept >= 10
    return run


def disks(run: Run, kind: str) -> Iterator[tuple[int, FaultyFS]]:
    """The disk after each step, where it is another than before: as programs saw it, or as it is when power was lost."""
    replay = Replay()
    before: object = None
    for place, step in enumerate(run.fs.steps, 1):
        replay.apply(step)
        disk = replay.disk.copy()
        if kind != "kill":
            disk.power_loss(place if kind == "power, torn" else None)
        now = {path: disk.content(path).rstrip(b"\0") for path in disk.files()}
        if now != before:
            yield place, disk
        before = now


def check(run: Run, place: int, disk: FaultyFS, directory: Path) -> None:
    least = sum(answered <= place for answered in run.answered)
    most = sum(sent < place for sent in run.sent)
    states = [run.rows(count) for count in range(least, most + 1)]
    recover(disk, run.directory, directory, states, trigger=place >= run.trigger)


def recover(disk: FaultyFS, root: Path, directory: Path, states: list[list[Row]], *, trigger: bool = True) -> None:
    """An engine that starts from this disk has the rows of one of the states, goes on, and leaves nothing over."""
    directory.mkdir()
    store_files(disk, str(root), directory)
    engine = Engine.open(data_dir=directory, discover_plugins=False, segment_bytes=2**16, joins=EAGER, join_rate=0)
    try:
        known = DATABASE in engine.databases()
        rows = rows_of(engine, "src") if known else {}
        found = [state for state in states if merged(state) == rows]
        assert found, f"{rows} is neither what was acknowledged nor what was sent"
        done = counted(engine)
        assert (rows_of(engine, "copy") if known else {}) == merged(found[0][:done]), "half an effect"
        written = len(found[0])
        engine.register(Copy, name="copy")
        if not known or not engine.triggers():
            assert not trigger
            assert not rows
            engine.create_trigger(database=DATABASE, name="copy", plugin="copy", spec="table:src")
        for number in (1, 2):
            engine.write(line(("after", number, number, None)), database=DATABASE)
            until_copied(engine, written + number)
            engine.snapshot(10)
        wanted = {**rows, ("after", 1): {"n": 1}, ("after", 2): {"n": 2}}
        assert (rows_of(engine, "src"), rows_of(engine, "copy")) == (wanted, wanted)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            engine.tidy()
            left = objects(directory)
            if left == owned(directory):
                break
            gc.collect()  # somebody still holds a view of before
        assert left == owned(directory)
    finally:
        engine.close(10)
    logs = {one.name for one in (directory / "wal").iterdir() if not one.name.startswith("torn-")}
    assert logs == {"newest", *(segment.name for segment in engine.segments)}


@pytest.fixture(scope="module", autouse=True)
def light_collections() -> Iterator[None]:
    """What other tests left in this process is not looked at: each recovery collects garbage more than once."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def objects(directory: Path) -> set[str]:
    """All that the object store has, unfinished files as well."""
    root = directory / "objects"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def owned(directory: Path) -> set[str]:
    """The newest manifest, and all that it names."""
    current = load(LocalStore(str(directory / "objects")))
    assert current.manifest is not None
    return {
        current.manifest.path,
        *(part.path for listed in current.manifest.parts.values() for part in listed),
        *(file.path for listed in current.files.values() for file in listed),
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "every"),
    [
        ("power", 3),
        ("kill", 6),
        pytest.param("power", 1, marks=pytest.mark.long),
        pytest.param("kill", 1, marks=pytest.mark.long),
        pytest.param("power, torn", 1, marks=pytest.mark.long),
    ],
)
def test_whatever_step_is_the_last_nothing_is_lost_halved_or_left_over(
    recorded: Run, tmp_path: Path, kind: str, every: int
) -> None:
    tried = 0
    for place, disk in islice(disks(recorded, kind), 0, None, every):
        directory = tmp_path / str(place)
        try:
            check(recorded, place, disk, directory)
        except BaseException as error:
            last = recorded.fs.steps[place - 1]
            error.add_note(f"after step {place}: {last.kind} {last.path.removeprefix(str(recorded.directory))}")
            raise
        shutil.rmtree(directory)
        tried += 1
    assert tried > 90 // every


WRITES = ("create", "allocate", "pwritev", "make_directory", "link", "rename")
SYNCS = ("fdatasync", "sync_directory")


class FailingFS(FaultyFS):
    """Fails from one call of some kinds on, or only this one.

    Attributes:
        failed: The call that failed first.
    """

    def __init__(self, kinds: tuple[str, ...], error: int, place: int, *, sticky: bool) -> None:
        super().__init__()
        self.kinds, self.error, self.left, self.sticky = kinds, error, place, sticky
        self.failed: str | None = None
        self.over = False

    def note(self, kind: str, path: str, offset: int = 0, size: int = 0) -> None:
        if kind not in self.kinds or self.over:
            return
        self.left -= 1
        if self.left < 0:
            self.failed = self.failed or f"{kind} {path}"
            self.over = not self.sticky
            raise OSError(self.error, os.strerror(self.error), path)


def tried(disk: FailingFS, action: Callable[[], object]) -> bool:
    """Does something; whoever is refused is told so, and from then on the disk is well again."""
    try:
        action()
    except (Unavailable, OSError):
        assert disk.failed is not None
        disk.over = True
        return False
    return True


def run_on(disk: FailingFS, directory: Path) -> list[Row]:
    """Writes, snapshots, a join and clean-up on a disk that fails somewhere; gives the rows that were acknowledged."""
    fs = RecordingFS(disk)
    big = "w" * 30_000
    kept: list[Row] = []
    opened: list[Engine] = []

    def begin() -> None:
        opened.append(
            Engine.open(
                data_dir=directory, discover_plugins=False, segment_bytes=2**16, fs=fs, joins=EAGER, join_rate=0
            )
        )

    def write(*rows: Row) -> None:
        if tried(disk, lambda: engine.write("\n".join(map(line, rows)), database=DATABASE)):
            kept.extend(rows)

    def rest() -> None:
        """The trigger is done, unless a run of it waits for the disk."""
        until = time.monotonic() + 60
        while disk.failed is None and counted(engine) < len(kept):
            assert time.monotonic() < until
            time.sleep(0.001)

    if not tried(disk, begin):
        begin()
    (engine,) = opened
    try:
        engine.register(Copy, name="copy")
        trigger = partial(engine.create_trigger, database=DATABASE, name="copy", plugin="copy", spec="table:src")
        if not tried(disk, trigger):
            trigger()
        write(("a", 1, 1, None), ("b", 1, 1, None))
        rest()
        tried(disk, lambda: engine.snapshot(10))
        write(("a", 1, None, "late"), ("a", 2, 3, big))
        write(("a", 3, 4, big))
        rest()
        tried(disk, lambda: engine.snapshot(10))
        tried(disk, engine.tidy)
        write(("a", 2, 5, None), ("b", 2, None, big))
        rest()
        tried(disk, lambda: engine.snapshot(10))
        disk.over = disk.over or disk.failed is not None  # there is space again, whoever noticed
        if disk.over:
            rows = ("a", 9, 9, None)
            engine.write(line(rows), database=DATABASE)
            kept.append(rows)
            engine.snapshot(10)
            engine.tidy()
    finally:
        engine.close(10)
    return kept


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kinds", "error", "sticky", "every"),
    [
        pytest.param(WRITES, errno.ENOSPC, True, 1, id="the disk is full", marks=pytest.mark.long),
        pytest.param(WRITES, errno.EIO, False, 1, id="a write fails", marks=pytest.mark.long),
        pytest.param(SYNCS, errno.EIO, False, 5, id="every fifth sync fails"),
        pytest.param(SYNCS, errno.EIO, False, 1, id="a sync fails", marks=pytest.mark.long),
        pytest.param(
            ("unlink", "remove_directory", "truncate"),
            errno.EIO,
            False,
            1,
            id="a removal fails",
            marks=pytest.mark.long,
        ),
    ],
)
def test_whatever_step_fails_the_refused_are_told_and_the_rest_is_kept(
    tmp_path: Path, kinds: tuple[str, ...], error: int, sticky: bool, every: int
) -> None:
    failed: set[str] = set()
    for place in range(0, 1000, every):
        disk = FailingFS(kinds, error, place, sticky=sticky)
        running, after = tmp_path / f"{place}", tmp_path / f"{place}-after"
        running.mkdir()
        try:
            kept = run_on(disk, running)
            if disk.failed is None:
                break
            disk.over = True
            recover(disk, running, after, [kept])
        except BaseException as raised:
            raised.add_note(f"step {place} failed: {disk.failed}")
            raise
        failed.update(Path(disk.failed.partition(" ")[2]).relative_to(running).parts[:1])
        shutil.rmtree(running)
        shutil.rmtree(after)
    else:
        pytest.fail("the script has no end")
    assert failed >= {"wal", "objects"}
