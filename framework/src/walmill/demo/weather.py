"""The shipped weather: read, shifted to end now, as line protocol, and the daily means that plain Python gets from it."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import resources

from attrs import frozen

TABLE = "weather"
FIELDS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
DAY = 86_400_000_000_000


@frozen
class Observation:
    """One hour at one airport: where, when (ns since the epoch), and what was measured."""

    origin: str
    time: int
    values: dict[str, float]

    def line(self) -> str:
        """As a line of line protocol."""
        fields = ",".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{TABLE},origin={self.origin} {fields} {self.time}"


def observations(now: int) -> list[Observation]:
    """All observations in the order of time, shifted so that the last one is now.

    Args:
        now: ns since the epoch.
    """
    packed = resources.files("walmill.demo").joinpath("nyc-weather-2013.csv.gz").read_bytes()
    rows = csv.DictReader(io.StringIO(gzip.decompress(packed).decode()))
    found = []
    for row in rows:
        when = datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00"))
        values = {name: float(row[name]) for name in FIELDS if row[name] != "NA"}
        found.append(Observation(row["origin"], int(when.timestamp()) * 1_000_000_000, values))
    shift = now - max(one.time for one in found)
    moved = [Observation(one.origin, one.time + shift, one.values) for one in found]
    return sorted(moved, key=lambda one: (one.time, one.origin))


def days(data: Sequence[Observation]) -> Iterator[list[Observation]]:
    """The observations, 24 hours at a time."""
    start = 0
    while start < len(data):
        end = start
        while end < len(data) and data[end].time < data[start].time + DAY:
            end += 1
        yield list(data[start:end])
        start = end


def daily_means(data: Sequence[Observation], field: str) -> dict[tuple[str, int], float]:
    """The mean of a field for each airport and UTC day, by plain Python.

    Returns:
        By airport and start of the day, ns.
    """
    groups: dict[tuple[str, int], list[float]] = {}
    for one in data:
        if field in one.values:
            groups.setdefault((one.origin, one.time // DAY * DAY), []).append(one.values[field])
    return {key: math.fsum(values) / len(values) for key, values in groups.items()}
