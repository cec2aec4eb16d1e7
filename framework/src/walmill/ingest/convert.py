"""What a plugin gives to `ctx.write` besides text, as rows of tables.

All or nothing: the first thing that is wrong raises `RowError`, which names the row (from 0) and the column. The rules:

- None and NaN (and pandas' NA) mean no value; infinities are refused; a row needs at least one field with a value.
- `time` is an aware datetime or an int of ns; a row without it gets the default time, the next one a nanosecond more.
- A column that is a tag in the table is a tag; for a new table the tags are named by the caller.
- Ints are int64 unless the column is uint64, or is new and the int is a `UInt`. An int for a float64 column of the
  table is accepted when the float is exactly it; a float never becomes an int, a bool never a number.
- The values of a new column have one type: nothing is widened, so that the order of the rows never decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from walmill.errors import InvalidRequest
from walmill.ingest.arrow import from_arrow, tags_of
from walmill.ingest.assemble import TableBuilder, TableRows
from walmill.ingest.errors import RowError, note_refused, short
from walmill.ingest.lineprotocol import Value
from walmill.ingest.names import check_column_name, check_table_name
from walmill.ingest.precision import INT64_MAX
from walmill.ingest.render import LineLike
from walmill.ingest.values import BadValue, to_field, to_nanos, to_tag
from walmill.model.schema import TIME, FieldType, TableSchema

__all__ = ["from_arrow", "from_lines", "from_rows"]

T = TypeVar("T")


def from_lines(
    lines: Iterable[LineLike], schema_of: Callable[[str], TableSchema | None], *, default_time: int
) -> dict[str, TableRows]:
    """Rows of any tables, given as objects with `table`, `tags`, `fields` and `time`.

    Args:
        lines: The rows, read once.
        schema_of: The schema of a table by its name, None if there is no such table; asked once per table.
        default_time: Time of the first row that has none, ns.

    Returns:
        The rows by table, in the order in which the tables were met; without rows, an empty dict.

    Raises:
        RowError: A row is not valid; nothing is returned then.
    """
    builders: dict[str, TableBuilder] = {}
    times = DefaultTimes(default_time)
    line: Any  # plugin authors pass what they like, so nothing about it is taken for granted
    for row, line in enumerate(lines):
        try:
            table, tags, fields, time = line.table, line.tags, line.fields, line.time
        except AttributeError:
            raise RowError(row, None, f"{short(line)} is a {type(line).__name__} and not a Line") from None
        if not isinstance(tags, Mapping) or not isinstance(fields, Mapping):
            raise RowError(row, None, "tags and fields are mappings from names to values, such as {'host': 'a'}")
        builder = builders.get(table) if isinstance(table, str) else None
        if builder is None:
            builder = builders[table] = _builder(row, table, schema_of)
        _add(builder, row, tags.items(), fields.items(), times.of(row, time))
    return {name: builder.build() for name, builder in builders.items()}


def from_rows(
    rows: Iterable[Mapping[str, object]],
    table: str,
    schema: TableSchema | None,
    tags: Sequence[str] | None,
    *,
    default_time: int,
) -> TableRows:
    """Rows of one table, given as mappings from column names to values.

    Args:
        rows: The rows, read once; the key `time` is the time.
        table: Name of the table.
        schema: Its schema; None for a new table.
        tags: Names of the tags; for a table that exists, tags that it has not are added to it, and None adds none. For
            a new table it is required (`()` for none).
        default_time: Time of the first row that has none, ns.

    Returns:
        The rows; without rows, an empty batch.

    Raises:
        RowError: A row is not valid; nothing is returned then.
    """
    builder = _builder(None, table, lambda _: schema)
    names = tags_of(table, schema, tags)
    times = DefaultTimes(default_time)
    for row, values in enumerate(rows):
        if not isinstance(values, Mapping):
            raise RowError(
                row, None, f"{short(values)} is a {type(values).__name__} and not a mapping from names to values"
            )
        _add_mapping(builder, row, values, names, times)
    return builder.build()


def from_numbered_rows(
    rows: Iterable[tuple[int, Mapping[str, object]]],
    table: str,
    schema: TableSchema | None,
    tags: Sequence[str] | None,
    *,
    default_time: int,
) -> tuple[TableRows, list[RowError]]:
    """As `from_rows`, but each row is accepted or refused by itself.

    A refused row leaves nothing behind: a column that only it would have brought is not created.

    Args:
        rows: Number and content of each row, read once.
        table: As for `from_rows`.
        schema: As for `from_rows`.
        tags: As for `from_rows`.
        default_time: As for `from_rows`.

    Returns:
        The accepted rows, and why each of the others was refused: `row` of the error is its number.

    Raises:
        RowError: The table or the tags are not valid, which is about no single row, or too many rows are refused.
    """
    builder = _builder(None, table, lambda _: schema)
    names = tags_of(table, schema, tags)
    times = DefaultTimes(default_time)
    refused: list[RowError] = []
    for row, values in rows:
        try:
            _add_mapping(builder, row, values, names, times)
        except RowError as error:
            note_refused(refused, error)
    return builder.build(), refused


def _add_mapping(
    builder: TableBuilder, row: int, values: Mapping[str, object], tags: Sequence[str], times: DefaultTimes
) -> None:
    split: tuple[list[tuple[str, object]], list[tuple[str, object]]] = ([], [])
    for name, value in values.items():
        if name != TIME:
            split[name not in tags].append((name, value))
    _add(builder, row, *split, times.of(row, values.get(TIME)))


class DefaultTimes:
    """The time of each row: its own, or the default time and then a nanosecond more for each further row without.

    Args:
        first: The default time, ns.
    """

    def __init__(self, first: int) -> None:
        self._next = first

    def of(self, row: int, time: object) -> int:
        """The time of a row, ns.

        Raises:
            RowError: `time` is not a time, or the default time has run out of range.
        """
        nanos = _read(to_nanos, time, row, TIME)
        if nanos is None:
            nanos = self._next
            self._next += 1
            if nanos > INT64_MAX:
                raise RowError(row, TIME, "the default time is out of range: 64-bit nanoseconds reach to 2262")
        return nanos


def _builder(row: int | None, table: str, schema_of: Callable[[str], TableSchema | None]) -> TableBuilder:
    if not isinstance(table, str):
        raise RowError(row, None, f"{short(table)} is not the name of a table: it must be a str")
    schema = schema_of(table)
    if schema is None:
        try:
            check_table_name(table)
        except InvalidRequest as error:
            raise RowError(row, None, error.message) from None
    return TableBuilder(table, schema)


def _add(
    builder: TableBuilder,
    row: int,
    tags: Iterable[tuple[str, object]],
    fields: Iterable[tuple[str, object]],
    time: int,
) -> None:
    kinds, schema = builder.kinds, builder.base
    given_tags: dict[str, str] = {}
    for name, value in tags:
        tag = _read(to_tag, value, row, name)
        if tag is None:
            continue
        if kinds.get(name) != "tag":
            _check_new(builder, row, name, "a tag")
        given_tags[name] = tag
    given_fields: list[tuple[str, FieldType, Value]] = []
    for name, value in fields:
        typed = _read(partial(to_field, expected=schema.fields.get(name)), value, row, name)
        if typed is None:
            continue
        kind, result = typed
        known = kinds.get(name)
        if known != kind:
            if known is not None and known != "tag":
                raise RowError(
                    row, name, f"the value {short(value)} is {kind} and earlier rows hold {known}: use one type for all"
                )
            _check_new(builder, row, name, "a field")
        if name in given_tags:
            raise RowError(row, name, "it is a tag and a field of the same row: a column is one or the other")
        given_fields.append((name, kind, result))
    if not given_fields:
        raise RowError(row, None, "no field has a value: a row needs at least one")
    problem = builder.add(tuple(given_tags.items()), tuple(given_fields), time)
    if problem is not None:
        raise RowError(row, problem.column, problem.message)


def _check_new(builder: TableBuilder, row: int, name: str, what: str) -> None:
    """Refuses a name that is something else in the table, or that no column may have."""
    known = builder.kinds.get(name)
    if known is not None:
        kind = "a tag" if known == "tag" else f"a {known} field"
        raise RowError(row, name, f"it is {kind} in table {short(builder.base.name)} and {what} here")
    if not isinstance(name, str):
        raise RowError(row, None, f"{short(name)} is not the name of a column: it must be a str")
    try:
        check_column_name(name)
    except InvalidRequest as error:
        raise RowError(row, name, error.message) from None


def _read(read: Callable[[object], T], value: object, row: int, column: str) -> T:
    try:
        return read(value)
    except BadValue as error:
        raise RowError(row, column, str(error)) from None
