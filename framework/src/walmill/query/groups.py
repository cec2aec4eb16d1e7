"""Few rows of files, read here: by row groups, which their statistics choose.

Planning a reading of files takes DataFusion longer than a row group takes to be read, and it is planned twice. So a statement
that can need few rows only gets them as rows in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from attrs import evolve, frozen

from walmill.buffer.series import Ints
from walmill.buffer.source import TableSource
from walmill.model.files import DataFile
from walmill.model.schema import TIME, TableSchema, arrow_schema
from walmill.query.asked import Asked
from walmill.query.bounds import Bounds
from walmill.query.files import repeats
from walmill.query.footers import Columns, Footer
from walmill.query.opened import OpenFiles
from walmill.query.provider import TableCache

if TYPE_CHECKING:
    from datafusion.catalog import Table

MOST_FILES = 32
MOST_ROWS = 300_000
"""So many rows are read here: two row groups as they are usually written."""
MOST_VALUES = 2_500_000
"""Rows times columns: beyond that DataFusion, which reads single pages, is the quicker one."""
MOST_BYTES = 32 * 2**20
"""Bytes of these columns, uncompressed: long texts are left to DataFusion."""


def read_rows(
    columns: Columns, file: DataFile, path: Path, footer: Footer, group: int, asked: Asked, schema: TableSchema
) -> pa.RecordBatch | None:
    """The rows of a row group that are asked for, with the columns that are asked for, in the types of the table.

    Args:
        columns: Those that were read lately.
        file: The file.
        path: Where it is.
        footer: Its footer.
        group: Which row group.
        asked: What is asked.
        schema: The columns of the table; what the file lacks is null.

    Returns:
        The rows; None if there are none.

    Raises:
        OSError: If it cannot be read.
        ArrowException: If it is damaged.
    """
    wanted = [name for name in dict.fromkeys([*asked.columns, *asked.tags]) if name in footer.names]
    arrays = columns.of(file, path, footer, group, wanted)
    found = places(arrays, asked)
    if len(found) == 0:
        return None
    first, last = int(found[0]), int(found[-1])
    together = last - first + 1 == len(found)  # as it is with rows of one series, which are sorted by time
    kinds = narrow(arrow_schema(schema), asked)
    made = []
    for one in kinds:
        if one.name not in arrays:
            made.append(pa.nulls(len(found), one.type))
            continue
        array = arrays[one.name]
        chosen = array.slice(first, len(found)) if together else array.take(pa.array(found))
        made.append(chosen.cast(one.type))
    return pa.RecordBatch.from_arrays(made, schema=kinds)


def narrow(columns: pa.Schema, asked: Asked) -> pa.Schema:
    """The columns that are asked for."""
    return pa.schema([columns.field(name) for name in asked.columns])


def places(arrays: Mapping[str, pa.Array], asked: Asked) -> Ints:
    """Which rows are asked for.

    Args:
        arrays: The columns by which rows are chosen, the time among them if it bounds anything.
        asked: What is asked.
    """
    if not asked.tags:
        return _between(arrays[TIME], asked)
    if TIME not in arrays:
        return _with_tags(arrays, asked)
    if all(isinstance(arrays[tag], pa.DictionaryArray) for tag in asked.tags):
        found = _with_tags(arrays, asked)
        times = arrays[TIME].view(pa.int64()).to_numpy()[found]
        inside: Ints = found[(times >= asked.low) & (times <= asked.high)]
        return inside
    found = _between(arrays[TIME], asked)  # texts take longer to be compared than times
    if len(found) == 0:
        return found
    first, last = int(found[0]), int(found[-1]) + 1
    fewer = {tag: arrays[tag].slice(first, last - first) for tag in asked.tags}
    if last - first > len(found):
        fewer = {tag: arrays[tag].take(pa.array(found)) for tag in asked.tags}
    chosen: Ints = found[_with_tags(fewer, asked)]
    return chosen


def _between(column: pa.Array, asked: Asked) -> Ints:
    times = column.view(pa.int64()).to_numpy()
    return np.flatnonzero((times >= asked.low) & (times <= asked.high))


def _with_tags(arrays: Mapping[str, pa.Array], asked: Asked) -> Ints:
    if len(asked.tags) == 1:
        ((tag, values),) = asked.tags.items()
        if len(values) == 1 and not isinstance(arrays[tag], pa.DictionaryArray):
            found: Ints = pc.indices_nonzero(pc.equal(arrays[tag], next(iter(values)))).to_numpy()
            return found
    return np.flatnonzero(np.logical_and.reduce([_has(arrays[tag], values) for tag, values in asked.tags.items()]))


def _has(column: pa.Array, values: frozenset[str]) -> npt.NDArray[np.bool_]:
    """Where a tag has one of some values."""
    wanted = pa.array(sorted(values), pa.string())
    found: npt.NDArray[np.bool_]
    if not isinstance(column, pa.DictionaryArray):
        found = pc.is_in(column, wanted).to_numpy(zero_copy_only=False)
        return found
    codes = (column.indices if column.null_count == 0 else column.indices.fill_null(-1)).to_numpy()
    known = np.flatnonzero(pc.is_in(column.dictionary, wanted).to_numpy(zero_copy_only=False))
    found = codes == known[0] if len(known) == 1 else np.isin(codes, known)
    return found


@frozen(eq=False)
class Few:
    """The rows of a table that a statement can need.

    Attributes:
        batches: Those of files.
        buffer: Whether rows in memory may be among them.
        files: So many files were looked at.
        asked: What was asked.
    """

    batches: list[pa.RecordBatch]
    buffer: bool
    files: int
    asked: Asked

    def table(self, cache: TableCache, source: TableSource) -> Table:
        """All of them as a table.

        Args:
            cache: Tables over buffers.
            source: The table that they are of.
        """
        columns = narrow(arrow_schema(source.schema), self.asked)
        rows = cache.of_batches(self.batches or [pa.RecordBatch.from_pylist([], schema=columns)])
        return cache.with_rows(rows, source, self.asked.columns) if self.buffer else rows


def few_rows(cache: TableCache, source: TableSource, asked: Asked, opened: OpenFiles, bounds: Bounds) -> Few | None:
    """The rows of files that are asked for, if they are few and none of them comes twice; else None.

    Args:
        cache: Knows the times of the files, and their footers.
        source: The table.
        asked: What is asked.
        opened: Takes in the files.
        bounds: How many files may be read, and until when.

    Raises:
        QueryTooLarge: If too many files are needed.
        QueryTimeout: If there is no time left.
        DataCorruption: If a file is missing or damaged.
        Unavailable: If a file cannot be fetched now.
    """
    if asked.vague:  # a plan may need fewer files, which would be fetched here for nothing
        return None
    if source.cut_off is not None and source.cut_off > asked.low:
        asked = evolve(asked, low=source.cut_off)
    files = cache.index(source.files).between(asked.low, asked.high)
    if len(files) > MOST_FILES:
        return None
    if any(low <= asked.high and high >= asked.low for low, high in repeats(source, files)):
        return None
    bounds.check_files(len(files))
    span = cache.span(source.buffer)
    buffer = span is not None and span[0] <= asked.high and span[1] >= asked.low
    paths = opened.locate(source, files, bounds.check_time)
    try:
        found = [(file, cache.footers.of(file, paths[file], source.schema)) for file in files]
        chosen = [(file, footer, footer.matching(asked)) for file, footer in found]
        rows = sum(int(footer.rows[groups].sum()) for _, footer, groups in chosen)
        names = {*asked.columns, *asked.tags}
        size = sum(
            int(footer.sizes[name][groups].sum()) for _, footer, groups in chosen for name in names & footer.names
        )
        if rows > MOST_ROWS or rows * len(asked.columns) > MOST_VALUES or size > MOST_BYTES:
            return None
        batches: list[pa.RecordBatch] = []
        for file, footer, groups in chosen:
            for group in groups:
                bounds.check_time()
                batch = read_rows(cache.columns, file, paths[file], footer, group, asked, source.schema)
                batches += [] if batch is None else [batch]
    except (OSError, pa.ArrowException):
        return None  # DataFusion says what is wrong
    return Few(batches, buffer, len(files), asked)
