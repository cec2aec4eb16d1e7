"""Rows of one table as a file: Parquet, CSV or line protocol. The file appears under its name when it is whole."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from attrs import frozen

from walmill.errors import InvalidRequest, WalmillError

if TYPE_CHECKING:
    import pyarrow as pa

NOTE = b"walmill"
"""The key in the metadata of a Parquet file under which it says what table it was."""
SUFFIXES = {"parquet": ".parquet", "csv": ".csv", "lp": ".lp"}
_SPECIAL = (",", '"', "\n", "\r")


@frozen
class TableShape:
    """What a table is like.

    Attributes:
        database: Its database.
        name: Its name.
        tags: Its tags.
        fields: Types of its fields.
    """

    database: str
    name: str
    tags: Sequence[str]
    fields: Mapping[str, str]

    def note(self) -> bytes:
        """As it is kept in a Parquet file."""
        members = {"database": self.database, "table": self.name, "tags": list(self.tags), "fields": dict(self.fields)}
        return json.dumps(members).encode()


class Sink(Protocol):
    """Takes rows."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Writes some rows."""

    def close(self) -> None:
        """Writes what is left."""


@contextlib.contextmanager
def whole_file(path: Path, *, packed: bool) -> Iterator[IO[bytes]]:
    """A file that appears under its name, synced, when the body has ended well.

    Raises:
        InvalidRequest: It cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            if packed:
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0, filename="") as packing:
                    yield packing  # type: ignore[misc]
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise InvalidRequest(f"the file {str(path)!r} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def sink(form: str, file: IO[bytes], shape: TableShape, schema: pa.Schema) -> Sink:
    """A sink of a format, one of `SUFFIXES`."""
    makers: Mapping[str, Any] = {"parquet": ParquetSink, "csv": CsvSink, "lp": LineSink}
    made: Sink = makers[form](file, shape, schema)
    return made


class ParquetSink:
    """zstd, tags as dictionaries, and a note of what table it was."""

    def __init__(self, file: IO[bytes], shape: TableShape, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [
            field.with_type(pa.dictionary(pa.int32(), pa.string())) if field.name in shape.tags else field
            for field in schema
        ]
        self._schema = pa.schema(columns, metadata={NOTE: shape.note()})
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        """See `Sink.write`."""
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_batches([batch]).cast(self._schema))

    def close(self) -> None:
        """See `Sink.close`."""
        self._writer.close()


class CsvSink:
    """A header and a line a row: time as RFC 3339 in UTC, no value as nothing, an empty text as `""`."""

    def __init__(self, file: IO[bytes], shape: TableShape, schema: pa.Schema) -> None:
        del shape
        self._file = file
        self._names = schema.names
        self._line([_quoted(name) for name in self._names])

    def _line(self, cells: Sequence[str]) -> None:
        self._file.write((",".join(cells) + "\n").encode())

    def write(self, batch: pa.RecordBatch) -> None:
        """See `Sink.write`."""
        columns = [_texts(column) for column in batch.columns]
        lines = [",".join(row) for row in zip(*columns, strict=True)]
        self._file.write(("\n".join(lines) + "\n").encode())

    def close(self) -> None:
        """See `Sink.close`."""


def _quoted(text: str) -> str:
    if text == "" or any(one in text for one in _SPECIAL) or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _texts(column: pa.Array) -> list[str]:
    import pyarrow as pa

    from walmill.units import format_time

    kind = column.type
    if pa.types.is_timestamp(kind):
        return [
            "" if value is None else format_time(value)
            for value in column.cast(pa.timestamp("ns")).cast(pa.int64()).to_pylist()
        ]
    if pa.types.is_string(kind):
        return ["" if value is None else _quoted(value) for value in column.to_pylist()]
    if pa.types.is_boolean(kind):
        return ["" if value is None else "true" if value else "false" for value in column.to_pylist()]
    return ["" if value is None else repr(value) for value in column.to_pylist()]


class LineSink:
    """Line protocol with times in ns. Rows that it cannot say are counted and left out.

    Attributes:
        refused: How many.
        why: Of the first of them.
    """

    def __init__(self, file: IO[bytes], shape: TableShape, schema: pa.Schema) -> None:
        del schema
        self._file = file
        self._shape = shape
        self.refused = 0
        self.why = ""

    def write(self, batch: pa.RecordBatch) -> None:
        """See `Sink.write`."""
        import pyarrow as pa

        from walmill.ingest.render import render
        from walmill_hookspecs import Line, UInt

        shape = self._shape
        unsigned = {name for name, kind in shape.fields.items() if kind == "uint64"}
        times = batch.column("time").cast(pa.timestamp("ns")).cast(pa.int64()).to_pylist()
        rows = batch.drop_columns(["time"]).to_pylist()
        lines = []
        for row, time in zip(rows, times, strict=True):
            tags = {name: row[name] for name in shape.tags if row.get(name) is not None}
            fields = {
                name: UInt(row[name]) if name in unsigned else row[name]
                for name in shape.fields
                if row.get(name) is not None
            }
            try:
                lines.append(render(Line(shape.name, tags=tags, fields=fields, time=time)))
            except WalmillError as error:
                self._refuse(error.message)
            except ValueError as error:
                self._refuse(str(error))
        if lines:
            self._file.write(("\n".join(lines) + "\n").encode())

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self.why = self.why or why

    def close(self) -> None:
        """See `Sink.close`."""
