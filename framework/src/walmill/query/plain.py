"""Statements that only choose columns and rows of one table, sort and cut them: answered here, without a planner.

To plan and run the least of queries takes DataFusion a millisecond. Whoever asks a cache for a value, or a table for the newest
rows of a series, asks for nothing that needs a plan. What is not understood to the last word is left to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from walmill.model.schema import TIME
from walmill.query.asked import Asked, Simple, column_of, name_of
from walmill.query.groups import places
from walmill.query.syntax import Node
from walmill.units import INT64_MAX, INT64_MIN

MOST_ROWS = 300_000
"""So many rows are gone through here."""
MOST_BATCHES = 64
BATCH_ROWS = 8192
"""Rows of a batch of the answer, as DataFusion makes them."""
_EMPTY_QUERY = ("with", "fetch", "locks", "for_clause", "settings", "format_clause", "pipe_operators")
_EMPTY_SELECT = (
    *("select_modifiers", "top", "exclude", "into", "lateral_views", "prewhere", "connect_by", "cluster_by"),
    *("distribute_by", "sort_by", "having", "named_window", "qualify", "value_table_mode"),
)
_NO_GROUPS: tuple[Node, ...] = ({"Expressions": ([], [])}, {"Expressions": [[], []]})
_PLAIN_WILDCARD = ("wildcard_token",)
_EXACT = (pa.types.is_integer, pa.types.is_string, pa.types.is_timestamp)
"""Types whose values have one order, and are equal or not, for everybody: of floating-point numbers that is not so."""

Order = tuple[tuple[str, bool, bool], ...]
"""By which columns is sorted: for each its name, whether the largest come first, and whether nulls do."""


def is_exact(kind: pa.DataType) -> bool:
    """Whether values of a type have one order, and are equal or not, for everybody."""
    return any(one(kind) for one in _EXACT)


def sort(rows: pa.Table, order: Order) -> pa.Table:
    """Rows in an order."""
    if not order:
        return rows
    keys = [
        (name, "descending" if largest else "ascending", "at_start" if nulls else "at_end")
        for name, largest, nulls in order
    ]
    return rows.take(pc.sort_indices(rows, sort_keys=keys))


@frozen
class Plain:
    """What such a statement says, but for its conditions.

    Attributes:
        columns: The columns of the answer: those of the table, and what they are called there; None stands for all.
        distinct: Whether each row is there once.
        order: By which columns of the table is sorted.
        limit: So many rows at most; None for all.
        offset: So many rows are left out.
    """

    columns: tuple[tuple[str, str] | None, ...]
    distinct: bool = False
    order: Order = ()
    limit: int | None = None
    offset: int = 0

    def shown(self, names: Sequence[str]) -> list[tuple[str, str]] | None:
        """The columns of the answer, out of a table with these; None if DataFusion says something against them.

        Args:
            names: The columns of the table.
        """
        found: list[tuple[str, str]] = []
        for one in self.columns:
            found += [(name, name) for name in names] if one is None else [one]
        unknown = any(name not in names for name, _ in found) or any(name not in names for name, _, _ in self.order)
        chosen = {name for name, _ in found}
        hidden = self.distinct and any(name not in chosen for name, _, _ in self.order)
        return None if unknown or hidden or len({shown for _, shown in found}) < len(found) else found

    def needs(self, names: Sequence[str]) -> list[str] | None:
        """The columns of a table that are read for it, in the order of the table; None as in `shown`."""
        shown = self.shown(names)
        if shown is None:
            return None
        wanted = {name for name, _ in shown} | {name for name, _, _ in self.order}
        return [name for name in names if name in wanted]

    def can(self, schema: pa.Schema) -> bool:
        """Whether rows of these columns can be sorted and told apart here."""
        compared = [name for name, _, _ in self.order]
        if self.distinct:
            compared += [name for name, _ in self.shown(schema.names) or ()]
        return all(is_exact(schema.field(name).type) for name in compared)

    def of(self, rows: pa.Table) -> pa.Table | None:
        """The answer, out of the rows that the conditions leave."""
        shown = self.shown(rows.column_names)
        assert shown is not None
        if self.distinct:
            names = list(dict.fromkeys(name for name, _ in shown))
            rows = rows.group_by(names, use_threads=False).aggregate([]).select(names)
        rows = sort(rows, self.order)
        if self.limit is not None or self.offset:
            rows = rows.slice(self.offset, self.limit)
        fields = [rows.schema.field(name).with_name(called) for name, called in shown]
        return pa.table([rows.column(name) for name, _ in shown], schema=pa.schema(fields))


def is_bare(one: Simple) -> bool:
    """Whether a statement has none of the clauses that say more than which columns and rows, in which groups and order."""
    query, select = one.query, one.select
    return not (any(query.get(name) for name in _EMPTY_QUERY) or any(select.get(name) for name in _EMPTY_SELECT))


def plain(one: Simple) -> Plain | None:
    """What a statement says, if it is that plain; else None."""
    query, select = one.query, one.select
    if not is_bare(one) or select["group_by"] not in _NO_GROUPS or select["distinct"] not in (None, "Distinct"):
        return None
    columns = [_item(item, one.names) for item in select["projection"]]
    order, cut = order_of(query.get("order_by"), one.names), cut_of(query.get("limit_clause"))
    if not columns or None in columns or order is None or cut is None:
        return None
    found = tuple(None if item == _ALL else item for item in columns)
    named = {called: name for item in found if item is not None for name, called in (item,)}
    # what sorts is a column of the answer, if one is called so, or else one of the table
    sorts = tuple((named.get(name, name), largest, nulls) for name, largest, nulls in order)
    return Plain(found, select["distinct"] is not None, sorts, *cut)


_ALL = ("", "*")


def _item(item: Node, names: frozenset[str]) -> tuple[str, str] | None:
    """A column and what it is called; `_ALL` for all; None for anything else."""
    if not isinstance(item, dict):
        return None
    if (star := item.get("Wildcard")) is not None:
        return None if any(value for name, value in star.items() if name not in _PLAIN_WILDCARD) else _ALL
    if (aliased := item.get("ExprWithAlias")) is not None:
        column, called = column_of(aliased["expr"], names), name_of(aliased["alias"])
        return None if column is None or called is None else (column, called)
    column = column_of(item.get("UnnamedExpr"), names)
    return None if column is None else (column, column)


def order_of(clause: Node, names: frozenset[str]) -> list[tuple[str, bool, bool]] | None:
    """By which columns a statement sorts, as in `Plain.order`; None if it is not that plain."""
    if clause is None:
        return []
    if not isinstance(clause, dict) or clause.get("interpolate"):
        return None
    listed = clause["kind"].get("Expressions") if isinstance(clause["kind"], dict) else None
    if listed is None:
        return None
    found = []
    for one in listed:
        column, options = column_of(one["expr"], names), one["options"]
        if column is None or one.get("with_fill"):
            return None
        largest = options["asc"] is False
        found.append((column, largest, largest if options["nulls_first"] is None else options["nulls_first"]))
    return found


def cut_of(clause: Node) -> tuple[int | None, int] | None:
    """How many rows at most, and how many are left out before; None if it is not plain."""
    if clause is None:
        return None, 0
    parts = clause.get("LimitOffset") if isinstance(clause, dict) else None
    if parts is None or parts.get("limit_by"):
        return None
    limit = None if parts["limit"] is None else _count(parts["limit"])
    offset = 0 if parts["offset"] is None else _count(parts["offset"]["value"])
    if offset is None or (limit is None and parts["limit"] is not None):
        return None
    return limit, offset


def _count(node: Node) -> int | None:
    value = node["Value"]["value"] if isinstance(node, dict) and isinstance(node.get("Value"), dict) else None
    text = str(value["Number"][0]) if isinstance(value, dict) and "Number" in value else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def chosen(batches: Sequence[pa.RecordBatch], asked: Asked, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    """The rows of batches that are asked for.

    Args:
        batches: Rows with these columns among theirs.
        asked: What is asked, exactly.
        names: The columns that are wanted.
        schema: The columns of the batches.
    """
    kinds = pa.schema([schema.field(name) for name in names])
    return pa.Table.from_batches(_chosen(batches, asked, kinds), kinds)


def _chosen(batches: Sequence[pa.RecordBatch], asked: Asked, kinds: pa.Schema) -> Iterator[pa.RecordBatch]:
    timed = asked.low != INT64_MIN or asked.high != INT64_MAX
    compared = (*asked.tags, *([TIME] if timed else []))
    for batch in batches:
        found = places({name: batch.column(name) for name in compared}, asked) if compared else None
        if found is not None and len(found) == 0:
            continue
        rows = pa.RecordBatch.from_arrays([batch.column(name) for name in kinds.names], schema=kinds)
        if found is not None and len(found) < rows.num_rows:
            first = int(found[0])
            together = int(found[-1]) - first + 1 == len(found)
            rows = rows.slice(first, len(found)) if together else rows.take(pa.array(found))
        yield rows


def texts(schema: pa.Schema) -> frozenset[str]:
    """The columns whose values are texts."""
    return frozenset(one.name for one in schema if pa.types.is_string(one.type))


def answer(rows: pa.Table) -> list[pa.RecordBatch]:
    """An answer in batches, as DataFusion gives them."""
    found: list[pa.RecordBatch] = rows.to_batches(max_chunksize=BATCH_ROWS)
    return found


def few(batches: Sequence[pa.RecordBatch]) -> bool:
    """Whether these are so few that they are gone through here."""
    return len(batches) <= MOST_BATCHES and sum(batch.num_rows for batch in batches) <= MOST_ROWS
