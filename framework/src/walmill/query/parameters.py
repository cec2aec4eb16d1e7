"""The values of `$name` parameters, as typed Arrow scalars. They never become text of a query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from walmill.errors import InvalidRequest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bind(params: Mapping[str, Any] | None) -> dict[str, pa.Scalar]:
    """The values of parameters, by name without `$`.

    Args:
        params: None, bool, int (64 bits, signed or not), float, str, bytes, or an aware datetime for each name.

    Raises:
        InvalidRequest: If a value has another type or does not fit; the message names the parameter.
    """
    bound: dict[str, pa.Scalar] = {}
    for name, value in (params or {}).items():
        if not re.fullmatch(r"\w+", name):
            raise InvalidRequest(
                f"parameter name {name!r} is not made of letters, digits and _; write it without the $"
            )
        bound[name] = _scalar(name, value)
    return bound


def check_used(bound: Mapping[str, pa.Scalar], plan: str) -> None:
    """Checks that a plan, printed before its parameters were bound, uses every parameter.

    Raises:
        InvalidRequest: If a parameter is not in the plan.
    """
    for name in bound:
        if not re.search(rf"\${re.escape(name)}(?!\w)", plan):
            raise InvalidRequest(
                f"the query has no placeholder ${name}, but a value was given for it; remove one or add the other"
            )


def _scalar(name: str, value: Any) -> pa.Scalar:
    if value is None or isinstance(value, bool | float | str | bytes):
        return pa.scalar(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise InvalidRequest(
                f"parameter ${name} is {value}, which does not fit into 64 bits; give it as float or as text"
            )
        return pa.scalar(value, pa.int64() if value < 2**63 else pa.uint64())
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidRequest(
                f"parameter ${name} is the naive datetime {value.isoformat()}; say which instant it is, such as with tzinfo=UTC"
            )
        passed = value - _EPOCH
        nanoseconds = (passed.days * 86_400 + passed.seconds) * 1_000_000_000 + passed.microseconds * 1_000
        if not -(2**63) <= nanoseconds < 2**63:
            raise InvalidRequest(f"parameter ${name} is {value.isoformat()}; times go from the year 1678 to 2262")
        return pa.scalar(nanoseconds, pa.int64()).cast(pa.timestamp("ns"))
    raise InvalidRequest(
        f"parameter ${name} is a {type(value).__name__}; give None, bool, int, float, str, bytes, or an aware datetime"
    )
