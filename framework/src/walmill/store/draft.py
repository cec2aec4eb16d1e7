"""A draft: one commit while it is being decided, on top of everything that was decided before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from walmill.cache.state import Wish
from walmill.errors import InvalidRequest, TooLarge
from walmill.ingest.assemble import TableRows, too_many_columns
from walmill.ingest.names import COLUMNS_PER_TABLE, check_database_name
from walmill.model.catalog import INTERNAL, Catalog, Database, create_database
from walmill.model.cursor import Cursor
from walmill.model.schema import TIME, FieldType, TableSchema
from walmill.store.commit import Commit, GivenKind, GivenPart, RowsPart, Source, StatePart
from walmill.store.view import View
from walmill.units import DAY

COMMIT_BYTES = 32 * 2**20
"""No commit is larger: what one run writes, or one request brings."""


INTERNAL_RETENTION = 30 * DAY
"""How long what the engine writes about itself is kept, unless somebody says otherwise, ns."""


class SchemaConflict(InvalidRequest):
    """Rows do not fit the schema as it is by now; another commit was faster."""


class Draft:
    """Collects what one commit does. Nothing of it is visible before the commit is in the log.

    Args:
        view: Everything decided so far, also what is not durable yet.
        time: Commit time, ns.

    Attributes:
        catalog: The definitions, with those of this draft.
        source: Who makes the commit.
        origin: Id of the trigger whose run makes it.
        chain: Ids of the triggers through which it came.
        run: Id of the run.
    """

    def __init__(self, view: View, time: int) -> None:
        self.view = view
        self.time = time
        self.catalog: Catalog = view.catalog
        self.source: Source = "client"
        self.origin = 0
        self.chain: tuple[int, ...] = ()
        self.run: str | None = None
        self._definitions: list[dict[str, Any]] = []
        self._rows: dict[int, list[TableRows]] = {}
        self._cursor: tuple[int, Cursor] | None = None
        self._state: list[StatePart] = []
        self._given: list[GivenPart] = []

    def define(self, definition: dict[str, Any]) -> None:
        """Adds a definition."""
        self.catalog = self.catalog.apply(definition)
        self._definitions.append(definition)

    def database(self, name: str) -> Database:
        """The database of a name; created if there is none.

        Raises:
            InvalidRequest: If it would have to be created and the name breaks the rules.
        """
        found = self.catalog.find_database(name)
        if found is None:
            if name != INTERNAL:
                check_database_name(name)
            self.define(
                create_database(self.catalog, name, self.time, INTERNAL_RETENTION if name == INTERNAL else None)
            )
            found = self.catalog.database(name)
        return found

    def schema_of(self, database: str, table: str) -> TableSchema | None:
        """The schema of a table, with what this draft adds."""
        found = self.catalog.find_table(self.catalog.find_database(database), table)
        return None if found is None else found.schema

    def add_rows(self, database: str, rows: TableRows) -> None:
        """Adds rows of a table; the database, the table and columns that are new are created with them.

        Raises:
            SchemaConflict: If a column has another type or kind by now.
        """
        owner = self.database(database)
        table = self.catalog.find_table(owner, rows.name)
        if table is None:
            tags, fields = _columns(rows, TableSchema(rows.name))
            number = self.catalog.next_id
            self.define(
                {"op": "create_table", "id": number, "db": owner.id, "name": rows.name, "tags": tags, "fields": fields}
            )
        else:
            number = table.id
            if rows.new_tags or rows.new_fields:
                _check(rows, table.schema)
                new_tags = [tag for tag in rows.new_tags if tag not in table.schema.tags]
                new_fields = {name: kind for name, kind in rows.new_fields.items() if name not in table.schema.fields}
                if new_tags or new_fields:
                    present, gain = len(table.schema.tags) + len(table.schema.fields), len(new_tags) + len(new_fields)
                    if present + gain > COLUMNS_PER_TABLE:
                        raise SchemaConflict(too_many_columns(rows.name, present, gain))
                    self.define({"op": "add_columns", "id": number, "tags": new_tags, "fields": new_fields})
        self._rows.setdefault(number, []).append(rows)

    def give(self, trigger: int, kind: GivenKind, table: int, rows: pa.RecordBatch) -> None:
        """Has one trigger get rows of a table again; the table stays as it is."""
        self._given.append(GivenPart(table, rows, trigger, kind))

    def move(self, trigger: int, cursor: Cursor) -> None:
        """Sets the cursor of the trigger for which this commit is made."""
        self._cursor = (trigger, cursor)

    def change_state(self, space: str, wishes: Sequence[Wish]) -> None:
        """Changes the plugin state.

        Raises:
            Conflict: If another run changed a key meanwhile.
        """
        changes = self.view.state.resolve(space, wishes, self.time)
        if changes:
            self._state.append(StatePart(space, tuple(changes)))

    def build(self) -> Commit | None:
        """The commit; None if it would do nothing.

        Raises:
            TooLarge: If it passes the limit of a commit.
        """
        if not (self._definitions or self._rows or self._cursor or self._state or self._given):
            return None
        parts = tuple(
            RowsPart(number, rows[0].batch, rows[0].encoded)
            if len(rows) == 1
            else RowsPart(number, join_batches([one.batch for one in rows], self.catalog.tables[number].schema))
            for number, rows in self._rows.items()
        )
        size = sum(part.batch.nbytes for part in parts) + sum(part.batch.nbytes for part in self._given)
        if size > COMMIT_BYTES:
            raise TooLarge(f"a commit of {size:,} bytes is over the limit of {COMMIT_BYTES:,}; write in smaller pieces")
        trigger, cursor = self._cursor if self._cursor is not None else (0, None)
        return Commit(
            sequence=self.view.sequence + 1,
            time=self.time,
            source=self.source,
            origin=self.origin,
            chain=self.chain,
            run=self.run,
            trigger=trigger,
            cursor=cursor,
            definitions=tuple(self._definitions),
            rows=parts,
            state=tuple(self._state),
            given=tuple(self._given),
        )


def _columns(rows: TableRows, schema: TableSchema) -> tuple[list[str], dict[str, FieldType]]:
    """The tags and fields that rows bring to a table that is new to the committer."""
    tags = [tag for tag in rows.new_tags if tag not in schema.tags]
    fields = dict(rows.new_fields)
    for column in rows.batch.schema.names:
        if column != TIME and column not in tags and column not in fields:
            raise SchemaConflict(
                f"the table {rows.name!r} was dropped while rows for it were under way; write them again"
            )
    return tags, fields


def _check(rows: TableRows, schema: TableSchema) -> None:
    for tag in rows.new_tags:
        if tag in schema.fields:
            raise SchemaConflict(
                f"the column {tag!r} of {rows.name!r} is a field of type {schema.fields[tag]} by now and was given as a tag"
            )
    for name, kind in rows.new_fields.items():
        if name in schema.tags:
            raise SchemaConflict(
                f"the column {name!r} of {rows.name!r} is a tag by now and was given as a field of type {kind}"
            )
        if schema.fields.get(name, kind) != kind:
            raise SchemaConflict(
                f"the column {name!r} of {rows.name!r} has the type {schema.fields[name]} by now and was given as {kind}"
            )


def join_batches(batches: Sequence[pa.RecordBatch], schema: TableSchema) -> pa.RecordBatch:
    """Several batches of one table as one, in order, with the columns of all of them in the order of the schema."""
    if len(batches) == 1:
        return batches[0]
    present = {name: field for batch in batches for name, field in zip(batch.schema.names, batch.schema, strict=True)}
    wanted = pa.schema([present[name] for name in schema.column_names() if name in present])
    chunks = []
    for batch in batches:
        have = set(batch.schema.names)
        columns = [
            batch.column(field.name) if field.name in have else pa.nulls(batch.num_rows, field.type) for field in wanted
        ]
        chunks.append(pa.RecordBatch.from_arrays(columns, schema=wanted))
    combined: pa.RecordBatch = pa.Table.from_batches(chunks).combine_chunks().to_batches()[0]
    return combined
