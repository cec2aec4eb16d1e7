"""What a request says, in its query string or as a JSON object: read once, all problems answered at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope

from walmill.errors import InvalidRequest
from walmill.http.body import read_body
from walmill.http.parameters import query_pairs
from walmill.settings.nearest import did_you_mean

_TYPES = {str: "a text", bool: "true or false", int: "a whole number", dict: "an object", list: "a list"}


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the member {name!r} occurs twice")
        found[name] = value
    return found


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object from a body; members that are null are left out.

    Raises:
        InvalidRequest: It is none.
    """
    try:
        found = json.loads(body, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise InvalidRequest("the body is not JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {_short(found)}")
    return {name: value for name, value in found.items() if value is not None}


async def read_fields(scope: Scope, receive: Receive, limit: int, known: Mapping[str, type]) -> dict[str, Any]:
    """What a request says, from the query string and from the body.

    Args:
        scope: Of the request.
        receive: Of the request.
        limit: Most bytes of the body.
        known: Type of each member that is known: str, bool, int, dict, list, or object for any.

    Returns:
        The members that were given.

    Raises:
        InvalidRequest: With all problems.
    """
    asked = dict(query_pairs(scope["query_string"]))
    body = b"" if scope["method"] in ("GET", "HEAD") else await read_body(scope, receive, limit)
    given = parse_object(body) if body.strip() else {}
    problems: list[str] = []
    found: dict[str, Any] = {}
    for name, value in given.items():
        kind = known.get(name)
        if kind is None:
            problems.append(f"there is no member {name!r}; {did_you_mean(name, known)}")
        elif kind is not object and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            problems.append(f"{name} must be {_TYPES[kind]}, not {_short(value)}")
        else:
            found[name] = value
    for name, text in asked.items():
        kind = known.get(name)
        if kind is None:
            problems.append(f"there is no query parameter {name!r}; {did_you_mean(name, known)}")
            continue
        value, problem = _from_text(name, text, kind)
        if problem is not None:
            problems.append(problem)
        elif name in given and given[name] != value:
            problems.append(f"{name} is in the query string and in the body, and they differ; leave one of them away")
        else:
            found[name] = value
    if problems:
        raise InvalidRequest("; ".join(problems))
    return found


def _from_text(name: str, text: str, kind: type) -> tuple[Any, str | None]:
    if kind is bool:
        value = {"true": True, "false": False, "": True}.get(text.lower())
        return value, None if value is not None else f"{name}={_short(text)} is neither true nor false"
    if kind is int:
        try:
            return int(text), None
        except ValueError:
            return None, f"{name}={_short(text)} is not a whole number"
    if kind is dict:
        try:
            return parse_object(text.encode("utf-8", "surrogatepass")), None
        except InvalidRequest as error:
            return None, error.message.replace("the body", f"the query parameter {name}", 1)
    return text, None


def required(fields: Mapping[str, Any], *names: str) -> None:
    """Checks that members are there and not empty.

    Raises:
        InvalidRequest: Naming all that are missing.
    """
    missing = [name for name in names if fields.get(name) in (None, "")]
    if missing:
        raise InvalidRequest(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
