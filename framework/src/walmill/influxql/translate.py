"""A SELECT of InfluxQL as SQL, over one measurement whose columns are known.

Selectors, bins and gaps are those of `walmill.query.functions` and `walmill.query.gapfill`; regular expressions are DataFusion's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import define, field, frozen

from walmill.errors import InvalidRequest
from walmill.influxql import choosing
from walmill.influxql.parse import Binary, By, Call, Pattern, Ref, Select, Span, Star, Value
from walmill.model.schema import TIME, TableSchema
from walmill.query.errors import NotSupported
from walmill.query.functions import check_zone
from walmill.units import parse_time

SELECTORS = {"first": "selector_first", "last": "selector_last", "min": "selector_min", "max": "selector_max"}
AGGREGATES = (
    "mean", "sum", "count", "median", "mode", "integral", "stddev", "spread", "percentile", "distinct",
    *SELECTORS, *choosing.BEST,
)  # fmt: skip
TRANSFORMS = (
    "derivative",
    "non_negative_derivative",
    "difference",
    "non_negative_difference",
    "moving_average",
    "cumulative_sum",
)
MATHS = {
    "abs": "abs", "ceil": "ceil", "floor": "floor", "round": "round", "sqrt": "sqrt", "exp": "exp", "ln": "ln", "log2": "log2",
    "log10": "log10", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "pow": "power",
}  # fmt: skip
NUMBERS = ("int64", "uint64", "float64")
SECOND = 1_000_000_000
_ZONED = re.compile(r"(?:[zZ]|[+-]\d\d:?\d\d)$")
"""A time that says its offset; others are in UTC."""


@frozen(kw_only=True)
class Plan:
    """A SELECT over one measurement as SQL.

    Attributes:
        sql: The statement; its rows come by series, then by time. Its columns are `time`, the tags, the values.
        tags: The tags that name a series: columns `tag_0`, `tag_1`, …; None for one that the measurement has not got.
        names: The names of the values: columns `value_0`, ….
        grouped: The names of all tags that name a series.
    """

    sql: str
    tags: tuple[str, ...]
    names: tuple[str, ...]
    grouped: tuple[str, ...]


def quoted(name: str) -> str:
    """A name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def at(instant: int) -> str:
    """An instant for SQL, ns."""
    return f"to_timestamp_nanos({instant})"


@define
class Translation:
    """A SELECT on its way to SQL.

    Attributes:
        select: The statement.
        schema: The columns of the measurement.
        now: The time, ns.
        low: The first instant of the time range, ns; None if it is open. What the statement says of it makes it narrower.
        high: The last instant.
        rows: What SQL calls the rows of the measurement; None for the table of its name.
    """

    select: Select
    schema: TableSchema
    now: int
    low: int | None = None
    high: int | None = None
    rows: str | None = None
    _tags: tuple[str, ...] = ()
    _by: By | None = None
    _windows: list[str] = field(factory=list)

    def plan(self) -> Plan | None:
        """The SQL; None if the measurement has none of the columns."""
        select = self.select
        for one in [] if select.where is None else all_of(select.where):
            self.bound(one)
        self._tags = self._dimensions()
        columns = choosing.with_tags(self._expanded())
        if not columns:
            return None
        names = unique([name for name, _ in columns])
        grouped = [one for _, one in columns if has_call(one, AGGREGATES)]
        moved = [one for _, one in columns if has_call(one, TRANSFORMS)]
        chosen = any(has_call(one, tuple(choosing.BEST)) for _, one in columns)
        if grouped and not chosen and any(not has_call(one, AGGREGATES) and refs(one) for _, one in columns):
            selector = self._one_selector([one for _, one in columns])
            if selector is None or self._by is not None:
                raise InvalidRequest("mixing aggregate and non-aggregate queries is not supported")
        if self._by is not None and not grouped:
            raise InvalidRequest("GROUP BY requires at least one aggregate function")
        trees = [one for _, one in columns]
        if moved:
            sql = self._moved(trees)
        elif grouped:
            sql = self._aggregated(trees)
        else:
            sql = self._raw(trees)
        return Plan(sql=sql, tags=self._known_tags(), names=tuple(names), grouped=self._tags)

    # ---- what the statement names

    def _dimensions(self) -> tuple[str, ...]:
        found: list[str] = []
        for one in self.select.dimensions:
            match one:
                case By():
                    if one.interval <= 0:
                        raise InvalidRequest("time dimension must have a duration that is longer than nothing")
                    self._by = one
                case Star():
                    found += self.schema.tags
                case Pattern(text):
                    found += [tag for tag in self.schema.tags if re.search(text, tag)]
                case Ref(name):
                    found.append(name)
        return tuple(sorted(dict.fromkeys(found)))

    def _known_tags(self) -> tuple[str, ...]:
        return tuple(tag for tag in self._tags if tag in self.schema.tags)

    def _expanded(self) -> list[tuple[str, Any]]:
        """The columns with their names; `*` and patterns are what they stand for."""
        found: list[tuple[str, Any]] = []
        for tree, name in self.select.columns:
            match tree:
                case Star(kind):
                    found.extend((one, Ref(one)) for one in self._all(kind))
                case Pattern(text):
                    found.extend((one, Ref(one)) for one in self._all(None) if re.search(text, one))
                case Call(function, (Star() | Pattern() as which, *more)):
                    fields = [
                        one
                        for one, type_ in sorted(self.schema.fields.items())
                        if (type_ in NUMBERS or function in ("count", "first", "last", "distinct"))
                        and (isinstance(which, Star) or re.search(which.text, one))
                    ]
                    label = name or function
                    found += [(f"{label}_{one}", Call(function, (Ref(one), *more))) for one in fields]
                case _:
                    found.append((name or name_of(tree), tree))
        found = [(name, tree) for name, tree in found if not (isinstance(tree, Ref) and tree.name == TIME)]
        some = any(one.name in self.schema.fields for _, tree in found for one in refs(tree))
        return found if some else []

    def _all(self, kind: str | None) -> list[str]:
        tags = [] if kind == "field" else [tag for tag in self.schema.tags if tag not in self._tags]
        fields = [] if kind == "tag" else list(self.schema.fields)
        return sorted([*tags, *fields])

    # ---- conditions

    def bound(self, node: Any) -> None:
        """Notes what a condition says about the time range."""
        if not isinstance(node, Binary) or node.op not in ("=", "<", "<=", ">", ">="):
            return
        op, value = node.op, node.right
        if isinstance(node.right, Ref) and node.right.name.lower() == TIME:
            op, value = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op), node.left
        elif not (isinstance(node.left, Ref) and node.left.name.lower() == TIME):
            return
        instant = self._instant(value)
        if op in (">", ">=", "="):
            low = instant + (op == ">")
            self.low = low if self.low is None else max(self.low, low)
        if op in ("<", "<=", "="):
            high = instant - (op == "<")
            self.high = high if self.high is None else min(self.high, high)

    def _instant(self, node: Any) -> int:
        match node:
            case Span(ns):
                return ns
            case Value(value) if isinstance(value, str):
                text = value.strip().replace(" ", "T", 1)
                return parse_time(
                    text if _ZONED.search(text) else f"{text}{'' if 'T' in text else 'T00:00:00'}Z", what="time"
                )
            case Value(value) if isinstance(value, int) and not isinstance(value, bool):
                return value
            case Call("now", ()):
                return self.now
            case Binary("+", left, right):
                return self._instant(left) + self._instant(right)
            case Binary("-", left, right):
                return self._instant(left) - self._instant(right)
        raise InvalidRequest("time is compared with something that is no time: write for example time > now() - 1h")

    def condition(self, node: Any) -> str:
        """A condition as SQL."""
        match node:
            case Binary("and" | "or" as op, left, right):
                return f"({self.condition(left)} {op.upper()} {self.condition(right)})"
            case Binary("=~" | "!~" as op, Ref() as ref, Pattern(text)):
                tag = ref.name not in self.schema.fields
                column = f"coalesce({self.column(ref)}, '')" if tag else self.column(ref)
                found = f"regexp_like({column}, {literal(text)})"
                return found if op == "=~" else f"NOT {found}"
            case Binary(op, left, right) if op in ("=", "!=", "<>", "<", "<=", ">", ">="):
                if isinstance(right, Ref) and not isinstance(left, Ref):
                    left, right = right, left
                    op = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
                if isinstance(left, Ref) and left.name.lower() == TIME:
                    return f"{TIME} {op} {at(self._instant(right))}"
                return self._compared(op, left, right)
        raise InvalidRequest("a condition is a comparison, or several with AND and OR between them")

    def _compared(self, op: str, left: Any, right: Any) -> str:
        tag = isinstance(left, Ref) and left.name not in self.schema.fields and left.kind != "field"
        op = "<>" if op == "!=" else op
        if tag and isinstance(right, Value):
            # a tag that a row has not got is an empty one
            column, text = self.column(left), str(right.value)
            if op == "=":
                return f"{column} IS NULL" if text == "" else f"{column} = {literal(text)}"
            if op == "<>":
                return f"{column} IS NOT NULL" if text == "" else f"({column} <> {literal(text)} OR {column} IS NULL)"
        return f"{self.value(left)} {op} {self.value(right)}"

    def column(self, ref: Ref) -> str:
        """A column; null if the measurement has none of that name."""
        known = ref.name in self.schema.fields or ref.name in self.schema.tags
        return quoted(ref.name) if known else "NULL"

    def value(self, node: Any) -> str:
        """An expression over single rows as SQL."""
        match node:
            case Ref(name) if name.lower() == TIME:
                return TIME
            case Ref():
                return self.column(node)
            case Value(value):
                return (
                    literal(value)
                    if isinstance(value, str)
                    else str(value).upper()
                    if isinstance(value, bool)
                    else repr(value)
                )
            case Span(ns):
                return str(ns)
            case Binary(op, left, right) if op in ("+", "-", "*", "/", "%", "&", "|", "^"):
                return _arithmetic(op, self.value(left), self.value(right))
            case Call(name, arguments) if name in MATHS:
                return f"{MATHS[name]}({', '.join(self.value(one) for one in arguments)})"
        raise _unknown(node)

    # ---- statements

    def where(self, *, until_now: bool = False, more: str | None = None) -> str:
        parts = [] if self.select.where is None else [self.condition(self.select.where)]
        if until_now and self.high is None:
            self.high = self.now
            parts.append(f"{TIME} <= {at(self.now)}")
        if more is not None:
            parts.append(more)
        return f" WHERE {' AND '.join(parts)}" if parts else ""

    def tag_columns(self) -> list[str]:
        return [f"{quoted(tag)} AS tag_{place}" for place, tag in enumerate(self._known_tags())]

    def series(self) -> list[str]:
        """What tells the series apart."""
        return [quoted(tag) for tag in self._known_tags()]

    def bins(self) -> list[str]:
        """The bin of a row, if the statement has bins."""
        return [] if self._by is None else [self._bin(gaps=False)]

    def interval(self) -> int:
        """The width of a bin, ns; 0 without bins.

        Raises:
            NotSupported: If bins follow the clock on the wall, so that some are wider.
        """
        if self.select.zone is not None and self._by is not None:
            raise NotSupported("integral() with GROUP BY time and tz() is not known here; leave tz() out")
        return 0 if self._by is None else self._by.interval

    def _order(self) -> str:
        tags = [f"tag_{place} NULLS FIRST" for place in range(len(self._known_tags()))]
        return f" ORDER BY {', '.join([*tags, TIME + (' DESC' if self.select.descending else '')])}"

    def _limit(self) -> str:
        """LIMIT and OFFSET are meant for each series: SQL has them if there is one."""
        limits = self.select.limits
        if self._known_tags():
            return ""
        text = f" LIMIT {limits['limit']}" if "limit" in limits else ""
        return text + (f" OFFSET {limits['offset']}" if "offset" in limits else "")

    def table(self) -> str:
        return quoted(self.schema.name) if self.rows is None else self.rows

    def _raw(self, trees: Sequence[Any]) -> str:
        values = [f"{self.value(tree)} AS value_{place}" for place, tree in enumerate(trees)]
        fields = dict.fromkeys(
            quoted(one.name) for tree in trees for one in refs(tree) if one.name in self.schema.fields
        )
        present = "(" + " OR ".join(f"{one} IS NOT NULL" for one in fields) + ")"
        columns = ", ".join([TIME, *self.tag_columns(), *values])
        return f"SELECT {columns} FROM {self.table()}{self.where(more=present)}{self._order()}{self._limit()}"  # noqa: S608

    def _one_selector(self, trees: Sequence[Any]) -> Call | None:
        """The selector of a statement that has just one function."""
        calls = [one for tree in trees for one in _calls(tree) if one.name in AGGREGATES]
        return calls[0] if len(calls) == 1 and calls[0].name in SELECTORS else None

    def _aggregated(self, trees: Sequence[Any]) -> str:
        if any(isinstance(tree, Call) and tree.name == "distinct" for tree in trees):
            return self._distinct(trees)
        if any(has_call(tree, tuple(choosing.BEST)) for tree in trees):
            return f"{choosing.best(self, trees)}{self._order()}{self._limit()}"
        source = None
        if any(has_call(tree, ("mode",)) for tree in trees):
            source = choosing.mode(self, trees)
        elif any(has_call(tree, ("integral",)) for tree in trees):
            source = choosing.integral(self, trees)
        if self._by is not None:
            return self._binned(trees, self.select.fill, source=source)
        selector = self._one_selector(trees)
        if selector is not None:
            return self._selected(selector, trees)
        values = [f"{self._over_groups(tree, None)} AS value_{place}" for place, tree in enumerate(trees)]
        inner = ", ".join([f"{at(self.low or 0)} AS {TIME}", *self.tag_columns(), *values])
        tags = [quoted(tag) for tag in self._known_tags()]
        some = " OR ".join(f"value_{place} IS NOT NULL" for place in range(len(trees)))
        rows = f"{self.table()}{self.where()}" if source is None else source
        counted = f"SELECT {inner}, count(*) AS n FROM {rows}"  # noqa: S608 - quoted names
        if tags:
            counted += f" GROUP BY {', '.join(tags)}"
        outer = ", ".join(
            [TIME, *(f"tag_{one}" for one in range(len(tags))), *(f"value_{one}" for one in range(len(trees)))]
        )
        return f"SELECT {outer} FROM ({counted}) WHERE n > 0 AND ({some}){self._order()}"  # noqa: S608

    def _selected(self, selector: Call, trees: Sequence[Any]) -> str:
        """One selector: the row has the time of the point that it chose, and other columns are those of that point."""
        function = SELECTORS[selector.name]
        column = self.argument(selector)
        others = [self.value(tree) for tree in trees if not has_call(tree, AGGREGATES)]
        call = f"{function}({', '.join([column, TIME, *others])})"
        values: list[str] = []
        number = 0
        for place, tree in enumerate(trees):
            if has_call(tree, AGGREGATES):
                values.append(f"{self._over_groups(tree, None)} AS value_{place}")
            else:
                number += 1
                values.append(f"{call}['other_{number}'] AS value_{place}")
        inner = ", ".join([f"{call}['time'] AS {TIME}", *self.tag_columns(), *values])
        tags = [quoted(tag) for tag in self._known_tags()]
        sql = f"SELECT {inner} FROM {self.table()}{self.where()}"  # noqa: S608 - quoted names
        sql += f" GROUP BY {', '.join(tags)}" if tags else ""
        return f"SELECT * FROM ({sql}) WHERE {TIME} IS NOT NULL{self._order()}"  # noqa: S608

    def _distinct(self, trees: Sequence[Any]) -> str:
        if len(trees) > 1 or self._by is not None:
            raise NotSupported(
                "distinct() stands alone, and without GROUP BY time; count(distinct(field)) does not have to"
            )
        column = self.argument(trees[0])
        columns = ", ".join([f"{at(self.low or 0)} AS {TIME}", *self.tag_columns(), f"{column} AS value_0"])
        where = self.where(more=f"{column} IS NOT NULL")
        return f"SELECT DISTINCT {columns} FROM {self.table()}{where}{self._order()}, value_0"  # noqa: S608 - quoted names

    def _bin(self, *, gaps: bool) -> str:
        assert self._by is not None
        interval = f"INTERVAL '{self._by.interval} nanosecond'"
        origin = at(self._by.offset)
        if self.select.zone is not None:
            function = "date_bin_wallclock_gapfill" if gaps else "date_bin_wallclock"
            return f"{function}({interval}, tz({TIME}, {literal(check_zone(self.select.zone))}), {origin})"
        return f"{'date_bin_gapfill' if gaps else 'date_bin'}({interval}, {TIME}, {origin})"

    def _binned(self, trees: Sequence[Any], fill: Any, *, order: bool = True, source: str | None = None) -> str:
        gaps = fill != "none"
        values = [
            f"{self._over_groups(tree, 'null' if fill is None else fill)} AS value_{place}"
            for place, tree in enumerate(trees)
        ]
        where = (self.where(until_now=True) if source is None else "") or " WHERE true"
        if gaps and self.low is not None:  # a bound that the condition has in another form is one for the bins as well
            where += f" AND {TIME} >= {at(self.low)}"
        if gaps and self.high is not None:
            where += f" AND {TIME} <= {at(self.high)}"
        columns = ", ".join([f"{self._bin(gaps=gaps)} AS bin", *self.tag_columns(), *values])
        groups = ", ".join(["1", *(str(place + 2) for place in range(len(self._known_tags())))])
        inner = f"SELECT {columns} FROM {source or self.table()}{where} GROUP BY {groups}"  # noqa: S608 - quoted names
        outer = ", ".join(
            [
                f"arrow_cast(bin, 'Timestamp(Nanosecond, None)') AS {TIME}"
                if self.select.zone is None
                else f"{_plain('bin')} AS {TIME}",
                *(f"tag_{place}" for place in range(len(self._known_tags()))),
                *(f"value_{place}" for place in range(len(trees))),
            ]
        )
        return f"SELECT {outer} FROM ({inner})" + (f"{self._order()}{self._limit()}" if order else "")  # noqa: S608

    def argument(self, call: Call) -> str:
        if not call.arguments:
            raise InvalidRequest(f"{call.name}() needs a field")
        found = self.value(call.arguments[0])
        return "CAST(NULL AS DOUBLE)" if found == "NULL" else found

    def _over_groups(self, node: Any, fill: Any) -> str:
        """An expression over groups as SQL; `fill` says what stands in gaps, None that there are none."""
        match node:
            case Call(name) if name in AGGREGATES:
                found = self._aggregate(node)
                match fill:
                    case None | "none":
                        return found
                    case "null":
                        return f"coalesce({found}, 0)" if name == "count" else found
                    case "previous":
                        return f"locf({found})"
                    case "linear":
                        return f"interpolate({found})"
                return f"coalesce({found}, {fill!r})"
            case Call(name, arguments) if name in MATHS:
                return f"{MATHS[name]}({', '.join(self._over_groups(one, fill) for one in arguments)})"
            case Binary(op, left, right) if op in ("+", "-", "*", "/", "%", "&", "|", "^"):
                return _arithmetic(op, self._over_groups(left, fill), self._over_groups(right, fill))
            case Value() | Span():
                return self.value(node)
        raise _unknown(node)

    def _aggregate(self, call: Call) -> str:
        if call.name == "count" and call.arguments and isinstance(call.arguments[0], Call):
            inner = call.arguments[0]
            if inner.name == "distinct":
                return f"count(DISTINCT {self.argument(inner)})"
        column = self.argument(call)
        match call.name:
            case "mean":
                return f"avg({column})"
            case "sum" | "median" | "stddev":
                return f"{call.name}({column})"
            case "count":
                return f"count({'DISTINCT ' if call.distinct else ''}{column})"
            case "mode":
                return choosing.MODE
            case "integral":
                return choosing.AREA
            case "spread":
                return f"(max({column}) - min({column}))"
            case "first" | "last" | "min" | "max":
                return f"{SELECTORS[call.name]}({column}, {TIME})['value']"
            case "percentile" if len(call.arguments) == 2 and isinstance(call.arguments[1], Value):
                share = float(call.arguments[1].value)
                if not 0 <= share <= 100:
                    raise InvalidRequest(f"percentile({share:g}) must be from 0 to 100")
                rank = f"CAST(floor(count({column}) * {share!r} / 100.0 + 0.5) AS BIGINT)"
                return f"array_element(array_sort(array_agg({column}) FILTER (WHERE {column} IS NOT NULL)), {rank})"
        raise _unknown(call)

    # ---- functions that look at rows beside

    def _moved(self, trees: Sequence[Any]) -> str:
        inside: list[Any] = []
        outputs = [f"{self._over_rows(tree, inside)} AS value_{place}" for place, tree in enumerate(trees)]
        tags = [f"tag_{place}" for place in range(len(self._known_tags()))]
        if self._by is not None:
            base = self._binned(inside, "none", order=False)
        else:
            values = [f"{self.value(one)} AS value_{place}" for place, one in enumerate(inside)]
            present = " AND ".join(f"{self.value(one)} IS NOT NULL" for one in inside)
            columns = ", ".join([TIME, *self.tag_columns(), *values])
            base = f"SELECT {columns} FROM {self.table()}{self.where(more=present)}"  # noqa: S608 - quoted names
        window = ", ".join([TIME, *tags, *outputs])
        some = " OR ".join(f"value_{place} IS NOT NULL" for place in range(len(trees)))
        over = f"SELECT {window} FROM ({base})"  # noqa: S608
        return f"SELECT * FROM ({over}) WHERE {some}{self._order()}{self._limit()}"  # noqa: S608

    def _over_rows(self, node: Any, inside: list[Any]) -> str:
        match node:
            case Call(name, arguments) if name in TRANSFORMS:
                if not arguments:
                    raise InvalidRequest(f"{name}() needs a field")
                inside.append(arguments[0])
                return self._moving(node, f"value_{len(inside) - 1}")
            case Binary(op, left, right) if op in ("+", "-", "*", "/", "%"):
                return _arithmetic(op, self._over_rows(left, inside), self._over_rows(right, inside))
            case Value() | Span():
                return self.value(node)
            case Call(name, arguments) if name in MATHS:
                return f"{MATHS[name]}({', '.join(self._over_rows(one, inside) for one in arguments)})"
        raise NotSupported("beside a function such as derivative() others of its kind may stand, and numbers")

    def _moving(self, call: Call, column: str) -> str:
        tags = ", ".join(f"tag_{place}" for place in range(len(self._known_tags())))
        over = f"OVER ({f'PARTITION BY {tags} ' if tags else ''}ORDER BY {TIME}"
        before = f"lag({column}) {over})"
        match call.name:
            case "difference":
                return f"({column} - {before})"
            case "non_negative_difference":
                return f"CASE WHEN {column} >= {before} THEN {column} - {before} END"
            case "cumulative_sum":
                return f"sum({column}) {over} ROWS UNBOUNDED PRECEDING)"
            case "moving_average":
                count = (
                    call.arguments[1].value if len(call.arguments) == 2 and isinstance(call.arguments[1], Value) else 0
                )
                if not isinstance(count, int) or count < 2:
                    raise InvalidRequest("moving_average(field, n) needs a whole number above 1")
                rows = f"ROWS BETWEEN {count - 1} PRECEDING AND CURRENT ROW)"
                return f"CASE WHEN count({column}) {over} {rows} = {count} THEN avg({column}) {over} {rows} END"
        unit = SECOND if self._by is None else self._by.interval
        if len(call.arguments) == 2 and isinstance(call.arguments[1], Span):
            unit = call.arguments[1].ns
        elapsed = f"(CAST({TIME} AS BIGINT) - CAST(lag({TIME}) {over}) AS BIGINT))"
        found = f"(CAST({column} - {before} AS DOUBLE) * {unit} / {elapsed})"
        return found if call.name == "derivative" else f"CASE WHEN {column} >= {before} THEN {found} END"


def _plain(time: str) -> str:
    """An instant of a zone as one without, in UTC."""
    return f"to_timestamp_nanos(arrow_cast({time}, 'Int64'))"


def _arithmetic(op: str, left: str, right: str) -> str:
    if op == "/":  # division is of floating point, and by nothing it is nothing
        return f"(CAST({left} AS DOUBLE) / nullif(CAST({right} AS DOUBLE), 0))"
    if op == "%":
        return f"({left} % nullif({right}, 0))"
    return f"({left} {'#' if op == '^' else op} {right})"


def _unknown(node: Any) -> InvalidRequest | NotSupported:
    if isinstance(node, Call):
        known = ", ".join(sorted([*AGGREGATES, *TRANSFORMS, *MATHS]))
        return NotSupported(f"the function {node.name}() is not known here, or not in this place; there are {known}")
    return InvalidRequest("an expression has a part that means nothing in its place")


def is_time(node: Any) -> bool:
    """Whether a condition bounds the time."""
    sides = (node.left, node.right) if isinstance(node, Binary) else ()
    return any(isinstance(one, Ref) and one.name.lower() == TIME for one in sides)


def all_of(node: Any) -> Iterator[Any]:
    """The conditions that all have to hold."""
    if isinstance(node, Binary) and node.op == "and":
        yield from all_of(node.left)
        yield from all_of(node.right)
    else:
        yield node


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for one in (
        (node.left, node.right) if isinstance(node, Binary) else node.arguments if isinstance(node, Call) else ()
    ):
        yield from _walk(one)


def refs(node: Any) -> list[Ref]:
    """The columns that an expression names."""
    return [one for one in _walk(node) if isinstance(one, Ref)]


def _calls(node: Any) -> list[Call]:
    return [one for one in _walk(node) if isinstance(one, Call)]


def has_call(node: Any, names: Sequence[str]) -> bool:
    """Whether an expression calls one of some functions."""
    return any(one.name in names for one in _calls(node))


def name_of(node: Any) -> str:
    """What a column is called that was given no name."""
    match node:
        case Ref(name):
            return name
        case Call(name):
            return name
    parts = [
        name_of(one)
        for one in ((node.left, node.right) if isinstance(node, Binary) else ())
        if not isinstance(one, Value | Span)
    ]
    return "_".join(one for one in parts if one)


def unique(names: Sequence[str]) -> list[str]:
    """Names of columns, those that come again with a number behind them."""
    found: list[str] = []
    for name in names:
        made, number = name, 0
        while made in found:
            number += 1
            made = f"{name}_{number}"
        found.append(made)
    return found
