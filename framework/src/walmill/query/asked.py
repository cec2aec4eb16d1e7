"""What a simple statement asks of its only table, read from its text: cheaper than a plan, and good enough to read little.

It is an upper bound: a row outside of it changes nothing of the answer. What of a condition is not understood bounds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from attrs import evolve, frozen

from walmill.errors import WalmillError
from walmill.model.schema import TIME, TableSchema
from walmill.query.syntax import PLACES, Node, arguments_of, function_of, literal_of, parse
from walmill.units import INT64_MAX, INT64_MIN, parse_time

_ONE_TABLE = re.compile(r"\s*select\b(?!.*\b(?:select|join|with|explain)\b).*\bfrom\b", re.IGNORECASE | re.DOTALL)
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:\d\d)?)?")
_SPAN = re.compile(r"\s*(\d{1,9})\s*(second|minute|hour|day|week)s?\s*", re.IGNORECASE)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_NS = 1_000_000_000
SLACK = 60 * _NS
"""`now()` of the plan is later than ours, by less than this."""
_FLIPPED = {"Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq", "Eq": "Eq"}
_PLAIN_QUERY = ("with", "pipe_operators", "for_clause", "settings", "format_clause")
_PLAIN_SELECT = ("lateral_views", "prewhere", "connect_by", "into", "top")
_PLAIN_TABLE = ("args", "with_hints", "version", "with_ordinality", "partitions", "json_path", "sample", "index_hints")
"""Members that an ordinary statement leaves empty."""
_TREES = (dict, list, tuple)
KEPT, KEPT_CHARACTERS = 128, 1024
"""So many statements of up to so many characters are kept; the tree of one takes 200 times its size."""


@frozen
class Asked:
    """What rows a statement can need.

    Attributes:
        columns: The columns that it names, in the order of the table.
        low: It needs no row with an earlier time, ns.
        high: It needs no row with a later time, ns.
        tags: It needs no row in which one of these tags has another value.
        vague: Whether it says something of the time that was not understood: a planner can leave out more.
    """

    columns: tuple[str, ...]
    low: int = INT64_MIN
    high: int = INT64_MAX
    tags: Mapping[str, frozenset[str]] = {}
    vague: bool = False


@frozen(eq=False)
class Simple:
    """A SELECT from one table, without anything nested.

    Attributes:
        schema: The name of the schema of the table; None if it names none.
        table: The name of the table.
        query: The tree of the statement; not to be changed.
        select: That of its SELECT.
        names: By which its columns may be qualified.
        named: All names that it has: those of its columns are among them.
        placeholders: Names of its placeholders, with the `$`.
        kept: Whether the next one of the same text is this one.
    """

    schema: str | None
    table: str
    query: dict[str, Any]
    select: dict[str, Any]
    names: frozenset[str]
    named: frozenset[str | None]
    placeholders: frozenset[str]
    kept: bool


def simple(sql: str) -> Simple | None:
    """The statement, if it is that simple; else None. A dashboard asks the same again and again: short ones are kept.

    Args:
        sql: The statement.
    """
    return _kept(sql) if len(sql) <= KEPT_CHARACTERS else _simple(sql)


@lru_cache(KEPT)
def _kept(sql: str) -> Simple | None:
    return _simple(sql)


def _simple(sql: str) -> Simple | None:
    if not _ONE_TABLE.match(sql):
        return None
    tree = parse(sql)
    if tree is None or len(tree) != 1 or not isinstance(tree[0].get("Query"), dict):
        return None
    query = tree[0]["Query"]
    select = query["body"].get("Select") if isinstance(query["body"], dict) else None
    if select is None or any(query.get(one) for one in _PLAIN_QUERY) or any(select.get(one) for one in _PLAIN_SELECT):
        return None
    if len(select["from"]) != 1 or select["from"][0]["joins"]:
        return None
    selects, named, placeholders = 0, set(), set()
    for node in _nodes(query):
        selects += "Select" in node
        if "quote_style" in node and "value" in node:
            named.add(name_of(node))
        elif "Placeholder" in node:
            placeholders.add(str(node["Placeholder"]))
    if selects != 1:
        return None
    table = select["from"][0]["relation"].get("Table")
    if table is None or any(table.get(one) for one in _PLAIN_TABLE):
        return None
    parts = [name_of(part.get("Identifier")) for part in table["name"]]
    if None in parts or len(parts) > 2:
        return None
    alias = table.get("alias")
    if alias is not None and alias.get("columns"):
        return None
    name = parts[-1]
    assert name is not None
    shown = name if alias is None else name_of(alias["name"])
    return Simple(
        schema=parts[0] if len(parts) == 2 else None,
        table=name,
        query=query,
        select=select,
        names=frozenset([str(shown)]),
        named=frozenset(named),
        placeholders=frozenset(placeholders),
        kept=len(sql) <= KEPT_CHARACTERS,
    )


def asked_of(one: Simple, schema: TableSchema, params: Mapping[str, Any], now: int) -> Asked:
    """What it asks of its table.

    Args:
        one: The statement.
        schema: The columns of the table.
        params: Values of its placeholders.
        now: The time, ns, before it is planned.
    """
    every = [*schema.tags, *schema.fields, TIME]
    if any("Wildcard" in item or "QualifiedWildcard" in item for item in one.select["projection"]):
        columns = tuple(every)
    else:
        columns = tuple(name for name in every if name in one.named or name == TIME)
    found = Asked(columns)
    if one.select.get("selection") is None:
        return found
    for condition in _conjuncts(one.select["selection"]):
        narrower = _narrowed(found, condition, one.names, schema.tags, params, (now, now + SLACK))
        if narrower is found and any(name_of(node) == TIME for node in _nodes(condition) if "quote_style" in node):
            narrower = evolve(found, vague=True)
        found = narrower
    return found


def exactly(one: Simple, tags: Collection[str], params: Mapping[str, Any], now: int) -> Asked | None:
    """What it asks of its table, if its conditions say nothing else: every such row is in the answer, and no other; else None.

    Args:
        one: The statement.
        tags: The columns of its table whose values are texts.
        params: Values of its placeholders.
        now: What `now()` is, ns.
    """
    found = Asked(())
    if one.select.get("selection") is None:
        return found
    for condition in _conjuncts(one.select["selection"]):
        narrower = _narrowed(found, condition, one.names, tags, params, (now, now))
        if narrower is found:
            return None
        found = narrower
    return found


def _narrowed(
    found: Asked,
    condition: Node,
    names: frozenset[str],
    tags: Collection[str],
    params: Mapping[str, Any],
    now: tuple[int, int],
) -> Asked:
    """What is left to ask, if a condition holds as well; the same object if it is not understood."""
    if not isinstance(condition, dict):
        return found
    if (listed := condition.get("InList")) is not None:
        column = column_of(listed["expr"], names)
        values = [_text(value, params) for value in listed["list"]]
        if listed["negated"] or column not in tags or None in values:
            return found
        return _with_tag(found, str(column), frozenset(str(value) for value in values))
    if (between := condition.get("Between")) is not None:
        if between["negated"] or column_of(between["expr"], names) != TIME:
            return found
        low, high = _instant(between["low"], params, now), _instant(between["high"], params, now)
        return found if low is None or high is None else _with_times(found, low[0], high[1])
    compared = condition.get("BinaryOp")
    if compared is None or compared["op"] not in _FLIPPED:
        return found
    operator, left, right = compared["op"], compared["left"], compared["right"]
    column = column_of(left, names)
    if column is None:
        operator, right, column = _FLIPPED[operator], left, column_of(right, names)
    if column == TIME:
        instant = _instant(right, params, now)
        if instant is None:
            return found
        return _with_times(
            found,
            instant[0] + (operator == "Gt") if operator in ("Gt", "GtEq", "Eq") else None,
            instant[1] - (operator == "Lt") if operator in ("Lt", "LtEq", "Eq") else None,
        )
    if operator == "Eq" and column in tags:
        value = _text(right, params)
        return found if value is None else _with_tag(found, str(column), frozenset([value]))
    return found


def _with_tag(found: Asked, tag: str, values: frozenset[str]) -> Asked:
    before = found.tags.get(tag)
    return evolve(found, tags={**found.tags, tag: values if before is None else before & values})


def _with_times(found: Asked, low: int | None, high: int | None) -> Asked:
    low = found.low if low is None else max(found.low, low)
    high = found.high if high is None else min(found.high, high)
    if low > INT64_MAX or high < INT64_MIN:  # no time is that late, or that early
        low, high = INT64_MAX, INT64_MIN
    return evolve(found, low=low, high=high)


def _conjuncts(node: Node) -> Iterator[Node]:
    """The conditions of which all have to hold."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict) and isinstance(one.get("Nested"), dict):
            waiting.append(one["Nested"])
        elif isinstance(one, dict) and isinstance(one.get("BinaryOp"), dict) and one["BinaryOp"]["op"] == "And":
            waiting += [one["BinaryOp"]["left"], one["BinaryOp"]["right"]]
        else:
            yield one


def _nodes(node: Node) -> Iterator[dict[str, Any]]:
    """All dicts of a tree, but for those that say where something stands in the text, which are most of them."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += [part for name, part in one.items() if part and type(part) in _TREES and name not in PLACES]
        else:
            waiting += [part for part in one if type(part) in _TREES]


def name_of(identifier: Any) -> str | None:
    """A name as SQL reads it: in lower case, unless it is quoted."""
    if not isinstance(identifier, dict):
        return None
    value = str(identifier["value"])
    return value if identifier["quote_style"] else value.lower()


def column_of(node: Node, names: frozenset[str]) -> str | None:
    """The column that a node is; None if it is something else."""
    if not isinstance(node, dict):
        return None
    if (identifier := node.get("Identifier")) is not None:
        return name_of(identifier)
    parts = node.get("CompoundIdentifier")
    if isinstance(parts, list) and len(parts) == 2 and name_of(parts[0]) in names:
        return name_of(parts[1])
    return None


def _given(node: Node, params: Mapping[str, Any]) -> Any:
    """The value of a placeholder; None if a node is none."""
    if isinstance(node, dict) and isinstance(node.get("Value"), dict) and isinstance(node["Value"]["value"], dict):
        placeholder = node["Value"]["value"].get("Placeholder")
        if placeholder is not None:
            return params.get(str(placeholder).removeprefix("$"))
    return None


def _text(node: Node, params: Mapping[str, Any]) -> str | None:
    """The text that a node is; None if it is something else."""
    given = _given(node, params)
    return given if isinstance(given, str) else literal_of(node)


def _instant(node: Node, params: Mapping[str, Any], now: tuple[int, int]) -> tuple[int, int] | None:
    """The earliest and the latest time, ns, that a node can be; None if it is none that we know."""
    if not isinstance(node, dict):
        return None
    for kind, member in (("TypedString", "value"), ("Cast", "expr")):
        if (typed := node.get(kind)) is not None:
            stamp = typed["data_type"]
            plain = isinstance(stamp, dict) and stamp.get("Timestamp") in ([None, "None"], (None, "None"))
            value = typed[member] if kind == "Cast" else {"Value": typed[member]}
            return _instant(value, params, now) if plain and literal_of(value) is not None else None
    given = _given(node, params)
    if isinstance(given, datetime):
        return _read_time(given.isoformat()) if given.tzinfo is not None else None
    text = _text(node, params)
    if text is not None:
        return _read_time(text)
    if function_of(node) == "now":
        return now
    if function_of(node) == "to_timestamp_nanos":
        numbers = [_number(one) for one in arguments_of(node)]
        return (numbers[0], numbers[0]) if len(numbers) == 1 and numbers[0] is not None else None
    moved = node.get("BinaryOp")
    if moved is not None and moved["op"] in ("Plus", "Minus"):
        start, span = _instant(moved["left"], params, now), span_of(moved["right"])
        if start is not None and span is not None:
            shift = span if moved["op"] == "Plus" else -span
            return start[0] + shift, start[1] + shift
    return None


def _number(node: Node) -> int | None:
    """The whole number that a node is; None if it is something else."""
    sign = 1
    if isinstance(node, dict) and isinstance(node.get("UnaryOp"), dict) and node["UnaryOp"]["op"] == "Minus":
        sign, node = -1, node["UnaryOp"]["expr"]
    value = node["Value"]["value"] if isinstance(node, dict) and isinstance(node.get("Value"), dict) else None
    text = str(value["Number"][0]) if isinstance(value, dict) and "Number" in value else ""
    return sign * int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _read_time(text: str) -> tuple[int, int] | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, clock, zone = match.groups()
    try:
        at = parse_time(f"{day}T{clock or '00:00:00'}{zone or 'Z'}")
    except WalmillError:
        return None
    return at, at


def span_of(node: Node) -> int | None:
    """The length of an interval, ns; None if it is not of one unit that always lasts as long."""
    interval = node.get("Interval") if isinstance(node, dict) else None
    if interval is None or any(interval.get(one) for one in ("leading_field", "last_field", "leading_precision")):
        return None
    match = _SPAN.fullmatch(literal_of(interval["value"]) or "")
    return None if match is None else int(match[1]) * _SECONDS[match[2].lower()] * _NS
