"""New data files of a table: from its rows to paths, bytes and what a manifest says of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import pyarrow as pa
from attrs import frozen

from walmill.buffer.ranges import Ranges, join, unite
from walmill.buffer.table import TableBuffer
from walmill.model.files import DataFile
from walmill.model.schema import TableSchema
from walmill.snapshot.chunks import ROWS, count_days, extents, extract, group_pieces, number_pieces, plan_pieces
from walmill.snapshot.names import Attempt, Place
from walmill.snapshot.parquet import encode_file
from walmill.snapshot.sort import sort_rows

_FIRST = -(2**63)


@frozen(eq=False)
class Rows:
    """Rows of one table that are to become files.

    Attributes:
        place: The table.
        schema: Its columns.
        batches: The rows in log order; they may lack columns, and tags may be strings or dictionaries.
        first_sequence: First of the commits whose rows they are.
        last_sequence: Last of them.
        overlaps: Ranges of time in which a row may repeat a row of these, or of an earlier file; outside of them none does.
    """

    place: Place
    schema: TableSchema
    batches: Sequence[pa.RecordBatch]
    first_sequence: int
    last_sequence: int
    overlaps: Ranges

    @classmethod
    def of_buffer(cls, place: Place, buffer: TableBuffer, first_sequence: int, newest: int | None = None) -> Rows:
        """The rows of a table in memory, which begin with those of a commit.

        Args:
            place: The table.
            buffer: The rows; it knows which of them may repeat each other.
            first_sequence: First of their commits.
            newest: The newest time that a row of an earlier file ever had: one that is not newer may repeat such a row. None
                if there is none.
        """
        overlaps = buffer.overlaps
        if newest is not None:
            overlaps = unite(overlaps, ((_FIRST, newest),))
        return cls(place, buffer.schema, buffer.batches, first_sequence, buffer.sequence, overlaps)


@frozen(eq=False)
class NewFile:
    """A data file that is not stored yet: what a manifest will say of it, and its bytes."""

    file: DataFile
    data: pa.Buffer


def build_files(
    rows: Rows, earlier: Iterable[DataFile], attempt: Attempt, *, rows_per_file: int = ROWS, first_number: int = 0
) -> Iterator[NewFile]:
    """The files of some rows, in order of time, made one by one as they are asked for.

    Memory is what one group of pieces takes (about `rows_per_file` rows, or one day) beside the rows themselves.

    Args:
        rows: The rows.
        earlier: Files of the table with lower sequences that stay.
        attempt: For whose manifest they are.
        rows_per_file: A month with more rows is split between days.
        first_number: Number of the first file in its name; no two files of an attempt and a table may share one.
    """
    known = tuple(earlier)
    numbers = count(first_number)
    spans = extents(rows.batches)
    pieces = plan_pieces(count_days(spans), rows_per_file)
    for group in group_pieces(pieces, rows_per_file):
        taken = extract(spans, group[0].low, group[-1].high)
        groups = None
        if len(group) > 1:
            times = pa.chunked_array([batch.column("time") for batch in taken]).cast(pa.int64()).to_numpy()
            groups = number_pieces(times, group)
        ordered = sort_rows(taken, rows.schema, groups)
        del taken, groups
        for place, piece in enumerate(group):
            start, end = ordered.bounds[place], ordered.bounds[place + 1]
            times = ordered.times[start:end]
            low, high = int(times.min()), int(times.max())
            data = encode_file(ordered.table.slice(start, end - start), rows.schema)
            yield NewFile(
                DataFile(
                    path=rows.place.file(piece.month, rows.last_sequence, attempt, next(numbers)),
                    table=rows.place.table_id,
                    rows=end - start,
                    bytes=data.size,
                    min_time=low,
                    max_time=high,
                    first_sequence=rows.first_sequence,
                    last_sequence=rows.last_sequence,
                    checksum=zlib.crc32(data),
                    late=late_ranges(rows.overlaps, low, high, known),
                ),
                data,
            )


def late_ranges(overlaps: Ranges, low: int, high: int, earlier: Iterable[DataFile]) -> Ranges:
    """Where a file's rows may repeat rows of earlier files.

    Args:
        overlaps: Ranges outside of which no row repeats another.
        low: Time of the file's earliest row.
        high: Time of its latest row.
        earlier: The files with lower sequences.
    """
    own = [(max(low, first), min(high, last)) for first, last in overlaps if first <= high and last >= low]
    if not own:
        return ()
    return join(
        (max(first, file.min_time), min(last, file.max_time))
        for file in earlier
        if file.min_time <= high and file.max_time >= low
        for first, last in own
        if first <= file.max_time and last >= file.min_time
    )
