r"""Rows as line protocol: the way back from values to text.

What is rendered, `walmill.ingest.lineprotocol.parse` reads as the same values. What line protocol cannot say (a newline
in a name or in a tag, a name or a tag that ends with a backslash, an empty tag, infinity) is refused, never bent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from walmill.errors import InvalidRequest
from walmill.ingest.errors import RowError
from walmill.ingest.names import check_column_name, check_table_name, unsayable
from walmill.ingest.values import BadValue, Scalar, to_field, to_nanos, to_tag
from walmill.model.schema import TIME, FieldType
from walmill_hookspecs import Line, UInt

# A backslash before a newline or a tab stands for itself, so it is left alone.
_IN_MEASUREMENT = re.compile(r"\\(?=[\n\t])|([, \\])")
_IN_NAME = re.compile(r"\\(?=[\n\t])|([,= \\])")
_IN_STRING = re.compile(r'(["\\])')

T = TypeVar("T")


class LineLike(Protocol):
    """A row for one table: what the contract's `Line` is, and any object that has the same attributes.

    Attributes:
        table: Name of the table.
        tags: Values of the tags; None means no value.
        fields: Values of the fields; None and NaN mean no value. Ints are int64 unless their class is `UInt`.
        time: Aware datetime, int of ns since the epoch, or None for no time.
    """

    @property
    def table(self) -> str: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def fields(self) -> Mapping[str, Scalar | None]: ...
    @property
    def time(self) -> int | datetime | None: ...


def render(line: LineLike) -> str:
    """One row as a line of line protocol.

    Args:
        line: The row. Tags and fields keep their order; those without value are left out.

    Returns:
        The line without newline at its end, with the time in nanoseconds if the row has one. It holds newlines if a
        string value does.

    Raises:
        RowError: The row cannot be written as line protocol; the message names the column.
    """
    try:
        parts = [_escape(_IN_MEASUREMENT, check_table_name(line.table))]
    except InvalidRequest as error:
        raise RowError(None, None, error.message) from None
    seen = set()
    for name, given in line.tags.items():
        tag = _read(to_tag, given, name)
        if tag is None:
            continue
        problem = unsayable(tag, "tag value")
        if problem:
            raise RowError(None, name, problem)
        seen.add(name)
        parts.append(f",{_column(name)}={_escape(_IN_NAME, tag)}")
    separator = " "
    for name, value in line.fields.items():
        typed = _read(partial(to_field, expected=None), value, name)
        if typed is None:
            continue
        if name in seen:
            raise RowError(None, name, "it is a tag and a field of the same row: a column is one or the other")
        parts.append(f"{separator}{_column(name)}={render_value(*typed)}")
        separator = ","
    if separator == " ":
        raise RowError(None, None, f"at least one field is required: {''.join(parts)[:200]}")
    nanos = _read(to_nanos, line.time, TIME)
    if nanos is not None:
        parts.append(f" {nanos}")
    return "".join(parts)


def render_row(table: str, tags: Sequence[str], fields: Mapping[str, str], row: Mapping[str, object]) -> str:
    """A row of a table as a line of line protocol, or as JSON if line protocol cannot say it.

    Args:
        table: Name of the table.
        tags: Names of its tags.
        fields: Types of its fields, by name.
        row: The values, by column; None means no value.
    """
    present = {tag: cast("str", row[tag]) for tag in tags if row[tag] is not None}
    values: dict[str, Any] = {
        name: UInt(cast("int", row[name])) if kind == "uint64" else row[name]
        for name, kind in fields.items()
        if row[name] is not None
    }
    try:
        return render(Line(table, present, values, cast("int", row[TIME])))
    except RowError:
        return json.dumps({"table": table, "tags": present, "fields": values, "time": row[TIME]})


def render_value(kind: FieldType, value: Scalar) -> str:
    """The value of a field as line protocol writes it.

    Args:
        kind: Its type.
        value: A value of that type within its range; floats are finite.
    """
    if kind == "int64":
        return f"{value}i"
    if kind == "uint64":
        return f"{value}u"
    if kind == "bool":
        return "t" if value else "f"
    if kind == "float64":
        return repr(value)
    return '"' + _IN_STRING.sub(r"\\\1", str(value)) + '"'


def _escape(special: re.Pattern[str], text: str) -> str:
    return special.sub(lambda match: "\\" + match[0] if match[1] else match[0], text)


def _column(name: str) -> str:
    try:
        return _escape(_IN_NAME, check_column_name(name))
    except InvalidRequest as error:
        raise RowError(None, name, error.message) from None


def _read(read: Callable[[object], T], value: object, column: str) -> T:
    try:
        return read(value)
    except BadValue as error:
        raise RowError(None, column, str(error)) from None
