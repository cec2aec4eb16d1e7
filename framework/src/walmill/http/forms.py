"""The two older forms of a write of line protocol: `POST /api/v2/write`, and `POST /write` of InfluxDB 1.

Both refuse the whole body when one line is bad, and both are answered after the sync, whatever `accept_partial` and `no_sync`
say: their clients expect that, and InfluxDB 3 does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from walmill.errors import InvalidRequest
from walmill.http.parameters import query_pairs
from walmill.http.site import json_bytes
from walmill.http.write import Form, WriteParameters, status_of
from walmill.ingest.errors import LineError, excerpt
from walmill.ingest.precision import Precision, parse_precision, parse_v1_precision

_DEFAULT_POLICIES = frozenset({"", "''", "autogen", "default"})


def database_of(database: str, policy: str) -> str:
    """The database in which InfluxDB 3 keeps what v1 clients write with a retention policy.

    Args:
        database: What `db` says.
        policy: What `rp` says; its case does not matter.

    Returns:
        The database itself for the default policy; else `database/policy`.
    """
    name = policy.lower()
    return database if not database or name in _DEFAULT_POLICIES else f"{database}/{name}"


@lru_cache(maxsize=256)
def parse_v1(query: bytes) -> WriteParameters:
    """Reads the query string of `/write`: `db`, `rp`, `precision`; what else v1 clients send changes nothing.

    Args:
        query: As it came.

    Raises:
        InvalidRequest: A value is wrong, or `db` is missing.
    """
    given = dict(query_pairs(query))
    database = given.get("db")
    if database is None:
        raise InvalidRequest("the query parameter db is missing: write for example /write?db=sensors")
    # `precision=` means the default in InfluxDB 1
    precision = parse_v1_precision(given["precision"]) if given.get("precision") else Precision.NANOSECOND
    return WriteParameters(database_of(database, given.get("rp", "")), precision, accept_partial=False)


@lru_cache(maxsize=256)
def parse_v2(query: bytes) -> WriteParameters:
    """Reads the query string of `/api/v2/write`: `bucket` is the database, `precision`; `org` changes nothing.

    Args:
        query: As it came.

    Raises:
        InvalidRequest: A value is wrong, or `bucket` is missing.
    """
    given = dict(query_pairs(query))
    bucket = given.get("bucket")
    if not bucket:
        raise InvalidRequest(
            "no org/bucket destination provided: missing bucket value; write for example /api/v2/write?org=any&bucket=sensors"
        )
    precision = parse_precision(given["precision"]) if "precision" in given else Precision.NANOSECOND
    return WriteParameters(bucket, precision, accept_partial=False)


def refusal_v1(errors: Sequence[LineError], accept_partial: bool) -> tuple[int, bytes]:
    """Status and body: InfluxDB 3's, and in its text the words by which v1 clients know that repeating is useless.

    Args:
        errors: The first refused line.
        accept_partial: Always false.
    """
    del accept_partial
    message = f"line protocol parsing error: unable to parse {_described(errors[0])}"
    return status_of(errors), json_bytes({"error": message, "data": errors[0].as_dict()})


def refusal_v2(errors: Sequence[LineError], accept_partial: bool) -> tuple[int, bytes]:
    """Status and body in the form of v2, where there is no other place for the line than the message.

    Args:
        errors: The first refused line.
        accept_partial: Always false.
    """
    del accept_partial
    status = status_of(errors)
    message = f"write buffer error: parsing for line protocol failed: {_described(errors[0])}"
    return status, json_bytes({"code": "invalid" if status == 400 else "unprocessable entity", "message": message})


def _described(error: LineError) -> str:
    return f"line {error.line_number} '{excerpt(error.original_line)}': {error.message}"


V1 = Form(parse_v1, refusal_v1)
V2 = Form(parse_v2, refusal_v2)
