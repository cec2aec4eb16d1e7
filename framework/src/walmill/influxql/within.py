"""A SELECT within a SELECT: what the outer one hands to the inner one, whose answer is a measurement for it then. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from attrs import evolve, frozen

from walmill.influxql.parse import Binary, By, Select
from walmill.influxql.translate import Translation, all_of, is_time
from walmill.model.schema import TIME, FieldType, TableSchema
from walmill.query.errors import QueryTooLarge

MOST_ROWS = 1_000_000
"""So many rows the inner SELECT may give: they are held while the outer one looks at them."""
_KINDS: Mapping[pa.DataType, FieldType] = {
    pa.float64(): "float64",
    pa.int64(): "int64",
    pa.uint64(): "uint64",
    pa.string(): "string",
    pa.bool_(): "bool",
}


@frozen
class Within:
    """An inner SELECT as it is asked, and the outer one as it is asked of its answer.

    Attributes:
        inner: The inner one: it has the time range of both, and tells apart what the outer one does.
        outer: The outer one, without what it says of time.
        low: The first instant of its time range, ns; None if it is open.
        high: The last instant.
    """

    inner: Select
    outer: Select
    low: int | None
    high: int | None


def split(outer: Select, inner: Select, now: int) -> Within:
    """What is asked of the inner SELECT, and what of its answer.

    The time range of the outer one is one for the inner one, as in InfluxDB: its bins may begin before it, and are not left out
    then. So are the tags by which the outer one tells series apart.

    Args:
        outer: The outer statement.
        inner: The one in its FROM.
        now: The time, ns.
    """
    conditions = [] if outer.where is None else list(all_of(outer.where))
    times = [one for one in conditions if is_time(one)]
    others = [one for one in conditions if not is_time(one)]
    bounds = Translation(outer, TableSchema(""), now)
    for one in times:
        bounds.bound(one)
    low, high = bounds.low, bounds.high
    grouped = [one for one in outer.dimensions if not isinstance(one, By)]
    dimensions = tuple(dict.fromkeys([*inner.dimensions, *grouped]))
    own = [one for one in dimensions if isinstance(one, By)]
    if own and low is not None and any(isinstance(one, By) for one in outer.dimensions):
        low -= (low - own[0].offset) % own[0].interval  # where the first bin of the inner one begins
    return Within(
        evolve(inner, where=_joined([*([] if inner.where is None else [inner.where]), *times]), dimensions=dimensions),
        evolve(outer, where=_joined(others)),
        low,
        high,
    )


def _joined(conditions: list[Any]) -> Any:
    found = None
    for one in conditions:
        found = one if found is None else Binary("and", found, one)
    return found


def measurements(series: Iterable[Mapping[str, Any]]) -> Iterator[tuple[TableSchema, pa.Table]]:
    """The answer of an inner SELECT, with times in ns, as measurements: their columns and their rows.

    Args:
        series: Its series; those of one measurement become one.

    Raises:
        QueryTooLarge: If there are too many rows.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    rows = 0
    for one in series:
        by_name.setdefault(str(one["name"]), []).append(one)
        rows += len(one["values"])
        if rows > MOST_ROWS:
            raise QueryTooLarge(
                f"the SELECT within gives more than {MOST_ROWS:,} rows; ask it for a shorter time range, or for wider bins"
            )
    for name, found in by_name.items():
        yield _measurement(name, found)


def _measurement(name: str, series: list[Mapping[str, Any]]) -> tuple[TableSchema, pa.Table]:
    tags = sorted({tag for one in series for tag in one.get("tags", ())})
    names = [one for one in dict.fromkeys(name for one in series for name in one["columns"]) if one != TIME]
    fields = [one for one in names if one not in tags]
    columns: dict[str, Any] = {}
    for tag in tags:
        values = [one.get("tags", {}).get(tag) or None for one in series for _ in one["values"]]
        columns[tag] = pa.array(values, pa.string())
    kinds: dict[str, FieldType] = {}
    for field in fields:
        array = _array([value for one in series for value in _values(one, field)])
        columns[field], kinds[field] = array, _KINDS[array.type]
    times = [row[0] for one in series for row in one["values"]]
    columns[TIME] = pa.array(times, pa.int64()).cast(pa.timestamp("ns"))
    return TableSchema(name, tuple(tags), kinds), pa.table(columns)


def _values(one: Mapping[str, Any], field: str) -> Iterator[Any]:
    if field not in one["columns"]:
        yield from (None for _ in one["values"])
        return
    place = one["columns"].index(field)
    yield from (row[place] for row in one["values"])


def _array(values: list[Any]) -> pa.Array:
    """Values of one type, or what they have in common."""
    try:
        made = pa.array(values)
    except pa.ArrowException:
        numbers = all(one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in values)
        if not numbers:
            return pa.array([None if one is None else str(one) for one in values], pa.string())
        return pa.array([None if one is None else float(one) for one in values], pa.float64())
    return made if made.type in _KINDS else made.cast(pa.float64())
