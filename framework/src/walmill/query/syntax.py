"""SQL as a syntax tree: parsed and written by the parser that DataFusion has as well (sqlparser-rs, through sqloxide).

A tree is made of dicts and lists. What is written again means what was parsed: of the text only blanks and comments are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Node = Any
"""A dict with one member, whose name is the kind of the node; a list; or a plain value."""


PLACES = ("span", "select_token")
"""Members that say where something stands in the text: most of a tree, and nothing of what it means."""


def parse(sql: str) -> list[Node] | None:
    """The statements of a text; None if it cannot be parsed: DataFusion says why, when it gets it."""
    import sqloxide  # type: ignore[import-untyped]

    try:
        found: list[Node] = sqloxide.parse_sql(sql=sql, dialect="generic")
    except ValueError:
        return None
    return found


def write(statements: list[Node]) -> str:
    """Statements as text."""
    import sqloxide

    return "; ".join(sqloxide.restore_ast(ast=statements))


def text(expression: Node) -> str:
    """An expression as text: equal ones have equal texts."""
    if not _one:
        _one.extend(parse("SELECT 1") or ())
    query = _one[0]["Query"]
    select = {**query["body"]["Select"], "projection": [{"UnnamedExpr": expression}]}
    return write([{"Query": {**query, "body": {"Select": select}}}]).removeprefix("SELECT ")


def expression(sql: str) -> Node:
    """The tree of an expression that we wrote ourselves."""
    found = parse(f"SELECT {sql}")
    assert found is not None, sql
    return found[0]["Query"]["body"]["Select"]["projection"][0]["UnnamedExpr"]


_one: list[Node] = []


def function_of(node: Node) -> str | None:
    """The name of the function that a node calls, in lower case; None if it is no call."""
    if isinstance(node, dict) and isinstance(node.get("Function"), dict):
        parts = [part.get("Identifier") for part in node["Function"]["name"] if isinstance(part, dict)]
        if len(parts) == 1 and parts[0] is not None:
            name = str(parts[0]["value"])
            return name if parts[0]["quote_style"] else name.lower()
    return None


def arguments_of(node: Node) -> list[Node]:
    """The arguments of a call; a `*` is left out."""
    given = node["Function"]["args"]
    listed = given.get("List", {}).get("args", ()) if isinstance(given, dict) else ()
    return [
        one["Unnamed"]["Expr"]
        for one in listed
        if isinstance(one, dict) and isinstance(one.get("Unnamed"), dict) and "Expr" in one["Unnamed"]
    ]


def literal_of(node: Node) -> str | None:
    """The text of a string literal; None if it is something else."""
    if isinstance(node, dict) and isinstance(node.get("Value"), dict):
        value = node["Value"]["value"]
        if isinstance(value, dict) and "SingleQuotedString" in value:
            return str(value["SingleQuotedString"])
    return None


def replace(node: Node, change: Callable[[Node], Node | None]) -> Node:
    """A tree with nodes replaced, from the leaves up.

    Args:
        node: The tree; it is changed.
        change: Gives what stands in the place of a node; None leaves it.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, dict | list) and key not in PLACES:
                node[key] = replace(value, change)
    elif isinstance(node, list):
        node[:] = [replace(value, change) if isinstance(value, dict | list) else value for value in node]
    made = change(node) if isinstance(node, dict) else None
    return node if made is None else made


def walk(node: Node) -> Iterator[Node]:
    """All dicts of a tree that mean something, from the root down."""
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if isinstance(value, dict | list | tuple) and key not in PLACES:
                yield from walk(value)
    elif isinstance(node, list | tuple):  # what belongs to GROUP BY is a tuple
        for value in node:
            yield from walk(value)


def calls(node: Node, names: Sequence[str]) -> bool:
    """Whether a tree calls one of these functions."""
    return any(function_of(one) in names for one in walk(node))
