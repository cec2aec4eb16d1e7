"""Deletes the rows that SQL finds: by identity, from all files that can hold it, in one step that everybody sees at once."""

from __future__ import annotations

from attrs import evolve, frozen

from walmill.databases import not_internal
from walmill.errors import InvalidRequest, LimitReached
from walmill.keeper import Keeper
from walmill.model.schema import TIME, TableSchema
from walmill.query.engine import QueryEngine
from walmill.snapshot.rows import Identities
from walmill.store.view import View

MOST_ROWS = 5_000_000
"""Most rows that one call deletes: their tags and times are held in memory."""


@frozen
class Erased:
    """What was deleted, or would be.

    Attributes:
        rows: Number of rows as SQL sees them.
        earliest: Time of the earliest, ns; None if there is none.
        latest: Time of the latest, ns.
    """

    rows: int
    earliest: int | None = None
    latest: int | None = None


def count_rows(
    keeper: Keeper, queries: QueryEngine, view: View, database: str, table: str, where: str, *, now: int
) -> Erased:
    """What `delete_rows` would delete now.

    Raises:
        WalmillError: As it does.
    """
    schema = _schema(view, database, table, where)
    sql = f"SELECT count(*) AS n, min({TIME}) AS a, max({TIME}) AS b FROM {_quoted(schema.name)} WHERE ({where}\n)"  # noqa: S608 - read only
    found = queries.query(view.tables_of(database, keeper.locate, now), sql)
    low, high = (found.column(name).cast("int64")[0].as_py() for name in ("a", "b"))
    return Erased(found.column("n")[0].as_py(), low, high)


def delete_rows(keeper: Keeper, queries: QueryEngine, database: str, table: str, where: str, *, now: int) -> Erased:
    """Deletes rows. All that was committed before is looked at; when it returns they are gone, durably.

    The rows in memory are taken into files first; then each file that may hold one of the identities is written again without
    them. Meanwhile no other snapshot is made: writers go on, and what they write stays, also under an identity that goes.

    Args:
        keeper: Keeps the files.
        queries: Finds the rows.
        database: Name of the database.
        table: Name of the table.
        where: What comes behind WHERE.
        now: Wall-clock time, ns: rows that have expired are not found.

    Raises:
        NotFound: If there is no such database or table.
        Forbidden: For the engine's own database.
        InvalidRequest: If the condition is empty or wrong.
        LimitReached: If it finds more than 5,000,000 rows; then none is deleted.
        Unavailable: If the store does not answer; then none is deleted.
    """
    with keeper.still() as loaded:
        view = evolve(loaded.view, files=loaded.files, held=loaded)
        schema = _schema(view, database, table, where)
        number = view.catalog.table(database, table).id
        keys = ", ".join(_quoted(name) for name in (*schema.tags, TIME))
        sql = f"SELECT {keys} FROM {_quoted(schema.name)} WHERE ({where}\n) LIMIT {MOST_ROWS + 1}"  # noqa: S608 - read only
        found = queries.query(view.tables_of(database, keeper.locate, now), sql)
        if found.num_rows > MOST_ROWS:
            raise LimitReached(
                f"the condition finds more than {MOST_ROWS:,} rows, which is as many as are deleted at once; narrow it, for "
                "example by time, and delete in several steps"
            )
        identities = Identities(found, schema.tags)
        if identities.span is None:
            return Erased(0)
        low, high = identities.span
        keeper.remove(number, low, high, identities)
        return Erased(found.num_rows, low, high)


def _schema(view: View, database: str, table: str, where: str) -> TableSchema:
    not_internal(database, "has rows that go by retention only")
    if not where.strip():
        raise InvalidRequest("the condition is empty; to delete all rows delete the table")
    return view.catalog.table(database, table).schema


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
