"""Files with rows of a table, as a manifest lists them. Immutable; what a file holds never changes."""

from __future__ import annotations

from typing import Any

from attrs import frozen


@frozen
class DataFile:
    """A Parquet file with rows of one table, sorted by (tags, time) and free of repetitions in itself.

    Of two rows with the same identity in two files, the one in the file with the higher sequences is newer.

    Attributes:
        path: Where it is in the object store.
        table: Id of its table.
        rows: Number of rows.
        bytes: Its size.
        min_time: Time of the earliest row, ns.
        max_time: Time of the latest row, ns.
        first_sequence: First of the commits whose rows it holds.
        last_sequence: Last of them.
        checksum: CRC-32 of its bytes.
        late: Closed ranges of time, ns, in which a row may repeat the identity of a row in a file of the table with lower
            sequences; outside of them none does.
    """

    path: str
    table: int
    rows: int
    bytes: int
    min_time: int
    max_time: int
    first_sequence: int
    last_sequence: int
    checksum: int
    late: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> list[Any]:
        """Its members in their order, as JSON types."""
        return [
            self.path,
            self.table,
            self.rows,
            self.bytes,
            self.min_time,
            self.max_time,
            self.first_sequence,
            self.last_sequence,
            self.checksum,
            [list(one) for one in self.late],
        ]

    @classmethod
    def from_json(cls, data: list[Any]) -> DataFile:
        """A file from what `to_json` gave."""
        path, table, rows, size, low, high, first, last, checksum, late = data
        return cls(
            path, table, rows, size, low, high, first, last, checksum, tuple((start, end) for start, end in late)
        )
