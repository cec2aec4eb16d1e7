"""Caches of values: created and deleted. Decided on a draft, like everything that changes."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from walmill.errors import Conflict, InvalidRequest, NotFound
from walmill.ingest.names import check_table_name
from walmill.model.catalog import Catalog, Table
from walmill.model.schema import TIME
from walmill.model.valuecache import Kind, ValueCache
from walmill.settings.nearest import did_you_mean
from walmill.store.draft import Draft
from walmill.units import HOUR

TTL = 4 * HOUR
MAX_AGE = 24 * HOUR
KEYS = ("string", "int64", "uint64", "bool")
"""Types of fields that a key may have, beside tags."""


@frozen(kw_only=True)
class NewCache:
    """What is asked for.

    Attributes:
        kind: `last` or `distinct`.
        database: Name of the database.
        table: Name of the table.
        name: Its name; None makes one of table and columns.
        columns: As in `ValueCache`; None for the tags of the table (`last`).
        values: As in `ValueCache`.
        count: As in `ValueCache`.
        ttl: As in `ValueCache`.
        most: As in `ValueCache`.
    """

    kind: Kind
    database: str
    table: str
    name: str | None = None
    columns: Sequence[str] | None = None
    values: Sequence[str] | None = None
    count: int = 1
    ttl: int | None = None
    most: int = 100_000


def create(draft: Draft, new: NewCache) -> ValueCache:
    """Creates a cache.

    Raises:
        NotFound: If there is no such database or table.
        InvalidRequest: With all problems at once.
        Conflict: If there is one of that name.
    """
    table = draft.catalog.table(new.database, new.table)
    problems = _problems(new, table)
    if problems:
        raise InvalidRequest("; ".join(problems))
    columns = tuple(new.columns or ())
    joined = "_".join(columns or table.schema.tags)
    name = new.name or "_".join(filter(None, [new.table, joined, f"{new.kind}_cache"]))
    try:
        check_table_name(name)
    except InvalidRequest as error:
        raise InvalidRequest(f"the name of the cache: {error.message}") from None
    if find(draft.catalog, table, new.kind, name) is not None:
        raise Conflict(f"the table {new.table!r} has a {new.kind} value cache {name!r} already")
    made = ValueCache(
        id=draft.catalog.next_id,
        table_id=table.id,
        kind=new.kind,
        name=name,
        columns=columns or (table.schema.tags if new.columns is None else ()),
        values=None if new.values is None else tuple(new.values),
        count=new.count,
        ttl=new.ttl,
        most=new.most,
    )
    draft.define({"op": "put_cache", "cache": made.to_json()})
    return made


def _problems(new: NewCache, table: Table) -> list[str]:
    schema = table.schema
    known = [*schema.tags, *schema.fields]
    problems = []
    for name in (*(new.columns or ()), *(new.values or ())):
        if name not in known and not (name == TIME and name not in (new.columns or ())):
            problems.append(f"the table {new.table!r} has no column {name!r}; {did_you_mean(name, known)}")
    for name in new.columns or ():
        kind = schema.fields.get(name)
        allowed = KEYS if new.kind == "last" else ("string",)
        if kind is not None and kind not in allowed:
            problems.append(
                f"the column {name!r} is {kind}; "
                + ("a key" if new.kind == "last" else "what is distinct")
                + " is a tag or "
                f"a field of type {', '.join(allowed)}"
            )
    for what, given in (("columns", new.columns), ("values", new.values)):
        if given is not None and len(set(given)) != len(given):
            problems.append(f"a column is named twice among the {what}")
    if new.kind == "distinct" and not new.columns:
        problems.append("name the columns whose combinations are kept")
    if new.count < 1:
        problems.append(f"count={new.count} must be at least 1")
    if new.most < 1:
        problems.append(f"max_cardinality={new.most} must be at least 1")
    if new.ttl is not None and new.ttl < 1:
        problems.append("rows are kept for at least a nanosecond")
    return problems


def delete(draft: Draft, kind: Kind, database: str, table: str, name: str) -> None:
    """Deletes a cache.

    Raises:
        NotFound: If there is none of that name.
    """
    found = find(draft.catalog, draft.catalog.table(database, table), kind, name)
    if found is None:
        raise NotFound(f"the table {table!r} has no {kind} value cache {name!r}; system.{kind}_caches lists them")
    draft.define({"op": "drop_cache", "id": found.id})


def find(catalog: Catalog, table: Table, kind: Kind, name: str | None = None) -> ValueCache | None:
    """A cache of a table: that of a name, or the oldest one."""
    found = [
        one
        for one in catalog.caches.values()
        if one.table_id == table.id and one.kind == kind and name in (None, one.name)
    ]
    return min(found, key=lambda one: one.id, default=None)
