"""Results as bytes in the formats that clients ask for.

JSON, JSON lines, CSV and Arrow are written batch by batch, so a large result is never in memory at once; the plain table
needs the widths of all its cells first. Bytes are written as hexadecimal digits, spans of time as ISO 8601.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from walmill.query.text import Texts, json_texts, texts

_ROWS = 16_384  # rows that are turned into text at once
_CSV_SPECIAL = frozenset(',"\r\n')


class Rows(Protocol):
    """What can be written: a `ResultStream`, or a `pyarrow.RecordBatchReader`."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of all batches."""
        ...

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The batches, one after the other."""
        ...


def to_json(rows: Rows) -> Iterator[bytes]:
    """An array of objects; members that are null, NaN or infinite are left out.

    Args:
        rows: The result.

    Yields:
        Parts of the text, in UTF-8.
    """
    before = "["
    for lines in _objects(rows):
        yield (before + ",".join(lines)).encode()
        before = ","
    yield b"[]" if before == "[" else b"]"


def to_jsonl(rows: Rows) -> Iterator[bytes]:
    """One object on each line, with the same members as in `to_json`.

    Args:
        rows: The result.

    Yields:
        Whole lines, in UTF-8.
    """
    for lines in _objects(rows):
        lines.append("")
        yield "\n".join(lines).encode()


def to_csv(rows: Rows) -> Iterator[bytes]:
    """A line with the names, then a line for each row; null is empty, and an empty string is `""`.

    Args:
        rows: The result.

    Yields:
        Whole lines, in UTF-8.
    """
    yield (",".join(_csv_column(rows.schema.names)) + "\n").encode()
    for batch in _pieces(rows):
        columns = [_csv_column(texts(column)) for column in batch.columns]
        lines = list(map(",".join, zip(*columns, strict=True))) if columns else [""] * batch.num_rows
        lines.append("")
        yield "\n".join(lines).encode()


def to_pretty(rows: Rows) -> Iterator[bytes]:
    """A table with lines around its cells, for people; null is empty.

    Args:
        rows: The result. It is read to its end before the first part comes.

    Yields:
        Whole lines, in UTF-8.
    """
    names = rows.schema.names
    columns: list[list[str]] = [[] for _ in names]
    for batch in _pieces(rows):
        for cells, column in zip(columns, batch.columns, strict=True):
            cells += [_cell(text) for text in texts(column)]
    heads = [_cell(name) for name in names]
    widths = [max(map(len, [head, *cells])) for head, cells in zip(heads, columns, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+\n"
    pattern = "|" + "|".join(f" {{:<{width}}} " for width in widths) + "|\n"
    yield (rule + pattern.format(*heads) + rule).encode()
    lines: list[str] = []
    for row in zip(*columns, strict=True):
        lines.append(pattern.format(*row))
        if len(lines) == _ROWS:
            yield "".join(lines).encode()
            lines.clear()
    yield ("".join(lines) + rule).encode()


def to_parquet(rows: Rows) -> Iterator[bytes]:
    """A Parquet file with one row group for each batch. What Parquet cannot hold (intervals, list views)
    becomes text.

    Args:
        rows: The result.

    Yields:
        Parts of the file.
    """
    schema = pa.schema([_parquet_field(field) for field in rows.schema])
    sink = _Sink()
    with pq.ParquetWriter(sink, schema, compression="snappy") as writer:
        for batch in rows:
            columns = [
                pa.array(texts(column), pa.string()) if _is_text_in_parquet(column.type) else column
                for column in batch.columns
            ]
            columns = [
                column if column.type == field.type else column.cast(field.type)
                for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            yield from sink.drain()
    yield from sink.drain()


def to_arrow(rows: Rows) -> Iterator[bytes]:
    """An Arrow IPC stream.

    Args:
        rows: The result.

    Yields:
        Whole messages.
    """
    sink = _Sink()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        yield from sink.drain()
        for batch in rows:
            writer.write_batch(batch)
            yield from sink.drain()
    yield from sink.drain()


def _pieces(rows: Rows) -> Iterator[pa.RecordBatch]:
    for batch in rows:
        for start in range(0, batch.num_rows, _ROWS):
            yield batch.slice(start, _ROWS)


def _objects(rows: Rows) -> Iterator[list[str]]:
    """Lists of JSON objects, none of them empty."""
    keys = json_texts(pa.array(rows.schema.names, pa.string()))
    for batch in _pieces(rows):
        columns = [json_texts(column) for column in batch.columns]
        if not columns:
            yield ["{}"] * batch.num_rows
        elif not any(None in column for column in columns):
            # a name may hold %, which is doubled to stand for itself
            pattern = "{" + ",".join(f"{key}:".replace("%", "%%") + "%s" for key in keys) + "}"
            yield [pattern % row for row in zip(*columns, strict=True)]
        else:
            marked = [_marked(f"{key}:", column) for key, column in zip(keys, columns, strict=True)]
            yield [
                "{" + ",".join([member for member in row if member is not None]) + "}"
                for row in zip(*marked, strict=True)
            ]


def _marked(prefix: str, column: Texts) -> Texts:
    return [None if text is None else prefix + text for text in column]


def _csv_column(column: Texts) -> list[str]:
    return [
        "" if text is None else text if text and _CSV_SPECIAL.isdisjoint(text) else '"' + text.replace('"', '""') + '"'
        for text in column
    ]


def _cell(text: str | None) -> str:
    if text is None:
        return ""
    return text if text.isprintable() else text.translate(_CONTROLS)


_CONTROLS = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def _is_text_in_parquet(kind: pa.DataType) -> bool:
    return bool(pa.types.is_interval(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _parquet_field(field: pa.Field) -> pa.Field:
    if _is_text_in_parquet(field.type) or field.type == pa.string_view():
        return field.with_type(pa.string())
    if field.type == pa.binary_view():
        return field.with_type(pa.binary())
    return field


class _Sink(io.RawIOBase):
    """A file that hands out what was written to it and forgets it, but knows its place."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._place += len(part)
        return len(part)

    def drain(self) -> Iterator[bytes]:
        """What was written since the last time, as one part; nothing if that is nothing."""
        if self._parts:
            yield b"".join(self._parts)
            self._parts.clear()
