"""Statements that call functions of InfluxDB which DataFusion lacks, written anew with those that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from walmill.query import cachetables, functions, gapfill
from walmill.query.syntax import parse, write

_MAY_CALL = re.compile("|".join([*functions.NAMES, *gapfill.NAMES, *cachetables.NAMES]), re.IGNORECASE)
"""A text that holds none of these names calls none of the functions, and is not parsed here."""


def rewrite(sql: str, aggregates: Callable[[], Collection[str]]) -> str:
    """A statement that DataFusion can plan.

    Args:
        sql: One statement.
        aggregates: Gives the names of the functions that aggregate.

    Returns:
        The same text, unless it calls one of the functions.

    Raises:
        InvalidRequest: If one of them is called in a way that means nothing.
    """
    if not _MAY_CALL.search(sql):
        return sql
    tree = parse(sql)
    if tree is None:
        return sql
    tree = [cachetables.resolve(one) for one in tree]
    filled = [gapfill.fill(one, aggregates) for one in tree]
    return write([functions.expand(one) for one in filled])
