"""Tables, columns and types, and how they look in Arrow.

A table has tags (strings that name the series), fields (typed values) and `time` (nanoseconds since the epoch, UTC). A tag
or a field may be missing in a row; `time` never is. A column never changes its kind or type, and is never removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from attrs import evolve, field, frozen

if TYPE_CHECKING:
    import pyarrow as pa

FieldType = Literal["int64", "uint64", "float64", "string", "bool"]
FIELD_TYPES: tuple[FieldType, ...] = ("int64", "uint64", "float64", "string", "bool")
TIME = "time"


@frozen
class TableSchema:
    """The columns of one table, in the order in which they were first seen.

    Attributes:
        name: Name of the table.
        tags: Names of the tags.
        fields: Types of the fields, by name.
    """

    name: str
    tags: tuple[str, ...] = ()
    fields: Mapping[str, FieldType] = field(factory=dict)

    def with_columns(self, tags: tuple[str, ...], fields: Mapping[str, FieldType]) -> TableSchema:
        """This schema with new tags and fields appended; names that it has already are left as they are."""
        return evolve(
            self,
            tags=self.tags + tuple(t for t in tags if t not in self.tags),
            fields={**self.fields, **{k: v for k, v in fields.items() if k not in self.fields}},
        )

    def column_names(self) -> list[str]:
        """All columns in their order: tags, fields, `time`."""
        return [*self.tags, *self.fields, TIME]


def arrow_type(kind: FieldType) -> pa.DataType:
    """The Arrow type of a field of the given type."""
    import pyarrow as pa

    types = {
        "int64": pa.int64(),
        "uint64": pa.uint64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
    }
    return types[kind]


def arrow_schema(schema: TableSchema) -> pa.Schema:
    """The Arrow schema of a whole table: tags as string, fields, then `time` as timestamp[ns]."""
    import pyarrow as pa

    columns = [pa.field(tag, pa.string()) for tag in schema.tags]
    columns += [pa.field(name, arrow_type(kind)) for name, kind in schema.fields.items()]
    return pa.schema([*columns, pa.field(TIME, pa.timestamp("ns"), nullable=False)])
