"""The rows of Arrow data that are refused: the first one raises, or all of them are collected and the others go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from walmill.ingest.errors import RowError, note_refused


class Refused:
    """Takes note of bad values.

    Args:
        into: Where the errors go, one for each refused row; None: the first one is raised.
    """

    def __init__(self, into: list[RowError] | None = None) -> None:
        self._into = into
        self._rows: set[int] = set()

    def values(self, name: str | None, array: pa.Array, bad: pa.Array, message: Callable[[Any], str]) -> pa.Array:
        """Refuses the rows of bad values.

        Args:
            name: Of the column; None if it is not about one.
            array: The column.
            bad: Whether each of its values is bad; null counts as no.
            message: Makes the text from a value.

        Returns:
            The column, with null for the bad values: the same array if there is none.

        Raises:
            RowError: A row is refused, and errors are not collected; or more than `MOST_REFUSED` rows are.
        """
        first = pc.index(bad, True).as_py()
        if first < 0:
            return array
        if self._into is None:
            raise RowError(first, name, message(array[first].as_py()))
        bad = bad.fill_null(False)
        for row in np.flatnonzero(bad.to_numpy(zero_copy_only=False)).tolist():
            if row in self._rows:
                continue
            error = RowError(row, name, message(array[row].as_py()))
            note_refused(self._into, error, row + 1)
            self._rows.add(row)
        return pc.if_else(bad, pa.scalar(None, array.type), array)

    def kept(self, rows: int) -> pa.Array | None:
        """Which of so many rows are not refused, as a filter; None for all of them."""
        if not self._rows:
            return None
        mask = np.ones(rows, np.bool_)
        mask[list(self._rows)] = False
        return pa.array(mask)
