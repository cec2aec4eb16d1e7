"""The tables of one query as DataFusion sees them, and what is kept of them between queries.

Importing this module imports DataFusion.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pa_dataset
from attrs import define, evolve, field, frozen
from datafusion import Expr, SessionConfig, SessionContext, col, lit
from datafusion.catalog import SchemaProvider, Table

from walmill.buffer.merge import UniqueRows, advance
from walmill.buffer.ranges import Ranges, inside
from walmill.buffer.series import times_of
from walmill.buffer.source import TableSource
from walmill.buffer.table import Log, TableBuffer
from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema, arrow_schema
from walmill.query.choose import FileIndex, Probe, may_match
from walmill.query.footers import Columns, Footers
from walmill.units import INT64_MAX, INT64_MIN

if TYPE_CHECKING:
    from walmill.query.plan import Made

CATALOG = "public"
SCHEMA = "iox"

_FEW = 8  # up to so many batches become one table anew; beyond that, tables of older batches are used again
_GROWTH = 4  # a group of batches is joined with the one before it unless that is so many times larger
_MOST_SCHEMAS = 4096
_MOST_INDEXES = 256

Groups = tuple[tuple[tuple[pa.RecordBatch, ...], Table], ...]


@frozen(eq=False)
class _Span:
    """Some rows, and the times between which they lie, ns."""

    batch: pa.RecordBatch
    low: int
    high: int

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> _Span:
        """That of a batch, which has rows."""
        times = times_of(batch)
        return cls(batch, int(times.min()), int(times.max()))


@define(eq=False)
class _Line:
    """What is known of one line of snapshots: the newest rows seen, tables over their batches, the times of the first rows and
    those of each batch, by its number as long as it is held."""

    lock: threading.Lock = field(factory=threading.Lock)
    unique: UniqueRows | None = None
    spanned: int = 0
    span: tuple[int, int] | None = None
    groups: Groups = ()
    spans: dict[int, _Span] = field(factory=dict)


class TableCache:
    """Makes DataFusion tables from table buffers, and keeps them as long as the buffers live. For all threads.

    Attributes:
        footers: Of files that were read lately.
        columns: Of row groups that were read lately.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._maker = new_context(SessionConfig())
        self._maker.sql("SELECT 1")  # has it start its threads now: where descriptors are short, later may be too late
        self._lines: weakref.WeakKeyDictionary[Log, _Line] = weakref.WeakKeyDictionary()
        self._tables: weakref.WeakKeyDictionary[TableBuffer, Table] = weakref.WeakKeyDictionary()
        self._shapes: dict[object, Table] = {}
        self._indexes: dict[int, tuple[tuple[DataFile, ...], FileIndex]] = {}
        self.footers = Footers()
        self.columns = Columns()

    def table(self, buffer: TableBuffer) -> Table:
        """The rows of a snapshot, without repetitions."""
        if buffer.num_rows == 0:
            return self._shape(buffer.schema, dictionaries=False)
        with self._lock:
            table = self._tables.get(buffer)
        if table is not None:
            return table
        line = self._line(buffer)
        with line.lock:
            unique = advance(line.unique, buffer)
            groups = self._group(unique.parts, line.groups)
            table = self._join(unique, groups)
            if line.unique is None or unique.rows >= line.unique.rows:
                line.unique, line.groups = unique, groups
        with self._lock:
            self._tables[buffer] = table
        return table

    def fresh(self, source: TableSource) -> Table:
        """The rows of a table that are in memory and not expired, without repetitions."""
        table = self.table(source.buffer)
        if source.cut_off is None or source.buffer.num_rows == 0:
            return table
        return Table(self._maker.read_table(table).filter(not_before(source.cut_off)))

    def with_rows(self, table: Table, source: TableSource, columns: Sequence[str]) -> Table:
        """A table with some columns, and the rows in memory of the same columns, as `fresh` has them."""
        memory = self._maker.read_table(self.fresh(source)).select(*[col(quoted(name)) for name in columns])
        return Table(self._maker.read_table(table).union(memory))

    def span(self, buffer: TableBuffer) -> tuple[int, int] | None:
        """Times between which all rows of a snapshot lie, ns; None if it has no rows."""
        if buffer.num_rows == 0:
            return None
        line = self._line(buffer)
        with line.lock:
            if line.spanned < buffer.num_rows:
                low, high = line.span or (INT64_MAX, INT64_MIN)
                for batch in buffer.batches_since(line.spanned):
                    times = times_of(batch)
                    low, high = min(low, int(times.min())), max(high, int(times.max()))
                line.spanned, line.span = buffer.num_rows, (low, high)
            return line.span

    def rows_inside(self, buffer: TableBuffer, ranges: Ranges) -> pa.Table:
        """The rows of a snapshot with times in the ranges, without repetitions; a copy of their own."""
        line = self._line(buffer)
        with line.lock:
            unique = advance(line.unique, buffer)
        batches = [batch.filter(pa.array(inside(times_of(batch), ranges))) for batch in unique.batches()]
        return pa.Table.from_batches(batches, unique.schema)

    def rows(self, buffer: TableBuffer, low: int, high: int) -> list[pa.RecordBatch]:
        """Rows of a snapshot, without repetitions, among which are all of some time.

        Args:
            buffer: The snapshot.
            low: The earliest time, ns.
            high: The latest time, ns.

        Returns:
            Batches with the columns of the table.
        """
        if buffer.num_rows == 0:
            return []
        line = self._line(buffer)
        with line.lock:
            unique = advance(line.unique, buffer)
            if line.unique is None or unique.rows >= line.unique.rows:
                line.unique = unique
            line.spans = {
                id(part): line.spans.get(id(part)) or _Span.of(part) for part in unique.batches() if part.num_rows
            }
            return [one.batch for one in line.spans.values() if one.low <= high and one.high >= low]

    def index(self, files: tuple[DataFile, ...]) -> FileIndex:
        """The files of a table by time."""
        with self._lock:
            # under its own number as long as it is kept, so no other can have that
            known = self._indexes.pop(id(files), None) or (files, FileIndex(files))
            self._indexes[id(files)] = known
            if len(self._indexes) > _MOST_INDEXES:
                del self._indexes[next(iter(self._indexes))]
        return known[1]

    def _line(self, buffer: TableBuffer) -> _Line:
        with self._lock:
            line = self._lines.get(buffer.log)
            if line is None:
                line = self._lines[buffer.log] = _Line()
            return line

    def description(self, buffer: TableBuffer) -> Table:
        """An empty table with the columns as `information_schema` shows them: tags are dictionaries, as clients expect."""
        return self._shape(buffer.schema, dictionaries=True)

    def of_batches(self, batches: list[pa.RecordBatch]) -> Table:
        """A table over batches with one schema; at least one."""
        # the planner calls us from within its runtime, where registering a table and getting it back would panic:
        # nothing here may wait for anything of DataFusion's
        return Table(self._maker.read_batches(batches))

    def _shape(self, schema: TableSchema, *, dictionaries: bool) -> Table:
        key = (dictionaries, schema.tags, tuple(schema.fields.items()))
        with self._lock:
            table = self._shapes.get(key)
        if table is None:
            columns = arrow_schema(schema)
            if dictionaries:
                kind = pa.dictionary(pa.int32(), pa.string())
                for place in range(len(schema.tags)):
                    columns = columns.set(place, columns.field(place).with_type(kind))
            rows = pa.RecordBatch.from_pylist([], schema=columns)
            table = _described(rows) if dictionaries else self.of_batches([rows])
            with self._lock:
                if len(self._shapes) >= _MOST_SCHEMAS:
                    self._shapes.clear()
                self._shapes[key] = table
        return table

    def _group(self, parts: tuple[pa.RecordBatch, ...], old: Groups) -> Groups:
        """Tables over the parts, few and of falling size; those that did not change are used again."""
        if len(parts) < _FEW:
            return ()
        sizes: list[int] = []
        for size in [len(batches) for batches, _ in old]:
            if sum(sizes) + size <= len(parts):
                sizes.append(size)
        if sum(sizes) < len(parts):
            sizes.append(len(parts) - sum(sizes))
        while len(sizes) > 1 and sizes[-2] < _GROWTH * sizes[-1]:
            sizes[-2:] = [sizes[-2] + sizes[-1]]
        known = {tuple(map(id, batches)): table for batches, table in old}
        groups = []
        start = 0
        for size in sizes:
            batches = parts[start : start + size]
            start += size
            table = known.get(tuple(map(id, batches)))
            groups.append((batches, self.of_batches(list(batches)) if table is None else table))
        return tuple(groups)

    def _join(self, unique: UniqueRows, groups: Groups) -> Table:
        if not groups:
            return self.of_batches(unique.batches())
        tables = [table for _, table in groups]
        if unique.rest is not None:
            tables.append(self.of_batches([unique.rest]))
        frames = [self._maker.read_table(table) for table in tables]
        joined = frames[0]
        for frame in frames[1:]:
            joined = joined.union(frame)
        return Table(joined)


class QuerySchema(SchemaProvider):
    """The tables of the database that a query names, made when the planner asks for them.

    While a query is planned, a table is its rows. Afterwards only `information_schema` asks, and gets descriptions.

    A table that has files is a probe in the first plan, which learns what the query asks of it; in the next it is what was made
    of the files that are needed.

    Attributes:
        planned: Set when planning is done.
        failure: What went wrong while a table was made; DataFusion would tell only its text.
        probes: The tables with files that the plan names, by name.
        rows: In memory, of the tables that the plan names.
    """

    def __init__(
        self, cache: TableCache, tables: Mapping[str, TableSource], made: Mapping[str, Table] | None = None
    ) -> None:
        self._cache = cache
        self._tables = tables
        self._made = made or {}
        self.planned = False
        self.failure: BaseException | None = None
        self.probes: dict[str, tuple[TableSource, Probe]] = {}
        self.rows = 0

    @property
    def table_names(self) -> list[str]:  # type: ignore[override]  # DataFusion reads an attribute, its base class says method
        """Names of all tables."""
        return sorted(self._tables)

    def table(self, name: str) -> Table | None:
        """The table of that name, or None."""
        if name not in self._tables:
            return None
        try:
            source = self._tables[name]
            if self.planned:
                return self._cache.description(source.buffer)
            self.rows += source.buffer.num_rows
            if name in self._made:
                return self._made[name]
            if not source.files:
                return self._cache.fresh(source)
            if name not in self.probes:
                self.probes[name] = source, Probe(arrow_schema(source.schema))
            return Table(self.probes[name][1])
        except BaseException as error:
            self.failure = error
            raise

    def needed(self) -> dict[str, tuple[TableSource, tuple[DataFile, ...]]]:
        """The tables with files that the plan names, and the files that it needs. To be asked once the plan is physical.

        A table of whose rows in memory it needs none is given without them.
        """
        found = {}
        for name, (source, probe) in self.probes.items():
            files = tuple(
                file
                for file in self._cache.index(source.files).matching(probe.filters, probe.schema)
                if source.cut_off is None or file.max_time >= source.cut_off
            )
            span = self._cache.span(source.buffer)
            idle = span is not None and not may_match(span, probe.filters, probe.schema)
            found[name] = evolve(source, buffer=TableBuffer.empty(source.schema)) if idle else source, files
        return found

    def table_exist(self, name: str) -> bool:
        """Whether there is such a table."""
        return name in self._tables


class ExtraSchema(SchemaProvider):
    """Tables that somebody else makes, such as `system.*`: each is made once per query, when it is asked for.

    Attributes:
        planned: As in `QuerySchema`.
        failure: What went wrong while a table was made.
        rows: Of the tables that were made.
    """

    def __init__(self, cache: TableCache, makers: Mapping[str, Made]) -> None:
        self._cache = cache
        self._makers = makers
        self._made: dict[str, pa.Table] = {}
        self.rows = 0
        self.planned = False
        self.failure: BaseException | None = None

    @property
    def table_names(self) -> list[str]:  # type: ignore[override]  # see QuerySchema
        """Names of all tables."""
        return sorted(self._makers)

    def table(self, name: str) -> Table | None:
        """The table of that name, or None."""
        if name not in self._makers:
            return None
        try:
            empty = pa.RecordBatch.from_pylist([], schema=self._makers[name].schema())
            if self.planned:
                return _described(empty)
            if name not in self._made:
                self._made[name] = self._makers[name].make()
                self.rows += self._made[name].num_rows
            return self._cache.of_batches(self._made[name].combine_chunks().to_batches() or [empty])
        except BaseException as error:
            self.failure = error
            raise

    def table_exist(self, name: str) -> bool:
        """Whether there is such a table."""
        return name in self._makers


def quoted(name: str) -> str:
    """A name that stands for exactly this column."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def not_before(time: int) -> Expr:
    """Whether a row is not older than a time, ns."""
    return col(f'"{TIME}"') >= lit(pa.scalar(time, pa.timestamp("ns")))


def _described(empty: pa.RecordBatch) -> Table:
    """A table for `information_schema`: a data set counts as BASE TABLE there, our other tables would count as views."""
    return Table(pa_dataset.dataset(empty))


def new_context(config: SessionConfig, runtime: object = None) -> SessionContext:
    """A DataFusion session with the default names of this engine; costs about 0.1 ms."""
    config = config.with_information_schema(True).with_default_catalog_and_schema(CATALOG, SCHEMA)
    config = config.with_create_default_catalog_and_schema(True)
    return SessionContext(config, runtime)  # type: ignore[arg-type]
