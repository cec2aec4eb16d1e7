"""An engine against a plain Python model: writes, definitions, state, restarts, power loss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from walmill.cache.state import Wish, database_space
from walmill.databases import Gone, drop_overdue
from walmill.engine import Engine
from walmill.errors import Conflict, NotFound, Unavailable, WalmillError
from walmill.store.draft import Draft
from walmill.store.submission import Define
from walmill.testing.clock import ManualClock
from walmill.testing.fs import FaultyFS
from walmill.units import HOUR
from walmill_hookspecs import hookimpl
from walmill_worker.values import decode, encode

KINDS = {"float64": "1.5", "int64": "7i", "bool": "t", "string": '"s"'}
names = st.sampled_from(["a", "b", "c"])
tables = st.sampled_from(["cpu", "mem", "disk"])
databases = st.sampled_from(["d", "e"])
lines = st.lists(
    st.tuples(
        tables,
        st.lists(names, max_size=2, unique=True),
        st.sampled_from(["x", "y", "a"]),
        st.sampled_from(sorted(KINDS)),
    ),
    min_size=1,
    max_size=5,
)


class Quiet:
    """A plugin whose triggers nothing fires."""

    @hookimpl
    def on_request(self, request: Any, ctx: Any) -> None:
        raise AssertionError("nobody asks")


class EngineModel(RuleBasedStateMachine):
    """What was acknowledged is there, what was refused is not: now, and after every restart."""

    def __init__(self) -> None:
        super().__init__()
        self.fs = FaultyFS()
        self.clock = ManualClock(1_700_000_000_000_000_000)
        self.time = 0
        self.columns: dict[tuple[str, str], dict[str, str]] = {}
        self.rows: dict[tuple[str, str], int] = {}
        self.made: set[str] = set()
        self.triggers: dict[tuple[str, str], str] = {}
        self.state: dict[str, dict[str, int]] = {}
        self.deleted: dict[str, list[Any]] = {}

    @initialize()
    def open(self) -> None:
        self.engine = Engine.open(
            discover_plugins=False, fs=self.fs, clock=self.clock, segment_bytes=64 * 1024, flush_interval=0.0
        )
        self.engine.register(Quiet, name="quiet")

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.fs.clear()
            self.engine.close(5.0)

    # ---- the model of a write

    def _expect(
        self, database: str, given: list[Any], accept_partial: bool
    ) -> tuple[int, dict[tuple[str, str], dict[str, str]]]:
        """How many lines are accepted, and the columns afterwards."""
        columns = {key: dict(value) for key, value in self.columns.items()}
        accepted = 0
        for table, tags, field, kind in given:
            if field in tags:  # one name for a tag and a field
                if not accept_partial:
                    return 0, self.columns
                continue
            known = columns.get((database, table), {})
            wanted = {**dict.fromkeys(tags, "tag"), field: kind}
            if any(known.get(name, one) != one for name, one in wanted.items()):
                if not accept_partial:
                    return 0, self.columns
                continue
            columns[database, table] = {**known, **wanted}
            accepted += 1
        return accepted, columns

    def _body(self, given: list[Any]) -> str:
        made = []
        for table, tags, field, kind in given:
            self.time += 1
            made.append(f"{table}{''.join(f',{tag}=v' for tag in tags)} {field}={KINDS[kind]} {self.time}")
        return "\n".join(made)

    @rule(database=databases, given=lines, accept_partial=st.booleans())
    def write(self, database: str, given: list[Any], accept_partial: bool) -> None:
        accepted, columns = self._expect(database, given, accept_partial)
        result = self.engine.write(self._body(given), database=database, accept_partial=accept_partial)
        assert result.rows == accepted
        assert bool(result.errors) == (accepted < len(given))
        self._accept(database, given, columns)

    def _accept(self, database: str, given: list[Any], columns: dict[tuple[str, str], dict[str, str]]) -> None:
        before = self.columns
        self.columns = {}
        count = dict(self.rows)
        known = {key: dict(value) for key, value in before.items()}
        if columns is before:
            self.columns = before
            return
        for table, tags, field, kind in given:
            key = (database, table)
            wanted = {**dict.fromkeys(tags, "tag"), field: kind}
            have = known.get(key, {})
            if field in tags or any(have.get(name, one) != one for name, one in wanted.items()):
                continue
            known[key] = {**have, **wanted}
            count[key] = count.get(key, 0) + 1
            self.made.add(database)
        self.columns, self.rows = known, count

    @rule(database=databases, given=lines, kind=st.sampled_from(["pwritev", "fdatasync"]))
    def write_to_a_failing_disk(self, database: str, given: list[Any], kind: str) -> None:
        accepted, _ = self._expect(database, given, True)
        self.fs.fail(kind)
        try:
            self.engine.write(self._body(given), database=database)
        except Unavailable:
            assert accepted
        else:
            assert not accepted, "what cannot be made durable is not acknowledged"
        self.fs.clear()

    # ---- definitions

    @rule(database=databases)
    def create_database(self, database: str) -> None:
        try:
            self.engine.create_database(database)
        except Conflict:
            assert database in self.made
        self.made.add(database)

    @rule(database=databases, hard=st.booleans())
    def delete_database(self, database: str, hard: bool) -> None:
        try:
            self.engine.delete_database(database, Gone(after=0) if hard else None)
        except NotFound:
            assert database not in self.made
            return
        self.made.remove(database)
        kept = tuple(
            {key: one.pop(key) for key in list(one) if key[0] == database}  # type: ignore[attr-defined]
            for one in (self.columns, self.rows, self.triggers)
        )
        state = self.state.pop(database, None)
        if not hard:
            self.deleted.setdefault(database, []).append((kept, state))

    @rule(database=databases)
    def restore_database(self, database: str) -> None:
        there = bool(self.deleted.get(database))
        try:
            assert self.engine.restore_database(database) == database
        except NotFound:
            assert not there
        except Conflict:
            assert database in self.made
        else:
            kept, state = self.deleted[database].pop()
            for one, back in zip((self.columns, self.rows, self.triggers), kept, strict=True):
                one.update(back)
            if state is not None:
                self.state[database] = state
            self.made.add(database)

    @precondition(lambda self: self.columns)
    @rule(data=st.data(), hard=st.booleans())
    def delete_table(self, data: st.DataObject, hard: bool) -> None:
        database, table = data.draw(st.sampled_from(sorted(self.columns)))
        self.engine.delete_table(database, table, Gone(after=0) if hard else None)
        columns, rows = self.columns.pop((database, table)), self.rows.pop((database, table))
        with pytest.raises(WalmillError, match="does not exist"):
            self.engine.query(f'SELECT * FROM "{table}"', database=database)
        if hard:
            return
        called = data.draw(st.sampled_from([table, f"{table}_old"]))
        if data.draw(st.booleans()) and (database, called) not in self.columns:
            assert self.engine.restore_table(database, table, new_name=called) == called
            self.columns[database, called], self.rows[database, called] = columns, rows

    @rule()
    def time_passes(self) -> None:
        """All that can be restored is so no longer; whoever keeps the files sees to it."""
        self.clock.advance(73 * HOUR)
        self.engine.define(drop_overdue)
        self.deleted.clear()

    @rule(database=databases, name=names)
    def create_trigger(self, database: str, name: str) -> None:
        try:
            self.engine.create_trigger(database=database, name=name, plugin="quiet", spec=f"request:{database}/{name}")
        except Conflict:
            assert (database, name) in self.triggers
        else:
            assert (database, name) not in self.triggers
            self.triggers[database, name] = "enabled"
        self.made.add(database)

    @rule(database=databases, name=names, what=st.sampled_from(["enable", "disable", "delete"]))
    def change_trigger(self, database: str, name: str, what: str) -> None:
        there = (database, name) in self.triggers
        try:
            if what == "delete":
                self.engine.delete_trigger(database, name, force=True)
            else:
                getattr(self.engine, f"{what}_trigger")(database, name)
        except NotFound:
            assert not there
            return
        except WalmillError:
            assert self.triggers[database, name] == f"{what}d"
            return
        assert there
        if what == "delete":
            del self.triggers[database, name]
        else:
            self.triggers[database, name] = f"{what}d"

    # ---- state

    @rule(database=databases, key=names, by=st.integers(-3, 3))
    def add_to_state(self, database: str, key: str, by: int) -> None:
        def decide(draft: Draft) -> None:
            space = database_space(draft.database(database).id)
            draft.change_state(space, [Wish(key, "incr", by=by)])

        self.engine.submit(Define(decide)).result(10)
        self.made.add(database)
        mine = self.state.setdefault(database, {})
        mine[key] = mine.get(key, 0) + by

    @precondition(lambda self: any(self.state.values()))
    @rule(data=st.data())
    def put_and_delete_state(self, data: st.DataObject) -> None:
        database = data.draw(st.sampled_from(sorted(name for name, kept in self.state.items() if kept)))
        key = data.draw(st.sampled_from(sorted(self.state[database])))
        value = data.draw(st.none() | st.integers(0, 9))
        space = database_space(self.engine.view().catalog.database(database).id)
        version = self.engine.view().state.space(space).entries[key].version
        wish = (
            Wish(key, "delete", version=version) if value is None else Wish(key, "put", encode(value), version=version)
        )
        self.engine.submit(Define(lambda draft: draft.change_state(space, [wish]))).result(10)
        if value is None:
            del self.state[database][key]
        else:
            self.state[database][key] = value

    # ---- ends

    @rule()
    def restart(self) -> None:
        before = self._picture()
        self.engine.close(5.0)
        self.open()
        assert self._picture() == before

    @rule(seed=st.integers(0, 1000))
    def lose_power(self, seed: int) -> None:
        before = self._picture()
        self.engine.close(5.0)
        self.fs.power_loss(seed)
        self.open()
        assert self._picture() == before

    def _picture(self) -> Any:
        view = self.engine.view()
        found = {}
        for database in map(view.catalog.database, view.catalog.names):
            for name, table in view.tables_of(database.name).items():
                schema = table.schema
                found[database.name, name] = (table.buffer.num_rows, schema.tags, tuple(schema.fields.items()))
        state = {
            name: {key: (entry.value, entry.version) for key, entry in space.entries.items()}
            for name, space in view.state.spaces.items()
            if space.size
        }
        return view.sequence, found, state, dict(view.cursors.items()), view.catalog

    @invariant()
    def it_is_what_the_model_says(self) -> None:
        if not hasattr(self, "engine"):
            return
        view = self.engine.view()
        assert set(view.catalog.names) - {"_internal"} == self.made
        assert set(self.engine.databases()) == set(view.catalog.names)
        assert len(view.catalog.databases) == len(view.catalog.names) + sum(map(len, self.deleted.values()))
        mine = {(view.catalog.databases[one.database_id].name, one.schema.name) for one in view.catalog.tables.values()}
        assert mine >= set(self.columns)
        for (database, table), columns in self.columns.items():
            buffer = view.tables_of(database)[table].buffer
            assert {**dict.fromkeys(buffer.schema.tags, "tag"), **buffer.schema.fields} == columns
            assert buffer.num_rows == self.rows[database, table]
        for database in self.made:
            assert set(view.tables_of(database)) == {table for one, table in self.columns if one == database}
        shown = {(one["database"], one["trigger_name"]): one["state"] for one in self.engine.triggers()}
        assert shown == self.triggers
        for database, kept in self.state.items():
            space = view.state.space(database_space(view.catalog.database(database).id))
            assert {key: decode(entry.value) for key, entry in space.entries.items()} == kept


TestEngineModel = EngineModel.TestCase
TestEngineModel.settings = settings(max_examples=35, stateful_step_count=30)
