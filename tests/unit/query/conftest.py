"""Tables of a test as files and buffers, under the rules that a snapshot follows."""

import zlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from walmill.buffer.merge import align, merge_rows
from walmill.buffer.ranges import unite
from walmill.buffer.series import times_of
from walmill.buffer.source import Located, TableSource
from walmill.buffer.table import TableBuffer
from walmill.model.files import DataFile
from walmill.model.schema import arrow_schema
from walmill.query.engine import QueryEngine

TAG = pa.dictionary(pa.int32(), pa.string())


def write_file(path, batches, schema, *, sequences=(1, 1), overlaps=(), earlier=(), row_group_size=3):
    """A file with the rows of batches in log order: sorted, one for each identity, tags as dictionaries."""
    rows = merge_rows(pa.concat_batches([align(batch, arrow_schema(schema)) for batch in batches]), schema.tags)
    keys = [(name, "ascending", "at_start") for name in (*schema.tags, "time")]
    table = pa.table(rows.take(pc.sort_indices(rows, sort_keys=keys)))
    columns = table.schema
    for place in range(len(schema.tags)):
        columns = columns.set(place, columns.field(place).with_type(TAG))
    pq.write_table(table.cast(columns), path, compression="zstd", row_group_size=row_group_size)
    data = path.read_bytes()
    times = times_of(rows)
    low, high = int(times.min()), int(times.max())
    late = ()
    for other in earlier:
        for first, last in overlaps:
            met = max(low, first, other.min_time), min(high, last, other.max_time)
            late = unite(late, (met,) if met[0] <= met[1] else ())
    return DataFile(str(path), 1, rows.num_rows, len(data), low, high, *sequences, zlib.crc32(data), late)


class Store:
    """A table that is written, and snapshotted into files of a folder.

    Attributes:
        located: Paths of the files that were asked for.
    """

    def __init__(self, folder, schema):
        self.folder = folder
        self.buffer = TableBuffer.empty(schema)
        self.files = ()
        self.sequence = self.first = 0
        self.located = []

    @property
    def schema(self):
        return self.buffer.schema

    def write(self, batch, schema=None):
        """Adds rows."""
        self.sequence += 1
        self.buffer = self.buffer.append(batch, schema or self.schema, self.sequence)

    def snapshot(self, *, pieces=1):
        """Moves the rows of the buffer into files, cut by time."""
        if self.buffer.num_rows == 0:
            return
        rows = pa.concat_batches([align(batch, arrow_schema(self.schema)) for batch in self.buffer.batches])
        times = times_of(rows)
        distinct = sorted(set(times.tolist()))
        earlier = self.files
        for number in range(pieces):
            wanted = set(distinct[number * len(distinct) // pieces : (number + 1) * len(distinct) // pieces])
            if wanted:
                part = rows.filter(pa.array([time in wanted for time in times.tolist()]))
                made = write_file(
                    self.folder / f"{self.sequence:05}-{number}.parquet",
                    [part],
                    self.schema,
                    sequences=(self.first + 1, self.sequence),
                    overlaps=self.buffer.overlaps,
                    earlier=earlier,
                )
                self.files += (made,)
        self.first = self.sequence
        # the newest times of the series outlive the rows: what comes later may repeat rows of the files
        series = self.buffer.log._series
        self.buffer = TableBuffer.empty(self.schema)
        self.buffer.log._series = series

    def source(self):
        """The table at this moment."""
        return TableSource(self.buffer, self.files, self.locate)

    def locate(self, file):
        self.located.append(file.path)
        return Located(file.path)


@pytest.fixture(scope="session")
def store_type():
    """Makes tables that lie in a folder and in memory: `store_type(folder, schema)`."""
    return Store


@pytest.fixture(scope="module")
def engines():
    """One that answers what it can by itself, and one that leaves everything to DataFusion."""
    made = QueryEngine(), QueryEngine(short=False)
    for one in made:
        one.query({}, "SELECT * FROM generate_series(1, 1)")  # starts its threads here, not in the first test
    yield made
    for one in made:
        one.close()
