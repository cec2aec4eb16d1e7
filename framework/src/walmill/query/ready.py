"""Answers that are there at once: plain statements over few rows of memory, of files, or of what somebody keeps ready."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from attrs import evolve

from walmill.buffer.source import TableSource
from walmill.model.schema import arrow_schema
from walmill.query.asked import KEPT, Asked, Simple, exactly
from walmill.query.bounds import Bounds
from walmill.query.grouped import Grouped, grouped
from walmill.query.plain import Plain, answer, chosen, few, plain, texts
from walmill.query.plan import Made, Ready

if TYPE_CHECKING:
    from walmill.query.groups import Few
    from walmill.query.provider import TableCache


_NUMBER = re.compile(r"\s*select\s+(0|[1-9]\d{0,17})\s*;?\s*", re.IGNORECASE)


def of_number(sql: str) -> Ready | None:
    """The answer to `SELECT 1`, by which pools of connections ask whether somebody is there; None for other statements."""
    asked = _NUMBER.fullmatch(sql)
    if asked is None:
        return None
    number = int(asked[1])
    columns = pa.schema([pa.field(f"Int64({number})", pa.int64(), nullable=False)])
    return Ready([pa.RecordBatch.from_arrays([pa.array([number], pa.int64())], schema=columns)], columns)


def of_rows(
    found: Few | None,
    cache: TableCache,
    source: TableSource,
    one: Simple,
    params: Mapping[str, Any],
    now: int,
    bounds: Bounds,
) -> Ready | None:
    """The answer out of rows of a table; None if a planner is needed.

    Args:
        found: The rows of its files that a statement can need; None if it has no files.
        cache: Rows of tables in memory.
        source: The table.
        one: The statement.
        params: Values of its placeholders.
        now: What `now()` is, ns.
        bounds: What the query may take.
    """
    said = _plainly(one, params)
    if said is None:
        return None
    schema = arrow_schema(source.schema)
    exact, needs = exactly(one, source.schema.tags, params, now), said.needs(schema.names)
    if exact is None or needs is None or not said.can(schema):
        return None
    if source.cut_off is not None:
        exact = evolve(exact, low=max(exact.low, source.cut_off))
    rows = [] if found is None else list(found.batches)
    if found is None or found.buffer:
        rows += cache.rows(source.buffer, exact.low, exact.high)
    return _answered(said, rows, exact, needs, schema, bounds, 0 if found is None else found.files)


def of_made(made: Made, one: Simple, params: Mapping[str, Any], now: int, bounds: Bounds) -> Ready | None:
    """The answer out of a table that is made when a query names it; None if a planner is needed.

    Args:
        made: The table.
        one: The statement.
        params: Values of its placeholders.
        now: What `now()` is, ns.
        bounds: What the query may take.

    Raises:
        WalmillError: If it cannot be made.
    """
    said = _plainly(one, params)
    if said is None:
        return None
    schema = made.schema()
    exact, needs = exactly(one, texts(schema), params, now), said.needs(schema.names)
    if exact is None or needs is None or not said.can(schema):
        return None
    rows = made.find(exact.tags) if exact.tags else None
    batches = (made.make() if rows is None else rows).to_batches()
    return _answered(said, batches, exact, needs, schema, bounds)


def _plainly(one: Simple, params: Mapping[str, Any]) -> Plain | Grouped | None:
    if one.placeholders != {f"${name}" for name in params}:
        return None  # what is missing or left over is told by whoever plans
    return _kept(one) if one.kept else plain(one) or grouped(one)


@lru_cache(KEPT)
def _kept(one: Simple) -> Plain | Grouped | None:
    return plain(one) or grouped(one)


def _answered(
    said: Plain | Grouped,
    batches: Sequence[pa.RecordBatch],
    exact: Asked,
    needs: list[str],
    schema: pa.Schema,
    bounds: Bounds,
    num_files: int = 0,
) -> Ready | None:
    if not few(batches):
        return None
    rows = chosen(batches, exact, needs, schema)
    if rows.nbytes > bounds.memory:
        return None
    found = said.of(rows)
    return None if found is None else Ready(answer(found), found.schema, num_files)
