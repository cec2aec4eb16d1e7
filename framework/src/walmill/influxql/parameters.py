"""`$name` parameters of InfluxQL, put into their places as literals. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from walmill.errors import InvalidRequest

_PLACEHOLDER = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def bind(text: str, params: Mapping[str, Any] | None) -> str:
    """A statement with the values of its parameters.

    Args:
        text: The statement.
        params: The values: numbers, texts, true or false. None or none leaves the statement as it is.

    Raises:
        InvalidRequest: If a value is missing or of another type.
    """
    if not params:
        return text
    given = params

    def literal(match: re.Match[str]) -> str:
        if match[1] not in given:
            raise InvalidRequest(f"missing parameter: {match[1]}")
        value = given[match[1]]
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return repr(value)
        if isinstance(value, str):
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        raise InvalidRequest(f"the parameter {match[1]} is {value!r:.60}; give a number, a text, true or false")

    parts = _QUOTED.split(text)
    return "".join(part if place % 2 else _PLACEHOLDER.sub(literal, part) for place, part in enumerate(parts))
