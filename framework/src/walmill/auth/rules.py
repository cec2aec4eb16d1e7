"""Who a request comes from: the rules of InfluxDB 3 for tokens in headers and query strings. Pure.

`Authorization: Bearer TOKEN`, `Token TOKEN`, or `Basic` with any user name and the token as password; for the v1 routes also
the query parameter `p`. No message ever holds what was given.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from attrs import frozen

from walmill.auth.tokens import Token, expired, hash_token, matches
from walmill.errors import InvalidRequest, Unauthorized

NOT_AUTHENTICATED = "the request was not authenticated"
"""InfluxDB's text; its clients look for it."""
MALFORMED = (
    "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> <token>', "
    "supported auth-schemes are Bearer, Token and Basic"
)
"""InfluxDB's text for a header that is no scheme and one token."""
_FORMS = "write `Authorization: Bearer TOKEN`, `Token TOKEN`, or `Basic` with base64 of `user:TOKEN`"


@frozen
class Identity:
    """Who calls.

    Attributes:
        name: Name of the token.
        permissions: What it allows.
    """

    name: str
    permissions: tuple[str, ...] = ()


def parse_authorization(header: str) -> str:
    """The token in an Authorization header.

    Args:
        header: The value of the header.

    Raises:
        InvalidRequest: It has none of the known forms.
    """
    scheme, _, rest = header.strip().partition(" ")
    value = rest.strip()
    if scheme.lower() not in ("bearer", "token", "basic") or not value or any(c.isspace() for c in value):
        raise InvalidRequest(MALFORMED)
    return _basic(value) if scheme.lower() == "basic" else value


def _basic(value: str) -> str:
    try:
        # drivers in Go leave the padding out
        text = base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"the Authorization header holds no base64 of UTF-8 text; {_FORMS}") from None
    colons = text.count(":")
    if colons != 1:
        counted = "is none" if colons == 0 else f"are {colons}"
        raise InvalidRequest(
            f"the Authorization header must hold `user:TOKEN` with one ':', and there {counted}; {_FORMS}"
        )
    token = text.partition(":")[2]
    if not token:
        raise InvalidRequest(f"the Authorization header holds an empty password; {_FORMS}")
    return token


def authorize(header: str | None, p: str | None, tokens: Iterable[Token], now: int) -> Identity:
    """Decides who a request comes from.

    Args:
        header: Value of the Authorization header, if there is one; it goes before `p`.
        p: Value of the query parameter `p`, on the routes that know it.
        tokens: The tokens as they are kept.
        now: ns since the epoch.

    Returns:
        The token's name and permissions.

    Raises:
        InvalidRequest: The header is malformed.
        Unauthorized: There is no token, or one that is unknown or has ended.
    """
    token = parse_authorization(header) if header is not None else p
    if not token:
        raise Unauthorized(NOT_AUTHENTICATED)
    given = hash_token(token)
    found: Token | None = None
    for kept in tokens:  # all of them, so that the time does not tell which one was near
        if matches(given, kept.hash):
            found = kept
    if found is None or expired(found, now):
        raise Unauthorized(NOT_AUTHENTICATED)
    return Identity(found.name, found.permissions)
