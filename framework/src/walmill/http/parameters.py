"""What a query string says: read in one way for all routes."""

from __future__ import annotations

from urllib.parse import parse_qsl

from walmill.errors import InvalidRequest


def query_pairs(query: bytes, *, strict: bool = False) -> list[tuple[str, str]]:
    """The names and values in a query string or a form, in their order; one without a value has an empty one.

    Args:
        query: As it came: UTF-8, percent-encoded or, from servers that let it through, plain.
        strict: Whether bytes that are no UTF-8 are refused; else each becomes U+FFFD.

    Raises:
        InvalidRequest: It is not UTF-8, if that is refused.
    """
    errors = "strict" if strict else "replace"
    try:
        return parse_qsl(query.decode("utf-8", errors), keep_blank_values=True, errors=errors)
    except UnicodeDecodeError:
        raise InvalidRequest("the query string is not UTF-8: percent-encode the bytes of UTF-8 in it") from None


def flag(name: str, text: str | None, default: bool) -> bool:
    """A query parameter that is true or false.

    Args:
        name: For the message.
        text: Its value; None if it is not given.
        default: Its value then.

    Raises:
        InvalidRequest: It is neither.
    """
    if text is None:
        return default
    found = {"true": True, "false": False}.get(text.lower())
    if found is None:
        raise InvalidRequest(f"{name}={text[:40]!r} is neither true nor false")
    return found
