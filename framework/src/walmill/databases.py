"""Databases and tables: created, kept for how long, deleted and restored. Decided on a draft, like everything that changes.

What is deleted is hidden at once, and its name is free again; its rows stay until a grace has passed, so that it can be restored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import frozen

from walmill.errors import Conflict, Forbidden, InvalidRequest, NotFound
from walmill.ingest.names import COLUMNS_PER_TABLE, check_column_name, check_database_name, check_table_name
from walmill.model.catalog import FOR_EVER, INTERNAL, Catalog, Database, Deleted, Table, create_database
from walmill.model.schema import FIELD_TYPES
from walmill.store.draft import Draft
from walmill.triggers.manage import pause_trigger, resume_trigger
from walmill.units import INT64_MAX, format_duration, format_time

T = TypeVar("T", Database, Table)

DATABASE_DELETED = "its database is deleted"
"""Why a trigger is paused."""


@frozen
class Gone:
    """When the rows of what is deleted go.

    Attributes:
        after: Grace, ns; None never. 0 is at once: then it cannot be restored.
        at: A fixed time instead, ns.
    """

    after: int | None = None
    at: int | None = None

    def until(self, now: int) -> int | None:
        """When, ns; None never."""
        if self.at is not None:
            return self.at
        return None if self.after is None else min(INT64_MAX, now + self.after)


def create(draft: Draft, name: str, retention: int | None = None) -> None:
    """Creates a database.

    Args:
        draft: The commit that it becomes part of.
        name: Its name.
        retention: How long rows of its tables are kept, ns; None for ever.

    Raises:
        Conflict: If it exists.
    """
    check_database_name(name)
    draft.define(create_database(draft.catalog, name, draft.time, retention))


def create_table(
    draft: Draft,
    database: str,
    name: str,
    tags: Sequence[str],
    fields: Mapping[str, str],
    retention: int | None = None,
) -> None:
    """Creates a table, and its database if there is none; a write would do it as well.

    Args:
        draft: The commit that it becomes part of.
        database: Name of the database.
        name: Its name.
        tags: Names of its tags.
        fields: Types of its fields, by name.
        retention: How long its rows are kept, ns; None as long as the database says, `FOR_EVER` for ever.

    Raises:
        Conflict: If it exists.
        InvalidRequest: If a name or a type breaks the rules; with all problems at once.
    """
    not_internal(database, "has no tables of yours")
    problems = [problem for one in (*tags, *fields) if (problem := _problem(check_column_name, one))]
    problems += [f"the column {one!r} is named twice" for one in dict.fromkeys(tags) if one in fields]
    problems += [f"the tag {one!r} is named twice" for one in dict.fromkeys(tags) if list(tags).count(one) > 1]
    problems += [
        f"the field {one!r} has the type {kind!r}: it must be one of {', '.join(FIELD_TYPES)}"
        for one, kind in fields.items()
        if kind not in FIELD_TYPES
    ]
    if len(tags) + len(fields) > COLUMNS_PER_TABLE:
        problems.append(f"{len(tags) + len(fields)} tags and fields are more than {COLUMNS_PER_TABLE}")
    if not fields:
        problems.append("a table needs a field: a row without one holds nothing")
    if problem := _problem(check_table_name, name):
        problems.append(problem)
    if problems:
        raise InvalidRequest("; ".join(problems))
    owner = draft.database(database)
    if name in owner.tables:
        raise Conflict(f"the table {name!r} exists already in the database {database!r}")
    draft.define(
        {
            "op": "create_table",
            "id": draft.catalog.next_id,
            "db": owner.id,
            "name": name,
            "tags": list(tags),
            "fields": dict(fields),
            **({} if retention is None else {"retention": retention}),
        }
    )


def _problem(check: Callable[[str], object], name: str) -> str | None:
    try:
        check(name)
    except InvalidRequest as error:
        return error.message
    return None


def set_retention(draft: Draft, database: str, table: str | None, period: int | None) -> None:
    """Sets how long rows are kept; rows that are older by that are not seen from now on.

    Args:
        draft: The commit that it becomes part of.
        database: Name of the database.
        table: Name of the table; None for all tables of the database that have no period of their own.
        period: ns. None: for a database for ever, for a table as long as its database says. `FOR_EVER` for a table.

    Raises:
        NotFound: If there is no such database or table.
        InvalidRequest: If the period is not positive.
    """
    if period is not None and (period < 0 or (table is None and period == FOR_EVER)):
        raise InvalidRequest(f"a retention period must be longer than nothing, not {format_duration(max(0, period))}")
    owner = draft.catalog.database(database)
    number = None if table is None else draft.catalog.table(database, table).id
    draft.define({"op": "set_retention", "db": owner.id, "table": number, "period": period})


def delete_database(draft: Draft, name: str, gone: Gone) -> None:
    """Deletes a database with its tables; its triggers are paused, and go with it.

    Raises:
        NotFound: If there is none.
        Forbidden: For the engine's own.
    """
    not_internal(name, "cannot be deleted")
    found = draft.catalog.database(name)
    until = gone.until(draft.time)
    if until is not None and until <= draft.time:
        draft.define({"op": "drop_database", "id": found.id})
        return
    for number in found.triggers.values():
        trigger = draft.catalog.triggers[number]
        if trigger.enabled:
            pause_trigger(draft, number, trigger.generation, DATABASE_DELETED)
    draft.define({"op": "delete_database", "id": found.id, "at": draft.time, "until": until})


def delete_table(draft: Draft, database: str, name: str, gone: Gone) -> None:
    """Deletes a table. Triggers that name it wait for another one of that name.

    Raises:
        NotFound: If there is none.
        Forbidden: For the engine's own.
    """
    not_internal(database, "has tables that cannot be deleted")
    found = draft.catalog.table(database, name)
    until = gone.until(draft.time)
    if until is not None and until <= draft.time:
        draft.define({"op": "drop_table", "id": found.id})
        return
    draft.define({"op": "delete_table", "id": found.id, "at": draft.time, "until": until})


def restore_database(draft: Draft, name: str, *, number: int | None = None, new_name: str | None = None) -> str:
    """Takes the deletion of a database back, the newest one of that name; its triggers go on.

    Args:
        draft: The commit that it becomes part of.
        name: The name that it had.
        number: Its id, if it is not the newest one.
        new_name: The name that it gets; None for the one that it had.

    Returns:
        Its name.

    Raises:
        NotFound: If no such database is deleted, or its grace has ended.
        Conflict: If there is another one of that name by now.
    """
    found = _newest([one for one in draft.catalog.databases.values() if one.name == name], number, f"database {name!r}")
    called = name if new_name is None else new_name
    check_database_name(called)
    if called in draft.catalog.names:
        raise Conflict(f"there is another database {called!r} by now; restore the deleted one under another name")
    draft.define({"op": "restore_database", "id": found.id, "name": called})
    for trigger in found.triggers.values():
        if draft.catalog.triggers[trigger].reason == DATABASE_DELETED:
            resume_trigger(draft, trigger)
    return called


def restore_table(
    draft: Draft, database: str, name: str, *, number: int | None = None, new_name: str | None = None
) -> str:
    """Takes the deletion of a table back, the newest one of that name; see `restore_database`."""
    owner = draft.catalog.database(database)
    tables = [one for one in draft.catalog.tables.values() if one.database_id == owner.id and one.schema.name == name]
    found = _newest(tables, number, f"table {name!r} of the database {database!r}")
    called = name if new_name is None else new_name
    check_table_name(called)
    if called in owner.tables:
        raise Conflict(
            f"there is another table {called!r} in the database {database!r} by now; restore the deleted one under another name"
        )
    draft.define({"op": "restore_table", "id": found.id, "name": called})
    return called


def _newest(found: list[T], number: int | None, what: str) -> T:
    deleted = [one for one in found if one.deleted is not None and number in (None, one.id)]
    if not deleted:
        which = "" if number is None else f" with the id {number}"
        raise NotFound(
            f"no {what}{which} is deleted and can be restored; `walmill show databases --deleted` and "
            "`walmill show tables --deleted` list what can"
        )
    return max(deleted, key=lambda one: (one.deleted.at if one.deleted else 0, one.id))


def overdue(catalog: Catalog, now: int) -> list[dict[str, Any]]:
    """The definitions that let go of what was deleted and whose grace has ended."""
    databases = [one for one in catalog.databases.values() if _over(one.deleted, now)]
    gone = {one.id for one in databases}
    tables = [one for one in catalog.tables.values() if _over(one.deleted, now) and one.database_id not in gone]
    return [
        *({"op": "drop_database", "id": one.id} for one in sorted(databases, key=lambda one: one.id)),
        *({"op": "drop_table", "id": one.id} for one in sorted(tables, key=lambda one: one.id)),
    ]


def _over(deleted: Deleted | None, now: int) -> bool:
    return deleted is not None and deleted.until is not None and deleted.until <= now


def drop_overdue(draft: Draft) -> int:
    """Lets go of what was deleted and whose grace has ended; says how much."""
    found = overdue(draft.catalog, draft.time)
    for definition in found:
        draft.define(definition)
    return len(found)


def periods(catalog: Catalog) -> dict[int, int]:
    """How long rows are kept, by id of table, ns; tables that keep them for ever are not in it."""
    return {table: period for table in catalog.tables if (period := catalog.period_of(table)) is not None}


def not_internal(database: str, why: str) -> None:
    """Refuses what must not be done to the engine's own database.

    Raises:
        Forbidden: It is that one.
    """
    if database == INTERNAL:
        raise Forbidden(f"the database {INTERNAL!r} is the engine's own and {why}")


def show_databases(catalog: Catalog, *, deleted: bool = False) -> list[dict[str, Any]]:
    """The databases as plain data, by name; with `deleted` those that can be restored, the newest first."""
    found = [one for one in catalog.databases.values() if (one.deleted is not None) == deleted]
    return [
        {
            "db": one.name,
            "iox::database": one.name,
            "retention_period": shown_period(one.retention),
            "tables": len(one.tables),
            **_shown_deletion(one.id, one.deleted),
        }
        for one in sorted(found, key=lambda one: (one.name, -one.id))
    ]


def show_tables(catalog: Catalog, database: str, *, deleted: bool = False) -> list[dict[str, Any]]:
    """The tables of a database as plain data, by name; with `deleted` those that can be restored, the newest first."""
    owner = catalog.database(database)
    mine = [one for one in catalog.tables.values() if one.database_id == owner.id]
    return [
        {
            "db": database,
            "table": one.schema.name,
            "tags": list(one.schema.tags),
            "fields": dict(one.schema.fields),
            "retention_period": "none" if one.retention == FOR_EVER else shown_period(one.retention),
            **_shown_deletion(one.id, one.deleted),
        }
        for one in sorted(mine, key=lambda one: (one.schema.name, -one.id))
        if (one.deleted is not None) == deleted
    ]


def shown_period(period: int | None) -> str | None:
    """A retention period as people write it; None for none."""
    return None if period is None else format_duration(period)


def _shown_deletion(number: int, deleted: Deleted | None) -> dict[str, Any]:
    if deleted is None:
        return {}
    return {
        "id": number,
        "deleted_at": format_time(deleted.at),
        "hard_delete_at": None if deleted.until is None else format_time(deleted.until),
    }
