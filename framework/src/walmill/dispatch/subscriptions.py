"""Which triggers see which rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from walmill.model.catalog import Catalog
from walmill.model.trigger import Trigger
from walmill.triggers.spec import AllTables, TableSpec, parse_spec

SEEN_BY_ALL = frozenset({"client", "schedule", "request", "service"})
"""`all_tables` and patterns see what these wrote; rows derived by on_write runs only on request, or by naming the table."""
CHAIN_LIMIT = 16
"""Rows that came through more triggers than this are an error, never a silent skip."""


_LEAVES_TRIGGERS = frozenset(
    {
        "create_database",
        "create_table",
        "add_columns",
        "put_token",
        "drop_token",
        "put_cache",
        "drop_cache",
        "set_retention",
    }
)


def changed_triggers(definitions: Iterable[Mapping[str, Any]]) -> set[int] | None:
    """The triggers that changes of the catalog concern; None for perhaps any.

    Args:
        definitions: The changes.
    """
    found: set[int] = set()
    for one in definitions:
        match one["op"]:
            case "put_trigger":
                found.add(one["trigger"]["id"])
            case "drop_trigger":
                found.add(one["id"])
            case op if op not in _LEAVES_TRIGGERS:
                return None
    return found


class Triggers:
    """The triggers of a catalog, by id, in a dict: a catalog's own map takes microseconds for each one that is looked at."""

    def __init__(self) -> None:
        self.by_id: dict[int, Trigger] = {}
        self._seen: Any = None

    def follow(self, catalog: Catalog, definitions: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Takes over the triggers of a catalog.

        Args:
            catalog: The catalog.
            definitions: What has changed since the last one; None if that is not known.
        """
        if catalog.triggers is self._seen:
            return
        changed = None if definitions is None or self._seen is None else changed_triggers(definitions)
        for number in changed or ():
            trigger = catalog.triggers.get(number)
            if trigger is None:
                self.by_id.pop(number, None)
            else:
                self.by_id[number] = trigger
        if changed is None or len(self.by_id) != len(catalog.triggers):
            self.by_id = {trigger.id: trigger for trigger in catalog.triggers.values()}
        self._seen = catalog.triggers


class Subscriptions:
    """An index from tables to the enabled on_write triggers that concern them.

    Args:
        catalog: The definitions.
        triggers: Its triggers, if they are at hand; else they are looked for.
    """

    def __init__(self, catalog: Catalog, triggers: Iterable[Trigger] | None = None) -> None:
        self._catalog = catalog
        self._named: dict[tuple[int, str], list[Trigger]] = {}
        self._broad: dict[int, list[tuple[Trigger, AllTables | TableSpec]]] = {}
        self._ids: dict[int, frozenset[int]] = {}
        self._tables: dict[int, tuple[tuple[Trigger, bool], ...]] = {}
        for trigger in catalog.triggers.values() if triggers is None else triggers:
            if not trigger.enabled:
                continue
            spec = parse_spec(trigger.spec)
            if isinstance(spec, TableSpec):
                for name in spec.tables:
                    self._named.setdefault((trigger.database_id, name), []).append(trigger)
            if isinstance(spec, AllTables) or (isinstance(spec, TableSpec) and spec.patterns):
                self._broad.setdefault(trigger.database_id, []).append((trigger, spec))

    def knows(self, trigger: int) -> bool:
        """Whether this is an enabled trigger."""
        found = self._catalog.triggers.get(trigger)
        return found is not None and found.enabled

    def of_table(self, table: int) -> tuple[tuple[Trigger, bool], ...]:
        """The triggers of a table, and whether each of them sees derived rows."""
        found = self._tables.get(table)
        if found is None:
            known = self._catalog.tables.get(table)
            if known is None:
                return ()
            name = known.schema.name
            named = [(trigger, True) for trigger in self._named.get((known.database_id, name), ())]
            broad = [
                (trigger, trigger.derived)
                for trigger, spec in self._broad.get(known.database_id, ())
                if spec.matches(name) and not spec.names(name)
            ]
            found = self._tables[table] = (*named, *broad)
        return found

    def match(self, tables: Iterable[tuple[int, int]], source: str, chain: tuple[int, ...]) -> Mapping[int, int]:
        """The triggers that a commit concerns, and how many rows each.

        Args:
            tables: Ids of tables and their numbers of rows.
            source: Who made the commit.
            chain: Through which triggers it came; none of them sees it.
        """
        found: dict[int, int] = {}
        for table, rows in tables:
            for trigger, derived in self.of_table(table):
                if trigger.id in chain or not (derived or source in SEEN_BY_ALL):
                    continue
                found[trigger.id] = found.get(trigger.id, 0) + rows
        return found

    def tables_of(self, trigger: Trigger, tables: Iterable[int]) -> frozenset[int]:
        """Which of these tables concern a trigger."""
        return frozenset(table for table in tables if trigger.id in self._ids_of(table))

    def _ids_of(self, table: int) -> frozenset[int]:
        found = self._ids.get(table)
        if found is None:
            found = self._ids[table] = frozenset(one.id for one, _ in self.of_table(table))
        return found
