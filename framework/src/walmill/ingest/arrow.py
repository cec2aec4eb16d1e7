"""Arrow data from anywhere (pyarrow, pandas, polars, DuckDB) as rows of one table, copying only what has to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from walmill.errors import InvalidRequest
from walmill.ingest.assemble import TIME_FIELD, TableRows, too_many_columns
from walmill.ingest.errors import RowError, short
from walmill.ingest.names import COLUMNS_PER_TABLE, STRING_BYTES, check_column_name, check_table_name
from walmill.ingest.precision import INT64_MAX, INT64_MIN
from walmill.ingest.refused import Refused
from walmill.model.schema import TIME, FieldType, TableSchema, arrow_type

_NANOS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DAY = 86_400 * 10**9


class ArrowStream(Protocol):
    """Anything that hands out its rows through Arrow's C stream interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


def from_arrow(
    data: ArrowStream,
    table: str,
    schema: TableSchema | None,
    tags: Sequence[str] | None,
    *,
    default_time: int,
    checked: bool = False,
    errors: list[RowError] | None = None,
) -> TableRows:
    """Rows of one table, given as Arrow data.

    Columns that have the type of the store already keep their buffers; the others are cast where that loses nothing:
    8- to 64-bit ints, 16- to 64-bit floats, every layout of strings, dictionaries of these; for `time` timestamps of
    any unit and zone (without zone they are UTC), dates, and ints of ns. The rules for values are those of
    `walmill.ingest.convert`; an int column for a float64 column of the table is accepted when every value is exact.

    Args:
        data: A pyarrow Table, RecordBatch or reader, a pandas or polars frame, or anything else with
            `__arrow_c_stream__`.
        table: Name of the table.
        schema: Its schema; None for a new table.
        tags: Names of the tags; for a table that exists, tags that it has not are added to it, and None adds none. For
            a new table it is required (`()` for none).
        default_time: Time of the first row whose `time` is null or missing, ns; the next one gets a nanosecond more.
        checked: Whether the data were validated down to the last offset already.
        errors: Where to put why a row was refused, one error for each, by columns; the other rows are kept, and a column that
            only refused rows would have brought is not created. None: the first bad value refuses all.

    Returns:
        The rows in the order in which they came; without rows, an empty batch.

    Raises:
        RowError: A whole column is not valid, or a value and there is no list of errors, or too many values; nothing is
            returned then.
    """
    refused = Refused(errors)
    if schema is None:
        try:
            check_table_name(table)
        except InvalidRequest as error:
            raise RowError(None, None, error.message) from None
    names = tags_of(table, schema, tags)
    given = _read(data, checked=checked)
    base = schema or TableSchema(table)
    tag_arrays: dict[str, pa.Array] = {}
    field_arrays: dict[str, tuple[FieldType, pa.Array]] = {}
    time_array: pa.Array | None = None
    _refuse_twins(given.column_names)
    for name, column in zip(given.column_names, given.columns, strict=True):
        if name == TIME:
            time_array = _time(_one_chunk(name, column), refused)
            continue
        _check_column(base, name)
        if column.null_count == len(column):
            continue
        array = _decoded(name, _one_chunk(name, column))
        if name in names:
            tag_arrays[name] = _tag(name, array, refused)
            continue
        kind, array = _field(name, array, base.fields.get(name), refused)
        if array.null_count < len(array):
            field_arrays[name] = (kind, array)
    _check_fields_present(given.num_rows, [array for _, array in field_arrays.values()], refused)
    rows, kept = given.num_rows, refused.kept(given.num_rows)
    if kept is not None:
        rows = pc.sum(kept).as_py()
        tag_arrays = _kept(tag_arrays, kept)
        left = _kept({name: array for name, (_, array) in field_arrays.items()}, kept)
        field_arrays = {name: (field_arrays[name][0], array) for name, array in left.items()}
        time_array = None if time_array is None else time_array.filter(kept)
    new_tags = tuple(tag for tag in names if tag in tag_arrays and tag not in base.tags)
    new_fields = {name: kind for name, (kind, _) in field_arrays.items() if name not in base.fields}
    present = len(base.tags) + len(base.fields)
    gain = len(new_tags) + len(new_fields)
    if gain and present + gain > COLUMNS_PER_TABLE:
        raise RowError(None, None, too_many_columns(table, present, gain))
    result = base.with_columns(new_tags, new_fields)
    arrays = {**{t: tag_arrays[t] for t in result.tags if t in tag_arrays}}
    arrays |= {f: field_arrays[f][1] for f in result.fields if f in field_arrays}
    columns = [pa.field(name, array.type) for name, array in arrays.items()]
    times = _times(time_array, rows, default_time)
    batch = pa.RecordBatch.from_arrays(
        [*(_without_bitmap(array) for array in arrays.values()), times], schema=pa.schema([*columns, TIME_FIELD])
    )
    return TableRows(table, new_tags, new_fields, batch)


def tags_of(table: str, schema: TableSchema | None, tags: Sequence[str] | None) -> tuple[str, ...]:
    """The names that are tags in rows for a table: those of its schema, then those that the caller names.

    Args:
        table: Name of the table.
        schema: Its schema; None for a new table.
        tags: What the caller said.

    Raises:
        RowError: The table is new and nothing was said, a name cannot be a tag, or it is a field of the table.
    """
    if tags is None:
        if schema is None:
            raise RowError(
                None,
                None,
                f"table {short(table)} is new: say which columns are tags with tags=[...], or tags=() for none",
            )
        return schema.tags
    if isinstance(tags, str):
        raise RowError(None, None, f"tags={tags!r} is one string: give a list of names, such as [{tags!r}]")
    for tag in tags:
        if not isinstance(tag, str):
            raise RowError(None, None, f"tags= names columns, and {short(tag)} is not a str")
        try:
            check_column_name(tag)
        except InvalidRequest as error:
            raise RowError(None, tag, error.message) from None
        if schema is not None and tag in schema.fields:
            raise RowError(None, tag, f"it is a {schema.fields[tag]} field in table {short(table)} and a tag in tags=")
    return tuple(dict.fromkeys((*(schema.tags if schema else ()), *tags)))


def _read(data: Any, *, checked: bool) -> pa.Table:
    if isinstance(data, pa.Table):
        result = data
    elif hasattr(data, "__arrow_c_stream__"):
        result = pa.RecordBatchReader.from_stream(data).read_all()
    else:
        raise RowError(None, None, f"a {type(data).__name__} has no __arrow_c_stream__: it is not Arrow data")
    if checked:
        return result
    try:
        result.validate(full=True)
    except pa.ArrowInvalid as error:
        raise RowError(None, None, f"the Arrow data is damaged: {error}") from None
    return result


def _refuse_twins(names: Sequence[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise RowError(None, name, "the data has several columns of this name: rename or drop all but one")
        seen.add(name)


def _check_column(base: TableSchema, name: str) -> None:
    if name.startswith("__index_level_"):
        raise RowError(
            None,
            name,
            "this is the index of a pandas frame, which has no name: give it one, or drop it with reset_index",
        )
    if name in base.fields or name in base.tags:
        return
    try:
        check_column_name(name)
    except InvalidRequest as error:
        raise RowError(None, name, error.message) from None


def _one_chunk(name: str, column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    try:
        combined = column.combine_chunks()
    except pa.ArrowInvalid as error:
        raise RowError(
            None, name, f"its chunks do not fit into one array: write fewer rows at once ({error})"
        ) from None
    if isinstance(combined, pa.ChunkedArray):
        raise RowError(None, name, "its chunks do not fit into one array: write fewer rows at once")
    return combined


def _decoded(name: str, array: pa.Array) -> pa.Array:
    """The array without dictionary, and strings of any layout as plain strings."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        array = _cast(name, array, pa.string(), kind)
    return array


def _kept(arrays: dict[str, pa.Array], kept: pa.Array) -> dict[str, pa.Array]:
    """The columns without the refused rows; those that have no value then are left out."""
    left = {name: array.filter(kept) for name, array in arrays.items()}
    return {name: array for name, array in left.items() if array.null_count < len(array)}


def _tag(name: str, array: pa.Array, refused: Refused) -> pa.Array:
    if not pa.types.is_string(array.type):
        raise RowError(None, name, f"it is {array.type} and tags are strings: cast it")
    array = _check_strings(name, array, "tag value", refused)
    empty = pc.equal(pc.binary_length(array), 0)
    return refused.values(name, array, empty, lambda _: "the value of a tag cannot be empty: use null")


def _field(name: str, array: pa.Array, expected: FieldType | None, refused: Refused) -> tuple[FieldType, pa.Array]:
    """The array in the type of its column: that of the table, or for a new column the one nearest to its own."""
    given = array.type
    if pa.types.is_integer(given):
        kind: FieldType = "uint64" if pa.types.is_uint64(given) else "int64"
        if expected == "float64":
            return expected, _exact_floats(name, array, refused)
        if expected in {"int64", "uint64"}:
            kind = expected
        _expect(name, kind, expected, given)
        return kind, _cast(name, _in_range(name, array, kind, refused), arrow_type(kind), given)
    if pa.types.is_floating(given):
        _expect(name, "float64", expected, given)
        return "float64", _finite(name, _cast(name, array, pa.float64(), given), refused)
    if pa.types.is_boolean(given):
        return _expect(name, "bool", expected, given), array
    if pa.types.is_string(given):
        _expect(name, "string", expected, given)
        return "string", _check_strings(name, array, "string", refused)
    raise RowError(None, name, f"a column of type {given} cannot be stored: cast it to int64, float64, bool or string")


def _expect(name: str, kind: FieldType, expected: FieldType | None, given: pa.DataType) -> FieldType:
    if expected is not None and kind != expected:
        raise RowError(None, name, f"it is {given} and the column is {expected}: cast it, or choose another column")
    return kind


def _in_range(name: str, array: pa.Array, kind: FieldType, refused: Refused) -> pa.Array:
    """The ints, without those that their column cannot hold."""
    if kind == "uint64" and pa.types.is_signed_integer(array.type):
        bad = pc.less(array, pa.scalar(0, array.type))
        bounds = f"uint64 reaches from 0 to {2**64 - 1}"
    elif kind == "int64" and pa.types.is_uint64(array.type):
        bad = pc.greater(array, pa.scalar(INT64_MAX, array.type))
        bounds = f"int64 reaches from {INT64_MIN} to {INT64_MAX}"
    else:
        return array
    return refused.values(name, array, bad, lambda value: f"the value {value} is out of range: {bounds}")


def _finite(name: str, array: pa.Array, refused: Refused) -> pa.Array:
    if pc.all(pc.is_finite(array), min_count=0).as_py():
        return array
    array = refused.values(
        name, array, pc.is_inf(array), lambda value: f"the value {value} is infinite: use null for no value"
    )
    return pc.if_else(pc.is_nan(array), pa.scalar(None, pa.float64()), array)


def _exact_floats(name: str, array: pa.Array, refused: Refused) -> pa.Array:
    floats = array.cast(pa.float64(), safe=False)
    back = floats.cast(array.type, safe=False)
    # The float above the largest int of the type is out of its range: what comes back then depends on the processor.
    too_big = pc.greater_equal(floats, 2.0**63 if pa.types.is_int64(array.type) else 2.0**64)
    inexact = pc.or_(pc.not_equal(back, array), too_big)
    left = refused.values(
        name, array, inexact, lambda v: f"the int {v} is not exactly a float64, and the column is float64"
    )
    return floats if left is array else left.cast(pa.float64(), safe=False)


def _check_strings(name: str, array: pa.Array, what: str, refused: Refused) -> pa.Array:
    too_long = pc.greater(pc.binary_length(array), STRING_BYTES)
    return refused.values(
        name,
        array,
        too_long,
        lambda v: f"the {what} has {len(v.encode())} bytes: at most {STRING_BYTES} are allowed",
    )


def _check_fields_present(rows: int, arrays: Sequence[pa.Array], refused: Refused) -> None:
    if not rows or any(array.null_count == 0 for array in arrays):
        return
    missing = pa.array(np.ones(rows, np.bool_))
    for array in arrays:
        missing = pc.and_(missing, array.is_null())
    refused.values(None, missing, missing, lambda _: "no field has a value: a row needs at least one")


def _time(array: pa.Array, refused: Refused) -> pa.Array:
    """The times as they are stored, with nulls."""
    given = array.type
    if pa.types.is_null(given):
        return array
    if pa.types.is_integer(given):
        unit, numbers = 1, array
    elif pa.types.is_timestamp(given):
        unit, numbers = _NANOS[given.unit], array.view(pa.int64())
    elif pa.types.is_date(given):
        unit, numbers = (_NANOS["ms"], array.view(pa.int64())) if pa.types.is_date64(given) else (_DAY, _days(array))
    else:
        raise RowError(None, TIME, f"it is {given} and not a time: use a timestamp, or int64 of nanoseconds")
    if unit > 1 or pa.types.is_uint64(given):
        low, high = -(-INT64_MIN // unit), INT64_MAX // unit
        bad = pc.greater(numbers, pa.scalar(high, numbers.type))
        if not pa.types.is_uint64(given):
            bad = pc.or_(bad, pc.less(numbers, pa.scalar(low, numbers.type)))
        of = "" if pa.types.is_integer(given) else f" of {given}"
        left = refused.values(
            TIME,
            numbers,
            bad,
            lambda v: f"the time {v}{of} is out of range: 64-bit nanoseconds reach from 1677 to 2262",
        )
        if left is not numbers:
            array = pc.if_else(left.is_valid(), array, pa.scalar(None, given))
    if pa.types.is_integer(given):
        return _cast(TIME, array, pa.int64(), given).view(TIME_FIELD.type)
    return _cast(TIME, array, TIME_FIELD.type, given)


def _days(array: pa.Array) -> pa.Array:
    return array.view(pa.int32()).cast(pa.int64())


def _times(array: pa.Array | None, rows: int, default_time: int) -> pa.Array:
    missing = rows if array is None else array.null_count
    if default_time + missing - 1 > INT64_MAX:
        raise RowError(None, TIME, "the default time is out of range: 64-bit nanoseconds reach to 2262")
    if array is None or pa.types.is_null(array.type):
        return _consecutive(default_time, rows)
    if missing:
        array = pc.replace_with_mask(array, array.is_null(), _consecutive(default_time, missing))
    return _without_bitmap(array)


def _consecutive(first: int, count: int) -> pa.Array:
    return pa.array(first + np.arange(count, dtype=np.int64)).view(TIME_FIELD.type)


def _cast(name: str, array: pa.Array, target: pa.DataType, given: pa.DataType) -> pa.Array:
    if array.type == target:
        return array
    try:
        return array.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RowError(None, name, f"{given} cannot be stored as {target} without loss: {error}") from None


def _without_bitmap(array: pa.Array) -> pa.Array:
    """The same values; when none is missing, without the validity buffer that an Arrow array may still carry."""
    buffers = array.buffers()
    if array.null_count or buffers[0] is None:
        return array
    return pa.Array.from_buffers(array.type, len(array), [None, *buffers[1:]], 0, array.offset)
