"""The caches of a database as tables of SQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
from attrs import frozen

from walmill.errors import NotFound
from walmill.model.catalog import Database
from walmill.model.valuecache import Kind, ValueCache
from walmill.query.cachetables import SEPARATOR
from walmill.query.plan import Extra, Made
from walmill.store.view import View
from walmill.values.content import key_of, shown_schema
from walmill.values.keep import ValueCaches
from walmill.values.manage import find


@frozen
class CacheTables(Mapping[str, Made]):
    """The caches of one kind; whatever name is asked for, the answer is a table or says that there is no such cache."""

    kind: Kind
    database: Database
    view: View
    caches: ValueCaches

    def __getitem__(self, name: str) -> Made:
        cache = self.cache(name)
        schema = self.view.catalog.tables[cache.table_id].schema
        return Made(
            lambda: shown_schema(cache, schema),
            lambda: self.caches.table(cache, self.view),
            lambda wanted: self._of_keys(cache, wanted),
        )

    def _of_keys(self, cache: ValueCache, wanted: Mapping[str, frozenset[str]]) -> pa.Table | None:
        """The rows of one key, if all of it is known."""
        if cache.kind != "last" or any(len(texts) != 1 for texts in wanted.values()):
            return None
        schema = self.view.catalog.tables[cache.table_id].schema
        keys = {name: next(iter(texts)) for name, texts in wanted.items() if name in key_of(cache, schema)}
        return self.caches.of_key(cache, self.view, keys)

    def cache(self, name: str) -> ValueCache:
        """The cache that is meant.

        Raises:
            NotFound: If there is none.
        """
        known = self.caches.known_in(self.view.catalog)
        key = self.kind, self.database.id, name
        if key not in known:
            known[key] = self._cache(name)
        return known[key]

    def _cache(self, name: str) -> ValueCache:
        table, _, wanted = name.partition(SEPARATOR)
        found = self.view.catalog.find_table(self.database, table)
        cache = None if found is None else find(self.view.catalog, found, self.kind, wanted or None)
        if cache is None:
            named = f"{table!r}" + (f", {wanted!r}" if wanted else "")
            raise NotFound(
                f"could not find cache for the given arguments: {self.kind}_cache({named}); `walmill create {self.kind}_cache` "
                f"makes one, system.{self.kind}_caches lists them"
            )
        return cache

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __iter__(self) -> Iterator[str]:
        tables = {number: name for name, number in self.database.tables.items()}
        for cache in self.view.catalog.caches.values():
            if cache.kind == self.kind and cache.table_id in tables:
                yield f"{tables[cache.table_id]}{SEPARATOR}{cache.name}"

    def __len__(self) -> int:
        return sum(1 for _ in self)


def cache_tables(view: View, database: str, caches: ValueCaches) -> Extra:
    """The schemas `last_cache` and `distinct_cache` of a query."""
    owner = view.catalog.find_database(database)
    if owner is None:
        return {}
    return {
        "last_cache": CacheTables("last", owner, view, caches),
        "distinct_cache": CacheTables("distinct", owner, view, caches),
    }


def caches_of(view: View, database: str) -> list[ValueCache]:
    """The caches of a database."""
    owner = view.catalog.find_database(database)
    tables = set() if owner is None else set(owner.tables.values())
    return [one for one in view.catalog.caches.values() if one.table_id in tables]
