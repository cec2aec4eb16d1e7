"""A commit: one atomic change with one sequence number, and its form in the log.

Rows of any databases, definitions, the state that a run changed and its cursor: all of it, or nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from attrs import frozen

from walmill.cache.state import Change, pack_changes, unpack_changes
from walmill.errors import DataCorruption
from walmill.model.cursor import Cursor
from walmill.wal.entry import Entry, Section
from walmill.wal.rows import decode_rows, encode_rows

Source = Literal["client", "engine", "write", "schedule", "request", "service", "snapshot", "startup"]
"""Who made a commit: a client, the engine itself, or a run of the kind named."""


GivenKind = Literal["replay", "backfill"]


@frozen
class RowsPart:
    """The rows of one table: the table's id and one batch (tags, fields, `time`; only columns that have values).

    Attributes:
        table: Id of the table.
        batch: The rows.
        encoded: The batch as the log has it, if it is there already.
    """

    table: int
    batch: pa.RecordBatch
    encoded: pa.Buffer | None = None


@frozen
class GivenPart:
    """Rows that are given to one trigger again. They are in no table: the log alone has them, as long as that trigger needs it.

    Attributes:
        table: Id of the table in which they were.
        batch: The rows.
        to: Id of the trigger.
        kind: Why: `replay` (they were in the log before) or `backfill` (they come from files).
        encoded: The batch as the log has it, if it is there already.
    """

    table: int
    batch: pa.RecordBatch
    to: int
    kind: GivenKind
    encoded: pa.Buffer | None = None


@frozen
class StatePart:
    """What a commit does to one space of the plugin state."""

    space: str
    changes: tuple[Change, ...]


@frozen(kw_only=True)
class Commit:
    """One commit.

    Attributes:
        sequence: Its place in the log, from 1.
        time: Commit time, ns since the epoch; never smaller than the one before.
        source: Who made it.
        origin: Id of the trigger whose run made it; 0 for clients and the engine.
        chain: Ids of the triggers through which it came, the last one made it.
        run: Id of the run.
        trigger: Id of the trigger whose cursor it moves; 0 for none.
        cursor: That cursor afterwards.
        definitions: Changes of the catalog.
        rows: Rows, by table.
        state: Changes of the plugin state.
        given: Rows that single triggers get again.
    """

    sequence: int
    time: int
    source: Source = "client"
    origin: int = 0
    chain: tuple[int, ...] = ()
    run: str | None = None
    trigger: int = 0
    cursor: Cursor | None = None
    definitions: tuple[dict[str, Any], ...] = ()
    rows: tuple[RowsPart, ...] = ()
    state: tuple[StatePart, ...] = ()
    given: tuple[GivenPart, ...] = ()

    @property
    def num_rows(self) -> int:
        """Number of rows in all tables."""
        return sum(part.batch.num_rows for part in self.rows)


def to_entry(commit: Commit) -> Entry:
    """A commit as an entry of the log; its sequence and time are the frame's."""
    meta: dict[str, Any] = {"source": commit.source}
    if commit.origin:
        meta["origin"] = commit.origin
    if commit.chain:
        meta["chain"] = commit.chain
    if commit.run is not None:
        meta["run"] = commit.run
    if commit.trigger and commit.cursor is not None:
        meta["trigger"] = commit.trigger
        meta["cursor"] = commit.cursor.to_json()
    if commit.definitions:
        meta["definitions"] = commit.definitions
    sections = [
        Section(
            "rows",
            {"table": part.table, "rows": part.batch.num_rows},
            encode_rows(part.batch) if part.encoded is None else part.encoded,
        )
        for part in commit.rows
    ]
    sections += [
        Section(
            "given",
            {"table": given.table, "rows": given.batch.num_rows, "to": given.to, "as": given.kind},
            encode_rows(given.batch) if given.encoded is None else given.encoded,
        )
        for given in commit.given
    ]
    sections += [Section("state", {"space": part.space}, pack_changes(part.changes)) for part in commit.state]
    return Entry(meta, tuple(sections))


def from_entry(entry: Entry, sequence: int, time: int) -> Commit:
    """A commit from an entry of the log; the batches lie in the entry's buffers, without a copy.

    Raises:
        DataCorruption: If the entry is not one that an engine wrote.
    """
    rows: list[RowsPart] = []
    state: list[StatePart] = []
    given: list[GivenPart] = []
    try:
        for section in entry.sections:
            if section.kind == "rows":
                data = section.data
                encoded = data if isinstance(data, pa.Buffer) else None
                rows.append(RowsPart(section.meta["table"], decode_rows(data), encoded))
            elif section.kind == "given":
                data, meta = section.data, section.meta
                encoded = data if isinstance(data, pa.Buffer) else None
                given.append(GivenPart(meta["table"], decode_rows(data), meta["to"], meta["as"], encoded))
            elif section.kind == "state":
                state.append(StatePart(section.meta["space"], tuple(unpack_changes(section.data))))
            else:
                raise KeyError(section.kind)
        cursor = entry.meta.get("cursor")
        return Commit(
            sequence=sequence,
            time=time,
            source=entry.meta["source"],
            origin=entry.meta.get("origin", 0),
            chain=tuple(entry.meta.get("chain", ())),
            run=entry.meta.get("run"),
            trigger=entry.meta.get("trigger", 0),
            cursor=None if cursor is None else Cursor.from_json(cursor),
            definitions=tuple(entry.meta.get("definitions", ())),
            rows=tuple(rows),
            state=tuple(state),
            given=tuple(given),
        )
    except (KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
        raise DataCorruption(
            f"the commit {sequence} cannot be read ({error!r}); a later version may have written it, "
            "or `walmill wal verify` says more"
        ) from None
