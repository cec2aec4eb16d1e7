"""Answers of InfluxQL as one table, as InfluxDB 3 gives them: the measurement, the time and the tags are columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from walmill.influxql.parse import Select, Show
from walmill.model.schema import TIME

MEASUREMENT = "iox::measurement"
DATABASE = "iox::database"
TIMES = pa.timestamp("ns")


def to_table(statement: Select | Show, series: Iterable[Mapping[str, Any]], database: str | None) -> pa.Table:
    """The series of one answer, one after another.

    Args:
        statement: What was asked.
        series: From `walmill.influxql.answer.Asker.series` with `epoch="ns"`.
        database: The database of the statement, which SHOW RETENTION POLICIES names.

    Returns:
        One row for each row of each series; a column that a series lacks is null in its rows.
    """
    if isinstance(statement, Show) and statement.what == "databases":
        names = [row[0] for one in series for row in one["values"]]
        return pa.table({DATABASE: pa.array(names, pa.string()), "deleted": pa.array([False] * len(names), pa.bool_())})
    if isinstance(statement, Show) and statement.what == "retention":
        names = [row[0] for one in series for row in one["values"]]
        return pa.table({DATABASE: pa.array([database or ""] * len(names), pa.string()), "name": names})
    found = list(series)
    tags = sorted({tag for one in found for tag in one.get("tags", ())})
    names = list(dict.fromkeys(name for one in found for name in one["columns"] if name not in tags))
    if isinstance(statement, Select) and TIME not in names:
        names.insert(0, TIME)
    first = [TIME] if TIME in names else []
    order = (MEASUREMENT, *first, *tags, *(name for name in names if name != TIME))
    columns = {name: [value for one in found for value in _values(one, name)] for name in order}
    return pa.table({name: _array(name, values, tags) for name, values in columns.items()})


def _values(one: Mapping[str, Any], name: str) -> list[Any]:
    """One column's values in the rows of one series."""
    rows = one["values"]
    if name == MEASUREMENT:
        return [one["name"]] * len(rows)
    if name in one.get("tags", ()):
        return [one["tags"][name] or None] * len(rows)  # InfluxQL's empty text is a tag that is not there
    if name not in one["columns"]:
        return [None] * len(rows)
    place = one["columns"].index(name)
    return [row[place] for row in rows]


def _array(name: str, values: list[Any], tags: list[str]) -> pa.Array:
    if name == TIME:
        return pa.array(values, pa.int64()).cast(TIMES)
    if name == MEASUREMENT or name in tags:
        return pa.array(values, pa.string())
    try:
        return pa.array(values)
    except pa.ArrowException:  # one name, several types: in several measurements
        return pa.array([None if one is None else str(one) for one in values], pa.string())
