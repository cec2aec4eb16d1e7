"""What databases, tables and columns may be called."""

from __future__ import annotations

import re

from walmill.errors import InvalidRequest
from walmill.ingest.errors import short
from walmill.model.schema import TIME

DATABASE_NAME_BYTES = 511
STRING_BYTES = 1_048_576
"""Most bytes of a table name, a column name, a tag value or a string value."""
COLUMNS_PER_TABLE = 500
"""Most tags and fields of a table together; `time` is not counted."""

UNSAYABLE = re.compile(r"(?<!\\)[\n\t]")
"""In a name or in the value of a tag: a newline or a tab that has no backslash before it."""

_DATABASE_PART = re.compile(r"[A-Za-z0-9_-]+")


def check_database_name(name: str) -> str:
    """The name, if a client may use it for a database.

    A name is 1 to 511 ASCII letters, digits, `_` and `-`, the first one a letter or a digit; one `/` may set apart the
    name of a retention policy, as `mydb/autogen` does. So names that start with `_` are the engine's own.

    Raises:
        InvalidRequest: The name breaks the rule; the message is InfluxDB's.
    """
    if not name:
        raise InvalidRequest("db name cannot be empty")
    if name[0].isascii() and not name[0].isalnum():
        raise InvalidRequest("db name did not start with a number or letter")
    parts = name.split("/")
    if len(parts) > 2 or not parts[-1]:
        raise InvalidRequest(
            "db name with invalid retention policy, if providing a retention policy name, "
            "must be of form '<db_name>/<rp_name>'"
        )
    if not all(_DATABASE_PART.fullmatch(part) for part in parts):
        raise InvalidRequest(
            "invalid character in database or rp name: must be ASCII, "
            "containing only letters, numbers, underscores, or hyphens"
        )
    if len(name) > DATABASE_NAME_BYTES:
        raise InvalidRequest(
            f"database name {name[:40]}... has {len(name)} characters: "
            f"its length must be between 1 and {DATABASE_NAME_BYTES} characters"
        )
    return name


def check_table_name(name: str) -> str:
    """The name, if a table may have it.

    Raises:
        InvalidRequest: The name is empty, too long, or holds a NUL or what line protocol cannot say.
    """
    if name.startswith("#"):
        raise InvalidRequest(f"the table name {short(name)} starts with #: line protocol reads it as a comment")
    return _check_name(name, "table name")


def check_column_name(name: str) -> str:
    """The name, if a tag or a field may have it.

    Raises:
        InvalidRequest: The name is `time`, empty, too long, or holds a NUL or what line protocol cannot say.
    """
    if name == TIME:
        raise InvalidRequest(reserved_time("tag or field"))
    return _check_name(name, "column name")


def reserved_time(kind: str) -> str:
    """The sentence for a tag or a field (`kind`) that is named `time`."""
    return f"'{TIME}' is a reserved column: a {kind} cannot have this name, the time of a row has a place of its own"


def size_problem(text: str, what: str) -> str | None:
    """What is wrong with the length of a name or a value, or None.

    Args:
        text: The name or the value.
        what: What it is, for the message.
    """
    if len(text) * 4 <= STRING_BYTES:
        return None
    size = len(text.encode("utf-8", "surrogatepass"))
    return f"the {what} has {size} bytes: at most {STRING_BYTES} are allowed" if size > STRING_BYTES else None


def nul_problem(name: str, what: str) -> str | None:
    """Why a name that holds a NUL cannot be used, or None: Arrow hands names on as C strings, which end there.

    Args:
        name: The name.
        what: What it is, for the message.
    """
    return f"the {what} {short(name)} holds a NUL character: leave it out" if "\0" in name else None


def unsayable(text: str, what: str) -> str | None:
    """Why line protocol cannot write a name or the value of a tag, or None.

    Args:
        text: The name or the value.
        what: What it is, for the message.
    """
    if text.endswith("\\"):
        return f"the {what} {short(text)} ends with a backslash: line protocol has no way to write it"
    match = UNSAYABLE.search(text)
    if match:
        character = "newline" if match[0] == "\n" else "tab"
        return f"the {what} {short(text)} holds a {character}: line protocol has no way to write it"
    return None


def _check_name(name: str, what: str) -> str:
    if not name:
        raise InvalidRequest(f"the {what} is empty: it needs at least one character")
    problem = unsayable(name, what) or nul_problem(name, what)
    if problem:
        raise InvalidRequest(problem)
    if not _is_utf8(name):
        raise InvalidRequest(f"the {what} {short(name)} holds a lone surrogate: it must be valid Unicode")
    problem = size_problem(name, what)
    if problem:
        raise InvalidRequest(problem)
    return name


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
