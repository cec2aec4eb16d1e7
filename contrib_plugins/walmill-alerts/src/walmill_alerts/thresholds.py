"""Thresholds with hysteresis, for each series of a table."""

from __future__ import annotations

from walmill_alerts.rule import Change, Limits, Watch, step
from walmill_hookspecs import (
    BadSettings,
    ColumnName,
    Context,
    Duration,
    Line,
    Series,
    TableBatch,
    TableName,
    WriteBatch,
    hookimpl,
    setting,
    settings,
)


@settings
class Thresholds:
    """A rule."""

    field: ColumnName = setting("the field that is watched")
    above: float | None = setting("an alert begins above this", default=None)
    below: float | None = setting("an alert begins below this", default=None)
    clear: float | None = setting("where an alert ends; the limit itself if it is left out", default=None)
    lasting: Duration = setting("how long a breach lasts before it fires", default="0s", minimum="0s")
    severity: str = setting("a tag of the alert", default="warning")
    target: TableName = setting("the table of alerts", default=TableName("alerts"))

    def __attrs_post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise BadSettings("give 'above' or 'below', or both")
        if self.clear is not None:
            if self.above is not None and self.below is not None:
                raise BadSettings("'clear' is for one limit; with 'above' and 'below' an alert ends between them")
            if self.above is not None and self.clear > self.above:
                raise BadSettings(
                    f"clear={self.clear:g} is over above={self.above:g}; an alert would end before it begins"
                )
            if self.below is not None and self.clear < self.below:
                raise BadSettings(
                    f"clear={self.clear:g} is under below={self.below:g}; an alert would end before it begins"
                )

    def limits(self) -> Limits:
        """The rule as numbers."""
        return Limits(self.above, self.below, self.clear, int(self.lasting))


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Thresholds


@hookimpl
def on_write(batch: WriteBatch, ctx: Context[Thresholds]) -> None:
    """Writes an alert for each change of state; the state is part of the same commit."""
    chosen = ctx.settings
    limits = chosen.limits()
    for table in batch.tables.values():
        kind = table.fields.get(chosen.field)
        if kind is None or table.name == chosen.target:
            continue
        if kind not in ("int64", "uint64", "float64"):
            raise BadSettings(f"field={str(chosen.field)!r} is a {kind} in {table.name!r}; only numbers have limits")
        for series in table.by_series():
            key = f"{table.name}|{series.key}"
            known = ctx.cache.get(key)
            watch = Watch() if known is None else Watch(*known)
            changes = step(watch, limits, series.rows(["time", chosen.field]), chosen.field)
            if known is None or watch.to_state() != list(known):
                ctx.cache.put(key, watch.to_state())
            for change in changes:
                ctx.write(alert(change, table, series, ctx))


def alert(change: Change, table: TableBatch, series: Series, ctx: Context[Thresholds]) -> Line:
    """The row of a change."""
    chosen = ctx.settings
    state = "firing" if change.firing else "resolved"
    where = f"{table.name},{series.key}" if series.key else table.name
    side = "above" if chosen.above is not None and change.limit == chosen.above else "below"
    words = f"{chosen.field} of {where} is {change.value:g}, " + (
        f"{side} {change.limit:g}" if change.firing else f"within its limits again ({side} {change.limit:g} has ended)"
    )
    return Line(
        chosen.target,
        tags={**series.tags, "rule": ctx.trigger.name, "severity": chosen.severity},
        fields={
            "state": state,
            "value": float(change.value),
            "limit": float(change.limit),
            "message": words,
            "since": change.since,
        },
        time=change.time,
    )
