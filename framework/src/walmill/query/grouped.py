"""Statements that count, add up and compare values of one table, by tags and steps of time: what a panel of a dashboard asks.

As plain ones they are answered here if there are few rows; to plan such a question takes DataFusion longer than to answer it.
Where the result could differ from its own (NaN, -0.0), it is left to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from attrs import frozen

from walmill.model.schema import TIME
from walmill.query.asked import Simple, column_of, name_of, span_of
from walmill.query.plain import Order, cut_of, is_bare, order_of, sort
from walmill.query.syntax import Node, function_of
from walmill.units import INT64_MIN

MOST_ROWS = 50_000
"""So many rows are added up here: more are worth a plan."""
_KERNELS = {"count": "count", "min": "min", "max": "max", "sum": "sum", "avg": "mean"}
_ROWS = "*"
_PLAIN_CALL = ("filter", "null_treatment", "over", "within_group", "uses_odbc_syntax")


@frozen
class Output:
    """A column of the answer, or what groups.

    Attributes:
        called: What it is called.
        column: The column that it is made of; `*` for rows.
        kernel: What is done with the values of a group; None for what groups.
        step: For the time that groups: how long a step is, ns.
    """

    called: str
    column: str
    kernel: str | None = None
    step: int | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        """What groups, whatever it is called."""
        return self.column, self.step


@frozen
class Grouped:
    """What such a statement says, but for its conditions.

    Attributes:
        outputs: The columns of the answer.
        keys: What groups: column and step; empty for one row over all.
        order: Columns of the answer by which is sorted.
        limit: So many rows at most; None for all.
        offset: So many rows are left out.
    """

    outputs: tuple[Output, ...]
    keys: tuple[tuple[str, int | None], ...] = ()
    order: Order = ()
    limit: int | None = None
    offset: int = 0

    def needs(self, names: Sequence[str]) -> list[str] | None:
        """The columns of a table that are read for it, in its order; None if a planner has to say what is meant.

        Args:
            names: The columns of the table.
        """
        wanted = {one.column for one in self.outputs} | {column for column, _ in self.keys}
        called = {one.called for one in self.outputs}
        aliases = {one.called for one in self.outputs if one.called != one.column}
        if not wanted - {_ROWS} <= set(names) or len(called) < len(self.outputs) or aliases & set(names):
            return None
        return [name for name in names if name in wanted] or [TIME if TIME in names else names[0]]

    def can(self, schema: pa.Schema) -> bool:
        """Whether values of these types are counted, compared and added up here."""
        return all(
            _can(one.kernel, schema.field(one.column).type) for one in self.outputs if one.column != _ROWS
        ) and all(column == TIME or pa.types.is_string(schema.field(column).type) for column, _ in self.keys)

    def of(self, rows: pa.Table) -> pa.Table | None:
        """The answer, out of the rows that the conditions leave; None if it is left to DataFusion."""
        if rows.num_rows > MOST_ROWS:
            return None
        rows = rows.combine_chunks()
        columns: dict[str, Any] = {}
        for place, (name, step) in enumerate(self.keys):
            values = _stepped(rows.column(name), step)
            if values is None:
                return None
            columns[f"k{place}"] = values
        wanted: list[Any] = []
        for place, one in enumerate(self.outputs):
            if one.column == _ROWS:
                wanted.append(([], "count_all"))
            elif one.kernel is not None:
                if one.kernel != "count" and _is_unclear(rows.column(one.column)):
                    return None
                columns[f"c{place}"] = rows.column(one.column)
                wanted.append((f"c{place}", one.kernel))
        if not columns:
            columns["c"] = rows.column(0)
        names = [f"k{place}" for place in range(len(self.keys))]
        found = pa.table(columns).group_by(names, use_threads=False).aggregate(wanted)
        made = [self._made(place, found) for place in range(len(self.outputs))]
        fields = [
            pa.field(
                one.called,
                column.type,
                one.kernel != "count" and not (one.kernel is None and self._never_null(one, rows)),
            )
            for one, column in zip(self.outputs, made, strict=True)
        ]
        return sort(pa.table(made, schema=pa.schema(fields)), self.order).slice(self.offset, self.limit)

    def _made(self, place: int, found: pa.Table) -> pa.ChunkedArray:
        one = self.outputs[place]
        if one.column == _ROWS:
            return found.column("count_all")
        return found.column(f"k{self.keys.index(one.key)}" if one.kernel is None else f"c{place}_{one.kernel}")

    def _never_null(self, one: Output, rows: pa.Table) -> bool:
        return one.step is None and not rows.schema.field(one.column).nullable


def grouped(one: Simple) -> Grouped | None:
    """What a statement says, if it is of that kind; else None."""
    select = one.select
    clause = select["group_by"].get("Expressions") if isinstance(select["group_by"], dict) else None
    if not is_bare(one) or select["distinct"] is not None or clause is None or len(clause[1]) > 0:
        return None
    outputs = [_output(item, one) for item in select["projection"]]
    order, cut = order_of(one.query.get("order_by"), one.names), cut_of(one.query.get("limit_clause"))
    if None in outputs or order is None or cut is None:
        return None
    shown = [output for output in outputs if output is not None]
    keys = [_key(node, one, shown) for node in clause[0]]
    groups = {output.called for output in shown if output.kernel in (None, "count")}
    if None in keys or any(name not in groups for name, _, _ in order):
        return None
    found = tuple(dict.fromkeys(key for key in keys if key is not None))
    if any(output.kernel is None and output.key not in found for output in shown) or not any(
        output.kernel is not None for output in shown
    ):
        return None
    return Grouped(tuple(shown), found, tuple(order), *cut)


def _output(item: Node, one: Simple) -> Output | None:
    if not isinstance(item, dict):
        return None
    aliased = item.get("ExprWithAlias")
    node = item.get("UnnamedExpr") if aliased is None else aliased["expr"]
    called = None if aliased is None else name_of(aliased["alias"])
    column, function = column_of(node, one.names), function_of(node)
    if column is not None:
        return Output(called or column, column)
    if function in _KERNELS:
        column = _counted(node, one.names)
        if column is None or (column == _ROWS and function != "count"):
            return None
        named = _ROWS if column == _ROWS else f"{_qualifier(one)}.{column}"
        return Output(called or f"{function}({named})", column, _KERNELS[function])
    step = _step(node, one.names)
    return None if step is None or called is None else Output(called, TIME, step=step)


def _key(node: Node, one: Simple, outputs: Sequence[Output]) -> tuple[str, int | None] | None:
    """What an expression of GROUP BY groups by; None if that is not plain."""
    if (column := column_of(node, one.names)) is not None:
        named = [output for output in outputs if output.called == column and output.kernel is None]
        return named[0].key if named else (column, None)
    if isinstance(node, dict) and isinstance(node.get("Value"), dict) and "Number" in (node["Value"]["value"] or ()):
        place = str(node["Value"]["value"]["Number"][0])
        at = int(place) if place.isdigit() and len(place) < 4 else 0
        return outputs[at - 1].key if 0 < at <= len(outputs) and outputs[at - 1].kernel is None else None
    step = _step(node, one.names)
    return None if step is None else (TIME, step)


def _arguments(node: Node) -> list[Node] | None:
    """The arguments of a call that says nothing else; None if it does."""
    call = node["Function"]
    if any(call.get(name) for name in _PLAIN_CALL) or call.get("parameters") not in (None, "None"):
        return None
    listed = call["args"].get("List") if isinstance(call["args"], dict) else None
    if listed is None or listed.get("duplicate_treatment") or listed.get("clauses"):
        return None
    return [one.get("Unnamed") if isinstance(one, dict) else None for one in listed["args"]]


def _counted(node: Node, names: frozenset[str]) -> str | None:
    given = _arguments(node)
    if given is None or len(given) != 1:
        return None
    if given[0] == "Wildcard":
        return _ROWS
    return column_of(given[0]["Expr"], names) if isinstance(given[0], dict) and "Expr" in given[0] else None


def _step(node: Node, names: frozenset[str]) -> int | None:
    """How long the steps are, ns, by which `date_bin` groups the time; None if it is no such call."""
    given = _arguments(node) if function_of(node) == "date_bin" else None
    if given is None or len(given) != 2 or not all(isinstance(one, dict) and "Expr" in one for one in given):
        return None
    return (span_of(given[0]["Expr"]) or None) if column_of(given[1]["Expr"], names) == TIME else None


def _qualifier(one: Simple) -> str:
    """What DataFusion calls the table in the names of columns that have none."""
    (shown,) = one.names
    aliased = one.select["from"][0]["relation"]["Table"]["alias"] is not None
    return shown if aliased or one.schema is None else f"{one.schema}.{one.table}"


def _can(kernel: str | None, kind: pa.DataType) -> bool:
    if kernel is None or kernel == "count":
        return True
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return number or (kernel in ("min", "max") and pa.types.is_timestamp(kind))


def _is_unclear(column: pa.ChunkedArray) -> bool:
    """Whether there is a number of which one engine makes something else than another one."""
    if not pa.types.is_floating(column.type):
        return False
    values = column.drop_null().to_numpy()
    return bool(np.isnan(values).any() or np.signbit(values[values == 0]).any())


def _stepped(column: pa.ChunkedArray, step: int | None) -> pa.Array | pa.ChunkedArray | None:
    """The values of what groups; None if one cannot be told."""
    if step is None:
        return column
    times = column.to_numpy().view(np.int64)
    if len(times) and int(times.min()) < INT64_MIN + step:
        return None
    return pa.array(times // step * step).view(pa.timestamp("ns"))
