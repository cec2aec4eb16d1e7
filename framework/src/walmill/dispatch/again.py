"""Rows that one trigger is given again: dead letters, and rows of files that the log has not got any more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from attrs import define, field, frozen

from walmill.cache.state import Wish, backfill_space
from walmill.dispatch.history import DEAD_LETTERS
from walmill.errors import Conflict, InvalidRequest, WalmillError
from walmill.ingest.assemble import TableRows
from walmill.ingest.convert import from_rows
from walmill.ingest.precision import Precision
from walmill.ingest.reader import read_rows, scan
from walmill.model.catalog import INTERNAL, Catalog
from walmill.model.schema import TableSchema
from walmill.store.commit import GivenKind
from walmill.store.draft import Draft
from walmill.triggers.manage import replay_trigger

GIVEN_BYTES = 8 * 2**20
"""About so many bytes go into one commit."""


@define(kw_only=True)
class GiveAgain:
    """Rows for one trigger, and what is noted about them: one commit.

    Attributes:
        trigger: Id of the trigger.
        kind: Why it gets them.
        rows: Rows by id of table.
        notes: Rows of `_internal` that say so.
        wishes: Changes of the space that says how far a backfill is.
        then: First and last sequence of the log that the trigger goes through again, once these rows are done.
        first: The first sequence that the log has.
    """

    trigger: int
    kind: GivenKind
    rows: Sequence[tuple[int, pa.RecordBatch]] = ()
    notes: TableRows | None = None
    wishes: Sequence[Wish] = ()
    then: tuple[int, int] | None = None
    first: int = 0
    no_sync: bool = False
    lazy: float = 0.0

    @property
    def size(self) -> int:
        """About how many bytes it will be."""
        return sum(batch.nbytes for _, batch in self.rows)

    def prepare(self, draft: Draft) -> None:
        """Adds them.

        Raises:
            Conflict: If the trigger is not there any more.
        """
        draft.source = "engine"
        trigger = draft.catalog.triggers.get(self.trigger)
        if trigger is None:
            raise Conflict("the trigger was deleted meanwhile")
        for table, batch in self.rows:
            if table in draft.catalog.tables:
                draft.give(self.trigger, self.kind, table, batch)
        if self.notes is not None:
            draft.add_rows(INTERNAL, self.notes)
        if self.wishes:
            draft.change_state(backfill_space(self.trigger), self.wishes)
        if self.then is not None:
            database = draft.catalog.databases[trigger.database_id].name
            replay_trigger(draft, database, trigger.name, *self.then, self.first)


@frozen
class Letters:
    """Dead letters of one batch.

    Attributes:
        rows: The rows by id of table.
        notes: Rows of `_internal.dead_letters` that say when they were given again.
        count: How many rows.
        refused: Why rows cannot be given again, one sentence each.
    """

    rows: Sequence[tuple[int, pa.RecordBatch]]
    notes: TableRows | None
    count: int
    refused: Sequence[str] = field(factory=tuple)


def read_letters(found: pa.Table, database: str, catalog: Catalog, now: int) -> Iterable[Letters]:
    """Dead letters, batch by batch, in the order in which they were written.

    Args:
        found: Rows of `_internal.dead_letters` of one trigger, by time.
        database: Name of the trigger's database.
        catalog: The definitions.
        now: What is noted as the time, ns.
    """
    owner = catalog.database(database)

    def schema_of(name: str) -> TableSchema | None:
        table = catalog.find_table(owner, name)
        return None if table is None else table.schema

    gathered: list[dict[str, Any]] = []
    times = found.column("time").cast(pa.int64()).to_pylist()
    for row, time in zip(found.drop_columns(["time"]).to_pylist(), times, strict=True):
        if gathered and gathered[-1]["run_key"] != row["run_key"]:
            yield _letters(gathered, owner.tables, schema_of, now)
            gathered = []
        gathered.append({**row, "time": time})
    if gathered:
        yield _letters(gathered, owner.tables, schema_of, now)


def _letters(
    rows: Sequence[dict[str, Any]],
    tables: Mapping[str, int],
    schema_of: Callable[[str], TableSchema | None],
    now: int,
) -> Letters:
    refused: list[str] = []
    made: dict[int, list[pa.RecordBatch]] = {}
    notes: list[dict[str, Any]] = []
    for row in rows:
        name = row["table"]
        try:
            batch = _batch(name, row["line"], schema_of(name))
        except WalmillError as error:
            refused.append(f"{row['line'][:60]!r}: {error.message}")
            continue
        made.setdefault(tables[name], []).append(batch)
        notes.append(
            {
                "database": row["database"],
                "trigger": row["trigger"],
                "table": name,
                "replayed_at": now,
                "time": row["time"],
            }
        )
    joined = [(table, _joined(batches)) for table, batches in made.items()]
    noted = None
    if notes:
        batch = from_rows(notes, DEAD_LETTERS.name, DEAD_LETTERS, DEAD_LETTERS.tags, default_time=0).batch
        noted = TableRows(DEAD_LETTERS.name, DEAD_LETTERS.tags, DEAD_LETTERS.fields, batch)
    return Letters(joined, noted, len(notes), refused)


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    table = pa.concat_tables([pa.Table.from_batches([one]) for one in batches], promote_options="default")
    return table.combine_chunks().to_batches()[0]


def _batch(name: str, line: str, schema: TableSchema | None) -> pa.RecordBatch:
    """The row of a letter.

    Raises:
        WalmillError: If it cannot be one of its table's any more.
    """
    if schema is None:
        raise InvalidRequest(f"there is no table {name!r} any more")
    if line.startswith("{"):
        try:
            data = json.loads(line)
            row = {**data["tags"], **data["fields"], "time": data["time"]}
        except (ValueError, KeyError, TypeError):
            raise InvalidRequest("the letter is cut off") from None
        found = from_rows([row], name, schema, schema.tags, default_time=0)
    else:
        scanned = scan(line.encode("utf-8", "surrogatepass"), precision=Precision.NANOSECOND, default_time=0)
        read = read_rows(scanned, lambda asked: schema if asked == name else None, accept_partial=False)
        if read.errors:
            raise InvalidRequest(read.errors[0].message)
        if list(read.tables) != [name]:
            raise InvalidRequest("the letter is cut off")
        found = read.tables[name]
    if found.new_tags or found.new_fields:
        raise InvalidRequest(
            f"the table {name!r} has no column {', '.join([*found.new_tags, *found.new_fields])} any more"
        )
    return found.batch
