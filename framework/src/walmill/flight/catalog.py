"""What Flight SQL's clients ask about a database beside its rows: catalogs, schemas, tables and what the server can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa

CATALOG = "public"
TABLE_TYPES = ("BASE TABLE", "VIEW")
Ask = Callable[[str, Mapping[str, Any]], pa.Table]
"""Runs SQL with parameters over the database that the caller names."""


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable) for name, kind, nullable in fields])


_TEXT, _INT, _BYTE = pa.string(), pa.int32(), pa.uint8()
CATALOGS = _schema(("catalog_name", _TEXT, False))
SCHEMAS = _schema(("catalog_name", _TEXT, True), ("db_schema_name", _TEXT, False))
TABLES = _schema(
    ("catalog_name", _TEXT, True),
    ("db_schema_name", _TEXT, True),
    ("table_name", _TEXT, False),
    ("table_type", _TEXT, False),
)
TABLES_WITH_SCHEMA = TABLES.append(pa.field("table_schema", pa.binary(), nullable=False))
TYPES = _schema(("table_type", _TEXT, False))
TYPE_INFO = _schema(
    ("type_name", _TEXT, False),
    ("data_type", _INT, False),
    ("column_size", _INT, True),
    ("literal_prefix", _TEXT, True),
    ("literal_suffix", _TEXT, True),
    ("create_params", pa.list_(pa.field("item", _TEXT, nullable=False)), True),
    ("nullable", _INT, False),
    ("case_sensitive", pa.bool_(), False),
    ("searchable", _INT, False),
    ("unsigned_attribute", pa.bool_(), True),
    ("fixed_prec_scale", pa.bool_(), False),
    ("auto_increment", pa.bool_(), True),
    ("local_type_name", _TEXT, True),
    ("minimum_scale", _INT, True),
    ("maximum_scale", _INT, True),
    ("sql_data_type", _INT, False),
    ("datetime_subcode", _INT, True),
    ("num_prec_radix", _INT, True),
    ("interval_precision", _INT, True),
)
PRIMARY_KEYS = _schema(
    ("catalog_name", _TEXT, True),
    ("db_schema_name", _TEXT, True),
    ("table_name", _TEXT, False),
    ("column_name", _TEXT, False),
    ("key_sequence", _INT, False),
    ("key_name", _TEXT, True),
)
FOREIGN_KEYS = _schema(
    ("pk_catalog_name", _TEXT, True),
    ("pk_db_schema_name", _TEXT, True),
    ("pk_table_name", _TEXT, False),
    ("pk_column_name", _TEXT, False),
    ("fk_catalog_name", _TEXT, True),
    ("fk_db_schema_name", _TEXT, True),
    ("fk_table_name", _TEXT, False),
    ("fk_column_name", _TEXT, False),
    ("key_sequence", _INT, False),
    ("fk_key_name", _TEXT, True),
    ("pk_key_name", _TEXT, True),
    ("update_rule", _BYTE, False),
    ("delete_rule", _BYTE, False),
)
INFO_VALUE = pa.dense_union(
    [
        pa.field("string_value", _TEXT),
        pa.field("bool_value", pa.bool_()),
        pa.field("bigint_value", pa.int64()),
        pa.field("int32_bitmask", _INT),
        pa.field("string_list", pa.list_(_TEXT)),
        pa.field("int32_to_int32_list_map", pa.map_(_INT, pa.list_(_INT))),
    ]
)
SQL_INFO = _schema(("info_name", pa.uint32(), False), ("value", INFO_VALUE, False))


def catalogs() -> pa.Table:
    """The one catalog."""
    return pa.table([pa.array([CATALOG])], schema=CATALOGS)


def schemas(ask: Ask, catalog: str | None, pattern: str | None) -> pa.Table:
    """The schemas of a database.

    Args:
        ask: Runs SQL.
        catalog: Only of this catalog; None for any.
        pattern: As LIKE has it; None for any.
    """
    if catalog not in (None, CATALOG):
        return SCHEMAS.empty_table()
    found = ask(
        "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_schema LIKE $schema ORDER BY 1",
        {"schema": "%" if pattern is None else pattern},
    )
    names = found.column(0).to_pylist()
    return pa.table([pa.array([CATALOG] * len(names), _TEXT), pa.array(names, _TEXT)], schema=SCHEMAS)


def tables(
    ask: Ask,
    catalog: str | None,
    schema: str | None,
    table: str | None,
    types: Sequence[str],
    schema_of: Callable[[str, str], pa.Schema] | None,
) -> pa.Table:
    """The tables of a database.

    Args:
        ask: Runs SQL.
        catalog: Only of this catalog; None for any.
        schema: Only of schemas like this; None for any.
        table: Only with names like this; None for any.
        types: Only of these types; none for any.
        schema_of: Gives the columns of a table of a schema; None leaves them out.
    """
    found = ask(
        "SELECT table_schema, table_name, table_type FROM information_schema.tables "
        "WHERE table_schema LIKE $schema AND table_name LIKE $table ORDER BY 1, 2",
        {"schema": "%" if schema is None else schema, "table": "%" if table is None else table},
    )
    rows = [
        (CATALOG, *row.values())
        for row in found.to_pylist()
        if catalog in (None, CATALOG) and (not types or row["table_type"] in types)
    ]
    made = [pa.array([row[place] for row in rows], _TEXT) for place in range(4)]
    if schema_of is None:
        return pa.table(made, schema=TABLES)
    shapes = [schema_of(row[1], row[2]).serialize().to_pybytes() for row in rows]
    return pa.table([*made, pa.array(shapes, pa.binary())], schema=TABLES_WITH_SCHEMA)


def table_types() -> pa.Table:
    """The types that tables have."""
    return pa.table([pa.array(TABLE_TYPES, _TEXT)], schema=TYPES)


def type_info(wanted: int | None) -> pa.Table:
    """The types that columns of tables have, as XDBC (ODBC's and JDBC's numbers) describes types.

    Args:
        wanted: Only types of this number; None for all.
    """
    always = {"nullable": 1, "searchable": 3, "case_sensitive": False, "fixed_prec_scale": False}  # 3: in any condition
    number = {**always, "auto_increment": False, "num_prec_radix": 2, "unsigned_attribute": False, "minimum_scale": 0}
    quoted = {**always, "literal_prefix": "'", "literal_suffix": "'"}
    found = [
        {**always, "type_name": "BOOLEAN", "data_type": -7, "sql_data_type": -7, "column_size": 1},
        {**number, "type_name": "BIGINT", "data_type": -5, "sql_data_type": -5, "column_size": 63, "maximum_scale": 0},
        {
            **number,
            "type_name": "BIGINT UNSIGNED",
            "data_type": -5,
            "sql_data_type": -5,
            "column_size": 64,
            "maximum_scale": 0,
            "unsigned_attribute": True,
        },
        {**number, "type_name": "DOUBLE", "data_type": 8, "sql_data_type": 8, "column_size": 53},
        {
            **quoted,
            "type_name": "VARCHAR",
            "data_type": 12,
            "sql_data_type": 12,
            "column_size": 2**31 - 1,
            "case_sensitive": True,
        },
        {
            **quoted,
            "type_name": "TIMESTAMP",
            "data_type": 93,
            "sql_data_type": 9,  # DATETIME, of which 3 is the kind with date and time
            "datetime_subcode": 3,
            "column_size": len("2026-01-31T09:30:00.123456789"),
            "maximum_scale": 9,
            "minimum_scale": 0,
        },
    ]
    chosen = [{**one, "local_type_name": one["type_name"]} for one in found if wanted in (None, one["data_type"])]
    return pa.Table.from_pylist(chosen, schema=TYPE_INFO)


def sql_info(wanted: Sequence[int]) -> pa.Table:
    """What the server is and can do.

    Args:
        wanted: Numbers of `SqlInfo`; none for all that are known. Unknown ones are left out.
    """
    known: dict[int, str | bool | int] = {
        0: "Walmill",  # FLIGHT_SQL_SERVER_NAME
        1: version("walmill"),
        2: pa.__version__,  # FLIGHT_SQL_SERVER_ARROW_VERSION
        3: True,  # FLIGHT_SQL_SERVER_READ_ONLY
        4: True,  # FLIGHT_SQL_SERVER_SQL
        5: False,  # FLIGHT_SQL_SERVER_SUBSTRAIT
        8: 0,  # FLIGHT_SQL_SERVER_TRANSACTION: none
        9: False,  # FLIGHT_SQL_SERVER_CANCEL: a call that is cancelled stops its query, there is no action for it
        504: '"',  # SQL_IDENTIFIER_QUOTE_CHAR
    }
    numbers = [one for one in (wanted or known) if one in known]
    values: tuple[list[Any], ...] = ([], [], [])
    kinds, offsets = [], []
    for number in numbers:
        value = known[number]
        kind = 0 if isinstance(value, str) else 1 if isinstance(value, bool) else 2
        kinds.append(kind)
        offsets.append(len(values[kind]))
        values[kind].append(value)
    children = [
        pa.array(values[place] if place < len(values) else [], INFO_VALUE.field(place).type)
        for place in range(INFO_VALUE.num_fields)
    ]
    union = pa.UnionArray.from_dense(
        pa.array(kinds, pa.int8()),
        pa.array(offsets, pa.int32()),
        children,
        [INFO_VALUE.field(place).name for place in range(INFO_VALUE.num_fields)],
    )
    return pa.table([pa.array(numbers, pa.uint32()), union], schema=SQL_INFO)
