"""What a request asks for, checked, and the SQL that answers it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from attrs import field, frozen

from walmill_hookspecs import Duration, HTTPError, MultiMapping

KNOWN = ("table", "field", "group", "where", "from", "to", "window", "agg", "format", "width", "height", "title")
AGGREGATES = {"mean": "avg", "min": "min", "max": "max"}


@frozen(kw_only=True)
class Ask:
    """A checked request.

    Attributes:
        table: The table.
        fields: The fields.
        group: A tag with one line for each value; None for one line a field.
        where: Tags and the values that they must have.
        start: First time, ns; None for no bound.
        end: Time after the last, ns.
        window: ns over which values are aggregated first; None for none.
        agg: How.
        format: `png` or `svg`.
        width: Pixels.
        height: Pixels.
        title: A title.
    """

    table: str
    fields: tuple[str, ...]
    group: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    start: int | None = None
    end: int | None = None
    window: int | None = None
    agg: str = "mean"
    format: str = "png"
    width: int = 1000
    height: int = 500
    title: str = ""
    unused: Mapping[str, str] = field(factory=dict)


def read(params: MultiMapping, now: datetime) -> Ask:
    """Reads the parameters of a request.

    Raises:
        HTTPError: 400 with a sentence that names parameter, value, bound and remedy.
    """
    for name in params:
        if name not in KNOWN:
            raise HTTPError(400, f"there is no parameter {name!r}; known are {', '.join(KNOWN)}")
    if not params.get("table"):
        raise HTTPError(400, "the parameter table is missing: name the table to draw")
    fields = tuple(params.getlist("field"))
    if not fields or not all(fields):
        raise HTTPError(400, "the parameter field is missing: name at least one field to draw")
    where = []
    for pair in params.getlist("where"):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise HTTPError(400, f"where={pair!r} is not tag=value")
        where.append((name, value))
    start, end = _time(params, "from", now), _time(params, "to", now)
    if start is not None and end is not None and start >= end:
        raise HTTPError(400, f"from={params['from']!r} is not before to={params['to']!r}")
    agg = params.get("agg", "mean")
    if agg not in AGGREGATES:
        raise HTTPError(400, f"agg={agg!r} is not one of {', '.join(AGGREGATES)}")
    shape = params.get("format", "png")
    if shape not in ("png", "svg"):
        raise HTTPError(400, f"format={shape!r} is not png or svg")
    return Ask(
        table=params["table"],
        fields=fields,
        group=params.get("group") or None,
        where=tuple(where),
        start=start,
        end=end,
        window=_window(params.get("window")),
        agg=agg,
        format=shape,
        width=_pixels(params, "width", 1000),
        height=_pixels(params, "height", 500),
        title=params.get("title", ""),
    )


def _window(text: str | None) -> int | None:
    if not text:
        return None
    try:
        window = int(Duration.parse(text))
    except ValueError as error:
        raise HTTPError(400, f"window: {error}") from None
    if window <= 0:
        raise HTTPError(400, f"window={text!r} must be longer than nothing")
    return window


def _time(params: MultiMapping, name: str, now: datetime) -> int | None:
    text = params.get(name)
    if not text:
        return None
    try:
        if text.startswith("-"):
            when = now - Duration.parse(text[1:]).timedelta
        else:
            when = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" ", "+"))
            if when.tzinfo is None:
                raise ValueError
    except (ValueError, OverflowError):
        raise HTTPError(
            400, f"{name}={text!r} is not a time; write 2026-01-31T12:00:00Z, or -24h for a day before now"
        ) from None
    delta = when - datetime(1970, 1, 1, tzinfo=when.tzinfo) if when.utcoffset() == timedelta(0) else None
    seconds = when.timestamp() if delta is None else delta.total_seconds()
    return round(seconds * 1e6) * 1_000


def _pixels(params: MultiMapping, name: str, default: int) -> int:
    text = params.get(name)
    if not text:
        return default
    if not text.isdigit() or not 100 <= int(text) <= 4000:
        raise HTTPError(400, f"{name}={text!r} must be a whole number of pixels from 100 to 4,000")
    return int(text)


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def statement(ask: Ask, limit: int) -> tuple[str, dict[str, Any]]:
    """SQL for a request: columns `time` (ns as int64), the group if there is one, and the fields; at most `limit + 1` rows."""
    params: dict[str, Any] = {}
    conditions = []
    nanos = "'Timestamp(Nanosecond, None)'"
    if ask.start is not None:
        params["start"] = ask.start
        conditions.append(f"time >= arrow_cast($start, {nanos})")
    if ask.end is not None:
        params["end"] = ask.end
        conditions.append(f"time < arrow_cast($end, {nanos})")
    for place, (name, value) in enumerate(ask.where):
        params[f"w{place}"] = value
        conditions.append(f"{quote(name)} = $w{place}")
    within = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    group = [quote(ask.group)] if ask.group is not None else []
    time = "CAST(time AS BIGINT)"
    if ask.window is None:
        columns = ", ".join([f"{time} AS time", *group, *(quote(name) for name in ask.fields)])
        tail = f"ORDER BY time LIMIT {limit + 1}"
    else:
        params["window"] = ask.window
        start = f"{time} - ((({time} % $window) + $window) % $window)"
        values = [f"{AGGREGATES[ask.agg]}({quote(name)}) AS {quote(name)}" for name in ask.fields]
        columns = ", ".join([f"{start} AS time", *group, *values])
        tail = f"GROUP BY {', '.join([start, *group])} ORDER BY 1 LIMIT {limit + 1}"
    return f"SELECT {columns} FROM {quote(ask.table)}{within} {tail}", params  # noqa: S608 - names are quoted, values bound
