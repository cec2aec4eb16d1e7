"""From what a body holds to the rows of each table, checked against the schema: the same as `assemble`, for whole groups.

Whether a row fits depends on its names and types, and on the columns that accepted rows before it brought. So a group is
asked for once, where its first line stands: a column never changes its type and never goes, so the rows behind it fit as well,
or do not fit either.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from walmill.ingest.assemble import Assembled, Piece, TableBuilder, TableRows, in_order
from walmill.ingest.errors import LineError
from walmill.ingest.lineprotocol import Point
from walmill.ingest.scanned import Group, Scanned
from walmill.model.schema import TableSchema


def gather(scanned: Scanned, schema_of: Callable[[str], TableSchema | None], *, accept_partial: bool) -> Assembled:
    """Puts what was read into tables and refuses what does not fit the schema.

    Args:
        scanned: What the body holds.
        schema_of: The schema of a table by its name, None if there is no such table; asked once per table.
        accept_partial: As for `assemble`.
    """
    by_table: dict[str, list[Group | Point]] = {}
    for group in scanned.groups:
        by_table.setdefault(group.table, []).append(group)
    for point in scanned.points:
        by_table.setdefault(point.measurement, []).append(point)
    refused: list[LineError] = []
    made: list[tuple[int, TableRows]] = []
    for name, items in by_table.items():
        rows = _table(TableBuilder(name, schema_of(name)), items, scanned.text_of, refused)
        if rows is not None:
            made.append((min(map(_first_line, items)), rows))
    errors = in_order(scanned.errors, refused)
    if errors and not accept_partial:
        return Assembled({}, errors[:1])
    made.sort(key=lambda pair: pair[0])
    return Assembled({rows.name: rows for _, rows in made}, errors)


def _first_line(item: Group | Point) -> int:
    return int(item.lines[0]) if isinstance(item, Group) else item.line_number


def _table(
    builder: TableBuilder, items: list[Group | Point], text_of: Callable[[int], str], errors: list[LineError]
) -> TableRows | None:
    pieces: list[Piece] = []
    lines: list[int] = []
    turn = count()
    waiting: list[tuple[int, int, Group | Point, bool]] = [
        (_first_line(item), next(turn), item, False) for item in items
    ]
    heapq.heapify(waiting)
    while waiting:
        line, _, item, again = heapq.heappop(waiting)
        if isinstance(item, Point):
            problem = builder.add(item.tags, item.fields, item.time)
            if problem is None:
                lines.append(item.line_number)
            else:
                errors.append(item.error(problem.message))
            continue
        problem = builder.admit(item.tags, item.fields)
        if problem is None:
            names = (*item.tags, *(name for name, _ in item.fields))
            pieces.append(Piece(dict(zip(names, item.columns, strict=True)), item.times, item.lines))
            continue
        errors.append(LineError(line, problem.message, text_of(line)))
        if not again:  # each row of the group is refused; the message is the one that is right where it stands
            for other in item.lines[1:].tolist():
                heapq.heappush(waiting, (other, next(turn), item, True))
    return builder.build(pieces, lines) if pieces or lines else None
