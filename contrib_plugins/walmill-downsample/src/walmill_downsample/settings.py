"""The settings of the plugin."""

from __future__ import annotations

from enum import Enum

from walmill_hookspecs import ColumnName, Duration, TableName, setting, settings


class Aggregate(Enum):
    """An aggregate, and how SQL says it."""

    MEAN = "mean"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    COUNT = "count"
    FIRST = "first"
    LAST = "last"
    MEDIAN = "median"
    STDDEV = "stddev"


@settings
class Downsample:
    """How a table is aggregated."""

    window: Duration = setting("length of a window; windows begin at multiples of it since the epoch", minimum="1ms")
    target: str | None = setting("the table that is written; {source} stands for the source", default=None)
    source: TableName | None = setting("the table that is read; the trigger's tables if it is left out", default=None)
    fields: list[ColumnName] = setting("which fields; all numeric ones if it is left out", default=[])
    aggregates: list[Aggregate] = setting("which aggregates", default=[Aggregate.MEAN])
    tags: list[ColumnName] | None = setting("which tags are kept; all if it is left out", default=None)
    lookback: int = setting("on a schedule: how many windows before now are recomputed", default=2, minimum=1)
