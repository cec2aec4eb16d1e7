"""Writes of line protocol: one body, or many small ones that are read together and answered one by one.

A body that is very large, or of which many lines are left to the plain parser (`SlowBody`), is read by another thread than the
committer (`read_ahead`), or by another process (`walmill.writer`), against the newest view, and the committer only checks that
the schemas are still those: nobody waits for it. What the fast parser reads in milliseconds is never left to a thread: two that
pass the interpreter's lock to and fro between thousands of small steps take twice the processor's time.

Joining never changes what a body means: only bodies of one database and precision that are valid UTF-8 and hold neither `"` nor
`\\` are joined, so that a string without its end in one body never reaches into the next. What is wrong with a line is told to
the sender of that line only, with the number that it has in that sender's body.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import accumulate

import numpy as np
from attrs import define, frozen

from walmill.errors import InvalidRequest, WalmillError
from walmill.ingest.assemble import Assembled
from walmill.ingest.block import Ints
from walmill.ingest.errors import LineError
from walmill.ingest.precision import Precision
from walmill.ingest.reader import read_rows, scan
from walmill.ingest.scanned import Scanned
from walmill.model.schema import TableSchema
from walmill.store.draft import Draft
from walmill.store.submission import Submission, Written

JOINED_BYTES = 1_500_000
"""Joined bodies are about this large at most: larger ones no longer fit the processor's cache, and are read more slowly."""
SMALL_BYTES = 64 * 1024
"""A larger body gains nothing by being joined, and its lines would keep the committer for tens of milliseconds at their worst."""
LARGE_BYTES = 2 * 2**20
"""A larger body is never read by the committer."""
SLOW_LINES = 500
"""The committer takes about 5 ms for so many lines that are read one by one; a body with more of them is read ahead."""
EMPTY = "incoming write was empty"
_ROUNDS = 4


@frozen
class Ahead:
    """What a body holds, read before the committer came to it.

    Attributes:
        scanned: What it holds, without any schema; None if only the rows are known.
        made: Its rows and refused lines, against these schemas.
        schemas: The schema of each of its tables, None for one that was not there.
    """

    scanned: Scanned | None
    made: Assembled
    schemas: Mapping[str, TableSchema | None]


@define
class LineWrite:
    """A body of line protocol from a client.

    Attributes:
        database: Where to; created if there is none.
        body: The body.
        precision: What its timestamps mean.
        received: Time for lines without one, ns.
        accept_partial: Whether good lines are kept when others are bad.
        no_sync: Whether it is answered before it is synced.
        ahead: What the body holds, if it was read already.
    """

    database: str
    body: bytes
    precision: Precision
    received: int
    accept_partial: bool = True
    no_sync: bool = False
    lazy: float = 0.0
    ahead: Ahead | None = None

    @property
    def size(self) -> int:
        """About how many bytes it will be."""
        return len(self.body)

    def prepare(self, draft: Draft) -> Written:
        """Parses, checks against the schema, and adds what is accepted.

        Raises:
            InvalidRequest: If there is nothing but comments and blank lines.
            SlowBody: If it takes too long here: `read_ahead`, and submit it again.
        """
        schema_of = _schemas(draft, self.database)
        ahead = self.ahead
        if ahead is not None and all(schema_of(table) is schema for table, schema in ahead.schemas.items()):
            made = ahead.made
        else:
            made = read_rows(
                self._scan(SLOW_LINES) if ahead is None or ahead.scanned is None else ahead.scanned,
                schema_of,
                accept_partial=self.accept_partial,
            )
        return Written(_add(draft, self.database, made), made.errors)

    def read_ahead(self, schema_of: Callable[[str], TableSchema | None]) -> None:
        """Parses in this thread, and puts the rows into tables as these schemas have them.

        Args:
            schema_of: The schema of a table as it is known now, None if there is none. If it is another one when the committer
                comes to the write, the rows are put into tables anew.

        Raises:
            InvalidRequest: If there is nothing but comments and blank lines.
        """
        schemas: dict[str, TableSchema | None] = {}

        def noted(table: str) -> TableSchema | None:
            schemas[table] = schema_of(table)
            return schemas[table]

        scanned = self._scan(None)
        self.ahead = Ahead(scanned, read_rows(scanned, noted, accept_partial=self.accept_partial), schemas)

    def _scan(self, slow_limit: int | None) -> Scanned:
        scanned = scan(self.body, precision=self.precision, default_time=self.received, slow_limit=slow_limit)
        if scanned.is_empty:
            raise InvalidRequest(EMPTY)
        return scanned


def together(submissions: Sequence[Submission]) -> list[list[int]]:
    """Which submissions are decided together.

    Args:
        submissions: In the order in which they came.

    Returns:
        Their places in groups, in the order of the first of each. Several in one group are `LineWrite`s that can be joined;
        they keep their order.
    """
    groups: list[list[int]] = []
    open_groups: dict[Hashable, tuple[list[int], int]] = {}
    for place, submission in enumerate(submissions):
        if not isinstance(submission, LineWrite) or not joinable(submission):
            groups.append([place])
            continue
        key = submission.database, submission.precision
        size = len(submission.body)
        known = open_groups.get(key)
        if known is not None and known[1] + size <= JOINED_BYTES:
            known[0].append(place)
            open_groups[key] = known[0], known[1] + size
        else:
            groups.append([place])
            open_groups[key] = groups[-1], size
    return groups


def joinable(write: LineWrite) -> bool:
    """Whether a body means the same with others before and behind it."""
    body = write.body
    if write.ahead is not None or len(body) > SMALL_BYTES or b'"' in body or b"\\" in body:
        return False
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def prepare_together(writes: Sequence[LineWrite], draft: Draft) -> list[Written | WalmillError]:
    """Decides on writes of one database and precision as if each had come alone, in their order, in one commit.

    Args:
        writes: As `together` has them.
        draft: The commit; gets the accepted rows of all of them.

    Returns:
        The answer to each.

    Raises:
        WalmillError: The commit cannot be made as a whole; nothing is known of the single ones then.
    """
    joined, firsts = join([write.body for write in writes])
    scanned = scan(
        joined,
        precision=writes[0].precision,
        default_time=[(first, write.received) for first, write in zip(firsts, writes, strict=True)],
        slow_limit=SLOW_LINES,
    )
    entries = _count(scanned, firsts)
    refused: dict[int, tuple[LineError, ...]] = {}
    schema_of = _schemas(draft, writes[0].database)
    strict = [place for place, write in enumerate(writes) if not write.accept_partial]
    for turn in range(len(writes) + 1):
        made = read_rows(scanned, schema_of, accept_partial=True)
        errors = _errors_of(made.errors, firsts)
        offender = next((place for place in strict if place in errors and place not in refused), None)
        if offender is None:
            break
        if turn == _ROUNDS:
            raise InvalidRequest("too many of the joined writes are refused as a whole")
        # A refused write leaves nothing behind, so those after it are decided anew, without it.
        refused[offender] = errors[offender][:1]
        scanned = scanned.without(firsts[offender], firsts[offender + 1] if offender + 1 < len(firsts) else None)
    _add(draft, writes[0].database, made)
    answers: list[Written | WalmillError] = []
    for place, count in enumerate(entries):
        if not count:
            answers.append(InvalidRequest(EMPTY))
        elif place in refused:
            answers.append(Written(0, refused[place]))
        else:
            wrong = errors.get(place, ())
            answers.append(Written(count - len(wrong), wrong))
    return answers


def join(bodies: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """Bodies as one, and the physical line, from 1, with which each begins in it."""
    closed = [body if body[-1:] == b"\n" else body + b"\n" for body in bodies]
    counts = [body.count(b"\n") for body in closed]
    return b"".join(closed), [1, *accumulate(counts[:-1], initial=1)][1:]


def _schemas(draft: Draft, database: str) -> Callable[[str], TableSchema | None]:
    return lambda table: draft.schema_of(database, table)


def _add(draft: Draft, database: str, made: Assembled) -> int:
    rows = 0
    for table in made.tables.values():
        draft.add_rows(database, table)
        rows += table.batch.num_rows
    return rows


def _count(scanned: Scanned, firsts: Sequence[int]) -> list[int]:
    """How many lines of each body say something."""
    single = [point.line_number for point in scanned.points] + [error.line_number for error in scanned.errors]
    lines: Ints = np.concatenate([*(group.lines for group in scanned.groups), np.array(single, np.int64)])
    owners = np.searchsorted(np.array(firsts), lines, side="right") - 1
    counts: list[int] = np.bincount(owners, minlength=len(firsts)).tolist()
    return counts


def _errors_of(errors: Iterable[LineError], firsts: Sequence[int]) -> dict[int, tuple[LineError, ...]]:
    """The errors of each body, by its place, with the numbers that the lines have there."""
    found: dict[int, list[LineError]] = {}
    for error in errors:
        owner = int(np.searchsorted(firsts, error.line_number, side="right")) - 1
        found.setdefault(owner, []).append(error._replace(line_number=error.line_number - firsts[owner] + 1))
    return {place: tuple(mine) for place, mine in found.items()}
