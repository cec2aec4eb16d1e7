"""Reading the log back for triggers: what one that fell behind has to do, and where each begins after a start."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from walmill.dispatch.consumer import Item
from walmill.dispatch.subscriptions import Subscriptions
from walmill.dispatch.writes import WriteLine
from walmill.model.trigger import Trigger
from walmill.store.commit import Commit, from_entry
from walmill.wal.entry import Entry
from walmill.wal.log import Log

FETCH_SECONDS = 0.002
"""Reading old commits holds up the loop for at most about this long at a time."""
FETCH_COMMITS = 512
COUNT_SECONDS = 0.1
"""So long the rows that triggers have before them are counted at a start; the loop waits meanwhile."""


def fetch(
    wal: Log, subscriptions: Subscriptions, trigger: Trigger, sequence: int, newest: int
) -> tuple[list[Item], int | None]:
    """Commits for a trigger from the log: some of them, and where to go on (None: the newest was reached).

    Args:
        wal: The log.
        subscriptions: Which triggers see which rows.
        trigger: The trigger.
        sequence: From where.
        newest: The last one to look at.
    """
    until = time.monotonic() + FETCH_SECONDS
    found: list[Item] = []
    rows = 0
    following = sequence
    for frame in wal.read(sequence, through=newest):
        for place, entry in enumerate(frame.entries):
            number = frame.first_sequence + place
            if number < sequence:
                continue
            following = number + 1
            if trigger.id not in _matched(entry, subscriptions):
                continue
            for _, item in items_of(from_entry(entry, number, frame.commit_time), subscriptions, trigger.id):
                if item.kind != "live" and trigger.replay is not None and number <= trigger.replay[1]:
                    continue  # what it was once given again is not part of the log that is replayed
                found.append(item)
                rows += item.rows
        if following <= newest and (
            time.monotonic() > until or len(found) >= FETCH_COMMITS or rows > trigger.max_batch_rows
        ):
            return found, following
    return found, None


def catch_up(
    wal: Log, subscriptions: Subscriptions, lines: Sequence[WriteLine], newest: int, *, seconds: float = 0.0
) -> None:
    """Finds where each of these triggers has to begin, in one pass over the log, without decoding a row.

    How many rows each has before it is counted on the way, if that takes at most `seconds` more once all beginnings are found.
    """
    missing = {line.station.trigger.id: line for line in lines if line.consumer.cursor.through < newest}
    start = min((line.consumer.cursor.through for line in missing.values()), default=newest) + 1
    if not missing or start > newest:
        return
    late, rows, until = dict(missing), dict.fromkeys(missing, 0), None
    for number, matched in _all_matched(wal, subscriptions, max(start, wal.first_sequence), newest):
        for trigger in matched.keys() & late.keys():
            line = late[trigger]
            if not line.consumer.cursor.covers(number, number):
                rows[trigger] += matched[trigger]
                if missing.pop(trigger, None) is not None:
                    line.consumer.behind = number
        if not missing:
            until = until or time.monotonic() + seconds
            if time.monotonic() > until:
                return
    for trigger, line in late.items():
        # what a replay is given again is told from what is replayed only when it is read
        if line.consumer.behind is not None and line.station.trigger.replay is None:
            line.consumer.behind_rows = rows[trigger]


def _all_matched(
    wal: Log, subscriptions: Subscriptions, start: int, newest: int
) -> Iterator[tuple[int, Mapping[int, int]]]:
    for frame in wal.read(start, through=newest):
        for place, entry in enumerate(frame.entries):
            matched = _matched(entry, subscriptions)
            if matched:
                yield frame.first_sequence + place, matched


def _matched(entry: Entry, subscriptions: Subscriptions) -> Mapping[int, int]:
    """The triggers that an entry concerns, and how many rows each; without decoding one."""
    tables = [(section.meta["table"], section.meta["rows"]) for section in entry.sections if section.kind == "rows"]
    given = [(section.meta["to"], section.meta["rows"]) for section in entry.sections if section.kind == "given"]
    found: dict[int, int] = {}
    if tables:
        found.update(subscriptions.match(tables, entry.meta["source"], tuple(entry.meta.get("chain", ()))))
    for trigger, rows in given:
        if subscriptions.knows(trigger):
            found[trigger] = found.get(trigger, 0) + rows
    return found


def items_of(commit: Commit, subscriptions: Subscriptions, only: int | None = None) -> list[tuple[int, Item]]:
    """What a commit is for the triggers that it concerns.

    Args:
        commit: The commit.
        subscriptions: Which triggers see which rows.
        only: The trigger that is asked about; None for all.
    """
    found: list[tuple[int, Item]] = []
    if commit.rows:
        tables = [(part.table, part.batch.num_rows) for part in commit.rows]
        found = [
            (trigger, Item(commit.sequence, commit.origin, commit.chain, rows, payload=commit))
            for trigger, rows in subscriptions.match(tables, commit.source, commit.chain).items()
            if only in (None, trigger)
        ]
    for trigger, kind in dict.fromkeys((part.to, part.kind) for part in commit.given):
        if subscriptions.knows(trigger) and only in (None, trigger):
            rows = sum(part.batch.num_rows for part in commit.given if part.to == trigger)
            found.append((trigger, Item(commit.sequence, 0, (), rows, kind, commit)))
    return found
