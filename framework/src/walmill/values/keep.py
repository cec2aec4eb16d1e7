"""Keeps caches of values current: what they hold follows the tables, off the way of those who write.

A cache takes in new rows when it is asked, and now and then; a cache that is new, or whose engine has started again, begins with
what the table has, from files as well as from memory.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa
from attrs import define, field, frozen

from walmill.buffer.table import Log, TableBuffer
from walmill.errors import WalmillError
from walmill.model.catalog import Catalog
from walmill.model.schema import TIME, TableSchema
from walmill.model.valuecache import ValueCache
from walmill.observe.log import get_logger
from walmill.store.view import View
from walmill.values.content import (
    columns_of,
    fold_distinct,
    fold_last,
    key_of,
    places_of,
    shown_distinct,
    shown_last,
    within,
)

log = get_logger("walmill.values")

TICK_SECONDS = 5.0
"""So often rows are taken in although nobody asks, so that it is known about when they were written."""
_PYTHON: Mapping[str, type] = {"string": str, "int64": int, "uint64": int, "bool": bool}
STEP_ROWS = 200_000
"""So many rows are taken in at a time."""


class Host(Protocol):
    """What the caches need of the engine."""

    def view(self) -> View:
        """The newest view."""

    def now_ns(self) -> int:
        """Wall-clock time, ns."""

    def read(self, view: View, database: str, sql: str) -> Iterator[pa.RecordBatch]:
        """Runs SQL on a view, batch by batch."""


@frozen(eq=False)
class Index:
    """Where in what a `last` cache holds each key is.

    Attributes:
        held: What it holds.
        kinds: The columns of the key, and of which type their values are.
        places: The rows of each key.
        shown: The same rows as a query sees them; None if some may have expired.
    """

    held: pa.RecordBatch
    kinds: tuple[tuple[str, type | None], ...]
    places: Mapping[tuple[Any, ...], list[int]]
    shown: pa.RecordBatch | None

    @classmethod
    def of(cls, held: pa.RecordBatch, cache: ValueCache, schema: TableSchema) -> Index:
        """That of what a cache holds."""
        names = key_of(cache, schema)
        kinds = [str if name in schema.tags else _PYTHON.get(schema.fields.get(name, "")) for name in names]
        shown = held.select(columns_of(cache, schema)) if cache.ttl is None else None
        return cls(held, tuple(zip(names, kinds, strict=True)), places_of(held, names), shown)

    def find(self, keys: Mapping[str, Any]) -> list[int] | None:
        """In which rows a key is; None if not all of it is given, or in other types."""
        if len(keys) != len(self.kinds):
            return None
        for name, kind in self.kinds:
            if type(keys.get(name)) is not kind:
                return None
        return self.places.get(tuple([keys[name] for name, _ in self.kinds]), [])


def _at(rows: pa.RecordBatch, places: list[int]) -> pa.RecordBatch:
    found: pa.RecordBatch = rows.slice(places[0], 1) if len(places) == 1 else rows.take(pa.array(places, pa.int64()))
    return found


@define(eq=False)
class Content:
    """What one cache holds.

    Attributes:
        held: The rows; None if there are none.
        line: The line of snapshots of the table whose rows were taken in.
        rows: So many rows of that line were taken in.
        asked: What it held when it was asked for a key; what is asked for again gets an index.
        index: Where in that each key is.
    """

    held: pa.RecordBatch | None = None
    line: weakref.ref[Log] | None = None
    rows: int = 0
    asked: pa.RecordBatch | None = None
    index: Index | None = None
    lock: threading.RLock = field(factory=threading.RLock)

    def index_of(self, held: pa.RecordBatch, cache: ValueCache, schema: TableSchema) -> Index | None:
        """An index of what is held; None if it is asked for the first time: to make one takes longer than to look once."""
        with self.lock:
            if self.asked is not held:
                self.asked, self.index = held, None
                return None
            if self.index is None:
                self.index = Index.of(held, cache, schema)
            return self.index

    def place(self, buffer: TableBuffer | None) -> int | None:
        """From which row of a snapshot rows are new; None if the snapshot is of another line, so all has to be read."""
        if self.line is None:
            return None
        if buffer is None:
            return 0
        mine = self.line()
        if mine is buffer.log:
            return self.rows
        follows = buffer.log.follows
        if mine is not None and follows is not None and follows[0]() is mine:
            # rows that went into files before they were taken in are in no line any more
            return self.rows - follows[1] if self.rows >= follows[1] else None
        return None


class ValueCaches:
    """All caches of values of an engine.

    Args:
        host: The engine.
        most: Bytes that one of them may hold; the rows with the oldest times are let go.
    """

    def __init__(self, host: Host, most: int) -> None:
        self._host = host
        self._most = most
        self._full: set[int] = set()
        self._contents: dict[int, Content] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._known: tuple[Catalog, dict[tuple[Any, ...], ValueCache]] | None = None

    def known_in(self, catalog: Catalog) -> dict[tuple[Any, ...], ValueCache]:
        """What was looked up in a catalog, by whatever whoever looks it up wants."""
        known = self._known
        if known is None or known[0] is not catalog:
            self._known = known = catalog, {}
        return known[1]

    def start(self) -> None:
        """There are caches, or one more: begins to keep them, if it does not yet."""
        with self._lock:
            if self._stopped or not self._host.view().catalog.caches:
                return
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="walmill-values", daemon=True)
                self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """Keeps them no more."""
        with self._lock:
            self._stopped = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join(10.0)

    def forget(self, table: int) -> None:
        """Rows of a table were deleted: its caches begin anew."""
        caches = self._host.view().catalog.caches
        with self._lock:
            for number in [one for one in self._contents if one in caches and caches[one].table_id == table]:
                del self._contents[number]

    def catch_up(self) -> None:
        """Takes in what there is; before rows of memory go into files as well. From a thread that may wait."""
        for cache in self._host.view().catalog.caches.values():
            self.begin(cache)

    def begin(self, cache: ValueCache) -> None:
        """Takes in what there is for one cache; what keeps it from that is logged, and it is tried again."""
        view = self._host.view()
        if cache.id not in view.catalog.caches:
            return  # it was deleted meanwhile
        try:
            self._current(cache, view)
        except WalmillError as error:
            log.warning("a cache of values could not be kept current", cache=cache.name, error=error.message)

    def _run(self) -> None:
        while not self._stopped:
            view = self._host.view()
            with self._lock:
                for number in [one for one in self._contents if one not in view.catalog.caches]:
                    del self._contents[number]
                if not view.catalog.caches:
                    self._thread = None
                    return
            self.catch_up()
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()

    def table(self, cache: ValueCache, view: View) -> pa.Table:
        """What a query sees of a cache; everything of the view is in it, and what was written meanwhile may be.

        Args:
            cache: The definition.
            view: The view that the query has.
        """
        schema = view.catalog.tables[cache.table_id].schema
        held, now = self._current(cache, view), self._host.now_ns()
        period = view.catalog.period_of(cache.table_id)
        cut_off = None if period is None else now - period
        if cache.kind == "last":
            shown = shown_last(held, cache, schema, now, cut_off)
        else:
            shown = shown_distinct(held, cache, now, cut_off)
        return pa.Table.from_batches([shown])

    def of_key(self, cache: ValueCache, view: View, keys: Mapping[str, Any]) -> pa.Table | None:
        """What a query sees of one key of a `last` cache, if an index says where it is; else None.

        Args:
            cache: The definition.
            view: The view that the query has.
            keys: The values of its key, by column.
        """
        schema = view.catalog.tables[cache.table_id].schema
        held = self._current(cache, view)
        content = self._contents.get(cache.id)
        index = None if content is None else content.index_of(held, cache, schema)
        places = None if index is None else index.find(keys)
        if index is None or places is None:
            return None
        period = view.catalog.period_of(cache.table_id)
        if index.shown is not None and period is None:
            return pa.Table.from_batches([_at(index.shown, places)])
        now = self._host.now_ns()
        cut_off = None if period is None else now - period
        return pa.Table.from_batches([shown_last(_at(held, places), cache, schema, now, cut_off)])

    def warm(self, cache: ValueCache, view: View) -> None:
        """Has a cache take in what a view has."""
        self._current(cache, view)

    def _current(self, cache: ValueCache, view: View) -> pa.RecordBatch:
        """What a cache holds when all rows of a view are taken in."""
        content = self._contents.get(cache.id)
        if content is None:
            with self._lock:
                content = self._contents.setdefault(cache.id, Content())
        with content.lock:
            buffer = view.tables.get(cache.table_id)
            start = content.place(buffer)
            if start is None:
                newest = self._host.view()
                known = newest.tables.get(cache.table_id)
                if buffer is not None and known is not None and known.log is not buffer.log:
                    return self._of(
                        cache, self._read(cache, view), view
                    )  # an older view, or one that only a rehearsal has
                content.held = self._read(cache, view)
            elif buffer is not None and buffer.num_rows > start:
                schema = view.catalog.tables[cache.table_id].schema
                for batch in _steps(buffer, start):
                    content.held = self._fold(content.held, batch, cache, schema, self._host.now_ns())
            if buffer is not None and (start is None or buffer.num_rows >= start):
                content.line, content.rows = weakref.ref(buffer.log), buffer.num_rows
            elif content.line is None:
                content.line = weakref.ref(_NOWHERE)
            return self._of(cache, content.held, view)

    def _of(self, cache: ValueCache, held: pa.RecordBatch | None, view: View) -> pa.RecordBatch:
        if held is not None:
            return held
        schema = view.catalog.tables[cache.table_id].schema
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema([]))
        return self._fold(None, empty, cache, schema, 0)

    def _fold(
        self, held: pa.RecordBatch | None, new: pa.RecordBatch, cache: ValueCache, schema: TableSchema, now: int
    ) -> pa.RecordBatch:
        found = (
            fold_last(held, new, now, cache, schema)
            if cache.kind == "last"
            else fold_distinct(held, new, cache, schema)
        )
        if found.nbytes > self._most:
            if cache.id not in self._full:
                self._full.add(cache.id)
                log.warning(
                    "a cache of values is full: what was not written for the longest time is let go; give it fewer columns or "
                    "keys, or raise value_cache_size",
                    cache=cache.name,
                    table=schema.name,
                    bytes=found.nbytes,
                    limit=self._most,
                )
            found = within(found, self._most)
        return found

    def _read(self, cache: ValueCache, view: View) -> pa.RecordBatch | None:
        """What a cache holds of all rows of a view: from files and from memory."""
        table = view.catalog.tables[cache.table_id]
        if cache.table_id not in view.tables and not view.files.get(cache.table_id):
            return None
        database = view.catalog.databases[table.database_id].name
        now = self._host.now_ns()
        name = '"' + table.schema.name.replace('"', '""') + '"'
        sql = f"SELECT * FROM {name}"  # noqa: S608 - a quoted name
        if cache.ttl is not None:
            sql += f" WHERE {TIME} >= to_timestamp_nanos({now - cache.ttl})"
        held: pa.RecordBatch | None = None
        gathered: list[pa.RecordBatch] = []
        count = 0
        for batch in self._host.read(view, database, sql):
            gathered.append(batch)
            count += batch.num_rows
            if count >= STEP_ROWS:
                held = self._fold(held, _plain(gathered, table.schema), cache, table.schema, now)
                gathered, count = [], 0
        if gathered:
            held = self._fold(held, _plain(gathered, table.schema), cache, table.schema, now)
        return held


_NOWHERE = Log()
"""The line of a table that has no rows in memory."""


def _plain(batches: list[pa.RecordBatch], schema: TableSchema) -> pa.RecordBatch:
    """Batches of an answer as one, tags as plain text."""
    rows = pa.Table.from_batches(batches)
    names = rows.column_names
    columns = [
        column.cast(pa.string()) if name in schema.tags else column
        for name, column in zip(names, rows.columns, strict=True)
    ]
    made: pa.RecordBatch = pa.table(columns, names=names).combine_chunks().to_batches()[0]
    return made


def _steps(buffer: TableBuffer, start: int) -> Iterator[pa.RecordBatch]:
    """The rows of a snapshot from one on, in batches that are not small."""
    gathered: list[pa.RecordBatch] = []
    count = 0
    for batch in buffer.batches_since(start):
        gathered.append(batch)
        count += batch.num_rows
        if count >= STEP_ROWS:
            yield _joined(gathered)
            gathered, count = [], 0
    if gathered:
        yield _joined(gathered)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.concat_tables([pa.Table.from_batches([one]) for one in batches], promote_options="default")
    made: pa.RecordBatch = table.combine_chunks().to_batches()[0]
    return made
