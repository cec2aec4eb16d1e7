"""From points to columns: the rows of each table as one Arrow batch, checked against the schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from attrs import frozen

from walmill.ingest.block import Ints
from walmill.ingest.errors import LineError, short
from walmill.ingest.lineprotocol import Fields, Point, Tags, Value
from walmill.ingest.names import COLUMNS_PER_TABLE
from walmill.model.schema import TIME, FieldType, TableSchema, arrow_type

TIME_FIELD = pa.field(TIME, pa.timestamp("ns"), nullable=False)

# InfluxDB's names for the kinds of columns: clients look for them in the message.
_IOX_NAMES = {
    "tag": "iox::column_type::tag",
    "int64": "iox::column_type::field::integer",
    "uint64": "iox::column_type::field::uinteger",
    "float64": "iox::column_type::field::float",
    "string": "iox::column_type::field::string",
    "bool": "iox::column_type::field::boolean",
}


@frozen
class TableRows:
    """Accepted rows of one table, and the columns that its schema gains with them.

    Attributes:
        name: Name of the table.
        new_tags: Tags that the schema did not have, in the order in which they were met.
        new_fields: Types of the fields that it did not have, in that order.
        batch: The rows, in the order in which they came. Columns: the tags, then the fields that have a value in at
            least one row, both in the order of the schema as it is after the write, then `time` (timestamp[ns] without
            zone, UTC). Tags are plain strings, a missing value is null, and a column without nulls has no validity
            buffer.
        encoded: The batch as it is put into the log, if somebody has made that already.
    """

    name: str
    new_tags: tuple[str, ...]
    new_fields: Mapping[str, FieldType]
    batch: pa.RecordBatch
    encoded: pa.Buffer | None = None


@frozen
class Assembled:
    """What became of a body.

    Attributes:
        tables: Accepted rows by table, in the order in which the tables were met; empty if everything was refused.
        errors: Refused lines in the order of their numbers.
    """

    tables: Mapping[str, TableRows]
    errors: Sequence[LineError]


class Problem(NamedTuple):
    """Why a row does not fit its table.

    Attributes:
        column: Name of the column; None if it is not about one.
        message: What is wrong, for a person.
    """

    column: str | None
    message: str


class Piece(NamedTuple):
    """Rows of one table in columns.

    Attributes:
        columns: Values by column.
        times: ns since the epoch.
        lines: The line of each row.
    """

    columns: Mapping[str, pa.Array]
    times: Ints
    lines: Ints


class TableBuilder:
    """Rows of one table while they are gathered, checked one by one.

    Args:
        name: Name of the table.
        schema: Its schema; None for a new table.

    Attributes:
        base: The schema before the first row.
        kinds: For each column, `tag` or the type of the field: the schema, and what accepted rows added to it.
        times: Time of each accepted row, ns.
    """

    __slots__ = ("_columns", "_new_fields", "_new_tags", "base", "kinds", "times")

    def __init__(self, name: str, schema: TableSchema | None) -> None:
        self.base = schema or TableSchema(name)
        self.kinds: dict[str, str] = {**dict.fromkeys(self.base.tags, "tag"), **self.base.fields}
        self.times: list[int] = []
        self._columns: dict[str, list[Value | None]] = {}
        self._new_tags: list[str] = []
        self._new_fields: dict[str, FieldType] = {}

    def add(self, tags: Tags, fields: Fields, time: int) -> Problem | None:
        """Appends a row, or changes nothing.

        Args:
            tags: Names and values, no name twice.
            fields: Names, types and values, no name twice and none that is a tag of the row; values fit their types.
            time: ns since the epoch.

        Returns:
            None if the row was appended, otherwise why it was not.
        """
        problem = self.admit([name for name, _ in tags], [(name, kind) for name, kind, _ in fields])
        if problem is not None:
            return problem
        row = len(self.times)
        self.times.append(time)
        columns = self._columns
        for name, value in (*tags, *((name, value) for name, _, value in fields)):
            column = columns.get(name)
            if column is None:
                column = columns[name] = []
            if len(column) < row:
                column += [None] * (row - len(column))
            column.append(value)
        return None

    def admit(self, tags: Iterable[str], fields: Iterable[tuple[str, FieldType]]) -> Problem | None:
        """Takes in the columns of a row, or changes nothing.

        Args:
            tags: Names, none twice.
            fields: Names and types, no name twice and none that is a tag of the row.

        Returns:
            None if a row with these columns fits, otherwise why it does not.
        """
        kinds = self.kinds
        new_tags: list[str] = []
        new_fields: dict[str, FieldType] = {}
        for name in tags:
            known = kinds.get(name)
            if known is None:
                new_tags.append(name)
            elif known != "tag":
                return self._conflict(name, known, "tag")
        for name, kind in fields:
            known = kinds.get(name)
            if known is None:
                new_fields[name] = kind
            elif known != kind:
                return self._conflict(name, known, kind)
        if new_tags or new_fields:
            gain = len(new_tags) + len(new_fields)
            if len(kinds) + gain > COLUMNS_PER_TABLE:
                return Problem(None, too_many_columns(self.base.name, len(kinds), gain))
            kinds.update(dict.fromkeys(new_tags, "tag"))
            kinds.update(new_fields)
            self._new_tags += new_tags
            self._new_fields.update(new_fields)
        return None

    def build(self, more: Sequence[Piece] = (), lines: Sequence[int] = ()) -> TableRows:
        """The rows so far; the builder is not used after it.

        Args:
            more: Rows in columns that were admitted.
            lines: With `more`: for each row that was added, the line that it comes from.
        """
        wanted = list(self._resulting_columns())
        pieces = list(more)
        if self.times or not pieces:
            pieces.append(self._own(wanted, lines))
        if len(pieces) == 1:
            columns, times = pieces[0].columns, pieces[0].times
        else:
            columns, times = _interleave(pieces, wanted)
        fields, arrays = [], []
        for name, kind in wanted:
            column = columns.get(name)
            if column is not None:
                fields.append(pa.field(name, kind))
                arrays.append(column)
        arrays.append(pa.array(times).view(TIME_FIELD.type))
        batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*fields, TIME_FIELD]))
        return TableRows(self.base.name, tuple(self._new_tags), self._new_fields, batch)

    def _own(self, wanted: Sequence[tuple[str, pa.DataType]], lines: Sequence[int]) -> Piece:
        rows = len(self.times)
        columns = {}
        for name, kind in wanted:
            values = self._columns.get(name)
            if values is not None:
                columns[name] = pa.array(values + [None] * (rows - len(values)), kind)
        return Piece(columns, np.array(self.times, np.int64), np.array(lines, np.int64))

    def _resulting_columns(self) -> Iterator[tuple[str, pa.DataType]]:
        result = self.base.with_columns(tuple(self._new_tags), self._new_fields)
        for name in result.tags:
            yield name, pa.string()
        for name, kind in result.fields.items():
            yield name, arrow_type(kind)

    def _conflict(self, name: str, known: str, given: str) -> Problem:
        return Problem(
            name,
            f"invalid column type for column '{name[:100]}', expected {_IOX_NAMES[known]}, got {_IOX_NAMES[given]} "
            f"(table '{self.base.name[:100]}')",
        )


def _interleave(pieces: Sequence[Piece], wanted: Sequence[tuple[str, pa.DataType]]) -> tuple[dict[str, pa.Array], Ints]:
    """The rows of several pieces in the order of their lines."""
    lines = np.concatenate([piece.lines for piece in pieces])
    order = np.argsort(lines, kind="stable")
    chosen = pa.array(order)
    columns: dict[str, pa.Array] = {}
    for name, kind in wanted:
        chunks = [piece.columns.get(name) for piece in pieces]
        if any(chunk is not None for chunk in chunks):
            filled = [
                pa.nulls(len(piece.times), kind) if chunk is None else chunk
                for piece, chunk in zip(pieces, chunks, strict=True)
            ]
            columns[name] = pa.concat_arrays(filled).take(chosen)
    return columns, np.concatenate([piece.times for piece in pieces])[order]


def too_many_columns(table: str, present: int, gain: int) -> str:
    """The message for rows that bring more columns than a table may have; HTTP clients know it by its start."""
    return (
        f"Update to schema would exceed number of columns per table limit of {COLUMNS_PER_TABLE} columns: "
        f"table {short(table)} has {present} and this would add {gain}"
    )


def assemble(
    points: Iterable[Point],
    schema_of: Callable[[str], TableSchema | None],
    *,
    accept_partial: bool,
    errors: Sequence[LineError] = (),
) -> Assembled:
    """Puts points into columns and refuses those that do not fit the schema.

    A refused line leaves nothing behind: a column that only it would have brought is not created. An accepted line
    counts for those after it: the first one to use a new name decides its type.

    Args:
        points: Valid lines, in order.
        schema_of: The schema of a table by its name, None if there is no such table; asked once per table.
        accept_partial: Whether valid lines are accepted when others are refused. If not, the first refused line
            (by number) is the only error, and no row is accepted.
        errors: Lines that the parser refused already.

    Returns:
        Rows and errors; with an error and without `accept_partial`, no rows.
    """
    builders: dict[str, TableBuilder] = {}
    refused: list[LineError] = []
    for point in points:
        table = point.measurement
        builder = builders.get(table)
        if builder is None:
            builder = builders[table] = TableBuilder(table, schema_of(table))
        problem = builder.add(point.tags, point.fields, point.time)
        if problem is not None:
            refused.append(point.error(problem.message))
            if not accept_partial:
                break
    found = in_order(errors, refused)
    if found and not accept_partial:
        return Assembled({}, found[:1])
    return Assembled({name: b.build() for name, b in builders.items() if b.times}, found)


def in_order(parser: Sequence[LineError], schema: list[LineError]) -> Sequence[LineError]:
    """What the parser refused and what the schema refused, by line; there may be hundreds of thousands of the first.

    Args:
        parser: In order.
        schema: In any order.
    """
    if not schema:
        return parser  # as it is: a copy of so many would take tens of milliseconds of the committer
    return sorted([*parser, *schema], key=itemgetter(0))
