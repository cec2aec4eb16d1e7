"""Functions of InfluxQL that look at the points of a group beside each other: `top`, `bottom`, `mode`, `integral`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from walmill.errors import InvalidRequest
from walmill.influxql.parse import Call, Ref, Span, Value
from walmill.model.schema import TIME
from walmill.query.errors import NotSupported

if TYPE_CHECKING:
    from walmill.influxql.translate import Translation

SECOND = 1_000_000_000
BEST = {"top": "DESC", "bottom": "ASC"}
"""Functions that choose several points, and how these are ordered."""


def with_tags(columns: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The columns of a statement, with those that `top(field, tag, n)` brings."""
    found: list[tuple[str, Any]] = []
    for name, tree in columns:
        found.append((name, tree))
        if isinstance(tree, Call) and tree.name in BEST:
            found += [(one.name, one) for one in tree.arguments[1:-1] if isinstance(one, Ref)]
    return found


def best(translation: Translation, trees: Sequence[Any]) -> str:
    """The statement with `top` or `bottom`: so many points of each group, each with its own time.

    Args:
        translation: What is translated.
        trees: Its columns; one of them is the call.

    Raises:
        InvalidRequest: If the call is wrong.
        NotSupported: If others of its kind are beside it.
    """
    calls = [tree for tree in trees if isinstance(tree, Call) and tree.name in BEST]
    if len(calls) != 1 or any(isinstance(tree, Call) and tree.name not in BEST for tree in trees):
        raise NotSupported(
            "top() and bottom() stand alone; beside them only fields and tags of the same points may stand"
        )
    call = calls[0]
    if (
        len(call.arguments) < 2
        or not isinstance(call.arguments[-1], Value)
        or type(call.arguments[-1].value) is not int
    ):
        raise InvalidRequest(f"{call.name}(field[, tag, …], n) needs a field and a whole number")
    most, tags = call.arguments[-1].value, call.arguments[1:-1]
    if most < 1:
        raise InvalidRequest(f"{call.name}(…, {most}) must choose at least 1 point")
    if any(not isinstance(one, Ref) or one.name not in translation.schema.tags for one in tags):
        raise InvalidRequest(f"what stands between the field and the number in {call.name}() must be tags")
    column = translation.argument(call)
    order = f"ORDER BY {column} {BEST[call.name]}, {TIME}"
    group = [*translation.series(), *translation.bins()]
    values = [f"{column if tree is call else translation.value(tree)} AS value_{n}" for n, tree in enumerate(trees)]
    chosen = [TIME, *translation.tag_columns(), *values]
    source = (
        f"{translation.table()}{translation.where(more=f'{column} IS NOT NULL', until_now=bool(translation.bins()))}"
    )
    if tags:
        # the best point of each combination of these tags, then the best of those
        each = ", ".join([*group, *(translation.column(one) for one in tags)])
        ranked = f"SELECT *, row_number() OVER (PARTITION BY {each} {order}) AS _walmill_each FROM {source}"  # noqa: S608
        source = f"({ranked}) WHERE _walmill_each = 1"
    window = f"PARTITION BY {', '.join(group)} {order}" if group else order
    ranked = f"SELECT {', '.join(chosen)}, row_number() OVER ({window}) AS _walmill_rank FROM {source}"  # noqa: S608
    shown = ", ".join(
        [TIME, *(f"tag_{n}" for n in range(len(translation.series()))), *(f"value_{n}" for n in range(len(trees)))]
    )
    return f"SELECT {shown} FROM ({ranked}) WHERE _walmill_rank <= {most}"  # noqa: S608


def mode(translation: Translation, trees: Sequence[Any]) -> str:
    """The values of each group with how often they are there: a table from which `MODE` takes the most frequent one.

    Args:
        translation: What is translated.
        trees: Its columns: the call alone.

    Raises:
        NotSupported: If others are beside it.
    """
    if len(trees) != 1 or not isinstance(trees[0], Call) or len(trees[0].arguments) != 1:
        raise NotSupported("mode(field) stands alone")
    column = translation.argument(trees[0])
    groups = [*translation.bins(), *translation.series(), column]
    shown = ", ".join(
        [f"min({TIME}) AS {TIME}", *translation.series(), f"{column} AS _walmill_value", "count(*) AS _walmill_count"]
    )
    where = translation.where(more=f"{column} IS NOT NULL", until_now=bool(translation.bins()))
    return f"(SELECT {shown} FROM {translation.table()}{where} GROUP BY {', '.join(groups)})"  # noqa: S608 - quoted names


MODE = f"first_value(_walmill_value ORDER BY _walmill_count DESC, {TIME})"
"""The aggregate over what `mode` gives: of values that are there as often as each other, the one that came first."""


def integral(translation: Translation, trees: Sequence[Any]) -> str:
    """The areas under the lines between neighbours: a table whose sums are `integral`.

    As InfluxDB has it, the line from one bin into another is cut at the end of the first one; what lies behind that belongs to
    the bin of its second point.

    Args:
        translation: What is translated.
        trees: Its columns: the call alone.

    Raises:
        InvalidRequest: If the call is wrong.
        NotSupported: If others are beside it, or bins follow the clock on the wall.
    """
    if len(trees) != 1 or not isinstance(trees[0], Call):
        raise NotSupported("integral(field[, unit]) stands alone")
    call = trees[0]
    unit = call.arguments[1] if len(call.arguments) == 2 else Span(SECOND)
    if not isinstance(unit, Span) or unit.ns <= 0 or len(call.arguments) > 2:
        raise InvalidRequest("integral(field[, unit]) takes a duration as its unit, such as 1h")
    column = translation.argument(call)
    tags = translation.series()
    apart = f"PARTITION BY {', '.join(tags)} " if tags else ""
    over = f"OVER ({apart}ORDER BY {TIME})"
    bins = translation.bins()
    points = ", ".join(
        [
            TIME,
            *tags,
            f"CAST({TIME} AS BIGINT) AS t1",
            f"CAST({column} AS DOUBLE) AS v1",
            f"CAST(lag({TIME}) {over} AS BIGINT) AS t0",
            f"CAST(lag({column}) {over} AS DOUBLE) AS v0",
            *(
                [f"CAST(lag({bins[0]}) {over} AS BIGINT) + {translation.interval()} AS cut"]
                if bins
                else ["NULL AS cut"]
            ),
        ]
    )
    where = translation.where(more=f"{column} IS NOT NULL", until_now=bool(bins))
    rows = f"(SELECT {points} FROM {translation.table()}{where})"  # noqa: S608 - quoted names
    middle = "(v0 + (v1 - v0) * (cut - t0) / nullif(t1 - t0, 0))"
    kept = ", ".join(tags)
    kept = f", {kept}" if kept else ""
    before = f"({middle} + v0) / 2 * (cut - t0) / {unit.ns}.0"
    behind = (
        f"CASE WHEN cut <= t1 THEN ({middle} + v1) / 2 * (t1 - cut) ELSE (v0 + v1) / 2 * (t1 - t0) END / {unit.ns}.0"
    )
    return (
        f"(SELECT {TIME}{kept}, coalesce({behind}, 0.0) AS _walmill_area FROM {rows} UNION ALL "  # noqa: S608
        f"SELECT to_timestamp_nanos(t0) AS {TIME}{kept}, {before} AS _walmill_area FROM {rows} WHERE cut <= t1)"
    )


AREA = "sum(_walmill_area)"
"""The aggregate over what `integral` gives."""
