"""Statements that call functions of InfluxDB which DataFusion lacks, written anew with those that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container
from functools import lru_cache

from walmill.errors import InvalidRequest
from walmill.query import brake, cachetables, functions, gapfill
from walmill.query.asked import KEPT, KEPT_CHARACTERS
from walmill.query.brake import Brake
from walmill.query.syntax import Node, parse, write

_FUNCTIONS, _GAPS, _CACHES = (
    re.compile("|".join(names), re.IGNORECASE) for names in (functions.NAMES, gapfill.NAMES, cachetables.NAMES)
)
"""A text that holds none of these names calls none of the functions, and is not parsed here."""


def rewrite(
    sql: str, aggregates: Callable[[], Collection[str]], tables: Container[str] = ()
) -> tuple[str, Brake | None]:
    """A statement that DataFusion can plan, and that can be stopped.

    Args:
        sql: One statement.
        aggregates: Gives the names of the functions that aggregate.
        tables: The names of the tables of the database.

    Returns:
        The same text, unless it calls one of the functions, or joins; and what stops its joins.

    Raises:
        InvalidRequest: If one of them is called in a way that means nothing.
    """
    fills, may_join = bool(_GAPS.search(sql)), bool(brake.MAY_JOIN.search(sql))
    may_call = fills or bool(_FUNCTIONS.search(sql) or _CACHES.search(sql))
    if not may_call and not may_join:
        return sql, None
    try:
        if not fills and not may_join:
            return (_kept(sql) if len(sql) <= KEPT_CHARACTERS else _expanded(sql)), None
        return _rewritten(sql, aggregates, tables, may_call=may_call, may_join=may_join)
    except RecursionError:
        if may_call:
            raise InvalidRequest(
                "the statement is nested too deeply, for it calls functions that are rewritten; a long chain of OR can be IN (…)"
            ) from None
        return sql, None  # it runs all the same


@lru_cache(KEPT)  # a dashboard asks the same again and again
def _kept(sql: str) -> str:
    return _expanded(sql)


def _expanded(sql: str) -> str:
    """The same without calls of tables of caches, and of functions that others stand for."""
    tree = parse(sql)
    if tree is None:
        return sql
    if _CACHES.search(sql):
        tree = [cachetables.resolve(one) for one in tree]
    if _FUNCTIONS.search(sql):
        tree = [functions.expand(one) for one in tree]
    return write(tree)


def _rewritten(
    sql: str, aggregates: Callable[[], Collection[str]], tables: Container[str], *, may_call: bool, may_join: bool
) -> tuple[str, Brake | None]:
    tree = parse(sql)
    if tree is None:
        return sql, None
    if may_call:
        tree = [cachetables.resolve(one) for one in tree]
        filled = [gapfill.fill(one, aggregates) for one in tree]
        tree = [functions.expand(one) for one in filled]
    fitted = may_join and any([brake.fit(one, tables) for one in tree if _runs(one)])  # noqa: C419 - each is fitted
    if not may_call and not fitted:
        return sql, None
    return write(tree), brake.Brake() if fitted else None


def _runs(statement: Node) -> bool:
    """Whether a statement is a query that runs, and is not only explained."""
    return "Query" in statement or bool(statement.get("Explain", {}).get("analyze"))
