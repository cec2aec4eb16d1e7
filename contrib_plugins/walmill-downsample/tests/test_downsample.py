"""Whatever the order of arrival, the target is what `date_bin` says of the source."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walmill_downsample import Downsample, on_schedule, on_write
from walmill_downsample.settings import Aggregate
from walmill_downsample.statement import quote, window_ranges

from walmill_hookspecs import BadSettings, Duration
from walmill_hookspecs.fakes import FakeAsyncContext, tick, write_batch
from walmill_hookspecs.settings import parse

Row = dict[str, Any]
WEATHER = Path(__file__).parents[3] / "framework" / "src" / "walmill" / "demo" / "nyc-weather-2013.csv.gz"


class Source:
    """A table as the engine merges it: the newest value of each column wins."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str | None, int], Row] = {}

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            merged = self.rows.setdefault((row.get("host"), row["time"]), {})
            merged.update({key: value for key, value in row.items() if value is not None})


def drive(given_settings: Downsample, batches: list[list[Row]]) -> dict[tuple[str | None, int], Row]:
    """What the target holds after the batches, merged as the engine does."""
    source, target = Source(), Source()
    for number, rows in enumerate(batches, 1):
        source.add(rows)
        whole = [{"host": None, "value": None, **row} for row in source.rows.values()]
        context = FakeAsyncContext(settings=given_settings, tables={"cpu": whole})
        batch = write_batch({"cpu": rows}, tags={"cpu": ["host"]}, sequences=(number, number))
        asyncio.run(on_write(batch, context))
        for line in context.written:
            assert line.table == "cpu_10ns"
            target.add([{**line.tags, **line.fields, "time": line.time}])
    return target.rows


def expected(batches: list[list[Row]], window: int) -> dict[tuple[str | None, int], Row]:
    source = Source()
    for rows in batches:
        source.add(rows)
    groups: dict[tuple[str | None, int], list[float]] = {}
    for (host, time), row in source.rows.items():
        if "value" in row:
            groups.setdefault((host, time // window * window), []).append(row["value"])
    return {
        key: {"mean": math.fsum(values) / len(values), "max": max(values), "count": len(values)}
        for key, values in groups.items()
    }


a_row = st.fixed_dictionaries(
    {
        "host": st.sampled_from(["a", "b", None]),
        "value": st.one_of(st.none(), st.floats(-1e6, 1e6)),
        "other": st.floats(0, 1),
        "time": st.integers(-50, 50),
    }
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.lists(a_row, min_size=1, max_size=6), min_size=1, max_size=5))
def test_any_order_of_arrival(batches: list[list[Row]]) -> None:
    chosen = Downsample(
        window=Duration(10), fields=["value"], aggregates=[Aggregate.MEAN, Aggregate.MAX, Aggregate.COUNT]
    )
    found = drive(chosen, batches)
    wanted = expected(batches, 10)
    assert {key for key, row in found.items() if row.get("value_count")} == wanted.keys()
    for key, values in wanted.items():
        assert found[key]["value_mean"] == pytest.approx(values["mean"], rel=1e-12, abs=1e-9)
        assert found[key]["value_max"] == values["max"]
        assert found[key]["value_count"] == values["count"]


def test_the_shipped_weather_in_any_order() -> None:
    if not WEATHER.exists():
        pytest.skip("the weather is not in this checkout")
    data = list(csv.DictReader(io.StringIO(gzip.decompress(WEATHER.read_bytes()).decode())))[:4000]
    rows = [
        {
            "origin": one["origin"],
            "temp": None if one["temp"] == "NA" else float(one["temp"]),
            "visib": float(one["visib"]),
            "time": int(datetime.fromisoformat(one["time_hour"].replace("Z", "+00:00")).timestamp()) * 1_000_000_000,
        }
        for one in data
    ]
    day = 86_400_000_000_000
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["temp"] is not None:
            groups.setdefault((row["origin"], row["time"] // day * day), []).append(row["temp"])
    random.Random(7).shuffle(rows)
    chosen = Downsample(window=Duration(day), fields=["temp"])
    target: dict[tuple[str, int], float] = {}
    for start in range(0, len(rows), 1000):
        context = FakeAsyncContext(settings=chosen, tables={"weather": rows[: start + 1000]})
        part = rows[start : start + 1000]
        asyncio.run(on_write(write_batch({"weather": part}, tags={"weather": ["origin"]}), context))
        for line in context.written:
            assert isinstance(line.time, int)
            target[line.tags["origin"], line.time] = float(line.fields["temp_mean"] or 0)
    assert target.keys() == groups.keys()
    assert max(abs(target[key] - math.fsum(values) / len(values)) for key, values in groups.items()) <= 1e-9


def test_a_schedule_recomputes_the_last_windows() -> None:
    minute = 60_000_000_000
    now = datetime(2026, 1, 1, 0, 10, 30, tzinfo=UTC)
    base = int(now.timestamp()) * 1_000_000_000 // minute * minute
    rows = [{"host": "a", "value": float(n), "time": base - n * minute} for n in range(5)]

    def answer(sql: str, params: dict[str, Any]) -> Any:
        if "information_schema" in sql:
            return [
                {"column_name": "host", "data_type": "Dictionary(Int32, Utf8)"},
                {"column_name": "value", "data_type": "Float64"},
                {"column_name": "time", "data_type": "Timestamp(ns)"},
            ]
        return FakeAsyncContext(tables={"cpu": rows})._answer(sql, params)

    context = FakeAsyncContext(
        settings=parse(Downsample, {"window": "1m", "source": "cpu", "lookback": "2", "target": "t"}), answers=answer
    )
    asyncio.run(on_schedule(tick(now), context))
    assert sorted((line.time, line.fields["value_mean"]) for line in context.written) == [
        (base - minute, 1.0),
        (base, 0.0),
    ]


def test_odd_names_are_quoted() -> None:
    assert quote('a "b') == '"a ""b"'


@pytest.mark.parametrize(("times", "ranges"), [([], []), ([5], [(0, 10)]), ([-1, 5, 15, 40], [(-10, 20), (40, 50)])])
def test_neighbouring_windows_are_joined(times: list[int], ranges: list[tuple[int, int]]) -> None:
    assert window_ranges(times, 10) == ranges


def test_a_target_that_is_the_source_is_refused() -> None:
    context = FakeAsyncContext(settings=Downsample(window=Duration(10), target="cpu"))
    with pytest.raises(BadSettings, match="source itself"):
        asyncio.run(on_write(write_batch({"cpu": [{"value": 1.0, "time": 1}]}), context))


def test_text_cannot_be_aggregated() -> None:
    context = FakeAsyncContext(settings=Downsample(window=Duration(10), fields=["note"]))
    with pytest.raises(BadSettings, match="only numbers"):
        asyncio.run(on_write(write_batch({"cpu": [{"note": "x", "time": 1}]}), context))
