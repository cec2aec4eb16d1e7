"""Anomalies of a field, for each series of its tables, as they come."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from walmill_anomaly.judge import Anomaly, Memory, Rule, judge
from walmill_hookspecs import (
    BadSettings,
    ColumnName,
    Context,
    Line,
    Series,
    TableName,
    WriteBatch,
    hookimpl,
    setting,
    settings,
)


@settings
class Anomalies:
    """When a value is one."""

    field: ColumnName = setting("the field that is watched")
    method: Literal["zscore", "mad"] = setting(
        "zscore: mean and standard deviation, forgetting slowly; mad: median and its deviation, which wild values do not move",
        default="zscore",
    )
    threshold: float = setting("a value so many deviations away is an anomaly", default=3.5, minimum=0.1)
    window: int = setting("about so many values of a series are remembered", default=100, minimum=5, maximum=10_000)
    warmup: int = setting("so many are looked at before any is judged", default=30, minimum=3, maximum=10_000)
    floor: float = setting("the least deviation, in units of the field", default=0.0, minimum=0.0)
    relearn: int = setting(
        "after so many anomalies in a row the series has changed, and they are usual",
        default=20,
        minimum=2,
        maximum=10_000,
    )
    target: TableName = setting("the table of anomalies", default=TableName("anomalies"))

    def __attrs_post_init__(self) -> None:
        if self.warmup > self.window:
            raise BadSettings(f"warmup={self.warmup} is more than window={self.window}: that many are never remembered")

    def rule(self) -> Rule:
        """The rule."""
        return Rule(
            method=self.method,
            threshold=self.threshold,
            window=self.window,
            warmup=self.warmup,
            floor=self.floor,
            relearn=self.relearn,
        )


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Anomalies


@hookimpl
def on_write(batch: WriteBatch, ctx: Context[Anomalies]) -> None:
    """Writes a row for each anomaly; what is remembered of its series is part of the same commit."""
    chosen = ctx.settings
    rule = chosen.rule()
    for table in batch.tables.values():
        kind = table.fields.get(chosen.field)
        if kind is None or table.name == chosen.target:
            continue
        if kind not in ("int64", "uint64", "float64"):
            raise BadSettings(f"field={str(chosen.field)!r} is a {kind} in {table.name!r}; only numbers have anomalies")
        for series in table.by_series():
            key = f"{rule.method}|{table.name}|{series.key}"
            known = ctx.cache.get(key)
            memory = Memory() if known is None else Memory.from_state(known)
            values = series.data.column(chosen.field).cast(pa.float64(), safe=False).to_pylist()
            times = series.data.column("time").cast(pa.int64()).to_pylist()
            before = memory.newest
            for one in judge(memory, rule, zip(times, values, strict=True)):
                ctx.write(_line(one, table.name, series, ctx))
            if memory.newest != before:
                ctx.cache.put(key, memory.to_state())


def _line(found: Anomaly, table: str, series: Series, ctx: Context[Anomalies]) -> Line:
    chosen = ctx.settings
    where = f"{table},{series.key}" if series.key else table
    side = "above" if found.score > 0 else "below"
    return Line(
        chosen.target,
        tags={**series.tags, "table": table, "rule": ctx.trigger.name},
        fields={
            "value": found.value,
            "score": found.score,
            "expected": found.expected,
            "deviation": found.deviation,
            "message": (
                f"{chosen.field} of {where} is {found.value:g}, {abs(found.score):.1f} deviations {side} {found.expected:g}"
            ),
        },
        time=found.time,
    )
