"""From text to statements: the grammar, and what its trees mean as plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from attrs import field, frozen

from walmill.errors import InvalidRequest

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_DURATION = re.compile(r"(\d+)(ns|us|u|µ|ms|s|m|h|d|w)")
_UNITS = {
    "ns": 1,
    "u": 1_000,
    "us": 1_000,
    "µ": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
    "w": 7 * 86_400_000_000_000,
}


@frozen
class Ref:
    """A column; `kind` is what stands behind `::`."""

    name: str
    kind: str | None = None


@frozen
class Star:
    """`*`, or `*::field`, `*::tag`."""

    kind: str | None = None


@frozen
class Pattern:
    """A regular expression."""

    text: str


@frozen
class Value:
    """A number, a text, true or false."""

    value: Any


@frozen
class Span:
    """A duration, ns."""

    ns: int


@frozen
class Call:
    """A function with its arguments."""

    name: str
    arguments: tuple[Any, ...] = ()
    distinct: bool = False


@frozen
class Binary:
    """Two expressions with an operator between them: of arithmetic, a comparison, `=~`, `!~`, `and`, `or`."""

    op: str
    left: Any
    right: Any


@frozen
class Source:
    """A measurement, by name or by a regular expression."""

    name: str | Pattern
    database: str | None = None
    policy: str | None = None


@frozen
class By:
    """`GROUP BY time(interval[, offset])`, ns."""

    interval: int
    offset: int = 0


@frozen(kw_only=True)
class Select:
    """A SELECT.

    Attributes:
        columns: Expressions with their names, if they were given any.
        sources: Measurements, or one SELECT within.
        where: The condition.
        dimensions: What it is grouped by: `By`, `Ref`, `Star`, `Pattern`.
        fill: `null`, `none`, `previous`, `linear`, or a number; None if it does not say.
        descending: Whether the newest come first.
        limits: By `limit`, `offset`, `slimit`, `soffset`.
        zone: The time zone.
    """

    columns: tuple[tuple[Any, str | None], ...]
    sources: tuple[Any, ...]
    where: Any = None
    dimensions: tuple[Any, ...] = ()
    fill: Any = None
    descending: bool = False
    limits: Mapping[str, int] = field(factory=dict)
    zone: str | None = None


@frozen(kw_only=True)
class Show:
    """A SHOW.

    Attributes:
        what: `databases`, `measurements`, `tag_keys`, `tag_values`, `field_keys`, `retention`.
        database: Behind ON.
        sources: Behind FROM.
        key: Of `tag_values`: names, or a pattern, and whether others are meant.
        measurement: Behind WITH MEASUREMENT: as `key`.
        where: The condition.
        limits: As in `Select`.
    """

    what: str
    database: str | None = None
    sources: tuple[Source, ...] = ()
    key: tuple[Any, bool] | None = None
    measurement: tuple[Any, bool] | None = None
    where: Any = None
    limits: Mapping[str, int] = field(factory=dict)


@cache
def _parser() -> Lark:
    from lark import Lark

    grammar = files("walmill.influxql").joinpath("grammar.lark").read_text("utf-8")
    return Lark(grammar, parser="lalr", maybe_placeholders=True)


def parse(text: str) -> list[Select | Show]:
    """The statements of a text.

    Raises:
        InvalidRequest: If it is no InfluxQL that reads; the message says where.
    """
    from lark.exceptions import UnexpectedInput

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        place = max(0, cast("int | None", error.pos_in_stream) or 0)
        near = text[max(0, place - 10) : place + 20].strip()
        raise InvalidRequest(
            f"error parsing query: line {error.line}, char {error.column}, near {near!r}: no SELECT or SHOW that is known here"
        ) from None
    return [cast("Select | Show", _value(one)) for one in tree.children]


def duration_of(text: str) -> int:
    """A duration, ns."""
    sign = -1 if text.startswith("-") else 1
    return sign * sum(int(count) * _UNITS[unit] for count, unit in _DURATION.findall(text))


def _text(token: Token) -> str:
    """A name or a text without its quotes."""
    text = str(token)
    if text[:1] in ("'", '"'):
        return _ESCAPED.sub(lambda match: {"n": "\n"}.get(match[1], match[1]), text[1:-1])
    return text


def _pattern(token: Token) -> Pattern:
    return Pattern(str(token)[1:-1].replace("\\/", "/"))


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _value(node: Any) -> Any:
    """What a tree means."""
    if not hasattr(node, "data"):
        kind = getattr(node, "type", None)
        return _pattern(node) if kind == "REGEX" else None if node is None else _text(node)
    made = _MAKERS.get(str(node.data))
    assert made is not None, node.data
    return made(node.children)


def _select(parts: Sequence[Any]) -> Select:
    columns = tuple(_value(one) for one in parts[0].children)
    found: dict[str, Any] = {"limits": {}}
    for part in parts[2:]:
        if part is None:
            continue
        match str(part.data):
            case "where":
                found["where"] = _value(part.children[0])
            case "group_by":
                *dimensions, fill = part.children
                found["dimensions"] = tuple(_value(one) for one in dimensions)
                found["fill"] = None if fill is None else _filled(str(fill.children[0]))
            case "order_by":
                name, direction = part.children
                if _text(name).lower() != "time":
                    raise InvalidRequest("only ORDER BY time supported at this time")
                found["descending"] = direction is not None and str(direction).lower() == "desc"
            case "limit":
                found["limits"][str(part.children[0]).lower()] = int(_number(str(part.children[1])))
            case "tz":
                found["zone"] = _text(part.children[0])
    return Select(columns=columns, sources=_sources(parts[1]), **found)


def _filled(text: str) -> Any:
    return text.lower() if text.lower() in ("null", "none", "previous", "linear") else _number(text)


def _sources(node: Tree[Any]) -> tuple[Any, ...]:
    return tuple(_value(one) for one in node.children)


def _call(parts: Sequence[Any]) -> Call:
    name, *arguments = parts
    distinct = any(getattr(one, "type", None) == "DISTINCT" for one in arguments if one is not None)
    given = [one for one in arguments if one is not None and getattr(one, "type", None) != "DISTINCT"]
    return Call(str(name).lower(), tuple(_value(one) for one in given), distinct)


def _by_time(parts: Sequence[Any]) -> By:
    interval, *more = [one for one in parts if one is not None]
    offset = 0
    if more and getattr(more[0], "type", "") == "SIGNED_DURATION":
        offset = duration_of(str(more[0]))
    return By(duration_of(str(interval)), offset)


def _show(what: str) -> Any:
    def make(parts: Sequence[Any]) -> Show:
        found: dict[str, Any] = {"limits": {}}
        rest = [one for one in parts if one is not None]
        for place, part in enumerate(rest):
            data = str(getattr(part, "data", ""))
            if data == "on":
                found["database"] = _text(part.children[0])
            elif data == "from":
                found["sources"] = _sources(part.children[0])
            elif data == "where":
                found["where"] = _value(part.children[0])
            elif data == "limit":
                found["limits"][str(part.children[0]).lower()] = int(_number(str(part.children[1])))
            elif data in ("with_key", "with_keys"):
                found["key"] = _wanted(part.children, several=data == "with_keys")
            elif getattr(part, "type", "") in ("COMPARE", "MATCH"):
                found["measurement"] = _wanted(rest[place : place + 2], several=False)
        return Show(what=what, **found)

    return make


def _wanted(parts: Sequence[Any], *, several: bool) -> tuple[Any, bool]:
    """Names or a pattern, and whether all others are meant."""
    if several:
        return tuple(_text(one) for one in parts if one is not None), False
    op, value = [one for one in parts if one is not None]
    if str(op) not in ("=", "!=", "<>", "=~", "!~"):
        raise InvalidRequest(f"{op} does not choose names; write =, !=, =~ or !~")
    read = _value(value)
    return (read if isinstance(read, Pattern) else (read,)), str(op) in ("!=", "<>", "!~")


def _binary(parts: Sequence[Any]) -> Binary:
    left, op, right = parts
    return Binary(str(op), _value(left), _value(right))


_MAKERS: dict[str, Any] = {
    "select": _select,
    "column": lambda parts: (_value(parts[0]), None if parts[1] is None else _text(parts[1])),
    "column_pattern": lambda parts: (_pattern(parts[0]), None),
    "subquery": lambda parts: _value(parts[0]),
    "measurement": lambda parts: Source(_value(parts[0])),
    "of_policy": lambda parts: Source(_value(parts[1]), None, _text(parts[0])),
    "of_database": lambda parts: Source(_value(parts[2]), _text(parts[0]), _text(parts[1])),
    "of_default": lambda parts: Source(_value(parts[1]), _text(parts[0])),
    "or_": lambda parts: Binary("or", _value(parts[0]), _value(parts[1])),
    "and_": lambda parts: Binary("and", _value(parts[0]), _value(parts[1])),
    "compare": _binary,
    "match": _binary,
    "binary": _binary,
    "negative": lambda parts: Binary("-", Value(0), _value(parts[0])),
    "call": _call,
    "regex": lambda parts: _pattern(parts[0]),
    "reference": lambda parts: Ref(_text(parts[0]), None if parts[1] is None else str(parts[1]).lower()),
    "wildcard": lambda parts: Star(None if parts[0] is None else str(parts[0]).lower()),
    "duration": lambda parts: Span(duration_of(str(parts[0]))),
    "number": lambda parts: Value(_number(str(parts[0]))),
    "string": lambda parts: Value(_text(parts[0])),
    "bool": lambda parts: Value(str(parts[0]).lower() == "true"),
    "by_time": _by_time,
    "by_all": lambda parts: Star(),
    "by_regex": lambda parts: _pattern(parts[0]),
    "by_tag": lambda parts: _value(parts[0]),
    **{
        f"show_{one}": _show(one)
        for one in ("databases", "measurements", "tag_keys", "tag_values", "field_keys", "retention")
    },
}
