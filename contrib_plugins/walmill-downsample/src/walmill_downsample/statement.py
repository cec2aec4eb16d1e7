"""The SQL of a recomputation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from walmill_downsample.settings import Aggregate

NUMERIC = ("int64", "uint64", "float64")
Range = tuple[int, int]

_FORMS = {
    Aggregate.MEAN: "avg({0})",
    Aggregate.MIN: "min({0})",
    Aggregate.MAX: "max({0})",
    Aggregate.SUM: "sum({0})",
    Aggregate.COUNT: "count({0})",
    Aggregate.FIRST: "first_value({0} ORDER BY time) FILTER (WHERE {0} IS NOT NULL)",
    Aggregate.LAST: "last_value({0} ORDER BY time) FILTER (WHERE {0} IS NOT NULL)",
    Aggregate.MEDIAN: "median({0})",
    Aggregate.STDDEV: "stddev({0})",
}


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def window_ranges(times: Iterable[int], window: int) -> list[Range]:
    """The windows that hold these times, neighbours joined: half-open ranges, ns.

    Args:
        times: ns since the epoch.
        window: Length of a window, ns.
    """
    ranges: list[Range] = []
    for start in sorted({time // window * window for time in times}):
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], start + window)
        else:
            ranges.append((start, start + window))
    return ranges


def statement(
    source: str, tags: Sequence[str], fields: Sequence[str], aggregates: Sequence[Aggregate], ranges: int
) -> str:
    """SQL that recomputes windows.

    Args:
        source: The table.
        tags: Tags that are kept.
        fields: Fields that are aggregated.
        aggregates: How.
        ranges: How many time ranges there are; range n is bound by the parameters `$from_n` and `$to_n`, ns as int64.
    """
    columns = [quote(tag) for tag in tags]
    wanted = [
        f"{_FORMS[aggregate].format(quote(field))} AS {quote(f'{field}_{aggregate.value}')}"
        for field in fields
        for aggregate in aggregates
    ]
    nanos = "'Timestamp(Nanosecond, None)'"
    within = " OR ".join(
        f"(time >= arrow_cast($from_{n}, {nanos}) AND time < arrow_cast($to_{n}, {nanos}))" for n in range(ranges)
    )
    start = "CAST(time AS BIGINT) - (((CAST(time AS BIGINT) % $window) + $window) % $window)"
    return (
        f"SELECT {', '.join([*columns, f'{start} AS time', *wanted])} FROM {quote(source)} WHERE {within} "  # noqa: S608 - quoted
        f"GROUP BY {', '.join([*columns, start])}"
    )


def parameters(ranges: Sequence[Range], window: int) -> dict[str, int]:
    """The parameters of such a statement."""
    found = {"window": window}
    for place, (start, end) in enumerate(ranges):
        found[f"from_{place}"], found[f"to_{place}"] = start, end
    return found


def numeric_fields(fields: Mapping[str, str]) -> list[str]:
    """The fields that can be aggregated."""
    return [name for name, kind in fields.items() if kind in NUMERIC]
