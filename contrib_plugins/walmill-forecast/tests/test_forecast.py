"""What comes next is forecast for each series, from whole steps only, and said the same way twice."""

from __future__ import annotations

import csv
import gzip
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from walmill_forecast.grid import on_grid, without_gaps
from walmill_forecast.model import forecast
from walmill_forecast.settings import ForecastSettings

from walmill.dispatch.rehearsal import Report
from walmill.engine import Engine
from walmill.rehearsals import Rehearsal
from walmill.testing.suite import plugin_suite
from walmill_hookspecs import BadSettings
from walmill_hookspecs.settings import parse

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
NOW = datetime(2026, 1, 15, 9, 20, tzinfo=UTC)
START = int(NOW.timestamp()) * 10**9 // HOUR * HOUR - 14 * DAY
ROWS = "\n".join(
    f"cpu,host={host} usage={50 + 20 * np.sin(n * np.pi / 12) + place + n % 5} {START + n * HOUR}"
    for n in range(15 * 24)
    for place, host in enumerate("ab")
)
WEATHER = Path(__file__).parents[3] / "framework" / "src" / "walmill" / "demo" / "nyc-weather-2013.csv.gz"

TestContract = pytest.mark.slow(  # statsmodels takes its time in each worker
    plugin_suite("walmill_forecast.schedule", rows=ROWS, arguments={"table": "cpu", "field": "usage"})
)


def settings(**more: Any) -> ForecastSettings:
    made, problems = parse(ForecastSettings, {"table": "cpu", "field": "usage", **more}), ()
    assert not problems
    return made


def test_a_season_goes_on_and_the_bounds_hold_what_comes() -> None:
    inside = []
    for seed in range(4):
        chance = np.random.default_rng(seed)
        whole = np.array([50 + 20 * np.sin(n * np.pi / 12) + chance.normal(0, 2) for n in range(16 * 24)])
        found, true = forecast(whole[: 14 * 24], season=24, steps=48, level=0.95), whole[14 * 24 :]
        assert np.abs(found.mean - true).mean() < 3, "a season of 20 up and down is known"
        assert (found.lower <= found.mean).all()
        assert (found.mean <= found.upper).all()
        inside.append(((found.lower <= true) & (true <= found.upper)).mean())
    assert np.mean(inside) > 0.88, inside
    wider = forecast(whole[: 14 * 24], season=24, steps=48, level=0.99)
    assert (wider.upper - wider.lower > found.upper - found.lower).all()


@pytest.mark.slow
def test_real_weather_is_forecast_better_than_by_its_mean_and_its_last_day() -> None:
    with gzip.open(WEATHER, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["origin"] == "JFK"]
    times = [datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00")).timestamp() for row in rows]
    place = np.array([int(time // 3600) for time in times])
    temperature = np.array([float(row["temp"]) if row["temp"] not in ("", "NA") else np.nan for row in rows])
    grid = on_grid(
        place[np.isfinite(temperature)],
        temperature[np.isfinite(temperature)],
        start=int(place[0]),
        end=int(place[-1]) + 1,
        step=1,
    )
    whole, share = without_gaps(grid)
    assert share > 0.9
    wrong: dict[str, list[float]] = {"ours": [], "mean": [], "day": []}
    for end in range(90 * 24, 330 * 24, 20 * 24):
        seen, true = whole[end - 14 * 24 : end], whole[end : end + 24]
        wrong["ours"].append(float(np.abs(forecast(seen, season=24, steps=24, level=0.95).mean - true).mean()))
        wrong["mean"].append(float(np.abs(seen.mean() - true).mean()))
        wrong["day"].append(float(np.abs(seen[-24:] - true).mean()))
    error = {name: np.mean(found) for name, found in wrong.items()}
    assert error["ours"] < error["mean"]
    assert error["ours"] < 1.1 * error["day"], error


def tried(engine: Engine, rows: str, **more: str) -> Report:
    """One run at NOW that keeps nothing."""
    engine.write(rows, database="d")
    arguments = {"table": "cpu", "field": "usage", **more}
    at = int(NOW.timestamp()) * 10**9
    return engine.rehearse(
        Rehearsal(kind="schedule", database="d", plugin="forecast", executor="inline", arguments=arguments, at=at)
    )


def test_each_series_is_forecast_from_whole_steps(engine: Engine) -> None:
    found = tried(engine, ROWS, horizon="6h")
    lines = found.writes["d"]
    assert found.counts == {("d", "cpu_forecast"): 12}
    assert lines[0].startswith("cpu_forecast,host=a usage=")
    assert lines[0].endswith(f" {START + 14 * DAY}"), "the step that goes on now is the first one that is forecast"
    assert [re.search(r"ahead=(\d+)i", line)[1] for line in lines] == [*"123456"] * 2  # type: ignore[index]


def test_series_that_say_too_little_are_left_out_and_named(engine: Engine) -> None:
    rows = [f"cpu,host=full usage={n % 24} {START + n * HOUR}" for n in range(14 * 24)]
    rows += [f"cpu,host=young usage=1 {START + (13 * 24 + n) * HOUR}" for n in range(20)]
    rows += [f"cpu,host=thin usage=1 {START + n * HOUR}" for n in range(0, 14 * 24, 10)]
    found = tried(engine, "\n".join(rows))
    assert {line.split(" ")[0] for line in found.writes["d"]} == {"cpu_forecast,host=full"}
    (said,) = [one.text for one in found.said if one.level == "WARNING"]
    assert "2 series are not forecast" in said
    assert "host=young" in said
    assert "10% filled" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"season": "90m"}, "season=1h30m is no multiple of step=1h"),
        ({"season": "1h"}, "1 steps of 1h; 2 to"),
        ({"season": "10d"}, "less than two seasons"),
        ({"step": "1s", "season": "0s"}, "horizon=1d has 86,400 steps"),
        ({"target": "{table}"}, "is the table that is read"),
        ({"horizon": "30m"}, "no multiple"),
    ],
)
def test_settings_that_make_no_sense_are_refused(more: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        settings(**more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"field": "other"}, "field='other' is not there"),
        ({"field": "note"}, "only numbers can be forecast"),
        ({"tags": "rack"}, "tags='rack' is no tag of 'cpu'; there are: host"),
        ({"max_series": "1"}, "has 2 series, and max_series is 1"),
    ],
)
def test_what_the_table_lacks_is_said(engine: Engine, more: dict[str, str], message: str) -> None:
    found = tried(engine, ROWS + f'\ncpu,host=a note="x" {START}', **more)
    assert found.status == "failed"
    assert message in str(found.error)


def test_a_series_that_stands_still_goes_on_standing_still() -> None:
    found = forecast(np.full(400, 7.0), season=24, steps=3, level=0.95)
    assert found.mean.tolist() == found.lower.tolist() == found.upper.tolist() == [7.0] * 3


def test_without_a_season() -> None:
    found = forecast(np.arange(100.0), season=1, steps=5, level=0.9)
    assert found.mean == pytest.approx(np.arange(100, 105), abs=0.5)


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=50))
def test_gaps_are_filled_between_what_is_there(values: list[float | None]) -> None:
    there = [place for place, value in enumerate(values) if value is not None]
    times = np.array([place * HOUR for place in there], np.int64)
    known = np.array([values[place] for place in there], float)
    whole, share = without_gaps(on_grid(times, known, start=0, end=len(values) * HOUR, step=HOUR))
    if not there:
        assert (len(whole), share) == (0, 0.0)
        return
    assert len(whole) == len(values) - there[0]
    assert np.isfinite(whole).all()
    assert share == pytest.approx(len(there) / len(whole))
    for place in there:
        assert whole[place - there[0]] == values[place]
    assert min(known) <= whole.min()
    assert whole.max() <= max(known)


@pytest.mark.slow
def test_a_later_run_replaces_what_an_earlier_one_said(engine: Engine) -> None:
    engine.write(ROWS, database="d")
    engine.create_trigger(
        database="d",
        name="t",
        plugin="forecast",
        spec="every:1h",
        arguments={"table": "cpu", "field": "usage", "horizon": "12h"},
        disabled=True,
    )
    engine.enable_trigger("d", "t")
    for hours in (0, 6):
        done = engine.run_trigger("d", "t", at=int((NOW + timedelta(hours=hours)).timestamp()) * 10**9)
        assert done["status"] == "ok", done
    found = engine.query("SELECT host, time, ahead FROM cpu_forecast ORDER BY host, time", database="d").to_pylist()
    assert len(found) == 2 * 18
    assert [row["ahead"] for row in found[:18]] == [*range(1, 7), *range(1, 13)]


def test_looking_at_it_does_not_import_statsmodels() -> None:
    code = (
        "import sys, walmill_forecast.schedule; assert 'statsmodels' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
