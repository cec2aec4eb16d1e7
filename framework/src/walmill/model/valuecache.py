"""The definition of a last-value or distinct-value cache, as it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import frozen

Kind = Literal["last", "distinct"]


@frozen(kw_only=True)
class ValueCache:
    """A cache of values of one table.

    Attributes:
        id: Given once; never used again.
        table_id: The table.
        kind: `last`: the newest rows of each key; `distinct`: the combinations of values that there are.
        name: Unique among the caches of its kind and table.
        columns: The columns of the key, or those whose combinations are kept, the coarsest first; none for all tags that the
            table has (`last` only).
        values: The other columns that are shown; None for all, those to come as well (`last` only).
        count: So many rows are kept for each key (`last` only).
        ttl: How long a row is kept, ns: of `last` since it was written, of `distinct` since its own time; None for ever.
        most: So many combinations are kept, the newest (`distinct` only).
    """

    id: int
    table_id: int
    kind: Kind
    name: str
    columns: tuple[str, ...] = ()
    values: tuple[str, ...] | None = None
    count: int = 1
    ttl: int | None = None
    most: int = 100_000

    def to_json(self) -> dict[str, Any]:
        """As a dict of JSON types."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ValueCache:
        """From what `to_json` gave; members that a later version added are left out."""
        known = {attribute.name for attribute in attrs.fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        given["columns"] = tuple(given["columns"])
        if given.get("values") is not None:
            given["values"] = tuple(given["values"])
        return cls(**given)
