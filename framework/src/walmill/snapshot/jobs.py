"""What changes the files of a store: a snapshot, a join, a rewriting without some rows, retention, clean-up.

Each call does one job in the thread that calls it. Objects are written first, under names that nobody else uses; then one
manifest makes them count, and what they replace stop to count, in one step. Whatever fails before leaves everything as it was.
Jobs may run beside each other: one whose files were replaced by a faster one does nothing and says so.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
from attrs import define, field, frozen

from walmill.buffer.table import TableBuffer
from walmill.errors import Internal
from walmill.model.catalog import Catalog
from walmill.model.files import DataFile
from walmill.snapshot.build import NewFile, Rows, build_files
from walmill.snapshot.compact import Bounds, Join, join_files, may_join, plan_joins
from walmill.snapshot.head import Head, replace_files
from walmill.snapshot.manifest import Contents, Loaded
from walmill.snapshot.names import Place
from walmill.snapshot.pace import Pace
from walmill.snapshot.retention import LEAST_CUT, Expiry, plan_retention
from walmill.snapshot.rows import Choice, earlier_than, read_rows, rewrite_file
from walmill.snapshot.store import Store
from walmill.snapshot.sweep import unreferenced
from walmill.store.view import View

_BOUNDS = Bounds()
_UPLOADS = 4  # files written at a time: a store answers each of them late, and the next is made meanwhile


@frozen(eq=False)
class Change:
    """What a job did.

    Attributes:
        current: What the newest manifest says now.
        new: Files that came.
        gone: Files that are in it no more; they are deleted by `sweep`.
        rows: Rows that are gone with them, for a rewriting; 0 for other jobs.
    """

    current: Loaded
    new: tuple[DataFile, ...] = ()
    gone: tuple[DataFile, ...] = ()
    rows: int = 0


class Brake:
    """Slows a job down to a rate, and stops it between two files.

    Args:
        pace: The rate.
        stop: Set by whoever wants the job to end.
        clock: Monotonic time, ns.
    """

    def __init__(
        self,
        pace: Pace | None = None,
        stop: threading.Event | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._pace = pace or Pace(0)
        self._stop = stop or threading.Event()
        self._clock = clock

    @property
    def stopped(self) -> bool:
        """Whether the job is to end."""
        return self._stop.is_set()

    def wait(self, amount: int) -> bool:
        """Waits until so many bytes may be moved; False if the job is to end instead."""
        return not self._stop.wait(self._pace.take(amount, self._clock()) / 1e9)


def place_of(catalog: Catalog, table: int) -> Place:
    """Where the files of a table lie."""
    found = catalog.tables[table]
    database = catalog.databases[found.database_id]
    return Place(database.name, database.id, found.schema.name, table)


def write_snapshot(head: Head, view: View, buffers: Mapping[int, TableBuffer] | None = None) -> Change | None:
    """Makes everything at a view's sequence durable in the store.

    Files of tables that the view does not have are in the new manifest no more.

    Args:
        head: The newest manifest.
        view: The view. Its rows are not looked at if buffers are given.
        buffers: By id of table exactly the rows of the commits behind the newest manifest up to the view's sequence. None if the
            view holds these rows and no other.

    Returns:
        What was written; None if another snapshot came to count since the view was made, whose answer was lost: its rows are in
        the files now (look at `head.current.view.sequence`), so this one has to begin anew with the rest.

    Raises:
        Internal: If the view is older than the newest manifest.
        Exception: What the store raised; then nothing of it is seen, or all of it: the next commit finds out which.
    """
    base = head.current
    covered = base.view.sequence
    if view.sequence < covered:
        raise Internal(f"a snapshot of sequence {view.sequence} was asked for, and the newest one has {covered}")
    behind = view.held
    if buffers is None and isinstance(behind, Loaded) and behind.view.sequence != covered:
        return None  # somebody else's commit found an earlier snapshot to be there: the view still has its rows
    held = view.tables if buffers is None else buffers
    new: dict[int, list[DataFile]] = {}
    with head.begin() as attempt:
        with _uploads(head.store) as upload:
            for table in sorted(held):
                buffer = held[table]
                if not buffer.num_rows or table not in view.catalog.tables:
                    continue
                rows = Rows.of_buffer(place_of(view.catalog, table), buffer, covered + 1, base.newest.get(table))
                for made in build_files(rows, base.files.get(table, ()), attempt):
                    upload(made)
                    new.setdefault(table, []).append(made.file)
        gone: list[DataFile] = []

        def change(current: Loaded) -> Contents | None:
            if current.view.sequence != covered:
                return None
            gone[:] = [
                one for table, listed in current.files.items() if table not in view.catalog.tables for one in listed
            ]
            files: dict[int, tuple[DataFile, ...]] = {}
            newest: dict[int, int] = {}
            for table in view.catalog.tables:
                files[table] = (*current.files.get(table, ()), *new.get(table, ()))
                times = [one.max_time for one in new.get(table, ())]
                if table in current.newest:
                    times.append(current.newest[table])
                if times:
                    newest[table] = max(times)
            return Contents(view, files, newest)

        after = head.commit(change)
    if after is None:
        return None
    return Change(after, tuple(one for listed in new.values() for one in listed), tuple(gone))


@define(eq=False)
class JoinPlanner:
    """Plans joins, and looks again only at tables whose files have changed. For one thread.

    Attributes:
        bounds: How files are joined.
    """

    bounds: Bounds = field(factory=Bounds)
    _known: dict[int, tuple[tuple[DataFile, ...], Bounds, list[Join]]] = field(init=False, factory=dict)

    def plan(self, current: Loaded) -> list[tuple[int, Join]]:
        """What is worth joining, with the ids of the tables; the cheapest first."""
        known: dict[int, tuple[tuple[DataFile, ...], Bounds, list[Join]]] = {}
        for table, files in current.files.items():
            found = current.view.catalog.tables.get(table)
            if found is None:
                continue
            bounds = self.bounds.of(found.schema)
            before = self._known.get(table)
            if before is not None and before[:2] == (files, bounds):
                known[table] = before
            else:
                known[table] = (files, bounds, plan_joins(files, bounds))
        self._known = known
        planned = [(table, join) for table, (_, _, joins) in known.items() for join in joins]
        return sorted(planned, key=lambda one: (one[1].bytes, one[0], one[1].files[0].path))


def compact(head: Head, table: int, join: Join, brake: Brake | None = None, bounds: Bounds = _BOUNDS) -> Change | None:
    """Replaces the files of a join by what they become.

    Args:
        head: The newest manifest.
        table: Id of the table.
        join: What a plan proposed.
        brake: How fast; None for as fast as can be.
        bounds: A result with more rows than in here is split between days.

    Returns:
        What was done; None if the job was to end, or if some of the files were not there any more, or another join came between:
        then everything is as before.

    Raises:
        DataCorruption: If a file is missing or damaged; it is named, and nothing changes.
    """
    brake = brake or Brake()
    base = head.current
    chosen = {one.path for one in join.files}
    if replace_files(base, table, join.files, ()) is None or table not in base.view.catalog.tables:
        return None
    staying = [one for one in base.files[table] if one.path not in chosen]
    read: dict[str, list[pa.RecordBatch]] = {}
    for file in join.files:
        if not brake.wait(file.bytes):
            return None
        read[file.path] = read_rows(head.store, file)
    new: list[DataFile] = []
    catalog = base.view.catalog
    schema = catalog.tables[table].schema
    with head.begin() as attempt:
        made = join_files(
            join.files,
            staying,
            lambda file: read.pop(file.path),
            place_of(catalog, table),
            schema,
            attempt,
            rows_per_file=bounds.of(schema).rows,
        )
        for one in made:
            if not brake.wait(one.file.bytes):
                return None
            head.store.put(one.file.path, one.data)
            new.append(one.file)
            del one

        def change(current: Loaded) -> Contents | None:
            # joins of two plans may each be right, and the second wrong beside the result of the first
            others = [one for one in current.files.get(table, ()) if one.path not in chosen]
            if not all(may_join([one], others) for one in new):
                return None
            return _replaced(current, table, join.files, new)

        after = head.commit(change)
    return None if after is None else Change(after, tuple(new), join.files)


def remove_rows(
    head: Head, table: int, files: Iterable[DataFile], gone: Choice, brake: Brake | None = None
) -> Change | None:
    """Writes files again without some of their rows; all of it counts at once.

    Memory is what the rows of one file take.

    Args:
        head: The newest manifest.
        table: Id of the table.
        files: Files of it that may hold such rows. To delete what SQL finds, all that can hold the identities: what is removed
            from a newer file only would show an older value again.
        gone: Says which rows go.
        brake: How fast; None for as fast as can be.

    Returns:
        What was done, with the number of rows that are gone from files; None if the job was to end, or if some of the files were
        not there any more: then everything is as before, and the caller plans again.

    Raises:
        DataCorruption: If a file is missing or damaged; it is named, and nothing changes.
    """
    brake = brake or Brake()
    base = head.current
    listed = tuple(files)
    if replace_files(base, table, listed, ()) is None or table not in base.view.catalog.tables:
        return None
    catalog = base.view.catalog
    place, schema = place_of(catalog, table), catalog.tables[table].schema
    old: list[DataFile] = []
    new: list[DataFile] = []
    with head.begin() as attempt:
        for number, file in enumerate(listed):
            if not brake.wait(file.bytes):
                return None
            made = rewrite_file(file, read_rows(head.store, file), gone, place, schema, attempt, number)
            if isinstance(made, DataFile):
                continue
            old.append(file)
            if made is not None:
                if not brake.wait(made.file.bytes):
                    return None
                head.store.put(made.file.path, made.data)
                new.append(made.file)
        if not old:
            return Change(base)
        after = head.commit(lambda current: _replaced(current, table, old, new))
    if after is None:
        return None
    return Change(after, tuple(new), tuple(old), sum(one.rows for one in old) - sum(one.rows for one in new))


def expire(head: Head, periods: Mapping[int, int | None], now: int) -> Change | None:
    """Takes files out of the manifest all of whose rows are expired: those of all tables at once, and nothing is read.

    Args:
        head: The newest manifest.
        periods: How long rows are kept, by id of table, ns; a table that is not in it keeps them for ever.
        now: Wall-clock time, ns.

    Returns:
        What went; None if there is nothing.
    """
    gone: list[DataFile] = []

    def change(current: Loaded) -> Contents | None:
        kept = {}
        gone.clear()
        for table, files in current.files.items():
            expiry = plan_retention(files, periods.get(table), now)
            kept[table] = expiry.kept
            gone.extend(expiry.expired)
        return Contents(current.view, kept, current.newest) if gone else None

    if not any(plan_retention(files, periods.get(one), now).expired for one, files in head.current.files.items()):
        return None
    after = head.commit(change)
    return None if after is None else Change(after, gone=tuple(gone))


def cut(head: Head, table: int, expiry: Expiry, brake: Brake | None = None, least: int = LEAST_CUT) -> Change | None:
    """Writes files again that are half expired, one manifest for each of them.

    Args:
        head: The newest manifest.
        table: Id of the table.
        expiry: What `plan_retention` said of its files.
        brake: How fast; None for as fast as can be.
        least: Bytes of the smallest file that is written again.

    Returns:
        What was done; None if nothing was.
    """
    done: Change | None = None
    for file in expiry.worth_cutting(least):
        one = remove_rows(head, table, [file], earlier_than(expiry.cut_off), brake)
        if one is not None and one.gone:
            before = done or Change(one.current)
            done = Change(one.current, (*before.new, *one.new), (*before.gone, *one.gone), before.rows + one.rows)
    return done


def sweep(head: Head, kept: Iterable[int] = (), brake: Brake | None = None) -> int:
    """Deletes objects that nobody needs.

    Kept are the newest manifest, those of which somebody holds the `Loaded`, and those given, with all that they name.

    Args:
        head: The newest manifest.
        kept: Numbers of manifests that stay as well: those that a backup or another process reads.
        brake: Stops it between two objects; None lets it go through.

    Returns:
        How many objects were deleted.

    Raises:
        DataCorruption: If a kept manifest cannot be read: then nothing is deleted.
    """
    mine, before = head.clean_up()
    count = 0
    for path in unreferenced(head.store, mine | set(kept), before):
        if brake is not None and brake.stopped:
            break
        head.store.delete(path)
        count += 1
    return count


def _replaced(current: Loaded, table: int, gone: Iterable[DataFile], new: Iterable[DataFile]) -> Contents | None:
    files = replace_files(current, table, gone, new)
    return None if files is None else Contents(current.view, files, current.newest)


@contextmanager
def _uploads(store: Store) -> Iterator[Callable[[NewFile], None]]:
    """Stores files beside the caller, a few at a time; at the end all of them are stored, or the first error is raised."""
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(_UPLOADS, "walmill-upload") as pool:

        def upload(made: NewFile) -> None:
            if len(waiting) >= _UPLOADS:
                waiting.popleft().result()
            waiting.append(pool.submit(store.put, made.file.path, made.data))

        yield upload
        while waiting:
            waiting.popleft().result()
