"""From a body of line protocol to rows: which of the two parsers reads it."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence

from walmill.ingest.assemble import Assembled, assemble
from walmill.ingest.gather import gather
from walmill.ingest.lineprotocol import parse, parse_lines, split_lines
from walmill.ingest.precision import Precision
from walmill.ingest.scanned import Scanned
from walmill.ingest.vector import VectorParser
from walmill.model.schema import TableSchema

SMALL = 6 * 1024
"""Up to so many bytes the plain parser is faster: the other one costs half a millisecond however little there is."""


class _Parsers(threading.local):
    """What a thread knows of series stays with it: a parser is no shared thing."""

    def __init__(self) -> None:
        self.vector = VectorParser()


_parsers = _Parsers()


def scan(
    body: bytes,
    *,
    precision: Precision,
    default_time: int | Sequence[tuple[int, int]],
    slow_limit: int | None = None,
) -> Scanned:
    """Reads a body without looking at any schema; from any thread.

    Args:
        body: Any bytes.
        precision: Unit of its timestamps.
        default_time: Time of lines without one, ns since the epoch. For joined bodies: pairs of the physical line from which
            on it is another time, and that time, rising; the first one is for line 1.
        slow_limit: Most lines that may be left to the plain parser, if there are so many that it matters; None for any number.

    Raises:
        SlowBody: If there are more.
    """
    if len(body) > SMALL:
        return _parsers.vector.parse(body, precision=precision, default_time=default_time, slow_limit=slow_limit)
    if isinstance(default_time, int):
        parsed = parse(body, precision=precision, default_time=default_time)
    else:
        firsts, times = zip(*default_time, strict=True)
        parsed = parse_lines(
            split_lines(body.decode(errors="surrogateescape")),
            precision,
            lambda number: times[bisect_right(firsts, number) - 1],
        )
    return Scanned([], parsed.points, parsed.errors, str)


def read_rows(scanned: Scanned, schema_of: Callable[[str], TableSchema | None], *, accept_partial: bool) -> Assembled:
    """Puts what was read into tables, as `assemble` does.

    Args:
        scanned: What the body holds.
        schema_of: The schema of a table by its name, None if there is none.
        accept_partial: Whether good lines are kept when others are bad.
    """
    if scanned.groups:
        return gather(scanned, schema_of, accept_partial=accept_partial)
    return assemble(scanned.points, schema_of, accept_partial=accept_partial, errors=scanned.errors)
