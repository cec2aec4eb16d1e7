"""Rules for the rows of a table, as text and as values. Pure.

    temp 0..100              not below 0, not above 100; either side may be left out: temp ..100
    temp required            each row has a value
    temp is number           int, float, number, string, bool or tag
    unit in C|F              one of these
    serial matches [A-Z]\\d+  the whole text
    temp step 5              not more than 5 from the row before, in each series
    time within 1h           not further than that from when the batch is looked at

Rules are separated by semicolons.
"""

from __future__ import annotations

import re
from typing import Literal

from attrs import frozen

from walmill_hookspecs import Duration

Check = Literal["range", "required", "is", "in", "matches", "step", "within"]
KINDS = ("int", "float", "number", "string", "bool", "tag")
_RANGE = re.compile(r"(?P<low>[^.\s]\S*?)?\.\.(?P<high>\S+)?")


@frozen(kw_only=True)
class Rule:
    """One rule.

    Attributes:
        column: The column that it is about.
        check: What it asks.
        text: As it was written: the name of the rule in findings.
        low: The least value (`range`).
        high: The greatest (`range`); the widest step (`step`); ns (`within`).
        words: What is allowed (`in`); the kind (`is`); the expression (`matches`).
    """

    column: str
    check: Check
    text: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Rules from their text.

    Raises:
        ValueError: With all problems, one sentence each, joined by semicolons.
    """
    rules, problems = [], []
    for part in text.split(";"):
        words = part.split()
        if not words:
            continue
        try:
            rules.append(_rule(words, " ".join(words)))
        except ValueError as error:
            problems.append(f"{' '.join(words)!r}: {error}")
    if not rules and not problems:
        problems.append("there is no rule: write for example temp 0..100; unit in C|F")
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(rules)


def _rule(words: list[str], text: str) -> Rule:
    column, rest = words[0], words[1:]
    match rest:
        case ["required"]:
            return Rule(column=column, check="required", text=text)
        case ["is", kind]:
            if kind not in KINDS:
                raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
            return Rule(column=column, check="is", text=text, words=(kind,))
        case ["in", *more] if more:
            allowed = tuple(one.strip() for one in " ".join(more).split("|"))
            return Rule(column=column, check="in", text=text, words=allowed)
        case ["matches", *more] if more:
            expression = " ".join(more)
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression: {error}") from None
            return Rule(column=column, check="matches", text=text, words=(expression,))
        case ["step", widest]:
            return Rule(column=column, check="step", text=text, high=_number(widest, least=0.0))
        case ["within", length]:
            if column != "time":
                raise ValueError("within is for time")
            return Rule(column=column, check="within", text=text, high=float(Duration.parse(length)))
        case [bounds] if ".." in bounds:
            found = _RANGE.fullmatch(bounds)
            if found is None or (found["low"] is None and found["high"] is None):
                raise ValueError("a range is written as 0..100, 0.. or ..100")
            low = None if found["low"] is None else _number(found["low"])
            high = None if found["high"] is None else _number(found["high"])
            if low is not None and high is not None and low > high:
                raise ValueError(f"{low:g} is over {high:g}")
            return Rule(column=column, check="range", text=text, low=low, high=high)
    raise ValueError(
        "it is none of: COLUMN LOW..HIGH, required, is KIND, in A|B, matches EXPRESSION, step N; time within 1h"
    )


def _number(text: str, least: float | None = None) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if value != value or (least is not None and value < least):  # noqa: PLR0124 - NaN
        raise ValueError(
            f"{text!r} is not a number from {least:g} on" if least is not None else f"{text!r} is no bound"
        )
    return value
