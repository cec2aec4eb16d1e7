"""What an engine offers about caches of last and of distinct values. Any thread may call it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from walmill.context.local import CachedValues
from walmill.errors import InvalidRequest
from walmill.model.valuecache import Kind, ValueCache
from walmill.query.cachetables import SEPARATOR
from walmill.replays import Replays
from walmill.store.view import View
from walmill.values import manage
from walmill.values.keep import ValueCaches
from walmill.values.manage import NewCache
from walmill.values.tables import CacheTables, caches_of


class Caches(Replays):
    """Caches of values of an engine."""

    _values: ValueCaches

    def create_cache(self, new: NewCache) -> ValueCache:
        """Creates a cache; it begins with what the table has, and holds that when this returns.

        Raises:
            NotFound: If there is no such database or table.
            InvalidRequest: With all problems at once.
            Conflict: If there is one of that name.
        """
        made: ValueCache = self.define(lambda draft: manage.create(draft, new))
        self._values.begin(made)  # at once: rows that are written from here on count as new, whatever their times
        self._values.start()
        return made

    def delete_cache(self, kind: Kind, database: str, table: str, name: str) -> None:
        """Deletes a cache.

        Raises:
            NotFound: If there is none.
        """
        self.define(lambda draft: manage.delete(draft, kind, database, table, name))

    def caches(self, database: str | None = None) -> list[dict[str, Any]]:
        """The caches, or those of a database, as plain data."""
        catalog = self.view().catalog
        found = []
        for cache in catalog.caches.values():
            table = catalog.tables[cache.table_id]
            owner = catalog.databases[table.database_id]
            if table.deleted is None and owner.deleted is None and database in (None, owner.name):
                found.append(
                    {
                        "database": owner.name,
                        "table": table.schema.name,
                        "kind": cache.kind,
                        "name": cache.name,
                        "columns": list(cache.columns),
                        "values": None if cache.values is None else list(cache.values),
                        "count": cache.count if cache.kind == "last" else None,
                        "ttl_seconds": None if cache.ttl is None else cache.ttl / 1e9,
                        "max_cardinality": cache.most if cache.kind == "distinct" else None,
                    }
                )
        return sorted(found, key=lambda one: (one["database"], one["table"], one["kind"], one["name"]))

    def last_values(
        self, table: str, *, database: str, cache: str | None = None, keys: Mapping[str, Any] | None = None
    ) -> pa.Table:
        """The newest rows of a table, from its cache.

        Args:
            table: Name of the table.
            database: Name of the database.
            cache: Name of the cache; None takes the oldest one of the table.
            keys: Only rows with these values, by column.

        Raises:
            NotFound: If there is no such cache.
            InvalidRequest: If it has no such column.
        """
        return self.cached(self.view(), database, CachedValues("last", table, (), cache, keys or {}))

    def distinct_values(
        self,
        table: str,
        *columns: str,
        database: str,
        cache: str | None = None,
        keys: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """The combinations of values of a table, from its cache; see `last_values`.

        Args:
            table: Name of the table.
            *columns: Only these columns, each combination once; none for all of the cache.
            database: Name of the database.
            cache: Name of the cache; None takes the oldest one of the table.
            keys: Only rows with these values, by column.
        """
        return self.cached(self.view(), database, CachedValues("distinct", table, columns, cache, keys or {}))

    def cached(self, view: View, database: str, asked: CachedValues) -> pa.Table:
        """What a cache of values has, as a run on a view sees it; see `last_values`."""
        name = asked.table if asked.cache is None else f"{asked.table}{SEPARATOR}{asked.cache}"
        tables = CacheTables(asked.kind, view.catalog.database(database), view, self._values)
        if asked.kind == "last" and asked.keys:
            one = self._values.of_key(tables.cache(name), view, asked.keys)
            if one is not None:
                return one
        found = tables[name].make()
        _check(found, [*asked.keys, *asked.columns])
        for column, value in asked.keys.items():
            values = found.column(column)
            try:
                found = found.filter(pc.is_null(values) if value is None else pc.equal(values, pa.scalar(value)))
            except (pa.ArrowException, TypeError):
                raise InvalidRequest(
                    f"{column}={value!r:.60}: the column is {values.type}, with which this cannot be compared"
                ) from None
        if asked.columns:
            columns = list(asked.columns)
            found = found.select(columns).group_by(columns, use_threads=False).aggregate([])
        return found

    def warm_caches(self, view: View, database: str) -> None:
        """Has the caches of a database current, before a query is planned: then they can run no SQL of their own."""
        for cache in caches_of(view, database):
            self._values.warm(cache, view)

    def read(self, view: View, database: str, sql: str) -> Iterator[pa.RecordBatch]:
        """Runs SQL on a view, batch by batch."""
        with self._mill.stream(view, database, sql, None) as stream:
            yield from stream

    def now_ns(self) -> int:
        """Wall-clock time, ns."""
        return self._mill.now_ns()


def _check(found: pa.Table, names: Any) -> None:
    missing = [name for name in names if name not in found.column_names]
    if missing:
        raise InvalidRequest(
            f"the cache has no column {', '.join(repr(one) for one in missing)}; it has {', '.join(found.column_names)}"
        )
