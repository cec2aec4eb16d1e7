"""The rows for one run of `on_write`: made into what the hook gets where it runs, without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import pyarrow as pa
from attrs import define, field

from walmill.model.catalog import Catalog
from walmill.model.schema import TableSchema
from walmill.store.commit import Commit, GivenPart, RowsPart
from walmill_hookspecs import TableBatch, WriteBatch
from walmill_hookspecs.types import BatchKind
from walmill_worker.batches import columns_of
from walmill_worker.batches import table_batch as made_of


@define(kw_only=True)
class BatchSource:
    """Whole commits for one run.

    Attributes:
        commits: Of one origin and chain, in order.
        tables: Ids of the tables that concern the trigger.
        catalog: The definitions by now.
        database: Name of the database.
        first: First sequence of the batch.
        kind: Why it runs.
        given_to: The trigger that gets rows again; 0 for those that were written.
    """

    commits: Sequence[Commit] = field(repr=False)
    tables: frozenset[int]
    catalog: Catalog = field(repr=False)
    database: str
    first: int
    kind: BatchKind = "live"
    given_to: int = 0

    @property
    def last(self) -> int:
        """Sequence of the last commit."""
        return self.commits[-1].sequence

    @property
    def origin(self) -> str:
        """Who wrote it, as a plugin is told."""
        number = self.commits[0].origin
        if not number:
            return "client"
        maker = self.catalog.triggers.get(number)
        return maker.name if maker is not None else f"trigger {number}"

    def parts(self) -> Mapping[int, list[tuple[Commit, RowsPart | GivenPart]]]:
        """The rows of each table, commit by commit."""
        found: dict[int, list[tuple[Commit, RowsPart | GivenPart]]] = {}
        for commit in self.commits:
            given = [part for part in commit.given if part.to == self.given_to]
            for part in given if self.given_to else commit.rows:
                if part.table in self.tables and part.table in self.catalog.tables:
                    found.setdefault(part.table, []).append((commit, part))
        return found

    def schema(self, table: int) -> TableSchema:
        """The columns of a table by now."""
        return self.catalog.tables[table].schema

    @cached_property
    def made(self) -> WriteBatch:
        """What a hook in this process gets."""
        made = {
            number: table_batch(self.schema(number), [part.batch for _, part in parts])
            for number, parts in self.parts().items()
        }
        return WriteBatch(
            database=self.database,
            first_sequence=self.first,
            last_sequence=self.last,
            origin=self.origin,
            kind=self.kind,
            tables={batch.name: batch for batch in made.values()},
        )


def table_batch(schema: TableSchema, batches: Sequence[pa.RecordBatch]) -> TableBatch:
    """The rows of one table: one chunk for each commit; see `walmill_worker.batches.table_batch`."""
    return made_of(columns_of(schema.name, schema.tags, schema.fields), batches)
