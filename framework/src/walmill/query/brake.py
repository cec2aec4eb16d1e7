"""Joins that can be stopped.

DataFusion's joins do not give way while they make rows of what they hold (its issue 19358): a query that was dropped goes on
using the processor until its join is through. What a join can do is fail: so a condition of it also calls a function that is
always true, until the query is over. It looks at whole batches, so it costs nothing that shows unless a join makes far more
rows than it reads.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import Any

import pyarrow as pa

from walmill.model.schema import TIME
from walmill.query.syntax import Node, expression, text, walk

NAME = "walmill_runs"
"""The function; it is known to the queries that have it only."""
MAY_JOIN = re.compile(r"\bjoin\b|\bfrom\b(?:(?!\b(?:from|where|group|order|limit)\b).)*,", re.IGNORECASE | re.DOTALL)
"""A text without this joins nothing by a condition. It stops at the next `from`, so a text is gone through once."""

_BATCH = pa.repeat(True, 8192)
_ONE_SIDED = ("Semi", "LeftSemi", "RightSemi", "Anti", "LeftAnti", "RightAnti")
"""Joins of which one side cannot be named behind them."""


class Brake:
    """Stops the joins of one query."""

    def __init__(self) -> None:
        self.pulled = False

    def pull(self) -> None:
        """Makes them fail at their next batch. From any thread; may be called often."""
        self.pulled = True

    def function(self) -> Any:
        """What the query calls."""
        from datafusion import udf

        return udf(self._look, [pa.bool_()], pa.bool_(), "volatile", NAME)

    def _look(self, given: pa.Array) -> pa.Array:
        if self.pulled:
            raise RuntimeError("the query is over")
        count = len(given)
        return _BATCH.slice(0, count) if count <= len(_BATCH) else pa.repeat(True, count)


def fit(statement: Node, tables: Container[str] = ()) -> bool:
    """Fits the brake to the joins of a statement that compare something of both sides, and to those of two tables of ours, which
    both have times. Says whether there was any.

    Args:
        statement: Its tree; it is changed.
        tables: The names of tables that have a column `time`.
    """
    fitted = [_fit_select(node["Select"], tables) for node in walk(statement) if isinstance(node.get("Select"), dict)]
    return any(fitted)


def _fit_select(select: dict[str, Any], tables: Container[str]) -> bool:
    relations = {name for one in select["from"] for part in (one, *one["joins"]) if (name := _name(part["relation"]))}
    found: set[frozenset[str]] = set()
    more: list[str] = []
    for one in select["from"]:
        for number, join in enumerate(one["joins"]):
            constraint = _constraint(join["join_operator"])
            if constraint is None:
                continue
            if "On" in constraint:
                found |= _fit_condition(constraint, "On", relations)
            elif "Using" in constraint and number == 0:
                sides = _quoted(one["relation"]), _quoted(join["relation"])
                columns = [
                    text({"Identifier": part["Identifier"]}) for part in constraint["Using"][0] if "Identifier" in part
                ]
                if all(sides) and columns:
                    more.append(f"{NAME}({sides[0]}.{columns[0]} = {sides[1]}.{columns[0]})")
                    found.add(frozenset((str(_name(one["relation"])), str(_name(join["relation"])))))
    if select.get("selection") is not None:
        found |= _fit_condition(select, "selection", relations)
    more += _by_time(select, found, tables)
    for one in more:
        where = select.get("selection")
        select["selection"] = expression(one if where is None else f"{one} AND ({text(where)})")
    return bool(found or more)


def _by_time(select: dict[str, Any], fitted: set[frozenset[str]], tables: Container[str]) -> list[str]:
    """Calls for tables of ours that are joined to others by nothing that has a brake: all of them, as in CROSS JOIN, or by all
    columns of the same names, as in NATURAL JOIN."""
    found = []
    before: list[str] = []
    for part in (part for one in select["from"] for part in (one, *one["joins"])):
        name = _name(part["relation"])
        if name is None or _kind(part.get("join_operator", "")) in _ONE_SIDED or not _is_ours(part["relation"], tables):
            continue
        own = str(_quoted(part["relation"]))
        if before and not any(name in pair for pair in fitted):
            found.append(f"{NAME}({before[-1]}.{TIME} = {own}.{TIME})")
        before.append(own)
    return found


def _kind(operator: Any) -> str:
    return str(operator) if isinstance(operator, str) else str(next(iter(operator), ""))


def _is_ours(relation: Node, tables: Container[str]) -> bool:
    table = relation.get("Table")
    parts = [] if table is None or table.get("args") else [part.get("Identifier") for part in table["name"]]
    return len(parts) == 1 and parts[0] is not None and _folded(parts[0]) in tables


def _fit_condition(holder: dict[str, Any], key: str, relations: set[str]) -> set[frozenset[str]]:
    """Adds the call to the comparisons of two relations in a condition: one for each pair. Gives the pairs."""
    pairs: set[frozenset[str]] = set()
    calls = []
    for node in _conjuncts(holder[key]):
        pair = _compared(node, relations)
        if pair is not None and pair not in pairs:
            pairs.add(pair)
            calls.append(f"{NAME}({text(node)})")
    if calls:
        # first: what stands behind a condition that no row of a batch fulfils is not called
        holder[key] = expression(" AND ".join([*calls, f"({text(holder[key])})"]))
    return pairs


def _conjuncts(node: Node) -> Iterator[Node]:
    if not isinstance(node, dict):
        return
    if isinstance(node.get("Nested"), dict):
        yield from _conjuncts(node["Nested"])
    elif isinstance(node.get("BinaryOp"), dict) and node["BinaryOp"]["op"] == "And":
        yield from _conjuncts(node["BinaryOp"]["left"])
        yield from _conjuncts(node["BinaryOp"]["right"])
    else:
        yield node


def _compared(node: Node, relations: set[str]) -> frozenset[str] | None:
    """The two relations that a condition compares; None if it is no such comparison."""
    if not isinstance(node.get("BinaryOp"), dict) or any("Query" in one or "Subquery" in one for one in walk(node)):
        return None
    sides = [_qualifiers(node["BinaryOp"][side]) for side in ("left", "right")]
    if any(len(side) != 1 for side in sides) or sides[0] == sides[1]:
        return None
    pair = frozenset(sides[0] | sides[1])
    return pair if pair <= relations else None


def _qualifiers(node: Node) -> set[str]:
    return {
        _folded(one["CompoundIdentifier"][-2])
        for one in walk(node)
        if isinstance(one.get("CompoundIdentifier"), list) and len(one["CompoundIdentifier"]) > 1
    }


def _constraint(operator: Any) -> dict[str, Any] | None:
    kinds = list(operator.values()) if isinstance(operator, dict) else []
    return kinds[0] if kinds and isinstance(kinds[0], dict) else None


def _identifier(relation: Node) -> dict[str, Any] | None:
    """What the columns of a relation are qualified with."""
    for kind in ("Table", "Derived", "TableFunction"):
        if kind not in relation:
            continue
        alias = relation[kind].get("alias")
        if alias is not None:
            found: dict[str, Any] = alias["name"]
            return found
        parts = relation[kind].get("name") or []
        if parts and "Identifier" in parts[-1]:
            last: dict[str, Any] = parts[-1]["Identifier"]
            return last
    return None


def _name(relation: Node) -> str | None:
    found = _identifier(relation)
    return None if found is None else _folded(found)


def _quoted(relation: Node) -> str | None:
    found = _identifier(relation)
    return None if found is None else text({"Identifier": found})


def _folded(identifier: dict[str, Any]) -> str:
    value = str(identifier["value"])
    return value if identifier["quote_style"] else value.lower()
