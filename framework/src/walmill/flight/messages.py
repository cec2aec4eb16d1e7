"""The messages of Flight SQL, built from their descriptions, and what wraps them. Pure.

Source: FlightSql.proto of Apache Arrow; fields that are not used here are left out and skipped when they come.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

PACKAGE = "arrow.flight.protocol.sql"
PREFIX = "type.googleapis.com/"
_Field = descriptor_pb2.FieldDescriptorProto
_TEXT, _BYTES, _BOOL, _UINT32 = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_BOOL, _Field.TYPE_UINT32
_INT32 = _Field.TYPE_INT32
_HANDLE = [(1, "prepared_statement_handle", _BYTES)]
_KEYS = [(1, "catalog", _TEXT), (2, "db_schema", _TEXT), (3, "table", _TEXT)]
_MANY = {"table_types", "info"}
_OPTIONAL = {"data_type", "catalog", "db_schema_filter_pattern", "table_name_filter_pattern"}

_MESSAGES: dict[str, list[tuple[int, str, Any]]] = {
    "CommandStatementQuery": [(1, "query", _TEXT), (2, "transaction_id", _BYTES)],
    "CommandStatementUpdate": [(1, "query", _TEXT)],
    "CommandPreparedStatementQuery": _HANDLE,
    "CommandPreparedStatementUpdate": _HANDLE,
    "TicketStatementQuery": [(1, "statement_handle", _BYTES)],
    "ActionCreatePreparedStatementRequest": [(1, "query", _TEXT), (2, "transaction_id", _BYTES)],
    "ActionCreatePreparedStatementResult": [*_HANDLE, (2, "dataset_schema", _BYTES), (3, "parameter_schema", _BYTES)],
    "DoPutPreparedStatementResult": _HANDLE,
    "ActionClosePreparedStatementRequest": _HANDLE,
    "CommandGetCatalogs": [],
    "CommandGetDbSchemas": [(1, "catalog", _TEXT), (2, "db_schema_filter_pattern", _TEXT)],
    "CommandGetTables": [
        (1, "catalog", _TEXT),
        (2, "db_schema_filter_pattern", _TEXT),
        (3, "table_name_filter_pattern", _TEXT),
        (4, "table_types", _TEXT),
        (5, "include_schema", _BOOL),
    ],
    "CommandGetTableTypes": [],
    "CommandGetSqlInfo": [(1, "info", _UINT32)],
    "CommandGetXdbcTypeInfo": [(1, "data_type", _INT32)],
    "CommandGetPrimaryKeys": _KEYS,
    "CommandGetExportedKeys": _KEYS,
    "CommandGetImportedKeys": _KEYS,
    "CommandGetCrossReference": [],
}


def _made() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="walmill/flight_sql.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            many = field in _MANY
            added = message.field.add(
                name=field, number=number, type=kind, label=_Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
            )
            if field in _OPTIONAL:  # proto3 tells an empty text from none only so
                added.proto3_optional = True
                added.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _made()


def make(name: str, **fields: Any) -> Any:
    """A message.

    Args:
        name: Its name, without the package.
        fields: Its fields.
    """
    return _CLASSES[name](**fields)


def wrap(message: Any) -> bytes:
    """A message as Flight SQL sends it: in an `Any`."""
    box = any_pb2.Any()
    box.Pack(message)
    return bytes(box.SerializeToString())


def unwrap(data: bytes) -> tuple[str, Any] | None:
    """Name and message of what was sent in an `Any`; None for what is no message of Flight SQL, or is not known.

    Args:
        data: What came.
    """
    box = any_pb2.Any()
    try:
        box.ParseFromString(data)
        package, _, name = box.type_url.removeprefix(PREFIX).rpartition(".")
        if package != PACKAGE or name not in _CLASSES:
            return None
        message = _CLASSES[name]()
        message.ParseFromString(box.value)
    except DecodeError:
        return None
    return name, message


def type_of(data: bytes) -> str:
    """What a message in an `Any` calls itself; nothing if it is none."""
    box = any_pb2.Any()
    try:
        box.ParseFromString(data)
    except DecodeError:
        return ""
    return str(box.type_url.rpartition("/")[2]) if "/" in box.type_url else ""
