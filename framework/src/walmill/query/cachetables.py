"""`last_cache('table'[, 'name'])` and `distinct_cache(…)` in FROM, as tables of schemas of those names."""

from __future__ import annotations

from walmill.errors import InvalidRequest
from walmill.query.syntax import Node, literal_of, walk

NAMES = ("last_cache", "distinct_cache")
SEPARATOR = "\x1f"
"""Stands between the names of table and cache in the name of such a table."""


def resolve(statement: Node) -> Node:
    """A statement in which calls of these functions are names of tables.

    Args:
        statement: The statement; it is changed.

    Raises:
        InvalidRequest: If one has the wrong arguments.
    """
    for node in walk(statement):
        table = node.get("Table")
        if not isinstance(table, dict) or not isinstance(table.get("args"), dict) or len(table["name"]) != 1:
            continue
        identifier = table["name"][0].get("Identifier")
        name = "" if identifier is None else str(identifier["value"]).lower()
        if name not in NAMES:
            continue
        given = [
            literal_of(one["Unnamed"]["Expr"])
            if isinstance(one.get("Unnamed"), dict) and "Expr" in one["Unnamed"]
            else None
            for one in table["args"]["args"]
            if isinstance(one, dict)
        ]
        if not 1 <= len(given) <= 2 or None in given or len(given) != len(table["args"]["args"]):
            raise InvalidRequest(
                f"{name} takes the name of a table, and of a cache, as texts: {name}('table'[, 'name'])"
            )
        wanted = SEPARATOR.join(one for one in given if one is not None)
        table["args"] = None
        table["name"] = [
            {"Identifier": {**identifier, "value": name, "quote_style": None}},
            {"Identifier": {**identifier, "value": wanted, "quote_style": '"'}},
        ]
        if table["alias"] is None:
            table["alias"] = {
                "explicit": True,
                "name": {**identifier, "value": name, "quote_style": None},
                "columns": [],
            }
    return statement
