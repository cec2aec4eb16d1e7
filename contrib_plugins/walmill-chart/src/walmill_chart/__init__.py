"""A picture of a query, as PNG or SVG, over HTTP."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from walmill_chart.ask import Ask, read, statement
from walmill_hookspecs import (
    Context,
    HTTPError,
    Line,
    QueryError,
    Request,
    Response,
    SuggestedTrigger,
    TableName,
    TableNotFound,
    hookimpl,
    setting,
    settings,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from walmill_chart.draw import Curve


@settings
class Chart:
    """What pictures may be."""

    max_points: int = setting("a picture has at most so many points", default=20_000, minimum=1, maximum=1_000_000)
    record_table: TableName | None = setting("each picture leaves a row in this table", default=None)


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Chart


@hookimpl
def register_triggers() -> list[SuggestedTrigger]:
    """What `walmill plugin enable chart` creates."""
    return [SuggestedTrigger(name="chart", spec="request:chart", description="pictures at /api/v3/engine/chart")]


@hookimpl
def on_startup(ctx: Context[Chart]) -> None:
    """Loads the drawing library before the first request waits for it."""
    import walmill_chart.draw  # noqa: F401 - it takes half a second

    ctx.log.debug("ready to draw")


@hookimpl
def on_request(request: Request, ctx: Context[Chart]) -> Response:
    """Draws what the query parameters ask for."""
    from walmill_chart.draw import draw

    ask = read(request.query_params, ctx.now())
    limit = ctx.settings.max_points
    sql, params = statement(ask, limit)
    try:
        rows = ctx.query(sql, params)
    except TableNotFound as error:
        near = f"; did you mean {' or '.join(error.near)}?" if error.near else ""
        raise HTTPError(404, f"there is no table {ask.table!r}{near}") from None
    except QueryError as error:
        raise HTTPError(400, str(error)) from None
    if rows.num_rows > limit:
        raise HTTPError(400, f"the picture would have more than {limit:,} points; narrow from and to, or give a window")
    curves = make_curves(rows, ask)
    points = sum(int((curve.values == curve.values).sum()) for curve in curves)
    about = {"walmill:points": str(points), "walmill:series": str(len(curves)), "walmill:table": ask.table}
    body = draw(curves, width=ask.width, height=ask.height, title=ask.title, shape=ask.format, about=about)
    if ctx.settings.record_table is not None:
        fields: dict[str, int | float | bool | str | None] = {
            "points": points,
            "series": len(curves),
            "bytes": len(body),
            "width": ask.width,
            "height": ask.height,
            "sha256": hashlib.sha256(body).hexdigest(),
            "table": ask.table,
        }
        ctx.write(Line(ctx.settings.record_table, tags={"format": ask.format}, fields=fields))
    return Response(
        body,
        headers={"X-Walmill-Points": str(points), "X-Walmill-Series": str(len(curves)), "Cache-Control": "no-store"},
        media_type="image/svg+xml" if ask.format == "svg" else "image/png",
    )


def make_curves(rows: pa.Table, ask: Ask) -> list[Curve]:
    """The lines of a picture: one for each field, and each value of the group."""
    import numpy as np

    from walmill_chart.draw import Curve

    times = rows.column("time").to_numpy()
    groups: dict[Any, Any]
    if ask.group is None:
        groups = {None: np.ones(rows.num_rows, bool)}
    else:
        names = np.array(
            ["" if name is None else str(name) for name in rows.column(ask.group).to_pylist()], dtype=object
        )
        groups = {name: names == name for name in sorted(set(names))}
    found = []
    for field in ask.fields:
        column = rows.column(field)
        kind = str(column.type)
        if not any(word in kind for word in ("int", "double", "float", "bool")):
            raise HTTPError(400, f"field={field!r} is {kind}; only numbers can be drawn")
        values = column.cast("double").to_numpy().astype(float)
        for name, mask in groups.items():
            part = values[mask]
            if not np.isnan(part).all():
                label = field if name is None else name if len(ask.fields) == 1 else f"{field} {name}"
                found.append(Curve(label, times[mask], part))
    return found
