"""What the databases consist of: databases, tables, triggers, tokens. Immutable; changed by applying definitions.

A definition is a small dict of JSON types. Definitions are part of commits, so the catalog at a sequence is what the
definitions up to it say. Ids are given once and never used again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import asdict, evolve, field, frozen
from rpds import HashTrieMap

from walmill.errors import Conflict, DataCorruption, NotFound
from walmill.model.schema import TableSchema
from walmill.model.trigger import Trigger
from walmill.model.valuecache import ValueCache

INTERNAL = "_internal"
"""The database in which the engine writes what it observes about itself."""


FOR_EVER = 0
"""A retention period of a table that keeps its rows for ever, whatever its database says."""


@frozen
class Deleted:
    """When something was deleted that can still be restored.

    Attributes:
        at: When, ns.
        until: When its grace ends and its rows are gone, ns; None never.
    """

    at: int
    until: int | None = None

    def to_json(self) -> list[int | None]:
        """As JSON types."""
        return [self.at, self.until]

    @classmethod
    def from_json(cls, data: list[Any] | None) -> Deleted | None:
        """From what `to_json` gave; None for what is not deleted."""
        return None if data is None else cls(*data)


@frozen
class Table:
    """A table: its id, its database, its columns.

    Attributes:
        retention: How long its rows are kept, ns; None as long as its database says, `FOR_EVER` for ever.
        deleted: When it was deleted, if it was.
    """

    id: int
    database_id: int
    schema: TableSchema
    retention: int | None = None
    deleted: Deleted | None = None


@frozen
class Database:
    """A database: its id, its name, the ids of its tables and triggers by name; deleted tables are not among them.

    Attributes:
        retention: How long rows of its tables are kept, ns; None for ever.
        deleted: When it was deleted, if it was.
    """

    id: int
    name: str
    created_at: int = 0
    tables: HashTrieMap[str, int] = field(factory=HashTrieMap)
    triggers: HashTrieMap[str, int] = field(factory=HashTrieMap)
    retention: int | None = None
    deleted: Deleted | None = None


@frozen
class QueryLimits:
    """What one query of a token may take; None where the server's limit is the only one.

    Attributes:
        timeout: ns.
        memory: Bytes, for sorts, joins and groups.
        rows: Of its answer.
        files: That are read for it.
    """

    timeout: int | None = None
    memory: int | None = None
    rows: int | None = None
    files: int | None = None

    def given(self) -> dict[str, int]:
        """Those that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@frozen
class Token:
    """A token as it is kept: its hash, never itself."""

    name: str
    hash: str
    created_at: int
    expires_at: int | None = None
    permissions: tuple[str, ...] = ("admin",)
    limits: QueryLimits = QueryLimits()


@frozen
class Catalog:
    """All definitions at one sequence.

    Attributes:
        next_id: The id that the next database, table or trigger gets.
        generation: Raised by each change of a trigger; tells caches when to look again.
        databases: All databases by id, deleted ones as well.
        names: The ids of those that are not deleted, by name.
        tables: All tables by id, deleted ones as well.
        caches: Caches of values by id.
    """

    next_id: int = 1
    generation: int = 0
    databases: HashTrieMap[int, Database] = field(factory=HashTrieMap)
    names: HashTrieMap[str, int] = field(factory=HashTrieMap)
    tables: HashTrieMap[int, Table] = field(factory=HashTrieMap)
    triggers: HashTrieMap[int, Trigger] = field(factory=HashTrieMap)
    tokens: HashTrieMap[str, Token] = field(factory=HashTrieMap)
    caches: HashTrieMap[int, ValueCache] = field(factory=HashTrieMap)

    def database(self, name: str) -> Database:
        """The database of a name.

        Raises:
            NotFound: If there is none.
        """
        found = self.find_database(name)
        if found is None:
            raise NotFound(f"there is no database {name!r}; `walmill show databases` lists them, a write creates one")
        return found

    def find_database(self, name: str) -> Database | None:
        """The database of a name, or None."""
        number = self.names.get(name)
        return None if number is None else self.databases[number]

    def find_table(self, database: Database | None, name: str) -> Table | None:
        """The table of a name, or None."""
        number = None if database is None else database.tables.get(name)
        return None if number is None else self.tables[number]

    def trigger(self, database: str, name: str) -> Trigger:
        """The trigger of a name.

        Raises:
            NotFound: If there is no such database or trigger.
        """
        number = self.database(database).triggers.get(name)
        if number is None:
            raise NotFound(
                f"there is no trigger {name!r} in the database {database!r}; `walmill show triggers` lists them"
            )
        return self.triggers[number]

    def table(self, database: str, name: str) -> Table:
        """The table of a name.

        Raises:
            NotFound: If there is no such database or table.
        """
        found = self.find_table(self.database(database), name)
        if found is None:
            raise NotFound(
                f"there is no table {name!r} in the database {database!r}; `walmill show tables` lists them, a write creates one"
            )
        return found

    def period_of(self, table: int) -> int | None:
        """How long rows of a table are kept, ns; None for ever."""
        found = self.tables[table]
        period = self.databases[found.database_id].retention if found.retention is None else found.retention
        return period or None

    def tables_of(self, database: Database) -> Iterator[Table]:
        """The tables of a database, by name."""
        for name in sorted(database.tables):
            yield self.tables[database.tables[name]]

    def apply(self, definition: Mapping[str, Any]) -> Catalog:
        """This catalog after one definition.

        Raises:
            DataCorruption: For a definition that this version does not know.
        """
        change = _CHANGES.get(definition["op"])
        if change is None:
            raise DataCorruption(
                f"the log holds the definition {definition['op']!r}, which this version does not know; "
                "open the data directory with the version that wrote it"
            )
        return change(self, definition)


def _create_database(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    made = Database(
        id=d["id"],
        name=d["name"],
        created_at=d.get("at", 0),
        retention=d.get("retention"),
        deleted=Deleted.from_json(d.get("deleted")),
    )
    return evolve(
        catalog,
        next_id=max(catalog.next_id, made.id + 1),
        databases=catalog.databases.insert(made.id, made),
        names=catalog.names.insert(made.name, made.id) if made.deleted is None else catalog.names,
    )


def _drop_database(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    database = catalog.databases[d["id"]]
    tables, triggers = catalog.tables, catalog.triggers
    for number in [one.id for one in tables.values() if one.database_id == database.id]:
        tables = tables.remove(number)
    for number in database.triggers.values():
        triggers = triggers.remove(number)
    return evolve(
        catalog,
        generation=catalog.generation + 1,
        databases=catalog.databases.remove(database.id),
        names=catalog.names if database.deleted else catalog.names.remove(database.name),
        tables=tables,
        triggers=triggers,
        caches=_caches_of(catalog, tables),
    )


def _create_table(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    database = catalog.databases[d["db"]]
    made = Table(
        id=d["id"],
        database_id=database.id,
        schema=TableSchema(d["name"], tuple(d["tags"]), dict(d["fields"])),
        retention=d.get("retention"),
        deleted=Deleted.from_json(d.get("deleted")),
    )
    names = database.tables if made.deleted else database.tables.insert(d["name"], made.id)
    return evolve(
        catalog,
        next_id=max(catalog.next_id, made.id + 1),
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(database.id, evolve(database, tables=names)),
        tables=catalog.tables.insert(made.id, made),
    )


def _drop_table(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    table = catalog.tables[d["id"]]
    database = catalog.databases[table.database_id]
    names = database.tables if table.deleted else database.tables.remove(table.schema.name)
    return evolve(
        catalog,
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(database.id, evolve(database, tables=names)),
        tables=catalog.tables.remove(table.id),
        caches=_caches_of(catalog, catalog.tables.remove(table.id)),
    )


def _caches_of(catalog: Catalog, tables: HashTrieMap[int, Table]) -> HashTrieMap[int, ValueCache]:
    """The caches whose tables are left."""
    caches = catalog.caches
    for cache in catalog.caches.values():
        if cache.table_id not in tables:
            caches = caches.remove(cache.id)
    return caches


def _set_retention(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    if d.get("table") is not None:
        table = evolve(catalog.tables[d["table"]], retention=d["period"])
        return evolve(catalog, tables=catalog.tables.insert(table.id, table))
    database = evolve(catalog.databases[d["db"]], retention=d["period"])
    return evolve(catalog, databases=catalog.databases.insert(database.id, database))


def _delete_database(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    database = catalog.databases[d["id"]]
    hidden = evolve(database, deleted=Deleted(d["at"], d.get("until")))
    return evolve(
        catalog,
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(database.id, hidden),
        names=catalog.names if database.deleted else catalog.names.remove(database.name),
    )


def _restore_database(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    shown = evolve(catalog.databases[d["id"]], name=d["name"], deleted=None)
    return evolve(
        catalog,
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(shown.id, shown),
        names=catalog.names.insert(shown.name, shown.id),
    )


def _delete_table(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    table = catalog.tables[d["id"]]
    database = catalog.databases[table.database_id]
    names = database.tables if table.deleted else database.tables.remove(table.schema.name)
    hidden = evolve(table, deleted=Deleted(d["at"], d.get("until")))
    return evolve(
        catalog,
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(database.id, evolve(database, tables=names)),
        tables=catalog.tables.insert(table.id, hidden),
    )


def _restore_table(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    table = catalog.tables[d["id"]]
    database = catalog.databases[table.database_id]
    shown = evolve(table, schema=evolve(table.schema, name=d["name"]), deleted=None)
    return evolve(
        catalog,
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(
            database.id, evolve(database, tables=database.tables.insert(d["name"], table.id))
        ),
        tables=catalog.tables.insert(table.id, shown),
    )


def _add_columns(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    table = catalog.tables[d["id"]]
    grown = evolve(table, schema=table.schema.with_columns(tuple(d["tags"]), d["fields"]))
    return evolve(catalog, tables=catalog.tables.insert(table.id, grown))


def _put_trigger(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    trigger = Trigger.from_json(d["trigger"])
    database = catalog.databases[trigger.database_id]
    return evolve(
        catalog,
        next_id=max(catalog.next_id, trigger.id + 1),
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(
            database.id, evolve(database, triggers=database.triggers.insert(trigger.name, trigger.id))
        ),
        triggers=catalog.triggers.insert(trigger.id, trigger),
    )


def _drop_trigger(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    trigger = catalog.triggers[d["id"]]
    database = catalog.databases[trigger.database_id]
    return evolve(
        catalog,
        generation=catalog.generation + 1,
        databases=catalog.databases.insert(
            database.id, evolve(database, triggers=database.triggers.remove(trigger.name))
        ),
        triggers=catalog.triggers.remove(trigger.id),
    )


def _put_token(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    token = Token(
        name=d["name"],
        hash=d["hash"],
        created_at=d["at"],
        expires_at=d.get("expires"),
        permissions=tuple(d.get("permissions", ("admin",))),
        limits=QueryLimits(**d.get("limits", {})),
    )
    return evolve(catalog, tokens=catalog.tokens.insert(token.name, token))


def _drop_token(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    return evolve(catalog, tokens=catalog.tokens.remove(d["name"]))


def _put_cache(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    cache = ValueCache.from_json(d["cache"])
    return evolve(catalog, next_id=max(catalog.next_id, cache.id + 1), caches=catalog.caches.insert(cache.id, cache))


def _drop_cache(catalog: Catalog, d: Mapping[str, Any]) -> Catalog:
    return evolve(catalog, caches=catalog.caches.remove(d["id"]))


_CHANGES = {
    "create_database": _create_database,
    "drop_database": _drop_database,
    "delete_database": _delete_database,
    "restore_database": _restore_database,
    "set_retention": _set_retention,
    "create_table": _create_table,
    "drop_table": _drop_table,
    "delete_table": _delete_table,
    "restore_table": _restore_table,
    "add_columns": _add_columns,
    "put_trigger": _put_trigger,
    "drop_trigger": _drop_trigger,
    "put_token": _put_token,
    "drop_token": _drop_token,
    "put_cache": _put_cache,
    "drop_cache": _drop_cache,
}


def create_database(catalog: Catalog, name: str, now: int, retention: int | None = None) -> dict[str, Any]:
    """The definition that creates a database.

    Args:
        catalog: What there is.
        name: Its name.
        now: ns since the epoch.
        retention: How long rows of its tables are kept, ns; None for ever.

    Raises:
        Conflict: If it exists.
    """
    if name in catalog.names:
        raise Conflict(f"the database {name!r} exists already")
    return {"op": "create_database", "id": catalog.next_id, "name": name, "at": now, **_kept(retention, None)}


def _kept(retention: int | None, deleted: Deleted | None) -> dict[str, Any]:
    """Members of a definition that most have not."""
    members: dict[str, Any] = {} if retention is None else {"retention": retention}
    return members if deleted is None else {**members, "deleted": deleted.to_json()}


def put_token(token: Token) -> dict[str, Any]:
    """The definition that stores a token's hash."""
    return {
        "op": "put_token",
        "name": token.name,
        "hash": token.hash,
        "at": token.created_at,
        "expires": token.expires_at,
        "permissions": list(token.permissions),
        **({"limits": limits} if (limits := token.limits.given()) else {}),
    }


def definitions_of(catalog: Catalog) -> Iterator[dict[str, Any]]:
    """Definitions that make a catalog from an empty one; only `next_id` and `generation` have to be set beside them.

    Always in the same order: databases, tables and triggers by id, each kind after what it needs, then tokens by name, then
    caches of values by id.
    """
    for number in sorted(catalog.databases):
        database = catalog.databases[number]
        yield {
            "op": "create_database",
            "id": number,
            "name": database.name,
            "at": database.created_at,
            **_kept(database.retention, database.deleted),
        }
    for number in sorted(catalog.tables):
        table = catalog.tables[number]
        yield {
            "op": "create_table",
            "id": number,
            "db": table.database_id,
            "name": table.schema.name,
            "tags": list(table.schema.tags),
            "fields": dict(table.schema.fields),
            **_kept(table.retention, table.deleted),
        }
    for number in sorted(catalog.triggers):
        yield {"op": "put_trigger", "trigger": catalog.triggers[number].to_json()}
    for name in sorted(catalog.tokens):
        yield put_token(catalog.tokens[name])
    for number in sorted(catalog.caches):
        yield {"op": "put_cache", "cache": catalog.caches[number].to_json()}
