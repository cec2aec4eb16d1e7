"""A whole engine, compared with a dict: whatever is written, stored, joined, cleaned up, stopped or copied in whatever order."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from walmill.cache.state import trigger_space
from walmill.databases import Gone
from walmill.engine import Engine
from walmill.errors import Conflict
from walmill.snapshot.compact import Bounds
from walmill.snapshot.due import Limits
from walmill.snapshot.names import DAY
from walmill_hookspecs import Context, WriteBatch, hookimpl
from walmill_worker.values import decode

DATABASE = "d"
TAGS = ("a", "b", "c")
FIELDS = ("i", "f", "s")
EAGER = Bounds(rows=1000, bytes=2**20, files=2, growth=10**6)

Identity = tuple[Any, ...]
Rows = dict[Identity, dict[str, Any]]


class Copy:
    """Copies what is written, and counts it: both in the commit that moves the cursor."""

    @hookimpl
    def on_write(self, batch: WriteBatch, ctx: Context[Any]) -> None:
        ctx.cache.incr("rows", batch.num_rows)
        rows = [{name: value for name, value in row.items() if value is not None} for row in batch.tables["src"].rows()]
        for row in rows:
            ctx.write([row], table="copy", tags=[name for name in TAGS if name in row])


def open_engine(directory: Path, snapshots: Limits) -> Engine:
    engine = Engine.open(
        data_dir=directory,
        discover_plugins=False,
        segment_bytes=2**16,
        joins=EAGER,
        join_rate=0,
        snapshots=snapshots,
    )
    engine.register(Copy, name="copy")
    return engine


def line(table: str, row: dict[str, Any]) -> str:
    tags = "".join(f",{name}={row[name]}" for name in TAGS if row[name] is not None)
    fields = {"i": "i={}i", "f": "f={}", "s": 's="{}"'}
    said = ",".join(fields[name].format(row[name]) for name in FIELDS if row[name] is not None)
    return f"{table}{tags} {said} {row['time']}"


def merge(model: Rows, row: dict[str, Any]) -> None:
    kept = model.setdefault((*(row[name] for name in TAGS), row["time"]), {})
    kept.update({name: row[name] for name in FIELDS if row[name] is not None})


def content(found: Any) -> Rows:
    """What a query gave, by identity; an identity that comes twice fails."""
    rows: Rows = {}
    for one in found.drop_columns(["time"]).to_pylist():
        key = (*(one.get(name) for name in TAGS), one["t"])
        assert key not in rows, f"{key} comes twice"
        rows[key] = {name: one[name] for name in FIELDS if one.get(name) is not None}
    return rows


def copy_if_there(source: str, to: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a segment that is released meanwhile
        shutil.copy(source, to)


def copy_moment(directory: Path, to: Path) -> None:
    """A copy of a data directory as it is while an engine works: of what only grows, the ends first."""
    for part in ("wal", "objects/manifests", "objects/parts", "objects/tables"):
        if (directory / part).exists():
            shutil.copytree(directory / part, to / part, copy_function=copy_if_there)
    shutil.copy(directory / "walmill.json", to)


ROW = st.fixed_dictionaries(
    {
        "a": st.sampled_from(["x", "x", "x", "y", None]),
        "b": st.sampled_from([None, None, None, None, "p"]),
        "c": st.sampled_from([None] * 9 + ["q"]),
        "i": st.integers(0, 9) | st.none(),
        "f": st.none() | st.sampled_from([0.5, 1.5]),
        "s": st.none() | st.sampled_from(["u", "v", "w" * 20_000]),
        # few, so that identities come again
        "time": st.sampled_from([0, 1, 2, 30 * DAY, 33 * DAY]),
    }
).filter(lambda row: any(row[name] is not None for name in FIELDS))
TABLE = st.sampled_from(["src", "src", "other"])
THEN = st.sampled_from(["nothing", "snapshot", "join", "restart", "crash", "snapshot, crash"])


class Whole(RuleBasedStateMachine):
    """SQL gives the rows of the dict after every step, and the trigger has seen each row once."""

    snapshots = Limits()

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="walmill-model-"))
        self.number = 0
        self.model: dict[str, Rows] = {"src": {}, "other": {}}
        self.written = 0
        self.now = 41 * DAY
        self.held: list[tuple[Any, Rows]] = []
        self.deleted: list[Rows] = []
        self.engine = open_engine(self.directory, self.snapshots)
        self.engine.create_trigger(database=DATABASE, name="copy", plugin="copy", spec="table:src")

    @property
    def directory(self) -> Path:
        return self.place / str(self.number)

    @rule(table=TABLE, rows=st.lists(ROW, min_size=2, max_size=6), then=THEN, data=st.data())
    def write(self, table: str, rows: list[dict[str, Any]], then: str, data: st.DataObject) -> None:
        """Every step writes something, or few steps would have much to lose."""
        self.engine.write("\n".join(line(table, row) for row in rows), database=DATABASE)
        for row in rows:
            merge(self.model[table], row)
        self.written += len(rows) if table == "src" else 0
        self.compare(table, data)
        match then:
            case "snapshot":
                self.snapshot(data)
            case "join":
                self.snapshot(data)
                self.join_and_clean_up(data)
            case "restart":
                self.restart(data)
            case "crash":
                self.crash(data)
            case "snapshot, crash":
                self.snapshot(data)
                self.crash(data)

    @rule(table=TABLE, count=st.integers(1, 3))
    def write_in_order(self, table: str, count: int) -> None:
        rows = []
        for _ in range(count):
            self.now += 1
            rows.append({**dict.fromkeys((*TAGS, *FIELDS)), "a": "x", "i": 1, "time": self.now})
        self.engine.write("\n".join(line(table, row) for row in rows), database=DATABASE)
        for row in rows:
            merge(self.model[table], row)
        self.written += len(rows) if table == "src" else 0

    def snapshot(self, data: st.DataObject) -> None:
        sequence = self.engine.view().sequence
        manifest = self.engine.snapshot(20)
        if manifest is not None:
            assert manifest.sequence >= sequence
        for table in self.model:
            self.compare(table, data)

    def join_and_clean_up(self, data: st.DataObject) -> None:
        self.engine.tidy()
        for table in self.model:
            self.compare(table, data)

    @rule(table=TABLE)
    def begin_to_read(self, table: str) -> None:
        if self.model[table] and len(self.held) < 2:
            rows = {key: dict(values) for key, values in self.model[table].items()}
            stream = self.engine.stream(f"SELECT *, CAST(time AS BIGINT) AS t FROM {table}", database=DATABASE)
            self.held.append((stream, rows))

    @rule()
    def read_what_was_begun(self) -> None:
        while self.held:
            stream, rows = self.held.pop()
            with stream:
                assert content(stream.read_all()) == rows

    @precondition(lambda self: self.model["other"])
    @rule(hard=st.booleans())
    def delete_a_table(self, hard: bool) -> None:
        self.engine.delete_table(DATABASE, "other", Gone(after=0) if hard else None)
        if not hard:
            self.deleted.append(self.model["other"])
        self.model["other"] = {}
        assert "other" not in self.engine.view().tables_of(DATABASE)

    @precondition(lambda self: self.deleted)
    @rule()
    def restore_a_table(self) -> None:
        if self.model["other"]:
            with pytest.raises(Conflict):
                self.engine.restore_table(DATABASE, "other")
            return
        self.engine.restore_table(DATABASE, "other")
        self.model["other"] = self.deleted.pop()
        assert self.rows_of("other") == self.model["other"]

    @rule()
    def wait_for_the_trigger(self) -> None:
        self.settle()

    def restart(self, data: st.DataObject) -> None:
        self.read_what_was_begun()
        assert self.engine.close(20)
        self.engine = open_engine(self.directory, self.snapshots)
        self.recovered(data)

    def crash(self, data: st.DataObject) -> None:
        self.read_what_was_begun()
        before = self.directory
        self.number += 1
        self.directory.mkdir()
        copy_moment(before, self.directory)
        self.engine.close(20)
        shutil.rmtree(before)
        self.engine = open_engine(self.directory, self.snapshots)
        self.recovered(data)

    def recovered(self, data: st.DataObject) -> None:
        for table in self.model:
            self.compare(table, data)
        if data.draw(st.booleans()):
            self.settle()

    def settle(self) -> None:
        """The trigger catches up; each row was counted once, however often the engine ended meanwhile."""
        until = time.monotonic() + 60
        while self.counted() < self.written or self.engine.trigger(DATABASE, "copy")["lag_commits"]:
            assert time.monotonic() < until, (self.counted(), self.written, self.engine.trigger(DATABASE, "copy"))
            time.sleep(0.002)
        assert self.counted() == self.written
        if self.written:
            assert self.rows_of("copy") == self.model["src"]

    def counted(self) -> int:
        """What the plugin says that it saw."""
        view = self.engine.view()
        space = view.state.space(trigger_space(view.catalog.trigger(DATABASE, "copy").id))
        entry = space.entries.get("rows")
        return 0 if entry is None else decode(entry.value)

    def rows_of(self, table: str, where: str = "") -> Rows:
        return content(
            self.engine.query(f"SELECT *, CAST(time AS BIGINT) AS t FROM {table} {where}", database=DATABASE)
        )

    def compare(self, table: str, data: st.DataObject) -> None:
        model = self.model[table]
        if not model:
            return
        assert self.rows_of(table) == model
        low = data.draw(st.sampled_from([0, 3, 20 * DAY, 31 * DAY]))
        high = data.draw(st.sampled_from([2, 30 * DAY, 50 * DAY]))
        kind = data.draw(st.sampled_from(["range", "aggregate"]))
        where = f"WHERE time >= to_timestamp_nanos({low}) AND time <= to_timestamp_nanos({high})"
        inside = {key: values for key, values in model.items() if low <= key[-1] <= high}
        if kind == "range":
            assert self.rows_of(table, where) == inside
            return
        # a tag that not all tables have is left out
        found = self.engine.query(
            f"SELECT count(*) AS n, max(CAST(time AS BIGINT)) AS t FROM {table} {where}", database=DATABASE
        ).to_pylist()
        assert found == [{"n": len(inside), "t": max((key[-1] for key in inside), default=None)}]

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            self.read_what_was_begun()
            self.settle()
        finally:
            self.engine.close(20)
            shutil.rmtree(self.place)


TestWhole = Whole.TestCase
TestWhole.settings = settings(max_examples=18, stateful_step_count=12)


class Busy(Whole):
    """The same while the engine makes snapshots, joins and cleans up by itself, all the time, between and beside the steps."""

    snapshots = Limits(age=0)

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        for name, seconds in (("TICK", 0.002), ("TIDY", 0.001), ("SWEEP", 0.004), ("RELEASE", 0.001)):
            self.patch.setattr(f"walmill.keeper.{name}_SECONDS", seconds)
        super().begin()

    def crash(self, data: st.DataObject) -> None:
        """A copy would be of more than one moment: tests/crash kills such an engine."""
        self.restart(data)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.patch.undo()


TestBusy = Busy.TestCase
TestBusy.settings = settings(max_examples=10, stateful_step_count=14)
