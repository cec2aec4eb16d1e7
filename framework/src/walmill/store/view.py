"""A view: everything at one sequence. Immutable; publishing one is one assignment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
from attrs import evolve, field, frozen
from rpds import HashTrieMap

from walmill.buffer.source import Locate, TableSource, no_store
from walmill.buffer.table import TableBuffer, gather
from walmill.cache.state import State, backfill_space, database_space, trigger_space
from walmill.model.catalog import Catalog, Database
from walmill.model.cursor import Cursor
from walmill.model.files import DataFile
from walmill.store.commit import Commit

EARLIEST = -(2**63)


@frozen
class View:
    """Everything at one sequence.

    Attributes:
        sequence: All commits up to this one are in it, and no other.
        time: Commit time of that commit, ns.
        catalog: The definitions.
        tables: The rows that are in no file, by id of table; a table without such rows has no entry.
        files: The files, by id of table, in the order of their sequences; a table without files has no entry, and one that was
            dropped may still have one.
        held: As long as somebody has this, its files are not deleted.
        cursors: How far each trigger is, by id.
        state: The state of plugins.
    """

    sequence: int = 0
    time: int = 0
    catalog: Catalog = field(factory=Catalog)
    tables: HashTrieMap[int, TableBuffer] = field(factory=HashTrieMap)
    files: Mapping[int, tuple[DataFile, ...]] = field(factory=dict)
    cursors: HashTrieMap[int, Cursor] = field(factory=HashTrieMap)
    state: State = field(factory=State)
    held: object = None

    def decide(self, commit: Commit) -> View:
        """This view with a commit's definitions, cursor and state, still without its rows.

        The committer decides on the next commit against this; `store_rows` adds what the log then holds.
        """
        catalog, cursors, state = self.catalog, self.cursors, self.state
        for definition in commit.definitions:
            if definition["op"] == "drop_trigger":
                cursors = cursors.discard(definition["id"])
                state = state.drop(trigger_space(definition["id"])).drop(backfill_space(definition["id"]))
            elif definition["op"] == "drop_database":
                dropped = catalog.databases[definition["id"]]
                for trigger in dropped.triggers.values():
                    cursors = cursors.discard(trigger)
                    state = state.drop(trigger_space(trigger)).drop(backfill_space(trigger))
                state = state.drop(database_space(dropped.id))
            catalog = catalog.apply(definition)
        if commit.cursor is not None:
            cursors = cursors.insert(commit.trigger, commit.cursor)
        for part in commit.state:
            state = state.apply(part.space, part.changes, commit.sequence)
        return evolve(self, sequence=commit.sequence, time=commit.time, catalog=catalog, cursors=cursors, state=state)

    def store_rows(self, commits: list[Commit]) -> View:
        """This view with the rows of commits added, in the order of the log, and dropped tables left out."""
        tables = self.tables
        batches: dict[int, list[pa.RecordBatch]] = {}
        newest: dict[int, int] = {}
        for commit in commits:
            for definition in commit.definitions:
                if definition["op"] in ("drop_database", "drop_table"):
                    gone = [number for number in tables if number not in self.catalog.tables]
                    for number in gone:
                        tables = tables.remove(number)
            for part in commit.rows:
                if part.table in self.catalog.tables:  # else it was dropped by a later commit of the same frame
                    batches.setdefault(part.table, []).append(part.batch)
                    newest[part.table] = commit.sequence
        for number, added in batches.items():
            schema = self.catalog.tables[number].schema
            buffer = tables.get(number)
            if buffer is None:
                buffer = TableBuffer.empty(schema)
            for batch in gather(added):
                buffer = buffer.append(batch, schema, newest[number])
            tables = tables.insert(number, buffer)
        return evolve(self, tables=tables)

    def store_files(
        self,
        files: Mapping[int, tuple[DataFile, ...]],
        held: object,
        stored: Mapping[int, TableBuffer],
        newest: Mapping[int, int],
    ) -> View:
        """This view with other files, and without the rows in memory that are in files now. Called by the committer only.

        Args:
            files: The files, by id of table.
            held: What keeps them from being deleted.
            stored: The snapshots of tables, earlier ones of this view's, whose rows are in the files and were not before.
            newest: The newest time of the rows in files, by id of table, ns.
        """
        tables = self.tables
        for number, buffer in stored.items():
            grown = tables.get(number)
            if grown is not None and buffer.num_rows:
                tables = tables.insert(number, grown.behind(buffer.num_rows, newest.get(number)))
        return evolve(self, tables=tables, files=files, held=held)

    def move_cursors(self, moves: Mapping[int, Cursor]) -> View:
        """This view with cursors moved that no commit moves.

        What a commit finished meanwhile stays finished: a cursor never moves back. Only the due time of a schedule may, when
        its clock was set back.
        """
        cursors = self.cursors
        for trigger, cursor in moves.items():
            if trigger in self.catalog.triggers:
                known = cursors.get(trigger) or Cursor()
                cursors = cursors.insert(trigger, evolve(cursor.move(known.through, known.done), fired=cursor.fired))
        return evolve(self, cursors=cursors)

    def tables_of(self, database: str, locate: Locate = no_store, now: int | None = None) -> Tables:
        """The tables of a database, by name, looked up when they are asked for; empty ones as well.

        Args:
            database: Name of the database.
            locate: Gives the local path of a file.
            now: Wall-clock time, ns: rows that have expired by then are left out. None leaves out none.

        Raises:
            NotFound: If there is no such database.
        """
        return Tables(self, self.catalog.database(database), locate, now)


class Tables(Mapping[str, TableSource]):
    """The tables of one database in one view.

    Args:
        view: The view.
        database: The database.
        locate: Gives the local path of a file.
        now: Wall-clock time, ns: rows that have expired by then are left out. None leaves out none.
    """

    __slots__ = ("_database", "_locate", "_now", "_view")

    def __init__(self, view: View, database: Database, locate: Locate = no_store, now: int | None = None) -> None:
        self._view = view
        self._database = database
        self._locate = locate
        self._now = now

    def __getitem__(self, name: str) -> TableSource:
        number = self._database.tables[name]
        buffer = self._view.tables.get(number)
        if buffer is None:
            buffer = TableBuffer.empty(self._view.catalog.tables[number].schema)
        period = None if self._now is None else self._view.catalog.period_of(number)
        cut_off = None if self._now is None or period is None else max(EARLIEST, self._now - period)
        return TableSource(buffer, self._view.files.get(number) or (), self._locate, cut_off)

    def __iter__(self) -> Iterator[str]:
        return iter(self._database.tables)

    def __len__(self) -> int:
        return len(self._database.tables)
