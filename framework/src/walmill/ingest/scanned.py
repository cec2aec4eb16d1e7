"""What a body of line protocol holds, before any schema is asked: groups of rows in columns, single rows, refused lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from walmill.ingest.block import Ints
from walmill.ingest.errors import LineError
from walmill.ingest.lineprotocol import Point
from walmill.model.schema import FieldType


class Group(NamedTuple):
    """Rows with the same table, tags and fields, in columns.

    Attributes:
        table: Name of the table.
        tags: Names of the tags in the order of the lines.
        fields: Names and types of the fields in the order of the lines.
        columns: Tags, then fields; without nulls.
        times: ns since the epoch.
        lines: The physical line, from 1, of each row; rising.
    """

    table: str
    tags: tuple[str, ...]
    fields: tuple[tuple[str, FieldType], ...]
    columns: list[pa.Array]
    times: Ints
    lines: Ints

    def pick(self, rows: Ints) -> Group:
        """Some of the rows, by their places, rising."""
        chosen = pa.array(rows)
        columns = [column.take(chosen) for column in self.columns]
        return self._replace(columns=columns, times=self.times[rows], lines=self.lines[rows])


class Scanned(NamedTuple):
    """What a body holds.

    Attributes:
        groups: Rows that were read together.
        points: Rows that were read one by one, in the order of the lines.
        errors: Refused lines in that order.
        text_of: The text of a line of a group, by its number.
    """

    groups: list[Group]
    points: list[Point]
    errors: list[LineError]
    text_of: Callable[[int], str]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but comments and blank lines."""
        return not (self.groups or self.points or self.errors)

    def without(self, first: int, end: int | None) -> Scanned:
        """The same without some lines.

        Args:
            first: The first physical line that is left out.
            end: The first one after it that is kept again; None leaves out all that follow.
        """
        high = end if end is not None else 2**62
        groups = []
        for group in self.groups:
            keep = (group.lines < first) | (group.lines >= high)
            if keep.all():
                groups.append(group)
            elif keep.any():
                groups.append(group.pick(np.flatnonzero(keep)))
        return self._replace(
            groups=groups,
            points=[point for point in self.points if not first <= point.line_number < high],
            errors=[error for error in self.errors if not first <= error.line_number < high],
        )

    def stamped(self, untimed: int, start: int) -> tuple[Scanned, int]:
        """The same with rising times for the lines that had none.

        Args:
            untimed: The time that marks them.
            start: Time of the first of them, ns; each next one is a nanosecond later.

        Returns:
            The new one, and the time after the last that was given.
        """
        parts = [group.lines[group.times == untimed] for group in self.groups]
        parts.append(np.array([point.line_number for point in self.points if point.time == untimed], np.int64))
        waiting = np.sort(np.concatenate(parts))
        if not len(waiting):
            return self, start
        groups = [
            group._replace(
                times=np.where(group.times == untimed, start + np.searchsorted(waiting, group.lines), group.times)
            )
            for group in self.groups
        ]
        points = [
            point._replace(time=start + int(np.searchsorted(waiting, point.line_number)))
            if point.time == untimed
            else point
            for point in self.points
        ]
        return self._replace(groups=groups, points=points), start + len(waiting)
