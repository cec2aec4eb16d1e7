"""`date_bin_gapfill` with `locf` and `interpolate`: a grouped query gets rows for the bins in which nothing is.

The query is written anew, in three steps that DataFusion does natively:

1. the groups as they are, with `date_bin` in the place of `date_bin_gapfill`;
2. each group's row is followed by rows for the empty bins up to the next one (the first of a series also comes after those
   before it, the last one is followed by those up to the end of the time range), which have its series and no values;
3. what the query selects, with values carried on (`locf`) or put on a line (`interpolate`) along each series.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence

from attrs import define, field, frozen

from walmill.errors import InvalidRequest
from walmill.query.functions import SELECTORS, instant, local, zone_of, zoned
from walmill.query.syntax import Node, arguments_of, calls, expression, function_of, parse, text, walk

GAPFILL = ("date_bin_gapfill", "date_bin_wallclock_gapfill")
FILLS = ("locf", "interpolate")
NAMES = (*GAPFILL, *FILLS)
_PREFIX = "__fill_"
MOST = 10_000_000
"""A query makes at most so many rows: they are made before anything counts their memory."""


@frozen(kw_only=True)
class Bins:
    """The call of `date_bin_gapfill`.

    Attributes:
        key: Its text.
        interval: How long a bin is.
        column: The time that is binned, as the query names it.
        time: The time whose bins there are: the column, or what the clocks of a zone show.
        origin: From where bins are counted; None for the default.
        zone: The time zone; None for plain bins.
    """

    key: str
    interval: str
    column: str
    time: str
    origin: str | None
    zone: str | None

    def of(self, time: str) -> str:
        """The bin of a time."""
        return f"date_bin({self.interval}, {time}{'' if self.origin is None else f', {self.origin}'})"

    def shown(self, clock: str) -> str:
        """A bin as the query shows it."""
        return clock if self.zone is None else zoned(instant(clock, self.zone), self.zone)


@define
class _Rows:
    """What the first step computes, by text: group keys and aggregates.

    Attributes:
        keys: Names of the columns with keys of groups, by their texts.
        values: Names of the columns with aggregates, by their texts.
    """

    keys: dict[str, str] = field(factory=dict)
    values: dict[str, str] = field(factory=dict)

    def key(self, wanted: str) -> str:
        return self.keys.setdefault(wanted, f"{_PREFIX}key_{len(self.keys)}")

    def value(self, wanted: str) -> str:
        return self.values.setdefault(wanted, f"{_PREFIX}value_{len(self.values)}")


def fill(statement: Node, aggregates: Callable[[], Collection[str]]) -> Node:
    """A statement in which each grouped query with `date_bin_gapfill` is written anew.

    Args:
        statement: The statement; it is changed.
        aggregates: Gives the names of the functions that aggregate.

    Raises:
        InvalidRequest: If one of the functions stands where it means nothing, or has the wrong arguments.
    """
    for query in _queries(statement):
        select = query["body"]["Select"]
        where = [select["projection"], select["group_by"]]
        if _direct(where, GAPFILL):
            _Fill(query, select, {*aggregates(), *SELECTORS}).apply()
    for name in NAMES:
        if calls(statement, (name,)):
            needed = "GROUP BY" if name in GAPFILL else "a query that is grouped by date_bin_gapfill"
            raise InvalidRequest(f"{name} needs {needed}; it can stand in what such a query selects, and nowhere else")
    return statement


def _queries(node: Node) -> list[Node]:
    """The queries of a statement whose body is one SELECT, innermost first."""
    return [one for one in walk(node) if isinstance(one.get("body"), dict) and "Select" in one["body"]][::-1]


def _direct(node: Node, names: Sequence[str]) -> bool:
    """Whether a function is called in a part of a query, and not in a query within."""
    if isinstance(node, dict):
        if function_of(node) in names:
            return True
        return any(_direct(value, names) for key, value in node.items() if key != "Subquery")
    return isinstance(node, list) and any(_direct(value, names) for value in node)


class _Fill:
    """One grouped query."""

    def __init__(self, query: Node, select: Node, aggregates: Collection[str]) -> None:
        self._query = query
        self._select = select
        self._aggregates = aggregates
        self._rows = _Rows()
        self._columns: dict[str, str] = {}

    def apply(self) -> None:
        """Writes it anew, in its place."""
        select = self._select
        items = [_item(one) for one in select["projection"]]
        groups = self._groups(items)
        found = [one for one in groups if function_of(one) in GAPFILL]
        if len(found) != 1:
            raise InvalidRequest("a query is grouped by one date_bin_gapfill; name it in GROUP BY, once")
        bins = _bins(found[0])
        for one in groups:
            if one is not found[0]:
                self._rows.key(text(one))
        outputs = [(name, self._output(tree, bins)) for name, tree in items]
        self._order(items)
        having = select["having"]
        where = select["selection"]
        sql = self._written(
            bins, outputs, None if where is None else text(where), None if having is None else text(having)
        )
        made = parse(sql)
        assert made is not None, sql
        body = made[0]["Query"]["body"]["Select"]
        inner = next(one for one in walk(body) if _is_here(one))
        inner["from"] = copy.deepcopy(select["from"])
        select.clear()
        select.update(body)

    def _order(self, items: Sequence[tuple[str, Node]]) -> None:
        """ORDER BY that repeats what is selected names it instead."""
        names = {text(tree): name for name, tree in items}
        kind = (self._query.get("order_by") or {}).get("kind", {})
        for one in kind.get("Expressions", ()) if isinstance(kind, dict) else ():
            name = names.get(text(one["expr"]))
            if name is not None:
                one["expr"] = expression(name)

    def _groups(self, items: Sequence[tuple[str, Node]]) -> list[Node]:
        given = self._select["group_by"]
        if not isinstance(given, dict) or "Expressions" not in given or given["Expressions"][1]:
            raise InvalidRequest("a query with date_bin_gapfill lists what it is grouped by: GROUP BY ALL does not do")
        named = dict(items)
        found = []
        for one in given["Expressions"][0]:
            name = _named(one["Identifier"]) if isinstance(one, dict) and "Identifier" in one else None
            place = _number(one)
            if place is not None:
                if not 1 <= place <= len(items):
                    raise InvalidRequest(f"GROUP BY {place}: the query selects {len(items)} columns")
                found.append(items[place - 1][1])
            elif name in named and (calls(named[name], GAPFILL) or "Identifier" not in named[name]):
                found.append(named[name])
            else:
                found.append(one)
        return found

    def _output(self, tree: Node, bins: Bins) -> str:
        """What is selected, over the rows of the second step."""
        wanted = text(tree)
        if wanted == bins.key:
            return bins.shown(f"{_PREFIX}bin")
        if wanted in self._rows.keys:
            return self._rows.keys[wanted]
        name = function_of(tree)
        if name in FILLS:
            given = arguments_of(tree)
            if len(given) != 1:
                raise InvalidRequest(f"{name} has {len(given)} arguments; it is {name}(aggregate)")
            if not calls(given[0], tuple(self._aggregates)):
                raise InvalidRequest(f"{name} needs an aggregate, such as {name}(avg(value)), not {text(given[0])}")
            column = self._rows.value(text(given[0]))
            return self._carried(column) if name == "locf" else self._interpolated(column)
        if name in self._aggregates:
            return self._rows.value(wanted)
        return text(_mapped(tree, lambda part: self._part(part, bins)))

    def _part(self, tree: Node, bins: Bins) -> Node | None:
        """What a part of an expression becomes; None for one that is looked into."""
        if not _is_expression(tree):
            return None
        wanted = text(tree)
        known = wanted == bins.key or wanted in self._rows.keys
        access = tree.get("CompoundFieldAccess")
        selects = isinstance(access, dict) and function_of(access["root"]) in SELECTORS
        if known or selects or function_of(tree) in FILLS or function_of(tree) in self._aggregates:
            return expression(self._rows.value(wanted) if selects else self._output(tree, bins))
        return None

    def _series(self) -> str:
        keys = ", ".join(self._rows.keys.values())
        return f"PARTITION BY {keys} ORDER BY {_PREFIX}bin" if keys else f"ORDER BY {_PREFIX}bin"

    def _carried(self, column: str) -> str:
        """The last value at or before a row."""
        rows = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
        return f"last_value({column}) IGNORE NULLS OVER ({self._series()} {rows})"

    def _interpolated(self, column: str) -> str:
        """What lies on the line between the values before and behind a row; nothing before the first and behind the last."""
        before = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
        behind = "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING"
        here = f"CAST({_PREFIX}bin AS BIGINT)"
        known = f"CASE WHEN {column} IS NOT NULL THEN {here} END"

        def last(what: str) -> str:
            return f"last_value({what}) IGNORE NULLS OVER ({self._series()} {before})"

        def following(what: str) -> str:
            return f"first_value({what}) IGNORE NULLS OVER ({self._series()} {behind})"

        share = f"(CAST({here} - {last(known)} AS DOUBLE) / CAST({following(known)} - {last(known)} AS DOUBLE))"
        line = f"{last(column)} + ({following(column)} - {last(column)}) * {share}"
        return f"CASE WHEN {column} IS NOT NULL THEN {column} ELSE {line} END"

    def _written(self, bins: Bins, outputs: Sequence[tuple[str, str]], where: str | None, having: str | None) -> str:
        keys, values = self._rows.keys, self._rows.values
        distinct = "DISTINCT " if self._select["distinct"] is not None else ""
        low, high = _bounds(self._select["selection"], bins)
        grouped = ", ".join(
            [
                f"{bins.of(bins.time)} AS {_PREFIX}own",
                *(f"{key} AS {name}" for key, name in keys.items()),
                *(f"{value} AS {name}" for value, name in values.items()),
            ]
        )
        first = (
            f"SELECT {grouped} FROM {_HERE}"  # noqa: S608 - of the query's own parts
            + ("" if where is None else f" WHERE {where}")
            + f" GROUP BY {', '.join([bins.of(bins.time), *keys])}"
            + ("" if having is None else f" HAVING {having}")
        )
        series = f"PARTITION BY {', '.join(keys.values())} " if keys else ""
        names = [*keys.values(), *values.values()]
        placed = ", ".join(
            [
                f"{_PREFIX}own",
                f"lag({_PREFIX}own) OVER ({series}ORDER BY {_PREFIX}own) AS {_PREFIX}before",
                f"lead({_PREFIX}own) OVER ({series}ORDER BY {_PREFIX}own) AS {_PREFIX}behind",
                *([] if high is not None else [f"max({_PREFIX}own) OVER () AS {_PREFIX}end"]),
                *names,
            ]
        )
        begin = (
            f"{_PREFIX}own" if low is None else f"CASE WHEN {_PREFIX}before IS NULL THEN {low} ELSE {_PREFIX}own END"
        )
        last = f"{_PREFIX}end" if high is None else high
        end = f"CASE WHEN {_PREFIX}behind IS NULL THEN {last} ELSE {_PREFIX}behind - {bins.interval} END"
        # a bin that holds rows is there even if the bound of the query says that it should not be
        begin, end = f"least({begin}, {_PREFIX}own)", f"greatest({end}, {_PREFIX}own)"
        here = [f"{_PREFIX}own", *names]
        ranged = ", ".join([f"{begin} AS {_PREFIX}first", f"{end} AS {_PREFIX}last", *here])
        first_ns, last_ns = f"CAST({_PREFIX}first AS BIGINT)", f"CAST({_PREFIX}last AS BIGINT)"
        one = f"(CAST({_PREFIX}first + {bins.interval} AS BIGINT) - {first_ns})"
        total = f"sum(({last_ns} - {first_ns}) / {one} + 1) OVER () AS {_PREFIX}total"
        counted = ", ".join([total, f"{_PREFIX}first", f"{_PREFIX}last", *here])
        told = f"concat('date_bin_gapfill would make ', {_PREFIX}total, ' rows; the limit is {MOST:,}')"
        checked = f"CASE WHEN {_PREFIX}total > {MOST} THEN CAST({told} AS TIMESTAMP) ELSE {_PREFIX}first END"
        spread = ", ".join(
            [f"unnest(generate_series({checked}, {_PREFIX}last, {bins.interval})) AS {_PREFIX}bin", *here]
        )
        rows = ", ".join(
            [
                f"{_PREFIX}bin",
                *keys.values(),
                *(f"CASE WHEN {_PREFIX}bin = {_PREFIX}own THEN {name} END AS {name}" for name in values.values()),
            ]
        )
        selected = ", ".join(f"{what} AS {name}" for name, what in outputs)
        placed = f"SELECT {placed} FROM ({first})"  # noqa: S608 - as above
        ranged = f"SELECT {ranged} FROM ({placed})"  # noqa: S608
        counted = f"SELECT {counted} FROM ({ranged})"  # noqa: S608
        spread = f"SELECT {spread} FROM ({counted})"  # noqa: S608
        return f"SELECT {distinct}{selected} FROM (SELECT {rows} FROM ({spread}))"  # noqa: S608


_HERE = f"{_PREFIX}here"
"""Stands for what the query selects from, until that is put there."""


def _is_here(select: Node) -> bool:
    tables = select.get("from")
    if not isinstance(tables, list) or not tables:
        return False
    name = tables[0]["relation"].get("Table", {}).get("name")
    return bool(name) and name[0].get("Identifier", {}).get("value") == _HERE


def _number(node: Node) -> int | None:
    if isinstance(node, dict) and isinstance(node.get("Value"), dict):
        value = node["Value"]["value"]
        if isinstance(value, dict) and "Number" in value and str(value["Number"][0]).isdigit():
            return int(value["Number"][0])
    return None


def _item(node: Node) -> tuple[str, Node]:
    """The name of what is selected, as SQL, and its tree."""
    if "ExprWithAlias" in node:
        return _named(node["ExprWithAlias"]["alias"]), node["ExprWithAlias"]["expr"]
    if "UnnamedExpr" in node:
        tree = node["UnnamedExpr"]
        if "Identifier" in tree:
            return _named(tree["Identifier"]), tree
        if "CompoundIdentifier" in tree:
            return _named(tree["CompoundIdentifier"][-1]), tree
        return _quoted(text(tree)), tree
    raise InvalidRequest("a query with date_bin_gapfill names what it selects: * does not do")


def _named(identifier: Node) -> str:
    """A name as SQL means it, quoted: without quotes it is in lower case."""
    value = str(identifier["value"])
    return _quoted(value if identifier["quote_style"] else value.lower())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _bins(node: Node) -> Bins:
    name, given = function_of(node), arguments_of(node)
    if not 2 <= len(given) <= 3:
        raise InvalidRequest(f"{name} has {len(given)} arguments; it is {name}(interval, time[, origin])")
    texts = [text(one) for one in given]
    zone = zone_of(given[1]) if name == "date_bin_wallclock_gapfill" else None
    column = texts[1] if zone is None else zone[0]
    return Bins(
        key=text(node),
        interval=texts[0],
        column=column,
        time=column if zone is None else local(column, zone[1]),
        origin=texts[2] if len(texts) == 3 else None,
        zone=None if zone is None else zone[1],
    )


def _bounds(where: Node, bins: Bins) -> tuple[str | None, str | None]:
    """The first and the last bin of the time range that a query asks for; None for a side that it leaves open."""
    low: list[str] = []
    high: list[str] = []
    for one in [] if where is None else _all_of(where):
        between = one.get("Between")
        if between is not None and not between["negated"] and text(between["expr"]) == bins.column:
            low.append(_instant(text(between["low"]), 0))
            high.append(_instant(text(between["high"]), 0))
            continue
        compared = one.get("BinaryOp")
        if compared is None or compared["op"] not in _SIDES:
            continue
        sides = [(compared["left"], compared["right"], compared["op"])]
        sides.append((compared["right"], compared["left"], _SIDES[compared["op"]]))
        for column, bound, op in sides:
            if text(column) == bins.column:
                if op in ("Gt", "GtEq", "Eq"):
                    low.append(_instant(text(bound), 1 if op == "Gt" else 0))
                if op in ("Lt", "LtEq", "Eq"):
                    high.append(_instant(text(bound), -1 if op == "Lt" else 0))
                break

    def bin_of(times: list[str], choose: str) -> str | None:
        if not times:
            return None
        time = times[0] if len(times) == 1 else f"{choose}({', '.join(times)})"
        return bins.of(time if bins.zone is None else local(time, bins.zone))

    return bin_of(low, "greatest"), bin_of(high, "least")


_SIDES = {"Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq", "Eq": "Eq"}


def _instant(bound: str, more: int) -> str:
    """A bound as a time without zone, and so many ns more."""
    time = f"arrow_cast({bound}, 'Timestamp(Nanosecond, None)')"
    return f"to_timestamp_nanos(CAST({time} AS BIGINT) + {more})" if more else time


def _all_of(node: Node) -> Iterator[Node]:
    """The conditions that all have to hold."""
    if "Nested" in node:
        yield from _all_of(node["Nested"])
    elif isinstance(node.get("BinaryOp"), dict) and node["BinaryOp"]["op"] == "And":
        yield from _all_of(node["BinaryOp"]["left"])
        yield from _all_of(node["BinaryOp"]["right"])
    else:
        yield node


_EXPRESSIONS = {
    "Identifier", "CompoundIdentifier", "CompoundFieldAccess", "Function", "BinaryOp", "UnaryOp", "Nested", "Cast", "Case",
    "Value", "Interval", "Between", "IsNull", "IsNotNull", "InList", "Extract", "Tuple", "AtTimeZone", "Floor", "Ceil",
    "Substring", "Trim", "Like", "ILike", "IsTrue", "IsFalse", "IsNotTrue", "IsNotFalse", "Array", "Subquery", "TypedString",
    "Position", "IsDistinctFrom", "IsNotDistinctFrom",
}  # fmt: skip


def _is_expression(node: Node) -> bool:
    """Whether a dict is an expression, and not one of the parts of which they are made."""
    return isinstance(node, dict) and len(node) == 1 and next(iter(node)) in _EXPRESSIONS


def _mapped(node: Node, change: Callable[[Node], Node | None]) -> Node:
    """A copy of a tree with parts replaced, from the root down: what was replaced is not looked into."""
    if isinstance(node, dict):
        made = change(node)
        return made if made is not None else {key: _mapped(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [_mapped(value, change) for value in node]
    return node
