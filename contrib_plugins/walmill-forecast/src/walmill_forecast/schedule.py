"""Forecasts a field of a table, for each of its series, and writes the forecast with its bounds into another table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from walmill_forecast.grid import on_grid, without_gaps
from walmill_forecast.settings import ForecastSettings
from walmill_hookspecs import BadSettings, Context, Line, Tick, hookimpl

if TYPE_CHECKING:
    import numpy.typing as npt

NUMBERS = ("Int64", "UInt64", "Float64")
_NANOS = "'Timestamp(Nanosecond, None)'"
_START = "CAST(time AS BIGINT) - (((CAST(time AS BIGINT) % $step) + $step) % $step)"


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return ForecastSettings


@hookimpl
def on_startup(ctx: Context[ForecastSettings]) -> None:
    """Imports statsmodels before the first schedule is due, not in its run."""
    from walmill_forecast import model

    ctx.log.debug("%s is ready", model.__name__)


@hookimpl
def on_schedule(tick: Tick, ctx: Context[ForecastSettings]) -> None:
    """Forecasts from the last whole step before the due time on; what an earlier run said of the same time is replaced."""
    from walmill_forecast.model import forecast

    chosen = ctx.settings
    tags = _tags(ctx)
    if tags is None:
        return
    end = int(tick.scheduled_for.timestamp()) * 1_000_000_000 // chosen.step * chosen.step
    start = end - chosen.history
    rows = ctx.query(_statement(chosen, tags), {"step": int(chosen.step), "from": start, "to": end})
    steps = chosen.horizon // chosen.step
    least = max(10, 2 * chosen.steps_in_season)
    left: list[str] = []
    for series, times, values in _series(rows, tags, chosen):
        grid = on_grid(times, values, start=start, end=end, step=int(chosen.step))
        whole, share = without_gaps(grid)
        name = ",".join(f"{tag}={value}" for tag, value in series.items()) or chosen.table
        if len(whole) < least or share < chosen.filled:
            left.append(f"{name} ({len(whole)} of {least} steps, {share:.0%} filled)")
            continue
        try:
            found = forecast(whole, season=chosen.steps_in_season, steps=steps, level=chosen.level)
        except ValueError as error:
            left.append(f"{name} ({error})")
            continue
        for place, (mean, lower, upper) in enumerate(zip(found.mean, found.lower, found.upper, strict=True)):
            fields = {
                chosen.field: float(mean),
                f"{chosen.field}_lower": float(lower),
                f"{chosen.field}_upper": float(upper),
                "ahead": place + 1,
            }
            ctx.write(Line(chosen.target_table, series, fields, end + place * int(chosen.step)))
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        ctx.log.warning("%d series are not forecast: %s%s", len(left), "; ".join(left[:5]), more)


def _tags(ctx: Context[ForecastSettings]) -> Sequence[str] | None:
    """The tags that make the series; None if the table is not there yet.

    Raises:
        BadSettings: The field or a tag is not one.
    """
    chosen = ctx.settings
    columns = ctx.query(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $table AND table_schema = 'iox'",
        {"table": str(chosen.table)},
    )
    kinds = dict(zip(columns.column(0).to_pylist(), columns.column(1).to_pylist(), strict=True))
    if not kinds:
        ctx.log.info("the table %s does not exist yet; nothing is forecast", chosen.table)
        return None
    kind = kinds.get(chosen.field)
    if kind not in NUMBERS:
        is_now = "is not there" if kind is None else f"is a {kind}"
        raise BadSettings(
            f"field={str(chosen.field)!r} {is_now} in {str(chosen.table)!r}; only numbers can be forecast"
        )
    there = [name for name, kind in kinds.items() if kind.startswith("Dictionary")]
    wrong = [tag for tag in chosen.tags or () if tag not in there]
    if wrong:
        raise BadSettings(
            f"tags={wrong[0]!r} is no tag of {str(chosen.table)!r}; there are: {', '.join(there) or 'none'}"
        )
    return there if chosen.tags is None else [str(tag) for tag in chosen.tags]


def _statement(chosen: ForecastSettings, tags: Sequence[str]) -> str:
    """SQL for the means over steps of all series, each series in one piece."""
    groups = ", ".join([*map(_quoted, tags), _START])
    columns = ", ".join([*map(_quoted, tags), f"{_START} AS time", f"avg({_quoted(chosen.field)}) AS value"])
    return (
        f"SELECT {columns} FROM {_quoted(chosen.table)} "  # noqa: S608 - quoted
        f"WHERE time >= arrow_cast($from, {_NANOS}) AND time < arrow_cast($to, {_NANOS}) "
        f"AND {_quoted(chosen.field)} IS NOT NULL GROUP BY {groups} ORDER BY {groups}"
    )


def _series(
    rows: pa.Table, tags: Sequence[str], chosen: ForecastSettings
) -> Iterator[tuple[dict[str, str], npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Each series: its tags, its times and its values.

    Raises:
        BadSettings: There are too many.
    """
    times: Any = rows.column("time").cast(pa.int64()).to_numpy()
    values: Any = rows.column("value").cast(pa.float64()).to_numpy()
    keys = list(zip(*(rows.column(tag).cast(pa.string()).to_pylist() for tag in tags), strict=True)) or [()] * len(
        times
    )
    bounds = [place for place in range(len(keys)) if place == 0 or keys[place] != keys[place - 1]]
    if len(bounds) > chosen.max_series:
        raise BadSettings(
            f"{str(chosen.table)!r} has {len(bounds):,} series, and max_series is {chosen.max_series:,}: name fewer tags, "
            "or raise it with the time limit of the trigger"
        )
    for begin, over in itertools.pairwise([*bounds, len(keys)]):
        series = {tag: value for tag, value in zip(tags, keys[begin], strict=True) if value is not None}
        yield series, times[begin:over], values[begin:over]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
