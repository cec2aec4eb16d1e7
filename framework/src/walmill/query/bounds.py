"""What one query may take: the engine's limits, and those of who asks where they are tighter."""

from __future__ import annotations

import time

from attrs import frozen

from walmill.model.catalog import QueryLimits
from walmill.query.errors import QueryTooLarge, out_of_time


@frozen
class Bounds:
    """The limits of one query.

    Attributes:
        memory: Bytes that its sorts, joins and groups may use.
        rows: Rows that its answer may have; None for no limit.
        files: Files that may be read for it; None for no limit.
        timeout: Seconds that it has; None for no limit.
        deadline: Time on `time.monotonic()` when they are over.
        theirs: Which of these are limits of who asks: `memory`, `rows`, `files`.
    """

    memory: int
    rows: int | None = None
    files: int | None = None
    timeout: float | None = None
    deadline: float | None = None
    theirs: frozenset[str] = frozenset()

    def is_late(self) -> bool:
        """Whether its time is over."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def check_time(self) -> None:
        """Looks whether there is time left.

        Raises:
            QueryTimeout: If there is none.
        """
        if self.is_late():
            raise out_of_time(self.timeout)

    def check_rows(self, count: int) -> None:
        """Looks whether an answer may be so long.

        Raises:
            QueryTooLarge: If it may not.
        """
        if self.rows is not None and count > self.rows:
            raise QueryTooLarge(
                f"the answer has more than {self.rows:,} rows, which is the limit{self.of('rows')} (query_max_rows); add a "
                "LIMIT, or ask for less"
            )

    def check_files(self, count: int) -> None:
        """Looks whether so many files may be read.

        Raises:
            QueryTooLarge: If they may not.
        """
        if self.files is not None and count > self.files:
            raise QueryTooLarge(
                f"the query needs {count:,} files, and {self.files:,} may be read for one, the limit{self.of('files')} "
                "(query_max_files); ask for a shorter time range"
            )

    def of(self, kind: str) -> str:
        """Whose limit it is, for a message."""
        return " of this token" if kind in self.theirs else ""


def bounds_of(
    memory: int, rows: int | None, files: int | None, timeout: float | None, theirs: QueryLimits | None
) -> Bounds:
    """The tighter of the engine's limits and of those of who asks, for a query that begins now.

    Args:
        memory: The engine's, bytes.
        rows: The engine's.
        files: The engine's.
        timeout: Seconds that are left for it.
        theirs: Of who asks.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if theirs is None:
        return Bounds(memory, rows, files, timeout, deadline)
    tighter = set()
    if theirs.memory is not None and theirs.memory < memory:
        memory = theirs.memory
        tighter.add("memory")
    if theirs.rows is not None and (rows is None or theirs.rows < rows):
        rows = theirs.rows
        tighter.add("rows")
    if theirs.files is not None and (files is None or theirs.files < files):
        files = theirs.files
        tighter.add("files")
    return Bounds(memory, rows, files, timeout, deadline, frozenset(tighter))
