"""What is wrong with one line, or with one row: the two errors of this layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    import pyarrow as pa

LINE_EXCERPT_BYTES = 20
_STEP = 500
MOST_REFUSED = 10_000
"""So many refused rows are collected and named; a body with more of them is refused whole."""


class LineError(NamedTuple):
    """Why one line of a body was refused. The other lines of the body stand.

    Attributes:
        line_number: Physical line of the body in which the line starts, from 1; blank lines, comments and newlines
            inside quotes are counted.
        message: What is wrong with it.
        original_line: The whole line as it came; bytes that are not UTF-8 are shown as U+FFFD.
    """

    line_number: int
    message: str
    original_line: str

    def as_dict(self) -> dict[str, str | int]:
        """The error as InfluxDB's clients read it, with the line cut to 20 bytes."""
        return {
            "error_message": self.message,
            "line_number": self.line_number,
            "original_line": excerpt(self.original_line),
        }


class LineErrors(Sequence[LineError]):
    """Many refused lines in columns: each becomes an object when it is looked at.

    Args:
        columns: `line_number`, `message` and `line`, in the order of the lines.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: pa.RecordBatch) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    @overload
    def __getitem__(self, place: int) -> LineError: ...
    @overload
    def __getitem__(self, place: slice) -> list[LineError]: ...
    def __getitem__(self, place: int | slice) -> LineError | list[LineError]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return LineError(*(column[range(len(self))[place]].as_py() for column in self._columns.columns))

    def __iter__(self) -> Iterator[LineError]:
        for start in range(0, len(self), _STEP):
            some = self._columns.slice(start, _STEP)
            yield from map(LineError, *(column.to_pylist() for column in some.columns))


def excerpt(line: str, limit: int = LINE_EXCERPT_BYTES) -> str:
    """The start of a line for an error message.

    Args:
        line: Text of any length.
        limit: Most bytes of UTF-8 to keep.

    Returns:
        The longest prefix of whole characters that takes at most `limit` bytes.
    """
    return line[:limit].encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


class SlowBody(InvalidRequest):
    """A body has more lines for the plain parser than its reader has time for: it is read by somebody who has.

    Args:
        lines: How many.

    Attributes:
        lines: As given.
    """

    def __init__(self, lines: int) -> None:
        self.lines = lines
        super().__init__(f"the body has {lines:,} lines that are read one by one")


class RowError(InvalidRequest):
    """A row or a column that was given as Python objects or as Arrow cannot be written.

    Args:
        row: Position of the row in what was given, from 0; None if it is not about one row.
        column: Name of the column; None if it is not about one.
        message: What is wrong, and what would be right.

    Attributes:
        row: As given.
        column: As given.
        reason: The message as given; `message` has row and column in front of it.
    """

    def __init__(self, row: int | None, column: str | None, message: str) -> None:
        place = [] if row is None else [f"row {row}"]
        place += [] if column is None else [f"column {short(column)}"]
        super().__init__(f"{', '.join(place)}: {message}" if place else message)
        self.row = row
        self.column = column
        self.reason = message


def note_refused(errors: list[RowError], error: RowError, shown: int | None = None) -> None:
    """Takes note of a refused row.

    Args:
        errors: Those before it; grows.
        error: Why it is refused.
        shown: Its number for people; None: `error.row`.

    Raises:
        RowError: There are `MOST_REFUSED` already: each costs memory, and a body can bring millions.
    """
    if len(errors) >= MOST_REFUSED:
        row = error.row if shown is None else shown
        raise RowError(
            None,
            error.column,
            f"more than {MOST_REFUSED:,} rows are refused, such as row {row} ({error.reason}): mend them",
        )
    errors.append(error)


def short(value: object, limit: int = 60) -> str:
    """The `repr` of a value for an error message, cut to a readable length.

    Args:
        value: Anything.
        limit: Most characters of the representation.
    """
    text = repr(value[:limit]) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
