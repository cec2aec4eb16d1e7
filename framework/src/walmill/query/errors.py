"""What can be wrong with a query, and how DataFusion's errors become sentences."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Sequence

from walmill.errors import Internal, InvalidRequest, LimitReached, NotFound, Unavailable, WalmillError


class TableNotFound(NotFound):
    """A query names a table that does not exist.

    Attributes:
        table: The name that was asked for, with its schema if one was given.
        near: Names of tables that are spelled alike, best first.
    """

    def __init__(self, table: str, tables: Iterable[str] | None) -> None:
        names = sorted(tables or ())
        self.table = table
        self.near = tuple(near_names(table, names))
        message = f"table {table!r} does not exist"
        if self.near and self.near[0].lower() == table.lower():
            message += f'; names without quotes are read in lower case: write "{self.near[0]}" in double quotes'
        elif self.near:
            message += f"; did you mean {' or '.join(map(repr, self.near))}?"
        elif tables is not None and not names:
            message += "; the database has no tables yet"
        else:
            message += "; SHOW TABLES lists those that do"
        super().__init__(message)


class NotSupported(InvalidRequest):
    """SQL that the engine cannot do, whatever the data."""

    status = 405


class QueryTooLarge(LimitReached):
    """A query needs more working memory than one query may have."""


class QueryTimeout(Unavailable):
    """A query was stopped because its time was over."""


def out_of_time(timeout: float | None) -> QueryTimeout:
    """The error of a query that had so many seconds."""
    had = 0.0 if timeout is None else round(timeout, 2 if timeout >= 0.1 else 4)
    return QueryTimeout(
        f"the query was stopped after {had:g} s, its time limit; ask for a shorter time range, or allow more time"
    )


class QueryStopped(Unavailable):
    """A query was stopped by its caller or because the engine closes."""


def near_names(name: str, names: Sequence[str]) -> list[str]:
    """Up to three names that are spelled like one, best first; the same name in other letter case comes first."""
    folded: dict[str, list[str]] = {}
    for known in names:
        folded.setdefault(known.lower(), []).append(known)
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    return [known for match in close for known in folded[match]][:3]


_NOISE = re.compile(
    r"^(?:DataFusion error: |External error: |Error during planning: |Execution error: |Schema error: |SQL error: "
    r"|Arrow error: |Optimizer rule '\w+' failed\s+caused by\s+|[a-z_]+\s+caused by\s+)"
)
_PARSER = re.compile(r'^(?:ParserError|TokenizerError)\("(.*)"\)$', re.DOTALL)
_NOT_IMPLEMENTED = "This feature is not implemented: "
_NO_TABLE = re.compile(r"^table '([^']*)' not found$")
_NO_VALUE = re.compile(r"^(?:No value found for placeholder with name |Placeholder ')(\$\w+)")
_READ_ONLY = re.compile(r"^(?:DDL|DML|Statement) not supported: (.*)$")
_NO_SIGNATURE = re.compile(
    r"^Internal error: Function '(\w+)' failed to match any signature.*received (?:[\w ]+ \(DataType: )?([^),]+)",
    re.DOTALL,
)
_TOO_MANY_BINS = re.compile(r"'(date_bin_gapfill would make \d+ rows; the limit is [\d,]+)'")
_OURS = (
    "Internal error",
    "IO error",
    "Parquet error",
    "Parquet argument error",
    "Object Store error",
    "FFI error",
    "Join error",
    "rust future panicked",
)


_PYTHON = re.compile(r"PyErr \{ type: .*?, value: (\w+)\((.*)\), traceback: (?:Some\(|None).*", re.DOTALL)


def _of_python(match: re.Match[str]) -> str:
    """The message of an exception in a function that a plugin brings to SQL."""
    try:
        said = ast.literal_eval(match[2])
    except (SyntaxError, ValueError):
        said = match[2]
    return str(said) if match[1] == "InvalidRequest" else f"{match[1]}: {said}"


def clean(message: str) -> str:
    """DataFusion's message without the names of the stages that it went through."""
    text = _PYTHON.sub(_of_python, message.strip())
    while (shorter := _NOISE.sub("", text, count=1)) != text:
        text = shorter
    text = text.split("\n\nbacktrace:")[0].split("This issue was likely caused by a bug in DataFusion")[0].strip()
    if parsed := _PARSER.match(text):
        text = f"{parsed[1]}".replace('\\"', '"').replace("\\'", "'")
    return text


def translate(
    error: BaseException,
    *,
    catalog: str,
    schema: str,
    tables: dict[str, list[str]],
    memory_limit: int,
    of: str = "",
) -> WalmillError:
    """The error of this engine for one that DataFusion raised.

    Args:
        error: What was raised.
        catalog: Name of the default catalog; it is left out of names of tables.
        schema: Name of the default schema; likewise.
        tables: Names of the tables of each schema.
        memory_limit: Bytes that one query may use.
        of: Whose limit that is, for the message.

    Returns:
        An error to raise; `InvalidRequest` where the query is at fault.
    """
    if isinstance(error, WalmillError):
        return error
    raw = str(error)
    if "Resources exhausted" in raw:
        return QueryTooLarge(
            f"the query needs more than the {memory_limit / 2**20:.0f} MB of memory that one query may use, the limit{of} "
            "(query_memory_limit); ask for a shorter time range or fewer columns, add a LIMIT, or raise it"
        )
    text = clean(raw)
    if _NOT_IMPLEMENTED in text:
        what = text.split(_NOT_IMPLEMENTED, 1)[1]
        return NotSupported(f"not supported: {what if len(what) <= 200 else what[:200] + ' …'}")
    if missing := _NO_TABLE.match(text):
        parts = missing[1].split(".", 2)
        if len(parts) == 3 and parts[0] == catalog:
            known = tables.get(parts[1])
            if parts[1] == schema:
                return TableNotFound(parts[2], known)
            # the schema counts as a part of the name, so that what is near can be pasted into the query
            names = None if known is None else [f"{parts[1]}.{name}" for name in known]
            return TableNotFound(f"{parts[1]}.{parts[2]}", names)
        return TableNotFound(missing[1], None)
    if unbound := _NO_VALUE.match(text):
        return InvalidRequest(f"No value found for placeholder with name {unbound[1]}")
    if refused := _READ_ONLY.match(text):
        return InvalidRequest(f"queries only read; this one would do more ({refused[1]})")
    if bins := _TOO_MANY_BINS.search(text):
        return QueryTooLarge(f"{bins[1]}: take longer bins, or a shorter time range")
    if unfit := _NO_SIGNATURE.match(text):
        return InvalidRequest(f"function {unfit[1]!r} does not take {unfit[2]} here")
    if not isinstance(error, Exception) or text.startswith(_OURS):
        return Internal(f"the query engine failed: {text}")
    return InvalidRequest(text)
