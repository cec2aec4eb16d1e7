"""One table in memory: an immutable snapshot that grows into the next one in constant time."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import pyarrow as pa
from attrs import evolve, field, frozen

from walmill.buffer.ranges import Ranges, unite
from walmill.buffer.series import SeriesTimes
from walmill.errors import Internal
from walmill.model.schema import TIME, TableSchema

BIG = 4096
"""A batch of this many rows stays as it is; smaller ones are folded until they reach it."""

GATHER_ROWS = 512
"""Batches of fewer rows that come together are put together at once."""

LOOK_ROWS = 16_384
"""So many rows are compared with the newest times of their series in one step."""

_FAN = 16  # so many small batches of one level are folded into one of the next
_MOST_LATE = 64  # so many notes of late rows are kept apart


class Log:
    """What successive snapshots of one table share: batches that only get more. A snapshot knows how many are its own.

    Which rows are not newer than their series is found out when somebody wants to know, or by `Looker`: the committer, for
    whom all writers wait, does not.

    Attributes:
        batches: Big batches, in log order.
        ends: Number of rows up to and with each of them.
        version: Number of appends so far; a snapshot of another version is not the newest.
        looked: So many rows were compared with the newest times of their series.
        newest: The newest time of the rows of the table that are in files, ns; None if none is.
        follows: The line that this one goes on, and how many rows of that one went into files; None if there was none.
    """

    __slots__ = (
        "__weakref__",
        "_late",
        "_lock",
        "_series",
        "batches",
        "ends",
        "follows",
        "looked",
        "newest",
        "version",
    )

    def __init__(self, newest: int | None = None) -> None:
        self.batches: list[pa.RecordBatch] = []
        self.ends: list[int] = []
        self.version = 0
        self.looked = 0
        self.newest = newest
        self.follows: tuple[weakref.ref[Log], int] | None = None
        self._series = SeriesTimes(newest)
        self._late: tuple[_Late, ...] = ()
        self._lock = threading.Lock()

    def store(self, batch: pa.RecordBatch) -> None:
        """Adds a batch at the end."""
        # the batch first: a reader looks at `ends` only as far as its snapshot reaches
        self.batches.append(batch)
        self.ends.append((self.ends[-1] if self.ends else 0) + batch.num_rows)

    def look(self, buffer: TableBuffer) -> tuple[_Late, ...]:
        """What is known of late rows when all rows of a snapshot were compared; from any thread."""
        if self.looked < buffer.num_rows:
            with self._lock:
                if self.looked < buffer.num_rows:
                    self._look(buffer)
        return self._late

    def behind(self, buffer: TableBuffer, row: int, newest: int | None) -> Log:
        """An empty log for the rows of the newest snapshot from one on; it knows what was found out about them.

        It goes on with the series of this one, which gets no more rows.
        """
        self.look(buffer)
        log = Log(newest)
        log.follows = (weakref.ref(self), row)
        log._series = self._series
        log.looked = buffer.num_rows - row
        log._late = tuple(
            _Late(max(0, late.first - row), late.last - row, late.ranges) for late in self._late if late.last >= row
        )
        return log

    def _look(self, buffer: TableBuffer) -> None:
        tags = buffer.schema.tags
        for batch in _steps(buffer.batches_since(self.looked), tags):
            ranges = self._series.add(batch, tags)
            first = self.looked
            if ranges:
                self._late = _note_late(self._late, _Late(first, first + batch.num_rows - 1, ranges))
            self.looked = first + batch.num_rows


@frozen
class _Run:
    """Some small batches folded into one; its level says how often."""

    level: int
    batch: pa.RecordBatch


@frozen
class _Late:
    """Rows that are not newer than their series lie between these two, and their times are in `ranges`."""

    first: int
    last: int
    ranges: Ranges


@frozen(eq=False)
class TableBuffer:
    """The rows of one table at one moment. Immutable: any thread may read it while the committer makes the next one.

    Attributes:
        schema: The columns of the table at this moment.
        sequence: Sequence of the last commit that wrote rows; 0 if there is none.
        num_rows: Rows stored, before rows with the same identity are merged.
        log: What it shares with the snapshots before and after it; its identity names the line of snapshots.
    """

    schema: TableSchema
    sequence: int = 0
    num_rows: int = 0
    log: Log = field(factory=Log)
    _count: int = 0
    _tail: tuple[_Run, ...] = ()
    _version: int = 0

    @classmethod
    def empty(cls, schema: TableSchema, newest: int | None = None) -> TableBuffer:
        """A table without rows in memory.

        Args:
            schema: Its columns.
            newest: The newest time of its rows in files, ns; None if there are none.
        """
        return cls(schema, log=Log(newest))

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.schema.name

    @property
    def batches(self) -> tuple[pa.RecordBatch, ...]:
        """All rows in log order: the big batches, then at most about 45 small ones. Their columns may differ."""
        return (*self.log.batches[: self._count], *(run.batch for run in self._tail))

    def batches_since(self, row: int) -> list[pa.RecordBatch]:
        """The rows from the given one on, in log order.

        Args:
            row: Number of the first row, counted from 0 in log order.
        """
        found: list[pa.RecordBatch] = []
        place = bisect_right(self.log.ends, row, 0, self._count)
        start = self.log.ends[place - 1] if place else 0
        for batch in (*self.log.batches[place : self._count], *(run.batch for run in self._tail)):
            if start + batch.num_rows > row:
                found.append(batch.slice(row - start) if start < row else batch)
            start += batch.num_rows
        return found

    @property
    def overlaps(self) -> Ranges:
        """Time ranges in which a row may repeat the identity of another, here or in a file; outside of them none does."""
        return self.overlaps_since(0)

    def overlaps_since(self, row: int) -> Ranges:
        """Time ranges that hold every row from the given one on that may repeat an earlier row.

        Takes about 0.3 µs for each row that nobody has looked at yet, about 6 ms at most while a `Looker` follows.

        Args:
            row: Number of the first row, counted from 0 in log order.
        """
        found: Ranges = ()
        for late in self.log.look(self):
            if late.first < self.num_rows and late.last >= row:
                found = unite(found, late.ranges)
        return found

    def append(self, batch: pa.RecordBatch, schema: TableSchema, sequence: int) -> TableBuffer:
        """The snapshot with a batch added behind all its rows. Called by the committer only.

        Costs the same however many rows there are; small batches are folded now and then. On a snapshot that is not the
        newest it is slow (everything is taken in again), and right.

        Args:
            batch: Rows in log order: some of the tags and fields of the schema, and `time` without nulls.
            schema: The columns of the table after it; it may have more than this snapshot's, never fewer.
            sequence: Sequence of the commit, not below that of the rows before.

        Returns:
            The next snapshot; this one stays as it is.

        Raises:
            Internal: If the sequence goes back.
        """
        if sequence < self.sequence:
            raise Internal(
                f"table {self.name!r} got rows of commit {sequence} after those of commit {self.sequence}; "
                "rows arrive in the order of the log"
            )
        if batch.num_rows == 0:
            return self if schema is self.schema else evolve(self, schema=schema)
        if self.log.version != self._version:
            return self.branch().append(batch, schema, sequence)
        num_rows = self.num_rows + batch.num_rows
        count, tail = self._store(batch)
        self.log.version += 1
        return TableBuffer(
            schema,
            sequence,
            num_rows,
            self.log,
            count,
            tail,
            self.log.version,
        )

    def behind(self, row: int, newest: int | None) -> TableBuffer:
        """The snapshot without the rows before one, which are in files now. Called by the committer only, on the newest one.

        This one, and those before it, stay as they are. Rows that are not newer than those of their series in files are known
        as ones that may repeat another.

        Args:
            row: Number of the first row that stays, counted from 0 in log order.
            newest: The newest time of the rows in files, ns.
        """
        rest = TableBuffer(self.schema, log=self.log.behind(self, row, newest))
        for batch in self.batches_since(row):
            rest = rest.append(batch, self.schema, self.sequence)
        return evolve(rest, sequence=self.sequence)

    def _store(self, batch: pa.RecordBatch) -> tuple[int, tuple[_Run, ...]]:
        """Puts a batch into the shared list or the tail; returns how many of the list are ours, and the new tail."""
        if batch.num_rows >= BIG:
            if self._tail:
                self.log.store(fold([run.batch for run in self._tail]))
            self.log.store(batch)
            return len(self.log.batches), ()
        tail = [*self._tail, _Run(0, batch)]
        stored = self.log.ends[-1] if self.log.ends else 0
        if self.num_rows - stored + batch.num_rows >= BIG:
            self.log.store(fold([run.batch for run in tail]))
            return len(self.log.batches), ()
        level = 0
        while len(tail) >= _FAN and tail[-_FAN].level == level:  # levels only fall towards the end
            tail[-_FAN:] = [_Run(level + 1, fold([run.batch for run in tail[-_FAN:]]))]
            level += 1
        return self._count, tuple(tail)

    def branch(self) -> TableBuffer:
        """The same rows with a list of their own: what is added to it changes nothing for the snapshots of the other line."""
        copy = TableBuffer.empty(self.schema, self.log.newest)
        for batch in self.batches:
            copy = copy.append(batch, self.schema, self.sequence)
        return copy


def _note_late(notes: tuple[_Late, ...], note: _Late) -> tuple[_Late, ...]:
    """The notes with one more; when they are too many, pairs of old ones become one (wider, so still right)."""
    if len(notes) >= _MOST_LATE:
        pairs = zip(notes[::2], notes[1::2], strict=True)
        notes = tuple(_Late(first.first, second.last, unite(first.ranges, second.ranges)) for first, second in pairs)
    return (*notes, note)


def _steps(batches: Sequence[pa.RecordBatch], tags: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    """The tags and times of batches, in steps of up to `LOOK_ROWS`: many small batches together, a large one in pieces."""
    wanted = {*tags, TIME}
    small: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        some = batch.select([name for name in batch.schema.names if name in wanted])
        if rows + some.num_rows > LOOK_ROWS and small:
            yield fold(small)
            small, rows = [], 0
        for start in range(0, some.num_rows - LOOK_ROWS + 1, LOOK_ROWS):
            yield some.slice(start, LOOK_ROWS)
        rest = some.num_rows % LOOK_ROWS if some.num_rows >= LOOK_ROWS else some.num_rows
        if rest:
            small.append(some.slice(some.num_rows - rest))
            rows += rest
    if small:
        yield fold(small)


def gather(batches: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of batches in their order, small neighbours with the same columns as one: a batch costs as much as many rows."""
    small: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        count = batch.num_rows
        if small and (rows + count > BIG or not batch.schema.equals(small[0].schema)):
            yield fold(small)
            small, rows = [], 0
        if count >= GATHER_ROWS:
            yield batch
        else:
            small.append(batch)
            rows += count
    if small:
        yield fold(small)


def fold(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch with the rows of several, in their order; a column that some of them lack is null there."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0].schema
    if all(batch.schema.equals(first) for batch in batches):
        return pa.concat_batches(batches)
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    return pa.concat_tables(tables, promote_options="default").combine_chunks().to_batches()[0]
