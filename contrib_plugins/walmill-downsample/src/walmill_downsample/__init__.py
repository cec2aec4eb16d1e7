"""Windowed aggregates of a table into another table.

Each batch recomputes, by SQL over the whole source, just the windows that it touches. So the target is right for any order of
arrival: what a window holds is asked, never added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from walmill_downsample.settings import Aggregate, Downsample
from walmill_downsample.statement import NUMERIC, Range, numeric_fields, parameters, statement, window_ranges
from walmill_hookspecs import AsyncContext, BadSettings, Tick, WriteBatch, hookimpl

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Aggregate", "Downsample"]

RANGES = 64
"""So many time ranges go into one query; a batch that touches more windows far apart takes several."""


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Downsample


@hookimpl
async def on_write(batch: WriteBatch, ctx: AsyncContext[Downsample]) -> None:
    """Recomputes the windows that a batch touches."""
    settings = ctx.settings
    for name, table in batch.tables.items():
        if settings.source is not None and name != settings.source:
            continue
        _check_target(name, settings)
        fields = [field for field in settings.fields or numeric_fields(table.fields) if field in table.fields]
        wrong = [field for field in fields if table.fields[field] not in NUMERIC]
        if wrong:
            raise BadSettings(
                f"fields={wrong[0]!r} is a {table.fields[wrong[0]]} in {name!r}; only numbers can be aggregated"
            )
        kept = [tag for tag in table.tags if settings.tags is None or tag in settings.tags]
        times = table.data.column("time").cast("int64").to_numpy()
        starts = set((times // int(settings.window) * int(settings.window)).tolist())
        await _recompute(name, kept, fields, window_ranges(starts, settings.window), ctx)


@hookimpl
async def on_schedule(tick: Tick, ctx: AsyncContext[Downsample]) -> None:
    """Recomputes the last windows of the source."""
    settings = ctx.settings
    if settings.source is None:
        raise BadSettings("on a schedule the argument 'source' is needed: the table that is read")
    _check_target(settings.source, settings)
    columns = await ctx.query(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $table AND table_schema = 'iox'",
        {"table": str(settings.source)},
    )
    kinds = dict(zip(columns.column(0).to_pylist(), columns.column(1).to_pylist(), strict=True))
    tags = [name for name, kind in kinds.items() if kind.startswith("Dictionary")]
    numeric = [name for name, kind in kinds.items() if kind in ("Int64", "UInt64", "Float64")]
    fields = [field for field in settings.fields or numeric if field in numeric]
    kept = [tag for tag in tags if settings.tags is None or tag in settings.tags]
    now = int(tick.scheduled_for.timestamp()) * 1_000_000_000
    newest = now // settings.window * settings.window
    span = (newest - (settings.lookback - 1) * settings.window, newest + settings.window)
    await _recompute(settings.source, kept, fields, [span], ctx)


def _check_target(source: str, settings: Downsample) -> None:
    if target_of(source, settings) == source:
        raise BadSettings(f"target={settings.target!r} is the source itself; name another table")


def target_of(source: str, settings: Downsample) -> str:
    """The table that is written for a source."""
    pattern = settings.target or "{source}_{window}"
    return pattern.replace("{source}", source).replace("{window}", str(settings.window))


async def _recompute(
    source: str, tags: Sequence[str], fields: Sequence[str], ranges: Sequence[Range], ctx: AsyncContext[Downsample]
) -> None:
    settings = ctx.settings
    if not fields or not ranges:
        return
    for place in range(0, len(ranges), RANGES):
        part = ranges[place : place + RANGES]
        sql = statement(source, tags, fields, settings.aggregates, len(part))
        rows = await ctx.query(sql, parameters(part, settings.window))
        rows = _with_values(rows, [name for name in rows.column_names if name != "time" and name not in tags])
        if rows.num_rows:
            ctx.write(rows, table=target_of(source, settings), tags=list(tags))


def _with_values(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The windows that have a value: one in which a field never has one would be a row without fields."""
    import pyarrow.compute as pc

    some = None
    for name in columns:
        valid = pc.is_valid(rows.column(name))
        some = valid if some is None else pc.or_(some, valid)
    return rows if some is None else rows.filter(some)
