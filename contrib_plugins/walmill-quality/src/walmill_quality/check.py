"""Checks rows after they were written: what breaks a rule becomes a finding in a table. The rows themselves stay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

from walmill_hookspecs import (
    BadSettings,
    Context,
    Line,
    TableBatch,
    TableName,
    WriteBatch,
    hookimpl,
    setting,
    settings,
)
from walmill_quality.rules import Rule, parse_rules

NUMBERS = frozenset({"int64", "uint64", "float64"})
KINDS = {
    "int": frozenset({"int64", "uint64"}),
    "float": frozenset({"float64"}),
    "number": NUMBERS,
    "string": frozenset({"string"}),
    "bool": frozenset({"bool"}),
    "tag": frozenset({"tag"}),
}
SHOWN = 200
"""So many characters of a value are shown."""


@settings
class Quality:
    """What rows have to be like."""

    rules: str = setting("the rules, with semicolons between: temp 0..100; unit in C|F; temp required; time within 1h")
    columns: list[str] = setting("if any are named, a table with another column is a finding", default=[])
    severity: str = setting("a tag of the findings", default="warning")
    target: TableName = setting("the table of findings", default=TableName("quality"))

    def __attrs_post_init__(self) -> None:
        try:
            parse_rules(self.rules)
        except ValueError as error:
            raise BadSettings(f"rules: {error}") from None


@hookimpl
def register_settings() -> type:
    """Which arguments a trigger takes."""
    return Quality


@frozen
class Broken:
    """A rule that rows of a batch break.

    Attributes:
        rule: The rule, as it was written.
        column: The column.
        places: Which rows break it; none if it is about the table.
        value: The first value that does.
    """

    rule: str
    column: str
    places: list[int]
    value: str = ""


@hookimpl
def on_write(batch: WriteBatch, ctx: Context[Quality]) -> None:
    """Writes one finding for each rule that rows of a table break, with how many do."""
    chosen = ctx.settings
    rules = parse_rules(chosen.rules)
    now = int(ctx.now().timestamp() * 1e6) * 1_000
    for table in batch.tables.values():
        if table.name == chosen.target:
            continue
        for found in check(table, rules, frozenset(chosen.columns), now, batch.kind != "live"):
            ctx.write(_line(found, table, ctx))


def _line(found: Broken, table: TableBatch, ctx: Context[Quality]) -> Line:
    times = table.data.column("time").cast(pa.int64())
    first = times[found.places[0]].as_py() if found.places else table.time_range[0]
    count = len(found.places) or table.num_rows
    tags = {"table": table.name, "rule": found.rule, "column": found.column, "severity": ctx.settings.severity}
    words = f"{count} of {table.num_rows} rows of {table.name} break the rule {found.rule!r}"
    fields: dict[str, int | float | bool | str | None] = {"rows": count, "checked": table.num_rows, "message": words}
    if found.value:
        fields |= {"value": found.value, "message": f"{words}, the first one with {found.value}"}
    return Line(ctx.settings.target, {**tags, "trigger": ctx.trigger.name}, fields, first)


def check(table: TableBatch, rules: tuple[Rule, ...], columns: frozenset[str], now: int, old: bool) -> Iterator[Broken]:
    """The rules that rows of a table break.

    Args:
        table: The rows.
        rules: The rules; one about a column that the table does not have is broken only if it asks for the column.
        columns: The columns that it may have; empty for any.
        now: When that is looked at, ns.
        old: Whether the rows are given again: then their times are no finding.
    """
    for unknown in sorted({*table.tags, *table.fields} - columns) if columns else ():
        yield Broken("known columns", unknown, [])
    for rule in rules:
        known = rule.column in table.tags or rule.column in table.fields or rule.column == "time"
        if not known:
            if rule.check == "required":
                yield Broken(rule.text, rule.column, [], "no such column")
            continue
        if rule.check == "is":
            kind = "tag" if rule.column in table.tags else str(table.fields.get(rule.column, "time"))
            if kind not in KINDS[rule.words[0]]:
                yield Broken(rule.text, rule.column, [], kind)
            continue
        if rule.check == "within" and old:
            continue
        places = _places(table, rule, now)
        if places:
            shown = _shown(table.data.column(rule.column)[places[0]])
            yield Broken(rule.text, rule.column, places, shown)


def _places(table: TableBatch, rule: Rule, now: int) -> list[int]:
    """Which rows break a rule about values."""
    column = table.data.column(rule.column)
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    bad: pa.ChunkedArray | pa.Array
    match rule.check:
        case "required":
            bad = pc.is_null(column)
        case "range" | "step" if not is_number:
            bad = pc.is_valid(column)  # whatever it is, it is not within numbers
        case "range":
            bad = pa.chunked_array([pa.array([False] * len(column))])
            values = column.cast(pa.float64(), safe=False)
            if rule.low is not None:
                bad = pc.or_kleene(bad, pc.less(values, rule.low))
            if rule.high is not None:
                bad = pc.or_kleene(bad, pc.greater(values, rule.high))
        case "in":
            allowed = pa.array(rule.words, pa.string())
            bad = pc.and_(pc.is_valid(column), pc.invert(pc.is_in(_texts(column), value_set=allowed)))
        case "matches":
            expression = re.compile(rule.words[0])
            texts = _texts(column).to_pylist()
            return [n for n, text in enumerate(texts) if text is not None and expression.fullmatch(text) is None]
        case "step":
            return _steps(table, rule)
        case _:
            assert rule.high is not None
            away = pc.abs(pc.subtract(column.cast(pa.int64()), now))
            bad = pc.greater(away, int(rule.high))
    filled = pc.fill_null(bad, False)
    places = pc.indices_nonzero(filled).to_pylist()
    return [int(place) for place in places]


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as they are written in rules."""
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _steps(table: TableBatch, rule: Rule) -> list[int]:
    """Rows that are too far from the one before them in time, of their series and this batch."""
    assert rule.high is not None
    numbered = table.data.append_column("_place", pa.array(range(table.num_rows), pa.int64()))
    names = [*table.tags, "time", rule.column, "_place"]
    columns = [numbered.column(name) for name in names]
    columns[len(table.tags)] = columns[len(table.tags)].cast(pa.int64())
    rows = sorted(
        (row for row in zip(*(column.to_pylist() for column in columns), strict=True) if row[-2] is not None),
        key=lambda row: ([(tag is not None, tag or "") for tag in row[:-3]], row[-3]),
    )
    return sorted(
        int(row[-1])
        for before, row in pairwise(rows)
        if before[:-3] == row[:-3] and abs(row[-2] - before[-2]) > rule.high
    )


def _shown(value: pa.Scalar) -> str:
    if pa.types.is_timestamp(value.type):
        return str(value.cast(pa.string()).as_py())
    text = "no value" if value.as_py() is None else str(value.as_py())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
