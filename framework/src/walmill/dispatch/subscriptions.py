"""Which triggers see which rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from walmill.model.catalog import Catalog
from walmill.model.trigger import Trigger
from walmill.triggers.spec import AllTables, TableSpec, parse_spec

SEEN_BY_ALL = frozenset({"client", "schedule", "request"})
"""`all_tables` and patterns see what these wrote; rows derived by on_write runs only on request, or by naming the table."""
CHAIN_LIMIT = 16
"""Rows that came through more triggers than this are an error, never a silent skip."""


class Subscriptions:
    """An index from tables to the enabled on_write triggers that concern them.

    Args:
        catalog: The definitions.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._named: dict[tuple[int, str], list[Trigger]] = {}
        self._broad: dict[int, list[tuple[Trigger, AllTables | TableSpec]]] = {}
        self._ids: dict[int, frozenset[int]] = {}
        self._tables: dict[int, tuple[tuple[Trigger, bool], ...]] = {}
        for trigger in catalog.triggers.values():
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
