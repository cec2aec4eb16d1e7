"""What commands print: tables for people, JSON and CSV for scripts."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import click

Columns: TypeAlias = Mapping[str, "str | Callable[[Mapping[str, Any]], Any]"]
"""What a table shows, by heading: a member's name, or a function of the thing."""
FORMATS = ("pretty", "json", "jsonl", "csv")


def clean(text: str) -> str:
    """A text that cannot steer a terminal: control characters, but for line ends and tabs, are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else _escape(c) for c in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cell(value: Any) -> str:
    """A value in a cell of a table: one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list | tuple):
        return clean(json.dumps(value, ensure_ascii=False, default=str))
    return clean(str(value)).replace("\n", "\\n").replace("\t", "\\t")


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[bool] = ()) -> str:
    """A table with frames of plain characters.

    Args:
        columns: The headings.
        rows: The cells, as many in each row as there are columns.
        right: Which columns are set to the right.

    Returns:
        The lines, without a line end after the last.
    """
    headings = [cell(one) for one in columns]
    widths = [max([width(heading), *(width(row[i]) for row in rows)]) for i, heading in enumerate(headings)]
    aligned = [*right, *([False] * (len(columns) - len(right)))]
    rule = "+" + "+".join("-" * (w + 2) for w in widths) + "+"

    def line(cells: Sequence[str], sides: Sequence[bool]) -> str:
        padded = []
        for text, total, to_right in zip(cells, widths, sides, strict=True):
            space = " " * (total - width(text))
            padded.append(f" {space}{text} " if to_right else f" {text}{space} ")
        return "|" + "|".join(padded) + "|"

    return "\n".join([rule, line(headings, [False] * len(columns)), rule, *(line(row, aligned) for row in rows), rule])


def pairs(values: Iterable[tuple[str, Any]]) -> str:
    """Names and values, one a line."""
    shown = [(name, cell(value)) for name, value in values]
    widest = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(widest)}  {value}".rstrip() for name, value in shown)


def records(
    rows: Sequence[Mapping[str, Any]],
    columns: Columns,
    output_format: str,
    *,
    empty: str,
) -> str:
    """A list of things in the format that was asked for.

    Args:
        rows: The things; JSON formats print them whole.
        columns: For tables and CSV.
        output_format: One of `FORMATS`.
        empty: What is said to a person when there is nothing.

    Returns:
        The text without a line end after the last line; empty for no lines at all.
    """
    if output_format == "json":
        return json.dumps(list(rows), ensure_ascii=False, indent=2, default=str)
    if output_format == "jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False, default=str) for row in rows)
    if output_format == "pretty" and not rows:
        return empty
    values = [[row.get(what) if isinstance(what, str) else what(row) for what in columns.values()] for row in rows]
    if output_format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(
            [["" if v is None else cell(v) if not isinstance(v, str) else v for v in row] for row in values]
        )
        return text.getvalue().rstrip("\n")
    numbers = [all(isinstance(row[i], int | float) or row[i] is None for row in values) for i in range(len(columns))]
    return table(list(columns), [[cell(v) for v in row] for row in values], right=numbers)


def say(text: str) -> None:
    """Prints lines to standard output; nothing for an empty text."""
    if text:
        click.echo(text)
